//! A duration with its unit: `500ms`, `30s`, `1m30s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::{ValueError, leading_number};

const EXPECTED: &str = "a duration such as 30s, 500ms or 1m30s";

/// Units from long to short, in nanoseconds; they may follow each other in this order only.
const UNITS: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// A duration in a configuration, written with units: `500ms`, `30s`, `1h`, `1m30s`. Zero may be written `0s`.
///
/// The longest one is about 584 years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(Duration);

impl Period {
    /// Whole seconds.
    pub const fn secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// Milliseconds.
    pub const fn millis(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }

    /// Whole minutes.
    pub const fn mins(minutes: u64) -> Self {
        Self(Duration::from_secs(minutes * 60))
    }

    /// Whole hours.
    pub const fn hours(hours: u64) -> Self {
        Self(Duration::from_secs(hours * 3600))
    }

    /// As the standard library's type.
    pub const fn as_duration(self) -> Duration {
        self.0
    }

    /// Whether it is no time at all.
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl From<Duration> for Period {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl From<Period> for Duration {
    fn from(period: Period) -> Self {
        period.0
    }
}

impl FromStr for Period {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let wrong = || ValueError::new(EXPECTED, text);
        let (mut rest, mut nanoseconds, mut units) = (text, 0_u64, UNITS.iter());
        loop {
            let (number, tail) = leading_number(rest).ok_or_else(wrong)?;
            let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (name, tail) = tail.split_at(end);
            // The iterator goes on where it was: `30s1m` and `1s1s` find no unit.
            let (_, unit) = units.find(|(unit, _)| *unit == name).ok_or_else(wrong)?;
            let part = number.checked_mul(*unit).ok_or_else(wrong)?;
            nanoseconds = nanoseconds.checked_add(part).ok_or_else(wrong)?;
            rest = tail;
            if rest.is_empty() {
                return Ok(Self(Duration::from_nanos(nanoseconds)));
            }
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_zero() {
            return f.write_str("0s");
        }
        let mut rest = self.0.as_nanos();
        for (name, unit) in UNITS {
            let unit = u128::from(unit);
            if rest >= unit {
                write!(f, "{}{name}", rest / unit)?;
                rest %= unit;
            }
        }
        Ok(())
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Period;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Period, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Period, E> {
                Err(E::custom(format_args!(
                    "expected {EXPECTED}, got the number {number} without a unit"
                )))
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
    fn reads_units_in_falling_order() {
        for (text, milliseconds) in [
            ("30s", 30_000),
            ("500ms", 500),
            ("1h", 3_600_000),
            ("1m30s", 90_000),
            ("1d2h3m4s5ms", 93_784_005),
            ("0s", 0),
        ] {
            assert_eq!(text.parse(), Ok(Period::millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn refuses_what_has_no_clear_meaning() {
        for bad in [
            "",
            "30",
            "s",
            "30 s",
            "-1s",
            "+1s",
            "1.5s",
            "30s1m",
            "1s1s",
            "1s1",
            "1S",
            "99999999999999d",
        ] {
            let error = bad.parse::<Period>().expect_err(bad).to_string();
            assert_eq!(
                error,
                format!("expected a duration such as 30s, 500ms or 1m30s, got {bad:?}")
            );
        }
    }

    #[test]
    fn a_bare_number_is_told_that_it_lacks_a_unit() {
        let error = serde_json::from_str::<Period>("30").unwrap_err().to_string();
        assert!(error.contains("got the number 30 without a unit"), "{error}");
        assert_eq!(
            serde_json::from_str::<Period>("\"30s\"").unwrap(),
            Period::secs(30)
        );
        assert_eq!(serde_json::to_string(&Period::mins(90)).unwrap(), "\"1h30m\"");
    }

    proptest! {
        #[test]
        fn reads_back_what_it_writes(nanoseconds: u64) {
            let period = Period::from(Duration::from_nanos(nanoseconds));
            prop_assert_eq!(period.to_string().parse(), Ok(period));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[0-9dhmsun]{0,30}") {
            let _ = text.parse::<Period>();
        }
    }
}
