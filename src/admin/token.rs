//! The token of the admin interface: where it stands, and whether a request has it.

use std::path::{Path, PathBuf};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};

use crate::config::model::{Secret, Token};
use crate::file;

/// A token that is shorter could be guessed; a longer one is a file that was given by mistake.
const BYTES: std::ops::RangeInclusive<usize> = 16..=512;

/// Why a file of a token cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadToken {
    #[error(transparent)]
    File(#[from] file::BadFile),
    #[error("a token has 16 to 512 visible ASCII characters on one line: `openssl rand -hex 32` makes one")]
    Malformed,
}

/// Reads a token's file: the token on a line, nothing else.
///
/// # Errors
/// When it cannot be read or holds something else.
pub fn read(file: &Path) -> Result<Secret, BadToken> {
    let bytes = file::read(file)?;
    let token = str::from_utf8(bytes.trim_ascii_end()).map_err(|_| BadToken::Malformed)?;
    let sound = BYTES.contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic());
    if sound { Ok(Secret(token.to_owned())) } else { Err(BadToken::Malformed) }
}

impl Token {
    /// The token as it is now.
    ///
    /// # Errors
    /// When its file cannot be used.
    pub fn current(&self) -> Result<Secret, BadToken> {
        match self {
            Token::Written(secret) => Ok(secret.clone()),
            Token::File(file, _) => read(file),
        }
    }

    /// Where it stands; empty where that is the configuration itself.
    pub fn file(&self) -> PathBuf {
        match self {
            Token::Written(_) => PathBuf::new(),
            Token::File(file, _) => file.clone(),
        }
    }
}

impl Secret {
    /// Takes the same time for every wrong guess: what is compared are digests, whole.
    pub fn is(&self, guess: &[u8]) -> bool {
        let digest = |bytes| digest(&SHA256, bytes);
        verify_slices_are_equal(digest(self.0.as_bytes()).as_ref(), digest(guess).as_ref()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_one_token_and_nothing_else() {
        let file = std::env::temp_dir().join(format!("tidegate-token-{}", std::process::id()));
        for (text, right) in [
            ("0123456789abcdef", true),
            ("0123456789abcdef\n", true),
            ("0123456789abcdef\r\n\n", true),
            ("0123456789abcde", false),
            ("", false),
            ("0123456789abcdef 0123456789abcdef", false),
            ("0123456789abcdef\n0123456789abcdef", false),
            (&"x".repeat(512), true),
            (&"x".repeat(513), false),
        ] {
            std::fs::write(&file, text).expect("a temporary file");
            assert_eq!(read(&file).is_ok(), right, "{text:?}");
        }
        std::fs::remove_file(&file).expect("it was there");
        assert!(matches!(read(&file), Err(BadToken::File(_))));
    }

    #[test]
    fn only_the_whole_token_is_right() {
        let secret = Secret("0123456789abcdef".to_owned());
        assert!(secret.is(b"0123456789abcdef"));
        for guess in ["", "0", "0123456789abcde", "0123456789abcdef0", "0123456789abcdeF"] {
            assert!(!secret.is(guess.as_bytes()), "{guess}");
        }
        assert_eq!(format!("{secret:?}"), "hidden");
    }
}
