//! The `mirror` section of the proxy's configuration.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use darter_types::RegistryName;
use serde::{Deserialize, Serialize};

use super::duration;

/// How clients are served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct MirrorConfig {
    /// Where clients reach the mirror. Default 127.0.0.1:4001: container runtimes run on the same node, and accept
    /// plain http there.
    pub listen: SocketAddr,
    /// The registry that is meant when a request names none. Default docker.io, the only one for which Docker's
    /// `registry-mirrors` can be used, which names none. `null` answers 404 instead.
    pub default_registry: Option<RegistryName>,
    /// How long a tag is served without asking its registry. Default 0s: a moved tag is seen at the next pull. At
    /// most 30s.
    #[serde(with = "duration")]
    pub tag_ttl: Duration,
    /// Whether a tag is answered as it was last known while its registry cannot be reached, marked by
    /// `Warning: 110`. Default false: the client then asks its next host.
    pub serve_stale_tags: bool,
    /// How long a client waits for headers, if nothing says that an answer is on its way; then it gets 503 and asks
    /// its next host. Default 1s.
    #[serde(with = "duration")]
    pub first_byte_deadline: Duration,
    /// How long it waits while a request to the registry is unanswered: a slow registry would not be faster if the
    /// client asked it itself. Default 10s.
    #[serde(with = "duration")]
    pub slow_origin_deadline: Duration,
    /// How long a content that broke off is answered by 503, so that clients go on at their next host. Default 5s.
    #[serde(with = "duration")]
    pub hand_over: Duration,
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
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 4001)),
            default_registry: "docker.io".parse().ok(),
            tag_ttl: Duration::ZERO,
            serve_stale_tags: false,
            first_byte_deadline: Duration::from_secs(1),
            slow_origin_deadline: Duration::from_secs(10),
            hand_over: Duration::from_secs(5),
            connections_max: 2048,
            requests_max: 1024,
            tags_max: 4096,
            lengths_max: 65_536,
        }
    }
}

impl MirrorConfig {
    /// What is wrong, each with the key below `mirror` that it is about.
    pub fn problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let mut wrong = |key: &str, bad: bool, what: &str| {
            if bad {
                problems.push((key.to_owned(), what.to_owned()));
            }
        };
        wrong(
            "tagTtl",
            self.tag_ttl > Duration::from_secs(30),
            "must be at most 30s",
        );
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
        wrong("connectionsMax", self.connections_max == 0, "must be at least 1");
        wrong("requestsMax", self.requests_max == 0, "must be at least 1");
        wrong("tagsMax", self.tags_max == 0, "must be at least 1");
        wrong("lengthsMax", self.lengths_max == 0, "must be at least 1");
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_docker_io_is_the_default_registry() {
        let config = MirrorConfig::default();
        assert_eq!(config.problems(), []);
        assert_eq!(config.default_registry.unwrap().as_str(), "docker.io");
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let config = MirrorConfig {
            tag_ttl: Duration::from_secs(31),
            slow_origin_deadline: Duration::from_millis(1),
            requests_max: 0,
            ..MirrorConfig::default()
        };
        let keys: Vec<String> = config.problems().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["tagTtl", "slowOriginDeadline", "requestsMax"]);
    }
}
