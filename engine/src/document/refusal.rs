//! Which of the wire's codes a change gets that is wrong by itself. The text says the rest.

use etherply_wire::ErrorCode;

use crate::change::{ChangeError, Fault};

pub(super) const fn code(error: &ChangeError) -> ErrorCode {
    match error {
        ChangeError::Checksum => ErrorCode::ChangeChecksum,
        ChangeError::Deflated | ChangeError::ColumnDeflated { .. } => ErrorCode::ChangeCompressed,
        ChangeError::TooLarge { .. }
        | ChangeError::TooManyDeps { .. }
        | ChangeError::TooManyActors { .. }
        | ChangeError::MessageTooLarge { .. }
        | ChangeError::AuthorTooLarge { .. }
        | ChangeError::TooManyOps { .. }
        | ChangeError::TooManyPreds { .. }
        | ChangeError::Column { fault: Fault::TooMany, .. } => ErrorCode::ChangeTooLarge,
        ChangeError::DepsOrder
        | ChangeError::ActorsOrder
        | ChangeError::ActorUnused
        | ChangeError::ColumnsOrder
        | ChangeError::Header { fault: Fault::NotCanonical, .. }
        | ChangeError::Column { fault: Fault::NotCanonical, .. } => ErrorCode::ChangeNotCanonical,
        _ => ErrorCode::ChangeMalformed,
    }
}
