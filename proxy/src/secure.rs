//! Certificates between nodes: what accepts and makes connections when the section `tls` names files.
//!
//! A node is known by its own name: its certificate is for it, whatever its address is, so that a node that is told where
//! another one is cannot be sent to a third. A scheduler is known by the host of the address in the configuration, and by
//! its certificate's role.

use darter_service::tls::{
    CertificateRole, Expected, NodeIdentity, Protocol, TlsConnector, TlsError, TlsWrap,
};
use darter_types::HostId;

use crate::config::{Config, NodeRole};

/// Both ends of every connection that carries pieces or control. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Secure {
    /// What the node's files say; they are followed while it runs.
    pub identity: NodeIdentity,
    /// Takes connections of other nodes.
    pub server: TlsWrap,
    /// Connects to other nodes.
    pub peers: TlsConnector,
    /// Connects to schedulers.
    pub schedulers: TlsConnector,
}

impl Secure {
    /// Reads the files; `None` when none is named.
    ///
    /// # Errors
    /// A file cannot be used, or the certificate is not one that other nodes would take for `host`, its address and role.
    pub fn load(config: &Config, host: &HostId) -> Result<Option<Self>, TlsError> {
        let Some(files) = config.tls.files()? else {
            return Ok(None);
        };
        let identity = NodeIdentity::load(files, expected(config, host))?;
        Ok(Some(Self {
            server: identity.acceptor(Protocol::Http1),
            peers: identity.connector(Protocol::Http1),
            schedulers: identity.connector(Protocol::Http2).to(CertificateRole::Scheduler),
            identity,
        }))
    }
}

/// The node's name, the host of the address that others are told, and what it acts as: schedulers refuse what the
/// certificate does not say, so it is better known at the start.
fn expected(config: &Config, host: &HostId) -> Expected {
    let advertised = config.peer.advertise.as_deref().map(host_of);
    let names = std::iter::once(host.as_str()).chain(advertised);
    let roles = match config.role {
        NodeRole::Peer => Vec::new(),
        NodeRole::Seed => vec![CertificateRole::Seed],
    };
    Expected {
        names: names.map(str::to_owned).collect(),
        roles,
    }
}

/// The host of `host:port`; an IPv6 address without its brackets.
fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_matches(['[', ']'])
}
