//! Section `manager` of a role's configuration.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::Problems;

/// Where the manager is. Without an address there is none, and everything is as the role's own file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct ManagerConfig {
    /// Managers, `host:port`: the first that answers is taken. Several must share one database.
    pub addresses: Vec<String>,
    /// A file with a join token, for its owner alone. Needed without the section `tls`.
    pub join_token_file: Option<PathBuf>,
    /// Whether the token may be sent to other machines without encryption, where whoever listens can read it.
    pub plain: bool,
    /// A directory for what the manager told, to start with when none answers.
    pub dir: PathBuf,
}

impl Default for ManagerConfig {
    fn default() -> Self {
        Self {
            addresses: Vec::new(),
            join_token_file: None,
            plain: false,
            dir: "/var/lib/darter".into(),
        }
    }
}

impl ManagerConfig {
    /// Whether there is none.
    pub fn is_off(&self) -> bool {
        self.addresses.is_empty()
    }

    /// Adds what is wrong with it; `encrypted` says whether the section `tls` names files.
    pub fn validate(&self, encrypted: bool, problems: &mut Problems) {
        if self.is_off() {
            return;
        }
        for (at, address) in self.addresses.iter().enumerate() {
            let key = format!("addresses.{at}");
            match host(address) {
                None => problems.add(&key, format!("must be host:port, not {address:?}")),
                Some(host) if !encrypted && !self.plain && !is_this_machine(host) => problems.add(
                    &key,
                    "is another machine, and nothing would be encrypted: set tls.certFile, tls.keyFile and tls.caFile, or \
                     manager.plain on a network that you trust",
                ),
                Some(_) => {}
            }
        }
        if !encrypted && self.join_token_file.is_none() {
            problems.add(
                "joinTokenFile",
                "is missing: without certificates a manager takes only those that have a join token",
            );
        }
        if !self.dir.is_absolute() {
            problems.add("dir", "must be an absolute path, such as /var/lib/darter");
        }
    }
}

fn host(address: &str) -> Option<&str> {
    let (host, port) = address.rsplit_once(':')?;
    let good =
        !host.is_empty() && !host.contains(['/', '@', ' ']) && port.parse::<u16>().is_ok_and(|port| port > 0);
    good.then(|| host.trim_matches(['[', ']']))
}

fn is_this_machine(host: &str) -> bool {
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(config: &ManagerConfig, encrypted: bool) -> Vec<String> {
        let mut problems = Problems::new();
        config.validate(encrypted, &mut problems);
        problems.found().iter().map(|(path, _)| path.clone()).collect()
    }

    #[test]
    fn a_token_does_not_leave_this_machine_in_the_clear() {
        let mut config = ManagerConfig::default();
        assert!(problems(&config, false).is_empty());
        config.addresses = [
            "127.0.0.1:65003",
            "[::1]:65003",
            "localhost:1",
            "m.example:65003",
            "m",
        ]
        .map(str::to_owned)
        .into();
        assert_eq!(
            problems(&config, false),
            ["addresses.3", "addresses.4", "joinTokenFile"]
        );
        assert_eq!(problems(&config, true), ["addresses.4"]);
        config.plain = true;
        config.join_token_file = Some("/token".into());
        assert_eq!(problems(&config, false), ["addresses.4"]);
    }
}
