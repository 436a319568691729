//! Every committed input of the fuzz targets (fuzz/corpus), without libFuzzer: what was found once stays found, on any
//! toolchain and in seconds.

use std::path::Path;

#[path = "../fuzz/bodies/mod.rs"]
mod bodies;

/// The inputs of a target, by name.
fn inputs(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut inputs: Vec<(String, Vec<u8>)> = files
        .map(|file| {
            let path = file.expect("a file").path();
            let bytes = std::fs::read(&path).expect("it can be read");
            (path.display().to_string(), bytes)
        })
        .collect();
    inputs.sort();
    inputs
}

fn replay(target: &str) {
    let (_, run) = bodies::ALL.iter().find(|(name, _)| *name == target).expect("a target");
    let inputs = inputs(target);
    assert!(!inputs.is_empty(), "{target} has no corpus");
    for (name, bytes) in &inputs {
        // The panic of a body says what is wrong; this says with what.
        let _named = Named(name);
        run(bytes);
    }
}

/// Names the input when its run panics.
struct Named<'a>(&'a str);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("input: {}", self.0);
        }
    }
}

/// A test for each target, so that they run side by side and fail by name.
macro_rules! replays {
    ($($target:ident),+ $(,)?) => {
        $(#[test]
        fn $target() {
            replay(stringify!($target));
        })+

        #[test]
        fn every_target_is_replayed() {
            let named = [$(stringify!($target)),+];
            let targets: Vec<&str> = bodies::ALL.iter().map(|(name, _)| *name).collect();
            assert_eq!(named.as_slice(), targets);
        }
    };
}

replays![answer, config, extensions, fields, offer, proxy, relay, route, scan];
