//! The bridge's configuration: every key with its default and why.

use darter_service::config::{ByteSize, Period, Problems, Validate};
use darter_service::log::LogConfig;
use darter_service::net::Address;
use serde::{Deserialize, Serialize};

use crate::blob::Patience;
use crate::fs::Limits;
use crate::mount::Driver;

const MIB: u64 = 1 << 20;

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Config {
    /// Version of this format; 1 is the only one so far.
    pub version: u32,
    /// The node's mirror, `ip:port` or `unix:/path`.
    pub mirror: String,
    /// Who shows the tree.
    pub driver: Driver,
    /// What is kept on disk.
    pub cache: CacheConfig,
    /// What is asked for.
    pub requests: RequestsConfig,
    /// What is taken along with what somebody reads.
    pub read_ahead: ReadAheadConfig,
    /// What is fetched before anybody reads it.
    pub prefetch: PrefetchConfig,
    /// The admin port.
    pub admin: AdminConfig,
    /// What is logged.
    pub log: LogConfig,
}

/// What is kept on disk, for all mounts that use the same folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct CacheConfig {
    /// The folder. None: `/var/lib/darter/bridge` for root, the user's cache folder for others.
    pub dir: Option<String>,
    /// Most bytes of unpacked chunks, of all images together.
    pub size: ByteSize,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct RequestsConfig {
    /// Requests for readers that are out at once.
    pub max: usize,
    /// Longest request for several chunks.
    pub bytes_max: ByteSize,
    /// Longest gap between two chunks that is read over rather than left out.
    pub gap_max: ByteSize,
    /// How long a connection may take.
    pub connect: Period,
    /// How long an answer may be silent before it is asked for again.
    pub silence: Period,
    /// How long a reader waits, with all attempts, before it gets an I/O error.
    pub read_max: Period,
}

/// What is taken along with what somebody reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct ReadAheadConfig {
    /// With a read of which nothing is known. 0 turns reading ahead off.
    pub first: ByteSize,
    /// With one that goes on where others ended, at most.
    pub max: ByteSize,
    /// No reading ahead when more was fetched than what was read, in percent of that.
    pub amplification_max: u64,
}

/// What is fetched before anybody reads it, when nobody waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct PrefetchConfig {
    /// What earlier mounts of the image read first.
    pub replay: bool,
    /// What the image itself names.
    pub table: bool,
    /// Everything.
    pub all: bool,
    /// Requests that are out at once.
    pub requests_max: usize,
}

/// The admin port: metrics, health, this configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct AdminConfig {
    /// Where it listens; none by default, for a node may have many mounts.
    pub listen: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            version: 1,
            mirror: "127.0.0.1:4001".to_owned(),
            driver: Driver::Auto,
            cache: CacheConfig::default(),
            requests: RequestsConfig::default(),
            read_ahead: ReadAheadConfig::default(),
            prefetch: PrefetchConfig::default(),
            admin: AdminConfig::default(),
            log: LogConfig::default(),
        }
    }
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            dir: None,
            size: ByteSize::bytes(Limits::default().cache_bytes_max),
        }
    }
}

impl Default for RequestsConfig {
    fn default() -> Self {
        let (limits, patience) = (Limits::default(), Patience::default());
        Self {
            max: limits.requests_max,
            bytes_max: ByteSize::bytes(limits.request_bytes_max),
            gap_max: ByteSize::bytes(limits.gap_bytes_max),
            connect: Period::from(patience.connect),
            silence: Period::from(patience.silence),
            read_max: Period::from(limits.read_max),
        }
    }
}

impl Default for ReadAheadConfig {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            first: ByteSize::bytes(limits.ahead_bytes),
            max: ByteSize::bytes(limits.ahead_bytes_max),
            amplification_max: limits.amplification_max,
        }
    }
}

impl Default for PrefetchConfig {
    fn default() -> Self {
        Self {
            replay: true,
            table: true,
            all: false,
            requests_max: Limits::default().background_max,
        }
    }
}

impl Config {
    /// The bounds of a mount.
    pub fn limits(&self) -> Limits {
        Limits {
            cache_bytes_max: self.cache.size.as_u64(),
            requests_max: self.requests.max,
            request_bytes_max: self.requests.bytes_max.as_u64(),
            gap_bytes_max: self.requests.gap_max.as_u64(),
            ahead_bytes: self.read_ahead.first.as_u64(),
            ahead_bytes_max: self.read_ahead.max.as_u64(),
            amplification_max: self.read_ahead.amplification_max,
            background_max: self.prefetch.requests_max,
            read_max: self.requests.read_max.as_duration(),
        }
    }

    /// How long the mirror may take.
    pub fn patience(&self) -> Patience {
        Patience {
            connect: self.requests.connect.as_duration(),
            silence: self.requests.silence.as_duration(),
            total: self.requests.read_max.as_duration(),
        }
    }
}

impl Validate for Config {
    fn validate(&self, problems: &mut Problems) {
        let mut check = |good: bool, key: &str, what: &str| {
            if !good {
                problems.add(key, what);
            }
        };
        let is_address = |text: &str| text.parse::<Address>().is_ok();
        let within = |size: ByteSize, least: u64, most: u64| (least..=most).contains(&size.as_u64());
        let counts = 1..=64;
        check(self.version == 1, "version", "only version 1 is known");
        check(is_address(&self.mirror), "mirror", "write ip:port or unix:/path");
        let admin = self.admin.listen.as_deref();
        check(
            admin.is_none_or(is_address),
            "admin.listen",
            "write ip:port, or null",
        );
        check(
            counts.contains(&self.requests.max),
            "requests.max",
            "write a number from 1 to 64",
        );
        check(
            within(self.requests.bytes_max, MIB, 16 * MIB),
            "requests.bytesMax",
            "write a size from 1MiB to 16MiB",
        );
        check(
            within(self.requests.gap_max, 0, MIB),
            "requests.gapMax",
            "write a size of at most 1MiB",
        );
        for (key, period) in [
            ("requests.connect", self.requests.connect),
            ("requests.silence", self.requests.silence),
            ("requests.readMax", self.requests.read_max),
        ] {
            let seconds = period.as_duration().as_secs_f64();
            check(
                (0.1..=600.0).contains(&seconds),
                key,
                "write a time from 100ms to 10m",
            );
        }
        check(
            within(self.read_ahead.first, 0, 64 * MIB),
            "readAhead.first",
            "write a size of at most 64MiB",
        );
        check(
            within(self.read_ahead.max, 0, 64 * MIB),
            "readAhead.max",
            "write a size of at most 64MiB",
        );
        check(
            self.read_ahead.amplification_max >= 100,
            "readAhead.amplificationMax",
            "write percent, at least 100",
        );
        check(
            counts.contains(&self.prefetch.requests_max),
            "prefetch.requestsMax",
            "write a number from 1 to 64",
        );
        problems.within("log", |problems| self.log.validate(problems));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use darter_service::config::{Sources, load};

    fn with(set: &[&str]) -> Result<Config, String> {
        let set: Vec<String> = set.iter().map(|text| (*text).to_owned()).collect();
        let sources = Sources {
            role: "bridge",
            file: None,
            env: std::iter::empty(),
            set: &set,
        };
        load(sources).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_those_of_the_mount() {
        let config = with(&[]).unwrap();
        assert_eq!(config, Config::default());
        assert_eq!(config.limits(), Limits::default());
        assert_eq!(config.patience(), Patience::default());
    }

    #[test]
    fn what_cannot_be_is_told_with_its_key() {
        for (set, key) in [
            ("mirror=nowhere", "mirror"),
            ("version=2", "version"),
            ("admin.listen=x", "admin.listen"),
            ("requests.max=0", "requests.max"),
            ("requests.bytesMax=1GiB", "requests.bytesMax"),
            ("requests.gapMax=2MiB", "requests.gapMax"),
            ("requests.readMax=1h", "requests.readMax"),
            ("readAhead.first=1GiB", "readAhead.first"),
            ("readAhead.amplificationMax=99", "readAhead.amplificationMax"),
            ("prefetch.requestsMax=100", "prefetch.requestsMax"),
            ("driver=else", "driver"),
            ("log.filter=;", "log.filter"),
        ] {
            let said = with(&[set]).unwrap_err();
            assert!(said.contains(key), "{set}: {said}");
        }
        let config = with(&["driver=erofs", "requests.readMax=5s"]).unwrap();
        assert_eq!(config.driver, Driver::Erofs);
        assert_eq!(config.patience().total.as_secs(), 5);
    }
}
