//! A node, put together top to bottom.
//!
//! [`start`] wires the components to what they are given (sockets, store, time and randomness come from outside, so the
//! simulation runs this very code); [`crate::run`] is `darter proxy run`: real sockets, a store on disk, the admin port.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use darter_origin::{Metrics as OriginMetrics, Origins};
use darter_proto::WIRE_VERSION;
use darter_proto::scheduler::{Hello, Load};
use darter_service::http_server::{Cuts, HttpServer, Limits, Wrap};
use darter_service::limit::Limiter;
use darter_service::net::{Address, Listener, Network, OpenError, open};
use darter_service::supervise::Tasks;
use darter_service::tls::{TlsConnector, TlsError, TlsWrap};
use darter_store::PieceStore;
use darter_types::HostId;
use prometheus_client::registry::Registry;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use thiserror::Error;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::access::{Access, keyed_hash};
use crate::config::{Config, NodeRole};
use crate::forward::{Forward, ForwardError, ForwardMetrics, ForwardParts};
use crate::metrics::{MemoryCollector, PeerMetrics, PullMetrics, StoreCollector};
use crate::mirror::{Mirror, MirrorMetrics};
use crate::peer::{PeerConfig, PeerServer, Peers};
use crate::pull::{Env, EnvParts, Pulls, Sharing};
use crate::role::CurrentRole;
use crate::scheduling::{LinkParts, LoadSource, Scheduling};
use crate::secure::Secure;
use crate::sendfile::ZeroCopy;

/// Bytes of an answer to another node that may wait in its socket: less than the smallest piece, so that a full link shows as
/// uploads that are under way. By that a seed tells whether a child is slow or waits for its turn.
const PEER_UNSENT_BYTES_MAX: u32 = 64 * 1024;

/// What a node is made of.
#[derive(Debug)]
#[expect(missing_docs, reason = "each field is what its type says")]
pub struct NodeParts<'a> {
    pub config: Config,
    /// The node's name, already resolved.
    pub host: HostId,
    pub network: Arc<dyn Network>,
    pub store: Arc<dyn PieceStore>,
    /// Sends stored pieces from their files, where the store has files.
    pub zero_copy: ZeroCopy,
    pub registry: &'a mut Registry,
    pub tasks: Tasks,
    pub stop: CancellationToken,
    /// Seed of all its randomness but that of its secrets: numbers that come of it are published.
    pub seed: u64,
    /// What nobody else may guess: the keys under which it remembers callers and users come of it. A process takes it from
    /// the operating system.
    pub secret: [u8; 32],
}

/// A node that runs until its `stop`.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its downloads.
    pub pulls: Pulls,
    /// Its streams to schedulers.
    pub scheduling: Scheduling,
    /// What a stream to a scheduler takes.
    pub(crate) links: LinkParts,
    /// The rate of what it sends to other nodes, which may be changed.
    pub(crate) upload_rate: Limiter,
    /// Its role, which may change.
    pub role: CurrentRole,
    /// Where its mirror listens.
    pub mirror_address: String,
    /// Where its peer server listens.
    pub peer_address: String,
    /// Names this life of it: what its mirror says on `/v2/`.
    pub instance: u64,
    /// Where its forward proxy listens, if it has one.
    pub forward_address: Option<String>,
}

/// Why a node did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// A port is taken or an address is not this machine's.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The section `tls` cannot be used. No port is open then.
    #[error("tls")]
    Tls(#[from] TlsError),
    /// The section `forward` cannot be used. Nobody is served then.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// The section `origin` cannot be used.
    #[error("origin: {0}")]
    Origin(#[from] darter_origin::OriginConfigError),
}

/// Binds, wires and starts everything. When it returns, the node serves.
pub async fn start(parts: NodeParts<'_>) -> Result<Node, StartError> {
    let NodeParts {
        config,
        host,
        network,
        store,
        zero_copy,
        registry,
        tasks,
        stop,
        seed,
        secret,
    } = parts;
    let mut rng = StdRng::seed_from_u64(seed);
    // Before any port is open: there is no way from files that cannot be used to a plain connection.
    let secure = Secure::load(&config, &host)?;
    let (mirror_listeners, mirror_address) = bind_mirror(&config, &*network).await?;
    let (peer_listener, peer_address) = open(&*network, &config.peer.listen, "other nodes").await?;
    let (metrics, role) = register(registry, config.role, &store);
    let (tls_server, tls_peers, tls) = follow(secure, registry, &config, &tasks, &stop);
    let rate = Limiter::adjustable(config.pull.bytes_per_second_max, &metrics.pull.delayed("all"));
    let (sockets, all) = (Arc::clone(&network), rate.clone());
    let origins = Origins::with_metrics(&config.origin, sockets, rng.random(), metrics.origin, all)?;
    let scheduling = Scheduling::new(config.scheduler.clone());
    let counts = Arc::clone(&metrics.peer);
    let peers = Peers::new(&config.peer, &host, &network, tls_peers, &tasks, rate, counts);
    let env = Env::new(EnvParts {
        config: config.pull.clone(),
        alone: config.is_alone(),
        origins: origins.clone(),
        store,
        peers: peers.clone(),
        scheduling: scheduling.clone(),
        sharing: Sharing::new(&config.peer, &config.access, tls_server.is_some()),
        tasks: tasks.clone(),
        metrics: metrics.pull,
        seed: rng.random(),
    });
    let pulls = pulls_of(&config, env, &tasks, &stop);
    let (own, instance) = (origins.clone(), rng.random());
    let mirror = mirror_of(registry, &config, &pulls, own, metrics.mirror, instance, &secret);
    let forward = forward(&config, &mirror, origins, registry, &tasks, &secret)?;
    let forward_address = serve_forward(forward, &config, &*network, &tasks, &stop).await?;
    serve_mirror(&mirror, mirror_listeners, &zero_copy, &tasks, &stop);
    let peer_server = PeerServer::new(&config.peer, pulls.clone(), Arc::clone(&metrics.peer));
    let upload_rate = peer_server.upload_rate();
    let peer_port = PeerPort::new(&config.peer, &metrics.peer, &tasks, &stop);
    peer_port.open(peer_server, peer_listener, tls_server, zero_copy);
    let links = scheduling.start(LinkParts {
        network,
        tls,
        tasks,
        pulls: pulls.clone(),
        hello: hello(&config, host, &peer_address),
        role: role.subscribe(),
        load: Arc::new(NodeLoad::new(metrics.peer, peers)),
        stop,
        seed: rng.random(),
    });
    Ok(Node {
        pulls,
        scheduling,
        links,
        upload_rate,
        role,
        mirror_address,
        peer_address,
        instance,
        forward_address,
    })
}

/// The pulls of a node, and the care of what they leave in the store.
fn pulls_of(config: &Config, env: Env, tasks: &Tasks, stop: &CancellationToken) -> Pulls {
    let pulls = Pulls::new(Arc::new(env), stop.clone());
    if let Some(interval) = config.store.scrub_interval {
        let scrub = pulls.clone().scrub(interval.into(), stop.clone());
        tasks.spawn("scrub of the store", scrub);
    }
    pulls
}

/// The metrics of a node's parts.
struct Metrics {
    pull: Arc<PullMetrics>,
    peer: Arc<PeerMetrics>,
    mirror: MirrorMetrics,
    origin: OriginMetrics,
}

fn register(registry: &mut Registry, role: NodeRole, store: &Arc<dyn PieceStore>) -> (Metrics, CurrentRole) {
    registry.register_collector(Box::new(StoreCollector::new(Arc::clone(store))));
    let own = registry.sub_registry_with_prefix("darter_proxy");
    let metrics = Metrics {
        pull: Arc::new(PullMetrics::register(own)),
        peer: Arc::new(PeerMetrics::register(own)),
        mirror: MirrorMetrics::register(own),
        origin: OriginMetrics::register(own),
    };
    (metrics, CurrentRole::register(role, own))
}

/// The mirror's port and its address, and its socket file, where one is wanted.
async fn bind_mirror(
    config: &Config,
    network: &dyn Network,
) -> Result<(Vec<Box<dyn Listener>>, String), StartError> {
    let (port, address) = open(network, &config.mirror.listen, "the mirror").await?;
    let mut listeners = vec![port];
    if let Some(path) = config.mirror.socket.clone() {
        let (socket, _) = open(network, &Address::Unix(path), "programs of this machine").await?;
        listeners.push(socket);
    }
    Ok((listeners, address))
}

/// What the peer server, the asking side and the streams to schedulers get, in this order; nothing without files. They are
/// looked at again for as long as the node runs.
fn follow(
    secure: Option<Secure>,
    registry: &mut Registry,
    config: &Config,
    tasks: &Tasks,
    stop: &CancellationToken,
) -> (Option<TlsWrap>, Option<TlsConnector>, Option<TlsConnector>) {
    let Some(secure) = secure else {
        return (None, None, None);
    };
    let identity = secure.identity;
    identity.register(registry.sub_registry_with_prefix("darter_proxy"));
    let period = config.tls.reload_interval.into();
    tasks.spawn(
        "certificates",
        identity.follow(period, tasks.clone(), stop.clone()),
    );
    (Some(secure.server), Some(secure.peers), Some(secure.schedulers))
}

fn mirror_of(
    registry: &mut Registry,
    config: &Config,
    pulls: &Pulls,
    origins: Origins,
    metrics: MirrorMetrics,
    instance: u64,
    secret: &[u8; 32],
) -> Mirror {
    let hash_key = keyed_hash(secret, b"callers");
    let access = Access::new(Arc::new(origins.clone()), config.access.clone(), hash_key);
    let contents = Arc::new(pulls.clone());
    let mirror = Mirror::new(
        config.mirror.clone(),
        contents,
        access,
        Arc::new(origins),
        metrics,
        instance,
    )
    .recording(pulls.journal().clone());
    registry.register_collector(Box::new(MemoryCollector::new(mirror.clone())));
    mirror
}

/// The forward proxy, where one is wanted.
fn forward(
    config: &Config,
    mirror: &Mirror,
    origins: Origins,
    registry: &mut Registry,
    tasks: &Tasks,
    secret: &[u8; 32],
) -> Result<Option<Forward>, ForwardError> {
    if config.forward.listen.is_none() {
        return Ok(None);
    }
    let parts = ForwardParts {
        config: config.forward.clone(),
        mirror: mirror.clone(),
        origins,
        tasks: tasks.clone(),
        metrics: ForwardMetrics::register(registry.sub_registry_with_prefix("darter_proxy")),
        header_timeout: config.origin.header_timeout.into(),
        hash_key: keyed_hash(secret, b"users"),
    };
    Forward::new(parts).map(Some)
}

/// Opens its port; the address that it has got.
async fn serve_forward(
    forward: Option<Forward>,
    config: &Config,
    network: &dyn Network,
    tasks: &Tasks,
    stop: &CancellationToken,
) -> Result<Option<String>, StartError> {
    let (Some(forward), Some(listen)) = (forward, config.forward.listen) else {
        return Ok(None);
    };
    let (listener, address) = open(network, &Address::Tcp(listen.to_string()), "the forward proxy").await?;
    let stop = stop.clone();
    tasks.spawn(
        "forward proxy",
        async move { forward.serve(listener, stop).await },
    );
    Ok(Some(address))
}

fn serve_mirror(
    mirror: &Mirror,
    listeners: Vec<Box<dyn Listener>>,
    zero_copy: &ZeroCopy,
    tasks: &Tasks,
    stop: &CancellationToken,
) {
    for listener in listeners {
        let (mirror, zero_copy) = (mirror.clone(), zero_copy.clone());
        let (owned, stop) = (tasks.clone(), stop.clone());
        tasks.spawn_component("mirror", stop.clone(), async move {
            mirror.serve(listener, &owned, zero_copy, stop).await
        });
    }
}

/// How other nodes are served.
struct PeerPort<'a> {
    limits: Limits,
    cuts: Cuts,
    tasks: &'a Tasks,
    stop: &'a CancellationToken,
}

impl<'a> PeerPort<'a> {
    fn new(
        config: &PeerConfig,
        metrics: &PeerMetrics,
        tasks: &'a Tasks,
        stop: &'a CancellationToken,
    ) -> Self {
        Self {
            limits: Limits {
                connections_max: config.connections_max,
                stall_timeout: config.stall_timeout.as_duration(),
                unsent_bytes_max: Some(PEER_UNSENT_BYTES_MAX),
                ..Limits::default()
            },
            cuts: metrics.cuts(),
            tasks,
            stop,
        }
    }

    /// Inside TLS where there is some, else from the store's files.
    fn open(
        self,
        server: PeerServer,
        listener: Box<dyn Listener>,
        tls: Option<TlsWrap>,
        zero_copy: ZeroCopy,
    ) {
        match tls {
            Some(tls) => self.serve(server, listener, tls),
            None => self.serve(server, listener, zero_copy),
        }
    }

    fn serve<W: Wrap>(self, server: PeerServer, listener: Box<dyn Listener>, wrap: W) {
        let http = HttpServer {
            name: "connection from a peer",
            limits: self.limits,
            tasks: self.tasks.clone(),
            wrap,
            cuts: self.cuts,
        };
        let handler = move |request, node| {
            let server = server.clone();
            async move { server.answer(request, node).await }
        };
        let stop = self.stop.clone();
        self.tasks
            .spawn_component("peer server", stop.clone(), async move {
                http.serve(listener, handler, stop).await
            });
    }
}

fn hello(config: &Config, host: HostId, peer_address: &str) -> Hello {
    let port = peer_address.rsplit_once(':').map_or("4000", |(_, port)| port);
    let address = config
        .peer
        .advertise
        .clone()
        .unwrap_or_else(|| format!("{host}:{port}"));
    Hello {
        wire_version: WIRE_VERSION,
        host,
        address,
        locality: config.locality.clone(),
        role: config.role.into(),
        upload_bytes_per_second_max: config.peer.upload_bytes_per_second_max.map(|rate| rate.as_u64()),
        build: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// What the node is doing, as the scheduler wants to know.
#[derive(Debug)]
struct NodeLoad {
    metrics: Arc<PeerMetrics>,
    peers: Peers,
    last: Mutex<(Instant, u64)>,
}

impl NodeLoad {
    fn new(metrics: Arc<PeerMetrics>, peers: Peers) -> Self {
        let last = Mutex::new((Instant::now(), metrics.sent_total()));
        Self { metrics, peers, last }
    }
}

impl LoadSource for NodeLoad {
    fn load(&self) -> Load {
        let (now, sent) = (Instant::now(), self.metrics.sent_total());
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = (now - last.0).max(Duration::from_millis(1));
        let bytes = u128::from(sent - last.1);
        *last = (now, sent);
        Load {
            upload_bytes_per_second: u64::try_from(bytes * 1000 / elapsed.as_millis()).unwrap_or(u64::MAX),
            uploads_running: self.metrics.uploads_running(),
            uploads_waiting: 0,
            store_free_bytes: 0,
            costs: self.peers.take_costs(),
        }
    }
}
