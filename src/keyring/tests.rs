use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

const ADA: &str = "ada: 0123456789abcdef\n";
const BOB: &str = "bob: fedcba9876543210\n";

/// A folder of its own, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("tidegate-keyring-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).expect("a folder");
        Folder(folder)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.0.join(name);
        fs::write(&file, text).expect("written");
        file
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn watched(file: &Path) -> (Arc<Keyring>, Keyrings) {
    let ring = Arc::new(Keyring::load(file).expect("sound"));
    let rings = Keyrings(HashMap::from([(file.to_owned(), ring.clone())]));
    (ring, rings)
}

#[test]
fn a_change_counts_once_the_file_has_come_to_rest() {
    let folder = Folder::new();
    let file = folder.write("keys", &format!("{ADA}{BOB}"));
    let (ring, watch) = watched(&file);
    assert!(!watch.look() && !watch.look());
    fs::write(&file, ADA).expect("written");
    assert!(!watch.look(), "it may not be complete yet");
    assert_eq!(ring.current().len(), 2);
    fs::write(&file, format!("{ADA}carol: 00112233445566778899\nd: aabbccddeeff00112233")).expect("written");
    assert!(!watch.look(), "it was not");
    assert_eq!(ring.current().len(), 2);
    assert!(watch.look(), "one of the first two is gone");
    assert_eq!(ring.current().len(), 3);
    assert!(!watch.look());
}

#[test]
fn a_rename_and_another_symlink_are_changes() {
    let folder = Folder::new();
    folder.write("one", ADA);
    folder.write("two", BOB);
    let link = folder.0.join("link");
    symlink("one", &link).expect("a link");
    let (ring, watch) = watched(&link);
    let before = ring.current();
    symlink("two", folder.0.join("next")).expect("a link");
    fs::rename(folder.0.join("next"), &link).expect("swapped");
    assert!(!watch.look() && watch.look(), "another target");
    let second = ring.current();
    assert!(!Arc::ptr_eq(&before, &second));
    fs::rename(folder.write("three", &format!("{ADA}{BOB}")), folder.0.join("two")).expect("renamed");
    assert!(!watch.look() && !watch.look(), "one more, none gone");
    assert_eq!(ring.current().len(), 2);
}

#[test]
fn what_cannot_be_used_changes_nothing() {
    let folder = Folder::new();
    let file = folder.write("keys", ADA);
    let (ring, watch) = watched(&file);
    let before = ring.current();
    let unusable: [&dyn Fn(); 4] = [
        &|| fs::write(&file, "short").expect("written"),
        &|| fs::write(&file, "").expect("written"),
        &|| fs::remove_file(&file).expect("removed"),
        &|| fs::create_dir(&file).expect("a folder in its place"),
    ];
    for make in unusable {
        make();
        assert!(!watch.look() && !watch.look() && !watch.look());
        assert!(Arc::ptr_eq(&before, &ring.current()));
    }
    fs::remove_dir(&file).expect("removed");
    fs::write(&file, BOB).expect("written");
    assert!(!watch.look() && watch.look(), "the first key is gone");
}

#[test]
fn a_reload_that_read_before_a_look_brings_no_key_back() {
    let folder = Folder::new();
    let file = folder.write("keys", &format!("{ADA}{BOB}"));
    let (ring, watch) = watched(&file);
    let reread = Reread(vec![(ring.clone(), ring.reread().expect("sound"))]);
    fs::write(&file, BOB).expect("written");
    assert!(!watch.look() && watch.look(), "one is gone");
    assert!(!reread.put());
    assert_eq!(ring.current().len(), 1, "and stays so");
}

#[test]
fn what_cannot_be_used_at_the_start() {
    let folder = Folder::new();
    let told = |file: &Path| log::chain(&Keyring::load(file).expect_err("unusable"));
    assert!(told(&folder.0.join("none")).starts_with("cannot be read: No such file"));
    assert_eq!(told(&folder.0), "is a directory: name the file in it");
    let said = told(&folder.write("bad", "\nada: secret"));
    assert_eq!(said, "cannot be used: line 2: the key is shorter than 16 characters, and could be guessed");
}
