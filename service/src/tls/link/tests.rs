//! Handshakes between nodes: who gets in, who does not, and that none waits for ever.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::http_server::{Cuts, HttpServer, Limits};
use crate::net::{Listener, Network as _, TokioNetwork, secure_incoming};
use crate::supervise::Tasks;
use crate::tls::tests::Authority;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

async fn listen() -> (Box<dyn Listener>, String) {
    let listener = TokioNetwork.bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

/// A server of `server.test` that counts what it was asked.
struct Server {
    address: String,
    asked: Arc<AtomicUsize>,
    stop: CancellationToken,
    _tasks: Tasks,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn server(authority: &Authority, connections_max: usize) -> Server {
    let (listener, address) = listen().await;
    let (tasks, stop, asked) = (
        Tasks::new(),
        CancellationToken::new(),
        Arc::<AtomicUsize>::default(),
    );
    let server = HttpServer {
        name: "test",
        limits: Limits {
            connections_max,
            ..Limits::default()
        },
        tasks: tasks.clone(),
        wrap: authority.node("server.test").acceptor(Protocol::Http1).unwrap(),
        cuts: Cuts::default(),
    };
    let count = Arc::clone(&asked);
    let handler = move |_: Request<Incoming>, _| {
        count.fetch_add(1, Ordering::Relaxed);
        async { Response::new(Full::new(Bytes::from_static(b"hello"))) }
    };
    let until = stop.clone();
    tasks.spawn(
        "server",
        async move { server.serve(listener, handler, until).await },
    );
    Server {
        address,
        asked,
        stop,
        _tasks: tasks,
    }
}

impl Server {
    async fn connect(&self) -> Stream {
        TokioNetwork.connect(&self.address).await.unwrap()
    }

    async fn ask(&self, connector: &TlsConnector) -> io::Result<String> {
        let stream = connector.connect("server.test", self.connect().await).await?;
        ask(stream).await
    }
}

async fn ask(mut stream: Stream) -> io::Result<String> {
    stream.write_all(REQUEST).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn nodes_are_served_and_nobody_else() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = server(&ours, 16).await;
    let node = ours.node("client.test").connector(Protocol::Http1).unwrap();
    assert!(server.ask(&node).await.unwrap().ends_with("hello"));
    assert_eq!(server.asked.load(Ordering::Relaxed), 1);

    let config = crate::tls::client(Some(&ours.file("ca.pem"))).unwrap();
    let anonymous = tokio_rustls::TlsConnector::from(Arc::new(config));
    let name = "server.test".try_into().unwrap();
    let answer = match anonymous.connect(name, server.connect().await).await {
        Ok(stream) => ask(Stream::Other(Box::new(stream))).await.unwrap_or_default(),
        Err(_) => String::new(),
    };
    assert!(answer.is_empty(), "no certificate was needed: {answer}");
    let stranger = theirs.node("client.test").connector(Protocol::Http1).unwrap();
    assert!(server.ask(&stranger).await.is_err(), "a stranger was served");
    let plain = ask(server.connect().await).await.unwrap_or_default();
    assert!(!plain.contains("HTTP"), "answered in the clear: {plain}");
    assert_eq!(server.asked.load(Ordering::Relaxed), 1, "a stranger was heard");
}

#[tokio::test]
async fn a_server_is_who_it_says_and_speaks_what_is_expected() {
    let ours = Authority::new();
    let server = server(&ours, 16).await;
    let node = ours.node("client.test");
    let connector = node.connector(Protocol::Http1).unwrap();
    for wrong in ["other.test", "127.0.0.1", "no name"] {
        assert!(
            connector.connect(wrong, server.connect().await).await.is_err(),
            "{wrong}"
        );
    }
    let grpc = node.connector(Protocol::Http2).unwrap();
    assert!(server.ask(&grpc).await.is_err(), "another protocol was accepted");
}

#[tokio::test]
async fn a_full_server_refuses_in_the_way_in_which_it_serves() {
    let ours = Authority::new();
    let server = server(&ours, 1).await;
    let node = ours.node("client.test").connector(Protocol::Http1).unwrap();
    let mut first = node.connect("server.test", server.connect().await).await.unwrap();
    first.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let refused = server.ask(&node).await.unwrap();
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    let plain = ask(server.connect().await).await.unwrap_or_default();
    assert!(!plain.contains("HTTP"), "refused in the clear: {plain}");
}

#[tokio::test(start_paused = true)]
async fn who_never_shakes_hands_is_given_up() {
    let (silent, accepted) = tokio::io::duplex(1024);
    let wrap = Authority::new()
        .node("server.test")
        .acceptor(Protocol::Http1)
        .unwrap();
    let error = wrap.accept(Stream::Other(Box::new(accepted))).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    drop(silent);
}

#[tokio::test]
async fn a_slow_handshake_holds_nobody_up() {
    let ours = Authority::new();
    let (listener, address) = listen().await;
    let wrap = ours.node("server.test").acceptor(Protocol::Http2).unwrap();
    let mut incoming = Box::pin(secure_incoming(listener, wrap, 8));
    let _silent = TokioNetwork.connect(&address).await.unwrap();
    let mut plain = TokioNetwork.connect(&address).await.unwrap();
    plain.write_all(REQUEST).await.unwrap();
    let connector = ours.node("client.test").connector(Protocol::Http2).unwrap();
    let client = async {
        let stream = TokioNetwork.connect(&address).await.unwrap();
        connector.connect("server.test", stream).await.unwrap()
    };
    let (accepted, client) = tokio::join!(incoming.next(), client);
    let accepted = accepted.unwrap().unwrap();
    let info = tonic::transport::server::Connected::connect_info(&accepted);
    assert!(info.may_be("client.test") && !info.may_be("other.test"));
    assert!(client.peer_identity().unwrap().may_be("server.test"));
}

#[tokio::test]
async fn requests_say_who_asks() {
    let ours = Authority::new();
    let (listener, address) = listen().await;
    let (tasks, stop) = (Tasks::new(), CancellationToken::new());
    let server = HttpServer {
        name: "test",
        limits: Limits::default(),
        tasks: tasks.clone(),
        wrap: ours.node("server.test").acceptor(Protocol::Http1).unwrap(),
        cuts: Cuts::default(),
    };
    let handler = |request: Request<Incoming>, _| async move {
        let asks = request.extensions().get::<Arc<PeerIdentity>>();
        let names = asks.map(|identity| identity.certificate().dns.join(","));
        Response::new(Full::new(Bytes::from(names.unwrap_or_default())))
    };
    let until = stop.clone();
    tasks.spawn(
        "server",
        async move { server.serve(listener, handler, until).await },
    );
    let connector = ours.node("client.test").connector(Protocol::Http1).unwrap();
    let stream = TokioNetwork.connect(&address).await.unwrap();
    let answer = ask(connector.connect("server.test", stream).await.unwrap())
        .await
        .unwrap();
    assert!(answer.ends_with("client.test"), "{answer}");
    stop.cancel();
}

#[tokio::test]
async fn who_is_no_scheduler_is_not_taken_for_one() {
    let ours = Authority::new();
    let client = ours.node("client.test").connector(Protocol::Http2).unwrap();
    for (role, taken) in [(CertificateRole::Scheduler, true), (CertificateRole::Seed, false)] {
        let files = ours.sign("server.test", |params| {
            let uri = role.uri().try_into().unwrap();
            params.subject_alt_names.push(rcgen::SanType::URI(uri));
        });
        let (mut listener, address) = listen().await;
        let wrap = files.acceptor(Protocol::Http2).unwrap();
        let serve = async {
            let (stream, _) = listener.accept().await.unwrap();
            wrap.accept(stream).await
        };
        let connect = async {
            let stream = TokioNetwork.connect(&address).await.unwrap();
            let connector = client.clone().to(CertificateRole::Scheduler);
            connector.connect("server.test", stream).await
        };
        let (_, connected) = tokio::join!(serve, connect);
        assert_eq!(connected.is_ok(), taken);
    }
}
