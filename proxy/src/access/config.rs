//! The `access` section of the proxy's configuration.

use darter_service::config::{Period, Problems, Validate};
use darter_types::RegistryName;
use serde::{Deserialize, Serialize};

/// How long an answer of a registry about a right to read is taken for true.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct AccessConfig {
    /// How long a content that the registry gave to anybody is served before it is asked again. Default 60s: a
    /// content that is deleted there, or a repository that turns private, is noticed within that time. At most 24h.
    pub public_grant: Period,
    /// How long the same content is served while its registry cannot be asked. Default 24h, which is the most.
    pub public_grant_while_unreachable: Period,
    /// How long a registry's yes to a caller's credential holds. Default 60s, which is the most: it bounds how long a
    /// revoked right still works.
    pub private_grant: Period,
    /// How long a registry's no to an anonymous request holds. Default 60s.
    pub refusal: Period,
    /// Most grants that are kept, about 300 bytes each; the one used longest ago makes room. Default 65536.
    pub grants_max: usize,
    /// Most repositories of which a refusal is kept. Default 4096.
    pub refusals_max: usize,
    /// Groups of registries that vouch for one another: what one of a group gave may be opened by a manifest of
    /// another. Without it, each content that another registry gave is asked for by its own digest. Default none.
    pub trust_groups: Vec<Vec<RegistryName>>,
}

/// Longest life of a grant for everybody.
const PUBLIC_GRANT_MAX: Period = Period::hours(24);
/// Longest life of a caller's grant.
const PRIVATE_GRANT_MAX: Period = Period::secs(60);

impl Default for AccessConfig {
    fn default() -> Self {
        Self {
            public_grant: Period::secs(60),
            public_grant_while_unreachable: PUBLIC_GRANT_MAX,
            private_grant: PRIVATE_GRANT_MAX,
            refusal: Period::secs(60),
            grants_max: 65_536,
            refusals_max: 4096,
            trust_groups: Vec::new(),
        }
    }
}

impl AccessConfig {
    /// Whether what one of these registries gave may be opened by a manifest of the other.
    pub fn trust_each_other(&self, one: &RegistryName, other: &RegistryName) -> bool {
        let both = |group: &&Vec<RegistryName>| group.contains(one) && group.contains(other);
        one == other || self.trust_groups.iter().any(|group| both(&group))
    }
}

impl Validate for AccessConfig {
    fn validate(&self, problems: &mut Problems) {
        let limits = [
            ("publicGrant", self.public_grant, PUBLIC_GRANT_MAX),
            (
                "publicGrantWhileUnreachable",
                self.public_grant_while_unreachable,
                PUBLIC_GRANT_MAX,
            ),
            ("privateGrant", self.private_grant, PRIVATE_GRANT_MAX),
            ("refusal", self.refusal, PUBLIC_GRANT_MAX),
        ];
        for (key, value, limit) in limits {
            if value > limit {
                problems.add(key, format!("must be at most {limit}"));
            }
        }
        for (key, value) in [("grantsMax", self.grants_max), ("refusalsMax", self.refusals_max)] {
            if value == 0 {
                problems.add(key, "must be at least 1");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_the_design_hold() {
        let keys = |config: &AccessConfig| {
            let mut problems = Problems::new();
            config.validate(&mut problems);
            problems
                .found()
                .iter()
                .map(|(key, _)| key.clone())
                .collect::<Vec<_>>()
        };
        assert!(keys(&AccessConfig::default()).is_empty());
        let bad = AccessConfig {
            private_grant: Period::secs(61),
            public_grant: Period::secs(86_401),
            grants_max: 0,
            ..AccessConfig::default()
        };
        assert_eq!(keys(&bad), ["publicGrant", "privateGrant", "grantsMax"]);
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
