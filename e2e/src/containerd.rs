//! A real containerd for one host: its own root, state, socket and `hosts.toml` files.
//!
//! Pulls go through `ctr`, which fetches in its own process and therefore runs on the host's namespace too.
//! `fetch` brings an image's content; `pull` unpacks it as well, which costs far more than moving it; `run`
//! starts a container of it with runc.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command::{output, run};
use crate::darter;
use crate::image::{Descriptor, Image};
use crate::netns::Namespace;
use crate::process::Process;

/// The registry's name in references. It does not resolve: `hosts.toml` says where it is.
pub const REGISTRY: &str = "registry.test";

/// What `darter setup` takes for the node's file system, below the host's directory.
const ROOT: &str = "root";
/// Where setup writes `hosts.toml` files.
const HOSTS: &str = "root/etc/containerd/certs.d";

const START: Duration = Duration::from_secs(60);
/// Nothing here takes minutes; a pull that hangs does.
const PULL: Duration = Duration::from_secs(300);

/// A containerd and its client's settings.
#[derive(Debug)]
pub struct Containerd {
    host: Namespace,
    folder: PathBuf,
    content: PathBuf,
    pulls: u32,
    _process: Process,
}

/// A pull on its way.
#[derive(Debug)]
pub struct Pull {
    process: Process,
}

impl Containerd {
    /// Starts containerd on `host` with its logs and configuration in `folder`, and what it pulls in `content`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(host: &Namespace, folder: &Path, content: &Path) -> Result<Self> {
        Self::start_with(host, folder, content, None)
    }

    /// The same with a snapshotter that is a program of its own: its name, and the socket on which it is asked.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start_with(
        host: &Namespace,
        folder: &Path,
        content: &Path,
        snapshotter: Option<(&str, &Path)>,
    ) -> Result<Self> {
        std::fs::create_dir_all(folder.join(HOSTS).join(REGISTRY))?;
        let config = folder.join("config.toml");
        let mut text = configuration(folder, content, &["io.containerd.grpc.v1.cri"]);
        if let Some((name, socket)) = snapshotter {
            let address = socket.display();
            text.push_str(&format!(
                "[proxy_plugins.{name}]\n  type = \"snapshot\"\n  address = \"{address}\"\n"
            ));
        }
        std::fs::write(&config, text)?;
        let name = format!("containerd on {}", host.name());
        let mut daemon = host.command("containerd");
        let process = Process::start(
            &name,
            daemon.args(["--log-level", "warn", "-c"]).arg(&config),
            &folder.join("containerd.log"),
        )?;
        let mut node = Self {
            host: host.clone(),
            folder: folder.to_owned(),
            content: content.to_owned(),
            pulls: 0,
            _process: process,
        };
        let mut version = node.ctr();
        version.arg("version");
        node._process.ready(START, || run(&mut version).ok())?;
        Ok(node)
    }

    /// Writes `hosts.toml`: ask `mirrors` in this order, then `server`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_hosts(&self, server: &str, mirrors: &[&str]) -> Result<()> {
        // The empty table: containerd 1.6 refuses a file without any `host`.
        let mut text = format!("server = \"{server}\"\n\n[host]\n");
        for mirror in mirrors {
            text.push_str(&format!(
                "\n[host.\"{mirror}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
            ));
        }
        let path = self.folder.join(HOSTS).join(REGISTRY).join("hosts.toml");
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// What `hosts.toml` says now.
    ///
    /// # Errors
    /// When there is none.
    pub fn hosts(&self) -> Result<String> {
        let path = self.folder.join(HOSTS).join(REGISTRY).join("hosts.toml");
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// What stands for the node's file system.
    pub fn root(&self) -> PathBuf {
        self.folder.join(ROOT)
    }

    /// Puts the proxy in front of the hosts that [`Self::set_hosts`] wrote, as an operator does: by `darter setup containerd`.
    ///
    /// # Errors
    /// When it fails.
    pub fn set_up(&self) -> Result<()> {
        let mut setup = Command::new(darter::binary()?);
        setup.args(["setup", "containerd", "--registry", REGISTRY, "--root"]);
        setup.arg(self.folder.join(ROOT));
        run(setup.arg("--state-dir").arg(self.folder.join("setup")))
    }

    /// Starts fetching the image's content, without unpacking it.
    ///
    /// # Errors
    /// When `ctr` cannot be started.
    pub fn fetch(&mut self, image: &Image) -> Result<Pull> {
        self.start_pull(image, &["content", "fetch", "--platform", "linux/amd64"])
    }

    /// The same as [`Self::fetch`], with a user's credentials, `name:password`.
    ///
    /// # Errors
    /// When `ctr` cannot be started.
    pub fn fetch_as(&mut self, image: &Image, user: &str) -> Result<Pull> {
        let words = ["content", "fetch", "--platform", "linux/amd64", "--user", user];
        self.start_pull(image, &words)
    }

    /// Starts pulling the image: content, and a snapshot for each layer.
    ///
    /// # Errors
    /// When `ctr` cannot be started.
    pub fn pull(&mut self, image: &Image) -> Result<Pull> {
        self.start_pull(image, &["images", "pull", "--platform", "linux/amd64"])
    }

    /// Pulls an image for another snapshotter, as CRI does: layers that it does not need are not fetched.
    ///
    /// # Errors
    /// When it fails.
    pub fn pull_for(&self, snapshotter: &str, reference: &str) -> Result<()> {
        let mut pull = self.client("ctr-remote");
        pull.args(["images", "rpull", "--snapshotter", snapshotter, "--hosts-dir"]);
        run(pull.arg(self.folder.join(HOSTS)).arg(reference))
    }

    /// A container of an image that was pulled, on the host's network: to be run to its end.
    pub fn container(&self, snapshotter: &str, reference: &str, name: &str, words: &[&str]) -> Command {
        let mut ctr = self.ctr();
        ctr.args([
            "run",
            "--rm",
            "--net-host",
            "--snapshotter",
            snapshotter,
            reference,
            name,
        ]);
        ctr.args(words);
        ctr
    }

    /// Removes an image and its contents, so that the next pull begins with nothing.
    ///
    /// # Errors
    /// When it does not hold the image.
    pub fn forget(&self, image: &Image) -> Result<()> {
        self.forget_name(&image.reference())
    }

    /// The same by its name.
    ///
    /// # Errors
    /// When it does not hold the image.
    pub fn forget_name(&self, reference: &str) -> Result<()> {
        run(self.ctr().args(["images", "rm", "--sync", reference]))
    }

    /// Runs a container of an image that was pulled, on the host's network, and gives its output.
    ///
    /// # Errors
    /// When the container does not end with 0.
    pub fn run(&self, image: &Image, words: &[&str]) -> Result<String> {
        let container = format!("{}-{}", self.host.full_name(), self.pulls);
        let mut ctr = self.ctr();
        ctr.args(["run", "--rm", "--net-host", &image.reference(), &container])
            .args(words);
        output(&mut ctr)
    }

    /// Checks that the node holds the image whole: manifest, configuration and layers, by size and digest of
    /// the files in its content store.
    ///
    /// # Errors
    /// Naming the first content that is missing or differs.
    pub fn verify(&self, image: &Image) -> Result<()> {
        for content in image.contents() {
            self.verify_content(content)
                .with_context(|| format!("{} on {}", image.reference(), self.host.name()))?;
        }
        Ok(())
    }

    /// `darter doctor` with these arguments on its host, as an operator runs it: with this containerd for `ctr`.
    ///
    /// # Errors
    /// When there is no binary.
    pub fn doctor(&self, arguments: &[&str]) -> Result<Command> {
        let mut doctor = self.host.command(darter::binary()?);
        doctor.env("CONTAINERD_ADDRESS", self.folder.join("c.sock"));
        doctor
            .args(["doctor", "--json", "--registry", REGISTRY, "--config"])
            .arg(self.folder.join("proxy.yaml"));
        doctor.arg("--hosts-dir").arg(self.folder.join(HOSTS));
        doctor.args(arguments);
        Ok(doctor)
    }

    /// The host that it runs on.
    pub fn host(&self) -> &Namespace {
        &self.host
    }

    /// The file in the node's content store that holds, or would hold, `content`.
    ///
    /// # Errors
    /// When its digest is not a sha256.
    pub fn content_path(&self, content: &Descriptor) -> Result<PathBuf> {
        let store = self
            .content
            .join("root/io.containerd.content.v1.content/blobs/sha256");
        Ok(store.join(content.hex()?))
    }

    fn verify_content(&self, content: &Descriptor) -> Result<()> {
        content.verify_file(&self.content_path(content)?)
    }

    fn start_pull(&mut self, image: &Image, words: &[&str]) -> Result<Pull> {
        self.pulls += 1;
        let log = self.folder.join(format!("pull-{}.log", self.pulls));
        let mut ctr = self.ctr();
        ctr.args(words)
            .arg("--hosts-dir")
            .arg(self.folder.join(HOSTS))
            .arg(image.reference());
        let name = format!("pull of {} on {}", image.reference(), self.host.name());
        Ok(Pull {
            process: Process::start_quietly(&name, &mut ctr, &log)?,
        })
    }

    fn ctr(&self) -> Command {
        self.client("ctr")
    }

    fn client(&self, program: &str) -> Command {
        let mut ctr = self.host.command(program);
        ctr.arg("--address")
            .arg(self.folder.join("c.sock"))
            .args(["--namespace", "k8s.io"]);
        ctr
    }
}

impl Pull {
    /// Waits for the end.
    ///
    /// # Errors
    /// When the pull fails, with what `ctr` said.
    pub fn wait(mut self) -> Result<()> {
        self.process.success(PULL)
    }

    /// Is it still on its way?
    ///
    /// # Errors
    /// When the system refuses, which it does not.
    pub fn is_running(&mut self) -> Result<bool> {
        self.process.is_running()
    }
}

/// Waits for several pulls, so that an error names the first that failed.
///
/// # Errors
/// When one of them fails.
pub fn wait_all(pulls: Vec<Pull>) -> Result<()> {
    pulls.into_iter().try_for_each(Pull::wait)
}

/// A containerd's own configuration; `disabled` besides the plug-in that no machine has a device for.
pub(crate) fn configuration(folder: &Path, content: &Path, disabled: &[&str]) -> String {
    let (folder, content) = (folder.display(), content.display());
    let disabled: String = disabled.iter().map(|name| format!("\"{name}\", ")).collect();
    format!(
        r#"version = 2
root = "{content}/root"
state = "{content}/state"
disabled_plugins = [{disabled}"io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "{folder}/c.sock"
[ttrpc]
  address = "{folder}/c.sock.ttrpc"
"#
    )
}
