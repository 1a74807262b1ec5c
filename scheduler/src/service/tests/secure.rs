//! Streams of nodes that prove who they are, and of others.

use darter_service::net::Connector;
use darter_service::tls::{CertificateRole, Protocol, TlsConfig, TlsConnector};
use darter_testkit::authority::{Authority, NodeFiles};
use darter_testkit::stranger::{Stranger, knock};
use tonic::client::GrpcService;
use tonic::transport::{Channel, Endpoint};

use super::*;
use crate::app::AppError;

fn config(files: NodeFiles) -> TlsConfig {
    TlsConfig {
        cert_file: Some(files.cert_file),
        key_file: Some(files.key_file),
        ca_file: Some(files.ca_file),
        ..TlsConfig::default()
    }
}

fn connector(authority: &Authority, name: &str) -> TlsConnector {
    let files = config(authority.node(name).unwrap()).files().unwrap().unwrap();
    files.connector(Protocol::Http2).unwrap()
}

async fn channel(address: &str, tls: Option<TlsConnector>) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let origin = format!("https://{address}").parse().unwrap();
    let connector = Connector::new(Arc::new(TokioNetwork), tls);
    endpoint.origin(origin).connect_with_connector(connector).await
}

/// What a node says of itself that is reached under its name.
fn says(name: &str) -> Hello {
    Hello {
        address: format!("{name}:4000"),
        role: Role::Peer,
        ..hello(name)
    }
}

/// What a node that says so is told first.
async fn greet(channel: Channel, hello: Hello) -> Result<SchedulerMessage, tonic::Status> {
    let (say, said) = mpsc::channel(64);
    say.send(NodeMessage::Hello(hello).into()).await.unwrap();
    let mut client = SchedulerClient::new(channel);
    let mut hear = client.converse(ReceiverStream::new(said)).await?.into_inner();
    let first = hear.message().await?.expect("the stream goes on");
    Ok(first.try_into().unwrap())
}

/// A scheduler with a certificate.
async fn scheduler(authority: &Authority) -> Running {
    let tls = config(
        authority
            .node_as("127.0.0.1", &[CertificateRole::Scheduler.uri()])
            .unwrap(),
    );
    start("127.0.0.1:0", |config| config.tls = tls).await
}

#[tokio::test]
async fn nodes_prove_who_they_are() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (authority, stranger) = (
        Authority::new(ours.path()).unwrap(),
        Authority::new(theirs.path()).unwrap(),
    );
    let running = scheduler(&authority).await;
    let address = &running.address;
    let node = channel(address, Some(connector(&authority, "node1")))
        .await
        .unwrap();
    let welcome = greet(node.clone(), says("node1")).await.unwrap();
    assert!(matches!(welcome, SchedulerMessage::Welcome(_)), "{welcome:?}");
    // A certificate is for one node, where it is, and as what it is.
    let elsewhere = Hello {
        address: "10.0.0.9:4000".into(),
        ..says("node1")
    };
    let seed = Hello {
        role: Role::Seed,
        ..says("node1")
    };
    for (hello, word) in [
        (says("node2"), "node2"),
        (elsewhere, "10.0.0.9"),
        (seed.clone(), "a seed"),
    ] {
        let refused = greet(node.clone(), hello).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
        assert!(refused.message().contains(word), "{refused}");
    }
    let files = config(
        authority
            .node_as("node1", &[CertificateRole::Seed.uri()])
            .unwrap(),
    );
    let files = files.files().unwrap().unwrap();
    let may = channel(address, Some(files.connector(Protocol::Http2).unwrap()))
        .await
        .unwrap();
    greet(may, seed).await.unwrap();

    for tls in [None, Some(connector(&stranger, "node1"))] {
        let refused = match channel(address, tls).await {
            Ok(channel) => greet(channel, says("node1"))
                .await
                .err()
                .map(|error| error.code()),
            Err(_) => Some(Code::Unavailable),
        };
        assert!(refused.is_some(), "a stranger was welcome");
    }
    let text = running.stop().await;
    assert!(text.contains("messages_refused_total 3"), "{text}");
}

#[tokio::test]
async fn a_node_does_not_become_a_seed_later() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path()).unwrap();
    let running = scheduler(&authority).await;
    let node = channel(&running.address, Some(connector(&authority, "node1")))
        .await
        .unwrap();
    let (say, said) = mpsc::channel(64);
    say.send(NodeMessage::Hello(says("node1")).into()).await.unwrap();
    let mut client = SchedulerClient::new(node);
    let mut hear = client
        .converse(ReceiverStream::new(said))
        .await
        .unwrap()
        .into_inner();
    hear.message().await.unwrap().expect("a welcome");
    let seed = Hello {
        role: Role::Seed,
        ..says("node1")
    };
    say.send(NodeMessage::Hello(seed).into()).await.unwrap();
    let refused = hear.message().await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    running.stop().await;
}

#[tokio::test]
async fn who_is_revoked_is_heard_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path()).unwrap();
    let list = dir.path().join("revoked");
    std::fs::write(&list, "").unwrap();
    let mut tls = config(
        authority
            .node_as("127.0.0.1", &[CertificateRole::Scheduler.uri()])
            .unwrap(),
    );
    tls.revoked_file = Some(list.clone());
    tls.reload_interval = darter_service::config::Period::millis(20);
    let running = start("127.0.0.1:0", |config| config.tls = tls).await;
    let files = config(authority.node("node1").unwrap()).files().unwrap().unwrap();
    let serial = files.load().unwrap().certificate().serial.clone();
    let node = channel(&running.address, Some(files.connector(Protocol::Http2).unwrap()))
        .await
        .unwrap();
    let (say, said) = mpsc::channel(64);
    say.send(NodeMessage::Hello(says("node1")).into()).await.unwrap();
    let mut client = SchedulerClient::new(node);
    let mut hear = client
        .converse(ReceiverStream::new(said))
        .await
        .unwrap()
        .into_inner();
    hear.message().await.unwrap().expect("a welcome");
    std::fs::write(&list, format!("{serial}\n")).unwrap();
    // Whatever it says now and then, its stream ends.
    let talk = async {
        while say.send(NodeMessage::Hello(says("node1")).into()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ended = async { while matches!(hear.message().await, Ok(Some(_))) {} };
    tokio::select! {
        () = ended => {}
        () = talk => {}
        () = tokio::time::sleep(WAIT) => panic!("a revoked node was heard for too long"),
    }
    running.stop().await;
}

#[tokio::test]
async fn files_that_cannot_be_used_open_no_port() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path()).unwrap();
    let scheduler = [CertificateRole::Scheduler.uri()];
    let good = config(authority.node_as("127.0.0.1", &scheduler).unwrap());
    let no_scheduler = config(authority.node("127.0.0.9").unwrap());
    let missing = TlsConfig {
        key_file: Some(dir.path().join("nothing")),
        ..good.clone()
    };
    let incomplete = TlsConfig {
        ca_file: None,
        ..good.clone()
    };
    let expired = config(authority.expired("127.0.0.1").unwrap());
    let network: Arc<dyn Network> = Arc::new(TokioNetwork);
    let free = network.bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
    let listen = free.local_addr().unwrap().to_string();
    drop(free);
    for (tls, advertise) in [
        (missing, ""),
        (incomplete, ""),
        (expired, ""),
        (no_scheduler, ""),
        (good, "other.test:8002"),
    ] {
        let config = Config {
            tls,
            listen: listen.clone(),
            advertise: advertise.into(),
            ..Config::default()
        };
        let outcome = App::bind(&config, &network, &mut Registry::default(), 1, 1).await;
        assert!(matches!(outcome, Err(AppError::Tls(_))), "{outcome:?}");
        assert!(network.connect(&listen).await.is_err(), "the port is open");
    }
}

/// The health service, which has no `.proto` of this project.
const HEALTH: [&str; 2] = ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"];
/// What gRPC says of a method that there is none of.
const UNIMPLEMENTED: &str = "12";

/// A call without a message, in HTTP/2: RFC 9113, with headers that RFC 7541 spells out in full.
fn call_in_the_raw(method: &str) -> Vec<u8> {
    let literal = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    // POST, https, :path, :authority, content-type, te.
    let headers = [
        vec![0x83, 0x87, 0x04],
        literal(method),
        vec![0x01],
        literal("127.0.0.1"),
        vec![0x0f, 0x10],
        literal("application/grpc"),
        vec![0x00],
        literal("te"),
        literal("trailers"),
    ]
    .concat();
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    };
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &[]),
        frame(1, 4, 1, &headers),
        frame(0, 1, 1, &[]),
        // No more: the connection may end.
        frame(7, 0, 0, &[0; 8]),
    ]
    .concat()
}

/// All ways in, each tried by all who have no right to it.
#[tokio::test]
async fn no_method_answers_a_stranger() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let authority = Authority::new(ours.path()).unwrap();
    let foreign = Authority::new(theirs.path()).unwrap().node("node1").unwrap();
    let expired = authority.expired("node1").unwrap();
    let running = scheduler(&authority).await;
    let mut node = channel(&running.address, Some(connector(&authority, "node1")))
        .await
        .unwrap();
    let ca = ours.path().join("ca.pem");
    let showing = |files| Stranger::Showing { ca_file: &ca, files };
    let strangers = [
        Stranger::Plain,
        Stranger::Anonymous { ca_file: &ca },
        showing(&foreign),
        showing(&expired),
    ];
    let address = (running.address.parse().unwrap(), "127.0.0.1");
    let (mut served, mut refused) = (0, 0);
    let methods: Vec<&str> = darter_proto::METHODS
        .iter()
        .copied()
        .filter(|method| method.starts_with("/darter.scheduler."))
        .chain(HEALTH)
        .collect();
    assert!(methods.len() > HEALTH.len());
    for &method in &methods {
        let call = http::Request::post(format!("https://{}{method}", running.address))
            .header("content-type", "application/grpc")
            .body(tonic::body::Body::empty())
            .unwrap();
        std::future::poll_fn(|cx| GrpcService::poll_ready(&mut node, cx))
            .await
            .unwrap();
        let answer = GrpcService::call(&mut node, call).await.unwrap();
        let status = answer.headers().get("grpc-status");
        assert!(
            status.is_none_or(|status| status != UNIMPLEMENTED),
            "{method} is not there"
        );
        served += 1;
        for who in strangers {
            let heard = knock(who, address, b"h2", &call_in_the_raw(method)).await;
            // At most an alert of TLS, whose records have this type.
            assert!(
                heard.is_empty() || heard[0] == 0x15,
                "{method} answers {who:?}: {heard:?}"
            );
            refused += 1;
        }
    }
    assert_eq!(served, methods.len());
    assert_eq!(refused, served * strangers.len());
    running.stop().await;
}
