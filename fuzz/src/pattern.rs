//! Patterns of document names and names: matching answers for all of them, and a pattern without a star has
//! its own name alone.

use etherply_engine::access::Pattern;

/// The first line is the pattern, the rest the name.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (pattern, name) = text.split_once('\n').unwrap_or((text, text));
    let Ok(read) = Pattern::new(pattern) else { return };
    let matches = read.matches(name);
    if !pattern.contains('*') {
        assert_eq!(matches, pattern == name);
    }
    if matches {
        // Whatever a star stands for, what stands before the first one is the same in both.
        let fixed = pattern.split('*').next().unwrap_or_default();
        assert!(name.starts_with(fixed));
        assert!(name.len() >= fixed.len());
    }
    assert!(Pattern::new("**").expect("a pattern").matches(name) != name.is_empty());
}
