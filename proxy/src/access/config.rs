//! The `access` section of the proxy's configuration.

use std::time::Duration;

use darter_types::RegistryName;
use serde::{Deserialize, Serialize};

use crate::mirror::duration;

/// How long an answer of a registry about a right to read is taken for true.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct AccessConfig {
    /// How long a content that the registry gave to anybody is served before it is asked again. Default 1h: a
    /// repository that turns private is noticed within that time. At most 24h.
    #[serde(with = "duration")]
    pub public_grant: Duration,
    /// How long the same content is served while its registry cannot be asked. Default 24h, which is the most.
    #[serde(with = "duration")]
    pub public_grant_while_unreachable: Duration,
    /// How long a registry's yes to a caller's credential holds. Default 60s, which is the most: it bounds how long a
    /// revoked right still works.
    #[serde(with = "duration")]
    pub private_grant: Duration,
    /// How long a registry's no to an anonymous request holds. Default 60s.
    #[serde(with = "duration")]
    pub refusal: Duration,
    /// Most grants that are kept, about 300 bytes each; the one used longest ago makes room. Default 65536.
    pub grants_max: usize,
    /// Most repositories of which a refusal is kept. Default 4096.
    pub refusals_max: usize,
    /// Groups of registries that vouch for one another: what one of a group gave may be opened by a manifest of
    /// another. Without it, each content that another registry gave is asked for by its own digest. Default none.
    pub trust_groups: Vec<Vec<RegistryName>>,
}

/// Longest life of a grant for everybody.
const PUBLIC_GRANT_MAX: Duration = Duration::from_secs(24 * 3600);
/// Longest life of a caller's grant.
const PRIVATE_GRANT_MAX: Duration = Duration::from_secs(60);

impl Default for AccessConfig {
    fn default() -> Self {
        Self {
            public_grant: Duration::from_secs(3600),
            public_grant_while_unreachable: PUBLIC_GRANT_MAX,
            private_grant: PRIVATE_GRANT_MAX,
            refusal: Duration::from_secs(60),
            grants_max: 65_536,
            refusals_max: 4096,
            trust_groups: Vec::new(),
        }
    }
}

impl AccessConfig {
    /// What is wrong, each with the key below `access` that it is about.
    pub fn problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        let mut at_most = |key: &str, value: Duration, limit: Duration| {
            if value > limit {
                problems.push((key.to_owned(), format!("must be at most {}s", limit.as_secs())));
            }
        };
        at_most("publicGrant", self.public_grant, PUBLIC_GRANT_MAX);
        let key = "publicGrantWhileUnreachable";
        at_most(key, self.public_grant_while_unreachable, PUBLIC_GRANT_MAX);
        at_most("privateGrant", self.private_grant, PRIVATE_GRANT_MAX);
        at_most("refusal", self.refusal, PUBLIC_GRANT_MAX);
        for (key, value) in [("grantsMax", self.grants_max), ("refusalsMax", self.refusals_max)] {
            if value == 0 {
                problems.push((key.to_owned(), "must be at least 1".to_owned()));
            }
        }
        problems
    }

    /// Whether what one of these registries gave may be opened by a manifest of the other.
    pub fn trust_each_other(&self, one: &RegistryName, other: &RegistryName) -> bool {
        let both = |group: &&Vec<RegistryName>| group.contains(one) && group.contains(other);
        one == other || self.trust_groups.iter().any(|group| both(&group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_the_design_hold() {
        assert_eq!(AccessConfig::default().problems(), []);
        let bad = AccessConfig {
            private_grant: Duration::from_secs(61),
            public_grant: Duration::from_secs(86_401),
            grants_max: 0,
            ..AccessConfig::default()
        };
        let keys: Vec<String> = bad.problems().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["publicGrant", "privateGrant", "grantsMax"]);
    }

    #[test]
    fn trust_needs_one_common_group() {
        let name = |text: &str| text.parse::<RegistryName>().unwrap();
        let config = AccessConfig {
            trust_groups: vec![
                vec![name("a.test"), name("b.test")],
                vec![name("b.test"), name("c.test")],
            ],
            ..AccessConfig::default()
        };
        assert!(config.trust_each_other(&name("a.test"), &name("b.test")));
        assert!(config.trust_each_other(&name("d.test"), &name("d.test")));
        assert!(!config.trust_each_other(&name("a.test"), &name("c.test")));
    }
}
