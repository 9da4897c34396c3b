//! Patterns of document names, as tokens grant them.
//!
//! A name is read as segments between slashes. In a pattern
//!
//! - `*` as a whole segment stands for one segment of at least one character,
//! - `**` as the last segment stands for whatever is left of the name, at least one character of it,
//! - every other segment stands for itself, byte by byte: no case folding, no normalisation, no escapes.
//!
//! So `rooms/*` has `rooms/42`, but neither `rooms`, `rooms/` nor `rooms/42/chat`; `tenants/acme/**` has
//! `tenants/acme/a` and `tenants/acme/a/b`, but not `tenants/acme`; `**` alone has every name. A star within a
//! segment (`room*`) is no pattern: what it would stand for could be taken for more or less than it is.
//! Matching is total: it answers for every pattern and every name, in one pass over the name.

use std::fmt;
use std::sync::Arc;

use etherply_wire::limits::DOCUMENT_ID_BYTES_MAX;

/// Longest pattern.
pub const PATTERN_BYTES_MAX: usize = DOCUMENT_ID_BYTES_MAX;

/// Names of documents.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern(Arc<str>);

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// No characters at all.
    #[error("a pattern needs at least one character; ** stands for every document")]
    Empty,
    /// Longer than the limit.
    #[error("a pattern may have {PATTERN_BYTES_MAX} bytes, this one has {bytes}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// What no name may have either.
    #[error("a pattern may not contain control characters")]
    ControlCharacter,
    /// A star that is not a segment of its own.
    #[error("a star is a segment of its own, as in rooms/*")]
    StarWithin,
    /// `**` before the end.
    #[error("** stands for the rest of a name, so it comes last, as in tenants/acme/**")]
    RestNotLast,
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// [`PatternError`]
    pub fn new(text: &str) -> Result<Self, PatternError> {
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.len() > PATTERN_BYTES_MAX {
            return Err(PatternError::TooLong { bytes: text.len() });
        }
        if text.chars().any(char::is_control) {
            return Err(PatternError::ControlCharacter);
        }
        let mut segments = text.split('/').peekable();
        while let Some(segment) = segments.next() {
            match segment {
                "*" => {}
                "**" if segments.peek().is_some() => return Err(PatternError::RestNotLast),
                "**" => {}
                _ if segment.contains('*') => return Err(PatternError::StarWithin),
                _ => {}
            }
        }
        Ok(Self(Arc::from(text)))
    }

    /// Whether it has this name.
    pub fn matches(&self, name: &str) -> bool {
        let mut rest = Some(name);
        for segment in self.0.split('/') {
            let Some(left) = rest else { return false };
            if segment == "**" {
                return !left.is_empty();
            }
            let (first, behind) = match left.split_once('/') {
                Some((first, behind)) => (first, Some(behind)),
                None => (left, None),
            };
            let fits = if segment == "*" { !first.is_empty() } else { segment == first };
            if !fits {
                return false;
            }
            rest = behind;
        }
        rest.is_none()
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::new(pattern).unwrap().matches(name)
    }

    #[test]
    fn the_documented_examples_hold() {
        for (pattern, has, lacks) in [
            (
                "rooms/42",
                &["rooms/42"][..],
                &["rooms/4", "rooms/421", "rooms/42/", "Rooms/42", "/rooms/42"][..],
            ),
            (
                "rooms/*",
                &["rooms/42", "rooms/*", "rooms/ "],
                &["rooms", "rooms/", "rooms/42/chat", "room/42"],
            ),
            (
                "tenants/acme/**",
                &["tenants/acme/a", "tenants/acme/a/b", "tenants/acme//"],
                &["tenants/acme", "tenants/acme/", "tenants/acmes/a", "tenants/other/a"],
            ),
            ("**", &["a", "a/b", "/", "*"], &[]),
            ("*", &["a", "*", "**"], &["a/b", "/a", "a/"]),
            ("*/notes", &["ada/notes"], &["/notes", "ada/notes/1", "notes"]),
            ("a//b", &["a//b"], &["a/b", "a/x/b"]),
            ("a/", &["a/"], &["a", "a/b"]),
            ("é", &["é"], &["e\u{301}"]),
        ] {
            for name in has {
                assert!(matches(pattern, name), "{pattern} has {name}");
            }
            for name in lacks {
                assert!(!matches(pattern, name), "{pattern} lacks {name}");
            }
        }
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for (text, error) in [
            (String::new(), PatternError::Empty),
            ("room*".to_owned(), PatternError::StarWithin),
            ("***".to_owned(), PatternError::StarWithin),
            ("a/*b/c".to_owned(), PatternError::StarWithin),
            ("**/a".to_owned(), PatternError::RestNotLast),
            ("**/".to_owned(), PatternError::RestNotLast),
            ("a\n".to_owned(), PatternError::ControlCharacter),
            ("x".repeat(PATTERN_BYTES_MAX + 1), PatternError::TooLong { bytes: PATTERN_BYTES_MAX + 1 }),
        ] {
            assert_eq!(Pattern::new(&text), Err(error), "{text:?}");
        }
        for bytes in [PATTERN_BYTES_MAX - 1, PATTERN_BYTES_MAX] {
            assert!(Pattern::new(&"x".repeat(bytes)).is_ok());
        }
    }

    /// The definition, written the slow way.
    fn model(pattern: &[&str], name: &[&str]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            (["**"], name) => name.len() > 1 || name.first().is_some_and(|first| !first.is_empty()),
            (["*", pattern @ ..], [first, name @ ..]) => !first.is_empty() && model(pattern, name),
            ([segment, pattern @ ..], [first, name @ ..]) => segment == first && model(pattern, name),
            _ => false,
        }
    }

    fn text() -> impl Strategy<Value = String> {
        proptest::collection::vec(
            prop_oneof!["", "a", "b", "ab", Just("*".to_owned()), Just("**".to_owned())],
            1..5,
        )
        .prop_map(|segments| segments.join("/"))
    }

    proptest! {
        #[test]
        fn matching_is_what_the_definition_says(pattern in text(), name in text()) {
            if let Ok(read) = Pattern::new(&pattern) {
                let segments = |text: &'static str| text.split('/').collect::<Vec<_>>();
                let (pattern, name): (&'static str, &'static str) = (pattern.leak(), name.leak());
                prop_assert_eq!(read.matches(name), model(&segments(pattern), &segments(name)));
            }
        }

        #[test]
        fn any_text_is_read_or_refused_and_matches_or_not(pattern in ".{0,40}", name in ".{0,40}") {
            if let Ok(read) = Pattern::new(&pattern) {
                read.matches(&name);
                prop_assert!(pattern.contains('*') || read.matches(&pattern));
            }
        }

        /// What a pattern without stars has is its own name alone.
        #[test]
        fn a_name_grants_nothing_but_itself(pattern in "[a-c/]{1,6}", name in "[a-c/]{1,6}") {
            prop_assert_eq!(matches(&pattern, &name), pattern == name);
        }
    }
}
