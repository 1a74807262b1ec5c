//! `darter scheduler run`: a scheduler on real sockets with an admin port.
//!
//! [`App`] puts the role together; this file gives it what belongs to a process and takes it down in order: not ready any
//! more, the streams of nodes ended, the admin port last. Nodes go on without it, and tell the next one everything.

use std::collections::BTreeMap;
use std::sync::Arc;

use darter_service::admin::{Admin, AdminPort, AdminPortError, Parts};
use darter_service::build_info;
use darter_service::config::{ConfigError, to_yaml};
use darter_service::log::LogHandle;
use darter_service::net::{Address, AddressError, Network};
use darter_service::notify::{Notifier, State};
use darter_service::ready::Readiness;
use darter_service::supervise::{Ended, Supervisor};
use darter_service::watchdog::Watchdog;
use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::app::{App, AppError, STOP_GRACE};
use crate::config::Config;

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
    Admin(#[from] AdminPortError),
    /// The address of the admin port is none.
    #[error("admin.listen")]
    Address(#[from] AddressError),
    /// The configuration cannot be shown.
    #[error("the configuration cannot be shown")]
    Config(#[from] ConfigError),
    /// The system gives no thread.
    #[error("the watchdog cannot be started")]
    Watchdog(#[source] std::io::Error),
    /// The port cannot be opened, or a component failed.
    #[error(transparent)]
    App(#[from] AppError),
}

/// Runs a scheduler until its `stop`; `ready` is told where it can be reached as soon as it serves.
///
/// # Errors
/// It did not start, or one of its components failed. Nothing of it runs then.
pub async fn run(parts: RunParts, ready: impl FnOnce(&Ports)) -> Result<(), RunError> {
    let (config, stop, notify) = (parts.config, parts.stop, parts.notify);
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
    let port = AdminPort::bind(&parts.network, &listen).await?;
    let app = App::bind(
        &config,
        &parts.network,
        &mut registry,
        parts.incarnation,
        parts.seed,
    )
    .await?;
    let ports = Ports {
        grpc: app
            .local_addr()
            .map_or_else(|_| config.listen.clone(), |address| address.to_string()),
        admin: port.address(),
    };
    let readiness = Readiness::new();
    let serving = CancellationToken::new();
    let mut supervisor = Supervisor::new(serving.clone());
    let admin = port.serve(Admin::new(Parts {
        readiness: readiness.clone(),
        registry,
        config_text: to_yaml(&config)?,
        log: parts.log,
        tasks: supervisor.tasks(),
        routes: BTreeMap::new(),
    }));
    app.add_to(&mut supervisor, &serving);
    tracing::info!(listen = ports.grpc, admin = ports.admin, "scheduler is ready");
    let watchdog =
        Watchdog::of_role(&config.watchdog, &ports.admin, "/livez", &notify).map_err(RunError::Watchdog)?;
    notify.tell(State::Ready);
    ready(&ports);

    let stopping = async {
        stop.cancelled().await;
        notify.tell(State::Stopping);
        drop(watchdog);
        readiness.stop();
        serving.cancel();
        std::future::pending::<()>().await;
    };
    let mut running = std::pin::pin!(supervisor.run(STOP_GRACE));
    let ended = tokio::select! {
        biased;
        ended = &mut running => ended,
        failure = admin.failed() => {
            serving.cancel();
            running.await;
            Ended::Failed(failure.component, failure.reason.into())
        }
        () = stopping => Ended::Stopped,
    };
    admin.end().await;
    match ended {
        Ended::Stopped => tracing::info!("scheduler has stopped"),
        Ended::Failed(component, reason) => return Err(AppError::failed(component, &*reason).into()),
    }
    Ok(())
}
