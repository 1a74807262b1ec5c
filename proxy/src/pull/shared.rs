//! What a pull's driver, its readers and its requests share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use darter_engine::Event;
use darter_origin::{Credentials, OriginError};
use darter_service::limit::Limiter;
use darter_store::{ContentFacts, StoredTask};
use darter_types::{ByteRange, OriginLocator, PieceLayout, RegistryName};
use tokio::sync::mpsc;

use super::availability::Availability;
use super::readers::{Readers, Registration};
use super::{PullError, PullRequest};

/// Credentials of different callers that one pull keeps.
const CREDENTIALS_MAX: usize = 4;

/// The shared part of one pull.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) availability: Arc<Availability>,
    pub(super) readers: Arc<Readers>,
    pub(super) events: mpsc::Sender<Event>,
    origin: Mutex<OriginSide>,
    /// A node that can give the content was reached: patience is worth it.
    hopeful: AtomicBool,
    complete: bool,
    /// Where it comes from; unknown for what was stored without.
    locator: Option<OriginLocator>,
    public: bool,
}

#[derive(Debug, Default)]
struct OriginSide {
    /// Tried in order; one that the origin refuses is dropped.
    credentials: Vec<Credentials>,
    error: Option<Arc<OriginError>>,
}

impl Shared {
    pub(super) fn new(request: &PullRequest, events: mpsc::Sender<Event>) -> Self {
        Self {
            availability: Arc::new(Availability::new()),
            readers: Arc::default(),
            events,
            origin: Mutex::new(OriginSide {
                credentials: vec![request.credentials.clone()],
                error: None,
            }),
            hopeful: AtomicBool::new(false),
            complete: false,
            locator: Some(request.locator.clone()),
            public: request.public,
        }
    }

    /// Of a content that is all there: no driver, nothing to wait for.
    pub(super) fn complete(stored: Arc<dyn StoredTask>) -> Self {
        let (events, _) = mpsc::channel(1);
        let ContentFacts {
            layout,
            origin,
            public,
            ..
        } = stored.facts();
        Self {
            availability: Arc::new(Availability::complete(stored, layout)),
            readers: Arc::default(),
            events,
            origin: Mutex::default(),
            hopeful: AtomicBool::new(true),
            complete: true,
            locator: origin,
            public,
        }
    }

    /// Signs a reader in, if anybody needs to know.
    pub(super) fn register(&self, range: ByteRange) -> Option<Registration> {
        (!self.complete).then(|| self.readers.register(range))
    }

    /// Waits until the length is known and the store is ready. Cancel safe.
    pub(super) async fn stored(&self) -> Result<(Arc<dyn StoredTask>, PieceLayout), PullError> {
        let mut changes = self.availability.watch();
        loop {
            changes.mark_seen();
            if let Some(ready) = self.availability.stored() {
                return Ok(ready);
            }
            if let Some(Err(error)) = self.availability.outcome() {
                return Err(error);
            }
            changes.changed().await;
        }
    }

    fn origin(&self) -> std::sync::MutexGuard<'_, OriginSide> {
        self.origin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is a content that the store holds whole.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Waits until `bytes` more may come, where nobody waits for them.
    pub(crate) async fn yield_to_readers(&self, rate: &Limiter, bytes: u64) {
        if self.readers.count() == 0 && !self.availability.has_children() {
            rate.take(bytes).await;
        }
    }

    /// Notes whether a node that can give the content was reached.
    pub(super) fn set_hopeful(&self, hopeful: bool) {
        self.hopeful.store(hopeful, Ordering::Relaxed);
    }

    /// Whether a node's answer with the content may be on its way.
    pub(super) fn is_hopeful(&self) -> bool {
        self.hopeful.load(Ordering::Relaxed)
    }

    /// The credentials to ask the origin with.
    pub(super) fn credentials(&self) -> Credentials {
        self.origin()
            .credentials
            .first()
            .cloned()
            .unwrap_or(Credentials::Anonymous)
    }

    /// Where it comes from, where that is known.
    pub(super) fn locator(&self) -> Option<&OriginLocator> {
        self.locator.as_ref()
    }

    /// Whether anybody may have it.
    pub(super) fn is_public(&self) -> bool {
        self.public
    }

    /// Another caller's credentials, should the first ones be refused. They go to the registry that they are for, or
    /// nowhere.
    pub(super) fn add_credentials(&self, registry: &RegistryName, credentials: Credentials) {
        if self.locator.as_ref().map(|locator| &locator.registry) != Some(registry) {
            return;
        }
        let mut origin = self.origin();
        let by_address = |credentials: &Credentials| matches!(credentials, Credentials::Address(_));
        // Neither is of use where the other is.
        let other = |known: &Credentials| by_address(known) != by_address(&credentials);
        if origin.credentials.iter().any(other) {
            return;
        }
        if origin.credentials.len() < CREDENTIALS_MAX && !origin.credentials.contains(&credentials) {
            origin.credentials.push(credentials);
        }
    }

    /// Notes a failure of the origin; true if it refused a caller and another one's credentials are left.
    pub(super) fn origin_failed(&self, error: OriginError) -> bool {
        let mut origin = self.origin();
        let refused = error.is_credential();
        origin.error = Some(Arc::new(error));
        if refused && !origin.credentials.is_empty() {
            origin.credentials.remove(0);
        }
        refused && !origin.credentials.is_empty()
    }

    /// The last failure of the origin.
    pub(super) fn origin_error(&self) -> Option<Arc<OriginError>> {
        self.origin().error.clone()
    }
}
