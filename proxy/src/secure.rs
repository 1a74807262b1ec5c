//! Certificates between nodes: what accepts and makes connections when the section `tls` names files.
//!
//! A node is known by its own name: its certificate is for it, whatever its address is, so that a node that is told where
//! another one is cannot be sent to a third. A scheduler is known by the host of the address in the configuration.

use darter_service::tls::{Protocol, TlsConfig, TlsConnector, TlsError, TlsWrap};
use darter_types::HostId;

/// Both ends of every connection that carries pieces or control. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Secure {
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
    /// A file cannot be used, or the certificate is not one that other nodes would take for `host`.
    pub fn load(config: &TlsConfig, host: &HostId) -> Result<Option<Self>, TlsError> {
        let Some(files) = config.files()? else {
            return Ok(None);
        };
        let secure = Self {
            server: files.acceptor(Protocol::Http1)?,
            peers: files.connector(Protocol::Http1)?,
            schedulers: files.connector(Protocol::Http2)?,
        };
        files.check_name(host.as_str())?;
        Ok(Some(secure))
    }

    /// What the peer server, the asking side and the streams to schedulers get, in this order; nothing without files.
    pub fn parts(this: Option<Self>) -> (Option<TlsWrap>, Option<TlsConnector>, Option<TlsConnector>) {
        this.map(|secure| (Some(secure.server), Some(secure.peers), Some(secure.schedulers)))
            .unwrap_or_default()
    }
}
