//! Nydus images, as containerd's unpacking asks for them.

use std::fs;
use std::path::Path;

use darter_nydus_bridge::snapshotter::proto::types::Mount;
use darter_testkit::origin::{Origin, RunningOrigin};
use rustix::process::{Pid, Signal, kill_process};
use tonic::Code;

use super::program::{Mounted, PATIENCE, Program, until};
use crate::fixture::{self, Built};

const REPOSITORY: &str = "team/app";
const TARGET: &str = "containerd.io/snapshot.ref";
const BLOB: (&str, &str) = ("containerd.io/snapshot/nydus-blob", "true");
const BOOTSTRAP: (&str, &str) = ("containerd.io/snapshot/nydus-bootstrap", "true");
const IMAGE: (&str, &str) = (
    "containerd.io/snapshot/cri.image-ref",
    "registry.example/team/app:1",
);
const BYTES: usize = 3_000_000;

struct Lab {
    program: Program,
    origin: Origin,
    built: Built,
    _running: RunningOrigin,
}

async fn lab() -> Lab {
    lab_with("auto").await
}

/// With a driver of the mounts.
async fn lab_with(driver: &'static str) -> Lab {
    let tree = tempfile::tempdir().unwrap();
    for number in 0..4 {
        let content = darter_testkit::content::bytes_at(number, 0, BYTES);
        fs::write(tree.path().join(format!("file-{number}")), content).unwrap();
    }
    fs::create_dir(tree.path().join("dir")).unwrap();
    fs::write(tree.path().join("dir/removed"), "x").unwrap();
    let built = fixture::build(tree.path(), fixture::V6);
    let origin = Origin::new();
    for blob in fs::read_dir(&built.blobs).unwrap() {
        origin.add_blob(REPOSITORY, fs::read(blob.unwrap().path()).unwrap());
    }
    let running = origin.spawn_on_loopback().await.unwrap();
    Lab {
        program: Program::start_with(&running.host(), driver).await,
        origin,
        built,
        _running: running,
    }
}

impl Lab {
    /// A container on the image.
    async fn start_one(&self) -> Vec<Mount> {
        let mounts = self.program.prepare("ns/4/one", "ns/3/sha256:2", &[]).await;
        mounts.unwrap()
    }

    /// What containerd does with an image: its layer of chunks, then that with the metadata.
    async fn unpack(&self, labels: &[(&str, &str)]) {
        let blob = [BLOB, (TARGET, "sha256:1")];
        let there = self.program.prepare("ns/1/extract-1 sha256:1", "", &blob).await;
        assert_eq!(there.unwrap_err().code(), Code::AlreadyExists);
        let filter = r#"labels."containerd.io/snapshot.ref"==sha256:1,parent=="""#;
        let [target] = self.program.list(&[filter]).await.unwrap().try_into().unwrap();
        let mut all = vec![BOOTSTRAP, (TARGET, "sha256:2")];
        all.extend(labels);
        let key = "ns/2/extract-2 sha256:2";
        let mounts = self.program.prepare(key, &target, &all).await.unwrap();
        let unpacking = Mounted::new(&mounts);
        fs::create_dir(unpacking.path().join("image")).unwrap();
        fs::copy(&self.built.bootstrap, unpacking.path().join("image/image.boot")).unwrap();
        drop(unpacking);
        self.program.commit("ns/3/sha256:2", key, &all).await.unwrap();
        assert!(self.program.servers().is_empty(), "nobody uses it");
    }
}

fn is_whole(root: &Path, number: u64) -> bool {
    let wanted = darter_testkit::content::bytes_at(number, 0, BYTES);
    fs::read(root.join(format!("file-{number}"))).is_ok_and(|found| found == wanted)
}

/// From the pull to the removal: chunks of files that are read are fetched, others are not; containers write on top.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_read_as_far_as_it_is_used() {
    let lab = lab().await;
    lab.unpack(&[IMAGE]).await;
    assert_eq!(lab.origin.requests_total(), 0);
    let prepared = async |outcome: &str| {
        let labels = format!("method=\"Prepare\",outcome=\"{outcome}\"");
        lab.program.counted("requests", &labels).await
    };
    let outcomes = (
        prepared("Done").await,
        prepared("Refused").await,
        prepared("Failed").await,
    );
    assert_eq!(outcomes, (1, 1, 0), "a layer that is left out is no failure");
    let container = Mounted::new(&lab.start_one().await);
    let names = fs::read_dir(container.path()).unwrap();
    assert_eq!(names.count(), 5);
    assert!(is_whole(container.path(), 1));
    assert!(
        lab.origin.bytes_sent() < 2 * BYTES as u64,
        "{}",
        lab.origin.bytes_sent()
    );
    fs::write(container.path().join("file-2"), "mine").unwrap();
    fs::remove_file(container.path().join("dir/removed")).unwrap();
    assert_eq!(fs::read_dir(container.path().join("dir")).unwrap().count(), 0);

    let view = Mounted::new(&lab.program.view("ns/5/view", "ns/3/sha256:2").await.unwrap());
    assert!(view.path().join("dir/removed").exists() && is_whole(view.path(), 2));
    let second = Mounted::new(
        &lab.program
            .prepare("ns/6/two", "ns/3/sha256:2", &[])
            .await
            .unwrap(),
    );
    assert!(is_whole(second.path(), 2));
    assert_eq!(
        lab.program.servers().len(),
        2,
        "one process an image, and its guardian"
    );
    drop((container, view, second));

    for name in ["ns/4/one", "ns/5/view", "ns/6/two"] {
        lab.program.remove(name).await.unwrap();
    }
    assert_eq!(lab.program.servers().len(), 2, "it may be used again");
    lab.program.remove("ns/3/sha256:2").await.unwrap();
    assert_eq!(lab.program.mounted().len(), 0);
    assert!(lab.program.servers().is_empty());
    let [data] = lab.program.list(&[]).await.unwrap().try_into().unwrap();
    lab.program.remove(&data).await.unwrap();
    assert_eq!(
        fs::read_dir(lab.program.root().join("images")).unwrap().count(),
        0
    );
}

/// A layer that says nothing of itself is known by what it holds: `ctr` passes no labels on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_without_labels_is_an_image() {
    let lab = lab().await;
    let unpacking = Mounted::new(&lab.program.prepare("ns/1/extract", "", &[]).await.unwrap());
    fs::create_dir(unpacking.path().join("image")).unwrap();
    fs::copy(&lab.built.bootstrap, unpacking.path().join("image/image.boot")).unwrap();
    drop(unpacking);
    lab.program
        .commit("ns/2/sha256:2", "ns/1/extract", &[])
        .await
        .unwrap();
    // Which one it is, only containerd could tell, and there is none.
    let refused = lab
        .program
        .prepare("ns/3/one", "ns/2/sha256:2", &[])
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("--containerd"), "{refused}");
    assert!(lab.program.stat("ns/3/one").await.is_err(), "nothing was begun");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_lies_about_itself_is_refused() {
    let lab = lab().await;
    let mounts = lab
        .program
        .prepare("ns/1/extract", "", &[BOOTSTRAP, IMAGE])
        .await
        .unwrap();
    fs::write(Path::new(&mounts[0].source).join("image.boot"), "no metadata").unwrap();
    let refused = lab
        .program
        .commit("ns/2/a", "ns/1/extract", &[BOOTSTRAP])
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    lab.program.remove("ns/1/extract").await.unwrap();
}

/// Another image that marks a layer of an ordinary one as chunks, and was pulled first: containerd never unpacks that layer again.
/// Nothing runs without its files, and who is to blame is told.
#[tokio::test]
async fn a_layer_that_another_image_marks_as_chunks_is_not_left_out() {
    let program = Program::start("127.0.0.1:1").await;
    let by = ("containerd.io/snapshot/cri.image-ref", "evil.example/a:1");
    let there = program
        .prepare("ns/1/x sha256:1", "", &[BLOB, (TARGET, "sha256:1"), by])
        .await;
    assert_eq!(there.unwrap_err().code(), Code::AlreadyExists);
    for refused in [
        program.prepare("ns/2/container", "ns/1/x sha256:1", &[]).await,
        program.view("ns/2/view", "ns/1/x sha256:1").await,
        program
            .prepare("ns/2/y sha256:2", "ns/1/x sha256:1", &[(TARGET, "sha256:2")])
            .await,
    ] {
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        for word in ["evil.example/a:1", "sha256:1", "remove"] {
            assert!(refused.message().contains(word), "{refused}");
        }
    }
    // With the image the layer goes, and then it can be unpacked.
    program.remove("ns/1/x sha256:1").await.unwrap();
    program
        .prepare("ns/3/x sha256:1", "", &[(TARGET, "sha256:1")])
        .await
        .unwrap();
}

/// A container that runs does not notice that the snapshotter is killed; the next one finds the mount, and takes it away at the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_outlives_the_snapshotter() {
    let mut lab = lab().await;
    lab.unpack(&[IMAGE]).await;
    let container = Mounted::new(&lab.start_one().await);
    let servers = lab.program.servers();
    lab.program.restart().await;
    assert!(is_whole(container.path(), 0));
    assert_eq!(lab.program.servers(), servers);
    let second = Mounted::new(
        &lab.program
            .prepare("ns/5/two", "ns/3/sha256:2", &[])
            .await
            .unwrap(),
    );
    assert!(is_whole(second.path(), 1));
    assert_eq!(lab.program.servers(), servers, "it was not started anew");
    assert_eq!(lab.program.stop().await, Some(0));
    assert!(
        !lab.program.log().contains("did not finish"),
        "nobody waits for a mount"
    );
    assert!(is_whole(container.path(), 2));
    drop((container, second));
    lab.program.restart_stopped().await;
    for name in ["ns/4/one", "ns/5/two", "ns/3/sha256:2"] {
        lab.program.remove(name).await.unwrap();
    }
    assert!(lab.program.mounted().is_empty() && lab.program.servers().is_empty());
}

/// What a mount says for as long as it lives takes little room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_of_a_mount_is_cut() {
    let mut lab = lab().await;
    lab.unpack(&[IMAGE]).await;
    lab.start_one().await;
    let [image] = lab.program.mounted().try_into().unwrap();
    let log = image.with_extension("log");
    for server in lab.program.servers() {
        // Its standard error goes to the end of the file, wherever that is by then.
        let about = fs::read_to_string(format!("/proc/{server}/fdinfo/2")).unwrap();
        let flags = about.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = i32::from_str_radix(flags.unwrap().trim(), 8).unwrap();
        assert_ne!(flags & libc::O_APPEND, 0, "{about}");
        let said = fs::read_link(format!("/proc/{server}/fd/2")).unwrap();
        assert_eq!(said, log);
        let words = fs::read_to_string(format!("/proc/{server}/cmdline")).unwrap();
        assert!(words.contains("\0log.bytesPerMinuteMax=256KiB\0"), "{words}");
    }
    fs::write(&log, vec![b'x'; 3 << 20]).unwrap();
    lab.program.restart().await;
    assert!(fs::metadata(&log).unwrap().len() < 1 << 20);
    fs::write(&log, vec![b'x'; 3 << 20]).unwrap();
    until("a look", || fs::metadata(&log).unwrap().len() < 1 << 20).await;
}

/// A mount whose process is killed comes back: at the next request, at a start, and by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_mount_is_made_anew() {
    let mut lab = lab().await;
    lab.unpack(&[IMAGE]).await;
    lab.start_one().await;
    let image = lab.program.mounted().into_iter().next().unwrap();
    for round in 0..3 {
        let killed = lab.program.servers();
        for server in &killed {
            kill_process(Pid::from_raw(*server).unwrap(), Signal::KILL).unwrap();
        }
        until("the end of a process", || {
            lab.program
                .servers()
                .iter()
                .all(|server| !killed.contains(server))
        })
        .await;
        match round {
            0 => drop(lab.program.mounts("ns/4/one").await.unwrap()),
            1 => lab.program.restart().await,
            _ => {}
        }
        until("a mount", || {
            // One serves, and its parent guards it.
            lab.program.servers().len() == 2 && is_whole(&image, round)
        })
        .await;
        assert_eq!(lab.program.mounted(), std::slice::from_ref(&image));
    }
    let shown = Mounted::new(&lab.program.mounts("ns/4/one").await.unwrap());
    assert!(is_whole(shown.path(), 3));
}

/// A mount that hangs is told to who wants it, and to nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_that_hangs_holds_nobody_else_up() {
    let lab = lab_with("fuse").await;
    lab.unpack(&[IMAGE]).await;
    let on_image = async |key: &str| lab.program.prepare(key, "ns/3/sha256:2", &[]).await;
    on_image("ns/4/before").await.unwrap();
    let servers = lab.program.servers();
    let tell = |signal| {
        for server in &servers {
            kill_process(Pid::from_raw(*server).unwrap(), signal).unwrap();
        }
    };
    tell(Signal::STOP);
    let hanging = async { on_image("ns/4/meanwhile").await };
    let others = async {
        for number in 0..20 {
            let key = format!("ns/5/{number}");
            lab.program.prepare(&key, "", &[]).await.unwrap();
            lab.program.remove(&key).await.unwrap();
        }
        // It was not begun by then.
        lab.program.list(&["kind==active"]).await.unwrap()
    };
    let (refused, active) = tokio::time::timeout(PATIENCE, async { tokio::join!(hanging, others) })
        .await
        .unwrap();
    assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
    assert_eq!(active, ["ns/4/before"]);
    tell(Signal::CONT);
    for round in 0.. {
        match on_image(&format!("ns/4/after-{round}")).await {
            Ok(_) => break,
            Err(refused) => assert!(round < 100, "{refused}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// What cannot be mounted is told, costs one process at a time and none that stays, and is not tried again at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_image_costs_a_bounded_number_of_processes() {
    let lab = lab().await;
    let mounts = lab
        .program
        .prepare("ns/1/extract", "", &[BOOTSTRAP, IMAGE])
        .await
        .unwrap();
    let mut damaged = fs::read(&lab.built.bootstrap).unwrap();
    damaged.truncate(1100);
    fs::write(Path::new(&mounts[0].source).join("image.boot"), damaged).unwrap();
    lab.program
        .commit("ns/2/a", "ns/1/extract", &[BOOTSTRAP, IMAGE])
        .await
        .unwrap();
    let asked = (0..40).map(|number| {
        let program = &lab.program;
        async move { program.prepare(&format!("ns/3/{number}"), "ns/2/a", &[]).await }
    });
    for refused in futures_util::future::join_all(asked).await {
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable);
        assert!(
            refused.message().contains("registry.example/team/app:1"),
            "{refused}"
        );
    }
    let count = async |outcome: &str| {
        let labels = format!("outcome=\"{outcome}\"");
        lab.program.counted("mounts", &labels).await
    };
    let (failed, held_back) = (count("Failed").await, count("HeldBack").await);
    assert_eq!(failed + held_back, 40);
    assert!(failed < 10, "{failed}");
    let requests = lab
        .program
        .counted("requests", "method=\"Prepare\",outcome=\"Failed\"")
        .await;
    assert_eq!(requests, 40, "an image that cannot be mounted is worth an alert");
    assert!(lab.program.servers().is_empty() && lab.program.mounted().is_empty());
}
