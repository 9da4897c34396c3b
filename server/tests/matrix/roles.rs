//! Who comes: every set of grants that a token can have, and those whose token is none.

use etherply_wire::{ErrorCode, Rights};

use crate::common::Server;
use crate::common::place::{Place, said};
use crate::line::{Answer, Line, code};

/// What a token can grant, and what that is worth.
const GRANTS: [(&str, Rights); 5] = [
    ("--read", Rights::READ),
    ("--write", Rights::READ.with(Rights::WRITE)),
    ("--presence", Rights::PRESENCE),
    ("--import", Rights::READ.with(Rights::WRITE).with(Rights::IMPORT)),
    ("--admin", Rights::ADMIN),
];

/// What somebody comes with.
pub struct Role {
    pub name: String,
    pub token: Option<String>,
    /// On documents that match `own/*`.
    pub rights: Rights,
    /// Why nothing is granted at all; the token is good where this is `None`.
    pub denied: Option<ErrorCode>,
}

impl Role {
    /// Why a document is refused on which there are no rights.
    pub fn refusal(&self) -> ErrorCode {
        self.denied.unwrap_or(ErrorCode::Forbidden)
    }

    fn denied(name: &str, token: Option<String>, denied: ErrorCode) -> Self {
        Self { name: name.to_owned(), token, rights: Rights::NONE, denied: Some(denied) }
    }
}

/// Every role there is, on a server that knows the keys of the place.
pub fn all(place: &Place, server: &Server) -> Vec<Role> {
    let mut roles = Vec::new();
    for set in 0_u32..1 << GRANTS.len() {
        let chosen = GRANTS.iter().enumerate().filter(|(bit, _)| set & 1 << bit != 0);
        let (mut flags, mut rights) = (Vec::new(), Rights::NONE);
        for (_, (flag, right)) in chosen {
            flags.extend([*flag, "own/*"]);
            rights = rights.with(*right);
        }
        let name =
            format!("granted {}", if flags.is_empty() { "nothing".to_owned() } else { flags.join(" ") });
        // A token has to grant something, if only elsewhere.
        flags.extend(["--read", "elsewhere/**"]);
        roles.push(Role { name, token: Some(place.token("eve", "1h", &flags)), rights, denied: None });
    }
    let all: Vec<&str> = GRANTS.iter().flat_map(|(flag, _)| [*flag, "**"]).collect();
    let good = place.token("eve", "1h", &all);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let flipped = if signature.starts_with('A') { "B" } else { "A" };
    let forged = format!("{signed}.{flipped}{}", &signature[1..]);
    let elsewhere = Place::new();
    let revoked = place.token("mallory", "1h", &all);
    said(place.revoke(server, &["--subject", "mallory"]));
    let expired = place.token("eve", "1s", &all);
    // Asked until it is over.
    let over = code(ErrorCode::TokenExpired);
    let is_over = |answer| matches!(answer, Answer::Error { code, .. } if code == over);
    while !is_over(Line::new(server.listen).open("own/doc", Rights::READ.0, Some(&expired), None).1) {}
    roles.extend([
        Role::denied("no token", None, ErrorCode::TokenRequired),
        Role::denied("no words", Some("x".to_owned()), ErrorCode::TokenInvalid),
        Role::denied("forged", Some(forged), ErrorCode::TokenInvalid),
        Role::denied("of another key", Some(elsewhere.token("eve", "1h", &all)), ErrorCode::TokenInvalid),
        Role::denied("revoked", Some(revoked), ErrorCode::TokenRevoked),
        Role::denied("over", Some(expired), ErrorCode::TokenExpired),
    ]);
    roles
}
