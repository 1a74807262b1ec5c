//! Puts the role together: configuration, sockets, the owner of the state, the gRPC server.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use darter_service::net::{
    Address, AddressError, Limited, Listener, Network, OpenError, incoming, open, secure_incoming,
};
use darter_service::supervise::{Ended, Supervisor, Tasks};
use darter_service::tls::{CertificateRole, Expected, NodeIdentity, Protocol, TlsConnector, TlsError};
use futures_util::stream::BoxStream;
use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;

use crate::config::{Config, Problem};
use crate::metrics::Metrics;
use crate::service::{self, Handle, Owner};

/// Connections beyond one for each node: questions of operators, probes, nodes that come back before their old connection
/// is known to be dead.
const CONNECTIONS_SPARE: usize = 1024;
/// How long connections may take to end at a stop.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(5);

/// Why the scheduler did not start or went on.
#[derive(Debug, Error)]
pub enum AppError {
    /// The configuration cannot be used.
    #[error("configuration: {}", list(.0))]
    Config(Vec<Problem>),
    /// The section `tls` cannot be used. No port is open then.
    #[error("tls")]
    Tls(#[from] TlsError),
    /// The address is none.
    #[error("listen address")]
    Address(#[from] AddressError),
    /// The port could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A component ended unasked.
    #[error("{component} failed: {reason}")]
    Failed {
        /// Which.
        component: &'static str,
        /// What it said.
        reason: String,
    },
}

impl AppError {
    pub(crate) fn failed(component: &'static str, reason: &dyn std::error::Error) -> Self {
        Self::Failed {
            component,
            reason: reason.to_string(),
        }
    }
}

fn list(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems
        .iter()
        .map(|problem| format!("{}: {}", problem.path, problem.what))
        .collect();
    lines.join("; ")
}

/// A scheduler whose port is open and which serves nobody yet.
#[derive(Debug)]
pub struct App {
    listener: Box<dyn Listener>,
    address: String,
    identity: Option<NodeIdentity>,
    reload_interval: Duration,
    handle: Handle,
    owner: Owner,
    connections_max: usize,
}

impl App {
    /// Opens the port. `incarnation` names this life of the scheduler, another each time; `seed` makes its
    /// choices by chance. Metrics go to `registry`.
    pub async fn bind(
        config: &Config,
        network: &Arc<dyn Network>,
        registry: &mut Registry,
        incarnation: u64,
        seed: u64,
    ) -> Result<Self, AppError> {
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(AppError::Config(problems));
        }
        // Before the port is open: there is no way from files that cannot be used to a plain connection.
        let identity = identity(config)?;
        if let Some(identity) = &identity {
            identity.register(registry.sub_registry_with_prefix("darter_scheduler"));
        }
        let address: Address = config.listen.parse()?;
        let (listener, address) = open(&**network, &address, "nodes").await?;
        let settings = config.settings(incarnation, seed);
        let (handle, owner) = service::start(settings, &config.limits, Metrics::register(registry));
        Ok(Self {
            listener,
            address,
            identity,
            reload_interval: config.tls.reload_interval.into(),
            handle,
            owner,
            connections_max: config.limits.hosts_max.saturating_add(CONNECTIONS_SPARE),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What a manager changes in it, and with what it connects to one.
    pub(crate) fn managed(&self) -> (Handle, Option<TlsConnector>) {
        let identity = self.identity.as_ref();
        let tls = identity.map(|identity| identity.connector(Protocol::Http2).to(CertificateRole::Manager));
        (self.handle.clone(), tls)
    }

    /// Adds its components to a supervisor that stops with `stop`.
    pub fn add_to(self, supervisor: &mut Supervisor, stop: &CancellationToken) {
        let (owner, owner_stop) = (self.owner, stop.clone());
        supervisor.add("scheduler", async move {
            owner.run(owner_stop).await;
            Ok(())
        });
        let (health, health_service) = tonic_health::server::health_reporter();
        let router = self.handle.router().add_service(health_service);
        let connections: BoxStream<'static, io::Result<Limited>> = match self.identity {
            Some(identity) => {
                let (follower, until) = (identity.clone(), stop.clone());
                supervisor.add("certificates", async move {
                    follower.follow(self.reload_interval, Tasks::new(), until).await;
                    Ok(())
                });
                let wrap = identity.acceptor(Protocol::Http2);
                Box::pin(secure_incoming(self.listener, wrap, self.connections_max))
            }
            None => Box::pin(incoming(self.listener, self.connections_max)),
        };
        let stop = stop.clone();
        supervisor.add("scheduler-grpc", async move {
            health
                .set_service_status(service::NAME, ServingStatus::Serving)
                .await;
            let stopping = async move {
                stop.cancelled().await;
                // Probes that watch hear it before their connection ends.
                for name in ["", service::NAME] {
                    health.set_service_status(name, ServingStatus::NotServing).await;
                }
            };
            router.serve_with_incoming_shutdown(connections, stopping).await?;
            Ok(())
        });
    }
}

/// What the files of the section `tls` say, if any are named.
fn identity(config: &Config) -> Result<Option<NodeIdentity>, TlsError> {
    let host = config.advertise.rsplit_once(':').map(|(host, _)| host);
    let expected = Expected {
        names: host
            .map(|host| host.trim_matches(['[', ']']).to_owned())
            .into_iter()
            .collect(),
        roles: vec![CertificateRole::Scheduler],
    };
    let files = config.tls.files()?;
    files.map(|files| NodeIdentity::load(files, expected)).transpose()
}

/// Runs a scheduler until `stop`, without an admin port: see [`crate::run`] for one that has it.
pub async fn run(
    config: Config,
    network: Arc<dyn Network>,
    registry: &mut Registry,
    incarnation: u64,
    seed: u64,
    stop: CancellationToken,
) -> Result<(), AppError> {
    let app = App::bind(&config, &network, registry, incarnation, seed).await?;
    tracing::info!(listen = %config.listen, "scheduler is ready");
    let mut supervisor = Supervisor::new(stop.clone());
    app.add_to(&mut supervisor, &stop);
    match supervisor.run(STOP_GRACE).await {
        Ended::Stopped => Ok(()),
        Ended::Failed(component, reason) => Err(AppError::failed(component, &*reason)),
    }
}
