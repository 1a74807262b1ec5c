//! Connections to other nodes, kept while they are of use.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use darter_service::net::Network;
use darter_service::supervise::Tasks;
use darter_service::tls::TlsConnector;
use darter_types::HostId;
use http_body_util::Empty;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::time::timeout;

use super::Remote;

/// One connection that takes the next request.
pub(super) type Connection = SendRequest<Empty<Bytes>>;

/// Nodes whose idle connections are kept; beyond that, connections are closed after use.
const NODES_MAX: usize = 1024;

/// Why there is no connection.
#[derive(Debug, Error)]
pub(super) enum ConnectError {
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("it did not prove to be the node that it was said to be: {0}")]
    Tls(std::io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

/// Connections by node. A node is its address and its name: what one proved to be, another is not.
type Idle = BTreeMap<(String, HostId), Vec<Connection>>;

#[derive(Debug)]
pub(super) struct Pool {
    network: Arc<dyn Network>,
    tls: Option<TlsConnector>,
    tasks: Tasks,
    connect_timeout: Duration,
    idle_max: usize,
    idle: Mutex<Idle>,
}

impl Pool {
    pub(super) fn new(
        network: Arc<dyn Network>,
        tls: Option<TlsConnector>,
        tasks: Tasks,
        connect_timeout: Duration,
        idle_max: usize,
    ) -> Self {
        Self {
            network,
            tls,
            tasks,
            connect_timeout,
            idle_max,
            idle: Mutex::default(),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that is free now, or a new one. The flag says whether it was used before.
    pub(super) async fn take(&self, remote: Remote<'_>) -> Result<(Connection, bool), ConnectError> {
        if let Some(connection) = self.take_idle(remote) {
            return Ok((connection, true));
        }
        let connect = async {
            let mut stream = self.network.connect(remote.address).await?;
            if let Some(tls) = &self.tls {
                let name = remote.host.as_str();
                stream = tls.connect(name, stream).await.map_err(ConnectError::Tls)?;
            }
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            Ok::<_, ConnectError>((sender, connection))
        };
        let (sender, connection) = timeout(self.connect_timeout, connect)
            .await
            .map_err(|_| ConnectError::Timeout(self.connect_timeout))??;
        self.tasks.spawn("connection to a peer", async move {
            // Its user sees the error on the request.
            let _ = connection.await;
        });
        Ok((sender, false))
    }

    fn take_idle(&self, remote: Remote<'_>) -> Option<Connection> {
        let (mut idle, node) = (self.idle(), key(remote));
        let connections = idle.get_mut(&node)?;
        connections.retain(SendRequest::is_ready);
        let connection = connections.pop();
        if connections.is_empty() {
            idle.remove(&node);
        }
        connection
    }

    /// Gives a connection back whose answer was read to its end.
    pub(super) fn give_back(&self, remote: Remote<'_>, connection: Connection) {
        let (mut idle, node) = (self.idle(), key(remote));
        if connection.is_closed() || (idle.len() >= NODES_MAX && !idle.contains_key(&node)) {
            return;
        }
        let connections = idle.entry(node).or_default();
        if connections.len() < self.idle_max {
            connections.push(connection);
        }
    }
}

fn key(remote: Remote<'_>) -> (String, HostId) {
    (remote.address.to_owned(), remote.host.clone())
}
