//! A Docker daemon on a scene's node, with the files that `darter setup docker` wrote, and its command line.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::clients::Scene;
use crate::command::{output, run};
use crate::image::Image;
use crate::process::Process;

const START: Duration = Duration::from_secs(60);
/// Nothing here takes minutes; a pull that hangs does.
const PULL: Duration = Duration::from_secs(300);
/// Debian's, whatever else a machine has in its PATH.
const CLIENT: &str = "/usr/bin/docker";

/// A running daemon.
#[derive(Debug)]
pub struct Docker {
    socket: String,
    folder: PathBuf,
    process: Process,
}

impl Docker {
    /// Starts a daemon of the classic image store on the node.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(scene: &Scene) -> Result<Self> {
        let folder = scene.memory("docker");
        std::fs::create_dir_all(&folder)?;
        let socket = format!("unix://{}", folder.join("d.sock").display());
        let mut daemon = scene.command("dockerd");
        daemon.args(["--host", &socket, "--config-file"]);
        daemon.arg(scene.root().join("etc/docker/daemon.json"));
        for (flag, name) in [
            ("--data-root", "root"),
            ("--exec-root", "exec"),
            ("--pidfile", "pid"),
        ] {
            daemon.arg(flag).arg(folder.join(name));
        }
        // As systemd would give it what the drop-in says.
        let unit = scene
            .root()
            .join("etc/systemd/system/docker.service.d/90-darter-proxy.conf");
        let unit = std::fs::read_to_string(unit).unwrap_or_default();
        let quoted = unit
            .lines()
            .filter_map(|line| line.strip_prefix("Environment=\"")?.strip_suffix('"'));
        daemon.envs(quoted.filter_map(|pair| pair.split_once('=')));
        // Networks of the host are none of its business, nor is a score that this user may not set.
        daemon.args(["--bridge=none", "--iptables=false", "--ip6tables=false"]);
        daemon.args(["--ip-forward=false", "--oom-score-adjust=0"]);
        let log = scene.root().with_file_name("dockerd.log");
        let mut docker = Self {
            process: Process::start("dockerd", &mut daemon, &log)?,
            socket,
            folder,
        };
        let mut version = docker.client(&["version"]);
        docker.process.ready(START, || run(&mut version).ok())?;
        Ok(docker)
    }

    /// A command to the daemon.
    pub fn client(&self, words: &[&str]) -> Command {
        let mut client = Command::new(CLIENT);
        self.show(client.args(words));
        client
    }

    /// Shows a command that runs Docker's client where the daemon is.
    pub fn show<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command
            .env("DOCKER_HOST", &self.socket)
            .env("DOCKER_CONFIG", self.folder.join("login"))
    }

    /// Starts pulling an image of Docker Hub.
    ///
    /// # Errors
    /// When the client cannot be started.
    pub fn start_pull(&self, image: &Image) -> Result<Process> {
        self.start_pull_of(&hub_name(image))
    }

    /// Starts pulling an image by its name.
    ///
    /// # Errors
    /// When the client cannot be started.
    pub fn start_pull_of(&self, name: &str) -> Result<Process> {
        let log = self.folder.join("pull.log");
        Process::start("docker pull", &mut self.client(&["pull", "--quiet", name]), &log)
    }

    /// Waits for a pull, and checks that the daemon holds the image: its configuration's digest, which covers the
    /// layers unpacked, and its manifest's.
    ///
    /// # Errors
    /// When the pull fails or the image is another one.
    pub fn finish_pull(&self, pull: Process, image: &Image) -> Result<()> {
        self.finish_pull_of(&hub_name(image), pull, image)
    }

    /// The same for an image that was pulled by `name`.
    ///
    /// # Errors
    /// As [`Self::finish_pull`].
    pub fn finish_pull_of(&self, name: &str, mut pull: Process, image: &Image) -> Result<()> {
        pull.success(PULL)?;
        let format = "{{.Id}} {{index .RepoDigests 0}}";
        let said = output(&mut self.client(&["image", "inspect", "--format", format, name]))?;
        let repository = name.rsplit_once(':').map_or(name, |(repository, _)| repository);
        let wanted = format!("{} {repository}@{}", image.config.digest, image.manifest.digest);
        ensure!(
            said.trim() == wanted,
            "the daemon holds '{}', not '{wanted}'",
            said.trim()
        );
        Ok(())
    }

    /// Pulls an image of Docker Hub and checks it.
    ///
    /// # Errors
    /// As [`Self::finish_pull`].
    pub fn pull(&self, image: &Image) -> Result<()> {
        self.finish_pull(self.start_pull(image)?, image)
    }

    /// Removes an image with its layers.
    ///
    /// # Errors
    /// When the daemon does not hold it.
    pub fn remove(&self, image: &Image) -> Result<()> {
        self.remove_by(&hub_name(image))
    }

    /// The same by its name.
    ///
    /// # Errors
    /// As [`Self::remove`].
    pub fn remove_by(&self, name: &str) -> Result<()> {
        run(&mut self.client(&["image", "rm", "--force", name]))
    }
}

/// As Docker names it: without a registry it is Docker Hub's.
pub fn hub_name(image: &Image) -> String {
    format!("{}:{}", image.repository, image.tag)
}
