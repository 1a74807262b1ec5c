//! What goes on beside the mount: files that are wanted early, a credential that is kept elsewhere, care of the cache.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use darter_nydus_bridge::fs::Limits;
use darter_nydus_bridge::nydusd::{Beginning, Daemon, Options};
use darter_service::supervise::Tasks;
use tokio_util::sync::CancellationToken;

use super::*;

const LENGTH: u64 = 3_000_000;

fn one_file() -> (TempDir, Built) {
    let tree = tempfile::tempdir().unwrap();
    let content = darter_testkit::content::bytes_at(5, 0, usize::try_from(LENGTH).unwrap());
    fs::write(tree.path().join("a"), content).unwrap();
    // Chunks that are alike are kept once.
    fs::write(
        tree.path().join("b"),
        darter_testkit::content::bytes_at(6, 0, 3 << 20),
    )
    .unwrap();
    let built = fixture::build(tree.path(), fixture::V6);
    (tree, built)
}

/// Bytes of chunks that are kept.
fn kept(work: &Path) -> u64 {
    let entries = fs::read_dir(work.join("chunks"));
    let data = entries.into_iter().flatten().filter_map(|entry| {
        let path = entry.unwrap().path();
        let is_data = path.extension().is_some_and(|kind| kind == "data");
        // It may go meanwhile.
        fs::metadata(path).ok().filter(|_| is_data)
    });
    data.map(|found| found.len()).sum()
}

#[test]
fn what_a_list_or_the_configuration_names_is_fetched_before_it_is_read() {
    let (tree, built) = one_file();
    let mut lab = Lab::new();
    let list = lab.path("list");
    fs::write(&list, "/a\n\n").unwrap();
    let nydusd = lab.start_dedicated(&built, &["--prefetch-files", list.to_str().unwrap()]);
    until("the file", || kept(&lab.path("work")) >= LENGTH);
    fs::remove_dir_all(&built.blobs).unwrap();
    assert!(fs::read(lab.point().join("a")).unwrap() == fs::read(tree.path().join("a")).unwrap());
    assert!(fs::read(lab.point().join("b")).is_err(), "it was not named");
    drop(nydusd);
    // One that cannot be read is told, as nydusd does it.
    let (config, bootstrap) = (lab.path("config.json"), built.bootstrap.to_str().unwrap());
    let wrong = ["--config", config.to_str().unwrap(), "--bootstrap", bootstrap];
    let wrong = [&wrong[..], &["--prefetch-files", "/nowhere"]].concat();
    let ended = lab.command(&wrong, &lab.path("wrong.sock")).output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
}

#[test]
fn a_configuration_that_wants_all_gets_all() {
    let (_tree, built) = one_file();
    let mut lab = Lab::new();
    let nydusd = lab.start(&[]);
    let quiet = lab.config(&built);
    let eager = quiet.replace("{\"enable\":false}", "{\"enable\":true,\"prefetch_all\":true}");
    assert_ne!(quiet, eager);
    nydusd.mount("1", &built, &eager);
    until("both files", || kept(&lab.path("work")) >= LENGTH + (3 << 20));
}

/// Answers at a socket as nydus-snapshotter does, but for the first question: it does not know of the process yet.
fn answer_at(socket: &Path, backend: &Value) -> Arc<AtomicU32> {
    let listener = UnixListener::bind(socket).unwrap();
    let (questions, backend) = (Arc::new(AtomicU32::new(0)), backend.to_string());
    let counted = Arc::clone(&questions);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                head.push(byte[0]);
            }
            let asked = head.starts_with(b"GET /api/v1/daemons/d1/backend HTTP/1.1\r\n");
            let (status, body) = match counted.fetch_add(1, Ordering::SeqCst) {
                0 => ("404 Not Found", "{}"),
                _ if asked => ("200 OK", backend.as_str()),
                _ => ("400 Bad Request", "{}"),
            };
            let length = body.len();
            let answer =
                format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    questions
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_that_is_kept_elsewhere_is_asked_for_and_waited_for() {
    let (tree, built) = one_file();
    let content = fs::read(tree.path().join("a")).unwrap();
    let origin = origin_of(&built);
    let running = origin.spawn_on_loopback().await.unwrap();
    let mirror = running.host();
    let read = tokio::task::spawn_blocking(move || {
        let mut lab = Lab::new();
        let backend = |secret: Option<&str>| {
            let mut config = json!({"host": "registry.example", "repo": "team/app"});
            if let Some(secret) = secret {
                config["auth"] = json!(secret);
            }
            json!({"type": "registry", "config": config})
        };
        let questions = answer_at(&lab.path("system.sock"), &backend(Some("c2VjcmV0")));
        let config = json!({"device": {
            "backend": backend(None),
            "cache": {"type": "blobcache", "config": {"work_dir": lab.path("work")}},
        }});
        let path = lab.path("config.json");
        fs::write(&path, config.to_string()).unwrap();
        let source = format!("{}/api/v1/daemons/d1/backend", lab.path("system.sock").display());
        let log = lab.path("log");
        let nydusd = lab.start(&[
            "--mirror",
            &mirror,
            "--config",
            path.to_str().unwrap(),
            "--bootstrap",
            built.bootstrap.to_str().unwrap(),
            "--backend-source",
            &source,
            "--log-file",
            log.to_str().unwrap(),
        ]);
        let read = fs::read(lab.point().join("a")).unwrap();
        assert!(questions.load(Ordering::SeqCst) >= 2);
        drop(nydusd);
        assert!(!fs::read_to_string(log).unwrap().contains("c2VjcmV0"));
        // Elsewhere than at a socket of this machine nobody is asked.
        let wrong = ["--backend-source", "http://127.0.0.1:1/api/v1/daemons/d1/backend"];
        let ended = lab.command(&wrong, &lab.path("wrong.sock")).output().unwrap();
        assert_eq!(ended.status.code(), Some(64));
        read
    });
    assert!(read.await.unwrap() == content);
    let seen = origin.authorizations_seen();
    assert_eq!(
        seen.iter().collect::<Vec<_>>(),
        ["Basic c2VjcmV0"],
        "never without"
    );
}

#[test]
fn images_of_one_process_share_their_cache() {
    let (_tree, built) = one_file();
    let mut lab = Lab::new();
    let nydusd = lab.start(&[]);
    for name in ["1", "2", "3", "4"] {
        nydusd.mount(name, &built, &lab.config(&built));
        fs::read(lab.point().join(name).join("a")).unwrap();
    }
    let open = fs::read_dir(format!("/proc/{}/fd", nydusd.child.id())).unwrap();
    let links = open.map(|entry| fs::read_link(entry.unwrap().path()).unwrap_or_default());
    let packs: Vec<PathBuf> = links.filter(|link| link.starts_with(lab.path("work"))).collect();
    assert_eq!(packs.len(), 2, "one pack and its index: {packs:?}");
    assert!(kept(&lab.path("work")) < 2 * LENGTH);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bound_of_the_cache_is_kept_though_others_write_to_it() {
    let (_tree, built) = one_file();
    let lab = Lab::new();
    let (tasks, stop) = (Tasks::new(), CancellationToken::new());
    let options = Options {
        id: None,
        mountpoint: lab.point(),
        supervisor: None,
        mirror: "127.0.0.1:1".parse().unwrap(),
        threads: None,
        folder: lab.path("work"),
        limits: Limits {
            cache_bytes_max: 4 << 20,
            ..Limits::default()
        },
        tidy_every: Duration::from_millis(50),
        prefetch: Vec::new(),
        backend_source: None,
    };
    let daemon = Daemon::new(options, tasks.clone(), stop.clone());
    let beginning = Beginning::Image {
        bootstrap: built.bootstrap.clone(),
        config: lab.config(&built),
    };
    daemon.begin(beginning).await.unwrap();
    let work = lab.path("work");
    fs::write(work.join("chunks/another.data"), vec![0; 9 << 20]).unwrap();
    tokio::task::spawn_blocking(move || until("the bound", || kept(&work) <= 4 << 20))
        .await
        .unwrap();
    stop.cancel();
    daemon.ended().await.unwrap();
    tasks.shut_down(Duration::from_secs(5)).await;
}
