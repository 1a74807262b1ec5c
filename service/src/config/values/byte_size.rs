//! A number of bytes with its unit: `64MiB`, `1GiB`.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::{ValueError, leading_number};

const EXPECTED: &str = "a size such as 64MiB";

/// Units from large to small: the binary ones first, since they are the ones that are written.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];
/// How many of [`UNITS`] are binary.
const BINARY_UNITS: usize = 4;

/// A number of bytes in a configuration, written `64MiB`, `1GiB`, `500MB`, `0B`; a bare number counts bytes.
///
/// Also used for rates, where it is bytes a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

impl ByteSize {
    /// Bytes.
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// Kibibytes: 1024 bytes each. More than fits is as much as fits.
    pub const fn kib(count: u64) -> Self {
        Self(count.saturating_mul(1 << 10))
    }

    /// Mebibytes: 1024 KiB each. More than fits is as much as fits.
    pub const fn mib(count: u64) -> Self {
        Self(count.saturating_mul(1 << 20))
    }

    /// Gibibytes: 1024 MiB each. More than fits is as much as fits.
    pub const fn gib(count: u64) -> Self {
        Self(count.saturating_mul(1 << 30))
    }

    /// The number of bytes.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The number of bytes as a length in memory; on a 32-bit machine at most what can be addressed there.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl From<u64> for ByteSize {
    fn from(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl From<ByteSize> for u64 {
    fn from(size: ByteSize) -> Self {
        size.0
    }
}

impl FromStr for ByteSize {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || ValueError::new(EXPECTED, text);
        let (number, unit) = leading_number(text).ok_or_else(wrong)?;
        if unit.is_empty() {
            return Ok(Self(number));
        }
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        number.checked_mul(*factor).map(Self).ok_or_else(wrong)
    }
}

impl fmt::Display for ByteSize {
    /// In the largest binary unit that it is a whole number of: nothing is rounded.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |unit: u64| self.0 != 0 && self.0.is_multiple_of(unit);
        match UNITS.iter().take(BINARY_UNITS).find(|(_, unit)| whole(*unit)) {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(bytes))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                u64::try_from(bytes)
                    .map(ByteSize)
                    .map_err(|_| E::custom(ValueError::new(EXPECTED, &bytes.to_string())))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_binary_and_decimal_units() {
        for (text, bytes) in [
            ("64MiB", 64 << 20),
            ("1GiB", 1 << 30),
            ("2TiB", 2 << 40),
            ("4KiB", 4096),
            ("500MB", 500_000_000),
            ("7B", 7),
            ("7", 7),
            ("0", 0),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize::bytes(bytes)), "{text}");
        }
        assert_eq!(ByteSize::mib(64).as_u64(), 64 << 20);
        assert_eq!(ByteSize::kib(1), ByteSize::bytes(1024));
        assert_eq!(ByteSize::gib(1), ByteSize::mib(1024));
    }

    #[test]
    fn refuses_what_has_no_clear_meaning() {
        for bad in [
            "",
            "MiB",
            "64 MiB",
            "64mib",
            "64M",
            "-1",
            "+1",
            "1.5GiB",
            "1GiB1",
            "99999999TiB",
            "fast",
        ] {
            let error = bad.parse::<ByteSize>().expect_err(bad).to_string();
            assert_eq!(error, format!("expected a size such as 64MiB, got {bad:?}"));
        }
    }

    #[test]
    fn a_bare_number_in_a_file_is_bytes() {
        assert_eq!(
            serde_json::from_str::<ByteSize>("4096").unwrap(),
            ByteSize::kib(4)
        );
        assert_eq!(serde_json::to_string(&ByteSize::kib(4)).unwrap(), "\"4KiB\"");
        assert!(serde_json::from_str::<ByteSize>("-1").is_err());
        assert!(serde_json::from_str::<ByteSize>("1.5").is_err());
    }

    #[test]
    fn is_written_without_rounding() {
        for (size, text) in [
            (ByteSize::mib(1024), "1GiB"),
            (ByteSize::mib(1025), "1025MiB"),
            (ByteSize::bytes(1_000_000), "1000000B"),
            (ByteSize::bytes(0), "0B"),
        ] {
            assert_eq!(size.to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn reads_back_what_it_writes(bytes: u64, shift in 0_u32..64) {
            let size = ByteSize::bytes((bytes >> shift) << (shift / 2));
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }
    }
}
