//! Schedulers and nodes that join a manager, as they do it: by the code that they have.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use darter_proto::manager::{Instance, MemberRole, State};
use darter_service::manager::document::Document;
use darter_service::manager::{self, JoinParts, ManagerConfig, Member, saved};
use darter_service::net::TokioNetwork;
use darter_service::supervise::Tasks;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::configuration::default_cluster;
use crate::home::{Caller, Home, Manager};
use crate::streams::Raw;

/// How long something that is pushed may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What a role was told.
#[derive(Default)]
struct Heard {
    schedulers: Mutex<Vec<String>>,
    count_max: Mutex<Option<usize>>,
}

impl Member for Heard {
    fn schedulers(&self, schedulers: &[String]) {
        *self.schedulers.lock().unwrap() = schedulers.to_vec();
    }

    fn apply(&self, document: &Document) -> Result<(), String> {
        let count = document.scheduler.parents.count_max;
        if count == Some(32) {
            return Err("32 are too many here".to_owned());
        }
        *self.count_max.lock().unwrap() = count;
        Ok(())
    }
}

/// A role that runs.
pub(crate) struct Role {
    heard: Arc<Heard>,
    tasks: Tasks,
    stop: CancellationToken,
}

impl Role {
    /// Joins at `addresses` with the token in `dir`, where it also saves what it hears.
    fn start(addresses: &[&str], dir: &TempDir, role: MemberRole, address: &str) -> Self {
        let (tasks, stop) = (Tasks::new(), CancellationToken::new());
        let config = ManagerConfig {
            addresses: addresses.iter().map(ToString::to_string).collect(),
            join_token_file: Some(dir.path().join("token")),
            plain: false,
            dir: dir.path().join(address.replace(':', "-")),
        };
        let name = match role {
            MemberRole::Scheduler => "scheduler",
            _ => "proxy",
        };
        let parts = JoinParts {
            saved: saved::read(&manager::file(&config, name).unwrap()),
            config,
            network: Arc::new(TokioNetwork),
            tls: None,
            tasks: tasks.clone(),
            stop: stop.clone(),
            instance: Instance {
                wire_version: darter_proto::WIRE_VERSION,
                role,
                host: address.split(':').next().unwrap().parse().unwrap(),
                address: address.to_owned(),
                idc: "eu".to_owned(),
                location: "eu|berlin".to_owned(),
                build: "test".to_owned(),
                state: State::Serving,
                running: 0,
                refused: None,
            },
            seed: 1,
        };
        let heard = Arc::new(Heard::default());
        manager::start(parts, heard.clone());
        Self { heard, tasks, stop }
    }

    fn schedulers(&self) -> Vec<String> {
        self.heard.schedulers.lock().unwrap().clone()
    }

    fn count_max(&self) -> Option<usize> {
        *self.heard.count_max.lock().unwrap()
    }

    pub(crate) async fn end(self) {
        self.stop.cancel();
        self.tasks.shut_down(Duration::from_secs(5)).await;
    }
}

pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("{what}"));
}

/// A join token in a file of its owner alone.
async fn token(caller: &Caller<'_>, name: &str, cluster: Value) -> TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let new = json!({ "name": name, "cluster": cluster });
    let made = caller.post("/api/v1/join-tokens", new).await.is(201);
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, made["secret"].as_str().unwrap()).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    dir
}

/// Roles that run, and what their token and what they saved lie in.
pub(crate) struct Members {
    pub(crate) running: [Role; 2],
    _dir: TempDir,
}

/// A peer `node1` and a scheduler `scheduler1` in the default cluster, once both are there.
pub(crate) async fn two_that_join(manager: &Manager) -> Members {
    let admin = manager.admin().await;
    let cluster = default_cluster(&admin).await;
    let dir = token(&admin, "nodes", Value::Null).await;
    let addresses = [manager.roles.as_str()];
    let running = [
        Role::start(&addresses, &dir, MemberRole::Peer, "node1:4001"),
        Role::start(&addresses, &dir, MemberRole::Scheduler, "scheduler1:8002"),
    ];
    until("both are members", async || {
        members(&admin, &cluster).await.len() == running.len()
    })
    .await;
    Members { running, _dir: dir }
}

pub(crate) async fn members(caller: &Caller<'_>, cluster: &str) -> Vec<Value> {
    let path = format!("/api/v1/clusters/{cluster}/members");
    caller.get(&path).await.is(200).as_array().unwrap().clone()
}

/// The whole life of a node that knows the manager's address and nothing else.
pub(crate) async fn a_node_finds_its_scheduler_and_outlives_the_manager(home: &Home) {
    let manager = Manager::start(home).await;
    let admin = manager.admin().await;
    let cluster = default_cluster(&admin).await;
    let dir = token(&admin, "nodes", Value::Null).await;
    let roles = manager.roles.clone();
    // The first address answers nobody.
    let addresses = ["127.0.0.1:1", roles.as_str()];
    let node = Role::start(&addresses, &dir, MemberRole::Peer, "node1:4001");
    let scheduler = Role::start(&addresses, &dir, MemberRole::Scheduler, "scheduler1:8002");
    let expected = ["scheduler1:8002".to_owned()];
    until("the node hears of the scheduler", async || {
        node.schedulers() == expected
    })
    .await;

    let path = format!("/api/v1/clusters/{cluster}/configuration");
    let count = |replaces: i64, count: u32| {
        let document = json!({ "scheduler": { "parents": { "countMax": count } } });
        json!({ "replaces": replaces, "document": document })
    };
    admin.put(&path, count(0, 8)).await.is(200);
    until("a change arrives", async || node.count_max() == Some(8)).await;
    until("it is told back", async || {
        let members = members(&admin, &cluster).await;
        members.len() == 2
            && members.iter().all(|member| {
                member["configuration"] == json!({ "version": 1, "isNewest": true })
                    && member["healthy"] == true
            })
    })
    .await;
    let member = members(&admin, &cluster).await.remove(0);
    assert_eq!(
        (&member["id"], &member["role"], &member["idc"]),
        (&json!("proxy:node1"), &json!("peer"), &json!("eu"))
    );
    admin.put(&path, count(1, 32)).await.is(200);
    until("a refusal is told back", async || {
        let members = members(&admin, &cluster).await;
        let refused = json!({ "version": 2, "reason": "32 are too many here" });
        let configuration = json!({ "version": 1, "isNewest": false, "refused": refused });
        members
            .iter()
            .all(|member| member["configuration"] == configuration)
    })
    .await;
    assert_eq!(node.count_max(), Some(8));

    manager.stop().await;
    node.end().await;
    let again = Role::start(&addresses, &dir, MemberRole::Peer, "node1:4001");
    assert_eq!(again.schedulers(), expected);
    assert_eq!(again.count_max(), Some(8), "what ran, not what was refused");
    again.end().await;
    scheduler.end().await;
}

/// Who shows nothing, something wrong, or something that is over does not join, and a token's cluster goes before placement.
pub(crate) async fn a_token_opens_its_own_cluster_for_as_long_as_it_is_there(home: &Home) {
    let manager = Manager::start(home).await;
    let admin = manager.admin().await;
    let berlin = admin
        .post("/api/v1/clusters", json!({ "name": "berlin" }))
        .await
        .is(201)["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let dir = token(&admin, "berlin", json!(berlin)).await;
    let forged = TempDir::new().unwrap();
    std::fs::copy(dir.path().join("token"), forged.path().join("token")).unwrap();
    let mut secret = std::fs::read_to_string(forged.path().join("token")).unwrap();
    secret.push('x');
    std::fs::write(forged.path().join("token"), secret).unwrap();
    let addresses = [manager.roles.as_str()];
    let stranger = Role::start(&addresses, &forged, MemberRole::Scheduler, "stranger:8002");
    let scheduler = Role::start(&addresses, &dir, MemberRole::Scheduler, "scheduler1:8002");
    let node = Role::start(&addresses, &dir, MemberRole::Seed, "node1:4001");
    let expected = ["scheduler1:8002".to_owned()];
    until("the node hears of the scheduler", async || {
        node.schedulers() == expected
    })
    .await;
    until("both are written down", async || {
        members(&admin, &berlin).await.len() == 2
    })
    .await;
    for member in members(&admin, &berlin).await {
        assert_eq!(member["reason"], "its join token, berlin, is for it");
    }
    assert!(members(&admin, &default_cluster(&admin).await).await.is_empty());

    // It goes, and all streams that it opened.
    let secret = std::fs::read_to_string(dir.path().join("token")).unwrap();
    let mut watched = Raw::open(&manager, &secret, MemberRole::Peer, "node2:4001")
        .await
        .unwrap();
    let listed = admin.get("/api/v1/join-tokens").await.is(200);
    let token = format!("/api/v1/join-tokens/{}", listed[0]["id"].as_str().unwrap());
    admin.delete(&token).await.is(204);
    let ended = watched.end().await;
    assert_eq!(ended.code(), tonic::Code::Unauthenticated, "{ended}");
    // Nobody who had it is heard of any more.
    until("all are silent", async || {
        manager.clock.fetch_add(31_000, Ordering::Relaxed);
        let before = members(&admin, &berlin).await;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        let after = members(&admin, &berlin).await;
        before == after && after.iter().all(|member| member["healthy"] == false)
    })
    .await;
    for role in [stranger, scheduler, node] {
        role.end().await;
    }
    manager.stop().await;
}

/// A scheduler whose stream is gone is handed out until it was silent for too long, and again when it is back.
pub(crate) async fn a_silent_scheduler_is_not_handed_out_and_comes_back(home: &Home) {
    let manager = Manager::start(home).await;
    let admin = manager.admin().await;
    let dir = token(&admin, "all", Value::Null).await;
    let addresses = [manager.roles.as_str()];
    let start = |address: &str| Role::start(&addresses, &dir, MemberRole::Scheduler, address);
    let (one, other) = (start("one:8002"), start("other:8002"));
    let node = Role::start(&addresses, &dir, MemberRole::Peer, "node1:4001");
    let both = ["one:8002".to_owned(), "other:8002".to_owned()];
    until("both are known", async || node.schedulers() == both).await;
    other.end().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(node.schedulers(), both, "not at once: it may be back in a moment");
    until("one is left", async || {
        manager.clock.fetch_add(500, Ordering::Relaxed);
        node.schedulers() == both[..1]
    })
    .await;
    let other = start("other:8002");
    until("it is back", async || node.schedulers() == both).await;
    for role in [one, other, node] {
        role.end().await;
    }
    manager.stop().await;
}

/// On one Postgres: what is said to one manager is told by the other.
pub(crate) async fn a_manager_tells_what_another_one_knows(home: &Home) {
    let one = Manager::start(home).await;
    let other = Manager::start(home).await;
    let admin = one.admin().await;
    let cluster = default_cluster(&admin).await;
    let dir = token(&admin, "all", Value::Null).await;
    let scheduler = Role::start(&[one.roles.as_str()], &dir, MemberRole::Scheduler, "one:8002");
    let node = Role::start(&[other.roles.as_str()], &dir, MemberRole::Peer, "node1:4001");
    until("the scheduler is told of", async || {
        node.schedulers() == ["one:8002"]
    })
    .await;
    let document = json!({ "scheduler": { "parents": { "countMax": 7 } } });
    let path = format!("/api/v1/clusters/{cluster}/configuration");
    admin
        .put(&path, json!({ "replaces": 0, "document": document }))
        .await
        .is(200);
    until("the change arrives", async || node.count_max() == Some(7)).await;
    node.end().await;
    scheduler.end().await;
    other.stop().await;
    one.stop().await;
}
