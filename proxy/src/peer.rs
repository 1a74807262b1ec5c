//! Between nodes: pieces over HTTP/1.1, inside TLS where certificates are configured, and the news of who has which.
//!
//! `GET /v1/tasks/<task>/pieces` with a `Range` gives bytes of pieces that are linked; `GET /v1/tasks/<task>/have` is a
//! long-lived stream of lines that says which those are ([`news`]). Both ends bound what they take from the other.

mod client;
mod fetch;
pub mod news;
mod pool;
mod rates;
mod server;
mod upload;
mod watch;

use std::time::Duration;

use darter_service::config::{ByteSize, Period};
use darter_service::net::Address;
use darter_types::HostId;
use serde::{Deserialize, Serialize};

use crate::pull::Right;

pub use client::Peers;
pub(crate) use fetch::PeerFetch;
pub use server::{PeerServer, Route, fuzz_request};
pub(crate) use watch::PeerWatch;

/// Header that names the node that asks.
pub(crate) const HOST_HEADER: &str = "darter-host";
/// Header that names the registry by whose right the content is asked for.
pub(crate) const REGISTRY_HEADER: &str = "darter-registry";
/// Header that names the repository which that right is for.
pub(crate) const REPOSITORY_HEADER: &str = "darter-repository";
/// Header that says, by being there, that the registry was asked about this very content.
pub(crate) const ASKED_HEADER: &str = "darter-asked";
/// Header of a `have` request: contents of at most so many bytes may come along in the answer.
pub(crate) const INLINE_HEADER: &str = "darter-inline";
/// Behind the path of a question for news: nothing but single pieces is wanted. Nodes that do not know it pass it over.
pub(crate) const ON_DEMAND_QUERY: &str = "?on-demand";
/// Longest content that travels with the first answer, in bytes.
pub(crate) const INLINE_BYTES_MAX: u64 = 64 * 1024;

/// A node that is asked: its connections are its own, whoever else is said to be at the same address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Remote<'a> {
    pub(crate) host: &'a HostId,
    pub(crate) address: &'a str,
    /// By which right it is asked.
    pub(crate) right: &'a Right,
}

/// Whether contents that need a credential at their registry are exchanged with other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SharePrivate {
    /// Where nodes prove who they are.
    #[default]
    WithTls,
    /// Without that too: whoever reaches the port of a node can fetch them.
    Always,
    /// Each node fetches them from the registry.
    Never,
}

impl SharePrivate {
    /// Whether they are, with certificates or without.
    pub fn applies(self, tls: bool) -> bool {
        match self {
            Self::WithTls => tls,
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// Section `peer` of the proxy's configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PeerConfig {
    /// Where other nodes reach this one's pieces.
    pub listen: Address,
    /// The address that other nodes are told, `host:port`. Without it: the address of this machine on the way to the
    /// scheduler (or, without a route, its name), and the port of `listen`.
    pub advertise: Option<String>,
    /// Connections from other nodes at the same time; further ones are refused with 503.
    pub connections_max: usize,
    /// How long another node may leave untaken what it asked for before its connection is ended: it holds one of
    /// `uploadsMax` meanwhile.
    pub stall_timeout: Period,
    /// Requests for pieces that are answered at the same time. Fewer make each piece arrive sooner, so that it can be
    /// passed on sooner.
    pub uploads_max: usize,
    /// Most bytes a second that are sent to other nodes; absent = no limit.
    pub upload_bytes_per_second_max: Option<ByteSize>,
    /// Whether contents that need a credential are exchanged too: `withTls`, `always` or `never`.
    pub share_private: SharePrivate,
    /// Most bytes a second that are sent to one other node; absent = no limit.
    pub upload_bytes_per_second_max_per_node: Option<ByteSize>,
    /// Most bytes of pieces that wait in memory until they are linked, over all contents; at least 8 MiB.
    pub buffer_bytes_max: ByteSize,
    /// Idle connections kept to each other node.
    pub idle_connections_max: usize,
    /// How long another node may stay silent before it is replaced.
    pub silence_max: Period,
    /// How long a connection to another node may take. On a full link the first packet of one is lost now and then, and
    /// sent again after a second.
    pub connect_timeout: Period,
}

impl Default for PeerConfig {
    fn default() -> Self {
        Self {
            listen: Address::Tcp("0.0.0.0:4000".to_owned()),
            advertise: None,
            connections_max: 4096,
            stall_timeout: Period::secs(10),
            uploads_max: 16,
            upload_bytes_per_second_max: None,
            share_private: SharePrivate::WithTls,
            upload_bytes_per_second_max_per_node: None,
            buffer_bytes_max: ByteSize::mib(64),
            idle_connections_max: 4,
            silence_max: Period::from(Duration::from_secs(2)),
            connect_timeout: Period::from(Duration::from_millis(1500)),
        }
    }
}
