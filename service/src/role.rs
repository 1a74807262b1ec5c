//! The life of a role whose components a [`Supervisor`] owns: ready, until it is asked to stop or one of them ends, then taken
//! down in order: not ready any more, the components, the admin port last.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::admin::{Admin, AdminPort, Parts};
use crate::log::LogHandle;
use crate::notify::{Notifier, State};
use crate::ready::Readiness;
use crate::supervise::{Ended, Supervisor};
use crate::watchdog::{Watchdog, WatchdogConfig};

/// What a role is made of by the time that it serves.
#[derive(Debug)]
#[expect(missing_docs, reason = "each field is what its type says")]
pub struct Role {
    pub supervisor: Supervisor,
    /// Asks the supervisor's components to stop.
    pub serving: CancellationToken,
    pub admin: AdminPort,
    pub registry: Registry,
    /// What `/config` shows.
    pub config_text: String,
    pub log: LogHandle,
    pub watchdog: WatchdogConfig,
    /// Who hears that it is ready, alive and stopping.
    pub notify: Notifier,
    /// How long components may take to end.
    pub grace: Duration,
}

impl Role {
    /// Answers on the admin port, says that it is `ready`, and goes on until `stop` or until a component ends.
    ///
    /// # Errors
    /// The system gives no thread to the watchdog.
    pub async fn run(self, stop: CancellationToken, ready: impl FnOnce()) -> io::Result<Ended> {
        let readiness = Readiness::new();
        let admin_address = self.admin.address();
        let admin = self.admin.serve(Admin::new(Parts {
            readiness: readiness.clone(),
            registry: self.registry,
            config_text: self.config_text,
            log: self.log,
            tasks: self.supervisor.tasks(),
            routes: BTreeMap::new(),
        }));
        let (notify, serving) = (self.notify, self.serving);
        let watchdog = Watchdog::of_role(&self.watchdog, &admin_address, "/livez", &notify)?;
        notify.tell(State::Ready);
        ready();

        let stopping = async {
            stop.cancelled().await;
            notify.tell(State::Stopping);
            drop(watchdog);
            readiness.stop();
            serving.cancel();
            std::future::pending::<()>().await;
        };
        let mut running = std::pin::pin!(self.supervisor.run(self.grace));
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
        Ok(ended)
    }
}
