//! containerd with `darter snapshotter` on a node: it pulls as Kubernetes does, and runs containers of what is not there yet.
//!
//! The snapshotter's mounts outlive it by design. So they go when a [`Snapshots`] is dropped, and stay when a test is killed.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::clock::until;
use crate::command::{command, output, run};
use crate::containerd::{self, REGISTRY};
use crate::darter::{Darter, MIRROR, Role, Surroundings, binary, proxy_config};
use crate::nydus::{Nodes, REPOSITORY};
use crate::process::Process;

const START: Duration = Duration::from_secs(60);
/// In seconds; far longer than a pull without layers takes.
const PULL: &str = "120";

/// Both programs. Fields are in the order in which they must end.
#[derive(Debug)]
pub struct Snapshots {
    containerd: Process,
    snapshotter: Process,
    folder: PathBuf,
    root: PathBuf,
}

impl Snapshots {
    /// Starts both on a node, with nothing in them.
    ///
    /// # Errors
    /// When one of them does not start.
    pub fn start(nodes: &Nodes, node: usize) -> Result<Self> {
        let host = nodes.host(node)?;
        let (folder, content) = nodes.folders_of(host);
        let hosts = folder.join("hosts").join(REGISTRY);
        std::fs::create_dir_all(&hosts)?;
        let server = nodes.registry.url();
        let text =
            format!("server = \"{server}\"\n[host.\"{MIRROR}\"]\n  capabilities = [\"pull\", \"resolve\"]\n");
        std::fs::write(hosts.join("hosts.toml"), text)?;
        let config = folder.join("config.toml");
        std::fs::write(&config, configuration(&folder, &content))?;

        let root = content.join("snapshots");
        let snapshotter = start_snapshotter(nodes, node, &folder, &root)?;
        let mut daemon = host.command("containerd");
        daemon.args(["--log-level", "warn", "-c"]).arg(&config);
        let containerd = Process::start("containerd", &mut daemon, &folder.join("containerd.log"))?;
        let mut started = Self {
            containerd,
            snapshotter,
            folder,
            root,
        };
        let mut version = started.ctr(&["version"]);
        started.containerd.ready(START, || run(&mut version).ok())?;
        Ok(started)
    }

    /// Pulls `e2e/lazy:TAG` by CRI.
    ///
    /// # Errors
    /// When CRI refuses.
    pub fn pull(&self, tag: &str) -> Result<()> {
        let message = self.folder.join("pull.bin");
        std::fs::write(&message, framed(&reference(tag))?)?;
        let mut curl = command(["curl", "--silent", "--show-error", "--http2-prior-knowledge"]);
        curl.args(["--max-time", PULL, "--output", "/dev/null", "--dump-header", "-"]);
        curl.args([
            "--header",
            "content-type: application/grpc",
            "--header",
            "te: trailers",
        ]);
        curl.arg("--data-binary").arg(format!("@{}", message.display()));
        curl.arg("--unix-socket").arg(self.folder.join("c.sock"));
        let head = output(curl.arg("http://containerd/runtime.v1.ImageService/PullImage"))?;
        ensure!(
            head.lines().any(|line| line.trim() == "grpc-status: 0"),
            "CRI does not pull {tag}: {head}\n{}",
            self.containerd.log()?
        );
        Ok(())
    }

    /// Runs a container of a pulled image to its end, and gives its output.
    ///
    /// # Errors
    /// When it does not end with 0.
    pub fn run(&self, tag: &str, name: &str, words: &[&str]) -> Result<String> {
        let mut ctr = self.ctr(&["run", "--rm", "--snapshotter", "darter"]);
        ctr.arg(reference(tag)).arg(name).args(words);
        output(&mut ctr).with_context(|| self.snapshotter.log().unwrap_or_default())
    }

    /// Removes an image with its snapshots.
    ///
    /// # Errors
    /// When there is none.
    pub fn remove(&self, tag: &str) -> Result<()> {
        // CRI has names of its own beside, of the same target, and each holds the snapshots.
        let table = output(&mut self.ctr(&["images", "ls"]))?;
        let rows = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        let rows: Vec<(&str, &str)> = rows
            .filter_map(|words| Some((*words.first()?, *words.get(2)?)))
            .collect();
        let wanted = reference(tag);
        let (_, digest) = rows
            .iter()
            .find(|(name, _)| *name == wanted)
            .with_context(|| format!("there is no {tag}: {table}"))?;
        let names = rows.iter().filter(|(_, target)| target == digest);
        run(self
            .ctr(&["images", "rm", "--sync"])
            .args(names.map(|(name, _)| name)))
    }

    /// Kills the snapshotter and starts it again.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self, nodes: &Nodes, node: usize) -> Result<()> {
        self.snapshotter.kill()?;
        self.snapshotter = start_snapshotter(nodes, node, &self.folder, &self.root)?;
        // containerd connects again when it likes.
        until("a connection", START, || Ok(self.listed().ok()))?;
        Ok(())
    }

    /// What is mounted below the snapshotter's root.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn mounted(&self) -> Result<Vec<PathBuf>> {
        let table = std::fs::read_to_string("/proc/self/mounts")?;
        let points = table.lines().filter_map(|line| line.split(' ').nth(1));
        let below = points
            .map(PathBuf::from)
            .filter(|point| point.starts_with(&self.root));
        Ok(below.collect())
    }

    /// What is left in the snapshotter's folders, but for chunks, and the processes that serve its mounts.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn left(&self) -> Result<Vec<String>> {
        let mut left = Vec::new();
        for folder in ["snapshots", "images"] {
            for entry in std::fs::read_dir(self.root.join(folder))? {
                left.push(entry?.path().display().to_string());
            }
        }
        let images = self.root.join("images").display().to_string();
        for entry in std::fs::read_dir("/proc")? {
            // A process may be gone by now, and what is no process has no such file.
            let words = std::fs::read_to_string(entry?.path().join("cmdline")).unwrap_or_default();
            left.extend(Some(words).filter(|words| words.contains("\0mount\0") && words.contains(&images)));
        }
        Ok(left)
    }

    /// The snapshots that containerd knows of, one a line.
    ///
    /// # Errors
    /// When it does not tell.
    pub fn listed(&self) -> Result<Vec<String>> {
        let table = output(&mut self.ctr(&["snapshots", "--snapshotter", "darter", "ls"]))?;
        // The first line is the table's head.
        Ok(table.lines().skip(1).map(str::to_owned).collect())
    }

    fn ctr(&self, words: &[&str]) -> Command {
        let mut ctr = command(["ctr", "--namespace", "k8s.io", "--address"]);
        ctr.arg(self.folder.join("c.sock")).args(words);
        ctr
    }
}

impl Drop for Snapshots {
    fn drop(&mut self) {
        // What a test that failed left mounted goes, so that its folder can.
        let _ = self.containerd.stop();
        let _ = self.snapshotter.stop();
        for point in self.mounted().unwrap_or_default() {
            let _ = run(command(["umount", "--lazy"]).arg(point));
        }
    }
}

/// Gives a node another proxy, which knows of no scheduler: such a one fetches what is read alone.
///
/// # Errors
/// When it does not start.
pub fn leave_swarm(nodes: &mut Nodes, node: usize) -> Result<()> {
    let host = nodes.host(node)?.clone();
    let around = Surroundings {
        schedulers: Vec::new(),
        registry: nodes.registry.url(),
    };
    let folder = nodes.folders_of(&host).1.join("alone");
    std::fs::create_dir_all(&folder)?;
    let config = proxy_config(&host, Role::Peer, &folder.join("store"), &around);
    let place = nodes.proxies.get_mut(node).context("there is such a node")?;
    place.process().kill()?;
    *place = Darter::configured_proxy(&host, &folder, &config)?;
    Ok(())
}

fn start_snapshotter(nodes: &Nodes, node: usize, folder: &Path, root: &Path) -> Result<Process> {
    let mut daemon = nodes.host(node)?.command(binary()?);
    daemon.args(["snapshotter", "--mirror", MIRROR.trim_start_matches("http://")]);
    daemon.arg("--root").arg(root);
    daemon.arg("--socket").arg(folder.join("s.sock"));
    daemon.arg("--containerd").arg(folder.join("c.sock"));
    let socket = folder.join("s.sock");
    let mut started = Process::start("darter snapshotter", &mut daemon, &folder.join("s.log"))?;
    started.ready(START, || UnixStream::connect(&socket).ok())?;
    Ok(started)
}

fn reference(tag: &str) -> String {
    format!("{REGISTRY}/{REPOSITORY}:{tag}")
}

/// A request of CRI for one image, as gRPC frames it: the first field of a message that is the first field.
fn framed(image: &str) -> Result<Vec<u8>> {
    const FIRST_FIELD: u8 = 10;
    let image_length = u8::try_from(image.len())?;
    let length = u8::try_from(image.len() + 4)?;
    ensure!(length < 128, "a longer name needs longer lengths");
    let mut message = vec![0, 0, 0, 0, length];
    message.extend([FIRST_FIELD, length - 2, FIRST_FIELD, image_length]);
    message.extend(image.as_bytes());
    Ok(message)
}

/// With CRI, whose snapshotter is Darter's.
fn configuration(folder: &Path, content: &Path) -> String {
    let mut text = containerd::configuration(folder, content, &[]);
    let folder = folder.display();
    text.push_str(&format!(
        r#"[proxy_plugins.darter]
  type = "snapshot"
  address = "{folder}/s.sock"
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "darter"
    disable_snapshot_annotations = false
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{folder}/hosts"
"#
    ));
    text
}
