//! What the origin saw and sent, for tests to assert on. Only counting; no decision reads it.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use http::request::Parts;
use http::{Method, header};

/// The log keeps so many requests; older ones are dropped from it, but not from the counters.
const LOG_RECORDS_MAX: usize = 200_000;

/// One request, as it arrived, and how it was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestRecord {
    /// Counted from 1 in the order of arrival.
    pub number: u64,
    /// Who sent it; none where there are no addresses.
    pub source: Option<IpAddr>,
    /// Whether it came over TLS.
    pub secure: bool,
    /// The method.
    pub method: Method,
    /// The path without the query.
    pub path: String,
    /// The query without `?`.
    pub query: Option<String>,
    /// All headers in the order of arrival, names in lower case. Not UTF-8 is replaced.
    pub headers: Vec<(String, String)>,
    /// The digest that it aimed at, if it had one (a tag counts as its manifest's digest).
    pub digest: Option<String>,
    /// The status of the answer, or `None` when there was no (proper) answer at all.
    pub status: Option<u16>,
}

impl RequestRecord {
    /// The first value of this header (name in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The `Authorization` header, with its secret.
    pub fn authorization(&self) -> Option<&str> {
        self.header(header::AUTHORIZATION.as_str())
    }

    /// Path and query as they were sent.
    pub fn target(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }
}

/// How a request comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub(super) source: Option<IpAddr>,
    pub(super) secure: bool,
}

/// The counters behind the origin's questions.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) log: VecDeque<RequestRecord>,
    pub(super) requests: u64,
    pub(super) by_target: BTreeMap<(String, String, Option<String>), u64>,
    pub(super) sent_total: u64,
    pub(super) sent_by_digest: BTreeMap<String, u64>,
    pub(super) running: u64,
    pub(super) running_max: u64,
    pub(super) running_by_source: BTreeMap<IpAddr, RunningOf>,
    pub(super) sent_by_source: BTreeMap<(IpAddr, String), u64>,
    pub(super) connections: u64,
}

/// Requests of one address that are being answered.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RunningOf {
    pub(super) now: u64,
    pub(super) max: u64,
}

impl Ledger {
    /// Notes a request; the answer's status follows by `answered`.
    pub(super) fn arrived(&mut self, parts: &Parts, digest: Option<String>, way: Way) -> u64 {
        self.requests += 1;
        self.running += 1;
        self.running_max = self.running_max.max(self.running);
        if let Some(source) = way.source {
            let counts = self.running_by_source.entry(source).or_default();
            counts.now += 1;
            counts.max = counts.max.max(counts.now);
        }
        let path = parts.uri.path().to_owned();
        let key = (parts.method.to_string(), path.clone(), digest.clone());
        *self.by_target.entry(key).or_default() += 1;
        let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = parts
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect();
        if self.log.len() == LOG_RECORDS_MAX {
            self.log.pop_front();
        }
        let query = parts.uri.query().map(str::to_owned);
        let (number, method) = (self.requests, parts.method.clone());
        self.log.push_back(RequestRecord {
            number,
            source: way.source,
            secure: way.secure,
            method,
            path,
            query,
            headers,
            digest,
            status: None,
        });
        number
    }

    pub(super) fn answered(&mut self, number: u64, status: u16) {
        if let Some(record) = self.log.iter_mut().rev().find(|record| record.number == number) {
            record.status = Some(status);
        }
    }

    /// A request was answered, or given up.
    pub(super) fn left(&mut self, source: Option<IpAddr>) {
        self.running -= 1;
        if let Some(counts) = source.and_then(|source| self.running_by_source.get_mut(&source)) {
            counts.now -= 1;
        }
    }

    pub(super) fn sent(&mut self, source: Option<IpAddr>, digest: String, bytes: u64) {
        self.sent_total += bytes;
        if let Some(source) = source {
            *self.sent_by_source.entry((source, digest.clone())).or_default() += bytes;
        }
        *self.sent_by_digest.entry(digest).or_default() += bytes;
    }

    /// Starts counting anew. What runs at the moment stays known.
    pub(super) fn reset(&mut self) {
        let running = self.running;
        let mut running_by_source = std::mem::take(&mut self.running_by_source);
        for counts in running_by_source.values_mut() {
            counts.max = counts.now;
        }
        *self = Self {
            running,
            running_max: running,
            running_by_source,
            requests: self.requests,
            ..Self::default()
        };
    }
}
