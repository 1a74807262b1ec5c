//! What Darter is watched with, against the real thing: alerts, dashboards and the reference of metrics speak of metrics that
//! real roles have, and a real Prometheus that scrapes a small cluster while it pulls answers every question of the dashboards.
//!
//! `DARTER_BLESS=1` writes `docs/operate/metrics.md` anew. Prometheus is installed by `cargo xtask test` into `target/tools`.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on fails the test"
)]

#[expect(dead_code, reason = "the tests of processes need more of it")]
#[path = "process/role.rs"]
mod role;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use darter_service::metrics::reference;
use darter_testkit::client::get;
use darter_testkit::content::Content;
use darter_testkit::origin::Origin;
use serde_json::Value;

use role::{LONG, Role, address, free_address, start};

/// The dashboards of what runs here; the bridge's needs a kernel's mounts and is checked by names alone.
const LIVE: [&str; 4] = ["proxy", "seed", "scheduler", "manager"];
/// Fewer than set off the alert on them.
const FAILED_SIGN_INS_MAX: u64 = 20;
/// Questions that a healthy cluster may leave unanswered: what they count has not happened.
const MAY_BE_EMPTY: [&str; 1] = ["darter_proxy_parent_failures_total"];

const PROXY: &str = "proxy/src/metrics.rs";
const FORWARD: &str = "proxy/src/forward/metrics.rs";
const IDENTITY: &str = "service/src/tls/identity.rs";
const BRIDGE: &str = "nydus-bridge/src/metrics.rs";
const SNAPSHOTTER: &str = "nydus-bridge/src/snapshotter/metrics.rs";

/// Metrics that no healthy node shows: name, kind, what is registered, and where.
const RARE: [(&str, &str, &str, &str); 17] = [
    (
        "darter_proxy_parent_failures_total",
        "counter",
        "parent_failures",
        PROXY,
    ),
    (
        "darter_proxy_store_scrubbed_pieces_total",
        "counter",
        "store_scrubbed_pieces",
        PROXY,
    ),
    (
        "darter_proxy_forward_requests_total",
        "counter",
        "forward_requests",
        FORWARD,
    ),
    (
        "darter_proxy_forward_passed_bytes_total",
        "counter",
        "forward_passed",
        FORWARD,
    ),
    (
        "darter_bridge_read_bytes_total",
        "counter",
        "darter_bridge_read_bytes",
        BRIDGE,
    ),
    (
        "darter_bridge_waited_bytes_total",
        "counter",
        "darter_bridge_waited_bytes",
        BRIDGE,
    ),
    (
        "darter_bridge_wanted_bytes_total",
        "counter",
        "darter_bridge_wanted_bytes",
        BRIDGE,
    ),
    (
        "darter_bridge_fetched_bytes_total",
        "counter",
        "darter_bridge_fetched_bytes",
        BRIDGE,
    ),
    (
        "darter_bridge_prefetched_bytes_total",
        "counter",
        "darter_bridge_prefetched_bytes",
        BRIDGE,
    ),
    (
        "darter_bridge_requests_total",
        "counter",
        "darter_bridge_requests",
        BRIDGE,
    ),
    (
        "darter_bridge_requests_failed_total",
        "counter",
        "darter_bridge_requests_failed",
        BRIDGE,
    ),
    (
        "darter_bridge_wrong_chunks_total",
        "counter",
        "darter_bridge_wrong_chunks",
        BRIDGE,
    ),
    (
        "darter_snapshotter_requests_total",
        "counter",
        "requests",
        SNAPSHOTTER,
    ),
    (
        "darter_snapshotter_mounts_total",
        "counter",
        "mounts",
        SNAPSHOTTER,
    ),
    (
        "darter_snapshotter_layers_left_out_total",
        "counter",
        "layers_left_out",
        SNAPSHOTTER,
    ),
    ("darter_snapshotter_snapshots", "gauge", "snapshots", SNAPSHOTTER),
    ("darter_snapshotter_images", "gauge", "images", SNAPSHOTTER),
];
/// What a role with certificates shows besides: what is registered, what follows it in the name, and its kind.
const WITH_CERTIFICATES: [(&str, &str, &str); 4] = [
    ("tls_certificate_not_after", "_seconds", "gauge"),
    ("tls_reloads", "_total", "counter"),
    ("tls_revoked", "", "gauge"),
    ("tls_connections_refused", "_total", "counter"),
];
/// Those that register the above.
const HAVE_CERTIFICATES: [&str; 3] = ["proxy", "scheduler", "manager"];
/// Folders whose sources register metrics.
const SOURCES: [&str; 5] = [
    "service/src",
    "proxy",
    "scheduler/src",
    "manager/src",
    "nydus-bridge/src",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// `prometheus` or `promtool`: the one of `target/tools`, or of the system.
fn tool(name: &str) -> Command {
    let binary = Path::new(env!("CARGO_BIN_EXE_darter"));
    let installed = binary.ancestors().nth(2).unwrap().join("tools/bin").join(name);
    Command::new(if installed.is_file() {
        installed
    } else {
        PathBuf::from(name)
    })
}

/// A scheduler, a manager, a seed and two nodes, and the registry that they pull from.
struct Cluster {
    origin: Origin,
    mirrors: Vec<SocketAddr>,
    web: SocketAddr,
    /// Job and admin port.
    scraped: Vec<(&'static str, SocketAddr)>,
    pulled: u64,
    _registry: darter_testkit::origin::RunningOrigin,
    _roles: Vec<Role>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let origin = Origin::new();
        let registry = origin.spawn_on_loopback().await.unwrap();
        let (mut roles, mut scraped, mut mirrors) = (Vec::new(), Vec::new(), Vec::new());
        let admin = "admin.listen=127.0.0.1:0".to_owned();
        let (running, scheduler) = start("scheduler", &["listen=127.0.0.1:0".to_owned(), admin.clone()]);
        roles.push(running);
        scraped.push(("darter-scheduler", address(&scheduler, "admin")));
        let database = format!(
            "database.file={}",
            dir.path().join("manager/manager.db").display()
        );
        let listen = ["web", "roles"].map(|port| format!("{port}.listen=127.0.0.1:0"));
        let (running, manager) = start("manager", &[&listen[..], &[database, admin.clone()]].concat());
        roles.push(running);
        scraped.push(("darter-manager", address(&manager, "admin")));
        for host in ["seed", "a", "b"] {
            let seed = host == "seed";
            let settings = [
                admin.clone(),
                format!("host={host}"),
                format!("role={}", if seed { "seed" } else { "peer" }),
                "mirror.listen=127.0.0.1:0".to_owned(),
                format!("peer.listen={}", free_address()),
                "forward.listen=127.0.0.1:0".to_owned(),
                format!("store.dir={}", dir.path().join(host).display()),
                "store.freeFloor=16MiB".to_owned(),
                format!("scheduler.addresses=[\"{}\"]", address(&scheduler, "listen")),
                format!("origin.registries.\"registry.test\".endpoint={}", registry.url()),
            ];
            let (running, said) = start("proxy", &settings);
            roles.push(running);
            scraped.push((
                if seed { "darter-seed" } else { "darter-proxy" },
                address(&said, "admin"),
            ));
            if !seed {
                mirrors.push(address(&said, "mirror"));
            }
        }
        Self {
            origin,
            mirrors,
            web: address(&manager, "listen"),
            scraped,
            pulled: 0,
            _registry: registry,
            _roles: roles,
            _dir: dir,
        }
    }

    /// A new content on both nodes, twice on one of them, and somebody at the manager who may not.
    async fn work(&mut self) {
        self.pulled += 1;
        let digest = self
            .origin
            .add_blob("app", Content::generated(self.pulled, 3_000_000));
        let target = format!("/v2/app/blobs/{digest}?ns=registry.test");
        for mirror in [self.mirrors[0], self.mirrors[1], self.mirrors[0]] {
            assert_eq!(get(mirror, &target, &[]).await.unwrap().status, 200);
        }
        assert_eq!(get(self.web, "/api/v1/clusters", &[]).await.unwrap().status, 401);
        if self.pulled > FAILED_SIGN_INS_MAX {
            return;
        }
        let body = r#"{"name":"admin","password":"not this one"}"#;
        let mut stream = TcpStream::connect(self.web).unwrap();
        write!(
            stream,
            "POST /api/v1/session HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.read_to_string(&mut String::new()).unwrap();
    }

    /// The metrics of all roles: name as it is queried, kind and help.
    async fn metrics(&self) -> BTreeMap<String, (String, String)> {
        let mut all = BTreeMap::new();
        for (_, admin) in &self.scraped {
            let answer = get(*admin, "/metrics", &[]).await.unwrap();
            let text = String::from_utf8(answer.body.to_vec()).unwrap();
            let found = reference(&text).into_iter();
            all.extend(found.map(|metric| (metric.name, (metric.kind, metric.help))));
        }
        all
    }
}

/// What the source registers under `name`: its help, the first text behind the name.
fn help_in(file: &str, name: &str) -> String {
    let source = read(file);
    let at = source
        .find(&format!("\"{name}\""))
        .unwrap_or_else(|| panic!("{file} has no {name}"));
    let rest = &source[at + name.len() + 2..];
    let text = rest.split('"').nth(1).unwrap();
    text.to_owned()
}

/// Names of metrics in a text, without what a histogram adds.
fn names(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let names = words.filter(|word| word.starts_with("darter_"));
    names
        .map(|name| name.trim_end_matches("_bucket").to_owned())
        .collect()
}

/// Titles and expressions of a dashboard.
fn questions(dashboard: &str) -> Vec<(String, String)> {
    let board: Value = serde_json::from_str(&read(&format!("deploy/grafana/{dashboard}.json"))).unwrap();
    let mut questions = Vec::new();
    for panel in board["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            questions.push((text(&panel["title"]), text(&target["expr"])));
        }
    }
    assert!(!questions.is_empty(), "{dashboard}");
    questions
}

/// As Grafana would fill it in.
fn filled(expression: &str) -> String {
    let values = [
        ("$instance", ".*"),
        ("$__rate_interval", "20s"),
        ("$__range", "1m"),
    ];
    values.iter().fold(expression.to_owned(), |text, (name, value)| {
        text.replace(name, value)
    })
}

fn escaped(query: &str) -> String {
    query.bytes().fold(String::new(), |mut text, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' => text.push(byte.into()),
            _ => write!(text, "%{byte:02X}").unwrap(),
        }
        text
    })
}

struct Prometheus {
    address: SocketAddr,
    child: Child,
    _dir: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// With the alerts of `deploy/`, scraping each second.
    fn start(cluster: &Cluster) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let alerts = root().join("deploy/prometheus/alerts.yaml");
        let jobs: Vec<Value> = cluster
            .scraped
            .iter()
            .map(|(job, admin)| serde_json::json!({"targets": [admin.to_string()], "labels": {"job": job}}))
            .collect();
        let config = serde_json::json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [alerts.canonicalize().unwrap()],
            "scrape_configs": [{"job_name": "darter", "static_configs": jobs}],
        });
        std::fs::write(dir.path().join("prometheus.yml"), config.to_string()).unwrap();
        // It takes no port 0 and says none.
        let address = free_address();
        let child = tool("prometheus")
            .arg(format!(
                "--config.file={}",
                dir.path().join("prometheus.yml").display()
            ))
            .arg(format!(
                "--storage.tsdb.path={}",
                dir.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=error")
            .stdout(Stdio::null())
            .spawn();
        let child = child.expect("prometheus: `cargo xtask test` installs it");
        Self {
            address,
            child,
            _dir: dir,
        }
    }

    /// How many series answer `query`; `None` while it does not answer at all.
    async fn count(&self, query: &str) -> Option<usize> {
        let target = format!("/api/v1/query?query={}", escaped(query));
        let answer = get(self.address, &target, &[]).await.ok()?;
        let body: Value = serde_json::from_slice(&answer.body).ok()?;
        assert_eq!(body["status"], "success", "{query}: {body}");
        Some(body["data"]["result"].as_array().unwrap().len())
    }
}

#[test]
fn alerts_go_off_when_they_must_and_only_then() {
    let folder = root().join("deploy/prometheus");
    for arguments in [
        ["check", "rules", "alerts.yaml"],
        ["test", "rules", "alerts-test.yaml"],
    ] {
        let output = tool("promtool").args(arguments).current_dir(&folder).output();
        let output = output.expect("promtool: `cargo xtask test` installs it");
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(output.status.success(), "{}", said.concat());
    }
    let (rules, tests) = (
        read("deploy/prometheus/alerts.yaml"),
        read("deploy/prometheus/alerts-test.yaml"),
    );
    for rule in rules.split("- alert: ").skip(1) {
        let (alert, rest) = rule.split_once('\n').unwrap();
        let times = |pattern: String| tests.matches(&pattern).count();
        let tried = times(format!("alertname: {alert}\n        exp_alerts:\n"));
        let healthy = times(format!("{{ eval_time: 80m, alertname: {alert} }}"));
        let quiet = times(format!(", alertname: {alert} }}"));
        assert!(tried > 0 && healthy > 0, "{alert} is not tested both ways");
        assert!(
            quiet > healthy || !rest.contains("        for: "),
            "{alert} is not tested before it has lasted"
        );
        assert!(
            read("docs/operate/monitor.md").contains(alert),
            "{alert} is not in monitor.md"
        );
    }
}

/// The page of all metrics.
fn page(metrics: &BTreeMap<String, (String, String)>) -> String {
    let mut page = String::from(
        "# Metrics\n\nAll that roles show at `/metrics`; a test makes this page from roles that run. A family whose labels are \
         not known before something happens\nappears with its first event. What to look at first is in [monitor](monitor.md).\n\n\
         | Metric | Kind | What |\n|---|---|---|\n",
    );
    for (name, (kind, help)) in metrics {
        writeln!(page, "| `{name}` | {kind} | {} |", help.replace('|', "\\|")).unwrap();
    }
    page
}

fn add_rare(metrics: &mut BTreeMap<String, (String, String)>) {
    for role in HAVE_CERTIFICATES {
        for (registered, suffix, kind) in WITH_CERTIFICATES {
            let described = (kind.to_owned(), help_in(IDENTITY, registered));
            let known = metrics.insert(format!("darter_{role}_{registered}{suffix}"), described);
            assert!(known.is_none(), "{role} shows {registered} without certificates");
        }
    }
    for (name, kind, registered, file) in RARE {
        let help = help_in(file, registered);
        metrics
            .entry(name.to_owned())
            .or_insert_with(|| (kind.to_owned(), help));
    }
}

/// Files of Rust below a folder.
fn sources(folder: &Path, all: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push(path);
        }
    }
}

/// Nothing that is registered anywhere is left out.
fn all_are_there(metrics: &BTreeMap<String, (String, String)>) {
    let mut files = Vec::new();
    for folder in SOURCES {
        sources(&root().join(folder), &mut files);
    }
    let mut found = 0;
    for file in files {
        let source = std::fs::read_to_string(&file).unwrap();
        let program = source.split("#[cfg(test)]").next().unwrap_or_default();
        let calls = program
            .split(".register(")
            .skip(1)
            .chain(program.split(".register_with_unit(").skip(1));
        let names = calls.filter_map(|call| call.trim_start().strip_prefix('"')?.split('"').next());
        for name in names {
            found += 1;
            let listed = metrics.keys().any(|key| {
                let prefixes = [
                    "darter_proxy_",
                    "darter_scheduler_",
                    "darter_manager_",
                    "darter_snapshotter_",
                    "",
                ];
                let suffixes = ["_total", "_bytes_total", "_seconds", "_bytes", "_info", ""];
                let mut keys = prefixes.iter().filter_map(|prefix| key.strip_prefix(prefix));
                keys.any(|key| {
                    suffixes
                        .iter()
                        .any(|suffix| key.strip_suffix(suffix) == Some(name))
                })
            });
            assert!(
                listed,
                "{}: {name} is not in docs/operate/metrics.md",
                file.display()
            );
        }
    }
    assert!(found > 60, "{found}");
}

/// Nothing that no role has.
fn dashboards_and_alerts_name(metrics: &BTreeMap<String, (String, String)>) {
    let boards = LIVE.into_iter().chain(["bridge"]);
    let boards = boards.map(|name| format!("deploy/grafana/{name}.json"));
    for file in boards.chain(["deploy/prometheus/alerts.yaml".to_owned()]) {
        for name in names(&read(&file)) {
            assert!(metrics.contains_key(&name), "{file}: no role has {name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_answers_every_question_of_the_dashboards() {
    let mut cluster = Cluster::start().await;
    cluster.work().await;
    let prometheus = Prometheus::start(&cluster);
    let mut open: Vec<(String, String)> = LIVE.into_iter().flat_map(questions).collect();
    open.retain(|(_, query)| !MAY_BE_EMPTY.iter().any(|name| query.contains(name)));
    let begun = tokio::time::Instant::now();
    while !open.is_empty() {
        assert!(begun.elapsed() < LONG, "no data for {open:#?}");
        cluster.work().await;
        let mut left = Vec::new();
        for (title, query) in open {
            if prometheus.count(&filled(&query)).await.unwrap_or(0) == 0 {
                left.push((title, query));
            }
        }
        open = left;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // Nothing is wrong with this cluster, and all of it was scraped.
    assert_eq!(prometheus.count("up == 1").await, Some(cluster.scraped.len()));
    assert_eq!(prometheus.count("ALERTS{alertstate=\"firing\"}").await, Some(0));
    for query in questions("bridge") {
        prometheus.count(&filled(&query.1)).await.unwrap();
    }

    let mut metrics = cluster.metrics().await;
    add_rare(&mut metrics);
    all_are_there(&metrics);
    dashboards_and_alerts_name(&metrics);
    let path = root().join("docs/operate/metrics.md");
    if std::env::var_os("DARTER_BLESS").is_some() {
        std::fs::write(&path, page(&metrics)).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        written,
        page(&metrics),
        "DARTER_BLESS=1 writes docs/operate/metrics.md anew"
    );
}
