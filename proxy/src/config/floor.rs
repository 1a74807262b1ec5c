//! How much of a file system stays free: `5GiB`, or `10%` of it.

use std::fmt;
use std::str::FromStr;

use darter_service::config::ByteSize;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A floor of free space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreeFloor {
    /// So many bytes.
    Bytes(ByteSize),
    /// So many hundredths of the file system, at most 99.
    Percent(u8),
}

impl FreeFloor {
    /// In bytes, of a file system of `capacity_bytes`.
    pub fn of(self, capacity_bytes: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.as_u64(),
            Self::Percent(percent) => capacity_bytes / 100 * u64::from(percent),
        }
    }
}

impl FromStr for FreeFloor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(percent) = text.strip_suffix('%') else {
            let bytes = text
                .parse()
                .map_err(|error| format!("{error}, or a share such as 10%"))?;
            return Ok(Self::Bytes(bytes));
        };
        let digits = percent.bytes().all(|byte| byte.is_ascii_digit());
        let percent = percent.parse().ok().filter(|percent| digits && *percent < 100);
        percent
            .map(Self::Percent)
            .ok_or_else(|| format!("{text:?} is no share: write a whole number from 0% to 99%"))
    }
}

impl fmt::Display for FreeFloor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => bytes.fmt(f),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Serialize for FreeFloor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FreeFloor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Bytes(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Bytes(bytes) => Ok(Self::Bytes(bytes.into())),
            Written::Text(text) => text.parse().map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_or_a_share() {
        assert_eq!("5GiB".parse(), Ok(FreeFloor::Bytes(ByteSize::gib(5))));
        assert_eq!("10%".parse(), Ok(FreeFloor::Percent(10)));
        assert_eq!("0%".parse(), Ok(FreeFloor::Percent(0)));
        for wrong in ["100%", "-1%", "+1%", "1.5%", "%", "300%", "10 %", "ten"] {
            assert!(wrong.parse::<FreeFloor>().is_err(), "{wrong:?}");
        }
        assert_eq!(FreeFloor::Percent(10).to_string(), "10%");
        let read = |value: serde_json::Value| serde_json::from_value::<FreeFloor>(value).unwrap();
        assert_eq!(read(1024.into()), FreeFloor::Bytes(ByteSize::kib(1)));
        assert_eq!(read("7%".into()), FreeFloor::Percent(7));
    }

    #[test]
    fn a_share_is_of_the_file_system() {
        assert_eq!(FreeFloor::Percent(10).of(1000), 100);
        assert_eq!(FreeFloor::Percent(99).of(u64::MAX), u64::MAX / 100 * 99);
        assert_eq!(FreeFloor::Bytes(ByteSize::kib(1)).of(1000), 1024);
    }
}
