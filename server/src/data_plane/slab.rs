//! Things with small numbers that are never used twice.

/// A slot's number in the low half, how often it was used in the high half.
#[derive(Debug)]
pub(super) struct Slab<T> {
    slots: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
    len: usize,
}

impl<T> Slab<T> {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Makes room, and puts in what `make` makes of the number.
    pub(super) fn insert(&mut self, make: impl FnOnce(u64) -> T) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push((0, None));
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let Some((uses, slot)) = self.slots.get_mut(index as usize) else { return u64::MAX };
        *uses += 1;
        let id = u64::from(*uses) << 32 | u64::from(index);
        *slot = Some(make(id));
        self.len += 1;
        id
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut T> {
        let (uses, slot) = self.slots.get_mut(Self::index(id))?;
        if u64::from(*uses) == id >> 32 { slot.as_mut() } else { None }
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<T> {
        let (uses, slot) = self.slots.get_mut(Self::index(id))?;
        if u64::from(*uses) != id >> 32 {
            return None;
        }
        let value = slot.take()?;
        self.len -= 1;
        // A slot whose count would wrap is not used again.
        if *uses < u32::MAX {
            self.free.push(u32::try_from(Self::index(id)).unwrap_or(u32::MAX));
        }
        Some(value)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().filter_map(|(_, slot)| slot.as_mut())
    }

    fn index(id: u64) -> usize {
        usize::try_from(id & u64::from(u32::MAX)).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_not_used_twice() {
        let mut slab = Slab::new();
        let a = slab.insert(|id| id);
        assert_eq!(slab.get_mut(a), Some(&mut a.clone()));
        assert_eq!(slab.remove(a), Some(a));
        let b = slab.insert(|id| id);
        assert_ne!(a, b);
        assert_eq!(slab.get_mut(a), None);
        assert_eq!(slab.remove(a), None);
        assert_eq!(slab.len(), 1);
        assert_eq!(slab.iter_mut().count(), 1);
    }
}
