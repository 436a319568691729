//! What becomes of a request: every check that needs no socket, no clock and no count, in the order of the design.
//!
//! In: a request head, who sent it, the routes. Out: a [`Plan`], or who was refused and why. The gateway and
//! `tidegate explain` run the same code; the latter watches it.

use std::fmt;
use std::sync::Arc;

use http::header::ORIGIN;
use http::{HeaderValue, StatusCode, request};

use super::client::{Client, Peer};
use super::keys::{self, Key, KeySet};
use super::{access, files, origin, redirect, route, subprotocol};
use crate::config::model::{Compression, Folder, Keys, Listener, Page, PlainRules, Respond, Route, Target, Upstream};
use crate::proto::extensions::Deflate;
use crate::proto::fields::{self, Hop, Host};
use crate::proto::handshake::{self, Offer};
use crate::proto::plain;
use crate::proto::refusal::Refusal;

/// Where a request came from.
#[derive(Debug, Clone)]
pub struct Visitor {
    pub peer: Peer,
    /// Whether it came over TLS.
    pub secure: bool,
    pub listener: Arc<Listener>,
}

/// What a request gets.
#[derive(Debug)]
pub enum Decision<'a> {
    Page(&'a Arc<Route>, Page),
    Redirect(&'a Arc<Route>, HeaderValue, StatusCode),
    Respond(&'a Arc<Route>, &'a Respond),
    /// A file of a folder: what stands behind the route's path, see [`files::below`].
    File(&'a Arc<Route>, &'a Folder, String),
    Session(Plan<'a>),
    Plain(Passage<'a>),
}

impl<'a> Decision<'a> {
    pub fn route(&self) -> &'a Arc<Route> {
        match self {
            Decision::Page(route, _) | Decision::Redirect(route, ..) | Decision::Respond(route, _) => route,
            Decision::File(route, ..) => route,
            Decision::Session(plan) => plan.route,
            Decision::Plain(passage) => passage.route,
        }
    }
}

/// A plain HTTP request that passes to the upstream, as far as rules can tell.
#[derive(Debug)]
pub struct Passage<'a> {
    pub route: &'a Arc<Route>,
    pub rules: &'a PlainRules,
    pub upstream: &'a Arc<Upstream>,
    pub host: Host,
    pub client: Client,
}

/// A WebSocket that may be opened, as far as rules can tell.
#[derive(Debug)]
pub struct Plan<'a> {
    pub route: &'a Arc<Route>,
    pub upstream: &'a Arc<Upstream>,
    pub host: Host,
    pub client: Client,
    pub offer: Offer,
    /// The API key that let it in, where the route wants one.
    pub key: Option<Key>,
    /// The subprotocol to answer where the upstream chooses none; see [`keys::Taken`].
    pub fallback: Option<&'static str>,
}

/// A request that was refused.
#[derive(Debug)]
pub struct Denied<'a> {
    /// The check that it did not pass.
    pub check: Check,
    pub refusal: Refusal,
    /// When it got as far as that.
    pub route: Option<&'a Arc<Route>>,
    /// `Sec-WebSocket-Key`, when all of the opening handshake was right.
    pub key: Option<String>,
}

/// The checks, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    Route,
    Handshake,
    Origin,
    Access,
    Key,
    Limits,
    Subprotocol,
    Extensions,
    Upstream,
}

impl Check {
    /// One word, for people.
    pub fn label(self) -> &'static str {
        match self {
            Check::Route => "route",
            Check::Handshake => "handshake",
            Check::Origin => "origin",
            Check::Access => "access",
            Check::Key => "key",
            Check::Limits => "limits",
            Check::Subprotocol => "subprotocol",
            Check::Extensions => "extensions",
            Check::Upstream => "upstream",
        }
    }
}

/// Learns of every check that was passed.
pub trait Watch {
    fn passed(&mut self, check: Check, finding: fmt::Arguments<'_>);
}

/// The gateway does not look.
impl Watch for () {
    fn passed(&mut self, _: Check, _: fmt::Arguments<'_>) {}
}

/// Host, path, handshake, origin, access, API key. The key is taken out of the head, so that nobody behind this sees it;
/// `keys` gives the keys of a route.
///
/// # Errors
/// The first check that fails.
pub fn decide<'a>(
    parts: &mut request::Parts,
    visitor: &Visitor,
    client: Client,
    routes: &'a [Arc<Route>],
    keys: impl Fn(&Keys) -> Arc<KeySet>,
    watch: &mut impl Watch,
) -> Result<Decision<'a>, Denied<'a>> {
    let denied = |check, refusal| Denied { check, refusal, route: None, key: None };
    let host = fields::host(parts).map_err(|refusal| denied(Check::Route, refusal))?;
    let peer = visitor.peer.address.ip();
    let hop = Hop { peer, trusted_peer: client.trusted_peer, tls: visitor.secure, host: &host };
    let asked = || fields::asked(&parts.headers, &hop);
    // RFC 9110 section 7.4.
    if fields::is_https(&parts.uri) && !asked().secure {
        return Err(denied(Check::Route, Refusal::TargetUnsecured));
    }
    let route = route::find(routes, &host, parts).map_err(|refusal| denied(Check::Route, refusal))?;
    watch.passed(Check::Route, format_args!("{}", route.name));
    let denied = |check, refusal| Denied { check, refusal, route: Some(route), key: None };
    let access = || access::check(&visitor.listener.access, &route.access, client.address);
    let redirected = |to, status| {
        access().map_err(|refusal| denied(Check::Access, refusal))?;
        let location =
            redirect::location(to, &asked().host, &parts.uri).map_err(|refusal| denied(Check::Route, refusal))?;
        Ok(Decision::Redirect(route, location, status))
    };
    if route.https_only && !asked().secure {
        return redirected(&redirect::https(), redirect::HTTPS_STATUS);
    }
    let upstream = match &route.target {
        Target::Upstream(upstream) => upstream,
        Target::Nothing => return Err(denied(Check::Route, Refusal::NoRoute)),
        Target::Redirect(redirect) => return redirected(&redirect.to, redirect.status),
        Target::Respond(respond) => {
            access().map_err(|refusal| denied(Check::Access, refusal))?;
            return Ok(Decision::Respond(route, respond));
        }
        Target::Page(_) | Target::Files(_) if handshake::tries_websocket(parts) => {
            return Err(denied(Check::Route, Refusal::NoRoute));
        }
        Target::Page(page) => {
            access().map_err(|refusal| denied(Check::Access, refusal))?;
            files::page(route, parts).map_err(|refusal| denied(Check::Route, refusal))?;
            return Ok(Decision::Page(route, *page));
        }
        Target::Files(folder) => {
            admit(parts, route, visitor, &client, keys, watch)?;
            let below = files::below(route, parts).map_err(|refusal| denied(Check::Route, refusal))?;
            return Ok(match redirect::slash(route, &parts.uri) {
                Some(location) => Decision::Redirect(route, location, redirect::SLASH_STATUS),
                None => Decision::File(route, folder, below),
            });
        }
    };
    // Browsers send Origin with plain requests, too (RFC 6454 section 7.3); what it means there is the service's matter.
    if let Some(rules) = route.plain.as_ref().filter(|_| !handshake::tries_websocket(parts)) {
        plain::check(parts).map_err(|refusal| denied(Check::Handshake, refusal))?;
        watch.passed(Check::Handshake, format_args!("none: plain HTTP"));
        admit(parts, route, visitor, &client, keys, watch)?;
        return Ok(Decision::Plain(Passage { route, rules, upstream, host, client }));
    }
    let offer = handshake::read(parts).map_err(|refusal| denied(Check::Handshake, refusal))?;
    watch.passed(Check::Handshake, format_args!("WebSocket 13"));
    let mut plan = Plan { route, upstream, host, client, offer, key: None, fallback: None };
    let handshake_key = plan.offer.key.clone();
    let denied = |check, refusal| Denied { key: Some(handshake_key.clone()), ..denied(check, refusal) };
    let asked = fields::asked(&parts.headers, &plan.hop(visitor));
    origin::check(&route.origins, &parts.headers, asked.secure, &asked.host)
        .map_err(|refusal| denied(Check::Origin, refusal))?;
    let origin = parts.headers.get(ORIGIN);
    watch.passed(Check::Origin, format_args!("{}", origin.and_then(|value| value.to_str().ok()).unwrap_or("none")));
    access().map_err(|refusal| denied(Check::Access, refusal))?;
    watch.passed(Check::Access, format_args!("{}", client.address));
    if let Some(rules) = &route.keys {
        let name = plan.identify(rules, &keys(rules), parts).map_err(|refusal| denied(Check::Key, refusal))?;
        watch.passed(Check::Key, format_args!("{name}"));
    }
    Ok(Decision::Session(plan))
}

/// Access and API key of a request that is no handshake.
fn admit<'a>(
    parts: &mut request::Parts,
    route: &'a Arc<Route>,
    visitor: &Visitor,
    client: &Client,
    keys: impl Fn(&Keys) -> Arc<KeySet>,
    watch: &mut impl Watch,
) -> Result<(), Denied<'a>> {
    let denied = |check, refusal| Denied { check, refusal, route: Some(route), key: None };
    access::check(&visitor.listener.access, &route.access, client.address)
        .map_err(|refusal| denied(Check::Access, refusal))?;
    watch.passed(Check::Access, format_args!("{}", client.address));
    if let Some(rules) = &route.keys {
        let denied = |refusal| denied(Check::Key, refusal);
        // There are no subprotocols here that could hold one.
        let taken = keys::take(&rules.places, parts, &mut Vec::new()).map_err(denied)?;
        let bearer = keys::is_bearer(&rules.places);
        let key = keys(rules).find(&taken.key).cloned().ok_or(Refusal::ApiKeyUnknown { bearer }).map_err(denied)?;
        watch.passed(Check::Key, format_args!("{}", key.name));
    }
    Ok(())
}

impl Passage<'_> {
    /// What our own forwarding fields are made of.
    pub fn hop<'b>(&'b self, visitor: &Visitor) -> Hop<'b> {
        let peer = visitor.peer.address.ip();
        Hop { peer, trusted_peer: self.client.trusted_peer, tls: visitor.secure, host: &self.host }
    }
}

impl Plan<'_> {
    /// What our own forwarding fields are made of.
    pub fn hop<'b>(&'b self, visitor: &Visitor) -> Hop<'b> {
        let peer = visitor.peer.address.ip();
        Hop { peer, trusted_peer: self.client.trusted_peer, tls: visitor.secure, host: &self.host }
    }

    /// Takes the API key out of the request, and says whose it is.
    fn identify(&mut self, rules: &Keys, keys: &KeySet, parts: &mut request::Parts) -> Result<Arc<str>, Refusal> {
        let taken = keys::take(&rules.places, parts, &mut self.offer.subprotocols)?;
        let bearer = keys::is_bearer(&rules.places);
        let key = keys.find(&taken.key).ok_or(Refusal::ApiKeyUnknown { bearer })?;
        self.fallback = taken.fallback;
        Ok(self.key.insert(key.clone()).name.clone())
    }

    /// The offered subprotocols that the upstream is offered in turn, and the extensions.
    ///
    /// # Errors
    /// When the route requires a subprotocol and none is left.
    pub fn offered(&self, watch: &mut impl Watch) -> Result<Offered, Refusal> {
        let subprotocols = subprotocol::filter(&self.route.subprotocols, &self.offer.subprotocols)?;
        watch.passed(Check::Subprotocol, format_args!("{}", Listed(&subprotocols)));
        let deflate = match self.route.relay.compression {
            Compression::Pass => self.offer.deflate.clone(),
            Compression::Off => Vec::new(),
        };
        let extensions = if deflate.is_empty() { "none" } else { "permessage-deflate" };
        watch.passed(Check::Extensions, format_args!("{extensions}"));
        Ok(Offered { subprotocols, deflate })
    }
}

/// What the upstream is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    pub subprotocols: Vec<String>,
    pub deflate: Vec<Deflate>,
}

/// Names as people list them; nothing is allocated where nobody looks.
struct Listed<'a>(&'a [String]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("none"),
            names => f.write_str(&names.join(", ")),
        }
    }
}
