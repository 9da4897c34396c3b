//! What takes back grants before their time.

use std::sync::Arc;

use super::{Identity, Pattern};
use crate::ids::DocumentId;

/// What is revoked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Revoked {
    /// The token of this id, whenever it was issued.
    Token(Arc<str>),
    /// All tokens of a subject.
    Subject(Arc<str>),
    /// Everybody's grants on these documents.
    Documents(Pattern),
}

/// A revocation. What was issued later is not touched by it, except for a token's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// What is revoked.
    pub what: Revoked,
    /// When, in seconds since 1970.
    pub at_s: u64,
}

impl Revocation {
    /// Whether it takes back this identity's grant on this document. An anonymous one has none to take back.
    pub fn hits(&self, identity: &Identity, document: &DocumentId) -> bool {
        let is_older = identity.issued_s <= self.at_s && !identity.subject.is_empty();
        match &self.what {
            Revoked::Token(token) => !token.is_empty() && *token == identity.token,
            Revoked::Subject(subject) => is_older && *subject == identity.subject,
            Revoked::Documents(pattern) => is_older && pattern.matches(document.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_hits_what_it_names_and_what_is_not_newer() {
        let identity = |issued_s| Identity { subject: "ada".into(), token: "t1".into(), issued_s };
        let document = DocumentId::new("rooms/1").unwrap();
        let hits =
            |what: Revoked, issued_s| Revocation { what, at_s: 100 }.hits(&identity(issued_s), &document);
        for issued_s in [99, 100] {
            assert!(hits(Revoked::Token("t1".into()), issued_s));
            assert!(hits(Revoked::Subject("ada".into()), issued_s));
            assert!(hits(Revoked::Documents(Pattern::new("rooms/*").unwrap()), issued_s));
        }
        assert!(hits(Revoked::Token("t1".into()), 101), "an id is never used twice");
        assert!(!hits(Revoked::Subject("ada".into()), 101));
        assert!(!hits(Revoked::Documents(Pattern::new("rooms/*").unwrap()), 101));
        assert!(!hits(Revoked::Token("t2".into()), 1));
        assert!(!hits(Revoked::Subject("bob".into()), 1));
        assert!(!hits(Revoked::Documents(Pattern::new("notes/*").unwrap()), 1));
    }

    #[test]
    fn nobody_in_particular_has_nothing_to_lose() {
        let identity = super::super::Grant::anonymous().identity;
        let document = DocumentId::new("rooms/1").unwrap();
        for what in [
            Revoked::Token("".into()),
            Revoked::Subject("".into()),
            Revoked::Documents(Pattern::new("**").unwrap()),
        ] {
            assert!(!Revocation { what, at_s: 100 }.hits(&identity, &document));
        }
    }
}
