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

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};

pub use problem::{Problem, Problems, Source};
pub use reference::{defaults, reference};

use model::Position;

use crate::file::{self, BadFile};

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
    Sticky(&'a model::StickyCookie),
    Folder(&'a model::Folder),
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
    load_from(path, file::read_once(path), inspect)
}

/// [`load`] while the gateway runs: a pipe that it was read from at the start has nothing more to give, and would be waited
/// for.
///
/// # Errors
/// As those of [`load`].
pub fn load_again(path: &Path, inspect: &Inspect<'_>) -> Result<Loaded, Problems> {
    load_from(path, file::read(path), inspect)
}

fn load_from(path: &Path, read: Result<Vec<u8>, BadFile>, inspect: &Inspect<'_>) -> Result<Loaded, Problems> {
    let loaded = parse_with(&text(path, read)?, path, &|name| std::env::var(name).ok(), inspect)?;
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

fn text(path: &Path, read: Result<Vec<u8>, BadFile>) -> Result<String, Problems> {
    let bytes = read.map_err(|error| {
        let help = match &error {
            BadFile::Unreadable(error) if error.kind() == io::ErrorKind::NotFound => {
                Some("name another file with --config")
            }
            BadFile::NotRegular => {
                Some("name a file; a pipe serves at the start alone, as /dev/stdin or <(...) of a shell")
            }
            _ => None,
        };
        let message = error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
        Problems::from(Source::new(path, "").problem(Position::default(), "", message, help.map(str::to_owned)))
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let sound = error.utf8_error().valid_up_to();
        let source = Source::new(path, String::from_utf8_lossy(error.as_bytes()));
        let help = "save the file as UTF-8".to_owned();
        source.problem(source.position(sound), "", "not UTF-8 from here on", Some(help)).into()
    })
}
