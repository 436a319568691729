//! Configuration: `config.toml` becomes a [`model::Config`] that cannot be wrong once it exists, or every problem at once.
//!
//! text → `tree` (TOML, environment) → `read` + `schema` (keys, defaults) → `check` (values, cross checks) → [`Loaded`].
//! [`Source`] stays beside the configuration so that what is found later can point at its line.

mod check;
pub mod diff;
mod effective;
pub mod model;
mod problem;
mod read;
mod reference;
mod schema;
pub mod show;
mod tree;
mod value;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub use effective::effective;
pub use problem::{Problem, Problems, Source};
pub use reference::{defaults, reference};

use model::Position;

/// A configuration that is right, with the text it came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: model::Config,
    pub source: Source,
    /// What is allowed but hardly meant.
    pub warnings: Vec<Problem>,
    /// The file that it was read from, to be read again; `None` where the text came from elsewhere.
    pub file: Option<PathBuf>,
    /// What the text says, for comparing.
    tree: Vec<tree::Entry>,
}

/// Files that a configuration names. Whether they serve can only be said by opening them.
#[derive(Debug, Clone, Copy)]
pub enum Files<'a> {
    Listener(&'a model::ListenerTls),
    Upstream(&'a model::UpstreamTls),
    Keys(&'a model::Keys),
    /// The file of the admin interface's token.
    Token(&'a Path, Position),
}

/// Opens files and says what is wrong, and which value it is about. This room opens none itself.
pub type Inspect<'a> = dyn Fn(Files<'_>) -> Option<(Position, String)> + 'a;

/// Reads a file, with the process's environment for `${NAME}`.
///
/// # Errors
/// Every problem of the file and of those it names; one without a position when it cannot be read.
pub fn load(path: &Path, inspect: &Inspect<'_>) -> Result<Loaded, Problems> {
    let loaded = parse_with(&read_text(path)?, path, &|name| std::env::var(name).ok(), inspect)?;
    Ok(Loaded { file: Some(path.to_owned()), ..loaded })
}

/// Reads the text of a file and no other. `file` is shown in problems, and its folder is where relative paths start.
///
/// # Errors
/// Every problem of the text.
pub fn parse(text: &str, file: &Path) -> Result<Loaded, Problems> {
    parse_with(text, file, &|name| std::env::var(name).ok(), &|_| None)
}

/// [`parse`] with an environment of the caller's, and a look at the files that are named.
///
/// # Errors
/// Every problem of the text and of those files.
pub fn parse_with(
    text: &str,
    file: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    inspect: &Inspect<'_>,
) -> Result<Loaded, Problems> {
    let source = Source::new(file, text);
    let tree = tree::parse(&source, env);
    let entries = tree.root.clone();
    let (config, warnings) = check::check(&source, inspect, tree)?;
    Ok(Loaded { config, source, warnings, file: None, tree: entries })
}

/// What `kind` (`"echo"`, `"clock"`, `"chat"`) means with the defaults of `[[backend]]`.
///
/// # Panics
/// For any other word.
pub fn embedded(kind: &str) -> model::BackendKind {
    let source = Source::new("", format!("[[backend]]\nkind = {kind:?}\nlisten = \"127.0.0.1:0\""));
    check::only_backend(&source, tree::parse(&source, &|_| None)).expect("the word is a kind of backend")
}

/// A duration as the file writes it: `"30s"`.
pub fn duration(text: &str) -> Option<std::time::Duration> {
    value::duration(text).ok()
}

fn read_text(path: &Path) -> Result<String, Problems> {
    // A configuration is far smaller; a device or a log given by mistake is not.
    const BYTES_MAX: u64 = 16 << 20;
    let whole = |message: String, help: Option<String>| {
        Problems::from(Source::new(path, "").problem(Position::default(), "", message, help))
    };
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut bytes));
    match read {
        Err(error) => {
            let help = match error.kind() {
                io::ErrorKind::NotFound => Some("name another file with --config".to_owned()),
                _ => None,
            };
            return Err(whole(format!("cannot be read: {error}"), help));
        }
        Ok(count) if count as u64 > BYTES_MAX => {
            return Err(whole("is larger than 16MiB".to_owned(), None));
        }
        Ok(_) => {}
    }
    String::from_utf8(bytes).map_err(|error| {
        let sound = error.utf8_error().valid_up_to();
        let source = Source::new(path, String::from_utf8_lossy(error.as_bytes()));
        let help = "save the file as UTF-8".to_owned();
        source.problem(source.position(sound), "", "not UTF-8 from here on", Some(help)).into()
    })
}
