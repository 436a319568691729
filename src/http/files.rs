//! Files of a folder. tower-http knows types, ranges and conditions; cap-std lets nothing lead out of the folder, whatever
//! links lie in it and whoever changes them meanwhile.
//!
//! In: a request's head, and what it asks for below its route. Out: an answer whose body streams, or why there is none.

use std::future::{Future, Ready, ready};
use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use http::header::{
    CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE,
    RANGE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, request};
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};
use tokio::task::spawn_blocking;
use tower_http::services::ServeDir;
use tower_http::services::fs::{self, ServeFileSystemResponseBody};

use super::gate::Refusing;
use crate::config::model::{Folder, Route};
use crate::observe::log;
use crate::proto::range;
use crate::proto::refusal::Refusal;

/// The body of an answer: a file, or part of it, as it is read.
pub type Body = ServeFileSystemResponseBody;

/// Answers a request for `below`, a path within the folder.
pub async fn answer(
    folder: &Folder,
    route: &Route,
    below: &str,
    parts: &request::Parts,
) -> Result<Response<Body>, Refusing> {
    // From the configuration, not from the request: a redirect to the folder's slash leads to no other host.
    let prefix = if route.path == "/" { "" } else { &route.path };
    let mut service = ServeDir::with_backend("", Beneath(folder.path.as_path().into()))
        .redirect_path_prefix(prefix)
        .ignore_multi_range_requests(true);
    let mut ask = |headers| {
        let mut request = Request::new(http_body_util::Empty::<bytes::Bytes>::new());
        *request.method_mut() = parts.method.clone();
        *request.headers_mut() = headers;
        *request.uri_mut() = below.parse().map_err(|_| Refusal::TargetMalformed)?;
        Ok::<_, Refusal>(service.try_call(request))
    };
    let (mut headers, conditional) = conditions(parts);
    let mut result = ask(headers.clone())?.await;
    if matches!(&result, Ok(response) if wants_all(&mut headers, response)) {
        result = ask(headers)?.await;
    }
    if conditional && matches!(&result, Ok(response) if response.status() == StatusCode::PRECONDITION_FAILED) {
        result = ask(whole(&parts.headers))?.await;
    }
    match result {
        Ok(response) if response.status() == StatusCode::NOT_FOUND => Err(Refusal::FileNotFound.into()),
        Ok(mut response) => {
            tell_more(response.headers_mut());
            Ok(response)
        }
        Err(error) if is_missing(&error) => Err(Refusing::detailed(Refusal::FileNotFound, log::chain(&error))),
        Err(error) => Err(Refusing::detailed(Refusal::FileUnreadable, log::chain(&error))),
    }
}

/// The conditions to ask under, and whether a failed one only means that the range is not to be had.
///
/// tower-http does not know `If-Range` (RFC 9110 section 13.1.5): the range is sent only when the file is still the same.
/// That is `If-Match`, but for its answer. A date is not told exactly enough to rely on it.
fn conditions(parts: &request::Parts) -> (HeaderMap, bool) {
    let mut headers = whole(&parts.headers);
    for name in [IF_MATCH, IF_NONE_MATCH] {
        joined(&mut headers, name);
    }
    // Ranges are for GET alone (RFC 9110 section 14.2).
    let asked = range::part(&parts.headers).filter(|_| parts.method == Method::GET);
    let Some(part) = asked else { return (headers, false) };
    let same = headers.get(IF_RANGE).cloned();
    if let Some(same) = &same {
        let others = headers.contains_key(IF_MATCH) || headers.contains_key(IF_UNMODIFIED_SINCE);
        if others || !same.as_bytes().starts_with(b"\"") {
            return (headers, false);
        }
        headers.insert(IF_MATCH, same.clone());
    }
    headers.insert(RANGE, part);
    (headers, same.is_some())
}

/// Whether the answer to a range shows that it means the whole file, and the request is changed to ask for that: for as
/// many bytes at the end as there are not, which tower-http refuses, and for a part of nothing, which has no
/// `Content-Range` (RFC 9110 section 14.4).
fn wants_all(headers: &mut HeaderMap, response: &Response<Body>) -> bool {
    let is_empty = response.headers().get(CONTENT_RANGE).is_some_and(|range| range.as_bytes().ends_with(b"/0"));
    let refused = response.status() == StatusCode::RANGE_NOT_SATISFIABLE;
    if is_empty {
        headers.remove(RANGE);
    } else if refused && headers.get(RANGE).is_some_and(range::is_suffix) {
        headers.insert(RANGE, HeaderValue::from_static("bytes=0-"));
    } else {
        return false;
    }
    true
}

/// Makes one line of a list that came in several (RFC 9110 section 5.3): tower-http reads the first.
fn joined(headers: &mut HeaderMap, name: HeaderName) {
    let lines: Vec<_> = headers.get_all(&name).iter().map(HeaderValue::as_bytes).collect();
    if lines.len() > 1
        && let Ok(line) = HeaderValue::from_bytes(&lines.join(&b", "[..]))
    {
        headers.insert(name, line);
    }
}

/// Asks for all of the file.
fn whole(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    headers.remove(RANGE);
    headers
}

/// What browsers would guess otherwise: the encoding of a text, and a type that is not the one we say.
fn tell_more(headers: &mut HeaderMap) {
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let text = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    if let Some(kind) = text.filter(|kind| kind.starts_with("text/") && !kind.contains(';'))
        && let Ok(kind) = HeaderValue::try_from(format!("{kind}; charset=utf-8"))
    {
        headers.insert(CONTENT_TYPE, kind);
    }
}

/// Whether nobody has to look into it: there is no such file, none for us to read, or none within the folder.
fn is_missing(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidFilename, InvalidInput, IsADirectory, NotADirectory, NotFound, PermissionDenied};
    // Too many links, which has no stable kind.
    const ELOOP: i32 = if cfg!(target_os = "linux") { 40 } else { 62 };
    matches!(error.kind(), InvalidFilename | InvalidInput | IsADirectory | NotADirectory | NotFound | PermissionDenied)
        || error.raw_os_error() == Some(ELOOP)
}

/// The files below a folder. It is opened for each request: where it is a link, a new release may have taken its place.
#[derive(Debug, Clone)]
struct Beneath(Arc<Path>);

/// What has to be known of a file.
#[derive(Debug, Clone, Copy)]
struct Facts {
    is_dir: bool,
    length: u64,
    modified: SystemTime,
}

type Promise<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

impl Beneath {
    /// Files block: somebody else waits for them.
    fn look<T: Send + 'static>(
        &self,
        path: PathBuf,
        look: impl FnOnce(&Dir, &Path) -> io::Result<T> + Send + 'static,
    ) -> Promise<T> {
        let folder = self.0.clone();
        let looked = spawn_blocking(move || look(&Dir::open_ambient_dir(folder, ambient_authority())?, &path));
        Box::pin(async { looked.await.unwrap_or_else(|error| Err(io::Error::other(error))) })
    }
}

impl fs::Backend for Beneath {
    type File = Opened;
    type Metadata = Facts;
    type OpenFuture = Promise<Opened>;
    type MetadataFuture = Promise<Facts>;

    fn open(&self, path: PathBuf) -> Promise<Opened> {
        self.look(path, |folder, path| {
            // A pipe would be waited for, a device has no end.
            if facts(&folder.metadata(path)?)?.is_dir {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            let file = folder.open(path)?;
            let facts = facts(&file.metadata()?)?;
            Ok(Opened { file: tokio::fs::File::from_std(file.into_std()), facts })
        })
    }

    fn metadata(&self, path: PathBuf) -> Promise<Facts> {
        self.look(path, |folder, path| facts(&folder.metadata(path)?))
    }
}

/// # Errors
/// For what is neither a file nor a folder.
fn facts(found: &cap_std::fs::Metadata) -> io::Result<Facts> {
    if !found.is_file() && !found.is_dir() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(Facts { is_dir: found.is_dir(), length: found.len(), modified: found.modified()?.into_std() })
}

impl fs::Metadata for Facts {
    fn is_dir(&self) -> bool {
        self.is_dir
    }

    fn modified(&self) -> io::Result<SystemTime> {
        Ok(self.modified)
    }

    fn len(&self) -> u64 {
        self.length
    }
}

/// A file that is being read.
#[derive(Debug)]
struct Opened {
    file: tokio::fs::File,
    facts: Facts,
}

impl fs::File for Opened {
    type Metadata = Facts;
    type MetadataFuture<'a> = Ready<io::Result<Facts>>;

    fn metadata(&self) -> Ready<io::Result<Facts>> {
        ready(Ok(self.facts))
    }
}

impl AsyncRead for Opened {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_read(cx, buf)
    }
}

impl AsyncSeek for Opened {
    fn start_seek(mut self: Pin<&mut Self>, position: SeekFrom) -> io::Result<()> {
        Pin::new(&mut self.file).start_seek(position)
    }

    fn poll_complete(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Pin::new(&mut self.file).poll_complete(cx)
    }
}
