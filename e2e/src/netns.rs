//! Network namespaces on one bridge: the machines of a test.
//!
//! Each network has a namespace `PREFIX-hub` that holds the bridge, and one namespace a host with its `eth0`
//! at 10.77.0.x. The prefix carries the process id, so that two tests never meet and what a dead run left
//! behind is known as such. Processes enter with `nsenter --net`, which leaves the mounts alone: `ip netns
//! exec` would hide the cgroups from container runtimes.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::command::{command, output, run};

/// First part of every namespace's name; the process id follows.
const FAMILY: &str = "darter-e2e";
/// Where iproute2 keeps named namespaces.
const FOLDER: &str = "/run/netns";

/// Networks that this process made, for their names.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A bridge and the hosts on it. Dropping it kills what still runs in the namespaces and removes them.
#[derive(Debug)]
pub struct Network {
    prefix: String,
    hosts: Vec<Namespace>,
}

/// One host: a network namespace with an address. A cheap handle; the [`Network`] owns the namespace.
#[derive(Debug, Clone)]
pub struct Namespace {
    prefix: String,
    name: String,
    address: Ipv4Addr,
}

/// Bytes over one host's interface since it was made, headers and retransmissions included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Sent by the host.
    pub sent: u64,
    /// Received by the host.
    pub received: u64,
}

impl Network {
    /// Makes an empty bridge, after removing what dead runs left behind.
    ///
    /// # Errors
    /// When the namespaces cannot be made, which mostly means: not root.
    pub fn create() -> Result<Self> {
        remove_stale()?;
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let network = Self {
            prefix: format!("{FAMILY}-{}-{count}", std::process::id()),
            hosts: Vec::new(),
        };
        let hub = network.hub();
        run(&mut command(["ip", "netns", "add", &hub]))?;
        run(&mut command(["ip", "-n", &hub, "link", "set", "lo", "up"]))?;
        run(&mut command([
            "ip", "-n", &hub, "link", "add", "br0", "type", "bridge",
        ]))?;
        run(&mut command(["ip", "-n", &hub, "link", "set", "br0", "up"]))?;
        Ok(network)
    }

    /// Adds the host `name` (at most 12 characters) at 10.77.0.`octet`.
    ///
    /// # Errors
    /// When the name or the address is taken.
    pub fn add(&mut self, name: &str, octet: u8) -> Result<Namespace> {
        let address = Ipv4Addr::new(10, 77, 0, octet);
        let host = Namespace {
            prefix: self.prefix.clone(),
            name: name.to_owned(),
            address,
        };
        let (full, hub, port) = (host.full_name(), self.hub(), host.port());
        run(&mut command(["ip", "netns", "add", &full]))?;
        self.hosts.push(host.clone());
        run(&mut command(["ip", "-n", &full, "link", "set", "lo", "up"]))?;
        let peer = ["type", "veth", "peer", "name", &port, "netns", &hub];
        run(command(["ip", "link", "add", "eth0", "netns", &full]).args(peer))?;
        run(&mut command([
            "ip", "-n", &hub, "link", "set", &port, "master", "br0", "up",
        ]))?;
        run(&mut command([
            "ip",
            "-n",
            &full,
            "addr",
            "add",
            &format!("{address}/24"),
            "dev",
            "eth0",
        ]))?;
        run(&mut command(["ip", "-n", &full, "link", "set", "eth0", "up"]))?;
        use_cubic(&host)?;
        Ok(host)
    }

    /// The name that all of this network's namespaces start with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    fn hub(&self) -> String {
        format!("{}-hub", self.prefix)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let hub = self.hub();
        let names = self.hosts.iter().map(Namespace::full_name).chain([hub]);
        for name in names {
            if let Err(error) = remove(&name) {
                eprintln!("e2e: {error:#}");
            }
        }
    }
}

impl Namespace {
    /// The host's name in the test, as `n0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host's address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The namespace's name for `ip -n` and `tc -n`.
    pub fn full_name(&self) -> String {
        format!("{}-{}", self.prefix, self.name)
    }

    /// The namespace with the bridge that this host is on.
    pub fn hub(&self) -> String {
        format!("{}-hub", self.prefix)
    }

    /// The bridge's port that leads to this host.
    pub fn port(&self) -> String {
        format!("v-{}", self.name)
    }

    /// A command that runs `program` on this host. It dies with the thread that starts it, so that a killed
    /// test leaves nothing running; start it where you wait for it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let namespace = format!("--net={FOLDER}/{}", self.full_name());
        let mut command = command(["setpriv", "--pdeathsig", "KILL", "nsenter", &namespace, "--"]);
        command.arg(program);
        command
    }

    /// The body of `GET url`, asked from this host. Redirects are not followed.
    ///
    /// # Errors
    /// When nobody answers within 5 s, or the status is 400 or more.
    pub fn get(&self, url: &str) -> Result<String> {
        output(
            self.command("curl")
                .args(["--silent", "--show-error", "--fail", "--max-time", "5", url]),
        )
    }

    /// What went over the host's interface so far.
    ///
    /// # Errors
    /// When the namespace is gone.
    pub fn traffic(&self) -> Result<Traffic> {
        let name = self.full_name();
        let json = output(&mut command([
            "ip", "-n", &name, "-s", "-j", "link", "show", "eth0",
        ]))?;
        let links: Vec<Link> =
            serde_json::from_str(&json).with_context(|| format!("not ip's JSON: {json}"))?;
        let link = links.into_iter().next().context("ip shows no eth0")?;
        Ok(Traffic {
            sent: link.stats64.tx.bytes,
            received: link.stats64.rx.bytes,
        })
    }

    /// Takes the host off the network, or puts it back.
    ///
    /// # Errors
    /// When the namespace is gone.
    pub fn set_link(&self, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        run(&mut command([
            "ip",
            "-n",
            &self.hub(),
            "link",
            "set",
            &self.port(),
            state,
        ]))
    }
}

#[derive(Debug, Deserialize)]
struct Link {
    stats64: Stats,
}

#[derive(Debug, Deserialize)]
struct Stats {
    rx: Counter,
    tx: Counter,
}

#[derive(Debug, Deserialize)]
struct Counter {
    bytes: u64,
}

/// Gives the host the congestion control that most machines have, whatever this one's default is.
fn use_cubic(host: &Namespace) -> Result<()> {
    const ALLOWED: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";
    let set = || {
        run(host
            .command("sh")
            .args(["-c", "echo cubic > /proc/sys/net/ipv4/tcp_congestion_control"]))
    };
    if set().is_ok() {
        return Ok(());
    }
    // Where it is not the machine's default, namespaces may use it only once it is in this list.
    let allowed = std::fs::read_to_string(ALLOWED).with_context(|| format!("cannot read {ALLOWED}"))?;
    std::fs::write(ALLOWED, format!("{} cubic", allowed.trim()))
        .with_context(|| format!("cannot write {ALLOWED}"))?;
    set().context("this kernel has no TCP cubic")
}

/// Kills what runs in the namespace and removes it.
fn remove(name: &str) -> Result<()> {
    let list = output(&mut command(["ip", "netns", "pids", name]))?;
    for pid in list.split_whitespace().filter_map(|word| word.parse().ok()) {
        if let Some(pid) = rustix::process::Pid::from_raw(pid) {
            // It may have ended meanwhile, which is what is wanted.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    run(&mut command(["ip", "netns", "del", name]))
}

/// Removes the namespaces of runs whose process is gone.
fn remove_stale() -> Result<()> {
    let Ok(entries) = std::fs::read_dir(FOLDER) else {
        return Ok(());
    };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if owner(&name).is_some_and(|pid| !is_running(pid)) {
            // Another run may be clearing up the same one.
            let _ = remove(&name);
        }
    }
    Ok(())
}

/// The process that made the namespace `name`, when it is one of the harness's.
pub(crate) fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(FAMILY)?
        .strip_prefix('-')?
        .split('-')
        .next()?
        .parse()
        .ok()
}

/// Is there a process with this id?
pub(crate) fn is_running(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_namespaces_have_an_owner() {
        assert_eq!(owner("darter-e2e-123-0-hub"), Some(123));
        assert_eq!(owner("darter-e2e-x-0-hub"), None);
        assert_eq!(owner("cni-123"), None);
    }

    #[test]
    fn this_process_runs() {
        assert!(is_running(std::process::id()));
        assert!(!is_running(u32::MAX));
    }
}
