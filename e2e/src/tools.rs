//! The programs of the distribution that the tests need, and their installation.
//!
//! A test never skips because a tool is missing: it is installed with one `apt-get` call, or the test fails
//! and says what to install.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::fs::FlockOperation;

use crate::command::{command, run};

/// Program, and the Debian 12 package that has it.
const TOOLS: [(&str, &str); 23] = [
    ("buildah", "buildah"),
    // The real Nydus programs are compiled with it.
    ("cmake", "cmake"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("ctr-remote", "stargz-snapshotter"),
    ("curl", "curl"),
    ("docker-registry", "docker-registry"),
    ("dockerd", "docker.io"),
    ("go", "golang-go"),
    ("gzip", "gzip"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("mmdebstrap", "mmdebstrap"),
    ("nginx", "nginx-light"),
    ("nsenter", "util-linux"),
    ("podman", "podman"),
    ("python3", "python3"),
    ("runc", "runc"),
    ("skopeo", "skopeo"),
    ("strace", "strace"),
    ("tar", "tar"),
    ("tc", "iproute2"),
    ("umoci", "umoci"),
];

/// Where the distribution keeps the sources of Go libraries: a `GOPATH`.
pub const GO_LIBRARIES: &str = "/usr/share/gocode";

/// A library below [`GO_LIBRARIES`], and its package.
const LIBRARY: (&str, &str) = (
    "src/github.com/containerd/stargz-snapshotter/fs",
    "golang-github-containerd-stargz-snapshotter-dev",
);

/// One installation at a time on this machine, whoever runs the tests.
const LOCK: &str = "/run/lock/darter-e2e-apt.lock";

/// Refuses to go on without root, and installs what is missing.
///
/// # Errors
/// When the user is not root, or the installation fails.
pub fn ensure_ready() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the end-to-end tests make network namespaces and run containerd: run them as root \
         (`sudo -E cargo xtask e2e`)"
    );
    if missing().is_empty() {
        return Ok(());
    }
    let _lock = lock(Path::new(LOCK))?;
    let packages = missing();
    if packages.is_empty() {
        return Ok(()); // Another process installed them while this one waited.
    }
    eprintln!("e2e: installing {}", packages.join(" "));
    install(&packages)?;
    let still = missing();
    ensure!(
        still.is_empty(),
        "installed, but what they bring is not where it was looked for: {}",
        still.join(" ")
    );
    Ok(())
}

/// Takes the advisory lock on `path`, waiting for its holder; it is released when the file is dropped.
///
/// # Errors
/// When the file cannot be made or locked.
pub fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).with_context(|| format!("cannot create the lock {}", path.display()))?;
    rustix::fs::flock(&file, FlockOperation::LockExclusive)
        .with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// Packages whose program is nowhere in PATH.
fn missing() -> Vec<&'static str> {
    let mut packages: Vec<_> = TOOLS
        .iter()
        .filter(|(program, _)| !in_path(program))
        .map(|(_, p)| *p)
        .collect();
    if !Path::new(GO_LIBRARIES).join(LIBRARY.0).is_dir() {
        packages.push(LIBRARY.1);
    }
    if !has_pip() {
        packages.push("python3-pip");
    }
    packages.dedup();
    packages
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Daemons live in sbin folders, which not every login has in its PATH: the harness would not find them.
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn has_pip() -> bool {
    run(&mut command(["python3", "-m", "pip", "--version"])).is_ok()
}

fn install(packages: &[&str]) -> Result<()> {
    let what = "install the packages by hand, or give this machine a package mirror";
    if run(apt().arg("install").args(packages)).is_ok() {
        return Ok(());
    }
    // A fresh machine has no package lists, an old one stale ones.
    run(apt().arg("update")).context(what)?;
    run(apt().arg("install").args(packages)).context(what)
}

fn apt() -> Command {
    let mut apt = command(["apt-get", "--yes", "--quiet", "--no-install-recommends"]);
    apt.args(["--option", "DPkg::Lock::Timeout=300"])
        .env("DEBIAN_FRONTEND", "noninteractive");
    apt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_for_in_path() {
        assert!(in_path("sh"));
        assert!(!in_path("no-program-has-this-name"));
    }
}
