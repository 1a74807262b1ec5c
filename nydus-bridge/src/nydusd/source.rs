//! Where nydus-snapshotter keeps the backend of an image's configuration, secrets included, when it writes none into the
//! configuration itself (`enable_backend_source`): behind a socket of its own.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_service::net::Address;
use darter_service::supervise::Tasks;
use thiserror::Error;

use crate::blob::{BlobError, Client, Patience};

use super::config::CONFIG_BYTES_MAX;

/// Where the path of the request begins.
const API: &str = "/api/";
/// How long the snapshotter may take for an answer, with all attempts.
const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(1),
    silence: Duration::from_secs(2),
    total: Duration::from_secs(3),
};

/// A socket, and what to ask there: `/run/containerd-nydus/system.sock/api/v1/daemons/ID/backend`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSource {
    socket: PathBuf,
    target: String,
}

/// It is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("backends are asked for at sockets of this machine alone: /path/of/a.sock/api/v1/daemons/ID/backend")]
pub struct BackendSourceError;

impl FromStr for BackendSource {
    type Err = BackendSourceError;

    fn from_str(text: &str) -> Result<Self, BackendSourceError> {
        let text = text.strip_prefix("unix:").unwrap_or(text);
        let text = text.strip_prefix("//").unwrap_or(text);
        let at = text.find(API).ok_or(BackendSourceError)?;
        let (socket, target) = text.split_at(at);
        let is_target = target.bytes().all(|byte| byte.is_ascii_graphic());
        if !socket.starts_with('/') || !is_target {
            return Err(BackendSourceError);
        }
        Ok(Self {
            socket: socket.into(),
            target: target.to_owned(),
        })
    }
}

impl BackendSource {
    /// Asks once.
    pub(super) async fn ask(&self, tasks: &Tasks) -> Result<Bytes, BlobError> {
        let client = Arc::new(Client::new(
            Address::Unix(self.socket.clone()),
            PATIENCE,
            tasks.clone(),
        ));
        client.get(&self.target, CONFIG_BYTES_MAX as u64).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_what_comes_before_the_request() {
        let path = "/run/containerd-nydus/system.sock/api/v1/daemons/d1/backend";
        for text in [path.to_owned(), format!("unix:{path}"), format!("unix://{path}")] {
            let source: BackendSource = text.parse().unwrap();
            assert_eq!(source.socket, PathBuf::from("/run/containerd-nydus/system.sock"));
            assert_eq!(source.target, "/api/v1/daemons/d1/backend");
        }
        for wrong in [
            "",
            "http://127.0.0.1:1/api/v1/daemons/x/backend",
            "/run/system.sock",
            "/api/v1/x",
            "/s/api/v1 x",
        ] {
            assert!(wrong.parse::<BackendSource>().is_err(), "{wrong}");
        }
    }
}
