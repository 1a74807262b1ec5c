//! `darter proxy run`: a node on real sockets, with a store on disk and an admin port.
//!
//! [`app::start`] puts the node together; this file gives it what belongs to a process and takes it down in order:
//! not ready any more, no new connections, what runs may finish for [`STOP_GRACE`], the admin port last.
//!
//! What must hold: the node is ready when its ports are open and its store is read, whether or not a scheduler is up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use darter_service::admin::{Admin, AdminPort, AdminServer, Parts, Route};
use darter_service::build_info;
use darter_service::config::{ConfigError, to_yaml};
use darter_service::log::LogHandle;
use darter_service::net::{Network, OpenError as PortError, advertised};
use darter_service::notify::{Notifier, State};
use darter_service::ready::Readiness;
use darter_service::shutdown::Stop;
use darter_service::supervise::{Failure, Tasks};
use darter_service::watchdog::Watchdog;
use darter_store::{DiskOptions, DiskStore, OpenError};
use darter_types::HostId;
use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::app::{self, Node, NodeParts, StartError};
use crate::config::{Config, StoreConfig};
use crate::hosts::Hosts;
use crate::journal;
use crate::managed::Managed;
use crate::role;
use crate::sendfile::ZeroCopy;

/// How long what runs may take to finish at a stop; a client whose pull is cut goes on at its next host.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// What a process gives to its node.
#[derive(Debug)]
#[expect(missing_docs, reason = "each field is what its type says")]
pub struct RunParts {
    pub config: Config,
    /// The node's name, already resolved.
    pub host: HostId,
    pub network: Arc<dyn Network>,
    pub log: LogHandle,
    /// Ends the node, in order.
    pub stop: Stop,
    /// Who hears that it is ready, alive and stopping.
    pub notify: Notifier,
    /// Seed of all its randomness but that of its secrets.
    pub seed: u64,
    /// What nobody else may guess, from the operating system.
    pub secret: [u8; 32],
}

/// Where a node that runs can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The mirror.
    pub mirror: String,
    /// Its pieces, for other nodes.
    pub peer: String,
    /// Its admin port.
    pub admin: String,
    /// Its forward proxy, if it has one.
    pub forward: Option<String>,
}

/// Why a node did not start.
#[derive(Debug, Error)]
pub enum RunError {
    /// The admin port cannot be opened.
    #[error(transparent)]
    Admin(#[from] PortError),
    /// The store cannot be used.
    #[error("store.dir")]
    Store(#[from] OpenError),
    /// The thread that read the store broke.
    #[error("the store was not read")]
    Recovery(#[from] tokio::task::JoinError),
    /// The configuration cannot be shown.
    #[error("the configuration cannot be shown")]
    Config(#[from] ConfigError),
    /// The system gives no thread.
    #[error("the watchdog cannot be started")]
    Watchdog(#[source] std::io::Error),
    /// A port or a setting.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A part of it ended unasked, so it stopped: whoever supervises the process starts it again.
    #[error("{component} failed: {reason}")]
    Failed {
        /// Which.
        component: &'static str,
        /// What is known of why.
        reason: String,
    },
}

/// Runs a node until its `stop`; `ready` is told where it can be reached as soon as it serves.
///
/// # Errors
/// It did not start, or a part of it ended unasked. Nothing of it runs then.
pub async fn run(parts: RunParts, ready: impl FnOnce(&Ports)) -> Result<(), RunError> {
    let hosts = Hosts::new(&parts.config.containerd);
    let ended = serve(parts, hosts.clone(), ready).await;
    if let (Err(_), Some(hosts)) = (&ended, hosts) {
        // What an earlier life left must not point at whoever has the port now.
        hosts.withdraw(&Tasks::new()).await;
    }
    ended
}

/// With what every process counts.
fn metrics(log: &LogHandle) -> Registry {
    let mut registry = Registry::default();
    build_info::register(&mut registry);
    log.register(&mut registry);
    registry
}

async fn serve(parts: RunParts, hosts: Option<Hosts>, ready: impl FnOnce(&Ports)) -> Result<(), RunError> {
    let RunParts {
        mut config,
        host,
        network,
        log,
        stop,
        notify,
        seed,
        secret,
    } = parts;
    let readiness = Readiness::new();
    let starting = readiness.latch("store and ports");
    let (tasks, serving) = (Tasks::new(), CancellationToken::new());
    let mut registry = metrics(&log);

    find_address(&mut config);
    let config_text = to_yaml(&config)?;
    let watchdog = config.watchdog.clone();
    warn_if_open(&config);
    let admin_port = AdminPort::bind(&*network, &config.admin.listen).await?;
    let store = open_store(&config.store, &tasks).await?;
    let managed = Managed::new(&config, &host, &store, seed);
    let zero_copy = ZeroCopy::new(Some(store.mappings()));
    let node = app::start(NodeParts {
        host: host.clone(),
        network,
        store,
        zero_copy,
        registry: &mut registry,
        tasks: tasks.clone(),
        stop: serving.clone(),
        seed,
        secret,
        config,
    });
    let node = node.await?;
    managed.start(&node);
    let ports = Ports {
        admin: admin_port.address(),
        mirror: node.mirror_address.clone(),
        peer: node.peer_address.clone(),
        forward: node.forward_address.clone(),
    };
    let admin = admin_port.serve(Admin::new(Parts {
        readiness: readiness.clone(),
        registry,
        config_text,
        log,
        tasks: tasks.clone(),
        routes: routes(&node),
    }));
    starting.release();
    let watchdog =
        Watchdog::of_role(&watchdog, &ports.mirror, "/v2/", &notify).map_err(RunError::Watchdog)?;
    notify.tell(State::Ready);
    announce(&host, &ports);
    ready(&ports);
    show(hosts.clone(), &node, &tasks, &serving);

    let failure = until_over(&stop.stop, &tasks, &admin).await;
    notify.tell(State::Stopping);
    hide(hosts, &stop, &tasks).await;
    // It would find the mirror's port closed.
    drop(watchdog);
    readiness.stop();
    serving.cancel();
    tasks.shut_down(STOP_GRACE).await;
    drop(node);
    admin.end().await;
    tracing::info!("proxy has stopped");
    failure.map_or(Ok(()), |failure| Err(failure.into()))
}

/// Where others reach this node, if its file does not say.
fn find_address(config: &mut Config) {
    if config.peer.advertise.is_none() {
        // Without it: the host name, which not every cluster can resolve.
        config.peer.advertise = advertised(&config.peer.listen.to_string(), &config.others());
    }
}

impl From<Failure> for RunError {
    fn from(failure: Failure) -> Self {
        let Failure { component, reason } = failure;
        Self::Failed { component, reason }
    }
}

/// Waits until the node is asked to stop, or has lost a part.
async fn until_over(stop: &CancellationToken, tasks: &Tasks, admin: &AdminServer) -> Option<Failure> {
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        failure = tasks.failed() => Some(failure),
        failure = admin.failed() => Some(failure),
    }
}

/// Lets containerd know of the mirror as soon as that answers.
fn show(hosts: Option<Hosts>, node: &Node, tasks: &Tasks, serving: &CancellationToken) {
    if let (Some(hosts), Ok(mirror)) = (hosts, node.mirror_address.parse()) {
        let install = hosts.install_when_served(mirror, node.instance, tasks.clone(), serving.clone());
        tasks.spawn("hosts.toml", install);
    }
}

/// Before the mirror closes, unless a successor is about to open it again.
async fn hide(hosts: Option<Hosts>, stop: &Stop, tasks: &Tasks) {
    if let Some(hosts) = hosts.filter(|_| !stop.succeeded.is_cancelled()) {
        hosts.withdraw(tasks).await;
    }
}

/// What the admin port has besides what every role shows there.
fn routes(node: &Node) -> BTreeMap<&'static str, Route> {
    let pulls = node.pulls.journal().route();
    BTreeMap::from([(role::PATH, node.role.route()), (journal::PATH, pulls)])
}

fn announce(host: &HostId, ports: &Ports) {
    tracing::info!(
        %host,
        mirror = ports.mirror,
        peer = ports.peer,
        admin = ports.admin,
        forward = ports.forward,
        "proxy is ready"
    );
}

/// Alone, a node exchanges nothing.
fn warn_if_open(config: &Config) {
    if !config.tls.is_off() || config.is_alone() {
        return;
    }
    tracing::warn!(
        "the exchange with other nodes and schedulers is neither encrypted nor authenticated: set tls.certFile, \
         tls.keyFile and tls.caFile, or keep it on a network that you trust"
    );
    if config.peer.share_private.applies(false) {
        tracing::warn!(
            "peer.sharePrivate is always: whoever reaches the port for other nodes can fetch private contents"
        );
    } else {
        tracing::warn!("private contents are not shared between nodes: each fetches them from the registry");
    }
}

/// Reads what an earlier life left; takes about a second for 10⁵ contents.
async fn open_store(config: &StoreConfig, tasks: &Tasks) -> Result<Arc<DiskStore>, RunError> {
    let options = DiskOptions {
        dir: config.dir.clone(),
        quota_bytes: config.quota.as_u64(),
        free_floor_bytes: config.free_floor.of(0),
    };
    let (store, found) = tasks
        .blocking("recovery of the store", || DiskStore::open(options))
        .await??;
    tracing::info!(
        dir = %config.dir.display(),
        contents = found.tasks,
        bytes = found.stored_bytes,
        dropped = found.dropped,
        "store is read"
    );
    for dropped in &found.named {
        tracing::warn!(path = %dropped.path.display(), reason = dropped.reason, "dropped what did not fit together");
    }
    let capacity_bytes = store.capacity_bytes();
    store.set_limits(config.quota.as_u64(), config.free_floor.of(capacity_bytes));
    store.set_registry_quotas(config.quotas());
    store.set_write_behind(config.write_behind());
    Ok(Arc::new(store))
}
