//! Two tenants and two registries on one node: what one was given in confidence, the other does not get by naming it,
//! neither while it comes in nor while a part of it lies in the store; and no credential leaves for another registry.

#![expect(clippy::unwrap_used, reason = "a test says what went wrong by its line")]

#[path = "support/lonely.rs"]
mod lonely;

use std::time::Duration;

use darter_proxy::app::Node;
use darter_service::config::Period;
use darter_service::supervise::Tasks;
use darter_testkit::client::{End, Response, get};
use darter_testkit::content::Content;
use darter_testkit::origin::{Access, Fault, Match, Origin, RunningOrigin, When};
use http::Method;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use lonely::{Lonely, lonely};

const ALICE: (&str, &str) = ("authorization", "Bearer alice-token");
const LENGTH: u64 = 3_000_001;
/// How much of a content comes before its registry falls silent: several pieces.
const PART: u64 = 1_500_000;

struct World {
    /// Has a private repository, which Alice may read.
    ours: Origin,
    /// Says yes to everything.
    hostile: Origin,
    node: Node,
    metrics: Registry,
    stop: CancellationToken,
    tasks: Tasks,
    _running: [RunningOrigin; 2],
    _dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let (ours, hostile) = (Origin::new(), Origin::new());
        let running = [
            ours.spawn_on_loopback().await.unwrap(),
            hostile.spawn_on_loopback().await.unwrap(),
        ];
        let registries = [("ours.test", &running[0]), ("hostile.test", &running[1])];
        let dir = tempfile::tempdir().unwrap();
        let mut metrics = Registry::default();
        let Lonely { node, stop, tasks } = lonely(dir.path(), &registries, &mut metrics, |config| {
            config.origin.silence_timeout = Period::secs(2);
        })
        .await;
        Self {
            ours,
            hostile,
            node,
            metrics,
            stop,
            tasks,
            _running: running,
            _dir: dir,
        }
    }

    /// A private content, and another one of the same name and length at the registry that says yes to everything.
    fn private(&self) -> (String, Content) {
        let content = Content::generated(1, LENGTH);
        let digest = self.ours.add_blob("secret", content.clone());
        self.ours.set_access("secret", Access::Bearer { public: false });
        self.ours.add_user("alice", "pw");
        self.ours.allow("secret", "alice");
        self.ours.add_token(
            "alice-token",
            Some("alice"),
            &["secret"],
            Duration::from_secs(300),
        );
        self.hostile
            .add_blob_as("secret", &digest, Content::generated(9, LENGTH));
        (digest, content)
    }

    async fn get(&self, digest: &str, registry: &str, headers: &[(&str, &str)]) -> Response {
        self.get_from("secret", digest, registry, headers).await
    }

    async fn get_from(
        &self,
        repository: &str,
        digest: &str,
        registry: &str,
        headers: &[(&str, &str)],
    ) -> Response {
        let target = format!("/v2/{repository}/blobs/{digest}?ns={registry}");
        get(self.node.mirror_address.parse().unwrap(), &target, headers)
            .await
            .unwrap()
    }

    fn pulls_running(&self) -> bool {
        !darter_service::metrics::encode(&self.metrics).contains("darter_proxy_pulls_running 0\n")
    }

    async fn stop(self) {
        self.stop.cancel();
        self.tasks.shut_down(Duration::from_secs(5)).await;
    }
}

/// Waits for something that another task brings about.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), wait).await;
    assert!(waited.is_ok(), "never: {what}");
}

#[tokio::test]
async fn what_comes_in_for_one_tenant_is_not_joined_by_another_registrys() {
    let world = World::new().await;
    let (digest, content) = world.private();
    let stall = Fault::Stall { at: PART };
    world
        .ours
        .inject(Match::digest(&digest).get(), When::Always, stall);
    let stolen = async {
        until("a part", || world.ours.bytes_sent_for(&digest) >= PART).await;
        world.get(&digest, "hostile.test", &[]).await
    };
    let stolen = tokio::select! {
        answer = world.get(&digest, "ours.test", &[ALICE]) => panic!("it came whole: {answer:?}"),
        stolen = stolen => stolen,
    };
    assert_eq!(stolen.status, 503, "a running pull was joined");

    // Alice has left. What is left of her pull opens nothing either.
    world.ours.heal_all();
    let refuse = world
        .ours
        .inject(Match::digest(&digest).get(), When::Always, Fault::status(500));
    until("the pull ends", || !world.pulls_running()).await;
    let stolen = world.get(&digest, "hostile.test", &[]).await;
    assert_eq!(stolen.status, 503, "a part in the store was opened");

    // For those who were sent by its registry it is of use.
    world.ours.heal(refuse);
    world.ours.reset_counters();
    let answer = world.get(&digest, "ours.test", &[ALICE]).await;
    assert_eq!((answer.status, answer.end), (200, End::Complete));
    assert!(answer.body == content.read(0..LENGTH), "wrong bytes");
    assert!(
        world.ours.bytes_sent_for(&digest) < LENGTH,
        "the part was thrown away"
    );
    assert_eq!(world.get(&digest, "ours.test", &[]).await.status, 401);
    assert_eq!(world.get(&digest, "hostile.test", &[]).await.status, 502);
    world.stop().await;
}

#[tokio::test]
async fn who_joined_a_pull_is_asked_for_at_a_place_of_his_own() {
    let world = World::new().await;
    let (digest, content) = world.private();
    world.ours.add_blob("team", content.clone());
    world.ours.set_access("team", Access::Bearer { public: false });
    world.ours.add_user("carol", "pw");
    world.ours.allow("team", "carol");
    let life = Duration::from_secs(300);
    world
        .ours
        .add_token("carol-token", Some("carol"), &["team"], life);
    let stall = Fault::Stall { at: PART };
    let stall = world
        .ours
        .inject(Match::digest(&digest).get(), When::Always, stall);
    let carol = [("authorization", "Bearer carol-token")];
    let second = async {
        until("a part", || world.ours.bytes_sent_for(&digest) >= PART).await;
        let changes = async {
            until("a question", || world.ours.tokens_seen().contains("carol-token")).await;
            // From now on nothing comes for Alice.
            world.ours.revoke("secret", "alice");
            world.ours.heal(stall);
        };
        let answer = world.get_from("team", &digest, "ours.test", &carol);
        tokio::join!(answer, changes).0
    };
    let (_, answer) = tokio::join!(world.get(&digest, "ours.test", &[ALICE]), second);
    assert_eq!((answer.status, answer.end), (200, End::Complete));
    assert!(answer.body == content.read(0..LENGTH), "wrong bytes");
    let strayed = world.ours.count(|request| {
        let authorization = request.header("authorization").unwrap_or_default();
        request.path.starts_with("/v2/secret/") && authorization.contains("carol")
    });
    assert_eq!(strayed, 0, "her credential was shown for another repository");
    assert!(
        world.ours.bytes_sent_for(&digest) < LENGTH + PART,
        "what had come was thrown away"
    );
    world.stop().await;
}

#[tokio::test]
async fn what_never_was_where_it_was_first_asked_for_is_not_said_to_be_from_there() {
    let world = World::new().await;
    let (digest, content) = world.private();
    world.ours.set_access("own", Access::Bearer { public: false });
    world.ours.add_user("bob", "pw");
    world.ours.allow("own", "bob");
    let life = Duration::from_secs(300);
    world.ours.add_token("bob-token", Some("bob"), &["own"], life);
    let bob = [("authorization", "Bearer bob-token")];
    let text = format!(
        r#"{{"schemaVersion":2,"config":{{"digest":"{digest}","size":{LENGTH}}},"layers":[{{"digest":"{digest}","size":{LENGTH}}}]}}"#
    );
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = world.ours.add_manifest("own", None, media_type, text);
    let target = format!("/v2/own/manifests/{manifest}?ns=ours.test");
    let mirror = world.node.mirror_address.parse().unwrap();
    assert_eq!(get(mirror, &target, &bob).await.unwrap().status, 200);
    // Nobody has it here, so the manifest is enough to ask, and the registry says no.
    let own = || world.get_from("own", &digest, "ours.test", &bob);
    let first = own().await;
    assert!(first.status != 200 || first.body.is_empty(), "{first:?}");
    // What broke off is handed over for a while, whoever asks.
    let answer = loop {
        let answer = world.get(&digest, "ours.test", &[ALICE]).await;
        if answer.status != 503 {
            break answer;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((answer.status, answer.end), (200, End::Complete));
    assert!(answer.body == content.read(0..LENGTH), "wrong bytes");
    assert_eq!(own().await.status, 404, "the store opened it");
    world.stop().await;
}

#[tokio::test]
async fn a_credential_is_tried_at_no_other_registry() {
    let world = World::new().await;
    let (digest, _) = world.private();
    let stall = Fault::Stall { at: PART };
    let stall = world
        .hostile
        .inject(Match::digest(&digest).get(), When::Always, stall);
    let bait = world.get(&digest, "hostile.test", &[]);
    let victim = async {
        until("a part", || world.hostile.bytes_sent_for(&digest) >= PART).await;
        let asked = async {
            until("a question", || world.ours.tokens_seen().contains("alice-token")).await;
            // From now on it wants a credential: whose will it be shown?
            world.hostile.heal(stall);
            let wanted = Fault::status(401);
            world
                .hostile
                .inject(Match::digest(&digest).get(), When::Always, wanted);
        };
        tokio::join!(world.get(&digest, "ours.test", &[ALICE]), asked).0
    };
    let (_, answer) = tokio::join!(bait, victim);
    let whole = answer.status == 200 && answer.end == End::Complete;
    assert!(!whole, "it came whole from where it is not");
    assert!(
        world.hostile.requests_for(&Method::GET, &digest) > 1,
        "it was not asked again"
    );
    assert!(
        world.hostile.authorizations_seen().is_empty(),
        "it was shown a credential"
    );
    world.stop().await;
}
