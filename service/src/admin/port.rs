//! The admin port as a socket: opened first, so that a taken one stops the start, and closed last, so that it shows how
//! the stop goes.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::Admin;
use crate::http_server::{Cuts, HttpServer, Limits, Plain};
use crate::net::{Address, Listener, Network, OpenError, open};
use crate::supervise::{Failure, Tasks};

/// How long answers may take to finish at the end.
const END_GRACE: Duration = Duration::from_secs(1);
/// Connections at the same time: a scraper, probes, a few people.
const CONNECTIONS_MAX: usize = 64;

/// An open port that answers nobody yet.
#[derive(Debug)]
pub struct AdminPort {
    listener: Box<dyn Listener>,
    address: String,
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
    pub async fn bind(network: &dyn Network, address: &Address) -> Result<Self, OpenError> {
        let (listener, address) = open(network, address, "the admin port").await?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        self.address.clone()
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
