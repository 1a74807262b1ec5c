//! The admin port as a socket: opened first, so that a taken one stops the start, and closed last, so that it shows how
//! the stop goes.

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio_util::sync::CancellationToken;

use super::Admin;
use crate::http_server::{Cuts, HttpServer, Limits, Plain};
use crate::net::{Address, Listener, Network};
use crate::supervise::{Failure, Tasks};

/// How long answers may take to finish at the end.
const END_GRACE: Duration = Duration::from_secs(1);
/// Connections at the same time: a scraper, probes, a few people.
const CONNECTIONS_MAX: usize = 64;

/// An open port that answers nobody yet.
#[derive(Debug)]
pub struct AdminPort {
    listener: Box<dyn Listener>,
    address: Address,
}

/// The port could not be opened.
#[derive(Debug, Error)]
#[error("cannot listen on {address} for the admin port: is another process there?")]
pub struct AdminPortError {
    address: Address,
    source: std::io::Error,
}

/// An admin port that answers.
#[derive(Debug)]
pub struct AdminServer {
    tasks: Tasks,
    stop: CancellationToken,
}

impl AdminPort {
    /// Opens it.
    ///
    /// # Errors
    /// Whatever the system says.
    pub async fn bind(network: &Arc<dyn Network>, address: &Address) -> Result<Self, AdminPortError> {
        let address = address.clone();
        match network.bind(&address).await {
            Ok(listener) => Ok(Self { listener, address }),
            Err(source) => Err(AdminPortError { address, source }),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        let local = self.listener.local_addr();
        local.map_or_else(|_| self.address.to_string(), |local| local.to_string())
    }

    /// Answers from here on.
    pub fn serve(self, admin: Admin) -> AdminServer {
        let server = AdminServer {
            tasks: Tasks::new(),
            stop: CancellationToken::new(),
        };
        let http = HttpServer {
            name: "connection to the admin port",
            limits: Limits {
                connections_max: CONNECTIONS_MAX,
                ..Limits::default()
            },
            tasks: server.tasks.clone(),
            wrap: Plain,
            cuts: Cuts::default(),
        };
        let (listener, stop) = (self.listener, server.stop.clone());
        server
            .tasks
            .spawn_component("admin port", server.stop.clone(), async move {
                http.serve(listener, admin, stop).await
            });
        server
    }
}

impl AdminServer {
    /// Waits until the port is lost; for ever, if it is not. Cancel safe.
    pub async fn failed(&self) -> Failure {
        self.tasks.failed().await
    }

    /// Finishes the answers that it is at, and closes.
    pub async fn end(self) {
        self.stop.cancel();
        self.tasks.shut_down(END_GRACE).await;
    }
}
