//! Who is at the other end of a connection, for as long as it lasts.
//!
//! A handshake proves it once; [`Secured`] asks again whenever something may have changed: what is revoked, or over,
//! ends connections that are open too.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsStream;

use super::{Certificate, CertificateRole, NodeIdentity, check};
use crate::net::Stream;

/// What the other end proved.
#[derive(Clone, Debug)]
pub struct PeerIdentity {
    /// Its certificate, followed by those that lead to the CA.
    chain: Vec<CertificateDer<'static>>,
    certificate: Certificate,
}

impl PeerIdentity {
    pub(super) fn of(stream: &TlsStream<Stream>) -> io::Result<Self> {
        let chain = stream
            .get_ref()
            .1
            .peer_certificates()
            .unwrap_or_default()
            .to_vec();
        let own = chain.first().ok_or_else(|| refused("it showed no certificate"))?;
        let certificate = Certificate::read(own).map_err(|error| refused(&error.to_string()))?;
        Ok(Self { chain, certificate })
    }

    /// What its certificate says.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Whether its certificate is for `name`, a DNS name or an IP address.
    pub fn may_be(&self, name: &str) -> bool {
        self.chain.first().is_some_and(|own| check::is_for(own, name))
    }

    /// Whether its certificate lets it act so.
    pub fn may_act_as(&self, role: CertificateRole) -> bool {
        self.certificate.may_act_as(role)
    }

    pub(super) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }
}

pub(super) fn refused(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, reason.to_owned())
}

/// A connection inside TLS whose other end is known.
pub struct Secured {
    inner: TlsStream<Stream>,
    peer: Arc<PeerIdentity>,
    own: NodeIdentity,
    /// What was known when the other end was last looked at.
    seen: u64,
}

impl Secured {
    pub(super) fn new(inner: TlsStream<Stream>, own: &NodeIdentity) -> io::Result<Self> {
        let seen = own.generation();
        let peer = Arc::new(PeerIdentity::of(&inner)?);
        own.admits(&peer)?;
        Ok(Self {
            inner,
            peer,
            own: own.clone(),
            seen,
        })
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Arc<PeerIdentity> {
        &self.peer
    }

    /// The connection inside which TLS is spoken.
    pub fn transport(&self) -> &Stream {
        self.inner.get_ref().0
    }

    /// Looks again when there is news: an atomic load otherwise.
    fn still_good(&mut self) -> io::Result<()> {
        let now = self.own.generation();
        if now != self.seen {
            self.own.admits(&self.peer)?;
            self.seen = now;
        }
        Ok(())
    }
}

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not what TLS knows: there are keys in it.
        f.debug_tuple("Secured").field(self.transport()).finish()
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.still_good()?;
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.still_good()?;
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.still_good()?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.still_good()?;
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
