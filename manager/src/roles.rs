//! Where schedulers and nodes join: one gRPC stream each ([`join`]), and what all of them are told ([`directory`]).
//!
//! What must hold: who joins shows a certificate of the cluster's authority or a join token; a token comes encrypted, from this
//! machine, or where the operator allowed otherwise. An instance that is silent is not handed out. Managers with one database
//! tell the same.

pub mod directory;
mod join;

use std::io;

use darter_proto::limits::MESSAGE_BYTES_MAX;
use darter_proto::pb::manager::v1::roles_server::RolesServer;
use darter_service::net::{
    Limited, Listener, Network, OpenError, grpc_server, incoming, open, secure_incoming,
};
use darter_service::supervise::{Supervisor, Tasks};
use darter_service::tls::{CertificateRole, Expected, NodeIdentity, Protocol, TlsError};
use futures_util::stream::BoxStream;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::api::Shared;
use crate::config::RolesConfig;
use crate::store::StoreError;
use directory::Directory;
use join::Joins;

/// Streams of one connection: an instance has one.
const STREAMS_MAX: u32 = 4;

/// The port for roles, open, and what is behind it.
#[derive(Debug)]
pub(crate) struct Roles {
    listener: Box<dyn Listener>,
    pub(crate) address: String,
    identity: Option<NodeIdentity>,
    config: RolesConfig,
    directory: Directory,
    shared: Shared,
}

/// What the files of the section `tls` say, if any are named.
///
/// # Errors
/// They cannot be used.
pub(crate) fn identity(
    config: &RolesConfig,
    registry: &mut Registry,
) -> Result<Option<NodeIdentity>, TlsError> {
    let expected = Expected {
        names: Vec::new(),
        roles: vec![CertificateRole::Manager],
    };
    let Some(files) = config.tls.files()? else {
        return Ok(None);
    };
    let identity = NodeIdentity::load(files, expected)?;
    identity.register(registry.sub_registry_with_prefix("darter_manager"));
    Ok(Some(identity))
}

/// Why the port is not open.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RolesError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Roles {
    /// Opens the port, once it is known what to tell.
    pub(crate) async fn bind(
        config: &RolesConfig,
        network: &dyn Network,
        shared: &Shared,
        identity: Option<NodeIdentity>,
    ) -> Result<Self, RolesError> {
        let directory = Directory::load(shared.clone()).await?;
        let (listener, address) = open(network, &config.listen, "schedulers and nodes").await?;
        Ok(Self {
            listener,
            address,
            identity,
            config: config.clone(),
            directory,
            shared: shared.clone(),
        })
    }

    /// Adds its components to a supervisor that stops with `stop`.
    pub(crate) fn add_to(self, supervisor: &mut Supervisor, stop: &CancellationToken) {
        let joins = Joins::new(self.shared, self.directory.view(), &self.config, stop.clone());
        let (directory, until) = (self.directory, stop.clone());
        supervisor.add("directory", async move {
            directory.run(until).await;
            Ok(())
        });
        let connections: BoxStream<'static, io::Result<Limited>> = match self.identity {
            Some(identity) => {
                let (follower, until) = (identity.clone(), stop.clone());
                let interval = self.config.tls.reload_interval.into();
                supervisor.add("certificates", async move {
                    follower.follow(interval, Tasks::new(), until).await;
                    Ok(())
                });
                let wrap = identity.acceptor(Protocol::Http2);
                Box::pin(secure_incoming(self.listener, wrap, self.config.connections_max))
            }
            None => Box::pin(incoming(self.listener, self.config.connections_max)),
        };
        let service = RolesServer::new(joins)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let router = grpc_server(STREAMS_MAX).add_service(service);
        let stop = stop.clone();
        supervisor.add("roles", async move {
            router
                .serve_with_incoming_shutdown(connections, stop.cancelled_owned())
                .await?;
            Ok(())
        });
    }
}
