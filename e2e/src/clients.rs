//! A node with a proxy and two registries, for the clients that are not containerd.
//!
//! The proxy reaches `origin`, which has no names of its own. What a client fetches past the proxy comes from
//! `direct`, which bears the names that images have and speaks TLS. Both serve the same images, so the two logs tell
//! which way every byte went. Names are in a file that only the scene's own commands see as `/etc/hosts`.

mod parts;
mod ways;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::clock::until;
use crate::command::run;
use crate::darter::{Darter, binary};
use crate::image::{Descriptor, Fixtures, Image, Set, prepare};
use crate::lab::Lab;
use crate::netns::Namespace;
use crate::registry::Registry;
use crate::shape::{Cap, limit_upload};

use parts::{configuration, forward, give_credentials, sees_names, serve, start_proxy};
pub use ways::{Ways, verify_layout};

/// The registry's name in images for clients that can be given any.
pub const UPSTREAM: &str = "upstream.test";
/// The same registry, named with its port.
pub const UPSTREAM_WITH_PORT: &str = "upstream.test:443";
/// Where the forward proxy of [`Scene::forwarding`] listens.
pub const FORWARD: &str = "127.0.0.1:4003";
/// Names of the registry that the proxy knows.
const NAMES: [&str; 3] = [UPSTREAM, UPSTREAM_WITH_PORT, "docker.io"];
/// Where Docker looks for Docker Hub.
const DOCKER_HUB: &str = "registry-1.docker.io";
/// The user that private registries know.
pub const USER: &str = "puller";
/// The user's password.
pub const PASSWORD: &str = "s3cret";
/// The line for [`USER`], with [`PASSWORD`] by bcrypt.
const HTPASSWD: &str = "puller:$2b$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK\n";
/// A pull that has moved nothing for so long is broken.
const PROGRESS: Duration = Duration::from_secs(120);

/// Whom the registries serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// Everybody.
    Public,
    /// [`USER`] only.
    Private,
}

/// The node, its proxy and the registries. Fields are in the order in which they must end.
#[derive(Debug)]
pub struct Scene {
    /// The node's proxy.
    pub proxy: Darter,
    /// The registry that the proxy reaches.
    pub origin: Registry,
    /// The registry that clients reach by themselves.
    pub direct: Registry,
    /// The images that both hold.
    pub fixtures: Fixtures,
    config: Value,
    /// The registry that the proxy reaches, whose link is capped.
    source: Namespace,
    node: Namespace,
    lab: Lab,
}

/// What differs between scenes.
#[derive(Debug, Clone, Copy)]
struct Setting {
    visibility: Visibility,
    mbit: u32,
    set: Set,
    /// Whether the proxy reaches the registry by its name, as its clients do.
    by_name: bool,
}

impl Setting {
    fn new(visibility: Visibility, mbit: u32) -> Self {
        Self {
            visibility,
            mbit,
            set: Set::Small,
            by_name: false,
        }
    }

    fn by_name(visibility: Visibility, mbit: u32) -> Self {
        Self {
            by_name: true,
            ..Self::new(visibility, mbit)
        }
    }
}

impl Scene {
    /// A scene whose proxy gets at most `origin_mbit` from its registry.
    ///
    /// # Errors
    /// When something does not start.
    pub fn start(visibility: Visibility, origin_mbit: u32) -> Result<Self> {
        let setting = Setting::new(visibility, origin_mbit);
        Self::start_with(&setting, |_, _| Ok(()))
    }

    /// A scene of private images whose proxy has credentials of its own, for clients that bring none.
    ///
    /// # Errors
    /// When something does not start.
    pub fn sharing(origin_mbit: u32) -> Result<Self> {
        let setting = Setting::new(Visibility::Private, origin_mbit);
        Self::start_with(&setting, give_credentials)
    }

    /// A scene with an image for lazy readers. They name no registry, so that [`UPSTREAM`] is the proxy's default; private ones
    /// are read by the proxy's own credentials.
    ///
    /// # Errors
    /// When something does not start.
    pub fn lazy(visibility: Visibility, origin_mbit: u32) -> Result<Self> {
        let setting = Setting {
            set: Set::Lazy,
            ..Setting::new(visibility, origin_mbit)
        };
        Self::start_with(&setting, |lab, config| {
            config["mirror"]["defaultRegistry"] = json!(UPSTREAM);
            match visibility {
                Visibility::Public => Ok(()),
                Visibility::Private => give_credentials(lab, config),
            }
        })
    }

    /// A scene in which Docker pulls through the forward proxy, which opens the tunnels to [`UPSTREAM`] with an authority of
    /// its own, and reaches it by its name. The authority's files are in `pki` below [`Self::root`].
    ///
    /// # Errors
    /// When something does not start.
    pub fn forwarding(visibility: Visibility, mbit: u32) -> Result<Self> {
        let setting = Setting::by_name(visibility, mbit);
        Self::start_with(&setting, |lab, config| {
            let pki = lab.folder_of("n0").join("root/pki");
            std::fs::create_dir_all(&pki)?;
            let mut certs = Command::new(binary()?);
            certs.args(["certs", "interception-ca", "--host", UPSTREAM, "--dir"]);
            run(certs.arg(&pki))?;
            forward(lab, config);
            config["forward"]["intercept"] = json!({
                "hosts": [UPSTREAM],
                "caCertFile": pki.join("interception-ca.pem"),
                "caKeyFile": pki.join("interception-ca.key"),
            });
            Ok(())
        })
    }

    /// The same, with tunnels that nobody looks into.
    ///
    /// # Errors
    /// When something does not start.
    pub fn tunnelling(visibility: Visibility, mbit: u32) -> Result<Self> {
        let setting = Setting::by_name(visibility, mbit);
        Self::start_with(&setting, |lab, config| {
            forward(lab, config);
            Ok(())
        })
    }

    fn start_with(setting: &Setting, change: impl FnOnce(&Lab, &mut Value) -> Result<()>) -> Result<Self> {
        let mut lab = Lab::start()?;
        let fixtures = prepare(setting.set)?;
        let (node, origin, direct) = (
            lab.host("n0", 10)?,
            lab.host("origin", 1)?,
            lab.host("direct", 4)?,
        );
        let source = if setting.by_name { &direct } else { &origin }.clone();
        limit_upload(&source, Cap::mbit(setting.mbit))?;
        let (origin, direct) = serve(&lab, &fixtures, setting.visibility, &origin, &direct)?;
        let mut config = configuration(&node, &lab.folder_of("n0").join("store"), &origin.url());
        change(&lab, &mut config)?;
        let proxy = start_proxy(&lab, &node, &config)?;
        Ok(Self {
            proxy,
            origin,
            direct,
            fixtures,
            config,
            source,
            node,
            lab,
        })
    }

    /// The file in which the registries keep a content.
    ///
    /// # Errors
    /// When its digest is not a sha256.
    pub fn stored(&self, content: &Descriptor) -> Result<PathBuf> {
        let hex = content.hex()?;
        let folder = self.fixtures.store.join("docker/registry/v2/blobs/sha256");
        Ok(folder
            .join(hex.get(..2).unwrap_or_default())
            .join(hex)
            .join("data"))
    }

    /// The node.
    pub fn node(&self) -> &Namespace {
        &self.node
    }

    /// The directory of the client's files: what `darter setup` takes for the root.
    pub fn root(&self) -> PathBuf {
        self.lab.folder_of("n0").join("root")
    }

    /// A directory for images, in memory where there is enough of it.
    pub fn memory(&self, name: &str) -> PathBuf {
        self.lab.memory_of(name)
    }

    /// A file below [`Self::root`], with the directories above it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &str, text: &str) -> Result<PathBuf> {
        let path = self.root().join(path);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// `darter setup CLIENT ARGUMENTS` for the files below [`Self::root`].
    ///
    /// # Errors
    /// When it fails.
    pub fn setup(&self, client: &str, arguments: &[&str]) -> Result<()> {
        let root = self.root();
        std::fs::create_dir_all(&root)?;
        let mut setup = Command::new(binary()?);
        setup.args(["setup", client, "--root"]).arg(&root);
        setup
            .arg("--state-dir")
            .arg(self.lab.folder_of("n0").join("setup"))
            .args(arguments);
        run(&mut setup)
    }

    /// A command on the node that sees the scene's names.
    pub fn command(&self, program: &str) -> Command {
        let wrapper = sees_names(&self.lab);
        let (first, rest) = wrapper
            .split_first()
            .map_or(("", wrapper.as_slice()), |(first, rest)| (first, rest));
        let mut command = self.node.command(first);
        command
            .args(rest)
            .arg(program)
            .env("SSL_CERT_FILE", self.authority());
        command
    }

    /// The certificate of the authority that the registry under the images' names has its own from.
    pub fn authority(&self) -> PathBuf {
        self.lab.folder().join("ca.pem")
    }

    /// The image `e2e/NAME:TAG`.
    ///
    /// # Errors
    /// When the fixtures have none.
    pub fn image(&self, name: &str, tag: &str) -> Result<Image> {
        self.fixtures.image(name, tag).cloned()
    }

    /// Body bytes that left each registry so far; waits until both are quiet.
    ///
    /// # Errors
    /// When one of them does not become quiet.
    pub fn sent(&self) -> Result<Ways> {
        self.origin.settle()?;
        self.direct.settle()?;
        Ok(Ways {
            origin: self.origin.payload_sent()?,
            direct: self.direct.payload_sent()?,
        })
    }

    /// Waits until `percent` of the image came to the proxy, then ends the proxy as a power cut would.
    ///
    /// # Errors
    /// When it does not come so far.
    pub fn kill_proxy_at(&mut self, image: &Image, percent: u64) -> Result<()> {
        let host = self.source.clone();
        let goal = host.traffic()?.sent + image.bytes() * percent / 100;
        until("the pull to be in its middle", PROGRESS, || {
            Ok((host.traffic()?.sent >= goal).then_some(()))
        })?;
        self.proxy.process().kill()
    }

    /// Starts the proxy that was killed again, as systemd does: with the store that it had.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn restart_proxy(&mut self) -> Result<()> {
        self.proxy = start_proxy(&self.lab, &self.node, &self.config)?;
        Ok(())
    }

    /// No secret is in the proxy's log.
    ///
    /// # Errors
    /// When the password is.
    pub fn ensure_discreet(&self) -> Result<()> {
        let log = std::fs::read_to_string(self.lab.folder_of("n0").join("proxy.log"))?;
        ensure!(!log.contains(PASSWORD), "the proxy's log holds the password");
        Ok(())
    }

    /// `darter doctor` for a node that has `program` and what is below [`Self::root`], which pulls an image as well.
    ///
    /// # Errors
    /// When the program cannot be put there.
    pub fn doctor(&self, program: &str, registry: &str, image: &str) -> Result<Command> {
        let place = self.root().join(program.trim_start_matches('/'));
        if !place.exists() {
            std::fs::create_dir_all(place.parent().unwrap_or(Path::new("/")))?;
            symlink(program, &place).with_context(|| format!("cannot link {}", place.display()))?;
        }
        let mut doctor = self.command(&binary()?.display().to_string());
        doctor.args([
            "doctor",
            "--json",
            "--registry",
            registry,
            "--pull",
            image,
            "--root",
        ]);
        doctor.arg(self.root()).arg("--config");
        doctor.arg(self.lab.folder_of("n0").join("proxy.yaml"));
        Ok(doctor)
    }

    /// The test reached its end.
    pub fn passed(mut self) {
        self.lab.passed();
    }
}
