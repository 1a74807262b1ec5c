//! The `mirror` section of the proxy's configuration.

use darter_service::config::{Period, Problems, Validate};
use darter_service::net::Address;
use darter_types::RegistryName;
use serde::{Deserialize, Serialize};

/// How clients are served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct MirrorConfig {
    /// Where clients reach the mirror. Default 127.0.0.1:4001: container runtimes run on the same node, and accept
    /// plain http there.
    pub listen: Address,
    /// The registry that is meant when a request names none. Default docker.io, the only one for which Docker's
    /// `registry-mirrors` can be used, which names none. `null` answers 404 instead.
    pub default_registry: Option<RegistryName>,
    /// How long a tag is served without asking its registry. Default 0s: a moved tag is seen at the next pull. At
    /// most 30s.
    pub tag_ttl: Period,
    /// Whether a tag is answered as it was last known while its registry cannot be reached, marked by
    /// `Warning: 110`. Default false: the client then asks its next host.
    pub serve_stale_tags: bool,
    /// How long a client waits for headers, if nothing says that an answer is on its way; then it gets 503 and asks
    /// its next host. Default 1s.
    pub first_byte_deadline: Period,
    /// How long it waits while a request to the registry is unanswered: a slow registry would not be faster if the
    /// client asked it itself. Default 10s.
    pub slow_origin_deadline: Period,
    /// How long a content that broke off is answered by 503, so that clients go on at their next host. Default 5s.
    pub hand_over: Period,
    /// Most connections of clients; more are told 503 and closed. Default 2048.
    pub connections_max: usize,
    /// Most requests that are answered at one time; more get 503 at once. Default 1024.
    pub requests_max: usize,
    /// Most tags whose last known digest is kept. Default 4096.
    pub tags_max: usize,
    /// Most contents whose length is known from a manifest. Default 65536, about 200 bytes each.
    pub lengths_max: usize,
}

impl Default for MirrorConfig {
    fn default() -> Self {
        Self {
            listen: Address::Tcp("127.0.0.1:4001".to_owned()),
            default_registry: "docker.io".parse().ok(),
            tag_ttl: Period::default(),
            serve_stale_tags: false,
            first_byte_deadline: Period::secs(1),
            slow_origin_deadline: Period::secs(10),
            hand_over: Period::secs(5),
            connections_max: 2048,
            requests_max: 1024,
            tags_max: 4096,
            lengths_max: 65_536,
        }
    }
}

impl Validate for MirrorConfig {
    fn validate(&self, problems: &mut Problems) {
        let mut wrong = |key: &str, bad: bool, what: &str| {
            if bad {
                problems.add(key, what);
            }
        };
        wrong("tagTtl", self.tag_ttl > Period::secs(30), "must be at most 30s");
        wrong(
            "firstByteDeadline",
            self.first_byte_deadline.is_zero(),
            "must be more than 0s",
        );
        let reversed = self.slow_origin_deadline < self.first_byte_deadline;
        wrong(
            "slowOriginDeadline",
            reversed,
            "must not be below firstByteDeadline",
        );
        let counts = [
            ("connectionsMax", self.connections_max),
            ("requestsMax", self.requests_max),
            ("tagsMax", self.tags_max),
            ("lengthsMax", self.lengths_max),
        ];
        for (key, count) in counts {
            wrong(key, count == 0, "must be at least 1");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(config: &MirrorConfig) -> Vec<String> {
        let mut problems = Problems::new();
        config.validate(&mut problems);
        problems.found().iter().map(|(key, _)| key.clone()).collect()
    }

    #[test]
    fn defaults_are_valid_and_docker_io_is_the_default_registry() {
        let config = MirrorConfig::default();
        assert!(keys(&config).is_empty());
        assert_eq!(config.default_registry.unwrap().as_str(), "docker.io");
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let config = MirrorConfig {
            tag_ttl: Period::secs(31),
            slow_origin_deadline: Period::millis(1),
            requests_max: 0,
            ..MirrorConfig::default()
        };
        assert_eq!(keys(&config), ["tagTtl", "slowOriginDeadline", "requestsMax"]);
    }
}
