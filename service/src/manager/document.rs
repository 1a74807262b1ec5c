//! The dynamic configuration of a cluster: what an operator tunes while everything runs.
//!
//! A key that is absent leaves what a role's own file says. A document is applied whole or refused whole. A new key is a field
//! here, a rule in [`Validate`] where its type is not enough, and a line where the role applies it.

use std::collections::BTreeMap;
use std::str::FromStr as _;
use std::time::Duration;

pub use darter_proto::limits::DOCUMENT_BYTES_MAX;
use darter_types::{HostId, RegistryName};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{self, ByteSize, ConfigError, Period, Problems, Validate};

/// Most entries of a list or map in it.
const ENTRIES_MAX: usize = 1024;
/// With less, a piece of the largest size would take so long that its receiver gives up.
const RATE_MIN: ByteSize = ByteSize::mib(1);
/// The least and the most neighbours of a node that wants a content.
const PARENTS: std::ops::RangeInclusive<usize> = 2..=32;
/// The longest of all times.
const TIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// A whole document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Document {
    /// What proxies do.
    pub proxy: ProxyKeys,
    /// What schedulers do.
    pub scheduler: SchedulerKeys,
}

/// What proxies do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct ProxyKeys {
    /// Names of the nodes that are seeds; all others are peers then. Absent: each as its own file says.
    pub seeds: Option<Vec<String>>,
    /// Downloads.
    pub pull: PullKeys,
    /// Exchange with other nodes.
    pub peer: PeerKeys,
    /// Where pieces are kept.
    pub store: StoreKeys,
}

/// Downloads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct PullKeys {
    /// Most bytes a second that a node downloads, from wherever.
    pub bytes_per_second_max: Option<ByteSize>,
    /// The same for what nobody waits for.
    pub background_bytes_per_second_max: Option<ByteSize>,
}

/// Exchange with other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct PeerKeys {
    /// Most bytes a second that a node sends to others.
    pub upload_bytes_per_second_max: Option<ByteSize>,
}

/// Where pieces are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct StoreKeys {
    /// Most bytes that pieces may take on a node.
    pub quota: Option<ByteSize>,
    /// Most bytes that contents of one registry may take, by its name; `*` is for each of the others.
    pub registry_quotas: Option<BTreeMap<String, ByteSize>>,
}

/// What schedulers do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct SchedulerKeys {
    /// Who exchanges with whom.
    pub parents: ParentKeys,
    /// Fetching from origins.
    pub lease: LeaseKeys,
}

/// Who exchanges with whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct ParentKeys {
    /// Most neighbours of a node that wants a content, 2 to 32.
    pub count_max: Option<usize>,
    /// How long a host is not offered that sent wrong bytes.
    pub block: Option<Period>,
    /// How long a slow or unreachable host is left out the first time.
    pub trial_after: Option<Period>,
}

/// Fetching from origins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct LeaseKeys {
    /// How long the holder of a lease may take until the first byte.
    pub first_byte: Option<Period>,
    /// How long it may then make no progress.
    pub stall: Option<Period>,
    /// How long a host that disappointed with a task does not get its lease again.
    pub pause: Option<Period>,
    /// How long the digest chain of a content is kept that nobody wants.
    pub chain_idle: Option<Period>,
}

impl Document {
    /// Reads one, as the API takes it.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub fn read(value: Value) -> Result<Self, ConfigError> {
        config::from_value(value)
    }

    /// Reads one, as it is sent and kept.
    ///
    /// # Errors
    /// As [`Self::read`]; it is no JSON, or too long.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let whole = |message: String| ConfigError {
            problems: vec![config::Problem {
                source: String::new(),
                path: String::new(),
                message,
            }],
        };
        if text.len() > DOCUMENT_BYTES_MAX {
            return Err(whole(format!("it is longer than {DOCUMENT_BYTES_MAX} bytes")));
        }
        let value =
            serde_json::from_str(text).map_err(|error| whole(format!("this is not JSON: {error}")))?;
        Self::read(value)
    }

    /// The keys that it sets, by their paths.
    pub fn set(&self) -> BTreeMap<String, Value> {
        let mut found = BTreeMap::new();
        flatten(
            String::new(),
            serde_json::to_value(self).unwrap_or_default(),
            &mut found,
        );
        found
    }
}

fn flatten(path: String, value: Value, found: &mut BTreeMap<String, Value>) {
    match value {
        Value::Null => {}
        Value::Object(map) if path != "proxy.store.registryQuotas" => {
            for (key, value) in map {
                let below = match path.is_empty() {
                    true => key,
                    false => format!("{path}.{key}"),
                };
                flatten(below, value, found);
            }
        }
        value => {
            found.insert(path, value);
        }
    }
}

impl Validate for Document {
    fn validate(&self, problems: &mut Problems) {
        let (pull, peer) = (&self.proxy.pull, &self.proxy.peer);
        for (path, rate) in [
            ("proxy.pull.bytesPerSecondMax", pull.bytes_per_second_max),
            (
                "proxy.pull.backgroundBytesPerSecondMax",
                pull.background_bytes_per_second_max,
            ),
            (
                "proxy.peer.uploadBytesPerSecondMax",
                peer.upload_bytes_per_second_max,
            ),
        ] {
            if rate.is_some_and(|rate| rate < RATE_MIN) {
                problems.add(path, format!("must be at least {RATE_MIN}"));
            }
        }
        self.proxy.check_names(problems);
        self.proxy.store.check(problems);
        let (parents, lease) = (&self.scheduler.parents, &self.scheduler.lease);
        if parents.count_max.is_some_and(|count| !PARENTS.contains(&count)) {
            problems.add("scheduler.parents.countMax", "write a number from 2 to 32");
        }
        for (path, period) in [
            ("scheduler.parents.block", parents.block),
            ("scheduler.parents.trialAfter", parents.trial_after),
            ("scheduler.lease.firstByte", lease.first_byte),
            ("scheduler.lease.stall", lease.stall),
            ("scheduler.lease.pause", lease.pause),
            ("scheduler.lease.chainIdle", lease.chain_idle),
        ] {
            if period.is_some_and(|period| period.is_zero() || period.as_duration() > TIME_MAX) {
                problems.add(path, "write a time above zero and up to 24h");
            }
        }
    }
}

impl ProxyKeys {
    fn check_names(&self, problems: &mut Problems) {
        let seeds = self.seeds.as_deref().unwrap_or_default();
        if seeds.len() > ENTRIES_MAX {
            problems.add("proxy.seeds", format!("write at most {ENTRIES_MAX}"));
        }
        for (at, name) in seeds.iter().enumerate().take(ENTRIES_MAX) {
            if let Err(error) = HostId::from_str(name) {
                problems.add(&format!("proxy.seeds.{at}"), error.to_string());
            }
        }
    }
}

impl StoreKeys {
    fn check(&self, problems: &mut Problems) {
        if self.quota.is_some_and(|quota| quota == ByteSize::default()) {
            problems.add(
                "proxy.store.quota",
                "must be more than 0B: write for example 100GiB",
            );
        }
        let quotas = self.registry_quotas.iter().flatten();
        if quotas.clone().count() > ENTRIES_MAX {
            let path = "proxy.store.registryQuotas";
            problems.add(path, format!("write at most {ENTRIES_MAX}"));
        }
        for (name, quota) in quotas.take(ENTRIES_MAX) {
            let path = format!("proxy.store.registryQuotas.\"{name}\"");
            if name != "*"
                && let Err(error) = RegistryName::from_str(name)
            {
                problems.add(&path, error.to_string());
            }
            if *quota == ByteSize::default() {
                problems.add(&path, "must be more than 0B");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn paths(value: Value) -> Vec<String> {
        let error = Document::read(value).unwrap_err();
        error.problems.into_iter().map(|problem| problem.path).collect()
    }

    #[test]
    fn nothing_sets_nothing() {
        let document = Document::read(json!({})).unwrap();
        assert_eq!(document, Document::default());
        assert!(document.set().is_empty());
        assert_eq!(Document::parse(r#"{"proxy": null}"#).unwrap(), document);
    }

    #[test]
    fn what_is_set_is_listed_by_its_path() {
        let given = json!({
            "proxy": {"pull": {"bytesPerSecondMax": "10MiB"}, "store": {"registryQuotas": {"docker.io": "1GiB"}}},
            "scheduler": {"parents": {"countMax": 8}},
        });
        let document = Document::read(given).unwrap();
        let set: Vec<(String, String)> = document
            .set()
            .into_iter()
            .map(|(path, value)| (path, value.to_string()))
            .collect();
        let expected = [
            ("proxy.pull.bytesPerSecondMax", r#""10MiB""#),
            ("proxy.store.registryQuotas", r#"{"docker.io":"1GiB"}"#),
            ("scheduler.parents.countMax", "8"),
        ];
        assert_eq!(
            set,
            expected.map(|(path, value)| (path.to_owned(), value.to_owned()))
        );
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once_with_its_path() {
        let wrong = json!({
            "proxy": {
                "seeds": ["a", "no host/"],
                "pull": {"bytesPerSecondMax": "fast", "backgroundBytesPerSecondMax": "1B"},
                "store": {"quota": "0B", "registryQuotas": {"not/one": "0B"}},
                "colour": 1,
            },
            "scheduler": {"parents": {"countMax": 33}, "lease": {"stall": "25h"}},
            "manager": {},
        });
        let mut found = paths(wrong);
        found.sort();
        let mut expected = [
            "manager",
            "proxy.colour",
            "proxy.pull.backgroundBytesPerSecondMax",
            "proxy.pull.bytesPerSecondMax",
            "proxy.seeds.1",
            "proxy.store.quota",
            "proxy.store.registryQuotas.\"not/one\"",
            "scheduler.lease.stall",
            "scheduler.parents.countMax",
        ];
        expected.sort_unstable();
        assert_eq!(found, expected);
        assert!(Document::parse("{").is_err());
        assert!(Document::parse(&" ".repeat(DOCUMENT_BYTES_MAX + 1)).is_err());
        assert!(Document::read(json!([])).is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_taken_reads_back_as_the_same(
            rate in 0_u64..1 << 40,
            count in 0_usize..64,
            seconds in 0_u64..200_000,
            text in ".{0,80}",
        ) {
            let given = json!({
                "proxy": {"pull": {"bytesPerSecondMax": rate}, "seeds": [text]},
                "scheduler": {"parents": {"countMax": count}, "lease": {"stall": format!("{seconds}s")}},
            });
            if let Ok(document) = Document::read(given) {
                let kept = serde_json::to_string(&document).unwrap();
                prop_assert_eq!(Document::parse(&kept).unwrap(), document);
                prop_assert!(rate >= 1 << 20 && (2..=32).contains(&count) && (1..=86_400).contains(&seconds));
            }
            let _ = Document::parse(&text);
        }
    }
}
