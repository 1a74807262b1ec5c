//! The proxies that a runtime was told of by its environment: they must not stand before the mirror.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use darter_containerd_config::Mirror;

use super::finding::Finding;

const CHECK: &str = "NO_PROXY";
/// The programs that pull.
const PULLERS: [&str; 5] = ["containerd", "dockerd", "crio", "k3s", "rke2"];

/// Looks at the environment of each runtime that runs.
pub(super) fn check(root: &Path, mirror: &Mirror) -> Vec<Finding> {
    let text = mirror.to_string();
    let host = host(&text);
    let found = running(root);
    let wrong: Vec<Finding> = found
        .iter()
        .filter(|(_, environment)| goes_astray(environment, host))
        .map(|(name, _)| {
            let seen = format!("{name} has HTTP_PROXY in its environment, which also stands before {text}");
            let advice = format!("add {host} to NO_PROXY of the service, and restart it");
            Finding::fail(CHECK, seen, advice)
        })
        .collect();
    match (wrong.is_empty(), found.is_empty()) {
        (false, _) => wrong,
        (true, false) => vec![Finding::ok(CHECK, "no runtime asks another proxy for the mirror")],
        // Not root, or nothing runs: the check of the runtime says so.
        (true, true) => Vec::new(),
    }
}

/// `host` of `scheme://host:port/path`.
fn host(url: &str) -> &str {
    let behind = url.split_once("://").map_or(url, |(_, behind)| behind);
    let authority = behind.split('/').next().unwrap_or(behind);
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => authority.rsplit_once(':').map_or(authority, |(host, _)| host),
    }
}

/// Whether Go's rules send a plain request for `host` to a proxy: never for loopback, nor for what NO_PROXY has.
fn goes_astray(environment: &BTreeMap<String, String>, host: &str) -> bool {
    let get = |name: &str| {
        let lower = name.to_lowercase();
        environment.get(name).or_else(|| environment.get(&lower))
    };
    let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if loopback || get("HTTP_PROXY").is_none_or(String::is_empty) {
        return false;
    }
    let none = get("NO_PROXY").cloned().unwrap_or_default();
    !none.split(',').any(|entry| covers(entry.trim(), host))
}

/// One entry of NO_PROXY: `*`, an address, a block of addresses, a domain with what is below it.
fn covers(entry: &str, host: &str) -> bool {
    let bare = entry.trim_start_matches('.');
    if entry == "*" || entry == host || (!bare.is_empty() && host.ends_with(&format!(".{bare}"))) {
        return true;
    }
    let block = entry
        .split_once('/')
        .and_then(|(base, bits)| Some((base.parse().ok()?, bits.parse().ok()?)));
    match (block, host.parse()) {
        (Some((base, bits)), Ok(address)) => in_block(base, bits, address),
        _ => false,
    }
}

fn in_block(base: IpAddr, bits: u32, address: IpAddr) -> bool {
    let (base, address, width) = match (base, address) {
        (IpAddr::V4(base), IpAddr::V4(address)) => (base.to_bits().into(), address.to_bits().into(), 32),
        (IpAddr::V6(base), IpAddr::V6(address)) => (base.to_bits(), address.to_bits(), 128),
        _ => return false,
    };
    let shift = u32::saturating_sub(width, bits);
    u128::checked_shr(base, shift) == u128::checked_shr(address, shift)
}

/// Name and environment of each runtime that runs; of those that may not be read, nothing.
fn running(root: &Path) -> Vec<(String, BTreeMap<String, String>)> {
    let processes = std::fs::read_dir(root.join("proc"))
        .into_iter()
        .flatten()
        .flatten();
    let read = |path: std::path::PathBuf| {
        let name = std::fs::read_to_string(path.join("comm")).ok()?.trim().to_owned();
        if !PULLERS.contains(&name.as_str()) {
            return None;
        }
        let bytes = std::fs::read(path.join("environ")).ok()?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let pairs = text.split('\0').filter_map(|pair| pair.split_once('='));
        Some((
            name,
            pairs
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
        ))
    };
    processes.filter_map(|process| read(process.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    fn state(environ: &str, mirror: &str) -> Option<State> {
        let root = tempfile::tempdir().unwrap();
        let process = root.path().join("proc/7");
        std::fs::create_dir_all(&process).unwrap();
        std::fs::write(process.join("comm"), "containerd\n").unwrap();
        std::fs::write(process.join("environ"), environ.replace(' ', "\0")).unwrap();
        let findings = check(root.path(), &mirror.parse().unwrap());
        findings.first().map(|finding| finding.state)
    }

    #[test]
    fn a_proxy_before_the_mirror_is_found() {
        let node = "http://10.0.0.7:4001";
        for (environ, mirror, expected) in [
            ("HTTP_PROXY=http://p:3128", node, State::Fail),
            ("http_proxy=http://p:3128 NO_PROXY=10.1.0.0/16", node, State::Fail),
            (
                "HTTP_PROXY=http://p:3128 NO_PROXY=.svc,10.0.0.0/8",
                node,
                State::Ok,
            ),
            ("HTTP_PROXY=http://p:3128 no_proxy=10.0.0.7", node, State::Ok),
            ("HTTP_PROXY=http://p:3128", "http://127.0.0.1:4001", State::Ok),
            ("HTTPS_PROXY=http://p:3128", node, State::Ok),
            (
                "HTTP_PROXY=http://p:3128 NO_PROXY=cluster.test",
                "http://m.cluster.test:1",
                State::Ok,
            ),
        ] {
            assert_eq!(state(environ, mirror), Some(expected), "{environ} {mirror}");
        }
    }

    #[test]
    fn where_nothing_runs_nothing_is_said() {
        let root = tempfile::tempdir().unwrap();
        assert!(check(root.path(), &"http://10.0.0.7:4001".parse().unwrap()).is_empty());
    }
}
