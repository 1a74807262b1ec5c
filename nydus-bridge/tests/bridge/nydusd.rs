//! `darter nydusd`, driven as nydus-snapshotter does it: started with nydusd's command line, asked over its socket, killed,
//! replaced.

#![expect(
    clippy::disallowed_methods,
    reason = "other processes are waited for, by the clock that they have as well"
)]

mod early;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use darter_nydus_bridge::mount::guardian::{receive, send};
use darter_testkit::cases;
use darter_testkit::origin::Origin;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fixture::{self, Built};
use crate::guarded::Readers;
use crate::process::{signal, until};
use crate::snapshot;

/// A folder with a mount point and sockets, where processes come and go.
struct Lab {
    dir: TempDir,
    sockets: usize,
}

/// One process. Killed with this value; what it mounted goes with the lab.
struct Nydusd {
    child: Child,
    socket: PathBuf,
}

impl Drop for Nydusd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        while unmount(self.point(), UnmountFlags::DETACH).is_ok() {}
    }
}

/// A registry that has the blobs, in `team/app`.
fn origin_of(built: &Built) -> Origin {
    let origin = Origin::new();
    for blob in fs::read_dir(&built.blobs).unwrap() {
        origin.add_blob("team/app", fs::read(blob.unwrap().path()).unwrap());
    }
    origin
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("mnt")).unwrap();
        fs::create_dir(dir.path().join("work")).unwrap();
        let program = env!("CARGO_BIN_EXE_darter-bridge");
        std::os::unix::fs::symlink(program, dir.path().join("nydusd")).unwrap();
        Self { dir, sockets: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn point(&self) -> PathBuf {
        self.path("mnt")
    }

    fn supervisor(&self) -> PathBuf {
        self.path("supervisor.sock")
    }

    /// The configuration of an image whose blobs are files.
    fn config(&self, built: &Built) -> String {
        json!({
            "device": {
                "id": "/12",
                "backend": {"type": "localfs", "config": {"dir": built.blobs}},
                "cache": {"type": "blobcache", "config": {"work_dir": self.path("work")}},
            },
            "mode": "direct", "digest_validate": false, "enable_xattr": true,
            "fs_prefetch": {"enable": false}, "something_new": 1,
        })
        .to_string()
    }

    /// As the snapshotter builds it.
    fn command(&self, more: &[&str], socket: &Path) -> Command {
        let mut command = Command::new(self.path("nydusd"));
        command
            .args(["fuse", "--thread-num", "4", "--id", "d1"])
            .args(more);
        command
            .arg("--mountpoint")
            .arg(self.point())
            .arg("--apisock")
            .arg(socket);
        command.args([
            "--log-level",
            "info",
            "--log-rotation-size",
            "100",
            "--failover-policy",
            "resend",
        ]);
        command.stderr(Stdio::inherit());
        command
    }

    fn start_at(&self, more: &[&str], socket: PathBuf) -> Nydusd {
        let stale = socket.exists();
        let mut child = self.command(more, &socket).spawn().unwrap();
        until("nydusd's socket", || {
            assert!(child.try_wait().unwrap().is_none(), "it ended");
            if stale {
                UnixStream::connect(&socket).is_ok()
            } else {
                socket.exists()
            }
        });
        Nydusd { child, socket }
    }

    fn start(&mut self, more: &[&str]) -> Nydusd {
        self.sockets += 1;
        let socket = self.path(&format!("api{}.sock", self.sockets));
        self.start_at(more, socket)
    }

    fn start_dedicated(&mut self, built: &Built, more: &[&str]) -> Nydusd {
        let config = self.path("config.json");
        fs::write(&config, self.config(built)).unwrap();
        let (config, bootstrap) = (
            config.to_str().unwrap().to_owned(),
            built.bootstrap.to_str().unwrap(),
        );
        let image = ["--config", &config, "--bootstrap", bootstrap];
        self.start(&[&image[..], more].concat())
    }
}

impl Nydusd {
    /// A whole exchange: the status and the body.
    fn ask(&self, method: &str, target: &str, body: &str) -> (u16, Value) {
        exchange(
            &mut UnixStream::connect(&self.socket).unwrap(),
            method,
            target,
            body,
        )
    }

    fn done(&self, method: &str, target: &str, body: &str) {
        let (status, said) = self.ask(method, target, body);
        assert_eq!(status, 204, "{method} {target}: {said}");
    }

    fn refused(&self, method: &str, target: &str, body: &str) -> u16 {
        let (status, said) = self.ask(method, target, body);
        assert!(status >= 400, "{method} {target}: {status}");
        assert_eq!(said["code"], "UNDEFINED", "{said}");
        assert!(!said["message"].as_str().unwrap().is_empty());
        status
    }

    fn get(&self, target: &str) -> Value {
        let (status, said) = self.ask("GET", target, "");
        assert_eq!(status, 200, "{target}: {said}");
        said
    }

    fn state(&self) -> String {
        self.get("/api/v1/daemon")["state"].as_str().unwrap().to_owned()
    }

    fn mount(&self, name: &str, built: &Built, config: &str) {
        let target = format!("/api/v1/mount?mountpoint=%2F{name}");
        self.done("POST", &target, &mount_body(built, config));
    }

    /// Ends it by a signal; how it ended.
    fn end(&mut self, by: Signal) -> Option<i32> {
        signal(self.child.id(), by).unwrap();
        self.wait()
    }

    fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        until("nydusd's end", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

fn mount_body(built: &Built, config: &str) -> String {
    json!({"fs_type": "rafs", "source": built.bootstrap, "config": config}).to_string()
}

fn exchange(stream: &mut UnixStream, method: &str, target: &str, body: &str) -> (u16, Value) {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let length = body.len();
    let head = format!("{method} {target} HTTP/1.1\r\nHost: unix\r\nContent-Length: {length}\r\n\r\n");
    stream
        .write_all(&[head.as_bytes(), body.as_bytes()].concat())
        .unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let status = head[9..12].parse().unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).unwrap();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

/// What nydus-snapshotter's supervisor does: takes a state and a descriptor, and gives them as often as it is asked.
struct Supervisor {
    socket: PathBuf,
    kept: Option<(Vec<u8>, OwnedFd)>,
}

impl Supervisor {
    fn new(lab: &Lab) -> Self {
        Self {
            socket: lab.supervisor(),
            kept: None,
        }
    }

    fn listen(&self) -> UnixListener {
        let _ = fs::remove_file(&self.socket);
        UnixListener::bind(&self.socket).unwrap()
    }

    /// Has a process tell all.
    fn fetch(&mut self, from: &Nydusd) {
        let listener = self.listen();
        let kept = std::thread::scope(|scope| {
            let receiving = scope.spawn(|| {
                let (stream, _) = listener.accept().unwrap();
                let (mut state, mut descriptors, mut part) = (Vec::new(), Vec::new(), vec![0; 256 << 10]);
                loop {
                    let (length, more) = receive(&stream, &mut part).unwrap();
                    descriptors.extend(more);
                    if length == 0 {
                        break;
                    }
                    state.extend_from_slice(&part[..length]);
                }
                assert_eq!(descriptors.len(), 1);
                (state, descriptors.pop().unwrap())
            });
            from.done("PUT", "/api/v1/daemon/fuse/sendfd", "");
            receiving.join().unwrap()
        });
        self.kept = Some(kept);
    }

    /// Has a process take over and serve.
    fn hand_to(&self, to: &Nydusd) {
        self.hand(to);
        to.done("PUT", "/api/v1/daemon/start", "");
        assert_eq!(to.state(), "RUNNING");
    }

    /// Has a process take over.
    fn hand(&self, to: &Nydusd) {
        let listener = self.listen();
        let (state, descriptor) = self.kept.as_ref().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (stream, _) = listener.accept().unwrap();
                let mut descriptors = vec![descriptor.as_fd()];
                let mut rest = &state[..];
                while !rest.is_empty() {
                    let sent = send(&stream, rest, &descriptors).unwrap();
                    descriptors.clear();
                    rest = &rest[sent..];
                }
            });
            to.done("PUT", "/api/v1/daemon/fuse/takeover", "");
        });
        assert_eq!(to.state(), "READY");
    }
}

fn small() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    crate::tree::make_small(&tree);
    (dir, tree)
}

#[test]
fn one_image_is_served_as_nydusd_does_it() {
    let (_dir, tree) = small();
    let expected = snapshot::of(&tree);
    for kind in [fixture::V5, fixture::V6] {
        let built = fixture::build(&tree, kind);
        let mut lab = Lab::new();
        let mut nydusd = lab.start_dedicated(&built, &[]);
        // The snapshotter keeps one connection, and takes its end for the process's.
        let mut idle = UnixStream::connect(&nydusd.socket).unwrap();
        let info = nydusd.get("/api/v1/daemon");
        assert_eq!(
            (&info["state"], &info["id"]),
            (&json!("RUNNING"), &json!("d1")),
            "{info}"
        );
        for key in ["package_ver", "git_commit", "build_time", "profile", "rustc"] {
            assert!(info["version"][key].is_string(), "{info}");
        }
        assert!(
            info["backend_collection"]["/"]["backend_type"].is_string(),
            "{info}"
        );
        snapshot::assert_same(&snapshot::of(&lab.point()), &expected);
        for target in [
            "/api/v1/metrics",
            "/api/v1/metrics?id=%2F",
            "/api/v1/metrics?id=%2F12",
        ] {
            let metrics = nydusd.get(target);
            for (list, length) in [
                ("fop_hits", 15),
                ("fop_errors", 15),
                ("fop_cumulative_latency_total", 15),
                ("read_latency_dist", 8),
                ("block_count_read", 8),
            ] {
                assert_eq!(metrics[list].as_array().unwrap().len(), length, "{list}");
            }
            assert!(metrics["data_read"].as_u64().unwrap() >= 1_500_000, "{metrics}");
            assert!(metrics["fop_hits"][4].as_u64().unwrap() > 0, "{metrics}");
        }
        let cache = nydusd.get("/api/v1/metrics/blobcache");
        assert!(
            cache["underlying_files"].is_array() && cache["total"].as_u64().unwrap() > 0,
            "{cache}"
        );
        assert_eq!(nydusd.ask("GET", "/api/v1/metrics/inflight", "").0, 204);
        assert_eq!(nydusd.refused("GET", "/api/v1/metrics?id=%2Fother", ""), 404);
        assert_eq!(
            nydusd.refused("POST", "/api/v1/mount?mountpoint=%2F1", &mount_body(&built, "{}")),
            500
        );
        assert_eq!(exchange(&mut idle, "GET", "/api/v1/daemon", "").0, 200);
        assert_eq!(
            exchange(&mut idle, "GET", "/api/v1/metrics", "").0,
            200,
            "kept alive"
        );
        assert_eq!(nydusd.end(Signal::TERM), Some(0));
        assert_eq!(idle.read(&mut [0]).unwrap(), 0, "the end is seen");
        assert_eq!(fs::read_dir(lab.point()).unwrap().count(), 0);
        assert!(!nydusd.socket.exists());
    }
}

#[test]
fn many_images_come_and_go() {
    let (_dir, tree) = small();
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("only"), "here").unwrap();
    let (first, second) = (
        fixture::build(&tree, fixture::V6),
        fixture::build(other.path(), fixture::V5),
    );
    let mut lab = Lab::new();
    let mut nydusd = lab.start(&[]);
    assert_eq!(nydusd.state(), "RUNNING", "with no image");
    let point = lab.point();
    assert!(
        fs::metadata(point.join("1")).is_err(),
        "and the kernel has noted that"
    );
    assert_eq!(fs::read_dir(&point).unwrap().count(), 0);
    let (config, other_config) = (lab.config(&first), lab.config(&second));
    for round in 0..3 {
        nydusd.mount("1", &first, &config);
        nydusd.mount("2", &second, &other_config);
        let again = nydusd.refused(
            "POST",
            "/api/v1/mount?mountpoint=%2F1",
            &mount_body(&second, &other_config),
        );
        assert_eq!(again, 500);
        assert_eq!(names(&point), ["1", "2"], "{round}");
        snapshot::assert_same(&snapshot::of(&point.join("1")), &snapshot::of(&tree));
        assert_eq!(fs::read(point.join("2/only")).unwrap(), b"here");
        assert!(
            nydusd.get("/api/v1/metrics?id=%2F2")["data_read"]
                .as_u64()
                .unwrap()
                > 0
        );
        assert_eq!(nydusd.refused("GET", "/api/v1/metrics", ""), 404, "there are two");
        let open = File::open(point.join("2/only")).unwrap();
        nydusd.done("DELETE", "/api/v1/mount?mountpoint=%2F2", "");
        assert!(fs::metadata(point.join("2/only")).is_err());
        assert_eq!(names(&point), ["1"]);
        drop(open);
        // Another image under a name that was used.
        nydusd.done("DELETE", "/api/v1/mount?mountpoint=%2F1", "");
        nydusd.mount("1", &second, &other_config);
        assert_eq!(fs::read(point.join("1/only")).unwrap(), b"here");
        assert!(fs::metadata(point.join("1/files")).is_err());
        nydusd.done("DELETE", "/api/v1/mount?mountpoint=%2F1", "");
        assert_eq!(nydusd.refused("DELETE", "/api/v1/mount?mountpoint=%2F1", ""), 404);
    }
    assert_eq!(nydusd.end(Signal::INT), Some(0));
}

#[test]
fn wrong_calls_are_refused_and_harm_nothing() {
    let tree = tempfile::tempdir().unwrap();
    fs::write(tree.path().join("only"), "here").unwrap();
    let first = fixture::build(tree.path(), fixture::V6);
    let mut lab = Lab::new();
    let mut nydusd = lab.start(&[]);
    let config = lab.config(&first);
    for (method, target, body) in [
        (
            "POST",
            "/api/v1/mount?mountpoint=%2Fa%2Fb",
            mount_body(&first, &config),
        ),
        (
            "POST",
            "/api/v1/mount?mountpoint=%2F",
            mount_body(&first, &config),
        ),
        (
            "POST",
            "/api/v1/mount?mountpoint=%2F..",
            mount_body(&first, &config),
        ),
        ("POST", "/api/v1/mount?mountpoint=%2F9", mount_body(&first, "{}")),
        (
            "POST",
            "/api/v1/mount?mountpoint=%2F9",
            json!({"source": "/nowhere", "config": config}).to_string(),
        ),
        ("POST", "/api/v1/mount?mountpoint=%2F9", "no json".to_owned()),
        ("PUT", "/api/v1/daemon/fuse/sendfd", String::new()),
        ("PUT", "/api/v1/daemon/fuse/takeover", String::new()),
        ("PUT", "/api/v1/daemon/start", String::new()),
        (
            "PUT",
            "/api/v1/config?id=%2F9",
            json!({"registry_auth": "YQ=="}).to_string(),
        ),
        ("PUT", "/api/v2/blobs", "{}".to_owned()),
        ("PATCH", "/else", String::new()),
    ] {
        nydusd.refused(method, target, &body);
    }
    assert_eq!(nydusd.state(), "RUNNING");
    assert_eq!(nydusd.end(Signal::INT), Some(0));
}

fn names(point: &Path) -> Vec<String> {
    let names = fs::read_dir(point)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn after_a_crash_the_next_process_goes_on() {
    let (_dir, tree) = small();
    let built = fixture::build(&tree, fixture::V6);
    let mut lab = Lab::new();
    let mut supervisor = Supervisor::new(&lab);
    let socket = lab.supervisor();
    let keep = ["--supervisor", socket.to_str().unwrap()];
    let mut nydusd = lab.start_dedicated(&built, &keep);
    supervisor.fetch(&nydusd);
    let config = lab.path("config.json");
    let image = [
        "--config",
        config.to_str().unwrap(),
        "--bootstrap",
        built.bootstrap.to_str().unwrap(),
    ];
    let waited = Readers::new(&lab.point(), &tree).run(|| {
        for _ in 0..cases(3, 50) {
            sleep(Duration::from_millis(100));
            assert_eq!(nydusd.end(Signal::KILL), None);
            let socket = nydusd.socket.clone();
            // The very same command line.
            nydusd = lab.start_at(&[&image[..], &keep].concat(), socket);
            assert_eq!(nydusd.state(), "INIT");
            assert!(nydusd.refused("PUT", "/api/v1/daemon/start", "") >= 400);
            supervisor.hand_to(&nydusd);
            supervisor.fetch(&nydusd);
        }
    });
    eprintln!("{waited}");
    snapshot::assert_same(&snapshot::of(&lab.point()), &snapshot::of(&tree));
    assert_eq!(nydusd.end(Signal::TERM), Some(0));
    drop(supervisor);
    assert_eq!(fs::read_dir(lab.point()).unwrap().count(), 0);
}

#[test]
fn an_upgrade_under_load_with_a_long_state_loses_nothing() {
    let (_dir, tree) = small();
    let built = fixture::build(&tree, fixture::V6);
    let mut lab = Lab::new();
    let mut supervisor = Supervisor::new(&lab);
    let socket = lab.supervisor();
    let keep = ["--supervisor", socket.to_str().unwrap()];
    let mut old = lab.start(&keep);
    let images = cases(60, 1000);
    // The shorter, the fewer images there are; the state is longer than a megabyte in either case.
    let filler = "x".repeat(usize::try_from(1_300_000 / images).unwrap());
    let config = lab
        .config(&built)
        .replace("\"something_new\":1", &format!("\"something_new\":\"{filler}\""));
    for image in 0..images {
        old.mount(&image.to_string(), &built, &config);
    }
    old.done("DELETE", "/api/v1/mount?mountpoint=%2F1", "");
    let first = fs::metadata(lab.point().join("0/files")).unwrap();
    let waited = Readers::new(&lab.point().join("7"), &tree).run(|| {
        for _ in 0..2 {
            supervisor.fetch(&old);
            assert!(supervisor.kept.as_ref().unwrap().0.len() > 1 << 20);
            let new = lab.start(&[&["--upgrade"][..], &keep].concat());
            assert_eq!(new.state(), "INIT");
            supervisor.hand(&new);
            old.done("PUT", "/api/v1/daemon/exit", "");
            assert_eq!(old.wait(), Some(0));
            new.done("PUT", "/api/v1/daemon/start", "");
            assert_eq!(new.state(), "RUNNING");
            old = new;
        }
    });
    eprintln!("{waited}");
    assert_eq!(names(&lab.point()).len(), usize::try_from(images - 1).unwrap());
    let number = |metadata: &fs::Metadata| std::os::unix::fs::MetadataExt::ino(metadata);
    assert_eq!(
        number(&fs::metadata(lab.point().join("0/files")).unwrap()),
        number(&first)
    );
    let expected = fs::read(tree.join("files/4097")).unwrap();
    for image in (0..images).filter(|image| *image != 1) {
        let path = lab.point().join(image.to_string()).join("files/4097");
        assert!(fs::read(path).unwrap() == expected, "{image}");
    }
    // Numbers that were used are not used again.
    old.mount("1", &built, &config);
    assert!(fs::read(lab.point().join("1/files/4097")).unwrap() == expected);
    assert_eq!(old.end(Signal::TERM), Some(0));
}

#[test]
fn a_state_of_nonsense_is_refused_and_harms_nothing() {
    let lab_dir = tempfile::tempdir().unwrap();
    let file = File::create(lab_dir.path().join("file")).unwrap();
    let mut lab = Lab::new();
    let socket = lab.supervisor();
    let nydusd = lab.start(&["--upgrade", "--supervisor", socket.to_str().unwrap()]);
    let form = |shared: bool| {
        json!({"format": 1, "agreed": {"capabilities": 0}, "mountpoint": lab.point(), "shared": shared,
               "last_instance": 0, "images": []})
        .to_string()
    };
    for state in ["", "{}", "no json", "{\"format\":7}", &form(false)] {
        let listener = {
            let _ = fs::remove_file(&socket);
            UnixListener::bind(&socket).unwrap()
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (stream, _) = listener.accept().unwrap();
                send(&stream, state.as_bytes(), &[file.as_fd()]).unwrap();
            });
            nydusd.refused("PUT", "/api/v1/daemon/fuse/takeover", "");
        });
        assert_eq!(nydusd.state(), "INIT");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_come_through_the_mirror_with_the_callers_credential() {
    let tree = tempfile::tempdir().unwrap();
    let content = darter_testkit::content::bytes_at(5, 0, 3_000_000);
    fs::write(tree.path().join("a"), &content).unwrap();
    let built = fixture::build(tree.path(), fixture::V6);
    let origin = origin_of(&built);
    let running = origin.spawn_on_loopback().await.unwrap();
    let mirror = running.host();
    let read = tokio::task::spawn_blocking(move || {
        let mut lab = Lab::new();
        let nydusd = lab.start(&["--mirror", "127.0.0.1:1"]);
        let config = json!({
            "device": {
                "backend": {"type": "registry", "config": {
                    "host": "registry.example", "repo": "team/app", "scheme": "https", "auth": "dXNlcjpwYXNz",
                    "proxy": {"url": format!("http://{mirror}"), "fallback": true},
                }},
                "cache": {"type": "blobcache", "config": {"work_dir": lab.path("work")}},
            },
        });
        nydusd.mount("1", &built, &config.to_string());
        let read = fs::read(lab.point().join("1/a")).unwrap();
        nydusd.done("DELETE", "/api/v1/mount?mountpoint=%2F1", "");
        // Where nothing is kept of it.
        let other = config.to_string().replace("/work\"", "/other\"");
        nydusd.mount("1", &built, &other);
        nydusd.done(
            "PUT",
            "/api/v1/config?id=%2F1",
            &json!({"registry_auth": "bmV3"}).to_string(),
        );
        assert_eq!(fs::read(lab.point().join("1/a")).unwrap(), read);
        read
    });
    assert!(read.await.unwrap() == content);
    let seen = origin.authorizations_seen();
    assert!(
        seen.contains("Basic dXNlcjpwYXNz") && seen.contains("Basic bmV3"),
        "{seen:?}"
    );
}

#[test]
fn its_command_line_is_nydusds() {
    let lab = Lab::new();
    let run = |arguments: &[&str]| Command::new(lab.path("nydusd")).args(arguments).output().unwrap();
    let version = run(&["--version"]);
    let said = String::from_utf8(version.stdout).unwrap();
    let commit = said.lines().find_map(|line| line.strip_prefix("Git Commit:"));
    assert!(
        version.status.success() && !commit.unwrap().trim().is_empty(),
        "{said}"
    );
    let singleton = run(&["singleton", "--fscache", "/tmp", "--apisock", "/x"]);
    let said = String::from_utf8(singleton.stderr).unwrap();
    assert!(
        singleton.status.code() == Some(1) && said.contains("fscache"),
        "{said}"
    );
    for wrong in [&["fuse"][..], &["fuse", "--mountpoint", "/x"], &["other"], &[]] {
        assert_eq!(run(wrong).status.code(), Some(64), "{wrong:?}");
    }
    // What cannot be mounted is told, and nothing stays.
    let (nowhere, socket) = (lab.path("nowhere"), lab.path("api.sock"));
    let missing = [
        "--bootstrap",
        nowhere.to_str().unwrap(),
        "--config",
        nowhere.to_str().unwrap(),
    ];
    let ended = lab.command(&missing, &socket).output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(!socket.exists());
    let log = lab.path("log");
    let logged = lab.command(
        &[&missing[..], &["--log-file", log.to_str().unwrap()]].concat(),
        &socket,
    );
    let mut logged = logged;
    assert_eq!(logged.stderr(Stdio::null()).status().unwrap().code(), Some(1));
    assert!(fs::read_to_string(log).unwrap().contains("nowhere"));
}
