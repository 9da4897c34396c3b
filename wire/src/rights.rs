//! What a stream may do.

/// A set of rights, as bits on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rights(pub u16);

impl Rights {
    /// No right at all.
    pub const NONE: Self = Self(0);
    /// Receive the document's changes.
    pub const READ: Self = Self(1);
    /// Push changes.
    pub const WRITE: Self = Self(1 << 1);
    /// Set and receive presence, send and receive broadcasts.
    pub const PRESENCE: Self = Self(1 << 2);
    /// Push changes that another subject wrote, as after a restore.
    pub const IMPORT: Self = Self(1 << 3);
    /// Administer the document.
    pub const ADMIN: Self = Self(1 << 4);
    /// All that exist.
    pub const ALL: Self = Self(0b1_1111);

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What both sets have.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether every right of `other` is in this set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether only known bits are set.
    pub const fn is_known(self) -> bool {
        self.0 & !Self::ALL.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_behave_as_sets() {
        let both = Rights::READ.with(Rights::WRITE);
        assert!(both.has(Rights::READ) && both.has(Rights::WRITE) && both.has(both));
        assert!(!both.has(Rights::PRESENCE) && !Rights::READ.has(both));
        assert_eq!(both.and(Rights::WRITE), Rights::WRITE);
        assert!(Rights::NONE.is_empty() && !both.is_empty());
        assert!(Rights::ALL.is_known() && !Rights(1 << 5).is_known());
    }
}
