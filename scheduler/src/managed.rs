//! What a manager changes in a scheduler that runs: the keys of the cluster's configuration. It tells nodes of this scheduler.

use std::sync::Arc;

use darter_proto::WIRE_VERSION;
use darter_proto::manager::{Instance, MemberRole, State};
use darter_service::manager::document::Document;
use darter_service::manager::{self, JoinParts, Member, saved};
use darter_service::net::{Network, advertised};
use darter_service::supervise::Tasks;
use darter_types::HostId;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::config::Config;
use crate::run::RunError;
use crate::schedule::Tuning;
use crate::service::Handle;

/// What joining takes.
pub(crate) struct Managed<'a> {
    pub(crate) config: &'a Config,
    pub(crate) host: HostId,
    /// Where it listens.
    pub(crate) address: &'a str,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) seed: u64,
}

impl Managed<'_> {
    /// Joins, if there is a manager.
    ///
    /// # Errors
    /// It is not known where nodes reach this scheduler.
    pub(crate) fn start(self, app: &App, tasks: &Tasks, stop: &CancellationToken) -> Result<(), RunError> {
        let config = self.config.manager.clone();
        let Some(file) = manager::file(&config, "scheduler") else {
            return Ok(());
        };
        let address = match self.config.advertise.as_str() {
            "" => advertised(self.address, &config.addresses).ok_or(RunError::Unknown)?,
            given => given.to_owned(),
        };
        let (handle, tls) = app.managed();
        let parts = JoinParts {
            network: self.network,
            tls,
            tasks: tasks.clone(),
            stop: stop.clone(),
            instance: Instance {
                wire_version: WIRE_VERSION,
                role: MemberRole::Scheduler,
                host: self.host,
                address,
                idc: String::new(),
                location: String::new(),
                build: env!("CARGO_PKG_VERSION").to_owned(),
                state: State::Serving,
                running: 0,
                refused: None,
            },
            saved: saved::read(&file),
            seed: self.seed,
            config,
        };
        let own = self.config.clone();
        manager::start(parts, Arc::new(SchedulerMember { handle, own }));
        Ok(())
    }
}

struct SchedulerMember {
    handle: Handle,
    own: Config,
}

impl Member for SchedulerMember {
    /// Its own file says which others there are: nodes hear of all from the manager.
    fn schedulers(&self, _: &[String]) {}

    fn apply(&self, document: &Document) -> Result<(), String> {
        self.handle.tune(tuning(&self.own, document));
        Ok(())
    }
}

/// The scheduler's own file under what the document sets.
fn tuning(own: &Config, document: &Document) -> Tuning {
    let (parents, lease) = (&document.scheduler.parents, &document.scheduler.lease);
    Tuning {
        parents_max: parents.count_max.unwrap_or(own.parents.count_max),
        lease_first_byte: lease.first_byte.unwrap_or(own.lease.first_byte).as_duration(),
        lease_stall: lease.stall.unwrap_or(own.lease.stall).as_duration(),
        lease_pause: lease.pause.unwrap_or(own.lease.pause).as_duration(),
        chain_idle: lease.chain_idle.unwrap_or(own.lease.chain_idle).as_duration(),
        block: parents.block.unwrap_or(own.parents.block).as_duration(),
        trial_after: parents
            .trial_after
            .unwrap_or(own.parents.trial_after)
            .as_duration(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Settings;

    #[test]
    fn what_the_document_does_not_set_is_as_the_own_file_says() {
        let mut own = Config::default();
        own.parents.count_max = 5;
        let document = Document::parse(r#"{"scheduler": {"lease": {"stall": "7s"}}}"#).unwrap();
        let mut settings = own.settings(0, 0);
        settings.tune(tuning(&own, &document));
        let expected = Settings {
            lease_stall: std::time::Duration::from_secs(7),
            ..own.settings(0, 0)
        };
        assert_eq!(settings, expected);
    }
}
