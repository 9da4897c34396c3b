//! The time of day, which only records, reports and what was said to be kept for so long are about. Whatever waits or
//! measures uses [`std::time::Instant`], which nobody can set.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, in milliseconds since 1970; 0 where the clock says that it is earlier.
pub fn now_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}
