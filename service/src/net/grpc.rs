//! tonic over a [`Network`](super::Network): a connector for clients, a stream of connections for servers.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::Uri;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Server};
use tower_service::Service;

use super::limited::{Limited, LimitedAcceptor};
use super::{BoxFuture, Listener, Network, PeerAddr, Stream};
use crate::tls::{CertificateRole, PeerIdentity, TlsConnector, TlsWrap};

/// Names these servers in the log.
const NAME: &str = "grpc";
/// Connections of a server that shake hands at the same time; further ones wait to be accepted.
const HANDSHAKES_MAX: usize = 1024;
/// How often a silent connection is asked whether it lives, and how long it may take to say so.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// Streams that were opened and reset before anybody looked at them; a connection with more is ended.
const RESETS_WAITING_MAX: usize = 32;
/// Longest headers of one request, in bytes.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;

/// A server of gRPC, with the limits that all have, for as many streams of one connection at a time.
pub fn grpc_server(streams_max: u32) -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .max_concurrent_streams(streams_max)
        .http2_max_pending_accept_reset_streams(Some(RESETS_WAITING_MAX))
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
}

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

/// How the connection of a stream that lasts is watched: a server that vanished without a word is noticed.
#[derive(Clone, Copy, Debug)]
pub struct KeepAlive {
    /// How long connecting may take.
    pub connect: Duration,
    /// How often the server is asked whether it lives.
    pub every: Duration,
    /// How long it may take to say so.
    pub answer: Duration,
}

/// Why there is no channel.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// It cannot be reached, with all that is known of why.
    #[error("{}", causes(.0))]
    Transport(#[from] tonic::transport::Error),
    /// The address is not `host:port`.
    #[error("{0}: the address is none that can be connected to")]
    Address(#[from] http::Error),
}

/// An error of the transport says nothing of why, but its causes do.
fn causes(error: &tonic::transport::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

impl Connector {
    /// A channel to `host:port` for a stream that lasts.
    ///
    /// # Errors
    /// The address is none, or nobody answers there as they should within `keep_alive.connect`.
    pub async fn open(self, address: &str, keep_alive: KeepAlive) -> Result<Channel, ConnectError> {
        let scheme = match self.tls {
            Some(_) => "https",
            None => "http",
        };
        let origin = Uri::builder()
            .scheme(scheme)
            .authority(address)
            .path_and_query("/")
            .build()?;
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .origin(origin)
            .connect_timeout(keep_alive.connect)
            .http2_keep_alive_interval(keep_alive.every)
            .keep_alive_timeout(keep_alive.answer)
            .keep_alive_while_idle(true);
        Ok(endpoint.connect_with_connector(self).await?)
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
    /// Who it proved to be; `None` without TLS, where nobody proves anything.
    pub identity: Option<Arc<PeerIdentity>>,
}

impl ConnectInfo {
    /// Whether the other end may call itself `name`: anything without TLS, with it what its certificate is for.
    pub fn may_be(&self, name: &str) -> bool {
        self.identity
            .as_ref()
            .is_none_or(|identity| identity.may_be(name))
    }

    /// Whether the other end may act so: anybody without TLS, with it who has a certificate for it.
    pub fn may_act_as(&self, role: CertificateRole) -> bool {
        self.identity
            .as_ref()
            .is_none_or(|identity| identity.may_act_as(role))
    }
}

impl Connected for Stream {
    type ConnectInfo = ConnectInfo;

    fn connect_info(&self) -> ConnectInfo {
        ConnectInfo {
            peer: self.peer_addr(),
            identity: self.peer_identity().cloned(),
        }
    }
}

/// The connections of a listener, for `serve_with_incoming`; at most `connections_max` at a time, further ones are
/// closed. A failed accept does not end it.
pub fn incoming(
    listener: Box<dyn Listener>,
    connections_max: usize,
) -> impl futures_util::Stream<Item = io::Result<Limited>> + Send {
    let acceptor = LimitedAcceptor::new(NAME, listener, connections_max);
    futures_util::stream::unfold(acceptor, |mut acceptor| async move {
        let (stream, place) = acceptor.accept().await;
        Some((Ok(Limited::new(stream, place)), acceptor))
    })
}

/// The connections of a listener whose other ends have proved to be nodes, as [`incoming`] bounds them. Handshakes do
/// not wait for one another, and one that fails is a connection that nobody hears of.
pub fn secure_incoming(
    listener: Box<dyn Listener>,
    tls: TlsWrap,
    connections_max: usize,
) -> impl futures_util::Stream<Item = io::Result<Limited>> + Send {
    let handshakes = FuturesUnordered::<BoxFuture<'static, io::Result<Limited>>>::new();
    let acceptor = LimitedAcceptor::new(NAME, listener, connections_max);
    futures_util::stream::unfold(
        (acceptor, handshakes, tls),
        |(mut acceptor, mut handshakes, tls)| async move {
            loop {
                tokio::select! {
                    biased;
                    Some(done) = handshakes.next(), if !handshakes.is_empty() => match done {
                        Ok(stream) => return Some((Ok(stream), (acceptor, handshakes, tls))),
                        Err(error) => tracing::debug!(%error, "a connection was not established"),
                    },
                    (stream, place) = acceptor.accept(), if handshakes.len() < HANDSHAKES_MAX => {
                        let tls = tls.clone();
                        handshakes.push(Box::pin(async move {
                            let stream = tls.accept(stream).await?;
                            Ok(Limited::new(stream, place))
                        }));
                    }
                }
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::super::TokioNetwork;
    use super::*;

    #[tokio::test]
    async fn why_nobody_is_reached_is_said() {
        let keep_alive = KeepAlive {
            connect: Duration::from_secs(10),
            every: Duration::from_secs(10),
            answer: Duration::from_secs(10),
        };
        let open = async |address: &str| {
            let connector = Connector::new(Arc::new(TokioNetwork), None);
            let opened = connector.open(address, keep_alive).await;
            opened.map(drop).unwrap_err().to_string()
        };
        let nobody = open("127.0.0.1:1").await;
        assert!(nobody.contains("refused"), "{nobody}");
        let none = open("no address").await;
        assert!(none.contains("none that can be connected to"), "{none}");
    }
}
