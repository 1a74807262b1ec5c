//! The node's side of the scheduler's protocol.
//!
//! [`Scheduling`] is the handle that pulls send through; [`Link`](link) keeps one stream to each scheduler and comes back by
//! itself. What is said while a stream is down is not kept: on every new stream the node says anew who it is, what it
//! holds and what it wants, so that a scheduler that forgot everything knows it again.

mod dispatch;
mod link;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use darter_proto::ring;
use darter_proto::scheduler::{Hello, NodeMessage};
use darter_service::config::Period;
use darter_service::net::Network;
use darter_service::supervise::Tasks;
use darter_service::tls::TlsConnector;
use darter_types::TaskId;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::config::NodeRole;
use crate::pull::Pulls;

/// Messages that wait for one scheduler. When it is full the newest are dropped: wants are told again.
const OUTGOING_MAX: usize = 8192;

/// Section `scheduler` of the proxy's configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SchedulingConfig {
    /// Schedulers of the cluster, `host:port`. Without any, the node works alone: it fetches from registries itself.
    pub addresses: Vec<String>,
    /// First pause before a lost scheduler is tried again; doubled up to twenty times as much, with jitter.
    pub reconnect_pause: Period,
    /// How often the node tells what it is doing.
    pub load_interval: Period,
}

impl Default for SchedulingConfig {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            reconnect_pause: Period::from(Duration::from_millis(250)),
            load_interval: Period::from(Duration::from_secs(2)),
        }
    }
}

/// The handle that everything in the node sends through. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Scheduling {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: SchedulingConfig,
    state: Mutex<State>,
    /// Counts the changes of the ring: streams that stay up say anew what they have to say.
    rings: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// All schedulers, sorted: the ring over which tasks are spread.
    ring: Vec<String>,
    /// Where messages go, by scheduler; absent while its stream is down.
    up: BTreeMap<String, mpsc::Sender<NodeMessage>>,
    /// Schedulers that somebody keeps a stream to.
    linked: BTreeMap<String, CancellationToken>,
    /// Whether a manager says which schedulers there are: then they do not.
    managed: bool,
}

/// What a link needs besides the handle.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each field is what its type says")]
pub struct LinkParts {
    pub network: Arc<dyn Network>,
    /// Without it, streams are plain.
    pub tls: Option<TlsConnector>,
    pub tasks: Tasks,
    pub pulls: Pulls,
    /// Who the node is, but for its role.
    pub hello: Hello,
    /// Its role, which may change.
    pub role: watch::Receiver<NodeRole>,
    /// What the node is doing, asked for at every interval.
    pub load: Arc<dyn LoadSource>,
    pub stop: CancellationToken,
    /// Seed of the jitter.
    pub seed: u64,
}

/// Whoever knows what the node is doing.
pub trait LoadSource: Send + Sync + std::fmt::Debug {
    /// What happened since the last call.
    fn load(&self) -> darter_proto::scheduler::Load;
}

impl Scheduling {
    /// No stream yet.
    pub fn new(config: SchedulingConfig) -> Self {
        let mut ring = config.addresses.clone();
        ring.sort();
        ring.dedup();
        Self {
            inner: Arc::new(Inner {
                config,
                state: Mutex::new(State {
                    ring,
                    ..State::default()
                }),
                rings: watch::Sender::default(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a stream to every scheduler of the ring until `parts.stop`; gives back what [`Self::set_ring`] takes.
    pub fn start(&self, parts: LinkParts) -> LinkParts {
        self.link_all(&parts);
        parts
    }

    /// The ring as a scheduler told it. It is believed if the scheduler itself is part of it.
    fn ring_told(&self, by: &str, ring: &[String], parts: &LinkParts) {
        if !ring.iter().any(|address| address == by) {
            return;
        }
        {
            let mut state = self.state();
            if state.managed {
                return;
            }
            state.ring = ring.to_vec();
        }
        self.link_all(parts);
    }

    /// The ring as a manager told it, from now on instead of what schedulers tell. Tasks that have another owner now are made known
    /// to it.
    pub fn set_ring(&self, ring: &[String], parts: &LinkParts) {
        let mut ring = ring.to_vec();
        ring.sort();
        ring.dedup();
        {
            let mut state = self.state();
            state.managed = true;
            if state.ring == ring {
                return;
            }
            state.ring = ring;
        }
        self.link_all(parts);
        self.inner.rings.send_modify(|changes| *changes += 1);
    }

    /// Keeps streams to the ring as it is now, however many changed it meanwhile.
    fn link_all(&self, parts: &LinkParts) {
        let mut state = self.state();
        let ring = state.ring.clone();
        state.linked.retain(|address, token| {
            let stays = ring.contains(address);
            if !stays {
                token.cancel();
            }
            stays
        });
        for address in &ring {
            if !state.linked.contains_key(address) {
                let stop = parts.stop.child_token();
                state.linked.insert(address.clone(), stop.clone());
                let link = link::Link::new(self.clone(), address.clone(), parts.clone());
                let name = "stream to a scheduler";
                parts.tasks.spawn_component(name, stop.clone(), link.run(stop));
            }
        }
    }

    /// Whether the scheduler that owns the task can be spoken to.
    pub(crate) fn is_up(&self, task: TaskId) -> bool {
        let state = self.state();
        ring::owner(&state.ring, task).is_some_and(|owner| state.up.contains_key(owner))
    }

    /// How many schedulers can be spoken to.
    pub fn up_count(&self) -> usize {
        self.state().up.len()
    }

    /// Tells the task's scheduler something.
    pub(crate) fn send(&self, task: TaskId, message: NodeMessage) {
        let state = self.state();
        let Some(sender) = ring::owner(&state.ring, task).and_then(|owner| state.up.get(owner)) else {
            return;
        };
        if sender.try_send(message).is_err() {
            tracing::debug!(%task, "the queue to the scheduler is full, a message was dropped");
        }
    }

    /// The node does not want the content any more.
    pub(crate) fn unwant(&self, task: TaskId) {
        self.send(task, NodeMessage::Unwant(task));
    }

    /// The content is not here any more.
    pub(crate) fn withdraw(&self, task: TaskId) {
        self.send(task, NodeMessage::Withdraw(task, Vec::new()));
    }
}
