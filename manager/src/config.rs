//! The manager's configuration: every key with its default and why.

use std::path::PathBuf;
use std::time::Duration;

use darter_service::config::{Period, Problems, Secret, Validate};
use darter_service::log::LogConfig;
use darter_service::net::Address;
use darter_service::tls::TlsConfig;
use darter_service::traces::TracesConfig;
use darter_service::watchdog::WatchdogConfig;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::store::{Millis, Place};

/// Instances say that they are alive three times in the time that they may be silent.
const SILENCE_MIN: Duration = Duration::from_secs(3);
/// Who is dead is known no later than this.
const SILENCE_MAX: Duration = Duration::from_secs(3600);

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Config {
    /// Version of this format; 1 is the only one so far.
    pub version: u32,
    /// Where people and programs come, by HTTP.
    pub web: WebConfig,
    /// Where schedulers and nodes join, by gRPC.
    pub roles: RolesConfig,
    /// Where everything is kept.
    pub database: DatabaseConfig,
    /// Who signs in, and for how long.
    pub sign_in: SignInConfig,
    /// The admin port.
    pub admin: Admin,
    /// When a manager that hangs ends itself.
    pub watchdog: WatchdogConfig,
    /// What is logged.
    pub log: LogConfig,
    /// Where traces go.
    pub traces: TracesConfig,
}

/// Where people and programs come, by HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct WebConfig {
    /// `ip:port`; all addresses by default, for people sit at other machines.
    pub listen: Address,
    /// How browsers reach it, such as `https://darter.example`. With https, cookies are kept from plain connections.
    pub public_url: String,
    /// Networks of the proxies before it. Only these are believed who a request came from (`X-Forwarded-For`).
    pub trusted_proxies: Vec<IpNet>,
    /// Most connections at a time; further ones are answered 503.
    pub connections_max: usize,
}

/// Where schedulers and nodes join, by gRPC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct RolesConfig {
    /// `ip:port`; all addresses by default, for they are other machines.
    pub listen: Address,
    /// Whether those may join from other machines whose connection is not encrypted, which shows their join token to whoever
    /// listens. Without it and without `tls` only this machine may.
    pub plain: bool,
    /// Certificates: with them whoever joins proves who it is, and needs no join token.
    pub tls: TlsConfig,
    /// Most connections at a time; further ones are closed.
    pub connections_max: usize,
    /// How long an instance may be silent until it is not handed out any more.
    pub silence_max: Period,
}

/// Where everything is kept: a file of SQLite, or a Postgres for several managers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct DatabaseConfig {
    /// The file. Its folder is made, for this user alone.
    pub file: PathBuf,
    /// `postgres://user:password@host/name`; then there is no file, and all managers with the same one are one.
    pub url: Secret,
}

/// Who signs in, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct SignInConfig {
    /// How long a browser stays signed in.
    pub session_lifetime: Period,
    /// The longest that a token may be good for.
    pub token_lifetime_max: Period,
}

/// The admin port: health, metrics, this configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Admin {
    /// Where it listens; loopback by default, since it tells much and asks for nothing.
    pub listen: Address,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            version: 1,
            web: WebConfig::default(),
            roles: RolesConfig::default(),
            database: DatabaseConfig::default(),
            sign_in: SignInConfig::default(),
            admin: Admin::default(),
            watchdog: WatchdogConfig::default(),
            log: LogConfig::default(),
            traces: TracesConfig::default(),
        }
    }
}

impl Default for WebConfig {
    fn default() -> Self {
        Self {
            listen: Address::Tcp("0.0.0.0:8080".into()),
            public_url: String::new(),
            trusted_proxies: Vec::new(),
            connections_max: 4096,
        }
    }
}

impl Default for RolesConfig {
    fn default() -> Self {
        Self {
            listen: Address::Tcp("0.0.0.0:65003".into()),
            plain: false,
            tls: TlsConfig::default(),
            connections_max: 32_768,
            silence_max: Period::secs(30),
        }
    }
}

impl RolesConfig {
    /// How long an instance may be silent, in milliseconds.
    pub(crate) fn silence_ms(&self) -> Millis {
        i64::try_from(self.silence_max.as_duration().as_millis()).unwrap_or(i64::MAX)
    }
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self {
            file: "/var/lib/darter-manager/manager.db".into(),
            url: Secret::default(),
        }
    }
}

impl Default for SignInConfig {
    fn default() -> Self {
        Self {
            session_lifetime: Period::hours(12),
            token_lifetime_max: Period::hours(365 * 24),
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            listen: Address::Tcp("127.0.0.1:8081".into()),
        }
    }
}

impl WebConfig {
    /// Whether browsers come by https alone.
    pub fn is_secure(&self) -> bool {
        self.public_url.starts_with("https://")
    }
}

impl DatabaseConfig {
    /// Where the database is.
    pub fn place(&self) -> Place {
        match self.url.is_empty() {
            true => Place::Sqlite(self.file.clone()),
            false => Place::Postgres(self.url.clone()),
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
        check(self.version == 1, "version", "only version 1 is known");
        let url = &self.web.public_url;
        check(
            url.is_empty() || url.starts_with("https://") || url.starts_with("http://"),
            "web.publicUrl",
            "write https://HOST, or nothing",
        );
        check(
            self.web.connections_max > 0,
            "web.connectionsMax",
            "write a number above zero",
        );
        check(
            self.roles.connections_max > 0,
            "roles.connectionsMax",
            "write a number above zero",
        );
        check(
            (SILENCE_MIN..=SILENCE_MAX).contains(&self.roles.silence_max.as_duration()),
            "roles.silenceMax",
            "write a time from 3s to 1h",
        );
        let database = self.database.url.expose();
        check(
            database.is_empty()
                || database.starts_with("postgres://")
                || database.starts_with("postgresql://"),
            "database.url",
            "write postgres://USER:PASSWORD@HOST/NAME, or nothing for a file",
        );
        check(
            self.database.file.is_absolute() || !database.is_empty(),
            "database.file",
            "write an absolute path",
        );
        for (key, period) in [
            ("signIn.sessionLifetime", self.sign_in.session_lifetime),
            ("signIn.tokenLifetimeMax", self.sign_in.token_lifetime_max),
        ] {
            check(!period.is_zero(), key, "write a time above zero");
        }
        problems.within("roles", |problems| {
            problems.within("tls", |problems| self.roles.tls.validate(problems));
        });
        problems.within("watchdog", |problems| self.watchdog.validate(problems));
        problems.within("log", |problems| self.log.validate(problems));
        problems.within("traces", |problems| self.traces.validate(problems));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_good() {
        let mut problems = Problems::new();
        Config::default().validate(&mut problems);
        assert!(problems.is_empty(), "{:?}", problems.found());
    }

    #[test]
    fn what_is_taken_is_taken_again() {
        darter_testkit::fuzz::check("config", darter_service::config::fuzz_config::<Config>);
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let mut config = Config {
            version: 2,
            ..Config::default()
        };
        config.web.public_url = "darter.example".into();
        config.database.url = Secret::new("mysql://root:canary@db/x");
        config.sign_in.session_lifetime = Period::secs(0);
        let mut problems = Problems::new();
        config.validate(&mut problems);
        let keys: Vec<&str> = problems.found().iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "version",
                "web.publicUrl",
                "database.url",
                "signIn.sessionLifetime"
            ]
        );
        assert!(!format!("{problems:?} {config:?}").contains("canary"));
    }
}
