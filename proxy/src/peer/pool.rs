//! Connections to other nodes, kept while they are of use.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use darter_service::net::Network;
use darter_service::supervise::Tasks;
use http_body_util::Empty;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::time::timeout;

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
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

#[derive(Debug)]
pub(super) struct Pool {
    network: Arc<dyn Network>,
    tasks: Tasks,
    connect_timeout: Duration,
    idle_max: usize,
    idle: Mutex<BTreeMap<String, Vec<Connection>>>,
}

impl Pool {
    pub(super) fn new(
        network: Arc<dyn Network>,
        tasks: Tasks,
        connect_timeout: Duration,
        idle_max: usize,
    ) -> Self {
        Self {
            network,
            tasks,
            connect_timeout,
            idle_max,
            idle: Mutex::default(),
        }
    }

    fn idle(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Connection>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection that is free now, or a new one. The flag says whether it was used before.
    pub(super) async fn take(&self, address: &str) -> Result<(Connection, bool), ConnectError> {
        if let Some(connection) = self.take_idle(address) {
            return Ok((connection, true));
        }
        let connect = async {
            let stream = self.network.connect(address).await?;
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

    fn take_idle(&self, address: &str) -> Option<Connection> {
        let mut idle = self.idle();
        let connections = idle.get_mut(address)?;
        connections.retain(SendRequest::is_ready);
        let connection = connections.pop();
        if connections.is_empty() {
            idle.remove(address);
        }
        connection
    }

    /// Gives a connection back whose answer was read to its end.
    pub(super) fn give_back(&self, address: &str, connection: Connection) {
        let mut idle = self.idle();
        if connection.is_closed() || (idle.len() >= NODES_MAX && !idle.contains_key(address)) {
            return;
        }
        let connections = idle.entry(address.to_owned()).or_default();
        if connections.len() < self.idle_max {
            connections.push(connection);
        }
    }
}
