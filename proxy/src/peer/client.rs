//! The asking side: one for the node, shared by all pulls.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use darter_proto::limits::SOURCES_MAX;
use darter_proto::scheduler::PieceCost;
use darter_service::limit::Limiter;
use darter_service::net::Network;
use darter_service::supervise::Tasks;
use darter_service::tls::TlsConnector;
use darter_service::trace_context::{self, TRACEPARENT};
use darter_types::{HostId, TaskId};
use http::{Request, Response, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::pool::{ConnectError, Connection, Pool};
use super::{ASKED_HEADER, HOST_HEADER, PeerConfig, REGISTRY_HEADER, REPOSITORY_HEADER, Remote};
use crate::metrics::{PeerMetrics, RunningRequest};
use crate::pull::Right;
use darter_engine::ParentFailure;

/// Contents that came along with news and wait to be asked for.
const INLINE_CONTENTS_MAX: usize = 256;

/// Asks other nodes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Peers {
    inner: Arc<Inner>,
}

/// Who sent a content along, and by whose right it was asked for: no other one opens it.
type InlineKey = (HostId, Right, TaskId);

#[derive(Debug)]
struct Inner {
    host: HostId,
    pool: Pool,
    silence_max: Duration,
    /// Of all that the node receives.
    rate: Limiter,
    /// Kilobytes of pieces that may wait in memory.
    room: Semaphore,
    metrics: Arc<PeerMetrics>,
    inline: Mutex<BTreeMap<InlineKey, Bytes>>,
    /// Time and bytes of pieces by parent since the last report.
    costs: Mutex<BTreeMap<HostId, Cost>>,
}

#[derive(Debug, Default)]
struct Cost {
    time: Duration,
    bytes: u64,
    pieces: u32,
}

impl Peers {
    /// Asks as `host` through `network`, at `rate`; with `tls`, nobody but nodes that prove to be who they are said to be.
    pub fn new(
        config: &PeerConfig,
        host: &HostId,
        network: &Arc<dyn Network>,
        tls: Option<TlsConnector>,
        tasks: &Tasks,
        rate: Limiter,
        metrics: Arc<PeerMetrics>,
    ) -> Self {
        let pool = Pool::new(
            Arc::clone(network),
            tls,
            tasks.clone(),
            config.connect_timeout.into(),
            config.idle_connections_max,
        );
        let inner = Inner {
            host: host.clone(),
            pool,
            rate,
            metrics,
            silence_max: config.silence_max.into(),
            room: Semaphore::new(
                usize::try_from(config.buffer_bytes_max.as_u64() / 1024).unwrap_or(usize::MAX >> 3),
            ),
            inline: Mutex::default(),
            costs: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Waits until a piece of so many bytes may be held in memory; the request counts as running, and the room is free again,
    /// until and when the result is dropped.
    pub(super) async fn room(&self, bytes: u32) -> (RunningRequest, Option<SemaphorePermit<'_>>) {
        let Inner { room, metrics, .. } = &*self.inner;
        let units = bytes.div_ceil(1024);
        let permit = match room.try_acquire_many(units) {
            Ok(permit) => Some(permit),
            Err(_) => {
                metrics.buffer_waits();
                // The semaphore is never closed, and configuration makes it larger than the largest piece.
                room.acquire_many(units).await.ok()
            }
        };
        (metrics.request_began(bytes), permit)
    }

    /// The rate of all that the node receives.
    pub(crate) fn rate(&self) -> Limiter {
        self.inner.rate.clone()
    }

    /// How long a node may stay silent.
    pub(super) fn silence_max(&self) -> Duration {
        self.inner.silence_max
    }

    /// Sends a request and waits for the head of its answer. A connection that the other side had closed meanwhile is
    /// replaced once.
    pub(super) async fn ask(
        &self,
        remote: Remote<'_>,
        path: &str,
        name: header::HeaderName,
        value: &str,
    ) -> Result<(Connection, Response<Incoming>), ParentFailure> {
        loop {
            let taken = self.inner.pool.take(remote).await;
            let (mut connection, used) = taken.map_err(|error| not_connected(remote, &error))?;
            let right = remote.right;
            let mut request = Request::get(path)
                .header(header::HOST, remote.address)
                .header(HOST_HEADER, self.inner.host.as_str())
                .header(REGISTRY_HEADER, right.registry.as_str())
                .header(REPOSITORY_HEADER, right.repository.as_str())
                .header(name.clone(), value);
            if right.asked {
                request = request.header(ASKED_HEADER, "yes");
            }
            if let Some(trace) = trace_context::current() {
                request = request.header(TRACEPARENT, trace);
            }
            let request = request
                .body(Empty::new())
                .map_err(|_| ParentFailure::Unreachable)?;
            match timeout(self.inner.silence_max, connection.send_request(request)).await {
                Ok(Ok(answer)) => return Ok((connection, answer)),
                Ok(Err(_)) if used => {}
                Ok(Err(_)) => return Err(ParentFailure::Unreachable),
                Err(_) => return Err(ParentFailure::Silent),
            }
        }
    }

    /// Gives a connection back whose answer was read to its end.
    pub(super) fn give_back(&self, remote: Remote<'_>, connection: Connection) {
        self.inner.pool.give_back(remote, connection);
    }

    /// Keeps a content that came along with news, until it is asked for.
    pub(super) fn keep_inline(&self, remote: Remote<'_>, task: TaskId, content: Vec<u8>) {
        let mut inline = self.inner.inline.lock().unwrap_or_else(PoisonError::into_inner);
        if inline.len() >= INLINE_CONTENTS_MAX {
            inline.pop_first();
        }
        inline.insert(inline_key(remote, task), content.into());
    }

    /// The content that came along with a node's news.
    pub(super) fn take_inline(&self, remote: Remote<'_>, task: TaskId) -> Option<Bytes> {
        let mut inline = self.inner.inline.lock().unwrap_or_else(PoisonError::into_inner);
        inline.remove(&inline_key(remote, task))
    }

    /// Notes what a piece of a parent cost.
    pub(super) fn note_cost(&self, host: &HostId, bytes: u64, time: Duration) {
        let mut costs = self.inner.costs.lock().unwrap_or_else(PoisonError::into_inner);
        if costs.len() < SOURCES_MAX || costs.contains_key(host) {
            let cost = costs.entry(host.clone()).or_default();
            cost.time += time;
            cost.bytes += bytes;
            cost.pieces += 1;
        }
    }

    /// What pieces of each parent cost since the last call.
    pub(crate) fn take_costs(&self) -> Vec<PieceCost> {
        let costs = std::mem::take(&mut *self.inner.costs.lock().unwrap_or_else(PoisonError::into_inner));
        #[expect(clippy::cast_precision_loss, reason = "a mean needs no more than 53 bits")]
        let cost_of = |(parent, cost): (HostId, Cost)| PieceCost {
            parent,
            nanos_per_byte: cost.time.as_nanos() as f64 / cost.bytes.max(1) as f64,
            pieces: cost.pieces,
        };
        costs.into_iter().map(cost_of).collect()
    }
}

fn inline_key(remote: Remote<'_>, task: TaskId) -> InlineKey {
    (remote.host.clone(), remote.right.clone(), task)
}

/// Nodes come and go, but one whose certificate is wrong stays wrong until somebody looks.
fn not_connected(remote: Remote<'_>, error: &ConnectError) -> ParentFailure {
    let Remote { host, address, .. } = remote;
    if matches!(error, ConnectError::Tls(_)) {
        tracing::warn!(peer = %host, address, %error, "no secure connection to a peer");
    } else {
        tracing::debug!(peer = %host, address, %error, "no connection to a peer");
    }
    ParentFailure::Unreachable
}
