//! What an operator allows and denies beyond single registries: names by pattern, addresses by range. Pure.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use darter_types::RegistryName;
use serde::{Deserialize, Serialize};

/// Registries by name: `ghcr.io`, or `*.example.com` for all below a domain (not for itself). A port is part of a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NamePattern {
    below: bool,
    name: RegistryName,
}

impl NamePattern {
    /// Whether a registry is meant.
    pub fn matches(&self, registry: &RegistryName) -> bool {
        if !self.below {
            return *registry == self.name;
        }
        let above = registry.as_str().strip_suffix(self.name.as_str());
        above.is_some_and(|above| above.len() > 1 && above.ends_with('.'))
    }
}

impl FromStr for NamePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("*.");
        let name = rest.unwrap_or(text).parse();
        let name = name
            .map_err(|_| format!("{text:?} is neither a registry nor all below a domain (*.example.com)"))?;
        Ok(Self {
            below: rest.is_some(),
            name,
        })
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.below { "*." } else { "" };
        write!(f, "{star}{}", self.name)
    }
}

/// Addresses with the same first bits: `10.0.0.0/8`, `fd00::/8`, or one address (RFC 4632 section 3.1, RFC 4291 section 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressRange {
    first: IpAddr,
    bits: u8,
}

impl AddressRange {
    /// Whether an address lies in it. An IPv4 address is the same inside an IPv6 one.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = crate::guard::embedded(address).map_or(address, IpAddr::from);
        match (self.first, address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                let same = (first.to_bits() ^ address.to_bits()).leading_zeros();
                same >= u32::from(self.bits)
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                let same = (first.to_bits() ^ address.to_bits()).leading_zeros();
                same >= u32::from(self.bits)
            }
            _ => false,
        }
    }
}

impl FromStr for AddressRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is no range of addresses: write 10.0.0.0/8, fd00::/8 or one address");
        let (address, bits) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
        let first: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if first.is_ipv4() { 32 } else { 128 };
        let digits = |bits: &str| bits.bytes().all(|byte| byte.is_ascii_digit());
        let bits = match bits {
            None => most,
            Some(bits) => bits.parse().ok().filter(|_| digits(bits)).ok_or_else(wrong)?,
        };
        (bits <= most).then_some(Self { first, bits }).ok_or_else(wrong)
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    )*};
}

as_text!(NamePattern, AddressRange);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        let matches = |pattern: &str, name: &str| {
            let pattern: NamePattern = pattern.parse().unwrap();
            pattern.matches(&name.parse().unwrap())
        };
        assert!(matches("ghcr.io", "ghcr.io") && !matches("ghcr.io", "x.ghcr.io"));
        assert!(matches("*.corp.test", "a.corp.test") && matches("*.corp.test", "a.b.corp.test"));
        for other in [
            "corp.test",
            "evilcorp.test",
            "a.corp.test.evil.test",
            "a.corp.test:5000",
        ] {
            assert!(!matches("*.corp.test", other), "{other}");
        }
        assert!(matches("*.corp.test:5000", "a.corp.test:5000"));
        for wrong in ["", "*", "*.", "a.*", "**.b", "https://a", "a/b", "*.a/b"] {
            assert!(wrong.parse::<NamePattern>().is_err(), "{wrong:?}");
        }
        assert_eq!("*.a.test".parse::<NamePattern>().unwrap().to_string(), "*.a.test");
    }

    #[test]
    fn ranges() {
        let contains = |range: &str, address: &str| {
            let range: AddressRange = range.parse().unwrap();
            range.contains(address.parse().unwrap())
        };
        assert!(contains("10.0.0.0/8", "10.255.0.1") && !contains("10.0.0.0/8", "11.0.0.0"));
        assert!(contains("10.1.2.3", "10.1.2.3") && !contains("10.1.2.3", "10.1.2.2"));
        assert!(contains("0.0.0.0/0", "8.8.8.8") && !contains("0.0.0.0/0", "2001:4860::1"));
        assert!(contains("fd00::/8", "fd12::1") && !contains("fd00::/8", "fe00::1"));
        assert!(contains("::/0", "2001:4860::1") && contains("::/128", "::"));
        // An IPv4 address in any dress.
        for dress in ["::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "::a00:1"] {
            assert!(contains("10.0.0.0/8", dress), "{dress}");
        }
        for wrong in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0/8",
            "a/8",
            "1.2.3.4/8/8",
        ] {
            assert!(wrong.parse::<AddressRange>().is_err(), "{wrong:?}");
        }
        assert_eq!(
            "10.0.0.0/8".parse::<AddressRange>().unwrap().to_string(),
            "10.0.0.0/8"
        );
    }
}
