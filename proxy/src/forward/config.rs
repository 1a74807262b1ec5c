//! The `forward` section of the proxy's configuration.

use std::net::SocketAddr;
use std::path::PathBuf;

use darter_service::config::{Period, Problems, Validate};
use serde::{Deserialize, Serialize};

use super::rules::{self, RuleConfig};

/// The forward proxy: for clients that are given `HTTP_PROXY` and `HTTPS_PROXY` instead of a mirror.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct ForwardConfig {
    /// Where clients reach it, such as 127.0.0.1:4003. `null` by default: there is none.
    pub listen: Option<SocketAddr>,
    /// A file with one `user:password` a line, of which clients must show one. `null` by default: nobody is asked, and
    /// only a loopback address may be listened on.
    pub users_file: Option<PathBuf>,
    /// Ports that clients may name, besides those of registries that have an entry. Default 443 and 80.
    pub ports: Vec<u16>,
    /// Hosts that may have a private address; others must be public. A name, or `*.` and a name for all below it.
    /// Default none.
    pub private_hosts: Vec<HostPattern>,
    /// Most connections of clients; more are told 503 and closed. Default 1024.
    pub connections_max: usize,
    /// Most tunnels at one time; more are answered 503. Default 512.
    pub tunnels_max: usize,
    /// How long a tunnel, or a request that is passed on, may be silent in both directions before it is ended. Default 5m.
    pub idle_timeout: Period,
    /// Which tunnels are looked into.
    pub intercept: InterceptConfig,
    /// What happens to requests, by the address that they are for; the first that matches counts. Default none.
    pub rules: Vec<RuleConfig>,
}

/// Hosts whose TLS ends here, so that what is pulled from them can be shared between nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct InterceptConfig {
    /// The hosts. A name, or `*.` and a name for all below it. Default none: tunnels are passed on unread.
    pub hosts: Vec<HostPattern>,
    /// The certificate of the authority that signs for them, in PEM; clients must trust it.
    pub ca_cert_file: Option<PathBuf>,
    /// Its key, in PEM, readable for nobody else.
    pub ca_key_file: Option<PathBuf>,
    /// Most hosts whose certificate is kept. Default 256.
    pub certificates_max: usize,
}

/// A host's name, or `*.` and a name for all that is below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HostPattern(pub String);

impl HostPattern {
    /// Whether a host (lower case, without port) is meant.
    pub fn matches(&self, host: &str) -> bool {
        match self.0.strip_prefix("*.") {
            Some(above) => host
                .strip_suffix(above.to_ascii_lowercase().as_str())
                .is_some_and(|below| below.len() > 1 && below.ends_with('.')),
            None => self.0.eq_ignore_ascii_case(host),
        }
    }

    fn is_good(&self) -> bool {
        let name = self.0.strip_prefix("*.").unwrap_or(&self.0);
        !name.is_empty() && url::Host::parse(name).is_ok() && !name.contains('*')
    }
}

impl Default for ForwardConfig {
    fn default() -> Self {
        Self {
            listen: None,
            users_file: None,
            ports: vec![443, 80],
            private_hosts: Vec::new(),
            connections_max: 1024,
            tunnels_max: 512,
            idle_timeout: Period::secs(300),
            intercept: InterceptConfig::default(),
            rules: Vec::new(),
        }
    }
}

impl Default for InterceptConfig {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            ca_cert_file: None,
            ca_key_file: None,
            certificates_max: 256,
        }
    }
}

impl Validate for ForwardConfig {
    fn validate(&self, problems: &mut Problems) {
        if self.users_file.is_none() && self.listen.is_some_and(|address| !address.ip().is_loopback()) {
            problems.add(
                "usersFile",
                "is missing: a forward proxy for other machines must ask who they are; or listen on 127.0.0.1",
            );
        }
        for (key, count) in [
            ("connectionsMax", self.connections_max),
            ("tunnelsMax", self.tunnels_max),
            ("intercept.certificatesMax", self.intercept.certificates_max),
        ] {
            if count == 0 {
                problems.add(key, "must be at least 1");
            }
        }
        if self.idle_timeout.is_zero() {
            problems.add("idleTimeout", "must be more than 0s");
        }
        check_hosts("privateHosts", &self.private_hosts, problems);
        check_hosts("intercept.hosts", &self.intercept.hosts, problems);
        for (key, file) in [
            ("intercept.caCertFile", &self.intercept.ca_cert_file),
            ("intercept.caKeyFile", &self.intercept.ca_key_file),
        ] {
            if file.is_none() && !self.intercept.hosts.is_empty() {
                let what =
                    "is missing: clients must trust who signs for intercept.hosts; `darter certs` makes one";
                problems.add(key, what);
            }
        }
        rules::check(&self.rules, problems);
    }
}

fn check_hosts(key: &str, hosts: &[HostPattern], problems: &mut Problems) {
    for (index, host) in hosts.iter().enumerate() {
        if !host.is_good() {
            let what = format!("{:?} is not a host's name, nor *. and a name", host.0);
            problems.add(&format!("{key}.{index}"), what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(config: &ForwardConfig) -> Vec<String> {
        let mut problems = Problems::new();
        config.validate(&mut problems);
        problems.found().iter().map(|(key, _)| key.clone()).collect()
    }

    #[test]
    fn the_defaults_are_off_and_valid() {
        let config = ForwardConfig::default();
        assert!(config.listen.is_none() && config.intercept.hosts.is_empty());
        assert!(keys(&config).is_empty());
    }

    #[test]
    fn nobody_opens_a_proxy_to_everybody_by_accident() {
        let open = ForwardConfig {
            listen: Some("0.0.0.0:4003".parse().unwrap()),
            ..ForwardConfig::default()
        };
        assert_eq!(keys(&open), ["usersFile"]);
        let asked = ForwardConfig {
            users_file: Some("users".into()),
            ..open
        };
        assert!(keys(&asked).is_empty());
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let config = ForwardConfig {
            tunnels_max: 0,
            idle_timeout: Period::default(),
            private_hosts: vec![HostPattern("a/b".into())],
            intercept: InterceptConfig {
                hosts: vec![HostPattern("a.test".into()), HostPattern("*.*.test".into())],
                ..InterceptConfig::default()
            },
            rules: vec![RuleConfig {
                url: "(".into(),
                ..RuleConfig::default()
            }],
            ..ForwardConfig::default()
        };
        let expected = [
            "tunnelsMax",
            "idleTimeout",
            "privateHosts.0",
            "intercept.hosts.1",
            "intercept.caCertFile",
            "intercept.caKeyFile",
            "rules.0.url",
        ];
        assert_eq!(keys(&config), expected);
    }

    #[test]
    fn patterns_match_whole_labels() {
        let below = HostPattern("*.example.test".into());
        assert!(below.matches("a.example.test") && below.matches("b.a.example.test"));
        assert!(!below.matches("example.test") && !below.matches("anexample.test"));
        assert!(!below.matches(".example.test"));
        let exact = HostPattern("Example.test".into());
        assert!(exact.matches("example.test") && !exact.matches("a.example.test"));
    }
}
