//! The certificates of this node: whether they can be used, and for how long yet.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use darter_proxy::config::Config;
use darter_proxy::secure::Secure;
use darter_service::tls::certificates;
use darter_types::HostId;

use super::finding::Finding;

const CHECK: &str = "certificates";
/// Earlier than this somebody should know.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// The files of `tls`, for a node of this name.
pub(super) fn check(config: &Config, host: &HostId, now: SystemTime) -> Vec<Finding> {
    match Secure::load(config, host) {
        Ok(Some(_)) => {}
        Ok(None) => {
            let seen = "none: the exchange with other nodes is neither encrypted nor authenticated";
            let advice = "`darter certs` makes them; set tls.certFile, tls.keyFile and tls.caFile";
            return vec![Finding::warn(CHECK, seen, advice)];
        }
        Err(error) => {
            let advice = "give the node another certificate; the proxy does not start with this one";
            return vec![Finding::fail(CHECK, error.to_string(), advice)];
        }
    }
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let files = [&config.tls.cert_file, &config.tls.ca_file];
    let ends = files
        .into_iter()
        .flatten()
        .filter_map(|path| Some((path.clone(), end(path)?)));
    let first = ends.min_by_key(|(_, end): &(PathBuf, Duration)| *end);
    first
        .map(|(path, end)| expires(&path, end, now))
        .into_iter()
        .collect()
}

fn expires(path: &Path, end: Duration, now: Duration) -> Finding {
    let left = end.saturating_sub(now);
    let days = left.as_secs() / (24 * 3600);
    let seen = format!("{} is good for {days} days", path.display());
    match left {
        left if left.is_zero() => Finding::fail(
            CHECK,
            format!("{} has expired", path.display()),
            "renew it, and restart the proxy",
        ),
        left if left < SOON => Finding::warn(CHECK, seen, "renew it soon"),
        _ => Finding::ok(CHECK, seen),
    }
}

/// When the certificate of a file that ends first does: seconds since 1970.
fn end(path: &Path) -> Option<Duration> {
    let ends = certificates(path)
        .ok()?
        .into_iter()
        .map(|certificate| certificate.not_after);
    ends.min()
        .map(|end| Duration::from_secs(u64::try_from(end).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    #[test]
    fn none_is_a_warning_and_some_is_a_failure() {
        let now = SystemTime::UNIX_EPOCH;
        let host = "a".parse().unwrap();
        let mut config = Config::default();
        assert_eq!(check(&config, &host, now)[0].state, State::Warn);
        config.tls.cert_file = Some("/nonexistent.pem".into());
        assert_eq!(check(&config, &host, now)[0].state, State::Fail);
        config.tls.key_file = Some("/nonexistent.key".into());
        config.tls.ca_file = Some("/nonexistent.ca".into());
        let found = check(&config, &host, now);
        assert_eq!(found[0].state, State::Fail);
        assert!(found[0].seen.contains("/nonexistent"), "{found:?}");
    }

    #[test]
    fn the_end_is_told_in_time() {
        let day = Duration::from_secs(24 * 3600);
        let at = |left: u32| expires(Path::new("c.pem"), 100 * day + left * day, 100 * day);
        assert_eq!(at(0).state, State::Fail);
        assert_eq!(at(13).state, State::Warn);
        assert_eq!(at(30), Finding::ok(CHECK, "c.pem is good for 30 days"));
    }
}
