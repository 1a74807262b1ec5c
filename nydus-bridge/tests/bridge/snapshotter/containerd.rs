//! A real containerd whose snapshots are this snapshotter's: it pulls as CRI and as `ctr`, runs containers and removes images.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Once;

use darter_testkit::content::sha256_of;
use darter_testkit::origin::{Origin, RunningOrigin};
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tonic::transport::Endpoint;

use super::program::{PATIENCE, Program, until};
use crate::fixture;

const REPOSITORY: &str = "team/app";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const NYDUS_LAYER: &str = "application/vnd.oci.image.layer.nydus.blob.v1";
/// Bytes of the image that nobody reads.
const UNREAD: usize = 8_000_000;

/// What is needed, once for all tests of this program.
static TOOLS: Once = Once::new();
/// Programs, and the packages of Debian that have them.
const PROGRAMS: [&str; 3] = ["containerd", "ctr", "runc"];
const PACKAGES: [&str; 2] = ["containerd", "runc"];

/// Installs what is missing: a test is not left out for that.
fn install() {
    let missing = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let there = |program: &&str| std::env::split_paths(&path).any(|folder| folder.join(program).exists());
        PROGRAMS.iter().any(|program| !there(program))
    };
    if !missing() {
        return;
    }
    for words in [["update"].as_slice(), &["install", "--no-install-recommends"]] {
        let mut apt = Command::new("apt-get");
        apt.args(["--yes", "--quiet", "--option", "DPkg::Lock::Timeout=300"])
            .args(words);
        if words.contains(&"install") {
            apt.args(PACKAGES);
        }
        let _ = apt
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .status();
    }
    assert!(!missing(), "{PROGRAMS:?} are needed, and cannot be installed");
}

/// The namespace that CRI has.
const NAMESPACE: &str = "k8s.io";

/// containerd, a registry, and the snapshotter between them. Fields are in the order in which they must end.
struct Node {
    containerd: Child,
    program: Program,
    origin: Origin,
    _running: RunningOrigin,
    containers: Vec<String>,
}

impl Drop for Node {
    fn drop(&mut self) {
        for name in &self.containers {
            let _ = self.ctr(&["tasks", "kill", "--signal", "SIGKILL", name]).output();
            let _ = self.ctr(&["tasks", "rm", "--force", name]).output();
            let _ = self.ctr(&["containers", "rm", name]).output();
        }
        let _ = self.containerd.kill();
        let _ = self.containerd.wait();
    }
}

impl Node {
    /// With annotations of CRI's own, or without, which is containerd's default.
    async fn start(annotations: bool) -> Self {
        TOOLS.call_once(install);
        let origin = Origin::new();
        let running = origin.spawn_on_loopback().await.unwrap();
        let program = Program::start(&running.host()).await;
        let dir = program.dir.path();
        let hosts = dir.join("hosts/registry.test");
        fs::create_dir_all(&hosts).unwrap();
        let host = format!(
            "server = \"{0}\"\n[host.\"{0}\"]\n  capabilities = [\"pull\", \"resolve\"]\n",
            running.url()
        );
        fs::write(hosts.join("hosts.toml"), host).unwrap();
        fs::write(dir.join("config.toml"), configuration(&program, annotations)).unwrap();
        let log = fs::File::create(dir.join("containerd.log")).unwrap();
        let mut command = Command::new("containerd");
        command
            .args(["--log-level", "info", "-c"])
            .arg(dir.join("config.toml"));
        command.stdout(Stdio::null()).stderr(log);
        let containerd = command.spawn().unwrap();
        let node = Self {
            containerd,
            program,
            origin,
            _running: running,
            containers: Vec::new(),
        };
        until("containerd", || {
            node.ctr(&["version"]).output().unwrap().status.success()
        })
        .await;
        node
    }

    fn ctr(&self, words: &[&str]) -> Command {
        let mut ctr = Command::new("ctr");
        ctr.arg("--address").arg(self.program.containerd());
        ctr.args(["--namespace", NAMESPACE]).args(words);
        ctr
    }

    /// Pulls as Kubernetes does.
    async fn pull_by_cri(&self, image: &str) -> Result<(), tonic::Status> {
        let socket = self.program.containerd().to_owned();
        let endpoint = Endpoint::from_static("http://containerd");
        let channel = endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(TokioIo::new) }
        }));
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.unwrap();
        let request = PullImageRequest {
            image: Some(ImageSpec {
                image: image.to_owned(),
            }),
        };
        let path = http::uri::PathAndQuery::from_static("/runtime.v1.ImageService/PullImage");
        let codec = tonic_prost::ProstCodec::<PullImageRequest, PullImageResponse>::default();
        let pulled = client.unary(tonic::Request::new(request), path, codec);
        tokio::time::timeout(PATIENCE, pulled).await.unwrap().map(drop)
    }

    fn pull_by_ctr(&self, image: &str) -> Output {
        let mut pull = self.ctr(&["images", "pull", "--snapshotter", "darter", "--hosts-dir"]);
        pull.arg(self.program.dir.path().join("hosts"))
            .arg(image)
            .output()
            .unwrap()
    }

    /// Runs a container to its end, and gives what it said.
    fn run(&self, image: &str, name: &str, words: &[&str]) -> String {
        let mut run = self.ctr(&["run", "--rm", "--snapshotter", "darter", image, name]);
        let output = run.args(words).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{output:?}\n{}", self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    /// containerd connects again within three seconds after a snapshotter was away.
    async fn reconnected(&self) {
        let list = || {
            self.ctr(&["snapshots", "--snapshotter", "darter", "ls"])
                .output()
                .unwrap()
        };
        until("a connection", || list().status.success()).await;
    }

    /// Starts one that stays.
    fn start_container(&mut self, image: &str, name: &str) {
        self.containers.push(name.to_owned());
        let mut run = self.ctr(&["run", "--detach", "--snapshotter", "darter", image, name]);
        let output = run
            .args(["/bin/sleep", "600"])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}\n{}", self.log());
    }

    fn execute(&self, name: &str, number: &str, words: &[&str]) -> String {
        let mut execute = self.ctr(&["tasks", "exec", "--exec-id", number, name]);
        let output = execute.args(words).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn end_containers(&mut self) {
        for name in std::mem::take(&mut self.containers) {
            for words in [
                ["tasks", "rm", "--force", name.as_str()].as_slice(),
                &["containers", "rm", name.as_str()],
            ] {
                let output = self.ctr(words).output().unwrap();
                assert!(output.status.success(), "{output:?}");
            }
        }
    }

    /// Removes all images; nothing of them stays.
    async fn remove_images(&self) {
        let names = self.ctr(&["images", "ls", "-q"]).output().unwrap();
        let names = String::from_utf8(names.stdout).unwrap();
        let mut remove = self.ctr(&["images", "rm", "--sync"]);
        let output = remove.args(names.lines()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !self.program.list(&[]).await.unwrap().is_empty() {
            assert!(tokio::time::Instant::now() < deadline, "{}", self.log());
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert_eq!(self.program.mounted(), Vec::<PathBuf>::new());
        until("the end of the processes", || self.program.servers().is_empty()).await;
        for folder in ["snapshots", "images"] {
            assert_eq!(fs::read_dir(self.program.root().join(folder)).unwrap().count(), 0);
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.program.dir.path().join("containerd.log")).unwrap_or_default()
    }
}

/// A container's name: its cgroup is the machine's, where others may test as well.
fn unique(name: &str) -> String {
    format!("darter-{name}-{}", std::process::id())
}

fn configuration(program: &Program, annotations: bool) -> String {
    let dir = program.dir.path().display();
    format!(
        r#"version = 2
root = "{dir}/containerd"
state = "{dir}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "{dir}/c.sock"
[ttrpc]
  address = "{dir}/c.sock.ttrpc"
[proxy_plugins.darter]
  type = "snapshot"
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "darter"
    disable_snapshot_annotations = {off}
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{dir}/hosts"
"#,
        socket = program.socket().display(),
        off = !annotations,
    )
}

#[derive(Clone, PartialEq, prost::Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PullImageRequest {
    #[prost(message, optional, tag = "1")]
    image: Option<ImageSpec>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PullImageResponse {
    #[prost(string, tag = "1")]
    image_ref: String,
}

/// A tree in which this machine's shell runs.
fn tree() -> tempfile::TempDir {
    let tree = tempfile::tempdir().unwrap();
    for program in ["/bin/sh", "/bin/cat", "/bin/sleep"] {
        let libraries = Command::new("ldd").arg(program).output().unwrap();
        let libraries = String::from_utf8(libraries.stdout).unwrap();
        let paths = libraries.split_whitespace().filter(|word| word.starts_with('/'));
        for path in paths.chain([program]) {
            let to = tree.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(path, to).unwrap();
        }
    }
    for folder in ["proc", "sys", "dev", "tmp", "etc"] {
        fs::create_dir(tree.path().join(folder)).unwrap();
    }
    fs::write(tree.path().join("etc/greeting"), "hello\n").unwrap();
    fs::write(tree.path().join("etc/parting"), "goodbye\n").unwrap();
    fs::write(
        tree.path().join("unread"),
        darter_testkit::content::bytes_at(9, 0, UNREAD),
    )
    .unwrap();
    tree
}

/// A layer: its descriptor, and the digest of what is packed in it.
fn add_layer(origin: &Origin, archive: &[u8], annotations: Value) -> (Value, String) {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(archive).unwrap();
    let packed = encoder.finish().unwrap();
    let size = packed.len();
    let digest = origin.add_blob(REPOSITORY, packed);
    let layer = json!({ "mediaType": LAYER, "size": size, "digest": digest, "annotations": annotations });
    (layer, sha256_of(archive))
}

fn add_image(origin: &Origin, tag: &str, layers: &[(Value, String)]) {
    let (descriptors, contents): (Vec<_>, Vec<_>) = layers.iter().cloned().unzip();
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": { "Env": ["PATH=/bin"], "Cmd": ["/bin/sh"] },
        "rootfs": { "type": "layers", "diff_ids": contents },
    });
    let config = config.to_string().into_bytes();
    let size = config.len();
    let digest = origin.add_blob(REPOSITORY, config);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": { "mediaType": CONFIG, "size": size, "digest": digest },
        "layers": descriptors,
    });
    origin.add_manifest(REPOSITORY, Some(tag), MANIFEST, manifest.to_string());
}

/// A Nydus image of the tree, `nydus`, another that names no layers but the one with the metadata, `bare`, and the digest of their
/// blob.
fn add_nydus(origin: &Origin, tree: &Path) -> String {
    let built = fixture::build(tree, fixture::V6);
    let blob = fs::read_dir(&built.blobs)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let bytes = fs::read(blob).unwrap();
    let size = bytes.len();
    let digest = origin.add_blob(REPOSITORY, bytes);
    let annotations = json!({ "containerd.io/snapshot/nydus-blob": "true" });
    let data =
        json!({ "mediaType": NYDUS_LAYER, "size": size, "digest": digest, "annotations": annotations });
    let bootstrap = fs::read(&built.bootstrap).unwrap();
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(bootstrap.len() as u64);
    header.set_mode(0o644);
    archive
        .append_data(&mut header, "image/image.boot", &*bootstrap)
        .unwrap();
    let archive = archive.into_inner().unwrap();
    let annotations = json!({
        "containerd.io/snapshot/nydus-bootstrap": "true",
        "containerd.io/snapshot/nydus-fs-version": "6",
    });
    let metadata = add_layer(origin, &archive, annotations);
    add_image(origin, "nydus", &[(data, digest.clone()), metadata.clone()]);
    add_image(origin, "bare", &[metadata]);
    digest
}

/// An ordinary image of two layers, `ordinary`, and what is packed in each.
fn add_ordinary(origin: &Origin, tree: &Path) -> [String; 2] {
    let mut lower = tar::Builder::new(Vec::new());
    lower.follow_symlinks(false);
    lower.append_dir_all(".", tree).unwrap();
    let lower = lower.into_inner().unwrap();
    let mut upper = tar::Builder::new(Vec::new());
    for (name, content) in [("etc/greeting", "welcome\n"), ("etc/.wh.parting", "")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        upper.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    let upper = upper.into_inner().unwrap();
    let layers = [lower, upper].map(|archive| add_layer(origin, &archive, json!({})));
    add_image(origin, "ordinary", &layers);
    layers.map(|(_, content)| content)
}

/// An image that says of layers that it does not have that they are chunks.
fn add_hostile(origin: &Origin, tag: &str, contents: &[String]) {
    let digest = origin.add_blob(REPOSITORY, tag.as_bytes().to_vec());
    let annotations = json!({ "containerd.io/snapshot/nydus-blob": "true" });
    let layer =
        json!({ "mediaType": NYDUS_LAYER, "size": tag.len(), "digest": digest, "annotations": annotations });
    let layers: Vec<_> = contents
        .iter()
        .map(|content| (layer.clone(), content.clone()))
        .collect();
    add_image(origin, tag, &layers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordinary_image_is_pulled_and_run_and_removed() {
    let node = Node::start(false).await;
    add_ordinary(&node.origin, tree().path());
    let image = "registry.test/team/app:ordinary";
    let pulled = node.pull_by_ctr(image);
    assert!(pulled.status.success(), "{pulled:?}\n{}", node.log());
    let script =
        "cat /etc/greeting; cat /etc/parting || echo none; echo mine > /etc/greeting; cat /etc/greeting";
    for name in ["ordinary-1", "ordinary-2"].map(unique) {
        assert_eq!(
            node.run(image, &name, &["/bin/sh", "-c", script]),
            "welcome\nnone\nmine\n"
        );
    }
    node.pull_by_cri(image).await.unwrap();
    node.remove_images().await;
}

/// An image that was pulled first takes no files away from another one: that is refused, and runs when the former is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_takes_no_layers_from_others() {
    let node = Node::start(true).await;
    let contents = add_ordinary(&node.origin, tree().path());
    add_hostile(&node.origin, "first", &contents[..1]);
    add_hostile(&node.origin, "both", &contents);
    let ordinary = "registry.test/team/app:ordinary";
    let script = ["/bin/sh", "-c", "cat /etc/greeting"];
    for tag in ["first", "both"] {
        let hostile = format!("registry.test/team/app:{tag}");
        node.pull_by_cri(&hostile).await.unwrap();
        let refused = match node.pull_by_cri(ordinary).await {
            Err(status) => status.message().to_owned(),
            // containerd believes that it has all layers.
            Ok(()) => {
                let mut run = node.ctr(&["run", "--rm", "--snapshotter", "darter", ordinary, &unique(tag)]);
                let output = run.args(script).stdin(Stdio::null()).output().unwrap();
                assert!(!output.status.success(), "{output:?}");
                String::from_utf8(output.stderr).unwrap()
            }
        };
        for word in ["would lack the files of the layer", &hostile, "remove that image"] {
            assert!(refused.contains(word), "{tag}: {refused}");
        }
        node.remove_images().await;
        node.pull_by_cri(ordinary).await.unwrap();
        assert_eq!(node.run(ordinary, &unique(tag), &script), "welcome\n");
        node.remove_images().await;
    }
}

/// As Kubernetes pulls, with and without CRI's own labels: the chunks are never pulled, and read as far as a container reads files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nydus_image_is_pulled_by_cri_and_run_lazily() {
    for annotations in [false, true] {
        let mut node = Node::start(annotations).await;
        let blob = add_nydus(&node.origin, tree().path());
        let image = "registry.test/team/app:nydus";
        let pulled = node.pull_by_cri(image).await;
        assert!(pulled.is_ok(), "{pulled:?}\n{}", node.log());
        assert_eq!(node.origin.bytes_sent_for(&blob), 0, "a pull reads no chunks");
        let name = unique(&format!("nydus-{annotations}"));
        assert_eq!(node.run(image, &name, &["/bin/cat", "/etc/greeting"]), "hello\n");

        // The snapshotter dies under a container that runs, and comes back.
        let running = unique(&format!("running-{annotations}"));
        node.start_container(image, &running);
        node.program.restart().await;
        node.reconnected().await;
        assert_eq!(
            node.execute(&running, "1", &["/bin/cat", "/etc/parting"]),
            "goodbye\n"
        );
        assert_eq!(node.run(image, &name, &["/bin/cat", "/etc/parting"]), "goodbye\n");
        let sent = node.origin.bytes_sent_for(&blob);
        assert!(sent > 0 && sent < UNREAD as u64 / 2, "{sent} bytes of chunks");
        node.end_containers();
        node.remove_images().await;
    }
}

/// `ctr` passes no labels on, and fetches each layer that the manifest names: an image that names its metadata alone is as lazy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nydus_image_is_pulled_by_ctr_and_run_lazily() {
    let node = Node::start(false).await;
    let blob = add_nydus(&node.origin, tree().path());
    let image = "registry.test/team/app:bare";
    let pulled = node.pull_by_ctr(image);
    assert!(pulled.status.success(), "{pulled:?}\n{}", node.log());
    assert_eq!(node.origin.bytes_sent_for(&blob), 0);
    assert_eq!(
        node.run(image, &unique("bare"), &["/bin/cat", "/etc/greeting"]),
        "hello\n"
    );
    let sent = node.origin.bytes_sent_for(&blob);
    assert!(sent > 0 && sent < UNREAD as u64 / 2, "{sent} bytes of chunks");
    node.remove_images().await;
}
