//! `darter manager run`: a manager on real sockets with an admin port.
//!
//! [`App`] puts the role together; this file gives it what belongs to a process. Nodes and schedulers go on without it.

use std::sync::Arc;

use darter_service::admin::AdminPort;
use darter_service::build_info;
use darter_service::config::{ConfigError, Secret, to_yaml};
use darter_service::log::LogHandle;
use darter_service::net::{Network, OpenError};
use darter_service::notify::Notifier;
use darter_service::role::Role;
use darter_service::supervise::{Ended, Supervisor};
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
    /// Where schedulers and nodes join.
    pub roles: String,
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
    Admin(#[from] OpenError),
    /// The configuration cannot be shown.
    #[error("the configuration cannot be shown")]
    Config(#[from] ConfigError),
    /// The system gives no thread.
    #[error("the watchdog cannot be started")]
    Watchdog(#[source] std::io::Error),
    /// The web port or the store cannot be opened.
    #[error(transparent)]
    App(#[from] AppError),
    /// A component ended unasked.
    #[error("{component} failed: {reason}")]
    Failed {
        /// Which.
        component: &'static str,
        /// What it said.
        reason: String,
    },
}

/// Runs a manager until its `stop`; `ready` is told where it can be reached as soon as it serves.
///
/// # Errors
/// It did not start, or one of its components failed. Nothing of it runs then.
pub async fn run(parts: RunParts, ready: impl FnOnce(&Started)) -> Result<(), RunError> {
    let config = parts.config;
    let mut registry = Registry::default();
    build_info::register(&mut registry);
    parts.log.register(&mut registry);
    if !config.web.is_secure() {
        tracing::warn!(
            "passwords and tokens travel in the clear: put a proxy with TLS before it and set web.publicUrl to its https \
             address, or keep it on a network that you trust"
        );
    }
    let admin = AdminPort::bind(&*parts.network, &config.admin.listen).await?;
    let serving = CancellationToken::new();
    let mut supervisor = Supervisor::new(serving.clone());
    let app = App::bind(
        &config,
        &*parts.network,
        &mut registry,
        parts.clock,
        supervisor.tasks(),
    )
    .await?;
    let started = Started {
        web: app.address().to_owned(),
        roles: app.roles_address().to_owned(),
        admin: admin.address(),
        first_password: app.first_password.clone(),
    };
    let store = app.store();
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
        tracing::info!(
            listen = started.web,
            roles = started.roles,
            admin = started.admin,
            "manager is ready"
        );
        ready(&started);
    };
    let ended = role.run(parts.stop, ready).await;
    store.close().await;
    match ended.map_err(RunError::Watchdog)? {
        Ended::Stopped => tracing::info!("manager has stopped"),
        Ended::Failed(component, reason) => {
            let reason = reason.to_string();
            return Err(RunError::Failed { component, reason });
        }
    }
    Ok(())
}
