//! One stream at a time, by hand: what roles that are as they should be do not do.

use std::sync::atomic::Ordering;
use std::time::Duration;

use darter_proto::manager::{Instance, MemberRole, State};
use darter_proto::pb::manager::v1 as pb;
use darter_proto::pb::manager::v1::roles_client::RolesClient;
use darter_service::config::Period;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status, Streaming};

use crate::configuration::default_cluster;
use crate::home::{Caller, Home, Manager};
use crate::roles::{PATIENCE, members, until};

/// A stream that says only what it is told to.
pub(crate) struct Raw {
    said: mpsc::Sender<pb::Instance>,
    heard: Streaming<pb::Membership>,
    instance: pb::Instance,
}

impl Raw {
    /// Joins with a token's secret, and hears where it belongs.
    pub(crate) async fn open(
        manager: &Manager,
        secret: &str,
        role: MemberRole,
        address: &str,
    ) -> Result<Self, Status> {
        let instance = pb::Instance::from(Instance {
            wire_version: darter_proto::WIRE_VERSION,
            role,
            host: address.split(':').next().unwrap().parse().unwrap(),
            address: address.to_owned(),
            idc: String::new(),
            location: String::new(),
            build: "test".to_owned(),
            state: State::Serving,
            running: 0,
            refused: None,
        });
        let (said, receiver) = mpsc::channel(8);
        said.try_send(instance.clone()).unwrap();
        let outgoing = stream::unfold(receiver, |mut receiver| async move {
            let next = receiver.recv().await?;
            Some((next, receiver))
        });
        let mut request = Request::new(outgoing);
        let token = format!("Bearer {secret}").parse().unwrap();
        request.metadata_mut().insert("authorization", token);
        let endpoint = Endpoint::from_shared(format!("http://{}", manager.roles)).unwrap();
        let mut client = RolesClient::new(endpoint.connect().await.unwrap());
        let mut heard = client.join(request).await?.into_inner();
        heard.message().await?.unwrap();
        Ok(Self {
            said,
            heard,
            instance,
        })
    }

    async fn say_alive(&self) {
        self.said.send(self.instance.clone()).await.unwrap();
    }

    /// How it ends, whatever it hears until then.
    pub(crate) async fn end(&mut self) -> Status {
        let ended = timeout(PATIENCE, async {
            loop {
                match self.heard.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return Status::ok(""),
                    Err(status) => return status,
                }
            }
        });
        ended.await.expect("the stream ends")
    }
}

/// The secret of a new join token.
async fn secret(caller: &Caller<'_>, name: &str, cluster: Value) -> String {
    let new = json!({ "name": name, "cluster": cluster, "lifetime": "1h" });
    let made = caller.post("/api/v1/join-tokens", new).await.is(201);
    made["secret"].as_str().unwrap().to_owned()
}

/// Changes that it is told of are no sign of life of an instance.
pub(crate) async fn who_is_silent_is_ended_whatever_else_changes(home: &Home) {
    let silence = |config: &mut darter_manager::config::Config| config.roles.silence_max = Period::secs(3);
    let manager = Manager::start_with(home, silence).await;
    let admin = manager.admin().await;
    let secret = secret(&admin, "all", Value::Null).await;
    let mut silent = Raw::open(&manager, &secret, MemberRole::Peer, "node1:4001")
        .await
        .unwrap();
    let path = format!("/api/v1/clusters/{}/configuration", default_cluster(&admin).await);
    let changes = async {
        for replaces in 0.. {
            let document = json!({ "scheduler": { "parents": { "countMax": 2 + replaces % 30 } } });
            let change = json!({ "replaces": replaces, "document": document });
            admin.put(&path, change).await.is(200);
            sleep(Duration::from_millis(200)).await;
        }
    };
    let ended = tokio::select! {
        ended = silent.end() => ended,
        () = changes => unreachable!("changes never end"),
    };
    assert_eq!(ended.code(), Code::DeadlineExceeded, "{ended}");
    manager.stop().await;
}

/// Without a word of its instance, and without any other change.
pub(crate) async fn a_stream_ends_with_the_time_of_its_token(home: &Home) {
    let manager = Manager::start_with(home, |config| config.roles.silence_max = Period::secs(600)).await;
    let admin = manager.admin().await;
    let secret = secret(&admin, "one-hour", Value::Null).await;
    let mut node = Raw::open(&manager, &secret, MemberRole::Peer, "node1:4001")
        .await
        .unwrap();
    manager.clock.fetch_add(3_600_000, Ordering::Relaxed);
    let ended = node.end().await;
    assert_eq!(ended.code(), Code::Unauthenticated, "{ended}");
    manager.stop().await;
}

/// Who has a token of one cluster cannot take a scheduler from another by its name.
pub(crate) async fn a_token_of_one_cluster_takes_nobody_from_another(home: &Home) {
    let manager = Manager::start(home).await;
    let admin = manager.admin().await;
    let mut clusters = Vec::new();
    for name in ["berlin", "paris"] {
        let made = admin
            .post("/api/v1/clusters", json!({ "name": name }))
            .await
            .is(201);
        let secret = secret(&admin, name, made["id"].clone()).await;
        clusters.push((made["id"].as_str().unwrap().to_owned(), secret));
    }
    let [(berlin, ours), (paris, theirs)] = &clusters[..] else {
        panic!("two clusters");
    };
    let join = |secret| Raw::open(&manager, secret, MemberRole::Scheduler, "scheduler1:8002");
    let scheduler = join(ours).await.unwrap();
    until("it is written down", async || {
        members(&admin, berlin).await.len() == 1
    })
    .await;
    let refused = join(theirs).await.err().expect("it is somebody else's");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert!(refused.message().contains("another cluster"), "{refused}");
    assert_eq!(members(&admin, berlin).await.len(), 1);
    // Again by the same token: it lost its stream. Then it moves, as soon as it has ended here.
    let again = join(ours).await.unwrap();
    drop((scheduler, again));
    let mut moved = None;
    until("it may go elsewhere", async || {
        moved = join(theirs).await.ok();
        moved.is_some()
    })
    .await;
    until("it is there", async || members(&admin, paris).await.len() == 1).await;
    manager.stop().await;
}

/// Two streams of one name: when the newer one ends, the older one counts again.
pub(crate) async fn an_older_stream_takes_the_place_of_a_newer_one_that_ends(home: &Home) {
    let manager = Manager::start(home).await;
    let admin = manager.admin().await;
    let cluster = default_cluster(&admin).await;
    let secret = secret(&admin, "all", Value::Null).await;
    let join = || Raw::open(&manager, &secret, MemberRole::Peer, "node1:4001");
    let older = join().await.unwrap();
    let newer = join().await.unwrap();
    until("it is written down", async || {
        members(&admin, &cluster).await.len() == 1
    })
    .await;
    drop(newer);
    // Whoever has no stream that counts is not seen any more.
    let mut seen = 0;
    let mut gains = 0;
    until("the older one is heard of again and again", async || {
        older.say_alive().await;
        manager.clock.fetch_add(100, Ordering::Relaxed);
        let found = members(&admin, &cluster).await.remove(0);
        let now = found["seen"].as_i64().unwrap();
        gains += usize::from(now > seen);
        seen = now;
        gains > 3
    })
    .await;
    manager.stop().await;
}

/// What was seen in what is the future now does not count for as long as it takes to come there again.
pub(crate) async fn a_clock_that_is_set_back_keeps_nobody_alive(home: &Home) {
    let silence = |config: &mut darter_manager::config::Config| config.roles.silence_max = Period::secs(3);
    let manager = Manager::start_with(home, silence).await;
    let admin = manager.admin().await;
    let password = manager.password.clone().unwrap();
    let cluster = default_cluster(&admin).await;
    let secret = secret(&admin, "all", Value::Null).await;
    manager.clock.fetch_add(1_800_000, Ordering::Relaxed);
    let scheduler = Raw::open(&manager, &secret, MemberRole::Scheduler, "dead:8002")
        .await
        .unwrap();
    until("it is written down", async || {
        members(&admin, &cluster).await.len() == 1
    })
    .await;
    manager.stop().await;
    drop(scheduler);

    // Its clock begins where that of the first one began.
    let again = Manager::start_with(home, silence).await;
    let admin = again.session("admin", &password).await;
    until("it is dead", async || {
        again.clock.fetch_add(100, Ordering::Relaxed);
        members(&admin, &cluster).await[0]["healthy"] == false
    })
    .await;
    let node = Raw::open(&again, &secret, MemberRole::Peer, "node1:4001");
    drop(node.await.unwrap());
    again.stop().await;
}
