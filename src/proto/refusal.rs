//! Every reason for which a request can be refused, each with its status, label, words and close code.
//!
//! The words go to the client as they are: they never name an upstream's address, a file or a configured value. The log
//! has the details elsewhere.

use std::time::Duration;

use http::StatusCode;
use http::header::{
    ALLOW, CONNECTION, HeaderName, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE, WWW_AUTHENTICATE,
};

use crate::proto::close::{self, Code};

/// When a client should come back after a cap or a drain refused it. Caps free themselves as sessions end, which nobody
/// can foresee: long enough not to be hammered, short enough not to look broken.
const COME_BACK: Duration = Duration::from_secs(5);

/// Why a request was refused. `Display` is one short sentence for the client, the log and the reason of a Close.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    // The request's head.
    #[error("the request is not well-formed HTTP/1.1")]
    HeadMalformed,
    #[error("the request's head is too large: send fewer or shorter header fields")]
    HeadTooLarge,
    #[error("the request's head did not arrive in time")]
    HeadTimeout,
    #[error("the request has no Host header")]
    HostMissing,
    #[error("the request has more than one Host header")]
    HostRepeated,
    #[error("the Host is not a valid host name or address")]
    HostMalformed,
    #[error("the request target names another host than the Host header")]
    HostMismatch,

    // The request target and its route.
    #[error("the request target is not a valid path: encode every byte that RFC 3986 does not allow")]
    TargetMalformed,
    #[error("the request target is too long")]
    TargetTooLong,
    #[error("the request target is `https`, and the request did not come over TLS")]
    TargetUnsecured,
    #[error("the path has a dot segment: send the path that it stands for")]
    PathDotSegment,
    #[error("the path has a backslash")]
    PathBackslash,
    #[error("the path has a control byte")]
    PathControl,
    #[error("the path has an encoded slash, which is not allowed here")]
    PathEncodedSlash,
    #[error("nothing is served at this host and path")]
    NoRoute,
    /// A built-in page or a file was asked for with another method than GET or HEAD.
    #[error("this page answers GET and HEAD only")]
    PageMethod,
    #[error("there is no such file here")]
    FileNotFound,
    #[error("the file cannot be read")]
    FileUnreadable,

    // The opening handshake.
    #[error("a WebSocket handshake is a GET request")]
    Method,
    #[error("a WebSocket handshake needs HTTP/1.1")]
    HttpVersion,
    #[error("a WebSocket handshake has no body")]
    HasBody,
    #[error("this is a WebSocket endpoint: connect with a WebSocket client")]
    NotAnUpgrade,
    #[error("the Connection header does not hold `upgrade`: a proxy on the way may have removed it")]
    ConnectionLacksUpgrade,
    #[error("only version 13 of the WebSocket protocol is spoken here")]
    Version,
    #[error("the Sec-WebSocket-Key header is missing")]
    KeyMissing,
    #[error("the Sec-WebSocket-Key header is repeated")]
    KeyRepeated,
    #[error("the Sec-WebSocket-Key is not 16 bytes in base64")]
    KeyMalformed,
    #[error("the Sec-WebSocket-Protocol header is not a list of tokens")]
    SubprotocolsMalformed,
    #[error("the Sec-WebSocket-Protocol header names a subprotocol twice")]
    SubprotocolRepeated,

    // Plain HTTP.
    #[error("TRACE is not answered here")]
    Trace,
    #[error("no transfer coding but `chunked` is understood here")]
    TransferCoding,
    #[error("the request's body is not well-formed, or ended early")]
    BodyMalformed,
    #[error("the request's body did not arrive in time")]
    BodyTimeout,

    // Policy.
    #[error("this origin may not connect: the operator can allow it for this route")]
    OriginNotAllowed,
    #[error("a request without an Origin header may not connect here")]
    OriginMissing,
    #[error("the Origin header is malformed or repeated")]
    OriginMalformed,
    #[error("this client may not connect here")]
    AccessDenied,
    /// `bearer`: a token in `Authorization` or in a subprotocol would do (RFC 6750).
    #[error("an API key is needed here")]
    ApiKeyMissing { bearer: bool },
    #[error("the request has more than one API key")]
    ApiKeyRepeated,
    #[error("the key is the only subprotocol offered: offer the service's beside it, or `bearer` if it has none")]
    ApiKeyAlone,
    #[error("the API key is not known here")]
    ApiKeyUnknown { bearer: bool },
    #[error("none of the subprotocols spoken here was offered")]
    SubprotocolRequired,

    // Limits.
    #[error("too many sessions are open: try again later")]
    SessionsGateway,
    #[error("too many sessions are open on this port: try again later")]
    SessionsListener,
    #[error("too many sessions are open here: try again later")]
    SessionsRoute,
    #[error("too many sessions are open from this client: close one, or try again later")]
    SessionsClient,
    #[error("too many sessions are open here from this client: close one, or try again later")]
    SessionsClientRoute,
    /// Every server of the upstream has as many as it may.
    #[error("too many sessions are open with the servers behind this gateway: try again later")]
    SessionsUpstream,
    /// The handshake rate of one client.
    #[error("too many handshakes from this client: try again in {} s", seconds(*.retry_after))]
    HandshakeRate { retry_after: Duration },
    /// The handshake rate of one client on one route.
    #[error("too many handshakes here from this client: try again in {} s", seconds(*.retry_after))]
    HandshakeRateClientRoute { retry_after: Duration },
    /// The handshake rate of a route.
    #[error("too many handshakes here: try again in {} s", seconds(*.retry_after))]
    HandshakeRateRoute { retry_after: Duration },
    /// `limits.held_bytes`.
    #[error("too much is held for peers that read slowly: try again later")]
    HeldBytes,
    #[error("the server is shutting down: connect again")]
    Draining,
    /// All are put aside, the first of them for so long.
    #[error("no server behind this gateway is healthy: try again in {} s", seconds(*.retry_after))]
    NoHealthyServer { retry_after: Duration },

    // The upstream.
    #[error("the server behind this gateway cannot be reached")]
    UpstreamUnreachable,
    #[error("the name of the server behind this gateway cannot be resolved")]
    UpstreamResolve,
    #[error("no secure connection to the server behind this gateway could be made")]
    UpstreamTls,
    #[error("the server behind this gateway did not accept a connection in time")]
    UpstreamConnectTimeout,
    #[error("the server behind this gateway did not answer the handshake in time")]
    UpstreamHandshakeTimeout,
    /// The head of an answer to plain HTTP.
    #[error("the server behind this gateway did not answer in time")]
    UpstreamAnswerTimeout,
    #[error("the server behind this gateway gave no valid answer")]
    UpstreamBadAnswer,
    /// It answered with a status of its own, which reaches the client unless the route refuses with a Close.
    #[error("the server behind this gateway refused the handshake with status {}", .0.as_u16())]
    UpstreamRefused(StatusCode),
}

impl Refusal {
    /// The status of the HTTP answer.
    pub fn status(&self) -> StatusCode {
        self.facts().0
    }

    /// One word for logs and metrics.
    pub fn label(&self) -> &'static str {
        self.facts().1
    }

    /// Whether what stands behind the gateway is why, and not the request or a limit of the gateway's.
    pub fn is_upstreams(&self) -> bool {
        matches!(
            self,
            Self::NoHealthyServer { .. }
                | Self::UpstreamUnreachable
                | Self::UpstreamResolve
                | Self::UpstreamTls
                | Self::UpstreamConnectTimeout
                | Self::UpstreamHandshakeTimeout
                | Self::UpstreamAnswerTimeout
                | Self::UpstreamBadAnswer
                | Self::UpstreamRefused(_)
        )
    }

    /// The code of the Close for a route with `refuse = "close"`. `None` where no 101 can be given first, because the
    /// request is no valid handshake or has no route: HTTP is the only way then.
    pub fn close_code(&self) -> Option<Code> {
        self.facts().2
    }

    /// The reason of that Close: at most 123 bytes (RFC 6455 section 5.5).
    pub fn close_text(&self) -> String {
        self.to_string()
    }

    /// When to come back, for refusals that pass by themselves. At least one second.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::SessionsGateway
            | Self::SessionsListener
            | Self::SessionsRoute
            | Self::SessionsClient
            | Self::SessionsClientRoute
            | Self::SessionsUpstream
            | Self::HeldBytes
            | Self::Draining => Some(COME_BACK),
            Self::HandshakeRate { retry_after }
            | Self::HandshakeRateClientRoute { retry_after }
            | Self::HandshakeRateRoute { retry_after }
            | Self::NoHealthyServer { retry_after } => Some(Duration::from_secs(seconds(*retry_after))),
            _ => None,
        }
    }

    /// What the HTTP answer must say beside its status. Put them in with `append`: an answer that also closes the
    /// connection has two members in `Connection`.
    pub fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = Vec::new();
        match self {
            // RFC 9110 sections 15.5.22 and 7.8: a 426 names the protocol, and Upgrade never goes without its option.
            Self::NotAnUpgrade | Self::ConnectionLacksUpgrade => {
                headers.push((UPGRADE, HeaderValue::from_static("websocket")));
                headers.push((CONNECTION, HeaderValue::from_static("Upgrade")));
            }
            // RFC 6455 section 4.2.2, 4: the version that would be understood; RFC 9110 wants the protocol, too.
            Self::Version => {
                headers.push((SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")));
                headers.push((UPGRADE, HeaderValue::from_static("websocket")));
                headers.push((CONNECTION, HeaderValue::from_static("Upgrade")));
            }
            // RFC 9110 section 15.5.6.
            Self::Trace => {
                let allowed = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
                headers.push((ALLOW, HeaderValue::from_static(allowed)));
            }
            Self::PageMethod => headers.push((ALLOW, HeaderValue::from_static("GET, HEAD"))),
            // RFC 9110 section 15.5.2: a 401 has a challenge. Where no token will do there is no registered scheme.
            Self::ApiKeyMissing { bearer } | Self::ApiKeyUnknown { bearer } => {
                let challenge = match (bearer, self) {
                    (false, _) => "ApiKey",
                    (true, Self::ApiKeyMissing { .. }) => "Bearer",
                    // RFC 6750 section 3.1.
                    (true, _) => "Bearer error=\"invalid_token\"",
                };
                headers.push((WWW_AUTHENTICATE, HeaderValue::from_static(challenge)));
            }
            _ => {}
        }
        if let Some(after) = self.retry_after() {
            headers.push((RETRY_AFTER, HeaderValue::from(after.as_secs())));
        }
        headers
    }

    /// The one table: status, label, close code.
    fn facts(&self) -> (StatusCode, &'static str, Option<Code>) {
        use StatusCode as S;
        let policy = Some(close::POLICY);
        let busy = Some(close::TRY_AGAIN);
        let failed = Some(close::INTERNAL);
        match self {
            Self::HeadMalformed => (S::BAD_REQUEST, "head_malformed", None),
            Self::HeadTooLarge => (S::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", None),
            Self::HeadTimeout => (S::REQUEST_TIMEOUT, "head_timeout", None),
            Self::HostMissing => (S::BAD_REQUEST, "host_missing", None),
            Self::HostRepeated => (S::BAD_REQUEST, "host_repeated", None),
            Self::HostMalformed => (S::BAD_REQUEST, "host_malformed", None),
            Self::HostMismatch => (S::BAD_REQUEST, "host_mismatch", None),

            Self::TargetMalformed => (S::BAD_REQUEST, "target_malformed", None),
            Self::TargetTooLong => (S::URI_TOO_LONG, "target_too_long", None),
            Self::TargetUnsecured => (S::MISDIRECTED_REQUEST, "target_unsecured", None),
            Self::PathDotSegment => (S::BAD_REQUEST, "path_dot_segment", None),
            Self::PathBackslash => (S::BAD_REQUEST, "path_backslash", None),
            Self::PathControl => (S::BAD_REQUEST, "path_control", None),
            Self::PathEncodedSlash => (S::BAD_REQUEST, "path_encoded_slash", None),
            Self::NoRoute => (S::NOT_FOUND, "no_route", None),
            Self::PageMethod => (S::METHOD_NOT_ALLOWED, "page_method", None),
            Self::FileNotFound => (S::NOT_FOUND, "file_not_found", None),
            Self::FileUnreadable => (S::INTERNAL_SERVER_ERROR, "file_unreadable", None),

            Self::Method => (S::BAD_REQUEST, "method", None),
            Self::HttpVersion => (S::BAD_REQUEST, "http_version", None),
            Self::HasBody => (S::BAD_REQUEST, "has_body", None),
            Self::NotAnUpgrade => (S::UPGRADE_REQUIRED, "not_an_upgrade", None),
            Self::ConnectionLacksUpgrade => (S::UPGRADE_REQUIRED, "connection_lacks_upgrade", None),
            Self::Version => (S::UPGRADE_REQUIRED, "version", None),
            Self::KeyMissing => (S::BAD_REQUEST, "key_missing", None),
            Self::KeyRepeated => (S::BAD_REQUEST, "key_repeated", None),
            Self::KeyMalformed => (S::BAD_REQUEST, "key_malformed", None),
            Self::SubprotocolsMalformed => (S::BAD_REQUEST, "subprotocols_malformed", None),
            Self::SubprotocolRepeated => (S::BAD_REQUEST, "subprotocol_repeated", None),

            Self::Trace => (S::METHOD_NOT_ALLOWED, "trace", None),
            Self::TransferCoding => (S::NOT_IMPLEMENTED, "transfer_coding", None),
            Self::BodyMalformed => (S::BAD_REQUEST, "body_malformed", None),
            Self::BodyTimeout => (S::REQUEST_TIMEOUT, "body_timeout", None),

            Self::OriginNotAllowed => (S::FORBIDDEN, "origin_not_allowed", policy),
            Self::OriginMissing => (S::FORBIDDEN, "origin_missing", policy),
            Self::OriginMalformed => (S::FORBIDDEN, "origin_malformed", policy),
            Self::AccessDenied => (S::FORBIDDEN, "access_denied", policy),
            Self::ApiKeyMissing { .. } => (S::UNAUTHORIZED, "api_key_missing", policy),
            Self::ApiKeyRepeated => (S::BAD_REQUEST, "api_key_repeated", policy),
            Self::ApiKeyAlone => (S::BAD_REQUEST, "api_key_alone", policy),
            Self::ApiKeyUnknown { .. } => (S::UNAUTHORIZED, "api_key_unknown", policy),
            Self::SubprotocolRequired => (S::BAD_REQUEST, "subprotocol_required", policy),

            Self::SessionsGateway => (S::SERVICE_UNAVAILABLE, "sessions_gateway", busy),
            Self::SessionsListener => (S::SERVICE_UNAVAILABLE, "sessions_listener", busy),
            Self::SessionsRoute => (S::SERVICE_UNAVAILABLE, "sessions_route", busy),
            Self::SessionsClient => (S::TOO_MANY_REQUESTS, "sessions_client", policy),
            Self::SessionsClientRoute => (S::TOO_MANY_REQUESTS, "sessions_client_route", policy),
            Self::SessionsUpstream => (S::SERVICE_UNAVAILABLE, "sessions_upstream", busy),
            Self::HandshakeRate { .. } => (S::TOO_MANY_REQUESTS, "handshake_rate", policy),
            Self::HandshakeRateClientRoute { .. } => (S::TOO_MANY_REQUESTS, "handshake_rate_client_route", policy),
            Self::HandshakeRateRoute { .. } => (S::SERVICE_UNAVAILABLE, "handshake_rate_route", busy),
            Self::HeldBytes => (S::SERVICE_UNAVAILABLE, "held_bytes", busy),
            Self::Draining => (S::SERVICE_UNAVAILABLE, "draining", Some(close::RESTART)),
            Self::NoHealthyServer { .. } => (S::SERVICE_UNAVAILABLE, "no_healthy_server", busy),

            Self::UpstreamUnreachable => (S::BAD_GATEWAY, "upstream_unreachable", failed),
            Self::UpstreamResolve => (S::BAD_GATEWAY, "upstream_resolve", failed),
            Self::UpstreamTls => (S::BAD_GATEWAY, "upstream_tls", failed),
            Self::UpstreamConnectTimeout => (S::GATEWAY_TIMEOUT, "upstream_connect_timeout", failed),
            Self::UpstreamHandshakeTimeout => (S::GATEWAY_TIMEOUT, "upstream_handshake_timeout", failed),
            Self::UpstreamAnswerTimeout => (S::GATEWAY_TIMEOUT, "upstream_answer_timeout", failed),
            Self::UpstreamBadAnswer => (S::BAD_GATEWAY, "upstream_bad_answer", failed),
            // A 4xx is the upstream's policy about this client; anything else is its failure.
            Self::UpstreamRefused(status) if status.is_client_error() => (*status, "upstream_refused", policy),
            Self::UpstreamRefused(status) => (*status, "upstream_refused", failed),
        }
    }
}

/// Whole seconds, rounded up, at least one: `Retry-After: 0` would ask for a storm (RFC 9110 section 10.2.3).
fn seconds(duration: Duration) -> u64 {
    duration.as_millis().div_ceil(1000).clamp(1, u64::MAX.into()) as u64
}
