//! Connections between nodes: a plain one goes in, one with TLS and two known ends comes out.
//!
//! There is no way back: a handshake that fails is a connection that does not exist.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::ServerName;
use tokio::time::timeout;

use super::{NodeTls, TlsError};
use crate::http_server::Wrap;
use crate::net::Stream;

/// How long the other side of an accepted connection may take to prove who it is.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// What is spoken over a connection; the two are never mistaken for one another (ALPN, RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1: pieces.
    Http1,
    /// HTTP/2: gRPC.
    Http2,
}

impl Protocol {
    fn alpn(self) -> Vec<Vec<u8>> {
        match self {
            Self::Http1 => vec![b"http/1.1".to_vec()],
            Self::Http2 => vec![b"h2".to_vec()],
        }
    }
}

impl NodeTls {
    /// The accepting side. Reads the files.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub fn acceptor(&self, protocol: Protocol) -> Result<TlsWrap, TlsError> {
        let mut config = self.server()?;
        config.alpn_protocols = protocol.alpn();
        Ok(TlsWrap {
            config: Arc::new(config),
        })
    }

    /// The connecting side. Reads the files.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub fn connector(&self, protocol: Protocol) -> Result<TlsConnector, TlsError> {
        let mut config = self.client()?;
        config.alpn_protocols = protocol.alpn();
        Ok(TlsConnector {
            config: Arc::new(config),
        })
    }
}

/// Takes connections of nodes that prove who they are. Cheap to clone.
#[derive(Clone)]
pub struct TlsWrap {
    config: Arc<ServerConfig>,
}

impl TlsWrap {
    /// Shakes hands. Dropping the future closes the connection.
    ///
    /// # Errors
    /// The other side speaks no TLS 1.3, has no certificate of the CA, or takes longer than five seconds.
    pub async fn accept(&self, stream: Stream) -> io::Result<Stream> {
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(&self.config));
        let stream = timeout(HANDSHAKE, acceptor.accept(stream)).await??;
        Ok(Stream::Tls(Box::new(stream.into())))
    }
}

impl Wrap for TlsWrap {
    type Io = TokioIo<Stream>;

    #[expect(clippy::manual_async_fn, reason = "the trait names its future as Send")]
    fn wrap(&self, stream: Stream) -> impl Future<Output = io::Result<Self::Io>> + Send {
        async move { self.accept(stream).await.map(TokioIo::new) }
    }
}

impl fmt::Debug for TlsWrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsWrap").finish_non_exhaustive()
    }
}

/// Connects to nodes that prove who they are. Cheap to clone.
#[derive(Clone)]
pub struct TlsConnector {
    config: Arc<ClientConfig>,
}

impl TlsConnector {
    /// Shakes hands with the node that `name`, a DNS name or an IP address, stands for. The caller sets the time limit.
    /// Dropping the future closes the connection.
    ///
    /// # Errors
    /// The other side speaks no TLS 1.3, or has no certificate of the CA for this name. That it refuses this node is
    /// seen at the first read only.
    pub async fn connect(&self, name: &str, stream: Stream) -> io::Result<Stream> {
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "no certificate can have this name"))?;
        let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.config));
        let stream = connector.connect(name, stream).await?;
        Ok(Stream::Tls(Box::new(stream.into())))
    }
}

impl fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConnector").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
