//! tonic over a [`Network`](super::Network): a connector for clients, a stream of connections for servers.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tonic::transport::server::Connected;
use tower_service::Service;

use super::{BoxFuture, Listener, Network, PeerAddr, Stream};

/// Pause after a failed accept: the process may be out of file descriptors, which only time heals.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connects a tonic channel through a network.
#[derive(Clone, Debug)]
pub struct Connector(Arc<dyn Network>);

impl Connector {
    /// Connects through `network`.
    pub fn new(network: Arc<dyn Network>) -> Self {
        Self(network)
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<Stream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let network = Arc::clone(&self.0);
        Box::pin(async move {
            let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
            network.connect(&authority).await.map(TokioIo::new)
        })
    }
}

/// What a gRPC handler can learn of its connection.
#[derive(Clone, Copy, Debug)]
pub struct ConnectInfo {
    /// The other end, where it has an IP address.
    pub peer: Option<PeerAddr>,
}

impl Connected for Stream {
    type ConnectInfo = ConnectInfo;

    fn connect_info(&self) -> ConnectInfo {
        ConnectInfo {
            peer: self
                .as_tcp()
                .and_then(|tcp| tcp.peer_addr().ok())
                .map(PeerAddr::Ip),
        }
    }
}

/// The connections of a listener, for `serve_with_incoming`. A failed accept does not end it.
pub fn incoming(listener: Box<dyn Listener>) -> impl futures_util::Stream<Item = io::Result<Stream>> + Send {
    futures_util::stream::unfold(listener, |mut listener| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return Some((Ok(stream), listener)),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}
