//! What a manager changes in a node that runs: its schedulers, and the keys of the cluster's configuration.
//!
//! What must hold: `scheduler.addresses` of the node's own file goes before what a manager tells; a document is applied whole or
//! nothing of it is; a key that it does not set is as the node's own file says.

use std::sync::{Arc, Mutex, PoisonError};

use darter_proto::WIRE_VERSION;
use darter_proto::manager::{Instance, MemberRole, State};
use darter_service::limit::Limiter;
use darter_service::manager::document::{Document, StoreKeys};
use darter_service::manager::{self, JoinParts, ManagerConfig, Member, Said, saved};
use darter_service::supervise::Tasks;
use darter_service::tls::CertificateRole;
use darter_store::{DiskStore, PieceStore as _};
use darter_types::HostId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::app::Node;
use crate::config::{Config, NodeRole, StoreConfig};
use crate::role::CurrentRole;
use crate::scheduling::{LinkParts, Scheduling};

/// What joining takes, as long as the node does not run yet.
#[derive(Debug)]
pub(crate) struct Managed {
    config: Config,
    host: HostId,
    store: Arc<DiskStore>,
    seed: u64,
}

impl Managed {
    pub(crate) fn new(config: &Config, host: &HostId, store: &Arc<DiskStore>, seed: u64) -> Self {
        Self {
            config: config.clone(),
            host: host.clone(),
            store: Arc::clone(store),
            seed,
        }
    }

    /// Joins, if there is a manager. What was saved is applied when it returns.
    pub(crate) fn start(self, node: &Node) {
        let config: ManagerConfig = self.config.manager.clone();
        let Some(file) = manager::file(&config, "proxy") else {
            return;
        };
        let links = node.links.clone();
        let (tasks, stop) = (links.tasks.clone(), links.stop.clone());
        let is_static = !self.config.scheduler.addresses.is_empty();
        if is_static {
            tracing::info!("scheduler.addresses is set: which schedulers the manager knows is not looked at");
        }
        let parts = JoinParts {
            network: Arc::clone(&links.network),
            tls: links.tls.clone().map(|tls| tls.to(CertificateRole::Manager)),
            tasks: tasks.clone(),
            stop: stop.clone(),
            instance: self.instance(node),
            saved: saved::read(&file),
            seed: self.seed,
            config,
        };
        let own = links.tls.as_ref();
        let may_be_seed = own.is_none_or(|tls| tls.may_act_as(CertificateRole::Seed));
        let [all, background] = node.pulls.rates();
        let upload = node.upload_rate.clone();
        let member = NodeMember {
            scheduling: node.scheduling.clone(),
            links: (!is_static).then_some(links),
            role: node.role.clone(),
            own: self.config,
            host: self.host,
            store: self.store,
            rates: Rates {
                all,
                background,
                upload,
            },
            may_be_seed,
            tasks: tasks.clone(),
            given_role: Mutex::new(None),
        };
        let said = manager::start(parts, Arc::new(member));
        tell_role(&said, node.role.subscribe(), &tasks, stop);
    }

    fn instance(&self, node: &Node) -> Instance {
        let hello = &node.links.hello;
        let locality = hello.locality.to_string();
        let idc = locality.split('|').next().unwrap_or_default().to_owned();
        Instance {
            wire_version: WIRE_VERSION,
            role: member_role(node.role.get()),
            host: self.host.clone(),
            address: hello.address.clone(),
            idc,
            location: locality,
            build: hello.build.clone(),
            state: State::Serving,
            running: 0,
            refused: None,
        }
    }
}

fn member_role(role: NodeRole) -> MemberRole {
    match role {
        NodeRole::Peer => MemberRole::Peer,
        NodeRole::Seed => MemberRole::Seed,
    }
}

fn tell_role(said: &Said, mut role: watch::Receiver<NodeRole>, tasks: &Tasks, stop: CancellationToken) {
    let said = said.clone();
    tasks.spawn("role told to the manager", async move {
        loop {
            let now = *role.borrow_and_update();
            said.role(member_role(now));
            if !matches!(stop.run_until_cancelled(role.changed()).await, Some(Ok(()))) {
                return;
            }
        }
    });
}

/// Rates that may be changed.
#[derive(Debug)]
struct Rates {
    all: Limiter,
    background: Limiter,
    upload: Limiter,
}

/// What a manager changes.
#[derive(Debug)]
struct NodeMember {
    scheduling: Scheduling,
    /// Absent where the node's own file says which schedulers there are.
    links: Option<LinkParts>,
    role: CurrentRole,
    own: Config,
    host: HostId,
    store: Arc<DiskStore>,
    rates: Rates,
    may_be_seed: bool,
    tasks: Tasks,
    /// The role that the last document gave: what an operator says at the admin port stays until a document says otherwise.
    given_role: Mutex<Option<NodeRole>>,
}

impl Member for NodeMember {
    fn schedulers(&self, schedulers: &[String]) {
        if let Some(links) = &self.links {
            self.scheduling.set_ring(schedulers, links);
        }
    }

    fn apply(&self, document: &Document) -> Result<(), String> {
        let (own, keys) = (&self.own, &document.proxy);
        let role = keys.seeds.as_ref().map(|seeds| {
            let is_seed = seeds.iter().any(|name| name == self.host.as_str());
            if is_seed { NodeRole::Seed } else { NodeRole::Peer }
        });
        if role == Some(NodeRole::Seed) && !self.may_be_seed {
            return Err(format!(
                "proxy.seeds names this node, whose certificate is not for a seed: it lacks {}",
                CertificateRole::Seed.uri()
            ));
        }
        // From here on nothing fails.
        let pull = &own.pull;
        self.rates
            .all
            .set(keys.pull.bytes_per_second_max.or(pull.bytes_per_second_max));
        let background = keys.pull.background_bytes_per_second_max;
        let background = background.or(pull.background_bytes_per_second_max);
        self.rates.background.set(background);
        let upload = keys.peer.upload_bytes_per_second_max;
        self.rates
            .upload
            .set(upload.or(own.peer.upload_bytes_per_second_max));
        self.hold_store_to(&with(&own.store, &keys.store));
        self.take_role(role);
        Ok(())
    }
}

/// The node's own section under what the document sets.
fn with(own: &StoreConfig, keys: &StoreKeys) -> StoreConfig {
    StoreConfig {
        quota: keys.quota.unwrap_or(own.quota),
        registry_quotas: keys
            .registry_quotas
            .clone()
            .unwrap_or_else(|| own.registry_quotas.clone()),
        ..own.clone()
    }
}

impl NodeMember {
    fn hold_store_to(&self, config: &StoreConfig) {
        let store = &self.store;
        let floor = config.free_floor.of(store.capacity_bytes());
        store.set_limits(config.quota.as_u64(), floor);
        store.set_registry_quotas(config.quotas());
        // What is over a smaller quota goes now, not when more is to be kept.
        let store = Arc::clone(store);
        let (tasks, scheduling) = (self.tasks.clone(), self.scheduling.clone());
        self.tasks.spawn("room in the store", async move {
            let room = tasks.blocking("room in the store", move || store.make_room(0));
            for task in room.await.unwrap_or_default() {
                scheduling.withdraw(task);
            }
        });
    }

    fn take_role(&self, role: Option<NodeRole>) {
        let mut given = self.given_role.lock().unwrap_or_else(PoisonError::into_inner);
        if *given != role {
            *given = role;
            self.role.set(role.unwrap_or(self.own.role));
        }
    }
}
