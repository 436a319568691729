//! Files that people name: configurations, certificates, keys, tokens.
//!
//! In: a path. Out: what stands there, or why it cannot serve. Only a regular file serves, and only one that is not far too
//! large: a pipe may be waited for without end, and a device may have none.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// What is read here is far smaller; a device or a log given by mistake is not.
const BYTES_MAX: u64 = 16 << 20;

/// Why a file cannot serve. `Display` goes behind its name.
#[derive(Debug, thiserror::Error)]
pub enum BadFile {
    #[error("cannot be read")]
    Unreadable(#[from] io::Error),
    #[error("is a directory: name the file in it")]
    Directory,
    #[error("is no regular file")]
    NotRegular,
    #[error("is larger than 16MiB")]
    TooLarge,
}

/// Reads a regular file. Blocks as files do.
///
/// # Errors
/// When it is something else, cannot be read or is too large.
pub fn read(path: &Path) -> Result<Vec<u8>, BadFile> {
    // Before it is opened, which waits where it is a pipe.
    let found = path.metadata()?;
    if found.is_dir() {
        return Err(BadFile::Directory);
    }
    if !found.is_file() {
        return Err(BadFile::NotRegular);
    }
    read_all(path)
}

/// The same, and what whoever starts a process hands over to it: a shell's `<(…)`, or standard input. These can be read
/// once.
///
/// # Errors
/// When it is something else, cannot be read or is too large.
pub fn read_once(path: &Path) -> Result<Vec<u8>, BadFile> {
    let handed_over = ["/dev/fd", "/dev/stdin", "/proc/self/fd"].iter().any(|place| path.starts_with(place));
    if handed_over { read_all(path) } else { read(path) }
}

fn read_all(path: &Path) -> Result<Vec<u8>, BadFile> {
    let mut bytes = Vec::new();
    File::open(path)?.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > BYTES_MAX { Err(BadFile::TooLarge) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_regular_file_is_never_opened() {
        let folder = std::env::temp_dir().join(format!("tidegate-file-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let at = |name: &str| folder.join(name);
        std::fs::write(at("text"), "text").expect("written");
        let large = File::create(at("large")).expect("made");
        large.set_len(BYTES_MAX + 1).expect("sparse");
        let status = std::process::Command::new("mkfifo").arg(at("pipe")).status().expect("mkfifo runs");
        assert!(status.success());
        assert_eq!(read(&at("text")).expect("it is there"), b"text");
        let told = |path: &Path| read(path).unwrap_err().to_string();
        for (path, expected) in [
            (at("none"), "cannot be read"),
            (at("pipe"), "is no regular file"),
            ("/dev/zero".into(), "is no regular file"),
            (folder.clone(), "is a directory: name the file in it"),
            (at("large"), "is larger than 16MiB"),
        ] {
            assert_eq!(told(&path), expected, "{}", path.display());
        }
        assert!(matches!(read_once(&at("pipe")), Err(BadFile::NotRegular)), "nobody handed it over");
        std::fs::remove_dir_all(&folder).expect("it was there");
    }
}
