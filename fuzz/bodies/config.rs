//! Configuration text: whatever it is, it is read without a panic; what is wrong has a place in it; what is right can be
//! shown, and reads the same again.

use std::path::Path;

use tidegate::config::model::ListenerAddress;
use tidegate::config::{Problem, parse_with, show};

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let file = Path::new("config.toml");
    let env = |name: &str| match name {
        "EMPTY" => Some(String::new()),
        "PORT" => Some("8080".to_owned()),
        "ADDRESS" => Some("127.0.0.1:0".to_owned()),
        "ODD" => Some("a\"\n[[route]]\u{7f}".to_owned()),
        _ => None,
    };
    let read = || parse_with(text, file, &env, &|_| None);
    match read() {
        Err(problems) => {
            assert!(problems.len() > 0, "refused without a reason");
            problems.iter().for_each(|problem| has_a_place(problem, text));
            assert_eq!(read().err(), Some(problems), "it reads the same again");
        }
        Ok(loaded) => {
            loaded.warnings.iter().for_each(|problem| has_a_place(problem, text));
            let config = &loaded.config;
            let bound: Vec<ListenerAddress> =
                config.listeners.iter().map(|listener| listener.address.clone()).collect();
            let shown = [show::summary(config), show::start_up(config, &bound, None, 2)];
            for route in &config.routes {
                assert!(shown.iter().all(|text| text.contains(&route.name)), "{} is not shown", route.name);
            }
            let again = read().expect("it reads the same again").config;
            assert_eq!(format!("{config:?}"), format!("{again:?}"));
        }
    }
}

/// A line and a column of the text, and words without a byte that would upset a terminal.
fn has_a_place(problem: &Problem, text: &str) {
    let lines = text.split('\n').count();
    assert!(problem.at.line <= lines, "line {} of {lines}", problem.at.line);
    let line = text.split('\n').nth(problem.at.line.saturating_sub(1)).unwrap_or_default();
    let columns = line.chars().count() + 1;
    assert!(problem.at.column <= columns, "column {} of {columns}: {line:?}", problem.at.column);
    let shown = problem.to_string();
    assert!(!problem.message.is_empty() && shown.contains("config.toml"));
    let upsets = |c: char| c.is_control() && c != '\n' && c != '\t';
    assert!(!shown.contains(upsets), "{shown:?}");
}
