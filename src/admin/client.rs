//! The other side of the interface: one request to a running gateway, for `tidegate ctl`.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::config::model::{ListenerAddress, Secret};
use crate::relay::Stream;
use crate::relay::ahead::Ahead;

/// A gateway that is busy with 100,000 sessions answers within a fraction of it.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a gateway is reached.
pub struct Client {
    pub address: ListenerAddress,
    pub token: Option<Secret>,
    /// For https://, with the name that its certificate must have; the address's own where there is none.
    pub tls: Option<(Arc<ClientConfig>, Option<String>)>,
}

/// Why there is no answer. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("nobody listens on {0}: does the gateway run, with [admin] in its configuration?")]
    Refused(ListenerAddress, #[source] io::Error),
    #[error("there is no socket at {}: does the gateway run, with [admin] in its configuration?", .0.display())]
    NoSocket(PathBuf, #[source] io::Error),
    #[error("{0} may not be opened: ask as the gateway's user, or set `socket_mode` in [admin]")]
    NotAllowed(ListenerAddress, #[source] io::Error),
    #[error("{0} cannot be reached")]
    Unreachable(ListenerAddress, #[source] io::Error),
    #[error("no TLS with {0}: is its certificate signed by an authority of this system, or of --ca?")]
    Tls(ListenerAddress, #[source] io::Error),
    #[error("{0:?} is no name that a certificate can have: name one with --server-name")]
    ServerName(String),
    #[error("the answer is not HTTP: is this the address of [admin], and does it want https (`tls`)?")]
    NotHttp(#[source] hyper::Error),
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Silent,
    #[error("the answer is not JSON: is this the address of [admin]?")]
    NotJson(#[source] serde_json::Error),
    #[error("{}", hint(.0, .1))]
    Problem(StatusCode, String),
}

/// RFC 9457, as far as people read it.
#[derive(Deserialize)]
struct Problem {
    detail: String,
}

/// The gateway's own words, and the next step where they cannot know it.
fn hint(status: &StatusCode, detail: &str) -> String {
    match *status {
        StatusCode::UNAUTHORIZED => {
            format!("{detail} (the configuration, --token-file or TIDEGATE_ADMIN_TOKEN must have the gateway's token)")
        }
        _ => detail.to_owned(),
    }
}

impl Client {
    /// Asks once.
    ///
    /// # Errors
    /// When there is no answer, or it is a problem.
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: Option<&Value>,
    ) -> Result<T, CallError> {
        let asked = tokio::time::timeout(PATIENCE, self.ask(method, target, body));
        let (status, body) = asked.await.unwrap_or(Err(CallError::Silent))?;
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) if !status.is_success() => Err(CallError::Problem(status, problem.detail)),
            _ => serde_json::from_slice(&body).map_err(CallError::NotJson),
        }
    }

    async fn ask(&self, method: Method, target: &str, body: Option<&Value>) -> Result<(StatusCode, Bytes), CallError> {
        let stream = self.secure(self.connect().await?).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(CallError::NotHttp)?;
        let connection = tokio::spawn(connection);
        let response = sender.send_request(self.request(method, target, body)).await.map_err(CallError::NotHttp)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(CallError::NotHttp)?.to_bytes();
        connection.abort();
        Ok((status, body))
    }

    fn request(&self, method: Method, target: &str, body: Option<&Value>) -> Request<Full<Bytes>> {
        let host = match &self.address {
            ListenerAddress::Tcp(address) => address.to_string(),
            ListenerAddress::Unix(_) => "localhost".to_owned(),
        };
        let mut request = Request::new(Full::new(body.map(|body| body.to_string().into()).unwrap_or_default()));
        *request.method_mut() = method;
        *request.uri_mut() = target.parse().expect("our own targets are encoded");
        let headers = request.headers_mut();
        headers.insert(HOST, HeaderValue::try_from(host).expect("an address"));
        if body.is_some() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        if let Some(Secret(token)) = &self.token
            && let Ok(mut value) = HeaderValue::try_from(format!("Bearer {token}"))
        {
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        request
    }

    async fn connect(&self) -> Result<Stream, CallError> {
        let address = || self.address.clone();
        let connected = match &self.address {
            ListenerAddress::Tcp(address) => TcpStream::connect(address).await.map(Stream::Tcp),
            ListenerAddress::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
        };
        connected.map_err(|error| match (error.kind(), &self.address) {
            (io::ErrorKind::NotFound, ListenerAddress::Unix(path)) => CallError::NoSocket(path.clone(), error),
            (io::ErrorKind::ConnectionRefused, _) => CallError::Refused(address(), error),
            (io::ErrorKind::PermissionDenied, _) => CallError::NotAllowed(address(), error),
            _ => CallError::Unreachable(address(), error),
        })
    }

    async fn secure(&self, stream: Stream) -> Result<Stream, CallError> {
        match (stream, &self.tls, &self.address) {
            (Stream::Tcp(stream), Some((config, name)), ListenerAddress::Tcp(address)) => {
                let name = name.clone().unwrap_or_else(|| address.ip().to_string());
                let server = ServerName::try_from(name.clone()).map_err(|_| CallError::ServerName(name))?;
                let connector = TlsConnector::from(config.clone());
                let stream = connector.connect(server, Ahead::new(stream)).await;
                stream
                    .map(|stream| Stream::Tls(Box::new(stream.into())))
                    .map_err(|error| CallError::Tls(self.address.clone(), error))
            }
            (stream, ..) => Ok(stream),
        }
    }
}
