//! `darter manager run`: a manager on real sockets with an admin port.
//!
//! [`App`] puts the role together; this file gives it what belongs to a process and takes it down in order. Nodes and
//! schedulers go on without it.

use std::collections::BTreeMap;
use std::sync::Arc;

use darter_service::admin::{Admin, AdminPort, AdminPortError, Parts};
use darter_service::build_info;
use darter_service::config::{ConfigError, Secret, to_yaml};
use darter_service::log::LogHandle;
use darter_service::net::{Address, AddressError, Network};
use darter_service::notify::{Notifier, State};
use darter_service::ready::Readiness;
use darter_service::supervise::{Ended, Supervisor};
use darter_service::watchdog::Watchdog;
use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use crate::api::Clock;
use crate::app::{App, AppError, STOP_GRACE};
use crate::config::Config;

/// What a process gives to its manager.
#[expect(missing_docs, reason = "each field is what its type says")]
pub struct RunParts {
    pub config: Config,
    pub network: Arc<dyn Network>,
    pub log: LogHandle,
    /// Ends the manager, in order.
    pub stop: CancellationToken,
    /// Who hears that it is ready, alive and stopping.
    pub notify: Notifier,
    /// The wall clock.
    pub clock: Clock,
}

impl std::fmt::Debug for RunParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunParts")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// A manager that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// Where people and programs reach it.
    pub web: String,
    /// Its admin port.
    pub admin: String,
    /// The password of the user `admin`, when there was nobody before: said this once.
    pub first_password: Option<Secret>,
}

/// Why a manager did not start, or did not go on.
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
    /// A port or the store cannot be opened, or a component failed.
    #[error(transparent)]
    App(#[from] AppError),
}

/// Runs a manager until its `stop`; `ready` is told where it can be reached as soon as it serves.
///
/// # Errors
/// It did not start, or one of its components failed. Nothing of it runs then.
pub async fn run(parts: RunParts, ready: impl FnOnce(&Started)) -> Result<(), RunError> {
    let (config, stop, notify) = (parts.config, parts.stop, parts.notify);
    let mut registry = Registry::default();
    build_info::register(&mut registry);
    parts.log.register(&mut registry);
    let listen: Address = config.admin.listen.parse()?;
    let port = AdminPort::bind(&parts.network, &listen).await?;
    let serving = CancellationToken::new();
    let mut supervisor = Supervisor::new(serving.clone());
    let tasks = supervisor.tasks();
    let app = App::bind(&config, &parts.network, &mut registry, parts.clock, tasks.clone()).await?;
    let started = Started {
        web: app.web_address(),
        admin: port.address(),
        first_password: app.first_password.clone(),
    };
    let readiness = Readiness::new();
    let admin = port.serve(Admin::new(Parts {
        readiness: readiness.clone(),
        registry,
        config_text: to_yaml(&config)?,
        log: parts.log,
        tasks,
        routes: BTreeMap::new(),
    }));
    app.add_to(&mut supervisor, &serving);
    tracing::info!(listen = started.web, admin = started.admin, "manager is ready");
    let watchdog =
        Watchdog::of_role(&config.watchdog, &started.admin, "/livez", &notify).map_err(RunError::Watchdog)?;
    notify.tell(State::Ready);
    ready(&started);

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
        Ended::Stopped => tracing::info!("manager has stopped"),
        Ended::Failed(component, reason) => {
            let reason = reason.to_string();
            return Err(AppError::Failed { component, reason }.into());
        }
    }
    Ok(())
}
