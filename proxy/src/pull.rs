//! One download for all who want a content: the shell around the engine.
//!
//! [`Pulls`] knows the running pulls, [`Pull`] is one content, [`Reader`] streams a byte range of it as the bytes are
//! proved. Many readers, one download (single flight): the first opens a driver, the others join it.
//!
//! A pull runs while somebody reads it, or while the node holds the lease for it, and for a short time after. What it
//! fetched stays in the store either way.

mod availability;
mod changes;
mod check;
mod contents;
mod driver;
mod env;
mod mail;
mod origin_fetch;
mod past;
mod quiet;
mod reader;
mod readers;
mod recent;
mod request;
mod scrub;
mod shared;

use std::sync::Arc;
use std::time::Duration;

use darter_engine::Event;
use darter_origin::Credentials;
use darter_service::limit::Limiter;
use darter_store::{ContentFacts, StoredTask};
use darter_types::{ByteRange, ChainState, OriginLocator, PieceRun, PieceSet, TaskId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

pub use availability::Availability;
pub use env::{Env, EnvParts, OnDemand, PullConfig, Release, Sharing};
pub use reader::Reader;
pub use request::{PullError, PullRequest, Right};
pub(crate) use shared::Shared;

use self::changes::Changes;
use self::driver::{Driver, EVENTS_MAX};
use self::quiet::Quiet;
use self::reader::Place;
use self::readers::Manner;
use crate::journal::Journal;
use crate::metrics::PullMetrics;
use crate::mirror::Source;

/// The running pulls of one node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pulls {
    env: Arc<Env>,
    stop: CancellationToken,
}

impl Pulls {
    /// The rates of all downloads and of those that nobody waits for, which may be changed.
    pub(crate) fn rates(&self) -> [Limiter; 2] {
        self.env.rates()
    }

    /// No pull yet. `stop` ends them all.
    pub fn new(env: Arc<Env>, stop: CancellationToken) -> Self {
        Self { env, stop }
    }

    /// What happened lately.
    pub fn journal(&self) -> &Journal {
        &self.env.journal
    }

    /// Joins the running pull of a content, or starts one.
    pub fn open(&self, request: PullRequest) -> Result<Pull, PullError> {
        self.start(request, false)
    }

    fn start(&self, request: PullRequest, background: bool) -> Result<Pull, PullError> {
        let task = request.task();
        let manner = Manner {
            urgent: request.urgent,
            checks: request.checks,
        };
        let pull = |shared| Pull {
            shared,
            metrics: Arc::clone(&self.env.metrics),
            patience: self.env.config.reader_patience.into(),
            manner,
            release: self.env.config.release,
            quiet: self.env.quiet.clone(),
        };
        let mut running = self.env.running();
        if let Some(shared) = running.get(&task) {
            self.admit(&request, shared.source())?;
            shared.add_caller(&request);
            return Ok(pull(Arc::clone(shared)));
        }
        if let Some(shared) = self.complete(task) {
            let shown = request.vouched && (shared.source().public || request.asked);
            if !shown {
                self.admit(&request, shared.source())?;
            }
            return Ok(pull(shared));
        }
        let source = self.stored_source(&request)?;
        if let Some(source) = source.as_ref().filter(|_| !background) {
            self.admit(&request, source)?;
        }
        let source = source.unwrap_or_else(|| request.source());
        let limit = self.env.config.pulls_max;
        if running.len() >= limit {
            self.env.metrics.refused();
            return Err(PullError::Busy { limit });
        }
        let span = span_of(&request, background);
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let shared = Arc::new(Shared::new(&request, source, sender));
        running.insert(task, Arc::clone(&shared));
        self.env.metrics.running(running.len());
        drop(running);
        let driver = Driver::new(
            request,
            background,
            Arc::clone(&shared),
            Arc::clone(&self.env),
            events,
        );
        let stop = self.stop.clone();
        self.env.tasks.spawn("pull", driver.run(stop).instrument(span));
        self.env.arrivals.changed();
        Ok(pull(shared))
    }

    /// Waits until no reader of this node waits for bytes. Cancel safe.
    pub(crate) async fn quiet(&self) {
        self.env.quiet.settles().await;
    }

    /// Whether what is here, from one place, is open to who was sent by another: a registry that names a digest need not
    /// have what it stands for, and a repository neither. Nor need an address that names it: only the very place that it
    /// came from has.
    fn admit(&self, request: &PullRequest, source: &Source) -> Result<(), PullError> {
        let open = match &request.credentials {
            Credentials::Address(_) => source.public || source.origin.as_ref() == Some(&request.locator),
            _ => self.env.is_open(source, &request.right()),
        };
        if open {
            return Ok(());
        }
        let OriginLocator {
            registry, repository, ..
        } = &request.locator;
        tracing::debug!(task = %request.task(), %registry, %repository, "what is here came from elsewhere");
        Err(PullError::Elsewhere)
    }

    /// Where what the store has of a content came from, if it has some.
    fn stored_source(&self, request: &PullRequest) -> Result<Option<Source>, PullError> {
        let Some(stored) = self.env.store.find(request.task()) else {
            return Ok(None);
        };
        let source = Source::from(stored.facts());
        if is_something(&*stored) {
            return Ok(Some(source));
        }
        if source != request.source() {
            // Somebody was to get it from another place, and nothing came: it may not be there. What comes now is not said to
            // be from there.
            let failed = |error: darter_store::StoreError| PullError::Store(error.to_string());
            self.env.store.remove(request.task()).map_err(failed)?;
        }
        Ok(None)
    }

    /// Where what is here of a content came from, be it the whole, a part, or still on its way.
    pub(crate) fn source(&self, task: TaskId) -> Option<Source> {
        if let Some(shared) = self.env.running().get(&task) {
            return Some(shared.source().clone());
        }
        if let Some(shared) = self.complete(task) {
            return Some(shared.source().clone());
        }
        let stored = self.env.store.find(task)?;
        is_something(&*stored).then(|| stored.facts().into())
    }

    /// A pull of a content that the store holds whole, linked in this life of the process.
    fn complete(&self, task: TaskId) -> Option<Arc<Shared>> {
        if let Some(recent) = self.env.recent.get(task) {
            return Some(recent);
        }
        let stored = self.env.store.find(task)?;
        let shared = stored
            .present()
            .is_full()
            .then(|| Arc::new(Shared::complete(stored)))?;
        self.env.recent.keep(task, &shared);
        Some(shared)
    }

    /// What the store knows of a content that it holds whole, proved.
    pub fn holds(&self, task: TaskId) -> Option<ContentFacts> {
        self.complete(task)?.availability.facts()
    }

    /// What is being fetched or stored of a content, to serve it to other nodes.
    pub fn find(&self, task: TaskId) -> Option<Arc<Availability>> {
        if let Some(shared) = self.env.running().get(&task) {
            return Some(Arc::clone(&shared.availability));
        }
        if let Some(shared) = self.complete(task) {
            return Some(Arc::clone(&shared.availability));
        }
        self.revive(task)
    }

    /// Links again what the store kept over a restart, because somebody asks for it.
    fn revive(&self, task: TaskId) -> Option<Arc<Availability>> {
        let facts = self.env.store.find(task)?.facts();
        let request = PullRequest {
            locator: facts.origin?,
            length: Some(facts.layout.length()),
            media_type: facts.media_type,
            credentials: Credentials::Anonymous,
            public: facts.public,
            vouched: false,
            asked: false,
            whole: false,
            urgent: false,
            checks: false,
        };
        Some(self.start(request, false).ok()?.shared.availability.clone())
    }

    /// Wakes when a pull starts.
    pub(crate) fn arrivals(&self) -> Changes {
        self.env.arrivals.watch()
    }

    /// Hands what the scheduler says of a task to its driver; false if there is none.
    pub(crate) fn deliver(&self, task: TaskId, event: Event) -> bool {
        // A full queue loses the message; the want is told again while it is not met. A lease is not: see `lease`.
        let sender = self.env.running().get(&task).map(|shared| shared.events.clone());
        sender.is_some_and(|sender| sender.try_send(event).is_ok())
    }

    /// A lease is over, where it was given.
    pub(crate) fn lease_revoked(&self, task: TaskId, epoch: u64) {
        if let Some(shared) = self.env.running().get(&task) {
            shared.lease_ended(epoch);
        }
    }

    /// Fetches for the cluster, under the lease `epoch`: what `granted` says, and the pieces `first` before all else, where
    /// they are given.
    pub(crate) fn lease(
        &self,
        request: PullRequest,
        epoch: u64,
        granted: Option<Event>,
        first: Option<&[PieceRun]>,
    ) -> Result<(), PullError> {
        let task = request.task();
        let runs = self.env.running().contains_key(&task);
        // What runs asks the origin for its own callers.
        if !runs {
            self.start(request, true)?;
        }
        let shared = self.env.running().get(&task).cloned();
        let shared = shared.ok_or(PullError::Stopping)?;
        shared.take_lease(epoch, granted, first)
    }

    /// Tells every driver that its scheduler came or went.
    pub(crate) fn broadcast(&self, event: &Event, concerns: impl Fn(TaskId) -> bool) {
        for (task, shared) in self.env.running().iter().filter(|(task, _)| concerns(**task)) {
            if shared.events.try_send(event.clone()).is_err() {
                tracing::debug!(%task, "a busy pull missed news of the scheduler");
            }
        }
    }

    /// Everything that the store holds of contents that are exchanged, for the scheduler.
    pub(crate) fn holdings(&self) -> Vec<(TaskId, ContentFacts, PieceSet)> {
        let held = self.env.store.list().into_iter();
        let held = held.filter(|line| self.env.shares(line.facts.public));
        held.map(|line| (line.task, line.facts, line.held)).collect()
    }

    /// Whether contents that need a credential are exchanged with other nodes.
    pub(crate) fn shares_private(&self) -> bool {
        self.env.shares(false)
    }

    /// Whether a content goes to another node that asks for it by this right. What anybody may read does; the rest where it
    /// is exchanged, and only to those who were sent by the repository that it came from, or whose registry, being asked
    /// about it, said yes.
    pub(crate) fn may_leave(&self, task: TaskId, right: Option<&Right>) -> Leave {
        let Some(source) = self.source(task) else {
            return Leave::Unknown;
        };
        if source.public {
            return Leave::Yes;
        }
        if !self.env.shares(false) {
            return Leave::Unknown;
        }
        let open = |right: &Right| self.env.is_open(&source, right);
        let asked = |right: &Right| Right {
            asked: true,
            ..right.clone()
        };
        match right {
            Some(right) if open(right) => Leave::Yes,
            Some(right) if open(&asked(right)) => Leave::Elsewhere,
            _ => Leave::Refused,
        }
    }

    /// Borders of a content's chain that the store knows, the first included.
    pub(crate) fn states_known(&self, task: TaskId) -> u32 {
        let states = self
            .env
            .store
            .find(task)
            .map_or(0, |stored| stored.states().len());
        u32::try_from(states).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// The stored chain of a content: its length in bytes, its states from border 1 on, and whether it is proved.
    pub(crate) fn chain(&self, task: TaskId) -> Option<(u64, Vec<ChainState>, bool)> {
        let stored = self.env.store.find(task)?;
        let proved = stored.present().is_full();
        Some((stored.facts().layout.length(), stored.states(), proved))
    }

    /// Drops a content: the scheduler says that it was deleted.
    pub(crate) fn remove(&self, task: TaskId) {
        self.env.recent.forget(task);
        if let Err(error) = self.env.store.remove(task) {
            tracing::warn!(%task, %error, "a content could not be deleted");
        }
    }
}

/// Where spans are sent somewhere: a pull belongs to the request that was the first to want it.
fn span_of(request: &PullRequest, background: bool) -> Span {
    tracing::info_span!(
        "pull",
        task = %request.task(),
        registry = %request.locator.registry,
        background,
        origin_bytes = Empty,
        peer_bytes = Empty,
        cache_bytes = Empty,
        error = Empty,
    )
}

/// Whether a content goes to another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// It does.
    Yes,
    /// It would, if the registry of the one who asks had said yes to this very content: it came from another repository.
    Elsewhere,
    /// Contents like it do, but not by this right.
    Refused,
    /// There is nothing here, or nothing that anybody may hear of.
    Unknown,
}

/// Whether a store has any piece of a content.
fn is_something(stored: &dyn StoredTask) -> bool {
    !stored.present().is_empty() || !stored.claimed().is_empty() || !stored.attestations().is_empty()
}

/// One content that somebody reads.
#[derive(Clone, Debug)]
pub struct Pull {
    shared: Arc<Shared>,
    metrics: Arc<PullMetrics>,
    patience: Duration,
    manner: Manner,
    release: Release,
    quiet: Quiet,
}

impl Pull {
    /// What the content is, as soon as its length is known. Cancel safe.
    pub async fn facts(&self) -> Result<ContentFacts, PullError> {
        // A reader of nothing, so that the pull knows that it is waited for.
        let _waiting = self.shared.register(ByteRange::new(0, 0), self.manner);
        self.shared.stored().await.map(|(stored, _)| stored.facts())
    }

    /// Reads `range`, in order. The range must lie within the content.
    pub fn reader(&self, range: ByteRange) -> Reader {
        Reader::new(
            range,
            &self.shared,
            Arc::clone(&self.metrics),
            self.patience,
            Place {
                manner: self.manner,
                release: self.release,
                quiet: self.quiet.clone(),
            },
        )
    }
}
