//! Durations in configuration: a whole number and a unit, for example `30s`.

use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize as _, Deserializer, Serializer};

/// Milliseconds in each unit, longest first, so that what is written is as short as it can be.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

pub(crate) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    let millis = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
    let fits = |(_, unit): &&(&str, u64)| millis > 0 && millis.is_multiple_of(*unit);
    let (name, unit) = UNITS.iter().find(fits).copied().unwrap_or(("s", 1000));
    serializer.collect_str(&format_args!("{}{name}", millis / unit))
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text)
        .ok_or_else(|| D::Error::custom(format!("{text:?} is no duration; write 500ms, 30s, 5m or 24h")))
}

fn parse(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit)?;
    number
        .parse::<u64>()
        .ok()?
        .checked_mul(*millis)
        .map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
        struct Config(#[serde(with = "super")] Duration);
        for (text, millis) in [
            ("0s", 0),
            ("1500ms", 1500),
            ("30s", 30_000),
            ("24h", 86_400_000),
            ("5m", 300_000),
        ] {
            let value = Config(Duration::from_millis(millis));
            assert_eq!(serde_json::to_string(&value).unwrap(), format!("{text:?}"));
            assert_eq!(
                serde_json::from_str::<Config>(&format!("{text:?}")).unwrap(),
                value
            );
        }
        for bad in ["", "5", "s", "-5s", "1.5s", "5 s", "5d", "99999999999999999h"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
