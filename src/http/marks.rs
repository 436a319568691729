//! What a request is called in the records, and which lines it leaves. Thrown once, at its head.

use http::header::HOST;
use http::request;
use rand::RngExt;

use crate::config::model::{Log, Route, TraceParent};
use crate::observe::log::{Leaves, Request};
use crate::policy::client::Client;
use crate::proto::trace::Trace;

/// The marks of one request, and of the session that comes of it.
#[derive(Debug)]
pub struct Marks {
    pub trace: Trace,
    pub leaves: Leaves,
}

impl Marks {
    /// `trusted`: a trusted proxy sent it, whose request id counts.
    pub fn of(parts: &request::Parts, trusted: bool, log: &Log) -> Marks {
        let mut rng = rand::rng();
        let leaves = Leaves::of(log, rng.random_range(0..100));
        let begin = (log.traceparent == TraceParent::Begin).then_some(leaves.sampled());
        Marks { trace: Trace::of(&parts.headers, trusted, begin, rng.random()), leaves }
    }

    /// The record of a plain request to `route`, where one is wanted.
    pub fn record(&self, route: &Route, client: &Client, parts: &request::Parts) -> Option<Request> {
        Request::is_wanted(self.leaves).then(|| {
            let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
            Request {
                route: route.name.as_str().into(),
                client: client.address,
                method: parts.method.clone(),
                host: host.map(Into::into),
                path: parts.uri.path().into(),
                upstream: None,
                trace: self.trace.clone(),
                leaves: self.leaves,
            }
        })
    }
}
