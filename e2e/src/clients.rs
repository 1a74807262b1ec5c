//! A node with a proxy and two registries, for the clients that are not containerd.
//!
//! The proxy reaches `origin`, which has no names of its own. What a client fetches past the proxy comes from
//! `direct`, which bears the names that images have and speaks TLS. Both serve the same images, so the two logs tell
//! which way every byte went. Names are in a file that only the scene's own commands see as `/etc/hosts`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::clock::until;
use crate::command::run;
use crate::darter::{Darter, Role, Surroundings, binary, proxy_config};
use crate::image::{Descriptor, Fixtures, Image, Set, prepare};
use crate::lab::Lab;
use crate::netns::Namespace;
use crate::registry::{Door, Registry};
use crate::shape::{Cap, limit_upload};

/// The registry's name in images for clients that can be given any.
pub const UPSTREAM: &str = "upstream.test";
/// The same registry, named with its port.
pub const UPSTREAM_WITH_PORT: &str = "upstream.test:443";
/// Where the forward proxy of [`Scene::forwarding`] listens.
pub const FORWARD: &str = "127.0.0.1:4003";
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
    node: Namespace,
    lab: Lab,
}

impl Scene {
    /// A scene whose proxy gets at most `origin_mbit` from its registry.
    ///
    /// # Errors
    /// When something does not start.
    pub fn start(visibility: Visibility, origin_mbit: u32) -> Result<Self> {
        Self::start_with(visibility, origin_mbit, |_, _| Ok(()))
    }

    /// A scene in which Docker pulls through the forward proxy, which opens the tunnels to [`UPSTREAM`] with an authority of
    /// its own, and reaches it by its name. The authority's files are in `pki` below [`Self::root`].
    ///
    /// # Errors
    /// When something does not start.
    pub fn forwarding(visibility: Visibility, origin_mbit: u32) -> Result<Self> {
        Self::start_with(visibility, origin_mbit, |lab, config| {
            let pki = lab.folder_of("n0").join("root/pki");
            std::fs::create_dir_all(&pki)?;
            let mut certs = Command::new(binary()?);
            certs.args(["certs", "interception-ca", "--host", UPSTREAM, "--dir"]);
            run(certs.arg(&pki))?;
            config["forward"] = json!({
                "listen": FORWARD,
                "intercept": {
                    "hosts": [UPSTREAM],
                    "caCertFile": pki.join("interception-ca.pem"),
                    "caKeyFile": pki.join("interception-ca.key"),
                },
            });
            config["origin"]["registries"][UPSTREAM] = json!({ "caFile": lab.folder().join("ca.pem") });
            Ok(())
        })
    }

    fn start_with(
        visibility: Visibility,
        origin_mbit: u32,
        change: impl FnOnce(&Lab, &mut Value) -> Result<()>,
    ) -> Result<Self> {
        let mut lab = Lab::start()?;
        let fixtures = prepare(Set::Small)?;
        let (node, origin, direct) = (
            lab.host("n0", 10)?,
            lab.host("origin", 1)?,
            lab.host("direct", 4)?,
        );
        limit_upload(&origin, Cap::mbit(origin_mbit))?;
        let folder = lab.folder().to_owned();
        let users = folder.join("htpasswd");
        std::fs::write(&users, HTPASSWD)?;
        let users = (visibility == Visibility::Private).then_some(users.as_path());
        let (certificate, key) = certificates(&folder)?;
        let plain = Door {
            users,
            ..Door::default()
        };
        let tls = Door {
            port: 443,
            tls: Some((&certificate, &key)),
            users,
        };
        let names = format!(
            "127.0.0.1 localhost\n{} {UPSTREAM} {DOCKER_HUB}\n",
            direct.address()
        );
        std::fs::write(folder.join("hosts"), names)?;
        let origin = Registry::serve_at(&origin, &fixtures.store, &lab.folder_of("origin"), &plain)?;
        let direct = Registry::serve_at(&direct, &fixtures.store, &lab.folder_of("direct"), &tls)?;
        let mut config = configuration(&node, &lab.folder_of("n0").join("store"), &origin.url());
        change(&lab, &mut config)?;
        let proxy = Darter::proxy_as(&node, &lab.folder_of("n0"), &config, &sees_names(&lab))?;
        Ok(Self {
            proxy,
            origin,
            direct,
            fixtures,
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
            .env("SSL_CERT_FILE", self.lab.folder().join("ca.pem"));
        command
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
        let host = self.origin.host()?.clone();
        let goal = host.traffic()?.sent + image.bytes() * percent / 100;
        until("the pull to be in its middle", PROGRESS, || {
            Ok((host.traffic()?.sent >= goal).then_some(()))
        })?;
        self.proxy.process().kill()
    }

    /// The test reached its end.
    pub fn passed(mut self) {
        self.lab.passed();
    }
}

/// Body bytes by the way that they took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ways {
    /// Through the proxy: what its registry sent.
    pub origin: u64,
    /// Past it.
    pub direct: u64,
}

impl Ways {
    /// What was sent since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            origin: self.origin - before.origin,
            direct: self.direct - before.direct,
        }
    }

    /// Everything took the way through the proxy.
    ///
    /// # Errors
    /// Unless the contents came through the proxy, from its registry, and nothing past it.
    pub fn ensure_through(self, image: &Image) -> Result<()> {
        ensure!(self.direct == 0, "{} bytes went past the proxy", self.direct);
        ensure!(
            self.origin >= image.bytes(),
            "the proxy fetched {} bytes of {}",
            self.origin,
            image.bytes()
        );
        Ok(())
    }

    /// Nothing was sent by a registry.
    ///
    /// # Errors
    /// Unless everything came from the proxy's store.
    pub fn ensure_none(self) -> Result<()> {
        let none = Self { origin: 0, direct: 0 };
        ensure!(self == none, "{self:?} was sent for what the proxy holds");
        Ok(())
    }
}

/// Checks that an OCI layout on disk holds the image whole: every content, by size and digest of its file.
///
/// # Errors
/// Naming the first content that is missing or differs.
pub fn verify_layout(layout: &Path, image: &Image) -> Result<()> {
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<Descriptor>,
    }
    let index = std::fs::read(layout.join("index.json")).context("there is no index")?;
    let index: Index = serde_json::from_slice(&index)?;
    ensure!(
        index
            .manifests
            .iter()
            .any(|found| found.digest == image.manifest.digest),
        "the layout holds another manifest"
    );
    for content in image.contents() {
        content.verify_file(&layout.join("blobs/sha256").join(content.hex()?))?;
    }
    Ok(())
}

/// Runs what follows with the scene's names in `/etc/hosts`, and the files of [`Scene::root`] in `/etc/docker` if there are any.
fn sees_names(lab: &Lab) -> Vec<String> {
    let script = "mount --bind \"$0\" /etc/hosts; [ ! -d \"$1\" ] || mount --bind \"$1\" /etc/docker; shift; exec \"$@\"";
    let docker = lab.folder_of("n0").join("root/etc/docker");
    let files = [lab.folder().join("hosts"), docker].map(|path| path.display().to_string());
    let words = [
        "unshare",
        "--mount",
        "--propagation",
        "slave",
        "sh",
        "-ec",
        script,
    ];
    words.map(str::to_owned).into_iter().chain(files).collect()
}

fn configuration(node: &Namespace, store: &Path, origin: &str) -> Value {
    let around = Surroundings {
        schedulers: Vec::new(),
        registry: origin.to_owned(),
    };
    let mut config = proxy_config(node, Role::Peer, store, &around);
    let registries = config.pointer_mut("/origin/registries");
    if let Some(registries) = registries.and_then(Value::as_object_mut) {
        for name in [UPSTREAM, UPSTREAM_WITH_PORT, "docker.io"] {
            registries.insert(name.to_owned(), json!({ "endpoint": origin }));
        }
    }
    config
}

/// An authority in `ca.pem`, and a certificate of it for the names of the direct registry.
fn certificates(folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate()?;
    std::fs::write(folder.join("ca.pem"), ca.self_signed(&ca_key)?.pem())?;
    let issuer = Issuer::new(ca, ca_key);
    let names = vec![UPSTREAM.to_owned(), DOCKER_HUB.to_owned()];
    let key = KeyPair::generate()?;
    let (certificate, key_file) = (folder.join("direct.pem"), folder.join("direct.key"));
    std::fs::write(
        &certificate,
        CertificateParams::new(names)?.signed_by(&key, &issuer)?.pem(),
    )?;
    std::fs::write(&key_file, key.serialize_pem())?;
    Ok((certificate, key_file))
}
