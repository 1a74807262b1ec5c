//! What tests and builds need of Debian's packages, installed where that can be done.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Where Debian puts the versions of Postgres.
const POSTGRES: &str = "/usr/lib/postgresql";
/// What Debian's Postgres reads when it is installed.
const CREATE_CLUSTER: &str = "/etc/postgresql-common/createcluster.conf";

/// Programs that the tests of the manager's console start, and their packages.
const CONSOLE: [(&str, &str); 3] = [("chromium", "chromium"), ("node", "nodejs"), ("npm", "npm")];

/// Installs packages, as root; whether that went well.
pub(crate) fn install(packages: &[&str]) -> bool {
    let install = [&["install", "-y", "-q", "--no-install-recommends"][..], packages].concat();
    update() && apt_get(&install)
}

/// Has apt know which packages there are, as root and once for all that ask; whether that went well.
pub(crate) fn update() -> bool {
    static WENT_WELL: OnceLock<bool> = OnceLock::new();
    *WENT_WELL.get_or_init(|| is_root() && apt_get(&["update", "-q"]))
}

fn apt_get(arguments: &[&str]) -> bool {
    let mut apt_get = Command::new("apt-get");
    apt_get.args(arguments).stdin(Stdio::null());
    apt_get.env("DEBIAN_FRONTEND", "noninteractive");
    apt_get.status().is_ok_and(|status| status.success())
}

/// Installs Postgres for the manager's tests, which start one of their own; no server of the system's is made or started.
/// Where it cannot be installed, those tests say so.
pub(crate) fn install_postgres() {
    if Path::new(POSTGRES).is_dir() || !is_root() {
        return;
    }
    let config = Path::new(CREATE_CLUSTER);
    if !config.exists() {
        let folder = config.parent().unwrap_or(config);
        let written =
            fs::create_dir_all(folder).and_then(|()| fs::write(config, "create_main_cluster = false\n"));
        if let Err(error) = written {
            println!("{CREATE_CLUSTER}: {error}");
            return;
        }
    }
    install(&["postgresql"]);
}

/// Installs what the tests of the manager's console need: a browser, and what drives it. Where that cannot be done, they say so.
pub(crate) fn install_browser() {
    let needed = CONSOLE.iter().filter(|(program, _)| !is_there(program));
    let packages: Vec<&str> = needed.map(|(_, package)| *package).collect();
    if !packages.is_empty() && is_root() {
        install(&packages);
    }
}

/// Whether a program is where Debian or an administrator puts it.
pub(crate) fn is_there(program: &str) -> bool {
    ["/usr/bin", "/usr/local/bin"]
        .iter()
        .any(|folder| Path::new(folder).join(program).exists())
}

pub(crate) fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
