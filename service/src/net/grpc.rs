//! tonic over a [`Network`](super::Network): a connector for clients, a stream of connections for servers.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls_pki_types::CertificateDer;
use tonic::transport::server::Connected;
use tower_service::Service;

use super::{BoxFuture, Listener, Network, PeerAddr, Stream};
use crate::tls::{TlsConnector, TlsWrap, check};

/// Pause after a failed accept: the process may be out of file descriptors, which only time heals.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections of a server that shake hands at the same time; further ones wait to be accepted.
const HANDSHAKES_MAX: usize = 1024;

/// Connects a tonic channel through a network.
///
/// With TLS, give the channel an address with the scheme `http` and [`Endpoint::origin`](tonic::transport::Endpoint::origin)
/// one with `https`: tonic is not to add a TLS of its own.
#[derive(Clone, Debug)]
pub struct Connector {
    network: Arc<dyn Network>,
    tls: Option<TlsConnector>,
}

impl Connector {
    /// Connects through `network`; with `tls`, to servers that prove to be the host of the channel's address.
    pub fn new(network: Arc<dyn Network>, tls: Option<TlsConnector>) -> Self {
        Self { network, tls }
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
        let Self { network, tls } = self.clone();
        Box::pin(async move {
            let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
            let stream = network.connect(&authority).await?;
            let Some(tls) = tls else {
                return Ok(TokioIo::new(stream));
            };
            // An IPv6 address stands in brackets here, and in a certificate without them.
            let name = uri.host().unwrap_or_default().trim_matches(['[', ']']);
            tls.connect(name, stream).await.map(TokioIo::new)
        })
    }
}

/// What a gRPC handler can learn of its connection.
#[derive(Clone, Debug)]
pub struct ConnectInfo {
    /// The other end, where it has an IP address.
    pub peer: Option<PeerAddr>,
    /// The certificate that it showed; `None` without TLS, where nobody proves anything.
    pub certificate: Option<CertificateDer<'static>>,
}

impl ConnectInfo {
    /// Whether the other end may call itself `name`: anything without TLS, with it what its certificate is for.
    pub fn may_be(&self, name: &str) -> bool {
        self.certificate
            .as_ref()
            .is_none_or(|certificate| check::is_for(certificate, name))
    }
}

impl Connected for Stream {
    type ConnectInfo = ConnectInfo;

    fn connect_info(&self) -> ConnectInfo {
        ConnectInfo {
            peer: self.peer_addr(),
            certificate: self.peer_certificate().cloned(),
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

/// The connections of a listener whose other ends have proved to be nodes. Handshakes do not wait for one another, and
/// one that fails is a connection that nobody hears of.
pub fn secure_incoming(
    listener: Box<dyn Listener>,
    tls: TlsWrap,
) -> impl futures_util::Stream<Item = io::Result<Stream>> + Send {
    let handshakes = FuturesUnordered::<BoxFuture<'static, io::Result<Stream>>>::new();
    futures_util::stream::unfold(
        (listener, handshakes, tls),
        |(mut listener, mut handshakes, tls)| async move {
            loop {
                tokio::select! {
                    biased;
                    Some(done) = handshakes.next(), if !handshakes.is_empty() => match done {
                        Ok(stream) => return Some((Ok(stream), (listener, handshakes, tls))),
                        Err(error) => tracing::debug!(%error, "a connection was not established"),
                    },
                    accepted = listener.accept(), if handshakes.len() < HANDSHAKES_MAX => match accepted {
                        Ok((stream, _)) => {
                            let tls = tls.clone();
                            handshakes.push(Box::pin(async move { tls.accept(stream).await }));
                        }
                        Err(error) => {
                            tracing::warn!(%error, "a connection could not be accepted");
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                        }
                    },
                }
            }
        },
    )
}
