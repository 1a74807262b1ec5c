//! A node that lost a part ends, so that whoever supervises the process starts it again.
#![expect(clippy::unwrap_used, reason = "a test says what went wrong by its line")]

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use darter_proxy::config::Config;
use darter_proxy::run::{RunError, RunParts, run};
use darter_service::log::{LogConfig, Setup};
use darter_service::net::{Address, BoxFuture, Listener, Network, PeerAddr, Stream, TokioNetwork};
use darter_service::notify::Notifier;
use darter_service::shutdown::Stop;
use tokio_util::sync::CancellationToken;

/// The system's network, but that one listener panics when it is told to.
#[derive(Debug)]
struct Breaking {
    address: String,
    now: CancellationToken,
}

#[derive(Debug)]
struct BreakingListener {
    inner: Box<dyn Listener>,
    now: CancellationToken,
}

impl Network for Breaking {
    fn bind<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let inner = TokioNetwork.bind(address).await?;
            if address.to_string() != self.address {
                return Ok(inner);
            }
            let now = self.now.clone();
            Ok(Box::new(BreakingListener { inner, now }) as Box<dyn Listener>)
        })
    }

    fn connect<'a>(&'a self, authority: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        TokioNetwork.connect(authority)
    }

    fn resolve<'a>(&'a self, authority: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        TokioNetwork.resolve(authority)
    }
}

impl Listener for BreakingListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Stream, PeerAddr)>> {
        Box::pin(async {
            tokio::select! {
                accepted = self.inner.accept() => accepted,
                () = self.now.cancelled() => panic!("on purpose"),
            }
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// A node whose listener at `address` breaks once all is up; what it ends with.
async fn broken(address: &str) -> Result<(), RunError> {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    // Three ways to say any port of loopback, so that each listener can be told by its address.
    config.mirror.listen = "127.0.0.1:0".parse().unwrap();
    config.peer.listen = "localhost:0".parse().unwrap();
    config.admin.listen = "127.0.0.2:0".parse().unwrap();
    config.store.dir = dir.path().join("store");
    let setup = Setup {
        config: &LogConfig::default(),
        flag: None,
        env: None,
        traces: None,
    };
    let (_, log) = setup.subscriber(io::sink, false).unwrap();
    let now = CancellationToken::new();
    let parts = RunParts {
        config,
        host: "node".parse().unwrap(),
        network: Arc::new(Breaking {
            address: address.to_owned(),
            now: now.clone(),
        }),
        log,
        stop: Stop::default(),
        notify: Notifier::none(),
        seed: 1,
        secret: [7; 32],
    };
    run(parts, |_| now.cancel()).await
}

#[tokio::test]
async fn the_end_of_a_listener_is_the_end_of_the_node() {
    for (address, name) in [
        ("127.0.0.1:0", "mirror"),
        ("localhost:0", "peer server"),
        ("127.0.0.2:0", "admin port"),
    ] {
        let ended = broken(address).await;
        let Err(RunError::Failed { component, reason }) = &ended else {
            panic!("{name}: {ended:?}");
        };
        assert_eq!((*component, reason.as_str()), (name, "it panicked: on purpose"));
    }
}
