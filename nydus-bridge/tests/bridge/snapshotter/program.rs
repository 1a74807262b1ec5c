//! The program, a client for it, and mounts as containerd makes them.

#![expect(
    clippy::disallowed_methods,
    reason = "another process is waited for, by the clock that it has as well"
)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use darter_nydus_bridge::snapshotter::proto::services::snapshots::v1 as pb;
use darter_nydus_bridge::snapshotter::proto::services::snapshots::v1::snapshots_client::SnapshotsClient;
use darter_nydus_bridge::snapshotter::proto::types::Mount;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::time::sleep;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

/// How long anything may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A snapshotter that runs. Killed with this value, with what it mounted.
pub(super) struct Program {
    pub(super) dir: TempDir,
    /// The mirror, and who shows the trees of images.
    reading: (String, &'static str),
    containerd: PathBuf,
    child: Child,
    client: SnapshotsClient<Channel>,
}

#[expect(clippy::print_stdout, reason = "what one needs who looks at a failed test")]
impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("{}", self.log());
        }
        for point in self.mounted() {
            let _ = Command::new("umount").arg("--lazy").arg(point).status();
        }
    }
}

impl Program {
    /// Starts one that reads blobs from `mirror`.
    pub(super) async fn start(mirror: &str) -> Self {
        Self::start_with(mirror, "auto").await
    }

    /// The same, with a driver of its mounts.
    pub(super) async fn start_with(mirror: &str, driver: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let containerd = dir.path().join("c.sock");
        let reading = (mirror.to_owned(), driver);
        let (child, client) = launch(dir.path(), &reading, &containerd).await;
        Self {
            dir,
            reading,
            containerd,
            child,
            client,
        }
    }

    pub(super) fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// Where it asks containerd.
    pub(super) fn containerd(&self) -> &Path {
        &self.containerd
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.dir.path().join("s.sock")
    }

    /// Kills it and starts it again.
    pub(super) async fn restart(&mut self) {
        self.kill();
        (self.child, self.client) = launch(self.dir.path(), &self.reading, &self.containerd).await;
    }

    /// Ends it without asking.
    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again after it was stopped, or killed.
    pub(super) async fn restart_stopped(&mut self) {
        (self.child, self.client) = launch(self.dir.path(), &self.reading, &self.containerd).await;
    }

    /// What its admin port tells.
    pub(super) async fn metrics(&self) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = UnixStream::connect(self.dir.path().join("a.sock")).await.unwrap();
        let request = "GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// One number of those: the family's name, and its labels as they are written.
    pub(super) async fn counted(&self, family: &str, labels: &str) -> u64 {
        let metrics = self.metrics().await;
        let name = format!("darter_snapshotter_{family}_total{{{labels}}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap_or_else(|| panic!("no {name}in {metrics}"))
            .parse()
            .unwrap()
    }

    /// Asks it to end, and gives its status.
    pub(super) async fn stop(&mut self) -> Option<i32> {
        let id = i32::try_from(self.child.id()).unwrap();
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(id).unwrap(),
            rustix::process::Signal::TERM,
        )
        .unwrap();
        let mut status = None;
        until("its end", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap().code()
    }

    pub(super) async fn prepare(
        &self,
        key: &str,
        parent: &str,
        labels: &[(&str, &str)],
    ) -> Result<Vec<Mount>, Status> {
        let request = pb::PrepareSnapshotRequest {
            key: key.to_owned(),
            parent: parent.to_owned(),
            labels: map(labels),
            ..Default::default()
        };
        Ok(self.client.clone().prepare(request).await?.into_inner().mounts)
    }

    pub(super) async fn view(&self, key: &str, parent: &str) -> Result<Vec<Mount>, Status> {
        let request = pb::ViewSnapshotRequest {
            key: key.to_owned(),
            parent: parent.to_owned(),
            ..Default::default()
        };
        Ok(self.client.clone().view(request).await?.into_inner().mounts)
    }

    pub(super) async fn mounts(&self, key: &str) -> Result<Vec<Mount>, Status> {
        let request = pb::MountsRequest {
            key: key.to_owned(),
            ..Default::default()
        };
        Ok(self.client.clone().mounts(request).await?.into_inner().mounts)
    }

    pub(super) async fn commit(&self, name: &str, key: &str, labels: &[(&str, &str)]) -> Result<(), Status> {
        let request = pb::CommitSnapshotRequest {
            name: name.to_owned(),
            key: key.to_owned(),
            labels: map(labels),
            ..Default::default()
        };
        self.client.clone().commit(request).await.map(drop)
    }

    pub(super) async fn remove(&self, key: &str) -> Result<(), Status> {
        let request = pb::RemoveSnapshotRequest {
            key: key.to_owned(),
            ..Default::default()
        };
        self.client.clone().remove(request).await.map(drop)
    }

    pub(super) async fn stat(&self, key: &str) -> Result<pb::Info, Status> {
        let request = pb::StatSnapshotRequest {
            key: key.to_owned(),
            ..Default::default()
        };
        let answer = self.client.clone().stat(request).await?;
        Ok(answer.into_inner().info.unwrap())
    }

    pub(super) async fn update(&self, info: pb::Info, fields: &[&str]) -> Result<pb::Info, Status> {
        let request = pb::UpdateSnapshotRequest {
            info: Some(info),
            update_mask: Some(prost_types::FieldMask {
                paths: fields.iter().map(|field| (*field).to_owned()).collect(),
            }),
            ..Default::default()
        };
        let answer = self.client.clone().update(request).await?;
        Ok(answer.into_inner().info.unwrap())
    }

    /// Names, sorted.
    pub(super) async fn list(&self, filters: &[&str]) -> Result<Vec<String>, Status> {
        let request = pb::ListSnapshotsRequest {
            filters: filters.iter().map(|filter| (*filter).to_owned()).collect(),
            ..Default::default()
        };
        let mut parts = self.client.clone().list(request).await?.into_inner();
        let mut names = Vec::new();
        while let Some(part) = parts.message().await? {
            names.extend(part.info.into_iter().map(|info| info.name));
        }
        names.sort();
        Ok(names)
    }

    pub(super) async fn usage(&self, key: &str) -> Result<pb::UsageResponse, Status> {
        let request = pb::UsageRequest {
            key: key.to_owned(),
            ..Default::default()
        };
        Ok(self.client.clone().usage(request).await?.into_inner())
    }

    pub(super) async fn cleanup(&self) {
        self.client
            .clone()
            .cleanup(pb::CleanupRequest::default())
            .await
            .unwrap();
    }

    /// What it said so far.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("s.log")).unwrap()
    }

    /// What is mounted below its root.
    pub(super) fn mounted(&self) -> Vec<PathBuf> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        let points = points.filter(|point| Path::new(point).starts_with(self.root()));
        points.map(PathBuf::from).collect()
    }

    /// The processes that serve mounts below its root.
    pub(super) fn servers(&self) -> Vec<i32> {
        let root = self.root().join("images").display().to_string();
        let numbers = fs::read_dir("/proc").unwrap();
        let numbers = numbers.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse::<i32>().ok());
        let serves = |id: &i32| {
            let line = fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
            line.contains("\0mount\0") && line.contains(&root)
        };
        numbers.filter(serves).collect()
    }
}

async fn launch(
    dir: &Path,
    (mirror, driver): &(String, &'static str),
    containerd: &Path,
) -> (Child, SnapshotsClient<Channel>) {
    let socket = dir.join("s.sock");
    let mut command = Command::new(env!("CARGO_BIN_EXE_darter-bridge"));
    command.args(["snapshotter", "--log", "info", "--mirror", mirror]);
    command.env("DARTER_BRIDGE__DRIVER", driver);
    command
        .arg("--root")
        .arg(dir.join("root"))
        .arg("--socket")
        .arg(&socket);
    command.arg("--containerd").arg(containerd);
    command
        .arg("--admin")
        .arg(format!("unix:{}", dir.join("a.sock").display()));
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(dir.join("s.log"));
    let mut child = command.stdin(Stdio::null()).stderr(log.unwrap()).spawn().unwrap();
    until("a socket", || {
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        std::os::unix::net::UnixStream::connect(&socket).is_ok()
    })
    .await;
    let endpoint = Endpoint::from_static("http://snapshotter");
    let channel = endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    }));
    (child, SnapshotsClient::new(channel))
}

pub(super) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        sleep(Duration::from_millis(20)).await;
    }
}

fn map(labels: &[(&str, &str)]) -> HashMap<String, String> {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    labels.iter().map(owned).collect()
}

/// Mounts of a snapshot at a directory of their own, gone with this value.
pub(super) struct Mounted {
    dir: TempDir,
}

impl Mounted {
    pub(super) fn new(mounts: &[Mount]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for mount in mounts {
            let mut command = Command::new("mount");
            match mount.r#type.as_str() {
                "bind" => command.args(["-o", &format!("bind,{}", mount.options.first().unwrap())]),
                kind => command.args(["-t", kind, "-o", &mount.options.join(",")]),
            };
            let status = command.arg(&mount.source).arg(dir.path()).status().unwrap();
            assert!(status.success(), "{mount:?}");
        }
        Self { dir }
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.dir.path()).status();
    }
}
