//! `darter up` as a user has it: started, pulled through, asked, stopped.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on fails the test"
)]

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use darter_testkit::client::get;
use darter_testkit::content::Content;
use darter_testkit::origin::Origin;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A running `darter up`, killed when a test fails.
struct Up {
    child: Child,
    out: BufReader<ChildStdout>,
    said: String,
}

impl Up {
    fn start(arguments: &[&str]) -> Self {
        let mut child = up(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let said = String::new();
        Self { child, out, said }
    }

    /// What stands behind `word` at the beginning of a line.
    fn told(&mut self, word: &str) -> String {
        loop {
            let line = self.said.lines().find_map(|line| line.trim().strip_prefix(word));
            if let Some(rest) = line {
                return rest.split_whitespace().next().unwrap().to_owned();
            }
            let read = self.out.read_line(&mut self.said).unwrap();
            assert!(read > 0, "it ended without a word about {word}:\n{}", self.said);
        }
    }

    fn stop(mut self) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::INT).unwrap();
        assert_eq!(
            self.child.wait().unwrap().code(),
            Some(0),
            "a stop that was asked for is no failure"
        );
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// On ports that are free.
fn up(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_darter"));
    command
        .args([
            "up",
            "--set",
            "peer.listen=127.0.0.1:0",
            "--set",
            "admin.listen=127.0.0.1:0",
        ])
        .args(["--set", "host=here"])
        .args(arguments)
        .env_clear()
        .env("DARTER_SCHEDULER__LISTEN", "127.0.0.1:0")
        .env("DARTER_SCHEDULER__ADMIN__LISTEN", "127.0.0.1:0");
    command
}

fn ask(address: &str, question: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_darter"));
    command
        .arg("scheduler")
        .args(question)
        .args(["--address", address]);
    command.output().unwrap()
}

fn json(address: &str, question: &[&str]) -> Value {
    let output = ask(address, &[question, &["--json"]].concat());
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn the_admin_port_answers(metrics: &str, pulled: u64) {
    let admin: SocketAddr = metrics
        .trim_end_matches("/metrics,")
        .strip_prefix("http://")
        .unwrap()
        .parse()
        .unwrap();
    for (path, expected) in [
        ("/readyz", "ready"),
        ("/livez", "alive"),
        ("/metrics", "darter_build_info"),
        ("/config", "role: seed"),
        ("/debug/tasks", "mirror 1"),
    ] {
        let body = get(admin, path, &[]).await.unwrap().body;
        assert!(
            String::from_utf8_lossy(&body).contains(expected),
            "{path}: {body:?}"
        );
    }
    let metrics = get(admin, "/metrics", &[]).await.unwrap().body;
    let metrics = String::from_utf8(metrics.to_vec()).unwrap();
    let served = format!(
        "darter_proxy_received_bytes_total{{source=\"origin\"}} {}\n",
        pulled
    );
    assert!(metrics.contains(&served), "{metrics}");
    let names = metrics.lines().filter(|line| !line.starts_with('#'));
    assert_eq!(
        names.filter(|name| name.matches("darter").count() > 1).count(),
        0,
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_goes_through_and_the_scheduler_knows_of_it() {
    let origin = Origin::new();
    let content = Content::generated(7, 3_000_000);
    let digest = origin.add_blob("library/thing", content.clone());
    let registry = origin.spawn_on_loopback().await.unwrap();
    let name = registry.host();
    let store = tempfile::tempdir().unwrap();
    let plain = format!("origin.registries.\"{name}\".plainHttp=true");
    let store_dir = store.path().join("store").display().to_string();
    let mut up = Up::start(&["--mirror", "127.0.0.1:0", "--store", &store_dir, "--set", &plain]);

    let mirror: SocketAddr = up
        .told("mirror ")
        .strip_prefix("http://")
        .unwrap()
        .parse()
        .unwrap();
    let path = format!("/v2/library/thing/blobs/{digest}?ns={name}");
    for _ in 0..2 {
        let response = get(mirror, &path, &[]).await.unwrap();
        assert_eq!(response.body_digest(), digest);
    }
    assert_eq!(
        origin.bytes_sent_for(&digest),
        content.len(),
        "the second time it comes from the store"
    );

    let scheduler = up.told("scheduler ");
    let known = (0..1000).any(|_| json(&scheduler, &["tasks"])[0]["holders"] == 1);
    assert!(known, "the node tells the scheduler what it holds");
    let hex = digest.strip_prefix("sha256:").unwrap();
    let task = json(&scheduler, &["task", &hex[..8]]);
    assert_eq!(task["task"]["task"], Value::from(digest.as_str()));
    assert_eq!(task["peers"][0]["host"], "here");
    assert_eq!(json(&scheduler, &["hosts"])[0]["role"], "seed");
    let table = String::from_utf8(ask(&scheduler, &["tasks"]).stdout).unwrap();
    assert!(
        table.contains(&format!("blob of {name}/library/thing")),
        "{table}"
    );
    let missing = ask(&scheduler, &["task", "ffffffff"]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("no task begins with"));

    the_admin_port_answers(&up.told("metrics "), content.len()).await;
    up.stop();
}

/// A registry with an image of one layer, and the layer's digest.
fn image_of_one_layer(origin: &Origin) -> String {
    let digest = origin.add_blob("library/thing", Content::generated(7, 3_000_000));
    let config = origin.add_blob("library/thing", "{}");
    let oci = "application/vnd.oci.image.manifest.v1+json";
    let blob =
        |digest: &str, size: u64| format!(r#"{{"mediaType":"a/b","digest":"{digest}","size":{size}}}"#);
    let (config, layer) = (blob(&config, 2), blob(&digest, 3_000_000));
    let manifest =
        format!(r#"{{"schemaVersion":2,"mediaType":"{oci}","config":{config},"layers":[{layer}]}}"#);
    origin.add_manifest("library/thing", Some("1"), oci, manifest);
    digest
}

/// Status, standard output and standard error of a command.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_darter"));
    let output = command.args(arguments).env_clear().output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn why_and_doctor_tell_of_a_pull() {
    let origin = Origin::new();
    let digest = image_of_one_layer(&origin);
    let registry = origin.spawn_on_loopback().await.unwrap();
    let name = registry.host();
    let store = tempfile::tempdir().unwrap();
    let plain = format!("origin.registries.\"{name}\".plainHttp=true");
    let store_dir = store.path().join("store").display().to_string();
    let mut up = Up::start(&["--mirror", "127.0.0.1:0", "--store", &store_dir, "--set", &plain]);
    let bare = |url: String| {
        let authority = url.strip_prefix("http://").unwrap();
        authority.trim_end_matches("/metrics,").to_owned()
    };
    let (mirror, admin) = (bare(up.told("mirror ")), bare(up.told("metrics ")));
    for path in ["manifests/1".to_owned(), format!("blobs/{digest}")] {
        let path = format!("/v2/library/thing/{path}?ns={name}");
        let answer = get(mirror.parse().unwrap(), &path, &[]).await.unwrap();
        assert_eq!(answer.status, 200, "{path}");
    }

    let image = format!("{name}/library/thing:1");
    let (status, drawn, said) = run(&["why", &image, "--admin", &admin]);
    assert_eq!(status, Some(0), "{said}");
    let parts = ["resolve  1 ", "layer    ", "registry 2.8 MiB"];
    assert!(parts.iter().all(|part| drawn.contains(part)), "{drawn}");
    let (status, _, said) = run(&["why", "nginx", "--admin", &admin]);
    assert_eq!(status, Some(1));
    assert!(
        said.contains("no pull of docker.io/library/nginx:latest"),
        "{said}"
    );

    let scheduler = format!("scheduler.addresses=[\"{}\"]", up.told("scheduler "));
    let listens = [format!("mirror.listen={mirror}"), format!("admin.listen={admin}")];
    doctor_finds(
        &name,
        &[&listens[0], &listens[1], &scheduler, &plain, "host=here"],
    );
    up.stop();
}

/// What `darter doctor` finds on a node that runs, has no runtime and no certificates.
fn doctor_finds(registry: &str, keys: &[&str]) {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().display().to_string();
    let mut arguments = vec!["doctor", "--json", "--registry", registry, "--root", &folder];
    keys.iter().for_each(|key| arguments.extend(["--set", key]));
    let (status, told, said) = run(&arguments);
    let told: Value = serde_json::from_str(&told).unwrap_or_else(|_| panic!("{told}{said}"));
    assert_eq!(
        (status, &told["healthy"]),
        (Some(1), &Value::from(false)),
        "{told:#}"
    );
    for (check, expected) in [
        ("runtime", "fail"),
        ("mirror", "ok"),
        ("ready", "ok"),
        ("scheduler", "ok"),
        ("registry", "ok"),
        ("certificates", "warn"),
    ] {
        let findings = told["findings"].as_array().unwrap();
        let found = findings.iter().find(|finding| finding["check"] == check);
        assert_eq!(found.unwrap()["state"], expected, "{told:#}");
    }
}

#[test]
fn a_node_changes_its_role_and_the_scheduler_hears_of_it() {
    let store = tempfile::tempdir().unwrap();
    let store_dir = store.path().join("store").display().to_string();
    let mut up = Up::start(&["--mirror", "127.0.0.1:0", "--store", &store_dir]);
    let metrics = up.told("metrics ");
    let admin = metrics
        .trim_end_matches("/metrics,")
        .strip_prefix("http://")
        .unwrap();
    let scheduler = up.told("scheduler ");
    let role = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_darter"));
        let output = command
            .args(["proxy", "role", "--admin", admin])
            .args(arguments)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        String::from_utf8(output.stdout).unwrap()
    };
    let knows = |role: &str| (0..1000).any(|_| json(&scheduler, &["hosts"])[0]["role"] == role);
    assert_eq!(role(&[]), "seed\n");
    assert!(knows("seed"));
    assert_eq!(role(&["peer"]), "peer\n");
    assert!(
        knows("peer"),
        "the scheduler hears of it on the stream that it has"
    );
    assert_eq!(role(&["seed"]), "seed\n");
    assert!(knows("seed"));
    up.stop();
}

#[test]
fn a_role_of_nobody_says_where_it_looked() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_darter"));
    let output = command
        .args(["proxy", "role", "seed", "--admin", "127.0.0.1:1"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no admin port at 127.0.0.1:1"), "{said}");
}

#[test]
fn a_port_that_is_taken_ends_it_with_the_address() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let store = tempfile::tempdir().unwrap();
    let store_dir = store.path().join("store").display().to_string();
    let output = up(&["--mirror", &address, "--store", &store_dir])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains(&format!("cannot listen on {address} for the mirror")),
        "{said}"
    );
    assert_eq!(output.stdout, b"", "it does not say that it runs");
}

#[test]
fn a_store_that_is_in_use_ends_it_with_the_directory() {
    let store = tempfile::tempdir().unwrap();
    let store_dir = store.path().join("store").display().to_string();
    let mut first = Up::start(&["--mirror", "127.0.0.1:0", "--store", &store_dir]);
    first.told("mirror ");
    let second = up(&["--mirror", "127.0.0.1:0", "--store", &store_dir])
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains(&format!("{store_dir} is in use by process")));
    first.stop();
}
