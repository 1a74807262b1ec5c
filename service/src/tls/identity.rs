//! A node's identity, as its files have it now: read again while the role runs, believed only when all of it is good.
//!
//! What must hold: files that cannot be used change nothing but a counter and one line in the log; connections that are
//! made after a change are made with what is new; who is revoked is heard no more, on open connections either.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use rustls_pki_types::UnixTime;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::peer::{PeerIdentity, refused};
use super::{
    Certificate, Expected, Loaded, NodeTls, Protocol, Revoked, TlsConnector, TlsError, TlsWrap, read,
};
use crate::supervise::Tasks;

/// Who a node is and whom it believes. Cheap to clone; all clones change together.
#[derive(Clone, Debug)]
pub struct NodeIdentity {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    files: NodeTls,
    expected: Expected,
    current: RwLock<Arc<Loaded>>,
    revoked: RwLock<Arc<Revoked>>,
    /// Another number whenever somebody may have to be looked at again.
    generation: AtomicU64,
    /// What the files were when they were last looked at, good or not.
    seen: Mutex<Seen>,
    metrics: Metrics,
}

/// A hash of what was read, or why it could not be.
type State = Result<[u8; 32], String>;

#[derive(Debug)]
struct Seen {
    identity: State,
    revoked: State,
    told_that_it_is_over: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

#[derive(Debug, Default)]
struct Metrics {
    not_after: Gauge,
    reloads: Family<Outcome, Counter>,
    revoked: Gauge,
    refused: Counter,
}

impl NodeIdentity {
    /// Reads the files.
    ///
    /// # Errors
    /// A file that cannot be used, or a certificate that is not good for what is expected of it.
    pub fn load(files: NodeTls, expected: Expected) -> Result<Self, TlsError> {
        // First what they are, then what they say: a change in between is found at the next look.
        let seen = Seen {
            identity: identity_state(&files),
            revoked: revoked_state(&files),
            told_that_it_is_over: false,
        };
        let loaded = files.load()?;
        loaded.check(&files, &expected)?;
        let revoked = files
            .revoked_file
            .as_deref()
            .map(Revoked::read)
            .transpose()?
            .unwrap_or_default();
        let metrics = Metrics::default();
        metrics.not_after.set(loaded.certificate().not_after);
        metrics
            .revoked
            .set(i64::try_from(revoked.len()).unwrap_or(i64::MAX));
        for result in ["ok", "failed"] {
            drop(metrics.reloads.get_or_create(&Outcome { result }));
        }
        let shared = Shared {
            files,
            expected,
            current: RwLock::new(Arc::new(loaded)),
            revoked: RwLock::new(Arc::new(revoked)),
            generation: AtomicU64::new(1),
            seen: Mutex::new(seen),
            metrics,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Registers what it counts, in the registry of a role.
    pub fn register(&self, registry: &mut Registry) {
        let metrics = &self.shared.metrics;
        registry.register_with_unit(
            "tls_certificate_not_after",
            "When the time of the node's own certificate is over, in seconds since 1970",
            Unit::Seconds,
            metrics.not_after.clone(),
        );
        registry.register(
            "tls_reloads",
            "Changes of the files of the section tls, by result: failed ones changed nothing",
            metrics.reloads.clone(),
        );
        registry.register(
            "tls_revoked",
            "Certificates on the list of revoked ones",
            metrics.revoked.clone(),
        );
        registry.register(
            "tls_connections_refused",
            "Connections between nodes that ended because one side did not prove who it is, or may not any more",
            metrics.refused.clone(),
        );
    }

    /// The accepting side.
    pub fn acceptor(&self, protocol: Protocol) -> TlsWrap {
        TlsWrap::new(self.clone(), protocol)
    }

    /// The connecting side.
    pub fn connector(&self, protocol: Protocol) -> TlsConnector {
        TlsConnector::new(self.clone(), protocol)
    }

    /// What the node's own certificate says now.
    pub fn certificate(&self) -> Arc<Certificate> {
        Arc::clone(self.current().certificate())
    }

    pub(super) fn current(&self) -> Arc<Loaded> {
        Arc::clone(&self.shared.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }

    /// Whether the other end is neither revoked nor over. Its signatures were looked at by the handshake.
    pub(super) fn admits(&self, peer: &PeerIdentity) -> io::Result<()> {
        let revoked = Arc::clone(&self.shared.revoked.read().unwrap_or_else(PoisonError::into_inner));
        let reason = if revoked.has_one_of(peer.chain()) {
            "its certificate is revoked"
        } else if peer.certificate().is_over(now()) {
            "the time of its certificate is over"
        } else {
            return Ok(());
        };
        self.note_refusal();
        Err(refused(reason))
    }

    pub(super) fn note_refusal(&self) {
        self.shared.metrics.refused.inc();
    }

    /// Looks at the files every `period` until `stop`.
    pub async fn follow(self, period: Duration, tasks: Tasks, stop: CancellationToken) {
        while stop
            .run_until_cancelled(tokio::time::sleep(period))
            .await
            .is_some()
        {
            let this = self.clone();
            // A panic would be a defect of a parser: the old identity goes on.
            if let Err(error) = tasks
                .blocking("a look at certificates", move || this.look())
                .await
            {
                tracing::error!(%error, "the files of the section tls could not be looked at");
            }
        }
    }

    /// Reads the files again if they have changed. What cannot be used is told once and changes nothing.
    pub fn look(&self) {
        let shared = &*self.shared;
        let (identity, revoked) = (identity_state(&shared.files), revoked_state(&shared.files));
        let mut seen = shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.identity != identity {
            seen.identity = identity;
            seen.told_that_it_is_over = false;
            self.told(self.take_identity(), "certificate");
        }
        if seen.revoked != revoked {
            seen.revoked = revoked;
            self.told(self.take_revoked(), "list of revoked certificates");
        }
        let certificate = self.certificate();
        if certificate.is_over(now()) && !seen.told_that_it_is_over {
            seen.told_that_it_is_over = true;
            tracing::error!(
                file = %shared.files.cert_file.display(),
                "the time of the certificate is over: other nodes refuse this one until there is a new one"
            );
        }
        // Also without news: certificates of others end too.
        shared.generation.fetch_add(1, Ordering::AcqRel);
    }

    fn take_identity(&self) -> Result<(), TlsError> {
        let shared = &*self.shared;
        let loaded = shared.files.load()?;
        loaded.check(&shared.files, &shared.expected)?;
        shared.metrics.not_after.set(loaded.certificate().not_after);
        *shared.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(loaded);
        Ok(())
    }

    fn take_revoked(&self) -> Result<(), TlsError> {
        let shared = &*self.shared;
        let Some(path) = &shared.files.revoked_file else {
            return Ok(());
        };
        let revoked = Revoked::read(path)?;
        shared
            .metrics
            .revoked
            .set(i64::try_from(revoked.len()).unwrap_or(i64::MAX));
        *shared.revoked.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(revoked);
        Ok(())
    }

    fn told(&self, outcome: Result<(), TlsError>, what: &'static str) {
        let result = match &outcome {
            Ok(()) => {
                tracing::info!(what, "read again, new connections use it");
                "ok"
            }
            Err(error) => {
                tracing::error!(what, %error, "the new file cannot be used, the old one goes on");
                "failed"
            }
        };
        self.shared
            .metrics
            .reloads
            .get_or_create(&Outcome { result })
            .inc();
    }
}

/// Seconds since 1970.
fn now() -> i64 {
    i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX)
}

fn identity_state(files: &NodeTls) -> State {
    state([&files.cert_file, &files.key_file, &files.ca_file].into_iter())
}

fn revoked_state(files: &NodeTls) -> State {
    state(files.revoked_file.iter())
}

fn state<'a>(paths: impl Iterator<Item = &'a std::path::PathBuf>) -> State {
    let mut all = Sha256::new();
    for path in paths {
        // Each by itself: where one file ends and the next begins makes a difference.
        all.update(Sha256::digest(read(path).map_err(|error| error.to_string())?));
    }
    Ok(all.finalize().into())
}

#[cfg(test)]
mod tests;
