//! Sockets, as a value: the one place where the network can be another one.
//!
//! A role is given a [`Network`] and binds and connects through it. [`TokioNetwork`] is the real one; the simulation
//! hands in its own. A TCP stream stays visible as such ([`Stream::as_tcp`]), because only it can `sendfile(2)`.

mod accept;
mod address;
mod advertise;
mod grpc;
mod limited;
mod open;
pub mod stall;
mod stream;
mod unix;
pub mod unsent;

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

use tokio::net::{TcpListener, TcpStream};

pub use accept::Acceptor;
pub use address::{Address, AddressError};
pub use advertise::advertised;
pub use grpc::{ConnectError, ConnectInfo, Connector, KeepAlive, grpc_server, incoming, secure_incoming};
pub use limited::Limited;
pub use open::{OpenError, open};
pub use stream::{AsyncIo, PeerAddr, Stream};

/// A future of a trait object's method.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Connections that the system completes before they are accepted; it allows no more than `net.core.somaxconn`. The 128 that the
/// library asks for are fewer than the clients of a node that may begin at one moment: who finds no room is heard of a second
/// later, when it has given up.
const BACKLOG: i32 = 4096;

/// Where sockets come from.
pub trait Network: Send + Sync + Debug + 'static {
    /// Listens on an address. Port 0 takes a free one ([`Listener::local_addr`] tells which).
    fn bind<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Listener>>>;

    /// Connects to `host:port`; names are resolved.
    fn connect<'a>(&'a self, authority: &'a str) -> BoxFuture<'a, io::Result<Stream>>;

    /// The addresses of `host:port`, for those who must look at them before they connect.
    fn resolve<'a>(&'a self, authority: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// A listening socket.
pub trait Listener: Send + Debug {
    /// The next connection. Cancel safe.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Stream, PeerAddr)>>;

    /// The address it listens on; an error for a unix socket.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// The operating system's sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokioNetwork;

impl Network for TokioNetwork {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the seam that everybody else goes through"
    )]
    fn bind<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            Ok(match address {
                Address::Tcp(authority) => {
                    let listener = TcpListener::bind(authority).await?;
                    rustix::net::listen(&listener, BACKLOG)?;
                    Box::new(listener) as Box<dyn Listener>
                }
                Address::Unix(path) => unix::bind(path)?,
            })
        })
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this is the seam that everybody else goes through"
    )]
    fn connect<'a>(&'a self, authority: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(async move {
            let stream = TcpStream::connect(authority).await?;
            // Pieces and control messages are written whole: waiting for more to send only adds delay.
            stream.set_nodelay(true)?;
            Ok(Stream::Tcp(stream))
        })
    }

    fn resolve<'a>(&'a self, authority: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host(authority).await?.collect()) })
    }
}

impl Listener for TcpListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Stream, PeerAddr)>> {
        Box::pin(async move {
            let (stream, address) = TcpListener::accept(self).await?;
            stream.set_nodelay(true)?;
            Ok((Stream::Tcp(stream), PeerAddr::Ip(address)))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        TcpListener::local_addr(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn echo_once(address: &Address, connect: impl AsyncFn(SocketAddr) -> io::Result<Stream>) {
        let mut listener = TokioNetwork.bind(address).await.unwrap();
        let local = listener.local_addr().unwrap();
        let (server, client) = tokio::join!(listener.accept(), connect(local));
        let (mut server, mut client) = (server.unwrap().0, client.unwrap());
        client.write_all(b"ping").await.unwrap();
        let mut buffer = [0; 4];
        server.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"ping");
        assert!(client.as_tcp().unwrap().nodelay().unwrap());
    }

    #[tokio::test]
    async fn tcp_carries_bytes_both_ways() {
        let any = "127.0.0.1:0".parse().unwrap();
        echo_once(&any, async |local| TokioNetwork.connect(&local.to_string()).await).await;
    }

    /// Nobody accepts while they all come.
    #[tokio::test]
    async fn many_connect_at_one_moment() {
        let any = "127.0.0.1:0".parse().unwrap();
        let listener = TokioNetwork.bind(&any).await.unwrap();
        let local = listener.local_addr().unwrap();
        let connect = || std::net::TcpStream::connect_timeout(&local, std::time::Duration::from_millis(900));
        let connected: Vec<_> = (0..300).map(|_| connect()).take_while(Result::is_ok).collect();
        assert_eq!(connected.len(), 300);
    }
}
