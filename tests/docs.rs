//! The documents cannot lie where a machine can tell: their configurations, their tables of causes and refusals, the
//! files and pages that they name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::StatusCode;
use tidegate::config;
use tidegate::proto::refusal::Refusal;
use tidegate::relay::Side;
use tidegate::relay::end::{Cause, Told};

/// What a fragment stands behind: a gateway that works. Its route is not at `/`, so that a fragment may take that path.
const BEFORE_A_FRAGMENT: &str = "[[listener]]\naddress = \"127.0.0.1:8080\"\n\n\
                                 [[route]]\npath = \"/before-the-fragment\"\nupstream = \"app\"\n\n\
                                 [upstream.app]\nservers = [\"ws://127.0.0.1:9000\"]\n\n";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README.md and the others beside it, and everything below docs/, with their texts.
fn documents() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join("docs"), root().join("certs")];
    let mut files: Vec<PathBuf> = entries(root()).into_iter().filter(|path| path.is_file()).collect();
    while let Some(folder) = folders.pop() {
        let (below, here): (Vec<_>, Vec<_>) = entries(&folder).into_iter().partition(|path| path.is_dir());
        folders.extend(below);
        files.extend(here);
    }
    for path in files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(&path).expect("a document is UTF-8");
        found.push((path, text));
    }
    assert!(found.len() > 3, "the documents are not where they were: {found:?}");
    found
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).expect("a folder of ours").map(|entry| entry.expect("an entry").path()).collect()
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).expect("README.md")
}

/// The fenced blocks of a language: what follows it on the fence, and the text.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<(&'a str, String)> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(info) = line.strip_prefix("```") else { continue };
        let body: Vec<&str> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
        let (first, rest) = info.split_once(' ').unwrap_or((info, ""));
        if first == language {
            found.push((rest, body.join("\n")));
        }
    }
    found
}

/// The cells of the table below a heading whose first column has this title, without its head.
fn table(text: &str, first_column: &str) -> Vec<Vec<String>> {
    let head = format!("| {first_column} |");
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&head));
    assert!(lines.next().is_some(), "no table begins with {head}");
    let rows = lines.skip(1).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

fn label(row: &[String]) -> &str {
    row[0].trim_matches('`')
}

fn numbers(cell: &str) -> Vec<u16> {
    cell.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

#[test]
fn every_configuration_in_the_documents_is_right() {
    let mut whole = 0;
    for (path, text) in documents() {
        for (kind, block) in blocks(&text, "toml") {
            let configuration = match kind {
                "" => block.clone(),
                "fragment" => format!("{BEFORE_A_FRAGMENT}{block}"),
                other => panic!("{}: ```toml {other}: write nothing or `fragment`", path.display()),
            };
            whole += usize::from(kind.is_empty());
            if let Err(problems) = config::parse(&configuration, &path) {
                panic!("{}:\n{configuration}\n{problems}", path.display());
            }
        }
    }
    assert!(whole >= 2, "the README's whole configurations are gone");
}

#[test]
fn the_table_of_causes_is_the_codes() {
    let text = readme();
    let rows = table(&text, "cause");
    let labels: Vec<&str> = rows.iter().map(|row| label(row)).collect();
    assert_eq!(labels, Cause::ALL.map(Cause::label), "every cause, in the order of the code");
    for (row, cause) in rows.iter().zip(Cause::ALL) {
        let codes = |told: fn((Told, Told)) -> Told| {
            let mut codes: Vec<u16> = Vec::new();
            for (code, _) in
                [Side::Client, Side::Upstream, Side::Gateway].into_iter().filter_map(|side| told(cause.told(side)))
            {
                if !codes.contains(&code) {
                    codes.push(code);
                }
            }
            codes
        };
        assert_eq!(numbers(&row[1]), codes(|told| told.0), "{}: the client gets", cause.label());
        assert_eq!(numbers(&row[2]), codes(|told| told.1), "{}: the upstream gets", cause.label());
    }
}

/// Every refusal: a variant that is missing here does not compile.
macro_rules! every_refusal {
    ($($variant:ident $(($fields:expr))? $({ $field:ident: $value:expr })?),* $(,)?) => {
        fn refusals() -> Vec<Refusal> {
            #[allow(dead_code, reason = "it is there to be compiled")]
            fn complete(refusal: &Refusal) {
                match refusal { $(Refusal::$variant { .. } => {}),* }
            }
            vec![$(Refusal::$variant $(($fields))? $({ $field: $value })?),*]
        }
    };
}

every_refusal! {
    HeadMalformed, HeadTooLarge, HeadTimeout, HostMissing, HostRepeated, HostMalformed, HostMismatch,
    TargetMalformed, TargetTooLong, TargetUnsecured, PathDotSegment, PathBackslash, PathControl, PathEncodedSlash, NoRoute, PageMethod,
    FileNotFound, FileUnreadable, Method,
    HttpVersion, HasBody, NotAnUpgrade, ConnectionLacksUpgrade, Version, KeyMissing,
    KeyRepeated, KeyMalformed, SubprotocolsMalformed, SubprotocolRepeated, Trace, TransferCoding, BodyMalformed,
    BodyTimeout, OriginNotAllowed, OriginMissing,
    OriginMalformed, AccessDenied, ApiKeyMissing { bearer: true }, ApiKeyRepeated, ApiKeyAlone,
    ApiKeyUnknown { bearer: true }, SubprotocolRequired, SessionsGateway, SessionsListener, SessionsRoute,
    SessionsClient, SessionsClientRoute, SessionsUpstream,
    HandshakeRate { retry_after: Duration::from_secs(1) },
    HandshakeRateClientRoute { retry_after: Duration::from_secs(1) },
    HandshakeRateRoute { retry_after: Duration::from_secs(1) }, HeldBytes, Draining,
    NoHealthyServer { retry_after: Duration::from_secs(1) }, UpstreamUnreachable, UpstreamResolve,
    UpstreamTls, UpstreamConnectTimeout, UpstreamHandshakeTimeout, UpstreamAnswerTimeout, UpstreamBadAnswer,
    UpstreamRefused(StatusCode::FORBIDDEN),
}

#[test]
fn the_table_of_refusals_is_the_codes() {
    let text = readme();
    let rows = table(&text, "reason");
    let refusals = refusals();
    let labels: Vec<&str> = rows.iter().map(|row| label(row)).collect();
    let expected: Vec<&str> = refusals.iter().map(Refusal::label).collect();
    assert_eq!(labels, expected, "every refusal, in the order of the code");
    for (row, refusal) in rows.iter().zip(&refusals) {
        let label = refusal.label();
        if let Refusal::UpstreamRefused(_) = refusal {
            let failed = Refusal::UpstreamRefused(StatusCode::BAD_GATEWAY);
            let codes: Vec<u16> = [refusal, &failed].iter().filter_map(|refusal| refusal.close_code()).collect();
            assert_eq!((row[1].as_str(), numbers(&row[2])), ("its own", codes), "{label}");
            continue;
        }
        assert_eq!(numbers(&row[1]), [refusal.status().as_u16()], "{label}: its status");
        assert_eq!(numbers(&row[2]), Vec::from_iter(refusal.close_code()), "{label}: its close code");
    }
}

#[test]
fn what_the_documents_link_to_is_there() {
    for (path, text) in documents() {
        let folder = path.parent().expect("a document lies in a folder");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            if link.contains("://") {
                continue;
            }
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { folder.join(file) };
            assert!(target.exists(), "{}: {link} is not there", path.display());
            if !heading.is_empty() {
                let text = fs::read_to_string(&target).expect("a document");
                assert!(anchors(&text).contains(heading), "{}: {link} has no such heading", path.display());
            }
        }
    }
}

/// What a heading is called in a link.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
    let anchor = |heading: &str| {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        words.replace(|c: char| !c.is_alphanumeric() && c != ' ' && c != '-', "").replace(' ', "-")
    };
    headings.map(anchor).collect()
}

/// `src/relay/session.rs`, `tests/support/`, `benches/idle.rs`: in backquotes, from the root.
#[test]
fn files_that_the_documents_name_are_there() {
    let mut named = 0;
    for (path, text) in documents() {
        for name in text.split('`').skip(1).step_by(2) {
            let is_path = ["src/", "tests/", "benches/", "docs/"].iter().any(|folder| name.starts_with(folder));
            if !is_path || name.contains([' ', '*', '{', '<', '\n']) {
                continue;
            }
            named += 1;
            assert!(root().join(name).exists(), "{}: `{name}` is not there", path.display());
        }
    }
    assert!(named > 20, "the architecture names the files it speaks of");
}

/// SECURITY.md: what shows a promise is a test, and it is there.
/// The figures are those of the last run; that it was a whole one can be seen.
#[test]
fn the_tables_of_conformance_are_whole() {
    let text = fs::read_to_string(root().join("docs/conformance.md")).expect("docs/conformance.md");
    let mark = |which| format!("<!-- written by `tests/run conformance`: {which} -->");
    let written = text.split_once(&mark("begin")).and_then(|(_, rest)| rest.split_once(&mark("end")));
    let (written, _) = written.expect("the marks between which the tables stand");
    assert!(written.trim_start().starts_with("Last run: 20"), "the date of the run");
    let sides: Vec<&str> = written.split("\n### ").skip(1).collect();
    assert_eq!(sides.len(), 2, "the fuzzer in front of the gateway and behind it");
    for side in sides {
        let rows = table(side, "section");
        assert_eq!(rows.len(), 12, "eleven sections, and all: {side}");
        for row in rows {
            assert_eq!(row.len(), 7, "{row:?}");
            let cases: u16 = row[1].parse().expect("a number of cases");
            for verdicts in &row[2..] {
                assert_eq!(numbers(verdicts).iter().sum::<u16>(), cases, "{row:?}");
            }
        }
    }
}

#[test]
fn every_promise_is_shown_by_tests_that_there_are() {
    let tests = test_functions();
    let security = fs::read_to_string(root().join("SECURITY.md")).expect("SECURITY.md");
    let promises = table(&security, "promise");
    assert!(promises.len() > 10, "the promises are not where they were");
    for row in &promises {
        let named: Vec<&str> = row[1].split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "nothing shows: {}", row[0]);
        let lost: Vec<&str> = named.into_iter().filter(|name| !tests.contains(*name)).collect();
        assert!(lost.is_empty(), "no test is called {lost:?}: {}", row[0]);
    }
}

/// The functions behind `#[test]` or one of its kind, in src and tests.
fn test_functions() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root().join("src"), root().join("tests")];
    while let Some(folder) = folders.pop() {
        for path in entries(&folder) {
            if path.is_dir() && !path.ends_with("node_modules") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("Rust is UTF-8");
                let mut behind_attribute = false;
                for line in text.lines().map(str::trim) {
                    let name = line.trim_start_matches("async ").strip_prefix("fn ");
                    if let Some(name) = name.and_then(|rest| rest.split(['(', '<']).next()).filter(|_| behind_attribute)
                    {
                        found.insert(name.to_owned());
                    }
                    let is_attribute = line.starts_with("#[test]") || line.starts_with("#[tokio::test");
                    // More attributes and comments may stand between.
                    behind_attribute = is_attribute || behind_attribute && line.starts_with(['#', '/']);
                }
            }
        }
    }
    found
}
