//! What a pull's driver, its readers and its requests share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use darter_engine::Event;
use darter_origin::{Credentials, OriginError, Origins};
use darter_service::limit::Limiter;
use darter_store::StoredTask;
use darter_types::{ByteRange, OriginLocator, PieceHasher, PieceLayout, PieceRun};
use tokio::sync::mpsc;

use super::availability::Availability;
use super::driver::EVENTS_MAX;
use super::mail::Mail;
use super::readers::{Manner, Readers, Registration};
use super::{PullError, PullRequest, Right};
use crate::mirror::Source;

/// Callers for whom one pull may ask the origin.
const CALLERS_MAX: usize = 4;

/// Somebody for whom the origin may be asked, and where: what opens one repository is shown for no other.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) locator: OriginLocator,
    pub(super) credentials: Credentials,
    /// Whether the registry said, by now, that the content is there for this caller.
    asked: bool,
}

impl Caller {
    fn of(request: &PullRequest) -> Self {
        Self {
            locator: request.locator.clone(),
            credentials: request.credentials.clone(),
            asked: request.asked,
        }
    }

    /// Anybody, at this place.
    pub(super) fn nobody(locator: &OriginLocator) -> Self {
        Self {
            locator: locator.clone(),
            credentials: Credentials::Anonymous,
            asked: false,
        }
    }

    fn right(&self) -> Right {
        Right {
            registry: self.locator.registry.clone(),
            repository: self.locator.repository.clone(),
            asked: self.asked,
        }
    }

    /// Whether the origin hears the same question for both.
    fn is_like(&self, other: &Self) -> bool {
        self.locator.is_beside(&other.locator) && self.credentials == other.credentials
    }
}

/// The shared part of one pull.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) availability: Arc<Availability>,
    pub(super) readers: Arc<Readers>,
    pub(super) events: mpsc::Sender<Event>,
    /// Rung together with [`Readers::changed`].
    pub(super) mail: Mail,
    origin: Mutex<OriginSide>,
    /// Held while the origin is asked whether it has the content; whether it said no.
    asking: tokio::sync::Mutex<bool>,
    /// By which right it was asked for first.
    right: Option<Right>,
    /// Somebody who can give the content was reached: patience is worth it.
    hopeful: AtomicBool,
    complete: bool,
    /// The hash up to where the origin's bytes went into the store, once that takes no more.
    frontier: Mutex<Option<PieceHasher>>,
    /// Where what is here came from, or will.
    source: Source,
}

#[derive(Debug, Default)]
struct OriginSide {
    /// Tried in order; one that the origin refuses is dropped.
    callers: Vec<Caller>,
    error: Option<Arc<OriginError>>,
}

impl Shared {
    /// `source` is where what the store has of it came from, or where it will be asked for.
    pub(super) fn new(request: &PullRequest, source: Source, events: mpsc::Sender<Event>) -> Self {
        Self {
            availability: Arc::new(Availability::new()),
            readers: Arc::default(),
            events,
            mail: Mail::default(),
            origin: Mutex::new(OriginSide {
                callers: vec![Caller::of(request)],
                error: None,
            }),
            asking: tokio::sync::Mutex::default(),
            right: Some(request.right()),
            hopeful: AtomicBool::new(false),
            complete: false,
            frontier: Mutex::default(),
            source,
        }
    }

    /// Of a content that is all there: no driver, nothing to wait for.
    pub(super) fn complete(stored: Arc<dyn StoredTask>) -> Self {
        let (events, _) = mpsc::channel(1);
        let facts = stored.facts();
        Self {
            availability: Arc::new(Availability::complete(stored, facts.layout)),
            readers: Arc::default(),
            events,
            mail: Mail::default(),
            origin: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            right: None,
            hopeful: AtomicBool::new(true),
            complete: true,
            frontier: Mutex::default(),
            source: facts.into(),
        }
    }

    /// Signs a reader in, if anybody needs to know.
    pub(super) fn register(&self, range: ByteRange, manner: Manner) -> Option<Registration> {
        (!self.complete).then(|| self.readers.register(range, manner))
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
        if self.readers.urgent() == 0 && !self.availability.has_children() {
            rate.take(bytes).await;
        }
    }

    /// The store takes no more of the origin's bytes, which are hashed up to here.
    pub(super) fn set_frontier(&self, hasher: PieceHasher) {
        *self.frontier.lock().unwrap_or_else(PoisonError::into_inner) = Some(hasher);
    }

    /// From where to read the origin, past the store, for what begins at `offset`: no byte before this one is needed to
    /// prove the whole.
    pub(super) fn frontier(&self, offset: u64) -> Option<PieceHasher> {
        let frontier = self.frontier.lock().unwrap_or_else(PoisonError::into_inner);
        frontier.clone().filter(|hasher| hasher.offset() <= offset)
    }

    /// Hands the lease `epoch` to the driver: what `granted` says, and the pieces `first` before all else, where they are given.
    pub(super) fn take_lease(
        &self,
        epoch: u64,
        granted: Option<Event>,
        first: Option<&[PieceRun]>,
    ) -> Result<(), PullError> {
        if let Some(granted) = granted
            && self.events.try_send(granted).is_err()
        {
            // Whoever gave it would wait for what was never heard here, and hears that it ended. So must the driver, which may
            // have had it as one for less.
            self.lease_ended(epoch);
            return Err(PullError::Busy { limit: EVENTS_MAX });
        }
        if let Some(first) = first {
            if !self.mail.ask(epoch, first) {
                return Err(PullError::Stopping);
            }
            self.readers.changed.notify_one();
        }
        Ok(())
    }

    /// A lease is over, where it was given.
    pub(super) fn lease_ended(&self, epoch: u64) {
        self.mail.end(epoch);
        self.readers.changed.notify_one();
    }

    /// Notes whether a node that can give the content was reached.
    pub(super) fn set_hopeful(&self, hopeful: bool) {
        self.hopeful.store(hopeful, Ordering::Relaxed);
    }

    /// Whether a node's answer with the content may be on its way.
    pub(super) fn is_hopeful(&self) -> bool {
        self.hopeful.load(Ordering::Relaxed)
    }

    /// For whom, and where, to ask the origin; `None` when all were refused.
    pub(super) fn caller(&self) -> Option<Caller> {
        self.origin().callers.first().cloned()
    }

    /// Where what is here came from, or will.
    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    /// Somebody else who may read the content, should the first ones be refused. His credentials go to the registry that
    /// they are for, or nowhere.
    pub(super) fn add_caller(&self, request: &PullRequest) {
        let known = self.source.origin.as_ref();
        if known.is_none_or(|known| known.registry != request.locator.registry) {
            return;
        }
        let (caller, mut origin) = (Caller::of(request), self.origin());
        if let Some(known) = origin.callers.iter_mut().find(|known| known.is_like(&caller)) {
            known.asked |= caller.asked;
        } else if origin.callers.len() < CALLERS_MAX {
            origin.callers.push(caller);
        }
    }

    /// By which right other nodes are asked; `None` for what is complete.
    pub(crate) fn right(&self) -> Option<Right> {
        let caller = self.caller().map(|caller| caller.right());
        caller.or_else(|| self.right.clone())
    }

    /// Whether the origin has the content for the caller whose turn it is. It is asked once.
    pub(crate) async fn ask_itself(&self, origins: &Origins) -> bool {
        let mut refused = self.asking.lock().await;
        let Some(caller) = self.caller().filter(|_| !*refused) else {
            return false;
        };
        if caller.asked {
            return true;
        }
        match origins.head(&caller.locator, &caller.credentials).await {
            Ok(_) => self.origin_answered(&caller),
            Err(error) => {
                tracing::debug!(task = %caller.locator.digest, %error, "not to be had from those who have it from another repository");
                *refused = true;
            }
        }
        !*refused
    }

    /// Notes that the origin has the content at this place, and gives it to this caller.
    pub(super) fn origin_answered(&self, caller: &Caller) {
        let mut origin = self.origin();
        let same = origin.callers.iter_mut().find(|known| known.is_like(caller));
        if let Some(known) = same {
            known.asked = true;
        }
    }

    /// Notes a failure of the origin; true if it refused a caller and another one is left.
    pub(super) fn origin_failed(&self, error: OriginError) -> bool {
        let refused = error.is_credential() || error.is_absent();
        let begun = self.availability.has_any();
        let mut origin = self.origin();
        origin.error = Some(Arc::new(error));
        if !refused || origin.callers.is_empty() {
            return false;
        }
        let gone = origin.callers.remove(0);
        if !gone.asked && !begun {
            // Perhaps it never was at his place, whose readers wait here: they must not get it from another one.
            origin
                .callers
                .retain(|other| other.locator.is_beside(&gone.locator));
        }
        !origin.callers.is_empty()
    }

    /// The last failure of the origin.
    pub(super) fn origin_error(&self) -> Option<Arc<OriginError>> {
        self.origin().error.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use darter_types::{Algorithm, ContentKind, Digest};

    #[test]
    fn a_full_queue_loses_no_ask_and_ends_a_grant_on_both_sides() {
        let request = PullRequest {
            locator: OriginLocator {
                registry: "registry.test".parse().unwrap(),
                repository: "team/app".parse().unwrap(),
                kind: ContentKind::Blob,
                digest: Digest::of(Algorithm::Sha256, b"x"),
            },
            length: None,
            media_type: None,
            credentials: Credentials::Anonymous,
            public: true,
            vouched: false,
            asked: false,
            whole: false,
            urgent: false,
            checks: false,
        };
        let (sender, _events) = mpsc::channel(1);
        sender.try_send(Event::Tick).unwrap();
        let shared = Shared::new(&request, request.source(), sender);
        let runs = vec![PieceRun::one(5)];
        assert!(shared.take_lease(3, None, Some(&runs)).is_ok());
        let epoch = 3;
        assert_eq!(shared.mail.take(), [Event::PiecesAsked { epoch, runs }]);
        let granted = Event::LeaseGranted {
            epoch,
            runs: Vec::new(),
        };
        let taken = shared.take_lease(epoch, Some(granted), None);
        assert!(matches!(taken, Err(PullError::Busy { .. })), "{taken:?}");
        assert_eq!(shared.mail.take(), [Event::LeaseRevoked { epoch }]);
        shared.mail.close();
        let taken = shared.take_lease(epoch, None, Some(&[PieceRun::one(6)]));
        assert!(matches!(taken, Err(PullError::Stopping)), "{taken:?}");
    }
}
