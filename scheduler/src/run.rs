//! `darter scheduler run`: a scheduler on real sockets with an admin port.
//!
//! [`App`] puts the role together; this file gives it what belongs to a process and takes it down in order: not ready any
//! more, the streams of nodes ended, the admin port last. Nodes go on without it, and tell the next one everything.

use std::sync::Arc;

use darter_service::admin::AdminPort;
use darter_service::build_info;
use darter_service::config::{ConfigError, to_yaml};
use darter_service::log::LogHandle;
use darter_service::net::{Address, AddressError, Network, OpenError};
use darter_service::notify::Notifier;
use darter_service::role::Role;
use darter_service::supervise::{Ended, Supervisor};
use darter_types::HostId;
use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::app::{App, AppError, STOP_GRACE};
use crate::config::Config;
use crate::managed::Managed;

/// What a process gives to its scheduler.
#[derive(Debug)]
#[expect(missing_docs, reason = "each field is what its type says")]
pub struct RunParts {
    pub config: Config,
    pub network: Arc<dyn Network>,
    pub log: LogHandle,
    /// Ends the scheduler, in order.
    pub stop: CancellationToken,
    /// Who hears that it is ready, alive and stopping.
    pub notify: Notifier,
    /// Names this life of the scheduler: another number at each start.
    pub incarnation: u64,
    /// Seed of all its randomness.
    pub seed: u64,
    /// The machine's name.
    pub host: HostId,
}

/// Where a scheduler that runs can be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Nodes, and the questions of an operator.
    pub grpc: String,
    /// Its admin port.
    pub admin: String,
}

/// Why a scheduler did not start, or did not go on.
#[derive(Debug, Error)]
pub enum RunError {
    /// The admin port cannot be opened.
    #[error(transparent)]
    Admin(#[from] OpenError),
    /// The address of the admin port is none.
    #[error("admin.listen")]
    Address(#[from] AddressError),
    /// The configuration cannot be shown.
    #[error("the configuration cannot be shown")]
    Config(#[from] ConfigError),
    /// The system gives no thread.
    #[error("the watchdog cannot be started")]
    Watchdog(#[source] std::io::Error),
    /// It is not known where nodes reach it.
    #[error(
        "the manager is to tell nodes where this scheduler is: set advertise to the host:port where they reach it"
    )]
    Unknown,
    /// The port cannot be opened, or a component failed.
    #[error(transparent)]
    App(#[from] AppError),
}

/// Runs a scheduler until its `stop`; `ready` is told where it can be reached as soon as it serves.
///
/// # Errors
/// It did not start, or one of its components failed. Nothing of it runs then.
pub async fn run(parts: RunParts, ready: impl FnOnce(&Ports)) -> Result<(), RunError> {
    let config = parts.config;
    let mut registry = Registry::default();
    build_info::register(&mut registry);
    parts.log.register(&mut registry);
    if config.tls.is_off() {
        tracing::warn!(
            "streams of nodes are neither encrypted nor authenticated: set tls.certFile, tls.keyFile and tls.caFile, or \
             keep them on a network that you trust"
        );
    }
    let listen: Address = config.admin.listen.parse()?;
    let admin = AdminPort::bind(&*parts.network, &listen).await?;
    let app = App::bind(
        &config,
        &parts.network,
        &mut registry,
        parts.incarnation,
        parts.seed,
    )
    .await?;
    let ports = Ports {
        grpc: app.address().to_owned(),
        admin: admin.address(),
    };
    let serving = CancellationToken::new();
    let mut supervisor = Supervisor::new(serving.clone());
    let managed = Managed {
        config: &config,
        host: parts.host,
        address: &ports.grpc,
        network: parts.network,
        seed: parts.seed,
    };
    managed.start(&app, &supervisor.tasks(), &serving)?;
    app.add_to(&mut supervisor, &serving);
    let role = Role {
        supervisor,
        serving,
        admin,
        registry,
        config_text: to_yaml(&config)?,
        log: parts.log,
        watchdog: config.watchdog,
        notify: parts.notify,
        grace: STOP_GRACE,
    };
    let ready = || {
        tracing::info!(listen = ports.grpc, admin = ports.admin, "scheduler is ready");
        ready(&ports);
    };
    match role.run(parts.stop, ready).await.map_err(RunError::Watchdog)? {
        Ended::Stopped => tracing::info!("scheduler has stopped"),
        Ended::Failed(component, reason) => return Err(AppError::failed(component, &*reason).into()),
    }
    Ok(())
}
