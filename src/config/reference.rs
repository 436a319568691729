//! The schema in words: `check --print-default` and docs/configuration.md.

use std::fmt::Write;

use super::schema::{Fallback, Holds, Key, ROOT, Table};

/// Every option with its default, as a file that could be used.
///
/// Options that have no default stand behind a `#`, with an example.
pub fn defaults() -> String {
    let mut out = String::from(
        "# Every option of Tidegate with its default.\n\
         # A key right behind \"#\" is left out by default: what stands there is an example.\n",
    );
    for key in ROOT.keys {
        print_table(&mut out, key, &[], true);
    }
    out
}

/// The reference of all tables and keys, as Markdown.
pub fn reference() -> String {
    let mut out = String::from(INTRODUCTION);
    for key in ROOT.keys {
        describe(&mut out, key);
    }
    out
}

/// The table of a key that is written as one.
fn table_of(key: &'static Key) -> Option<&'static Table> {
    match key.holds {
        Holds::Table(table) | Holds::Tables(table) | Holds::Named(table) => Some(table),
        Holds::Value | Holds::ValuesOrTables(_) => None,
    }
}

/// And of one that may be.
fn described(key: &'static Key) -> Option<&'static Table> {
    match key.holds {
        Holds::ValuesOrTables(table) => Some(table),
        _ => table_of(key),
    }
}

// As TOML.

/// The tables below a table stand behind its own keys, as TOML wants it.
fn print_table(out: &mut String, key: &'static Key, above: &[&str], used: bool) {
    let Some(table) = table_of(key) else { return };
    // The tables of the file itself are there to be looked at; those below them only where they hold by default.
    let idle = matches!(key.fallback, Fallback::Nothing(..) | Fallback::Default("[]"));
    let off = matches!(key.fallback, Fallback::Nothing(..));
    let used = used && !off && (above.is_empty() || !idle);
    let mut path = above.to_vec();
    path.push(key.name);
    if matches!(key.holds, Holds::Named(_)) {
        path.push("echo");
    }
    let name = path.join(".");
    let header = match key.holds {
        Holds::Tables(_) => format!("[[{name}]]"),
        _ => format!("[{name}]"),
    };
    let _ = write!(out, "\n{}{}{header}\n", comment(table.doc), mark(used));
    for key in table.keys.iter().filter(|key| table_of(key).is_none()) {
        let (value, written) = match key.fallback {
            Fallback::Default(value) | Fallback::Required(value) | Fallback::Either(value) => (value, true),
            Fallback::Nothing(example, _) => (example, false),
        };
        let note = match key.fallback {
            Fallback::Required(_) => " Required.".to_owned(),
            Fallback::Nothing(_, means) => format!(" Left out: {means}."),
            _ => String::new(),
        };
        let _ = write!(out, "{}", comment(&format!("{}{note}", key.doc)));
        let _ = writeln!(out, "{}{} = {value}", mark(used && written), key.name);
    }
    for key in table.keys {
        print_table(out, key, &path, used);
    }
}

fn mark(used: bool) -> &'static str {
    if used { "" } else { "#" }
}

/// As lines of at most 100 characters.
fn comment(text: &str) -> String {
    const WIDTH: usize = 100;
    let mut lines = vec![String::from("#")];
    for word in text.split(' ') {
        let line = lines.last().map_or(0, |line| line.chars().count());
        if line + 1 + word.chars().count() > WIDTH {
            lines.push(String::from("#"));
        }
        if let Some(line) = lines.last_mut() {
            let _ = write!(line, " {word}");
        }
    }
    lines.join("\n") + "\n"
}

// As Markdown.

const INTRODUCTION: &str = "\
# Configuration reference

<!-- Generated: `tidegate check --print-reference > docs/configuration.md`. A test compares it with the code. -->

One TOML file, `config.toml` in the current folder or the one that `--config` names. Unknown keys are refused, and every
problem of the file is told at once: `tidegate check` looks without starting anything, `tidegate check --print-default`
prints every option with its default.

- **Durations** are strings of a whole number and a unit: `\"500ms\"`, `\"30s\"`, `\"5m\"`, `\"1h\"`, `\"2d\"`; at most 365 days.
- **Sizes**: `\"512B\"`, `\"64KiB\"`, `\"16MiB\"`, `\"1GiB\"` (powers of 1024), `\"64KB\"`, `\"16MB\"`, `\"1GB\"` (powers of 1000).
- **Rates**: so many in a second, minute or hour: `\"10/s\"`, `\"600/m\"`, `\"5/h\"`.
- **Files** are relative to the folder of the configuration.
- **Environment**: `${NAME}` inside a string takes the variable `NAME`, also where a number or true or false is wanted
  (`sessions = \"${SESSIONS}\"`). It must be set. `$${` is a literal `${`.
- Elements of a list are counted from 1 in messages: `route[2].origins[1]`.
";

fn describe(out: &mut String, key: &'static Key) {
    let Some(table) = described(key) else { return };
    let _ = write!(out, "\n## `{}`\n\n{}\n\n", table.title, table.doc);
    out.push_str("| key | value | default | meaning |\n| --- | --- | --- | --- |\n");
    for key in table.keys {
        let cells = [format!("`{}`", key.name), key.kind.to_owned(), default_of(key), key.doc.to_owned()];
        let _ = writeln!(out, "| {} |", cells.map(|cell| cell.replace('|', "\\|")).join(" | "));
    }
    for key in table.keys {
        describe(out, key);
    }
}

fn default_of(key: &'static Key) -> String {
    match (&key.fallback, table_of(key)) {
        (Fallback::Default("{}"), Some(table)) => {
            let given = |key: &Key| match key.fallback {
                Fallback::Default(value) => Some(format!("{} = {value}", key.name)),
                _ => None,
            };
            let values: Vec<String> = table.keys.iter().filter_map(given).collect();
            if values.is_empty() { "see below".to_owned() } else { format!("`{{ {} }}`", values.join(", ")) }
        }
        (Fallback::Default(value), _) => format!("`{value}`"),
        (Fallback::Required(example), _) => format!("required, like `{example}`"),
        (Fallback::Either(example), _) => format!("like `{example}`"),
        (Fallback::Nothing(_, means), _) => (*means).to_owned(),
    }
}
