//! UTF-8 that arrives in pieces (RFC 3629; RFC 6455 section 8.1).
//!
//! In: pieces of one text, cut anywhere. Out: whether they can still become valid; refused at the first byte that
//! settles it. Holds at most three bytes between two pieces.

/// The text can no longer be valid UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invalid;

/// A check of one text; ready for the next one after [`Utf8::end`] said yes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Utf8 {
    /// The character that the last piece cut.
    cut: [u8; 4],
    len: u8,
}

impl Utf8 {
    /// The next piece; what follows an `Err` means nothing.
    #[inline]
    pub fn push(&mut self, piece: &[u8]) -> Result<(), Invalid> {
        let rest = if self.len == 0 { piece } else { self.finish_cut(piece)? };
        let Err(error) = str::from_utf8(rest) else {
            return Ok(());
        };
        if error.error_len().is_some() {
            return Err(Invalid);
        }
        let cut = &rest[error.valid_up_to()..];
        self.cut[..cut.len()].copy_from_slice(cut);
        self.len = cut.len() as u8;
        Ok(())
    }

    /// The text is over: no character may be cut.
    pub fn end(&self) -> Result<(), Invalid> {
        if self.len == 0 { Ok(()) } else { Err(Invalid) }
    }

    /// Completes the cut character as far as `piece` goes; what is left of it.
    fn finish_cut<'a>(&mut self, mut piece: &'a [u8]) -> Result<&'a [u8], Invalid> {
        while let Some((&byte, rest)) = piece.split_first() {
            // Three bytes at most are cut, so a fourth has its place; whatever they are, four bytes are never "cut".
            self.cut[usize::from(self.len)] = byte;
            self.len += 1;
            piece = rest;
            match str::from_utf8(&self.cut[..usize::from(self.len)]) {
                Ok(_) => {
                    self.len = 0;
                    break;
                }
                Err(error) if error.error_len().is_some() => return Err(Invalid),
                Err(_) => {}
            }
        }
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whether the pieces are one valid text; `None` as soon as they cannot become one.
    fn check<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Option<bool> {
        let mut utf8 = Utf8::default();
        for piece in pieces {
            utf8.push(piece).ok()?;
        }
        Some(utf8.end().is_ok())
    }

    /// What the standard library says of the whole.
    fn expected(bytes: &[u8]) -> Option<bool> {
        match str::from_utf8(bytes) {
            Ok(_) => Some(true),
            Err(error) if error.error_len().is_none() => Some(false),
            Err(_) => None,
        }
    }

    #[test]
    fn edges_at_every_pair_of_cuts() {
        for text in [
            &b"\x00\x7f"[..],
            b"\xc2\x80\xdf\xbf",
            b"\xe0\xa0\x80\xef\xbf\xbf",
            b"\xed\x9f\xbf\xee\x80\x80",
            b"\xf0\x90\x80\x80\xf4\x8f\xbf\xbf",
            b"\xce\xba\xe1\xbd\xb9\xf0\x9f\x8c\x8a",
            b"\xc0\x80",
            b"\xc1\xbf",
            b"\xe0\x9f\xbf",
            b"\xed\xa0\x80",
            b"\xf0\x8f\xbf\xbf",
            b"\xf4\x90\x80\x80",
            b"\xf5",
            b"\xff",
            b"\x80",
            b"a\xe2\x28\xa1",
            b"\xe2\x82",
            b"\xf0\x9f\x8c",
        ] {
            for first in 0..=text.len() {
                for second in first..=text.len() {
                    let pieces = [&text[..first], &text[first..second], &text[second..]];
                    assert_eq!(check(pieces), expected(text), "{text:x?} cut at {first} and {second}");
                }
            }
        }
    }

    #[test]
    fn is_refused_at_the_byte_that_settles_it() {
        let mut utf8 = Utf8::default();
        assert_eq!(utf8.push(b"\xf4"), Ok(()));
        assert_eq!(utf8.push(b"\x90"), Err(Invalid));
    }

    proptest! {
        #[test]
        fn agrees_with_the_standard_library(
            bytes in prop_oneof![
                any::<String>().prop_map(String::into_bytes),
                prop::collection::vec(any::<u8>(), 0..16),
                (any::<String>(), any::<usize>(), any::<u8>()).prop_map(|(text, at, byte)| {
                    let mut bytes = text.into_bytes();
                    let at = at % (bytes.len() + 1);
                    bytes.insert(at, byte);
                    bytes
                }),
            ],
            size in 1..7_usize,
        ) {
            prop_assert_eq!(check(bytes.chunks(size)), expected(&bytes));
        }
    }
}
