//! containerd with a stargz-snapshotter on a scene's node: containers start before their image is there, and read layers by
//! ranges while they run.
//!
//! The snapshotter is built here from the distribution's library (`stargz/main.go`) and reads the files that `darter setup
//! stargz` wrote. What it mounts must be seen by containerd, so both live in one mount namespace, the snapshotter's.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use sha2::{Digest as _, Sha256};

use crate::clients::{Scene, UPSTREAM};
use crate::command::{command, output, run};
use crate::image::{Image, cache_folder, hex};
use crate::process::Process;
use crate::tools::{GO_LIBRARIES, lock};

const SOURCE: &str = include_str!("stargz/main.go");
const START: Duration = Duration::from_secs(60);
/// Where setup writes for it, below the node's root.
const CONFIG: &str = "etc/containerd-stargz-grpc/config.toml";
/// Reads what containers ask for and nothing else, so that it can be counted; asks at each start of a container whether the host
/// that it reads from is still there, rather than once a minute.
const SETTINGS: &str = "no_background_fetch = true\n\n[blob]\ncheck_always = true\n";

/// Gives containerd and the snapshotter the proxy as first mirror of [`UPSTREAM`].
///
/// # Errors
/// When setup fails.
pub fn set_up(scene: &Scene) -> Result<()> {
    scene.write(CONFIG, SETTINGS)?;
    scene.setup("stargz", &["--registry", UPSTREAM])?;
    scene.setup("containerd", &["--registry", UPSTREAM])
}

/// A containerd whose snapshots are stargz's. Fields are in the order in which they must end.
#[derive(Debug)]
pub struct Lazy {
    containerd: Process,
    snapshotter: Process,
    socket: PathBuf,
    hosts: PathBuf,
    authority: PathBuf,
    folder: PathBuf,
}

impl Lazy {
    /// Starts both with nothing in them; `name` tells them from others of the scene.
    ///
    /// # Errors
    /// When one of them does not start.
    pub fn start(scene: &Scene, name: &str) -> Result<Self> {
        let folder = scene.root().with_file_name(name);
        let content = scene.memory(name);
        std::fs::create_dir_all(&folder)?;
        std::fs::create_dir_all(&content)?;
        let (socket, snapshots) = (folder.join("c.sock"), folder.join("s.sock"));
        let mut daemon = scene.command(&binary()?.display().to_string());
        daemon.arg("-root").arg(content.join("stargz"));
        daemon.arg("-socket").arg(&snapshots);
        daemon.arg("-config").arg(scene.root().join(CONFIG));
        let mut snapshotter = Process::start("stargz", &mut daemon, &folder.join("stargz.log"))?;
        snapshotter.ready(START, || snapshots.exists().then_some(()))?;

        let config = folder.join("config.toml");
        std::fs::write(&config, configuration(&folder, &content, &snapshots))?;
        let mut daemon = beside(&snapshotter, "containerd");
        daemon.args(["--log-level", "warn", "-c"]).arg(&config);
        let containerd = Process::start("containerd", &mut daemon, &folder.join("containerd.log"))?;
        let mut lazy = Self {
            containerd,
            snapshotter,
            socket,
            hosts: scene.root().join("etc/containerd/certs.d"),
            authority: scene.authority(),
            folder,
        };
        let mut version = lazy.client("ctr", &["version"]);
        lazy.containerd.ready(START, || run(&mut version).ok())?;
        Ok(lazy)
    }

    /// Pulls an image without its layers: containerd reads the manifest and the configuration, the snapshotter the layers'
    /// tables of contents.
    ///
    /// # Errors
    /// When it fails.
    pub fn pull(&self, image: &Image) -> Result<()> {
        let mut pull = self.client("ctr-remote", &["images", "rpull", "--hosts-dir"]);
        run(pull.arg(&self.hosts).arg(reference(image)))
    }

    /// Runs a container of a pulled image to its end, and gives its output.
    ///
    /// # Errors
    /// When it does not end with 0.
    pub fn run(&self, image: &Image, name: &str, words: &[&str]) -> Result<String> {
        output(&mut self.container(image, name, words))
    }

    /// Starts a container of a pulled image, with its output in a log.
    ///
    /// # Errors
    /// When `ctr` cannot be started.
    pub fn start_container(&self, image: &Image, name: &str, words: &[&str]) -> Result<Process> {
        let log = self.folder.join(format!("{name}.log"));
        Process::start(name, &mut self.container(image, name, words), &log)
    }

    /// Runs a command in a container that runs.
    ///
    /// # Errors
    /// When it does not end with 0.
    pub fn execute(&self, container: &str, name: &str, words: &[&str]) -> Result<String> {
        let mut ctr = self.client("ctr", &["tasks", "exec", "--exec-id", name, container]);
        output(ctr.args(words))
    }

    /// Ends a container's processes.
    ///
    /// # Errors
    /// When there is none.
    pub fn kill_container(&self, container: &str) -> Result<()> {
        run(&mut self.client("ctr", &["tasks", "kill", "--signal", "SIGKILL", container]))
    }

    fn container(&self, image: &Image, name: &str, words: &[&str]) -> Command {
        let mut ctr = self.client("ctr", &["run", "--rm", "--snapshotter", "stargz"]);
        ctr.arg(reference(image)).arg(name).args(words);
        ctr
    }

    fn client(&self, program: &str, words: &[&str]) -> Command {
        let mut client = beside(&self.snapshotter, program);
        client.env("SSL_CERT_FILE", &self.authority);
        client.arg("--address").arg(&self.socket);
        client.args(["--namespace", "k8s.io"]).args(words);
        client
    }
}

/// The image as the node names it.
fn reference(image: &Image) -> String {
    format!("{UPSTREAM}/{}:{}", image.repository, image.tag)
}

/// A command on the snapshotter's host that sees its mounts and its names.
fn beside(snapshotter: &Process, program: &str) -> Command {
    let target = snapshotter.id().to_string();
    let mut beside = command(["setpriv", "--pdeathsig", "KILL", "nsenter", "--net", "--mount"]);
    beside.args(["--target", &target, "--", program]);
    beside
}

fn configuration(folder: &Path, content: &Path, snapshots: &Path) -> String {
    let (folder, content, snapshots) = (folder.display(), content.display(), snapshots.display());
    format!(
        r#"version = 2
root = "{content}/root"
state = "{content}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "{folder}/c.sock"
[ttrpc]
  address = "{folder}/c.sock.ttrpc"
[proxy_plugins.stargz]
  type = "snapshot"
  address = "{snapshots}"
"#
    )
}

/// The daemon, built once and kept beside the images.
///
/// # Errors
/// When the Go compiler fails.
pub fn binary() -> Result<PathBuf> {
    let cache = cache_folder();
    std::fs::create_dir_all(&cache).with_context(|| format!("cannot create {}", cache.display()))?;
    let digest = hex(&Sha256::digest(SOURCE));
    let binary = cache.join(format!("stargz-{}", digest.get(..12).unwrap_or(&digest)));
    let _lock = lock(&cache.join("stargz.lock"))?;
    if binary.exists() {
        return Ok(binary);
    }
    eprintln!("e2e: building stargz-snapshotter ...");
    let work = binary.with_extension("unfinished");
    let package = work.join("src/darter-e2e-stargz");
    std::fs::create_dir_all(&package)?;
    std::fs::write(package.join("main.go"), SOURCE)?;
    let made = work.join("stargz");
    let mut build = command(["go", "build", "-o"]);
    build.arg(&made).arg("darter-e2e-stargz").current_dir(&work);
    build
        .env("GO111MODULE", "off")
        .env("GOFLAGS", "")
        .env("GOPATH", format!("{}:{GO_LIBRARIES}", work.display()))
        .env("GOCACHE", work.join("cache"));
    run(&mut build).context("stargz-snapshotter")?;
    std::fs::rename(&made, &binary)?;
    std::fs::remove_dir_all(&work)?;
    Ok(binary)
}
