//! The exchange between nodes with certificates, over real sockets: who is one is served, who is not is not heard.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on fails the test"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use darter_proxy::app::{Node, NodeParts, StartError, start};
use darter_proxy::config::{Config, NodeRole};
use darter_proxy::peer::{Route, SharePrivate};
use darter_proxy::sendfile::ZeroCopy;
use darter_service::net::{Network as _, Stream, TokioNetwork};
use darter_service::supervise::Tasks;
use darter_service::tls::{Protocol, TlsConfig, TlsConnector};
use darter_store::{DiskOptions, DiskStore};
use darter_testkit::authority::{Authority, NodeFiles};
use darter_testkit::client::get;
use darter_testkit::content::Content;
use darter_testkit::origin::{Access, Origin, RunningOrigin};
use darter_testkit::stranger::{Stranger, knock};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

/// Two authorities, and a place for a node.
struct World {
    ours: Authority,
    theirs: Authority,
    origin: Origin,
    running: RunningOrigin,
    stop: CancellationToken,
    tasks: Tasks,
    dir: tempfile::TempDir,
}

fn section(files: NodeFiles) -> TlsConfig {
    TlsConfig {
        cert_file: Some(files.cert_file),
        key_file: Some(files.key_file),
        ca_file: Some(files.ca_file),
        ..TlsConfig::default()
    }
}

fn authority(dir: &Path, name: &str) -> Authority {
    std::fs::create_dir(dir.join(name)).unwrap();
    Authority::new(&dir.join(name)).unwrap()
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let origin = Origin::new();
        Self {
            ours: authority(dir.path(), "ours"),
            theirs: authority(dir.path(), "theirs"),
            running: origin.spawn_on_loopback().await.unwrap(),
            origin,
            stop: CancellationToken::new(),
            tasks: Tasks::new(),
            dir,
        }
    }

    async fn start(&self, peer_listen: &str, tls: TlsConfig) -> Result<Node, StartError> {
        self.start_with(peer_listen, tls, |_| {}).await
    }

    async fn start_with(
        &self,
        peer_listen: &str,
        tls: TlsConfig,
        change: impl FnOnce(&mut Config),
    ) -> Result<Node, StartError> {
        let options = DiskOptions {
            dir: self.dir.path().join("store"),
            quota_bytes: u64::MAX,
            free_floor_bytes: 0,
        };
        let (store, _) = DiskStore::open(options).unwrap();
        let mut config = Config {
            tls,
            ..Config::default()
        };
        config.mirror.listen = "127.0.0.1:0".parse().unwrap();
        config.peer.listen = peer_listen.parse().unwrap();
        let registry = serde_json::json!({ "endpoint": self.running.url() });
        config.origin.registries.insert(
            "registry.test".to_owned(),
            serde_json::from_value(registry).unwrap(),
        );
        change(&mut config);
        start(NodeParts {
            config,
            host: "node".parse().unwrap(),
            network: Arc::new(TokioNetwork),
            zero_copy: ZeroCopy::new(Some(store.mappings())),
            store: Arc::new(store),
            registry: &mut Registry::default(),
            tasks: self.tasks.clone(),
            stop: self.stop.clone(),
            seed: 7,
            secret: [7; 32],
        })
        .await
    }

    async fn refuses(&self, listen: &str, tls: TlsConfig, change: impl FnOnce(&mut Config), reason: &str) {
        let Err(StartError::Tls(error)) = self.start_with(listen, tls, change).await else {
            panic!("{reason}: it started");
        };
        assert!(error.to_string().contains(reason), "{error}");
        assert!(TokioNetwork.connect(listen).await.is_err(), "the port is open");
    }

    fn connector(&self, authority: &Authority, name: &str) -> TlsConnector {
        let files = section(authority.node(name).unwrap()).files().unwrap().unwrap();
        files.connector(Protocol::Http1).unwrap()
    }
}

async fn connect(address: &str) -> Stream {
    TokioNetwork.connect(address).await.unwrap()
}

/// Everything that comes back for a request for some bytes of a content; an error is as good as nothing.
async fn ask(stream: Stream, digest: &str) -> Vec<u8> {
    ask_as(stream, digest, "").await
}

/// The same, with more headers.
async fn ask_as(mut stream: Stream, digest: &str, more: &str) -> Vec<u8> {
    let request = format!(
        "GET /v1/tasks/{digest}/pieces HTTP/1.1\r\nHost: node\r\nRange: bytes=0-262143\r\nConnection: close\r\n{more}\r\n"
    );
    let mut answer = Vec::new();
    if stream.write_all(request.as_bytes()).await.is_ok() {
        let _ = stream.read_to_end(&mut answer).await;
    }
    answer
}

#[tokio::test]
async fn pieces_go_to_nodes_with_a_certificate_and_to_nobody_else() {
    let world = World::new().await;
    let content = Content::generated(1, 1_000_000);
    let digest = world.origin.add_blob("team/app", content.clone());
    let files = section(world.ours.node("node").unwrap());
    let node = world.start("127.0.0.1:0", files).await.unwrap();
    let target = format!("/v2/team/app/blobs/{digest}?ns=registry.test");
    let answer = get(node.mirror_address.parse().unwrap(), &target, &[])
        .await
        .unwrap();
    assert_eq!(answer.status, 200);

    let other = world.connector(&world.ours, "other");
    let stream = other
        .connect("node", connect(&node.peer_address).await)
        .await
        .unwrap();
    let answer = ask(stream, &digest).await;
    assert!(answer.starts_with(b"HTTP/1.1 206"), "not served");
    assert!(answer.ends_with(&content.read(0..262_144)), "wrong bytes");

    for (name, answer) in [("other", "HTTP/1.1 206"), ("third", "HTTP/1.1 403")] {
        let stream = other.connect("node", connect(&node.peer_address).await);
        let said = ask_as(
            stream.await.unwrap(),
            &digest,
            &format!("darter-host: {name}\r\n"),
        )
        .await;
        assert!(said.starts_with(answer.as_bytes()), "{name}");
    }

    let plain = ask(connect(&node.peer_address).await, &digest).await;
    assert!(
        !plain.windows(4).any(|word| word == b"HTTP"),
        "answered in the clear"
    );
    let stranger = world.connector(&world.theirs, "other");
    assert!(
        stranger
            .connect("node", connect(&node.peer_address).await)
            .await
            .is_err(),
        "a node of another authority was believed"
    );
    // It believes the node, but has nothing to show.
    let ca = world.dir.path().join("ours/ca.pem");
    let anonymous =
        tokio_rustls::TlsConnector::from(Arc::new(darter_service::tls::client(Some(&ca)).unwrap()));
    let name = "node".try_into().unwrap();
    let answer = match anonymous.connect(name, connect(&node.peer_address).await).await {
        Ok(stream) => ask(Stream::Other(Box::new(stream)), &digest).await,
        Err(_) => Vec::new(),
    };
    assert!(answer.is_empty(), "served without a certificate");
    world.stop.cancel();
    world.tasks.shut_down(Duration::from_secs(5)).await;
}

/// All ways in, each tried by all who have no right to it.
#[tokio::test]
async fn no_route_answers_a_stranger() {
    let world = World::new().await;
    let digest = world
        .origin
        .add_blob("team/app", Content::generated(1, 1_000_000));
    let files = section(world.ours.node("node").unwrap());
    let node = world.start("127.0.0.1:0", files).await.unwrap();
    let target = format!("/v2/team/app/blobs/{digest}?ns=registry.test");
    get(node.mirror_address.parse().unwrap(), &target, &[])
        .await
        .unwrap();
    let address = (node.peer_address.parse().unwrap(), "node");
    let ca = world.dir.path().join("ours/ca.pem");
    let known = world.ours.node("other").unwrap();
    let (foreign, expired) = (
        world.theirs.node("other").unwrap(),
        world.ours.expired("other").unwrap(),
    );
    let showing = |files| Stranger::Showing { ca_file: &ca, files };
    let strangers = [
        Stranger::Plain,
        Stranger::Anonymous { ca_file: &ca },
        showing(&foreign),
        showing(&expired),
    ];
    let mut refused = 0;
    for route in Route::ALL {
        let words = format!(
            "GET /v1/tasks/{digest}/{} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n",
            route.name()
        );
        let ask = |who| knock(who, address, b"http/1.1", words.as_bytes());
        if route == Route::Pieces {
            let served = ask(showing(&known)).await;
            assert!(served.starts_with(b"HTTP/1.1 20"), "who may is not served");
        }
        for who in strangers {
            let heard = ask(who).await;
            assert!(
                !heard.windows(5).any(|word| word == b"HTTP/"),
                "{route:?} answers {who:?}"
            );
            refused += 1;
        }
    }
    assert_eq!(refused, Route::ALL.len() * strangers.len());
    world.stop.cancel();
    world.tasks.shut_down(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn files_that_cannot_be_used_open_no_port() {
    let world = World::new().await;
    let free = TokioNetwork.bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
    let listen = free.local_addr().unwrap().to_string();
    drop(free);
    let good = section(world.ours.node("node").unwrap());
    let wrong = [
        (
            "cannot be read",
            TlsConfig {
                cert_file: Some(world.dir.path().join("nothing")),
                ..good.clone()
            },
        ),
        (
            "belong together",
            TlsConfig {
                key_file: None,
                ..good.clone()
            },
        ),
        (
            "not signed by the CA",
            TlsConfig {
                ca_file: section(world.theirs.node("node").unwrap()).ca_file,
                ..good.clone()
            },
        ),
        ("expired", section(world.ours.expired("node").unwrap())),
        ("must have node", section(world.ours.node("other").unwrap())),
    ];
    for (reason, tls) in wrong {
        world.refuses(&listen, tls, |_| {}, reason).await;
    }
    let seed = |config: &mut Config| config.role = NodeRole::Seed;
    world
        .refuses(&listen, good.clone(), seed, "darter://role/seed")
        .await;
    let elsewhere = |config: &mut Config| config.peer.advertise = Some("[2001:db8::7]:4000".into());
    world
        .refuses(&listen, good, elsewhere, "must have 2001:db8::7")
        .await;
}

/// Alice's token opens it, and nobody else's.
fn private(world: &World) -> (String, Content) {
    let content = Content::generated(2, 1_000_000);
    let digest = world.origin.add_blob("secret", content.clone());
    world
        .origin
        .set_access("secret", Access::Bearer { public: false });
    world.origin.add_user("alice", "pw");
    world.origin.allow("secret", "alice");
    let life = Duration::from_secs(300);
    world
        .origin
        .add_token("alice-token", Some("alice"), &["secret"], life);
    (digest, content)
}

async fn pull_as_alice(node: &Node, digest: &str) {
    let target = format!("/v2/secret/blobs/{digest}?ns=registry.test");
    let alice = [("authorization", "Bearer alice-token")];
    let answer = get(node.mirror_address.parse().unwrap(), &target, &alice).await;
    assert_eq!(answer.unwrap().status, 200);
}

/// By which right a node asks.
fn right(registry: &str, repository: &str) -> String {
    format!("darter-registry: {registry}\r\ndarter-repository: {repository}\r\n")
}

#[tokio::test]
async fn private_pieces_go_to_nodes_that_were_sent_by_their_repository() {
    let world = World::new().await;
    let (digest, content) = private(&world);
    let files = section(world.ours.node("node").unwrap());
    let node = world.start("127.0.0.1:0", files).await.unwrap();
    pull_as_alice(&node, &digest).await;
    let other = world.connector(&world.ours, "other");
    let asked = "darter-asked: yes\r\n";
    for (right, served) in [
        (right("registry.test", "secret"), true),
        (right("hostile.test", "secret"), false),
        (right("hostile.test", "secret") + asked, false),
        // Whoever names the digest in a manifest of his own was not told by the registry that it is there.
        (right("registry.test", "own"), false),
        (right("registry.test", "own") + asked, true),
        ("darter-registry: registry.test\r\n".to_owned(), false),
        (String::new(), false),
    ] {
        let stream = other.connect("node", connect(&node.peer_address).await);
        let answer = ask_as(stream.await.unwrap(), &digest, &right).await;
        let status: &[u8] = if served { b"HTTP/1.1 206" } else { b"HTTP/1.1 404" };
        assert!(answer.starts_with(status), "{right}");
        assert_eq!(answer.ends_with(&content.read(0..262_144)), served, "{right}");
    }
    world.stop.cancel();
    world.tasks.shut_down(Duration::from_secs(5)).await;
}

/// What a node says of a content within its first words; to whom it has nothing to say it says that it lives.
async fn first_news(node: &Node, digest: &str) -> String {
    let mut stream = connect(&node.peer_address).await;
    let right = right("registry.test", "secret");
    let request = format!("GET /v1/tasks/{digest}/have HTTP/1.1\r\nHost: node\r\n{right}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut lines = tokio::io::BufReader::new(stream).lines();
    let mut said = Vec::new();
    while said.len() < 3 {
        // Heads of chunks and of the answer are not what is meant.
        let line = lines.next_line().await.unwrap().unwrap();
        let word = line.split(' ').next().unwrap_or_default();
        if ["ping", "length", "have", "elsewhere", "end"].contains(&word) {
            said.push(word.to_owned());
        }
        if word == "end" {
            break;
        }
    }
    said.join(" ")
}

#[tokio::test]
async fn without_certificates_private_pieces_stay_unless_an_operator_says_otherwise() {
    for (share, status) in [
        (SharePrivate::WithTls, "404"),
        (SharePrivate::Never, "404"),
        (SharePrivate::Always, "206"),
    ] {
        let world = World::new().await;
        let (digest, _) = private(&world);
        let change = |config: &mut Config| config.peer.share_private = share;
        let node = world
            .start_with("127.0.0.1:0", TlsConfig::default(), change)
            .await
            .unwrap();
        pull_as_alice(&node, &digest).await;
        let stream = connect(&node.peer_address).await;
        let answer = ask_as(stream, &digest, &right("registry.test", "secret")).await;
        assert!(
            answer.starts_with(format!("HTTP/1.1 {status}").as_bytes()),
            "{share:?}"
        );
        let unknown = format!("sha256:{}", "0".repeat(64));
        let news = first_news(&node, &digest).await;
        let of_nothing = first_news(&node, &unknown).await;
        assert_eq!(news == of_nothing, status == "404", "{share:?}: {news}");
        assert_eq!(news.contains("length"), status == "206", "{share:?}: {news}");
        world.stop.cancel();
        world.tasks.shut_down(Duration::from_secs(5)).await;
    }
}
