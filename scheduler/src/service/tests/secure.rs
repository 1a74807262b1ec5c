//! Streams of nodes that prove who they are, and of others.

use darter_service::net::Connector;
use darter_service::tls::{Protocol, TlsConfig, TlsConnector};
use darter_testkit::authority::{Authority, NodeFiles};
use tonic::transport::{Channel, Endpoint};

use super::*;
use crate::app::AppError;

fn config(files: NodeFiles) -> TlsConfig {
    TlsConfig {
        cert_file: Some(files.cert_file),
        key_file: Some(files.key_file),
        ca_file: Some(files.ca_file),
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

/// What a node that calls itself `name` is told first.
async fn greet(channel: Channel, name: &str) -> Result<SchedulerMessage, tonic::Status> {
    let (say, said) = mpsc::channel(64);
    say.send(NodeMessage::Hello(hello(name)).into()).await.unwrap();
    let mut client = SchedulerClient::new(channel);
    let mut hear = client.converse(ReceiverStream::new(said)).await?.into_inner();
    let first = hear.message().await?.expect("the stream goes on");
    Ok(first.try_into().unwrap())
}

#[tokio::test]
async fn nodes_prove_who_they_are() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (authority, stranger) = (
        Authority::new(ours.path()).unwrap(),
        Authority::new(theirs.path()).unwrap(),
    );
    let tls = config(authority.node("127.0.0.1").unwrap());
    let running = start("127.0.0.1:0", |config| config.tls = tls).await;
    let address = &running.address;

    let node = channel(address, Some(connector(&authority, "node1")))
        .await
        .unwrap();
    let welcome = greet(node.clone(), "node1").await.unwrap();
    assert!(matches!(welcome, SchedulerMessage::Welcome(_)), "{welcome:?}");
    // A certificate is for one node.
    let refused = greet(node, "node2").await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");

    for tls in [None, Some(connector(&stranger, "node1"))] {
        let refused = match channel(address, tls).await {
            Ok(channel) => greet(channel, "node1").await.err().map(|error| error.code()),
            Err(_) => Some(Code::Unavailable),
        };
        assert!(refused.is_some(), "a stranger was welcome");
    }
    let text = running.stop().await;
    assert!(text.contains("refused_total 1"), "{text}");
}

#[tokio::test]
async fn files_that_cannot_be_used_open_no_port() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new(dir.path()).unwrap();
    let good = config(authority.node("127.0.0.1").unwrap());
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
