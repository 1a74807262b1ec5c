//! A snapshotter for containerd: ordinary images as with overlayfs, Nydus images lazily, each as a mount of its own.
//!
//! containerd asks over a unix socket ([`service`]); [`core`] does it. Which snapshots there are is decided by [`catalog`], which is
//! pure, and remembered by [`store`]; their directories are [`folders`]', what containerd mounts is [`layout`]'s. A Nydus image
//! is mounted by a process of its own ([`images`]) when something is made on top of it; [`mod@reference`] finds out where its chunks are.
//!
//! How a Nydus image comes: its layers of chunks are never fetched, as containerd is told that their snapshots are there; the layer
//! with the metadata is unpacked like any; what stands on that has the mounted image as its lowest directory.
//!
//! What must hold: this process can be killed at any moment and started again without any container noticing; what is removed leaves
//! nothing mounted; no answer waits without bound.

pub mod catalog;
pub mod core;
pub mod filter;
pub mod folders;
pub mod images;
pub mod layout;
pub mod metrics;
pub mod reference;
mod service;
pub mod store;

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use darter_service::admin::{Admin, AdminPort, Parts};
use darter_service::build_info;
use darter_service::log::LogHandle;
use darter_service::net::{Address, Network, OpenError, TokioNetwork, incoming};
use darter_service::notify::{Notifier, State};
use darter_service::ready::Readiness;
use darter_service::supervise::{ComponentError, Ended, Supervisor, Tasks};
use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use self::core::{Core, CoreError};
use folders::Folders;
use images::{Images, Settings};
use metrics::Metrics;
use proto::services::snapshots::v1::snapshots_server::SnapshotsServer;
use reference::References;
use service::Service;

/// Code generated from `proto/`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    unreachable_pub,
    missing_debug_implementations
)]
pub mod proto {
    /// `containerd.types`
    pub mod types {
        tonic::include_proto!("containerd.types");
    }
    /// Services of containerd, and of its snapshotters.
    pub mod services {
        /// `containerd.services.content`
        pub mod content {
            /// Version 1.
            pub mod v1 {
                tonic::include_proto!("containerd.services.content.v1");
            }
        }
        /// `containerd.services.images`
        pub mod images {
            /// Version 1.
            pub mod v1 {
                tonic::include_proto!("containerd.services.images.v1");
            }
        }
        /// `containerd.services.snapshots`
        pub mod snapshots {
            /// Version 1.
            pub mod v1 {
                tonic::include_proto!("containerd.services.snapshots.v1");
            }
        }
    }
}

/// Connections at the same time: containerd has one.
const CONNECTIONS_MAX: usize = 64;
/// Requests of a connection that are worked on at the same time; more wait.
const REQUESTS_MAX: usize = 128;
/// Longest request.
const REQUEST_BYTES_MAX: usize = 1 << 20;
/// Between two looks at the mounts.
const WATCH_INTERVAL: Duration = Duration::from_secs(10);
/// A folder that its group or anybody can write to.
const OTHERS_WRITE: u32 = 0o022;
/// A folder such as `/tmp`.
const STICKY: u32 = 0o1000;
/// How long what has begun may take when the process ends.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// What is given to a snapshotter.
#[derive(Debug)]
pub struct RunParts {
    /// Where everything is kept.
    pub root: PathBuf,
    /// Where containerd asks.
    pub socket: PathBuf,
    /// Where containerd is asked.
    pub containerd: PathBuf,
    /// The admin port, if there is one.
    pub admin: Option<Address>,
    /// How images are mounted.
    pub images: Settings,
    /// What is logged.
    pub log: LogHandle,
    /// Who hears that it is ready and stopping.
    pub notify: Notifier,
    /// Ends it, in order.
    pub stop: CancellationToken,
}

/// Why it did not start, or did not go on.
#[derive(Debug, Error)]
pub enum RunError {
    /// The admin port cannot be opened.
    #[error(transparent)]
    Admin(#[from] OpenError),
    /// The folder cannot be used.
    #[error("cannot use the folder {path}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The socket cannot be opened.
    #[error("cannot listen on {path}: does another snapshotter run?")]
    Socket {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others could put another socket in its place.
    #[error(
        "the folder {0} can be written by others than root, who could then tell containerd what to mount: name a socket in a folder of root's own"
    )]
    Shared(PathBuf),
    /// What there was cannot be taken over.
    #[error(transparent)]
    Core(#[from] CoreError),
    /// A part ended by itself.
    #[error("{part} failed: {reason}")]
    Failed {
        /// Which.
        part: &'static str,
        /// What it said.
        reason: String,
    },
}

/// Runs a snapshotter until its `stop`. Mounts stay.
///
/// # Errors
/// It did not start, or one of its parts failed.
pub async fn run(parts: RunParts) -> Result<(), RunError> {
    let mut registry = Registry::default();
    build_info::register(&mut registry);
    parts.log.register(&mut registry);
    let metrics = Metrics::register(&mut registry);
    let (stop, tasks) = (parts.stop.clone(), Tasks::new());
    let network: Arc<dyn Network> = Arc::new(TokioNetwork);
    let admin = match &parts.admin {
        Some(address) => Some(AdminPort::bind(&*network, address).await?),
        None => None,
    };
    let core = open(&parts, &tasks, &metrics)?;
    let serving = CancellationToken::new();
    let mut supervisor = Supervisor::new(serving.clone());
    let readiness = Readiness::new();
    let admin = admin.map(|port| {
        port.serve(Admin::new(Parts {
            readiness: readiness.clone(),
            registry,
            config_text: String::new(),
            log: parts.log.clone(),
            tasks: tasks.clone(),
            routes: Default::default(),
        }))
    });
    core.recover().await?;
    serve(&mut supervisor, &parts, &network, &core, &metrics, &serving).await?;
    tracing::info!(socket = %parts.socket.display(), root = %parts.root.display(), "snapshotter is ready");
    parts.notify.tell(State::Ready);

    let stopping = async {
        stop.cancelled().await;
        parts.notify.tell(State::Stopping);
        readiness.stop();
        serving.cancel();
        std::future::pending::<()>().await;
    };
    let lost = async {
        match &admin {
            Some(admin) => admin.failed().await,
            None => std::future::pending().await,
        }
    };
    let mut running = std::pin::pin!(supervisor.run(STOP_GRACE));
    let ended = tokio::select! {
        biased;
        ended = &mut running => ended,
        failure = lost => {
            serving.cancel();
            running.await;
            Ended::Failed(failure.component, failure.reason.into())
        }
        () = stopping => Ended::Stopped,
    };
    tasks.shut_down(STOP_GRACE).await;
    if let Some(admin) = admin {
        admin.end().await;
    }
    match ended {
        Ended::Stopped => Ok(()),
        Ended::Failed(part, reason) => Err(RunError::Failed {
            part,
            reason: reason.to_string(),
        }),
    }
}

fn open(parts: &RunParts, tasks: &Tasks, metrics: &Metrics) -> Result<Core, RunError> {
    let folders = Folders::new(&parts.root).map_err(|source| RunError::Folder {
        path: parts.root.clone(),
        source,
    })?;
    let images = Images::new(
        parts.images.clone(),
        folders.clone(),
        tasks.clone(),
        metrics.clone(),
    );
    Ok(Core::open(core::Parts {
        folders,
        images,
        references: References::new(parts.containerd.clone()),
        tasks: tasks.clone(),
        metrics: metrics.clone(),
    })?)
}

/// Opens the socket and answers on it.
async fn serve(
    supervisor: &mut Supervisor,
    parts: &RunParts,
    network: &Arc<dyn Network>,
    core: &Core,
    metrics: &Metrics,
    stop: &CancellationToken,
) -> Result<(), RunError> {
    let socket = |source| RunError::Socket {
        path: parts.socket.clone(),
        source,
    };
    check_folder(&parts.socket)?;
    let listener = network
        .bind(&Address::Unix(parts.socket.clone()))
        .await
        .map_err(socket)?;
    let service = SnapshotsServer::new(Service::new(core.clone(), metrics.clone()));
    let service = service.max_decoding_message_size(REQUEST_BYTES_MAX);
    let router = Server::builder()
        .concurrency_limit_per_connection(REQUESTS_MAX)
        .add_service(service);
    let (connections, until) = (Box::pin(incoming(listener, CONNECTIONS_MAX)), stop.clone());
    supervisor.add("snapshots", async move {
        let served = router.serve_with_incoming_shutdown(connections, until.cancelled());
        served.await.map_err(|error| Box::new(error) as ComponentError)
    });
    let (core, until) = (core.clone(), stop.clone());
    supervisor.add("watch of the mounts", async move {
        until.run_until_cancelled(watch(core)).await;
        Ok(())
    });
    Ok(())
}

/// Whoever can put another socket in the place of this one tells containerd what to mount.
fn check_folder(socket: &Path) -> Result<(), RunError> {
    let folder = socket.parent().unwrap_or(Path::new("/"));
    let Ok(folder) = folder.canonicalize() else {
        // It is made with the socket, if it can be.
        return Ok(());
    };
    let owners = [0, rustix::process::geteuid().as_raw()];
    for (above, place) in folder.ancestors().enumerate() {
        let Ok(found) = place.metadata() else { continue };
        // In a sticky folder nobody renames what belongs to another.
        let kept = found.mode() & OTHERS_WRITE == 0 || (above > 0 && found.mode() & STICKY != 0);
        if !owners.contains(&found.uid()) || !kept {
            return Err(RunError::Shared(place.to_owned()));
        }
    }
    Ok(())
}

async fn watch(core: Core) {
    let mut ticks = interval(WATCH_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match timeout(WATCH_INTERVAL, core.watch(false)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the mounts cannot be looked at"),
            Err(_) => tracing::warn!("a look at the mounts takes long"),
        }
    }
}
