//! The walk of one request: who may come in, and to which upstream. Reads like a table of contents.
//!
//! In: a request head. Out: the answer, and for a 101 what the relay needs. Nothing is dialled for a request that fails
//! an earlier check, and no byte of the client's reaches an upstream before that upstream agreed.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, ORIGIN, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use http::{Request, Response, StatusCode, request};
use http_body_util::{Either, Empty, Full};
use hyper::body::Incoming;

use crate::config::model::{Compression, Listener, Refuse, Route, Target};
use crate::gateway::Live;
use crate::limits::{Permit, Permits};
use crate::observe::log::{self, About, Refused};
use crate::policy::client::{self, Client};
use crate::policy::{origin, route};
use crate::proto::extensions::Deflate;
use crate::proto::fields::{self, Host};
use crate::proto::handshake::{self, Offer, Refusal};
use crate::relay::registry::Entry;
use crate::relay::session::Opened;
use crate::relay::{Session, Stream, farewell};
use crate::upstream::dial::{self, Answer};

/// The body of an answer: ours, or the upstream's as it comes.
pub type Body = Either<Full<Bytes>, Incoming>;

/// Where a request came from.
pub struct Visitor {
    pub peer: IpAddr,
    pub secure: bool,
    pub listener: Arc<Listener>,
}

/// What goes on after a 101 of ours.
pub enum Handover {
    Session(Box<Agreed>),
    /// The refusal that a browser can read (`refuse = "close"`).
    Close { code: u16, reason: String },
}

/// A WebSocket on which both sides said 101.
pub struct Agreed {
    upstream: Opened<Stream>,
    route: Arc<Route>,
    deflate: bool,
    permits: Permits,
    order: Entry,
    about: About,
}

impl Handover {
    /// Runs what was agreed on, to its end. The connection keeps its place for as long.
    pub async fn run(self, client: Opened<Stream>, permit: Permit) {
        match self {
            Handover::Session(agreed) => {
                let Agreed { upstream, route, deflate, permits, order, about } = *agreed;
                let end = Session::new(client, upstream, route.relay.clone(), deflate, order).run().await;
                log::session_ended(&about, &end);
                drop(permits);
            }
            Handover::Close { code, reason } => farewell::close(client, code, &reason).await,
        }
        drop(permit);
    }
}

/// Why a request got no further, and what is known for the log.
struct Refusing {
    refusal: Refusal,
    route: Option<Arc<Route>>,
    upstream: Option<String>,
    detail: Option<String>,
    /// Set when the client's offer was sound, so that it can be answered with a Close.
    key: Option<String>,
}

impl From<Refusal> for Refusing {
    fn from(refusal: Refusal) -> Self {
        Refusing { refusal, route: None, upstream: None, detail: None, key: None }
    }
}

/// Answers one request.
pub async fn walk(
    request: Request<Incoming>,
    visitor: &Visitor,
    live: &Live,
) -> (Response<Body>, Option<Handover>) {
    let (parts, _body) = request.into_parts();
    let upgrade = handshake::tries_upgrade(&parts);
    let client = client::identify(visitor.peer, &visitor.listener.trusted_proxies, &parts.headers);
    let seen = Seen::of(&parts);
    let (mut response, handover) = match admit(parts, &client, visitor, live).await {
        Ok(answered) => answered,
        Err(refusing) => refuse(refusing, &client, &seen),
    };
    if upgrade && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // Whatever stands behind a refused upgrade is not read as a request: that is how smuggling begins.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    (response, handover)
}

async fn admit(
    parts: request::Parts,
    client: &Client,
    visitor: &Visitor,
    live: &Live,
) -> Result<(Response<Body>, Option<Handover>), Refusing> {
    let host = fields::host(&parts)?;
    let route = route::find(&live.config.routes, &host, parts.uri.path())?;
    match &route.target {
        Target::Page(page) => {
            if handshake::tries_upgrade(&parts) {
                return Err(Refusal::NoRoute.into());
            }
            let page = super::page::answer(*page, &parts, &route.path);
            Ok((page.map(|body| Either::Left(Full::new(body))), None))
        }
        Target::Upstream(upstream) => {
            let offer = handshake::read(&parts).map_err(|refusal| on(route, refusal))?;
            let key = offer.key.clone();
            let agreed = websocket(parts, offer, host, client, visitor, live, route, &upstream.name);
            agreed.await.map_err(|refusing| Refusing { key: Some(key), route: Some(route.clone()), ..refusing })
        }
    }
}

fn on(route: &Arc<Route>, refusal: Refusal) -> Refusing {
    Refusing { route: Some(route.clone()), ..refusal.into() }
}

/// An upgrade on a route that has an upstream: origin, limits, offer, dial, answer.
#[allow(clippy::too_many_arguments)]
async fn websocket(
    parts: request::Parts,
    offer: Offer,
    host: Host,
    client: &Client,
    visitor: &Visitor,
    live: &Live,
    route: &Arc<Route>,
    upstream: &str,
) -> Result<(Response<Body>, Option<Handover>), Refusing> {
    origin::check(&route.origins, &parts.headers, visitor.secure, &host)?;
    if live.drain.has_begun() {
        return Err(Refusal::Draining.into());
    }
    let permits = live.limits.enter(client.address)?;
    let subprotocols = handshake::subprotocols(&offer, &route.subprotocols)?;
    let deflate = match route.relay.compression {
        Compression::Pass => offer.deflate,
        Compression::Off => Vec::new(),
    };
    let pool = live.pool(upstream);
    let server = pool.next();
    let refused = |refusal, detail| Refusing { upstream: Some(server.text.clone()), detail, ..refusal_of(refusal) };
    let request = upstream_request(parts, &host, client, visitor, route, server, &subprotocols, &deflate);
    let (mut parts, opened) = match dial::dial(pool, server, request).await {
        Ok(Answer::Switched { parts, opened }) => (parts, opened),
        Ok(Answer::Refused(response)) => {
            let refusal = Refusal::UpstreamRefused(response.status());
            return Err(Refusing { answer: Some(response), ..refused(refusal, None) });
        }
        Err(error) => return Err(refused(error.refusal(), Some(log::chain(&error)))),
    };
    let agreement = handshake::check_answer(&parts, &offer.key, &subprotocols, &deflate)
        .map_err(|bad| refused(Refusal::UpstreamBadAnswer, Some(bad.to_string())))?;
    fields::answer_headers(&mut parts.headers);
    let order = live.drain.sessions().enter();
    let about = About {
        id: order.id(),
        route: route.name.as_str().into(),
        client: client.address,
        upstream: server.text.as_str().into(),
    };
    let agreed =
        Agreed { upstream: opened, route: route.clone(), deflate: agreement.deflate, permits, order, about };
    // The extensions of the upstream's head carry the spelling of its field names.
    let response = Response::from_parts(parts, Either::Left(Full::default()));
    Ok((response, Some(Handover::Session(Box::new(agreed)))))
}
