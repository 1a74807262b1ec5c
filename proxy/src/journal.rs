//! What happened lately: requests of clients, and the downloads behind them. For `darter why`, in memory alone. A request is
//! a span as well, where spans are sent somewhere.
//!
//! Two short lists with the oldest dropped first; the reader puts them together. Times are milliseconds since the journal
//! began, so it needs no wall clock. It has names and numbers, no credential and no content.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use darter_service::admin::{Route, reply};
use darter_types::HostId;
use http::StatusCode;
use serde::Serialize;
use tokio::time::Instant;
use tracing::Span;
use tracing::field::Empty;

/// Where the admin port shows it.
pub const PATH: &str = "/debug/pulls";
/// Requests that are remembered: some hundred images.
const REQUESTS_MAX: usize = 2048;
/// Downloads that are remembered.
const DOWNLOADS_MAX: usize = 2048;
/// Nodes that are named for one download; the rest are one sum.
const PEERS_MAX: usize = 32;

/// One request of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RequestRecord {
    number: u64,
    /// The registry, as images name it.
    pub registry: String,
    /// The repository.
    pub repository: String,
    /// `manifests`, `blobs`, `referrers` or `tags`, then what of it: the rest of the path.
    pub endpoint: String,
    /// Whether only the head was asked for.
    pub head: bool,
    /// When it came.
    pub began_ms: u64,
    /// When its answer began.
    pub answered_ms: Option<u64>,
    /// The answer's status.
    pub status: Option<u16>,
    /// When the last byte was handed to the connection, or the client left.
    pub ended_ms: Option<u64>,
    /// Bytes of the body that were sent.
    pub sent_bytes: u64,
}

/// One download: the content from wherever it was had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DownloadRecord {
    /// The content.
    pub digest: String,
    /// When it began.
    pub began_ms: u64,
    /// When the scheduler was first asked for a source.
    pub asked_ms: Option<u64>,
    /// When the first piece was there.
    pub first_ms: Option<u64>,
    /// When it ended.
    pub ended_ms: u64,
    /// `None` when all went well.
    pub error: Option<String>,
    /// Bytes that this node read from the registry.
    pub origin_bytes: u64,
    /// Bytes by the node that they came from; beyond some, under the empty name.
    pub peers: BTreeMap<String, u64>,
}

/// How a download went, as its driver knows it.
#[derive(Debug)]
pub(crate) struct Download<'a> {
    pub(crate) digest: String,
    pub(crate) began: Instant,
    pub(crate) asked: Option<Instant>,
    pub(crate) first: Option<Instant>,
    pub(crate) error: Option<String>,
    pub(crate) origin_bytes: u64,
    pub(crate) peers: &'a BTreeMap<HostId, u64>,
}

/// The journal of one node. Clones share it.
#[derive(Clone, Debug)]
pub struct Journal {
    began: Instant,
    lists: Arc<Mutex<Lists>>,
}

#[derive(Debug, Default)]
struct Lists {
    next: u64,
    requests: VecDeque<RequestRecord>,
    downloads: VecDeque<DownloadRecord>,
}

/// A request that is being answered; its end is its drop.
#[derive(Debug)]
pub(crate) struct Entry {
    journal: Journal,
    number: u64,
    sent: u64,
    span: Span,
}

impl Default for Journal {
    fn default() -> Self {
        Self::new()
    }
}

impl Journal {
    /// Begins now.
    pub fn new() -> Self {
        Self {
            began: Instant::now(),
            lists: Arc::default(),
        }
    }

    fn lists(&self) -> MutexGuard<'_, Lists> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.began);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// A request came.
    pub(crate) fn request(
        &self,
        registry: &str,
        repository: &str,
        endpoint: String,
        head: bool,
        came: Instant,
    ) -> Entry {
        let began_ms = self.at(came);
        let span = tracing::info_span!(
            "mirror request",
            registry,
            repository,
            endpoint,
            head,
            status = Empty,
            bytes = Empty
        );
        let mut lists = self.lists();
        let number = lists.next;
        lists.next += 1;
        if lists.requests.len() >= REQUESTS_MAX {
            lists.requests.pop_front();
        }
        lists.requests.push_back(RequestRecord {
            number,
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            endpoint,
            head,
            began_ms,
            answered_ms: None,
            status: None,
            ended_ms: None,
            sent_bytes: 0,
        });
        Entry {
            journal: self.clone(),
            number,
            sent: 0,
            span,
        }
    }

    /// A download ended.
    pub(crate) fn download(&self, download: Download<'_>) {
        let mut peers: BTreeMap<String, u64> = BTreeMap::new();
        for (host, bytes) in download.peers {
            let name = if peers.len() < PEERS_MAX {
                host.to_string()
            } else {
                String::new()
            };
            *peers.entry(name).or_default() += bytes;
        }
        let record = DownloadRecord {
            digest: download.digest,
            began_ms: self.at(download.began),
            asked_ms: download.asked.map(|moment| self.at(moment)),
            first_ms: download.first.map(|moment| self.at(moment)),
            ended_ms: self.at(Instant::now()),
            error: download.error,
            origin_bytes: download.origin_bytes,
            peers,
        };
        let mut lists = self.lists();
        if lists.downloads.len() >= DOWNLOADS_MAX {
            lists.downloads.pop_front();
        }
        lists.downloads.push_back(record);
    }

    /// What the admin port answers.
    pub fn route(&self) -> Route {
        let journal = self.clone();
        Arc::new(move |_| {
            let answer = reply(StatusCode::OK, "application/json", journal.to_json());
            Box::pin(std::future::ready(answer))
        })
    }

    /// All of it as JSON: `now_ms`, `requests`, `downloads`, oldest first.
    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Shown<'a> {
            now_ms: u64,
            requests: &'a VecDeque<RequestRecord>,
            downloads: &'a VecDeque<DownloadRecord>,
        }
        let now_ms = self.at(Instant::now());
        let lists = self.lists();
        let shown = Shown {
            now_ms,
            requests: &lists.requests,
            downloads: &lists.downloads,
        };
        // Texts and numbers alone: nothing that JSON does not have.
        serde_json::to_string(&shown).unwrap_or_default()
    }
}

impl Entry {
    /// What is done for it belongs in here.
    pub(crate) fn span(&self) -> Span {
        self.span.clone()
    }

    /// The answer begins.
    pub(crate) fn answered(&self, status: u16) {
        self.span.record("status", status);
        let now = self.journal.at(Instant::now());
        self.change(|record| (record.answered_ms, record.status) = (Some(now), Some(status)));
    }

    /// Bytes of the body go out.
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.sent += bytes;
    }

    fn change(&self, change: impl FnOnce(&mut RequestRecord)) {
        let mut lists = self.journal.lists();
        let first = lists.requests.front().map_or(0, |record| record.number);
        let index = self
            .number
            .checked_sub(first)
            .and_then(|index| usize::try_from(index).ok());
        // It may be forgotten by now.
        if let Some(record) = index.and_then(|index| lists.requests.get_mut(index)) {
            change(record);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let (now, sent) = (self.journal.at(Instant::now()), self.sent);
        self.span.record("bytes", sent);
        self.change(|record| (record.ended_ms, record.sent_bytes) = (Some(now), sent));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::Value;

    use super::*;

    fn shown(journal: &Journal) -> Value {
        serde_json::from_str(&journal.to_json()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_followed_to_its_end() {
        let journal = Journal::new();
        let mut entry = journal.request(
            "docker.io",
            "library/nginx",
            "manifests/latest".into(),
            false,
            Instant::now(),
        );
        tokio::time::advance(Duration::from_millis(30)).await;
        entry.answered(200);
        entry.sent(5);
        entry.sent(7);
        tokio::time::advance(Duration::from_millis(12)).await;
        let record = &shown(&journal)["requests"][0];
        assert_eq!(
            (&record["answered_ms"], &record["ended_ms"]),
            (&30.into(), &Value::Null)
        );
        drop(entry);
        let record = &shown(&journal)["requests"][0];
        assert_eq!(
            (&record["ended_ms"], &record["sent_bytes"]),
            (&42.into(), &12.into())
        );
        assert_eq!(record["endpoint"], "manifests/latest");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let journal = Journal::new();
        let request = || journal.request("r", "n", "tags/list".into(), false, Instant::now());
        let first = request();
        (0..REQUESTS_MAX + 5).for_each(|_| drop(request()));
        // Forgotten, and no other's end is its own.
        first.answered(503);
        drop(first);
        let peers = (0..100)
            .map(|n| (format!("n{n:03}").parse().unwrap(), 1))
            .collect();
        for _ in 0..DOWNLOADS_MAX + 5 {
            journal.download(Download {
                digest: "sha256:1".into(),
                began: Instant::now(),
                asked: None,
                first: None,
                error: None,
                origin_bytes: 1,
                peers: &peers,
            });
        }
        let shown = shown(&journal);
        let requests = shown["requests"].as_array().unwrap();
        assert_eq!(requests.len(), REQUESTS_MAX);
        assert!(requests.iter().all(|record| record["status"].is_null()));
        let downloads = shown["downloads"].as_array().unwrap();
        assert_eq!(downloads.len(), DOWNLOADS_MAX);
        let peers = downloads[0]["peers"].as_object().unwrap();
        assert_eq!(peers.len(), PEERS_MAX + 1);
        assert_eq!(peers[""], 100 - PEERS_MAX);
    }
}
