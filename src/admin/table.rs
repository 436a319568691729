//! What can be asked: one row for each method and path. docs/openapi.yaml has the same rows, which a test compares.

use http::{Method, StatusCode};

use super::answer::Problem;
use super::query::decoded;

/// One thing that can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Health,
    Ready,
    Metrics,
    Status,
    Sessions,
    CloseSessions,
    Session,
    CloseSession,
    Drain,
    Reload,
    Upstreams,
    SetServer,
    Config,
}

#[derive(Debug)]
pub struct Row {
    pub method: Method,
    /// As OpenAPI writes it: `{id}` stands for one segment.
    pub path: &'static str,
    pub call: Call,
}

impl Call {
    /// Answered to everybody who can connect: probes have no token.
    pub fn is_open(self) -> bool {
        matches!(self, Call::Health | Call::Ready)
    }

    /// In the query.
    pub fn has_parameters(self) -> bool {
        matches!(self, Call::Sessions | Call::CloseSessions | Call::CloseSession)
    }

    pub fn has_body(self) -> bool {
        matches!(self, Call::Drain | Call::SetServer)
    }
}

const fn row(method: Method, path: &'static str, call: Call) -> Row {
    Row { method, path, call }
}

pub const TABLE: &[Row] = &[
    row(Method::GET, "/healthz", Call::Health),
    row(Method::GET, "/readyz", Call::Ready),
    row(Method::GET, "/metrics", Call::Metrics),
    row(Method::GET, "/status", Call::Status),
    row(Method::GET, "/sessions", Call::Sessions),
    row(Method::DELETE, "/sessions", Call::CloseSessions),
    row(Method::GET, "/sessions/{id}", Call::Session),
    row(Method::DELETE, "/sessions/{id}", Call::CloseSession),
    row(Method::POST, "/drain", Call::Drain),
    row(Method::POST, "/reload", Call::Reload),
    row(Method::GET, "/upstreams", Call::Upstreams),
    row(Method::PUT, "/upstreams/{name}/servers/{number}", Call::SetServer),
    row(Method::GET, "/config", Call::Config),
];

/// The row for a request, and what stands in the variable segments of its path, decoded.
///
/// # Errors
/// 404 where nothing is at this path, 405 where it takes other methods.
pub fn find(method: &Method, path: &str) -> Result<(&'static Row, Vec<String>), Problem> {
    let here: Vec<_> = TABLE.iter().filter_map(|row| Some((row, matched(row.path, path)?))).collect();
    if here.is_empty() {
        return Err(Problem::not_found("nothing is here: docs/openapi.yaml has what is"));
    }
    // RFC 9110 section 9.3.2: what answers GET answers HEAD.
    let method = if method == Method::HEAD { &Method::GET } else { method };
    let allowed: Vec<&str> = here.iter().map(|(row, _)| row.method.as_str()).collect();
    let allowed = allowed.join(", ");
    here.into_iter().find(|(row, _)| row.method == method).ok_or_else(|| {
        let detail = format!("this path takes {allowed}");
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail).allow(&allowed)
    })
}

fn matched(template: &str, path: &str) -> Option<Vec<String>> {
    let (mut wanted, mut given) = (template.split('/'), path.split('/'));
    let mut found = Vec::new();
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(found),
            (Some(variable), Some(segment)) if variable.starts_with('{') && !segment.is_empty() => {
                found.push(decoded(segment)?);
            }
            (Some(wanted), Some(given)) if wanted == given => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_with_their_variables() {
        type Found<'a> = Result<(Call, &'a [&'a str]), u16>;
        let rows: [(Method, &str, Found<'_>); 11] = [
            (Method::GET, "/healthz", Ok((Call::Health, &[]))),
            (Method::HEAD, "/healthz", Ok((Call::Health, &[]))),
            (Method::POST, "/healthz", Err(405)),
            (Method::GET, "/sessions/7", Ok((Call::Session, &["7"]))),
            (Method::DELETE, "/sessions/7", Ok((Call::CloseSession, &["7"]))),
            (Method::GET, "/sessions/", Err(404)),
            (Method::GET, "/sessions/7/", Err(404)),
            (Method::PUT, "/upstreams/a%20b/servers/2", Ok((Call::SetServer, &["a b", "2"]))),
            (Method::PUT, "/upstreams/%ff/servers/2", Err(404)),
            (Method::GET, "/", Err(404)),
            (Method::GET, "//healthz", Err(404)),
        ];
        for (method, path, expected) in rows {
            let found = find(&method, path);
            let found = found.as_ref().map(|(row, found)| (row.call, found.iter().map(String::as_str).collect()));
            let expected = expected.map(|(call, found)| (call, found.to_vec()));
            assert_eq!(found.map_err(|problem| problem.status.as_u16()), expected, "{method} {path}");
        }
    }

    #[test]
    fn what_can_be_done_is_told() {
        let problem = find(&Method::PUT, "/sessions").expect_err("no such method");
        assert_eq!(problem.detail, "this path takes GET, DELETE");
    }
}
