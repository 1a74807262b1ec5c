//! The nodes of a cluster, and where they stand.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Names one node within its cluster, for example its host name.
///
/// 1 to 253 of `A-Z a-z 0-9 . _ -`, starting with a letter or digit: it is written to logs, metrics and
/// pages, so it carries nothing that any of them would have to escape.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostId(String);

/// Why a text is not a host's name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("host name {0:?}: use 1 to 253 letters, digits, '.', '_' and '-', starting with a letter or digit")]
pub struct HostIdError(String);

impl HostId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_name(text: &str) -> bool {
    text.len() <= 253
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

impl FromStr for HostId {
    type Err = HostIdError;

    fn from_str(text: &str) -> Result<Self, HostIdError> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for HostId {
    type Error = HostIdError;

    fn try_from(text: String) -> Result<Self, HostIdError> {
        if is_name(&text) {
            Ok(Self(text))
        } else {
            Err(HostIdError(text.chars().take(64).collect()))
        }
    }
}

impl From<HostId> for String {
    fn from(host: HostId) -> Self {
        host.0
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a node stands: data centre, zone and rack, written `idc|zone|rack`; parts at the end may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Locality {
    parts: Vec<String>,
}

/// Why a text is not a locality.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "locality {0:?}: write up to three names as idc|zone|rack, each of letters, digits, '.', '_' and '-'"
)]
pub struct LocalityError(String);

impl Locality {
    /// Most levels that a locality has.
    pub const DEPTH_MAX: usize = 3;

    /// How many leading levels both name alike: 0 = other data centre, 3 = same rack.
    pub fn shared_levels(&self, other: &Self) -> usize {
        self.parts
            .iter()
            .zip(&other.parts)
            .take_while(|(a, b)| a.eq_ignore_ascii_case(b))
            .count()
    }

    /// How many levels it names.
    pub fn depth(&self) -> usize {
        self.parts.len()
    }

    /// The first `levels` levels of it.
    pub fn prefix(&self, levels: usize) -> Self {
        Self {
            parts: self.parts.iter().take(levels).cloned().collect(),
        }
    }
}

impl FromStr for Locality {
    type Err = LocalityError;

    fn from_str(text: &str) -> Result<Self, LocalityError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let parts: Vec<String> = text.split('|').map(str::to_owned).collect();
        if parts.len() > Self::DEPTH_MAX || !parts.iter().all(|part| is_name(part)) {
            return Err(LocalityError(text.chars().take(64).collect()));
        }
        Ok(Self { parts })
    }
}

impl TryFrom<String> for Locality {
    type Error = LocalityError;

    fn try_from(text: String) -> Result<Self, LocalityError> {
        text.parse()
    }
}

impl From<Locality> for String {
    fn from(locality: Locality) -> Self {
        locality.to_string()
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parts.join("|"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_carry_nothing_to_escape() {
        assert!("node-1.rack_2".parse::<HostId>().is_ok());
        for bad in [
            "",
            "-x",
            "a b",
            "a/b",
            "<img onerror=x>",
            "ä",
            "a\n",
            &"a".repeat(254),
        ] {
            assert!(bad.parse::<HostId>().is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn localities_share_their_leading_levels() {
        let here: Locality = "fra|z1|r7".parse().unwrap();
        assert_eq!(here.shared_levels(&"FRA|z1|r8".parse().unwrap()), 2);
        assert_eq!(here.shared_levels(&"ams|z1|r7".parse().unwrap()), 0);
        assert_eq!(here.shared_levels(&Locality::default()), 0);
        assert!("a|b|c|d".parse::<Locality>().is_err());
        assert!("a||c".parse::<Locality>().is_err());
        assert_eq!(here.to_string().parse(), Ok(here));
    }
}
