//! The scheduler's configuration: every key with its default and why.

use darter_proto::limits::PARENTS_MAX;
use darter_service::config::{Period, Problems, Validate};
use darter_service::log::LogConfig;
use darter_service::manager::ManagerConfig;
use darter_service::tls::TlsConfig;
use darter_service::traces::TracesConfig;
use darter_service::watchdog::WatchdogConfig;
use serde::{Deserialize, Serialize};

use crate::evaluator::Weights;
use crate::schedule::Settings;

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Config {
    /// Version of this format; 1 is the only one so far.
    pub version: u32,
    /// Where nodes connect, `ip:port`; all addresses by default, for the nodes are other machines.
    pub listen: String,
    /// Where nodes reach this scheduler, `host:port`, written as in `schedulers`. Needed only with several.
    pub advertise: String,
    /// All schedulers of the cluster, `host:port`, this one included, the same list on each. Tasks are spread
    /// over them by consistent hashing. Empty: this one alone.
    pub schedulers: Vec<String>,
    /// The manager, if there is one.
    pub manager: ManagerConfig,
    /// Whether nodes must prove who they are, and this scheduler proves it to them. Its certificate is for the host of
    /// the address under which nodes know it, and a node is believed to be what its own certificate is for.
    pub tls: TlsConfig,
    /// The admin port.
    pub admin: Admin,
    /// Who exchanges with whom.
    pub parents: ParentsConfig,
    /// Fetching from origins.
    pub lease: LeaseConfig,
    /// Bounds of what is kept.
    pub limits: Limits,
    /// When a scheduler that hangs ends itself.
    pub watchdog: WatchdogConfig,
    /// What is logged.
    pub log: LogConfig,
    /// Where traces go.
    pub traces: TracesConfig,
}

/// The admin port: health, metrics, this configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Admin {
    /// Where it listens; loopback by default, since it tells much and asks for nothing.
    pub listen: String,
}

/// Who exchanges with whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct ParentsConfig {
    /// Most neighbours of a node that wants a content, 2 to 32. Ten come within 1.1 of the optimum; more cost
    /// connections. Nodes that only serve have up to twice as many.
    pub count_max: usize,
    /// How long a host is not offered that sent wrong bytes, and the longest that any bad host is left out.
    pub block: Period,
    /// How long a slow or unreachable host is left out the first time; doubled each time, up to `block`.
    pub trial_after: Period,
}

/// Fetching from origins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct LeaseConfig {
    /// How long the holder of a lease may take until the first byte.
    pub first_byte: Period,
    /// How long it may then make no progress before the lease passes on.
    pub stall: Period,
    /// How long after its start a scheduler gives no leases, so that nodes can say what they hold first.
    pub grace: Period,
    /// How long a host that disappointed with a task does not get its lease again.
    pub pause: Period,
    /// How long the digest chain of a content is kept that nobody wants.
    pub chain_idle: Period,
}

/// Bounds of what is kept. At each of them wants are sent to the origin, never queued without end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Limits {
    /// Most hosts that are remembered; connections of further ones are refused.
    pub hosts_max: usize,
    /// Most tasks; the one that nobody wanted for longest makes room.
    pub tasks_max: usize,
    /// Most peers of one task.
    pub peers_per_task_max: usize,
    /// Most wants that are parked at a time.
    pub wants_parked_max: usize,
    /// Most messages that wait for one node; a node that is slower is disconnected.
    pub messages_per_host_max: usize,
    /// Most messages of nodes that wait for a decision; further ones wait in their connections.
    pub messages_waiting_max: usize,
    /// How long a host without a connection is remembered, with what is known of its behaviour.
    pub host_forget: Period,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            version: 1,
            listen: "0.0.0.0:8002".into(),
            advertise: String::new(),
            schedulers: Vec::new(),
            manager: ManagerConfig::default(),
            tls: TlsConfig::default(),
            admin: Admin::default(),
            parents: ParentsConfig::default(),
            lease: LeaseConfig::default(),
            limits: Limits::default(),
            watchdog: WatchdogConfig::default(),
            log: LogConfig::default(),
            traces: TracesConfig::default(),
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8003".into(),
        }
    }
}

impl Default for ParentsConfig {
    fn default() -> Self {
        Self {
            count_max: 10,
            block: Period::mins(10),
            trial_after: Period::secs(30),
        }
    }
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self {
            first_byte: Period::secs(10),
            stall: Period::secs(5),
            grace: Period::secs(1),
            pause: Period::secs(30),
            chain_idle: Period::mins(5),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            hosts_max: 20_000,
            tasks_max: 200_000,
            peers_per_task_max: 20_000,
            wants_parked_max: 1_000_000,
            messages_per_host_max: 8_192,
            messages_waiting_max: 4_096,
            host_forget: Period::hours(1),
        }
    }
}

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path of the key, for example `parents.countMax`.
    pub path: &'static str,
    /// What is wrong and what to write instead.
    pub what: String,
}

impl Config {
    /// Everything that is wrong with it; empty if it can be used.
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut check = |good: bool, path, what: &str| {
            if !good {
                problems.push(Problem {
                    path,
                    what: what.to_owned(),
                });
            }
        };
        check(self.version == 1, "version", "only version 1 is known");
        check(is_address(&self.listen), "listen", "write ip:port");
        check(is_address(&self.admin.listen), "admin.listen", "write ip:port");
        check(
            self.schedulers.iter().all(|address| is_address(address)),
            "schedulers",
            "write each as host:port",
        );
        check(
            self.schedulers.is_empty() || self.schedulers.contains(&self.advertise),
            "advertise",
            "with several schedulers, write this one's address as `schedulers` has it",
        );
        let parents = 2..=PARENTS_MAX / 2;
        check(
            parents.contains(&self.parents.count_max),
            "parents.countMax",
            "write a number from 2 to 32",
        );
        self.check_periods(&mut check);
        self.check_limits(&mut check);
        problems
    }

    fn check_periods(&self, check: &mut impl FnMut(bool, &'static str, &str)) {
        for (path, period) in [
            ("parents.block", self.parents.block),
            ("parents.trialAfter", self.parents.trial_after),
            ("lease.firstByte", self.lease.first_byte),
            ("lease.stall", self.lease.stall),
            ("lease.pause", self.lease.pause),
            ("lease.chainIdle", self.lease.chain_idle),
            ("limits.hostForget", self.limits.host_forget),
        ] {
            check(!period.is_zero(), path, "write a time above zero");
        }
    }

    fn check_limits(&self, check: &mut impl FnMut(bool, &'static str, &str)) {
        for (path, limit) in [
            ("limits.hostsMax", self.limits.hosts_max),
            ("limits.tasksMax", self.limits.tasks_max),
            ("limits.peersPerTaskMax", self.limits.peers_per_task_max),
            ("limits.wantsParkedMax", self.limits.wants_parked_max),
            ("limits.messagesPerHostMax", self.limits.messages_per_host_max),
            ("limits.messagesWaitingMax", self.limits.messages_waiting_max),
        ] {
            check(limit > 0, path, "write a number above zero");
        }
    }

    /// What decisions depend on, for one life of the scheduler.
    pub fn settings(&self, incarnation: u64, seed: u64) -> Settings {
        let mut schedulers = self.schedulers.clone();
        schedulers.sort();
        Settings {
            advertise: self.advertise.clone(),
            schedulers,
            incarnation,
            seed,
            parents_max: self.parents.count_max,
            lease_first_byte: self.lease.first_byte.as_duration(),
            lease_stall: self.lease.stall.as_duration(),
            lease_grace: self.lease.grace.as_duration(),
            lease_pause: self.lease.pause.as_duration(),
            links_answer: Settings::default().links_answer,
            chain_idle: self.lease.chain_idle.as_duration(),
            block: self.parents.block.as_duration(),
            trial_after: self.parents.trial_after.as_duration(),
            host_forget: self.limits.host_forget.as_duration(),
            hosts_max: self.limits.hosts_max,
            tasks_max: self.limits.tasks_max,
            peers_per_task_max: self.limits.peers_per_task_max,
            wants_parked_max: self.limits.wants_parked_max,
            weights: Weights::default(),
        }
    }
}

impl Validate for Config {
    fn validate(&self, problems: &mut Problems) {
        for problem in self.problems() {
            problems.add(problem.path, problem.what);
        }
        problems.within("manager", |problems| {
            self.manager.validate(!self.tls.is_off(), problems)
        });
        problems.within("tls", |problems| self.tls.validate(problems));
        problems.within("watchdog", |problems| self.watchdog.validate(problems));
        problems.within("log", |problems| self.log.validate(problems));
        problems.within("traces", |problems| self.traces.validate(problems));
    }
}

fn is_address(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_good_and_are_those_of_the_settings() {
        let config = Config::default();
        assert_eq!(config.problems(), []);
        assert_eq!(config.settings(0, 0), Settings::default());
    }

    #[test]
    fn what_is_taken_is_taken_again() {
        darter_testkit::fuzz::check("config", darter_service::config::fuzz_config::<Config>);
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let mut config = Config {
            version: 2,
            listen: "nowhere".into(),
            schedulers: vec!["a:1".into()],
            ..Config::default()
        };
        config.parents.count_max = 100;
        config.lease.stall = Period::secs(0);
        config.limits.tasks_max = 0;
        let paths: Vec<&str> = config.problems().iter().map(|problem| problem.path).collect();
        assert_eq!(
            paths,
            [
                "version",
                "listen",
                "advertise",
                "parents.countMax",
                "lease.stall",
                "limits.tasksMax"
            ]
        );
    }
}
