//! Whether bytes that come in pieces are UTF-8, told at the first byte that cannot be any (RFC 6455, 8.1).
//!
//! Nothing is kept but the beginning of a character.

/// Longest character.
const CHARACTER_BYTES_MAX: usize = 4;

/// What has come so far is UTF-8, but for a last character that may be cut.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Utf8 {
    cut: [u8; CHARACTER_BYTES_MAX],
    cut_bytes: u8,
}

impl Utf8 {
    /// Takes the next piece. An error: whatever follows, this is not UTF-8.
    pub(super) fn push(&mut self, piece: &[u8]) -> Result<(), ()> {
        let mut rest = piece;
        while self.cut_bytes > 0 {
            let Some((&byte, after)) = rest.split_first() else { return Ok(()) };
            rest = after;
            let length = usize::from(self.cut_bytes);
            // Three bytes are cut at most: with the fourth a character is whole, or an error.
            *self.cut.get_mut(length).ok_or(())? = byte;
            self.cut_bytes += 1;
            match std::str::from_utf8(self.cut.get(..=length).unwrap_or_default()) {
                Ok(_) => self.cut_bytes = 0,
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(()),
            }
        }
        let Err(error) = std::str::from_utf8(rest) else { return Ok(()) };
        if error.error_len().is_some() {
            return Err(());
        }
        for byte in rest.iter().skip(error.valid_up_to()) {
            if let Some(place) = self.cut.get_mut(usize::from(self.cut_bytes)) {
                *place = *byte;
                self.cut_bytes += 1;
            }
        }
        Ok(())
    }

    /// Whether no character is cut.
    pub(super) fn is_whole(self) -> bool {
        self.cut_bytes == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes up to and with the one that shows that it is not UTF-8, by the standard library alone.
    fn hopeless_at(bytes: &[u8]) -> Option<usize> {
        (1..=bytes.len())
            .find(|&end| std::str::from_utf8(&bytes[..end]).is_err_and(|error| error.error_len().is_some()))
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let text = ".{0,12}".prop_map(String::into_bytes);
        let broken =
            (text.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(mut text, at, byte)| {
                if !text.is_empty() {
                    let at = at.index(text.len());
                    text[at] = byte;
                }
                text
            });
        prop_oneof![text, broken, prop::collection::vec(0x80..=0xFF_u8, 0..8)]
    }

    proptest! {
        #[test]
        fn the_first_wrong_byte_is_told_whatever_the_pieces(
            bytes in bytes(),
            pieces in prop::collection::vec(1..6_usize, 1..5),
        ) {
            let mut utf8 = Utf8::default();
            let (mut done, mut failed) = (0, false);
            for &piece in pieces.iter().cycle() {
                let end = (done + piece).min(bytes.len());
                if utf8.push(&bytes[done..end]).is_err() {
                    failed = true;
                    let wrong = hopeless_at(&bytes).unwrap();
                    prop_assert!(done < wrong && wrong <= end);
                    break;
                }
                done = end;
                if done == bytes.len() {
                    break;
                }
            }
            prop_assert_eq!(failed, hopeless_at(&bytes).is_some());
            if !failed {
                prop_assert_eq!(utf8.is_whole(), std::str::from_utf8(&bytes).is_ok());
            }
        }
    }
}
