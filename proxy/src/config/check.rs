//! What is wrong with a proxy's configuration beyond the types of its values.

use darter_origin::RegistryConfig;
use darter_service::config::{ByteSize, Period, Problems, Validate};
use darter_service::net::Address;
use darter_types::RegistryName;

use super::{Config, OTHERS, StoreConfig};
use crate::mirror::is_local;
use crate::peer::PeerConfig;
use crate::pull::PullConfig;
use crate::scheduling::SchedulingConfig;

/// Pieces of the largest size, one for each of two parents: with less, a pull of a large content cannot go on.
const BUFFER_MIN: ByteSize = ByteSize::mib(8);
/// With less, a piece of the largest size would take so long that its receiver gives up.
const RATE_MIN: ByteSize = ByteSize::mib(1);

impl Validate for Config {
    fn free_form() -> &'static [&'static str] {
        &["origin.registries", "store.registryQuotas"]
    }

    fn validate(&self, problems: &mut Problems) {
        if self.version != 1 {
            problems.add("version", "only version 1 is known");
        }
        problems.within("mirror", |problems| self.mirror.validate(problems));
        problems.within("forward", |problems| self.forward.validate(problems));
        problems.within("access", |problems| self.access.validate(problems));
        // The section says its own paths.
        for problem in self.origin.problems("origin") {
            let (path, what) = problem.split_once(": ").unwrap_or(("origin", &problem));
            // `registries["x"]` as every other problem has it.
            problems.add(&path.replace("[\"", ".\"").replace("\"]", "\""), what);
        }
        check_lent(self, problems);
        problems.within("pull", |problems| check_pull(&self.pull, problems));
        problems.within("peer", |problems| check_peer(&self.peer, problems));
        problems.within("scheduler", |problems| {
            check_scheduling(&self.scheduler, problems)
        });
        problems.within("manager", |problems| {
            self.manager.validate(!self.tls.is_off(), problems)
        });
        problems.within("tls", |problems| self.tls.validate(problems));
        problems.within("store", |problems| {
            if !self.store.dir.is_absolute() {
                problems.add("dir", "must be an absolute path, such as /var/lib/darter/store");
            }
            if let Some(interval) = self.store.scrub_interval {
                more_than_nothing("scrubInterval", interval, problems);
            }
            if self.store.quota == ByteSize::default() {
                problems.add("quota", "must be more than 0B: write for example 100GiB");
            }
            problems.within("registryQuotas", |problems| {
                check_quotas(&self.store, problems);
            });
        });
        problems.within("containerd", |problems| self.containerd.validate(problems));
        problems.within("watchdog", |problems| self.watchdog.validate(problems));
        problems.within("log", |problems| self.log.validate(problems));
        problems.within("traces", |problems| self.traces.validate(problems));
    }
}

/// Whose process a client is, only this machine can tell.
fn check_lent(config: &Config, problems: &mut Problems) {
    let lent = |registry: &RegistryConfig| registry.credentials.is_some();
    let Some((name, _)) = config.origin.registries.iter().find(|(_, entry)| lent(entry)) else {
        return;
    };
    let forward = config
        .forward
        .listen
        .map(|address| Address::Tcp(address.to_string()));
    let ports = [
        ("mirror.listen", Some(&config.mirror.listen)),
        ("forward.listen", forward.as_ref()),
    ];
    for (key, listen) in ports {
        if listen.is_some_and(|listen| !is_local(listen)) {
            problems.add(
                key,
                format!("must be a loopback address, such as 127.0.0.1, while {name} has credentials that are shared"),
            );
        }
    }
}

fn check_pull(pull: &PullConfig, problems: &mut Problems) {
    for (key, count) in [
        ("pullsMax", pull.pulls_max),
        ("requestsMax", pull.requests_max),
        ("requestsTotalMax", pull.requests_total_max),
        ("parentsMax", pull.parents_max),
    ] {
        at_least_one(key, count, problems);
    }
    more_than_nothing("readerPatience", pull.reader_patience, problems);
    check_rate("bytesPerSecondMax", pull.bytes_per_second_max, problems);
    let background = pull.background_bytes_per_second_max;
    check_rate("backgroundBytesPerSecondMax", background, problems);
}

fn check_peer(peer: &PeerConfig, problems: &mut Problems) {
    for (key, count) in [
        ("connectionsMax", peer.connections_max),
        ("uploadsMax", peer.uploads_max),
    ] {
        at_least_one(key, count, problems);
    }
    more_than_nothing("stallTimeout", peer.stall_timeout, problems);
    more_than_nothing("silenceMax", peer.silence_max, problems);
    more_than_nothing("connectTimeout", peer.connect_timeout, problems);
    if peer.buffer_bytes_max < BUFFER_MIN {
        problems.add("bufferBytesMax", format!("must be at least {BUFFER_MIN}"));
    }
    let rates = [
        ("uploadBytesPerSecondMax", peer.upload_bytes_per_second_max),
        (
            "uploadBytesPerSecondMaxPerNode",
            peer.upload_bytes_per_second_max_per_node,
        ),
    ];
    for (key, rate) in rates {
        check_rate(key, rate, problems);
    }
    if peer
        .advertise
        .as_deref()
        .is_some_and(|address| !is_authority(address))
    {
        problems.add("advertise", "must be host:port, as other nodes reach this one");
    }
}

fn check_quotas(store: &StoreConfig, problems: &mut Problems) {
    for (name, quota) in &store.registry_quotas {
        let key = format!("\"{name}\"");
        if name != OTHERS
            && let Err(error) = name.parse::<RegistryName>()
        {
            problems.add(&key, error.to_string());
        }
        if *quota == ByteSize::default() {
            problems.add(&key, "must be more than 0B");
        }
    }
}

fn check_scheduling(scheduler: &SchedulingConfig, problems: &mut Problems) {
    for (index, address) in scheduler.addresses.iter().enumerate() {
        if !is_authority(address) {
            problems.add(
                &format!("addresses.{index}"),
                format!("must be host:port, not {address:?}"),
            );
        }
    }
    more_than_nothing("reconnectPause", scheduler.reconnect_pause, problems);
    more_than_nothing("loadInterval", scheduler.load_interval, problems);
}

fn check_rate(key: &str, rate: Option<ByteSize>, problems: &mut Problems) {
    if rate.is_some_and(|rate| rate < RATE_MIN) {
        problems.add(
            key,
            format!("must be at least {RATE_MIN}, or absent for no limit"),
        );
    }
}

fn at_least_one(key: &str, count: usize, problems: &mut Problems) {
    if count == 0 {
        problems.add(key, "must be at least 1");
    }
}

fn more_than_nothing(key: &str, period: Period, problems: &mut Problems) {
    if period == Period::default() {
        problems.add(key, "must be more than 0s");
    }
}

fn is_authority(text: &str) -> bool {
    text.parse::<http::uri::Authority>()
        .is_ok_and(|authority| !authority.host().is_empty() && authority.port_u16().is_some())
        && !text.contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(config: &Config) -> Vec<String> {
        let mut problems = Problems::new();
        config.validate(&mut problems);
        problems.found().iter().map(|(path, _)| path.clone()).collect()
    }

    #[test]
    fn what_is_taken_is_taken_again() {
        darter_testkit::fuzz::check("config", darter_service::config::fuzz_config::<Config>);
    }

    #[test]
    fn the_defaults_are_good() {
        assert!(paths(&Config::default()).is_empty());
    }

    #[test]
    fn credentials_are_shared_over_loopback_alone() {
        let credentials = serde_json::json!({ "credentials": { "share": "node", "dockerConfig": "/a" } });
        let entry: RegistryConfig = serde_json::from_value(credentials).unwrap();
        for (mirror, forward, wrong) in [
            ("127.0.0.1:4001", None, &[][..]),
            ("[::1]:4001", Some("127.0.0.1:4003"), &[]),
            ("0.0.0.0:4001", None, &["mirror.listen"]),
            ("localhost:4001", None, &["mirror.listen"]),
            (
                "10.0.0.7:4001",
                Some("10.0.0.7:4003"),
                &["mirror.listen", "forward.listen"],
            ),
        ] {
            let mut config = Config::default();
            config.mirror.listen = mirror.parse().unwrap();
            config.forward.listen = forward.map(|listen| listen.parse().unwrap());
            config.forward.users_file = Some("/users".into());
            assert!(paths(&config).is_empty(), "{mirror}");
            config
                .origin
                .registries
                .insert("a.test".to_owned(), entry.clone());
            assert_eq!(paths(&config), wrong, "{mirror} {forward:?}");
        }
    }

    #[test]
    fn every_section_is_looked_at_and_all_is_told() {
        let mut config = Config {
            version: 2,
            ..Config::default()
        };
        config.mirror.requests_max = 0;
        config.forward.tunnels_max = 0;
        config.access.grants_max = 0;
        config.origin.retries = 1000;
        config.pull.parents_max = 0;
        config.pull.background_bytes_per_second_max = Some(ByteSize::kib(1));
        config.peer.advertise = Some("nowhere".into());
        config.peer.buffer_bytes_max = ByteSize::mib(1);
        config.peer.upload_bytes_per_second_max = Some(ByteSize::kib(1));
        config.scheduler.addresses = vec!["a:8002".into(), "http://b".into()];
        config.tls.cert_file = Some("node.pem".into());
        config.store.dir = "relative".into();
        config.containerd.root = "relative".into();
        config.watchdog.patience = Some(Period::secs(1));
        let quotas = [("*", 0), ("a.test", 1), ("not/one", 1)];
        config.store.registry_quotas = quotas
            .map(|(name, quota)| (name.to_owned(), ByteSize::bytes(quota)))
            .into();
        config.log.filter = "loud=loud=loud".into();
        config.traces.otlp_endpoint = Some("collector".into());
        let expected = [
            "version",
            "mirror.requestsMax",
            "forward.tunnelsMax",
            "access.grantsMax",
            "origin.retries",
            "pull.parentsMax",
            "pull.backgroundBytesPerSecondMax",
            "peer.bufferBytesMax",
            "peer.uploadBytesPerSecondMax",
            "peer.advertise",
            "scheduler.addresses.1",
            "tls.keyFile",
            "tls.caFile",
            "store.dir",
            "store.registryQuotas.\"*\"",
            "store.registryQuotas.\"not/one\"",
            "containerd.root",
            "watchdog.patience",
            "log.filter",
            "traces.otlpEndpoint",
        ];
        assert_eq!(paths(&config), expected);
    }
}
