//! One registry as it is now: its idle connections, who waits, whether it asked for a pause, its tokens.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use darter_service::limit::{Limiter, Pacer};
use darter_types::RegistryName;
use rustls::ClientConfig;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::config::RegistrySettings;
use crate::dial::Target;
use crate::guard::{Nearness, Purpose};
use crate::link::Link;
use crate::login::Logins;
use crate::metrics::RegistryMetrics;
use crate::token::Tokens;

/// Idle connections that are kept, over all targets of the registry.
const IDLE_MAX: usize = 16;
/// How long; most servers close them after a minute.
const IDLE_TIME_MAX: Duration = Duration::from_secs(30);

/// One registry.
pub(crate) struct Registry {
    pub(crate) name: RegistryName,
    pub(crate) settings: RegistrySettings,
    pub(crate) target: Target,
    pub(crate) tls: Arc<ClientConfig>,
    /// Those that the realm gives to anybody.
    pub(crate) tokens: Tokens,
    /// Those that it gives to this node.
    pub(crate) node_tokens: Tokens,
    /// The node's own credentials.
    pub(crate) logins: Option<Logins>,
    pub(crate) metrics: RegistryMetrics,
    /// What its bytes are paced by: its own rate, that of all registries, that of the node.
    rates: [Limiter; 3],
    /// All requests.
    requests: Arc<Semaphore>,
    /// Those for blobs, which run long.
    blobs: Arc<Semaphore>,
    /// Those of them that run ahead of what somebody reads: half of them, so that they are in nobody's way.
    ahead: Arc<Semaphore>,
    /// Shared by the requests that were sent and whose answers are not read to their end.
    talk: Arc<()>,
    state: Mutex<State>,
}

/// A request that was sent over a connection, until its answer was read.
#[derive(Debug)]
pub(crate) struct Talk {
    _shared: Arc<()>,
}

struct State {
    /// When the last request was sent over a connection.
    sent_at: Option<Instant>,
    idle: Vec<Idle>,
    paused_until: Option<Instant>,
    /// The nearest that its own address was.
    nearness: Nearness,
}

struct Idle {
    target: Target,
    link: Link,
    since: Instant,
}

/// The right to one running request.
#[derive(Debug)]
pub(crate) struct Permits {
    ahead: Option<OwnedSemaphorePermit>,
    _blob: Option<OwnedSemaphorePermit>,
    _request: Option<OwnedSemaphorePermit>,
}

impl Permits {
    /// Whether nobody waits for the request yet.
    pub(crate) fn is_ahead(&self) -> bool {
        self.ahead.is_some()
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("name", &self.name)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Registry {
    pub(crate) fn new(
        name: RegistryName,
        settings: RegistrySettings,
        target: Target,
        tls: Arc<ClientConfig>,
        metrics: RegistryMetrics,
        common: &[Limiter; 2],
    ) -> Self {
        let all = settings.connections_max;
        let blobs = (all - all / 4).max(1);
        let logins = settings
            .credentials
            .clone()
            .map(|config| Logins::new(config, name.clone()));
        let state = State {
            sent_at: None,
            idle: Vec::new(),
            paused_until: None,
            nearness: Nearness::Public,
        };
        let own = Limiter::of(settings.bytes_per_second_max, &metrics.delayed_bytes);
        let [all_registries, node] = common.clone();
        Self {
            name,
            target,
            rates: [own, all_registries, node],
            tls,
            tokens: Tokens::default(),
            node_tokens: Tokens::default(),
            logins,
            metrics,
            requests: Arc::new(Semaphore::new(all)),
            blobs: Arc::new(Semaphore::new(blobs)),
            ahead: Arc::new(Semaphore::new(blobs / 2)),
            settings,
            talk: Arc::default(),
            state: Mutex::new(state),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the right to a request, in order of arrival. Cancel safe.
    pub(crate) async fn admit(&self, blob: bool) -> Permits {
        let _waiting = self.metrics.wait();
        // They fail only when closed, which nobody does.
        let blob = if blob {
            Arc::clone(&self.blobs).acquire_owned().await.ok()
        } else {
            None
        };
        Permits {
            ahead: None,
            _blob: blob,
            _request: Arc::clone(&self.requests).acquire_owned().await.ok(),
        }
    }

    /// The right to a request that nobody waits for yet, if one is free: it never waits itself, and not while the registry
    /// wants a pause.
    pub(crate) fn admit_ahead(&self) -> Option<Permits> {
        if self.pause_left().is_some() {
            return None;
        }
        let free = |semaphore: &Arc<Semaphore>| Arc::clone(semaphore).try_acquire_owned().ok();
        Some(Permits {
            ahead: Some(free(&self.ahead)?),
            _blob: Some(free(&self.blobs)?),
            _request: Some(free(&self.requests)?),
        })
    }

    /// A request goes out over a connection that stands.
    pub(crate) fn talk(&self) -> Talk {
        self.state().sent_at = Some(Instant::now());
        Talk {
            _shared: Arc::clone(&self.talk),
        }
    }

    /// Whether it was reached since then: what it owes may be on its way.
    pub(crate) fn is_answering(&self, since: Instant) -> bool {
        Arc::strong_count(&self.talk) > 1 || self.state().sent_at.is_some_and(|at| at >= since)
    }

    /// What one answer is read at.
    pub(crate) fn pacer(&self) -> Pacer {
        Pacer::new(self.rates.clone())
    }

    /// How long it still wants to hear nothing.
    pub(crate) fn pause_left(&self) -> Option<Duration> {
        let left = self
            .state()
            .paused_until?
            .saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// It asked for a pause.
    pub(crate) fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut state = self.state();
        state.paused_until = state.paused_until.max(Some(until));
    }

    /// As what the guard is to judge a connection to `target`.
    pub(crate) fn purpose(&self, target: &Target) -> Purpose {
        match (*target == self.target, self.settings.configured) {
            (true, true) => Purpose::Configured,
            (true, false) => Purpose::Named,
            (false, true) => Purpose::SentBy(self.state().nearness),
            (false, false) => Purpose::SentBy(Nearness::Public),
        }
    }

    /// Notes how near an address was that `target` has.
    pub(crate) fn seen_at(&self, target: &Target, nearness: Nearness) {
        if *target == self.target {
            let mut state = self.state();
            state.nearness = state.nearness.max(nearness);
        }
    }

    /// An idle connection that still works.
    pub(crate) fn take_idle(&self, target: &Target) -> Option<Link> {
        let mut state = self.state();
        state.drop_old();
        while let Some(index) = state.idle.iter().rposition(|idle| idle.target == *target) {
            let mut link = state.idle.remove(index).link;
            if link.is_free() {
                return Some(link);
            }
        }
        None
    }

    /// Keeps a connection whose answer was read to its end.
    pub(crate) fn keep(&self, target: Target, link: Link) {
        let mut state = self.state();
        state.drop_old();
        if state.idle.len() >= IDLE_MAX {
            state.idle.remove(0);
        }
        state.idle.push(Idle {
            target,
            link,
            since: Instant::now(),
        });
    }

    /// Closes connections that are idle for too long.
    pub(crate) fn drop_old(&self) {
        self.state().drop_old();
    }
}

impl State {
    fn drop_old(&mut self) {
        let now = Instant::now();
        self.idle
            .retain(|idle| now.saturating_duration_since(idle.since) < IDLE_TIME_MAX);
    }
}
