//! podman, buildah and skopeo on a scene's node, with the `registries.conf` that `darter setup podman` wrote.
//!
//! They share a library and differ in where they keep images. Each pull here has a storage of its own, so that it begins
//! with nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::clients::{PASSWORD, Scene, UPSTREAM, UPSTREAM_WITH_PORT, USER, verify_layout};
use crate::command::{output, run};
use crate::image::Image;
use crate::process::Process;

/// One of the programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// Runs containers.
    Podman,
    /// Builds images.
    Buildah,
    /// Copies images.
    Skopeo,
}

/// Every one of them.
pub const TOOLS: [Tool; 3] = [Tool::Podman, Tool::Buildah, Tool::Skopeo];

/// A pull, and the storage that is its own.
#[derive(Debug)]
pub struct Pull<'s> {
    tool: Tool,
    scene: &'s Scene,
    reference: String,
    storage: PathBuf,
    /// Of podman and buildah; podman takes at most 50 characters.
    state: PathBuf,
    login: bool,
}

/// Gives these programs the proxy as first mirror of entries that were there.
///
/// # Errors
/// When setup fails.
pub fn set_up(scene: &Scene) -> Result<()> {
    let entry = format!(
        "[[registry]]\nlocation = \"{UPSTREAM}\"\n\n[[registry]]\nlocation = \"{UPSTREAM_WITH_PORT}\"\n"
    );
    scene.write("etc/containers/registries.conf", &entry)?;
    let registries = ["--registry", UPSTREAM, "--registry", UPSTREAM_WITH_PORT];
    scene.setup("podman", &registries)
}

impl Tool {
    /// The program.
    pub fn program(self) -> &'static str {
        match self {
            Self::Podman => "podman",
            Self::Buildah => "buildah",
            Self::Skopeo => "skopeo",
        }
    }

    /// A pull of an image from [`UPSTREAM`]; `name` is its storage's.
    pub fn pull<'s>(self, scene: &'s Scene, image: &Image, name: &str) -> Pull<'s> {
        self.pull_from(UPSTREAM, scene, image, name)
    }

    /// The same from a registry by its name.
    pub fn pull_from<'s>(self, registry: &str, scene: &'s Scene, image: &Image, name: &str) -> Pull<'s> {
        Pull {
            tool: self,
            scene,
            reference: format!("{registry}/{}:{}", image.repository, image.tag),
            storage: scene.memory(&format!("{}-{name}", self.program())),
            state: scene.root().with_file_name(name),
            login: false,
        }
    }
}

impl Pull<'_> {
    /// With the credentials of the user that private registries know.
    #[must_use]
    pub fn with_login(mut self) -> Self {
        self.login = true;
        self
    }

    /// Pulls, and checks that the image came whole.
    ///
    /// # Errors
    /// When the pull fails, or what it kept is something else.
    pub fn run(&self, image: &Image) -> Result<()> {
        run(&mut self.command())?;
        self.verify(image)
            .with_context(|| format!("what {} holds", self.tool.program()))
    }

    /// Starts it, with its words in `log`.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(&self, log: &Path) -> Result<Process> {
        Process::start(self.tool.program(), &mut self.command(), log)
    }

    /// Checks what the storage holds: skopeo's by every byte, the others' by the digests of the manifest and of the
    /// configuration, which covers the layers unpacked.
    ///
    /// # Errors
    /// When it is not there or is something else.
    pub fn verify(&self, image: &Image) -> Result<()> {
        let format = match self.tool {
            Tool::Skopeo => return verify_layout(&self.storage, image),
            Tool::Podman => ["image", "inspect", "--format", "{{.Digest}} {{.Id}}"].as_slice(),
            Tool::Buildah => &[
                "inspect",
                "--type",
                "image",
                "--format",
                "{{.FromImageDigest}} {{.FromImageID}}",
            ],
        };
        let said = output(self.program().args(format).arg(&self.reference))?;
        let id = image.config.digest.trim_start_matches("sha256:");
        let wanted = format!("{} {id}", image.manifest.digest);
        ensure!(said.trim() == wanted, "it is '{}', not '{wanted}'", said.trim());
        Ok(())
    }

    fn command(&self) -> Command {
        let mut command = self.program();
        let login = format!("{USER}:{PASSWORD}");
        match self.tool {
            Tool::Skopeo => {
                let target = format!("oci:{}:{}", self.storage.display(), tag(&self.reference));
                command.args(["copy", "--quiet"]);
                command.args(
                    self.login
                        .then_some(["--src-creds", &login])
                        .into_iter()
                        .flatten(),
                );
                command.arg(format!("docker://{}", self.reference)).arg(target);
            }
            Tool::Podman | Tool::Buildah => {
                command.args(["pull", "--quiet"]);
                command.args(self.login.then_some(["--creds", &login]).into_iter().flatten());
                command.arg(&self.reference);
            }
        }
        command
    }

    /// The program with its storage and the scene's configuration.
    fn program(&self) -> Command {
        let registries = self.scene.root().join("etc/containers/registries.conf");
        let mut command = self.scene.command(self.tool.program());
        if self.tool == Tool::Skopeo {
            command.arg("--registries-conf").arg(registries);
            return command;
        }
        command
            .env("CONTAINERS_REGISTRIES_CONF", registries)
            .arg("--root")
            .arg(&self.storage)
            .arg("--runroot")
            .arg(&self.state)
            .args(["--storage-driver", "vfs"]);
        if self.tool == Tool::Podman {
            command.args(["--cgroup-manager", "cgroupfs"]);
        }
        command
    }
}

fn tag(reference: &str) -> &str {
    reference.rsplit_once(':').map_or("latest", |(_, tag)| tag)
}
