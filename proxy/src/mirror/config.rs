//! The `mirror` section of the proxy's configuration.

use std::path::PathBuf;

use darter_service::config::{ByteSize, Period, Problems, Validate};
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
    /// A socket file beside it, for programs of this machine that run as the proxy's user or group, such as
    /// `/run/darter/proxy.sock`: it answers what `listen` does, and the system says which user asks. A file that nobody
    /// listens at is replaced; it goes when the proxy stops. Default: none.
    pub socket: Option<PathBuf>,
    /// The registry that is meant when a request names none. Default docker.io, the only one for which Docker's
    /// `registry-mirrors` can be used, which names none. `null` answers 404 instead.
    pub default_registry: Option<RegistryName>,
    /// Whether `X-Darter-Registry` and `X-Dragonfly-Registry` may name the registry. By default (`null`) only where `listen` is
    /// a loopback address, and on `socket`: whoever else reaches the mirror does not choose by headers, which proxies on the way may set or
    /// pass on for a stranger.
    pub registry_headers: Option<bool>,
    /// How long a tag is served without asking its registry. Default 0s: a moved tag is seen at the next pull. At
    /// most 30s.
    pub tag_ttl: Period,
    /// Whether a tag is answered as it was last known while its registry cannot be reached, marked by
    /// `Warning: 110`. Default false: the client then asks its next host.
    pub serve_stale_tags: bool,
    /// How long a client waits for headers, if nothing says that an answer is on its way; then it gets 503 and asks
    /// its next host. Default 1s.
    pub first_byte_deadline: Period,
    /// How long it waits while a request that reached the registry is unanswered: a slow registry would not be faster if
    /// the client asked it itself. One that takes no connection is not waited for so long. Default 10s.
    pub slow_origin_deadline: Period,
    /// How long a content that broke off is answered by 503, so that clients go on at their next host. Default 5s.
    pub hand_over: Period,
    /// Most connections of clients; more are told 503 and closed. Default 2048.
    pub connections_max: usize,
    /// Most requests that are answered at one time; more get 503 at once. Default 1024.
    pub requests_max: usize,
    /// How long the head of a request may take, and how long a connection may stay without one. Default 10s.
    pub header_timeout: Period,
    /// Longest head of a request; a longer one gets 431. Default 64KiB, at least 8KiB.
    pub header_bytes_max: ByteSize,
    /// Most headers of a request; more get 431. Default 100.
    pub headers_max: usize,
    /// How long a client may take nothing at all of an answer before its connection is closed. However slowly it reads, one
    /// that reads is not meant. Default 5m: runtimes wait for locks and disks while they unpack.
    pub stall_timeout: Period,
    /// Most bytes of manifests and lists that wait in memory until clients have taken them, over all clients; those for
    /// which there is no room get 503 at once. Default 64MiB, at least 8MiB, which is the longest list.
    pub buffer_bytes_max: ByteSize,
    /// Most tags whose last known digest is kept. Default 4096.
    pub tags_max: usize,
    /// Most contents whose length is known from a manifest. Default 65536, about 200 bytes each.
    pub lengths_max: usize,
}

impl Default for MirrorConfig {
    fn default() -> Self {
        Self {
            listen: Address::Tcp("127.0.0.1:4001".to_owned()),
            socket: None,
            default_registry: "docker.io".parse().ok(),
            registry_headers: None,
            tag_ttl: Period::default(),
            serve_stale_tags: false,
            first_byte_deadline: Period::secs(1),
            slow_origin_deadline: Period::secs(10),
            hand_over: Period::secs(5),
            connections_max: 2048,
            requests_max: 1024,
            header_timeout: Period::secs(10),
            header_bytes_max: ByteSize::kib(64),
            headers_max: 100,
            stall_timeout: Period::secs(300),
            buffer_bytes_max: ByteSize::mib(64),
            tags_max: 4096,
            lengths_max: 65_536,
        }
    }
}

impl MirrorConfig {
    /// Whether headers of a request may name the registry; `local` says that it came over a socket file.
    pub(super) fn takes_registry_headers(&self, local: bool) -> bool {
        self.registry_headers
            .unwrap_or_else(|| local || is_local(&self.listen))
    }
}

/// Whether only this machine can reach an address. A name may be anything.
pub(crate) fn is_local(listen: &Address) -> bool {
    match listen {
        Address::Unix(_) => true,
        Address::Tcp(authority) => authority
            .parse::<std::net::SocketAddr>()
            .is_ok_and(|address| address.ip().to_canonical().is_loopback()),
    }
}

impl Validate for MirrorConfig {
    fn validate(&self, problems: &mut Problems) {
        let mut wrong = |key: &str, bad: bool, what: &str| {
            if bad {
                problems.add(key, what);
            }
        };
        let relative = self.socket.as_ref().is_some_and(|path| !path.is_absolute());
        let what = "must be an absolute path, such as /run/darter/proxy.sock";
        wrong("socket", relative, what);
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
        for (key, period) in [
            ("headerTimeout", self.header_timeout),
            ("stallTimeout", self.stall_timeout),
        ] {
            wrong(key, period.is_zero(), "must be more than 0s");
        }
        let heads = self.header_bytes_max < ByteSize::kib(8) || self.header_bytes_max > ByteSize::mib(1);
        wrong("headerBytesMax", heads, "must be from 8KiB to 1MiB");
        let room = self.buffer_bytes_max < ByteSize::mib(8);
        wrong("bufferBytesMax", room, "must be at least 8MiB");
        let counts = [
            ("connectionsMax", self.connections_max),
            ("requestsMax", self.requests_max),
            ("headersMax", self.headers_max),
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
    fn headers_choose_the_registry_on_loopback_alone() {
        let takes = |listen: &str, registry_headers| {
            let config = MirrorConfig {
                listen: listen.parse().unwrap(),
                registry_headers,
                ..MirrorConfig::default()
            };
            config.takes_registry_headers(false)
        };
        assert!(takes("127.0.0.1:1", None) && takes("[::1]:1", None) && takes("[::ffff:127.0.0.1]:1", None));
        assert!(!takes("0.0.0.0:1", None) && !takes("[::]:1", None) && !takes("10.0.0.1:1", None));
        assert!(takes("0.0.0.0:1", Some(true)) && !takes("127.0.0.1:1", Some(false)));
        let open = MirrorConfig {
            listen: "0.0.0.0:1".parse().unwrap(),
            ..MirrorConfig::default()
        };
        assert!(open.takes_registry_headers(true));
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let config = MirrorConfig {
            socket: Some("proxy.sock".into()),
            tag_ttl: Period::secs(31),
            slow_origin_deadline: Period::millis(1),
            requests_max: 0,
            header_timeout: Period::default(),
            header_bytes_max: ByteSize::mib(2),
            buffer_bytes_max: ByteSize::mib(7),
            ..MirrorConfig::default()
        };
        let expected = [
            "socket",
            "tagTtl",
            "slowOriginDeadline",
            "headerTimeout",
            "headerBytesMax",
            "bufferBytesMax",
            "requestsMax",
        ];
        assert_eq!(keys(&config), expected);
    }
}
