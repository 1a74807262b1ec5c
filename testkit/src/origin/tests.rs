//! Each mode of the origin, seen through a client that sees every byte: a fault that does not happen
//! is a fault of this crate.

use std::time::Duration;

use bytes::Bytes;
use http::Method;

use super::*;
use crate::client::{self, ClientError, End, RawConnection, Response};
use crate::content::{bytes_at, digest_of};

mod access;
mod correct;
mod faults;
mod simulated;
mod tls;

const REPOSITORY: &str = "library/thing";
const SEED: u64 = 42;
const LENGTH: u64 = 300_000;

/// An origin with one blob.
struct Bench {
    origin: Origin,
    running: RunningOrigin,
    digest: String,
    path: String,
}

impl Bench {
    async fn new() -> Self {
        let origin = Origin::new();
        let digest = origin.add_blob(REPOSITORY, Content::generated(SEED, LENGTH));
        let running = origin.spawn_on_loopback().await.unwrap();
        let path = format!("/v2/{REPOSITORY}/blobs/{digest}");
        Self {
            origin,
            running,
            digest,
            path,
        }
    }

    /// With a fault on all requests for the blob.
    async fn with(fault: Fault) -> Self {
        let bench = Self::new().await;
        bench
            .origin
            .inject(Match::digest(&bench.digest), When::Always, fault);
        bench
    }

    async fn try_get(&self, headers: &[(&str, &str)]) -> Result<Response, ClientError> {
        client::get(self.running.addr, &self.path, headers).await
    }

    async fn get(&self, headers: &[(&str, &str)]) -> Response {
        self.try_get(headers).await.unwrap()
    }

    async fn head(&self) -> Response {
        client::head(self.running.addr, &self.path, &[]).await.unwrap()
    }

    async fn at(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        client::get(self.running.addr, path, headers).await.unwrap()
    }

    /// A connection that gives up soon: for faults that are silent for ever.
    async fn impatient(&self) -> RawConnection {
        let connection = RawConnection::connect(self.running.addr).await.unwrap();
        let mut connection = connection.with_patience(Duration::from_millis(100));
        connection.request("GET", "x", &self.path, &[]).await.unwrap();
        connection
    }
}

fn blob() -> Vec<u8> {
    bytes_at(SEED, 0, usize::try_from(LENGTH).unwrap())
}
