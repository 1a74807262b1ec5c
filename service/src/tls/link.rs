//! Connections between nodes: a plain one goes in, one with TLS and two known ends comes out.
//!
//! There is no way back: a handshake that fails is a connection that does not exist.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::time::timeout;

use super::peer::refused;
use super::{CertificateRole, Expected, NodeIdentity, NodeTls, PeerIdentity, Secured, TlsError};
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
    pub(super) fn alpn(self) -> Vec<Vec<u8>> {
        match self {
            Self::Http1 => vec![b"http/1.1".to_vec()],
            Self::Http2 => vec![b"h2".to_vec()],
        }
    }
}

impl NodeTls {
    /// The accepting side of what the files say now.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub fn acceptor(&self, protocol: Protocol) -> Result<TlsWrap, TlsError> {
        Ok(NodeIdentity::load(self.clone(), Expected::default())?.acceptor(protocol))
    }

    /// The connecting side of what the files say now.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub fn connector(&self, protocol: Protocol) -> Result<TlsConnector, TlsError> {
        Ok(NodeIdentity::load(self.clone(), Expected::default())?.connector(protocol))
    }
}

/// Takes connections of nodes that prove who they are. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TlsWrap {
    identity: NodeIdentity,
    protocol: Protocol,
}

impl TlsWrap {
    pub(super) fn new(identity: NodeIdentity, protocol: Protocol) -> Self {
        Self { identity, protocol }
    }

    /// Shakes hands. Dropping the future closes the connection.
    ///
    /// # Errors
    /// The other side speaks no TLS 1.3, has no certificate of the CA or a revoked one, or takes longer than five seconds.
    pub async fn accept(&self, stream: Stream) -> io::Result<Stream> {
        let acceptor = tokio_rustls::TlsAcceptor::from(self.identity.current().server(self.protocol));
        let stream = timeout(HANDSHAKE, acceptor.accept(stream)).await?;
        let stream = stream.inspect_err(|_| self.identity.note_refusal())?;
        Ok(Stream::Tls(Box::new(Secured::new(
            stream.into(),
            &self.identity,
        )?)))
    }
}

impl Wrap for TlsWrap {
    type Io = TokioIo<Stream>;

    fn peer(io: &Self::Io) -> Option<Arc<PeerIdentity>> {
        io.inner().peer_identity().cloned()
    }

    #[expect(clippy::manual_async_fn, reason = "the trait names its future as Send")]
    fn wrap(&self, stream: Stream) -> impl Future<Output = io::Result<Self::Io>> + Send {
        async move { self.accept(stream).await.map(TokioIo::new) }
    }
}

/// Connects to nodes that prove who they are. Cheap to clone.
#[derive(Clone, Debug)]
pub struct TlsConnector {
    identity: NodeIdentity,
    protocol: Protocol,
    role: Option<CertificateRole>,
}

impl TlsConnector {
    pub(super) fn new(identity: NodeIdentity, protocol: Protocol) -> Self {
        Self {
            identity,
            protocol,
            role: None,
        }
    }

    /// The same, to nobody whose certificate is not for `role`.
    #[must_use]
    pub fn to(self, role: CertificateRole) -> Self {
        Self {
            role: Some(role),
            ..self
        }
    }

    /// Whether this side's own certificate is for `role`.
    pub fn may_act_as(&self, role: CertificateRole) -> bool {
        self.identity.certificate().may_act_as(role)
    }

    /// Shakes hands with the node that `name`, a DNS name or an IP address, stands for. The caller sets the time limit.
    /// Dropping the future closes the connection.
    ///
    /// # Errors
    /// The other side speaks no TLS 1.3, has no certificate of the CA for this name and role, or a revoked one. That it
    /// refuses this node is seen at the first read only.
    pub async fn connect(&self, name: &str, stream: Stream) -> io::Result<Stream> {
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "no certificate can have this name"))?;
        let connector = tokio_rustls::TlsConnector::from(self.identity.current().client(self.protocol));
        let stream = connector.connect(name, stream).await;
        let stream = stream.inspect_err(|_| self.identity.note_refusal())?;
        let secured = Secured::new(stream.into(), &self.identity)?;
        match self.role {
            Some(role) if !secured.peer().may_act_as(role) => {
                self.identity.note_refusal();
                Err(refused(&format!("its certificate is not for a {role}")))
            }
            _ => Ok(Stream::Tls(Box::new(secured))),
        }
    }
}

#[cfg(test)]
mod tests;
