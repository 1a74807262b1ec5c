//! One running pull: next event, apply, perform.
//!
//! The driver owns the engine's task and is the only one that talks to it. Requests run as tasks of their own and
//! report through one bounded channel; nothing that the driver does waits.

mod apart;
mod outcome;
mod perform;
mod report;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use darter_engine::{Action, Event, Failure, FetchId, Settings, Task};
use darter_store::StoredTask;
use darter_types::{HostId, Moment, PieceLayout, PieceRun, PieceSet};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::journal::Download;

use self::report::Report;
use super::readers::Told;
use super::{Env, PullError, PullRequest, Shared};

/// Events that wait for one driver. A full queue holds back the requests that fill it.
pub(super) const EVENTS_MAX: usize = 1024;
/// How often time is told to the engine and reports are sent.
const TICK: Duration = Duration::from_millis(50);
/// How long a pull that nobody reads goes on.
const LINGER: Duration = Duration::from_secs(30);
/// How often a want that is not met is told again: the scheduler may have lost it.
const WANT_AGAIN: Duration = Duration::from_secs(5);
/// How often the scheduler is told that bytes come, while no piece gets whole; well below its patience with a lease.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

pub(super) struct Driver {
    engine: Task,
    request: PullRequest,
    shared: Arc<Shared>,
    env: Arc<Env>,
    events: mpsc::Receiver<Event>,
    told: Told,
    stored: Option<Arc<dyn StoredTask>>,
    /// Pieces of an earlier life that the store had at the start.
    claims: PieceSet,
    fetches: BTreeMap<FetchId, Running>,
    watches: BTreeMap<HostId, CancellationToken>,
    report: Report,
    started: Instant,
    busy_at: Instant,
    wanted_at: Option<Instant>,
    /// When the scheduler last heard that bytes come.
    signed_at: Instant,
    asked_at: Option<Instant>,
    /// Until the scheduler first said something.
    want: Option<Span>,
    first_at: Option<Instant>,
    ended: bool,
}

/// A request that runs.
struct Running {
    token: CancellationToken,
    /// Of one to the origin: the first piece that it need not read.
    stop_at: Arc<AtomicU32>,
}

impl Driver {
    pub(super) fn new(
        request: PullRequest,
        background: bool,
        shared: Arc<Shared>,
        env: Arc<Env>,
        events: mpsc::Receiver<Event>,
    ) -> Self {
        let settings = Settings {
            digest: request.locator.digest,
            whole: request.whole || !env.on_demand,
            background,
            release: env.config.release.into(),
            limits: env.limits.clone(),
            seed: env.next_seed(),
        };
        let now = Instant::now();
        Self {
            engine: Task::new(settings, env.moment(now)),
            request,
            shared,
            env,
            events,
            told: Told::default(),
            stored: None,
            claims: PieceSet::new(0),
            fetches: BTreeMap::new(),
            watches: BTreeMap::new(),
            report: Report::default(),
            started: now,
            busy_at: now,
            wanted_at: None,
            signed_at: now,
            asked_at: None,
            want: None,
            first_at: None,
            ended: false,
        }
    }

    /// Runs until the content is proved, cannot be had, or nobody wants it any more.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        self.begin();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let shared = Arc::clone(&self.shared);
        while !self.ended && !self.engine.is_over() {
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.end(Err(PullError::Stopping)),
                Some(event) = self.events.recv() => self.apply(event),
                () = shared.readers.changed.notified() => self.readers_changed(),
                _ = ticks.tick() => {
                    if self.tick() {
                        return self.end(Err(PullError::Stopping));
                    }
                }
            }
        }
    }

    /// Takes over what the store has, and says what is known.
    fn begin(&mut self) {
        self.engine.share_requests(self.env.requests_share());
        if let Some(stored) = self.env.store.find(self.request.task()) {
            let layout = stored.facts().layout;
            self.claims = stored.claimed();
            self.engine
                .restore(layout, &stored.states(), &self.claims, &stored.present());
            let attested = stored.attestations();
            self.engine.restore_attested(&attested);
            for piece in attested.keys() {
                self.claims.insert(*piece);
            }
            self.use_store(stored, layout);
        }
        if let Some(length) = self.request.length {
            self.apply(Event::LengthKnown(length));
        }
        let task = self.request.task();
        let shared = self.is_shared() && !self.env.is_distrusted(task);
        if shared && self.env.scheduling.is_up(task) {
            self.apply(Event::SchedulerUp);
        } else {
            self.apply(Event::SchedulerDown);
        }
        // Last: a reader that waits with no scheduler in sight sends the engine to the origin, for good.
        self.readers_changed();
    }

    /// Whether the content is exchanged with other nodes.
    fn is_shared(&self) -> bool {
        self.env.shares(self.request.public)
    }

    fn apply(&mut self, event: Event) {
        if self.ended {
            return self.give_back(&event);
        }
        if matches!(event, Event::ParentAlive(_)) {
            self.shared.set_hopeful(true);
        }
        self.want_answered(&event);
        if let Event::FetchEnded {
            fetch,
            failure: Some(failure),
        } = &event
        {
            tracing::debug!(task = %self.request.task(), ?fetch, ?failure, "a request failed");
        }
        if matches!(event, Event::OriginBytes { .. }) {
            self.report.flows();
        }
        let mut actions = Vec::new();
        self.engine.apply(self.now(), event, &mut actions);
        for action in actions {
            // One that was performed may have ended the pull, which the engine does not know: then nothing begins any more.
            if self.ended {
                return;
            }
            self.perform(action);
        }
    }

    /// Ends the span of the first want with what came of it.
    fn want_answered(&mut self, event: &Event) {
        let decision = match event {
            Event::ParentsOffered(_) => "parents",
            Event::LeaseGranted { .. } => "lease",
            Event::GoAlone => "alone",
            Event::SchedulerDown => "scheduler lost",
            _ => return,
        };
        if let Some(span) = self.want.take() {
            span.record("decision", decision);
        }
    }

    fn now(&self) -> Moment {
        self.env.moment(Instant::now())
    }

    fn readers_changed(&mut self) {
        for event in self.told.update(&self.shared.readers) {
            self.apply(event);
        }
        self.read_mail();
    }

    /// What was in the queue before the mail was written comes first: a lease that ended may be granted there.
    fn read_mail(&mut self) {
        let letters = self.shared.mail.take();
        let before = if letters.is_empty() { 0 } else { self.events.len() };
        for _ in 0..before {
            if let Ok(event) = self.events.try_recv() {
                self.apply(event);
            }
        }
        letters.into_iter().for_each(|event| self.apply(event));
    }

    /// Tells the engine the time and the scheduler the news; true if nobody needs the pull any more.
    fn tick(&mut self) -> bool {
        self.readers_changed();
        self.engine.share_requests(self.env.requests_share());
        self.apply(Event::Tick);
        self.send_report();
        let now = Instant::now();
        if now - self.signed_at >= SIGN_OF_LIFE {
            self.signed_at = now;
            self.send_sign_of_life();
        }
        if self.wanted_at.is_some_and(|at| now - at >= WANT_AGAIN) {
            self.perform(Action::Want);
        }
        if self.shared.readers.count() > 0 || self.engine.lease_epoch().is_some() {
            self.busy_at = now;
        }
        now - self.busy_at >= LINGER && self.env.retire(self.request.task(), &self.shared)
    }

    /// Ends the pull for all who wait, whatever was under way.
    fn end(&mut self, outcome: Result<(), PullError>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let fetches = self.fetches.values().map(|running| &running.token);
        for token in fetches.chain(self.watches.values()) {
            token.cancel();
        }
        self.send_report();
        self.give_leases_back();
        self.env.scheduling.unwant(self.request.task());
        self.finished(&outcome);
        self.shared.availability.end(outcome);
    }

    /// Whether the store takes the first piece of a run. Otherwise nothing is asked for that it would refuse when it came.
    fn has_room(&self, run: PieceRun) -> bool {
        let facts = self.stored.as_ref().map(|stored| stored.facts());
        let bytes = match &facts {
            // Its room was taken when it was created.
            Some(facts) if facts.whole => return true,
            Some(facts) => facts.layout.piece_range(run.first).len(),
            None => u64::from(PieceLayout::PIECE_MIN),
        };
        self.env.has_room(&self.request.locator.registry, bytes)
    }

    /// Tells that leases are over of which the engine will hear no more: whoever gave them would wait.
    fn give_leases_back(&mut self) {
        if let Some(epoch) = self.engine.lease_epoch() {
            self.end_lost_lease(epoch);
        }
        self.events.close();
        while let Ok(event) = self.events.try_recv() {
            self.give_back(&event);
        }
        let letters = self.shared.mail.close();
        letters.iter().for_each(|event| self.give_back(event));
    }

    /// Gives a lease back that comes when the pull is over, so that another node gets it.
    fn give_back(&mut self, event: &Event) {
        if let Event::LeaseGranted { epoch, .. } | Event::PiecesAsked { epoch, .. } = event {
            self.end_lost_lease(*epoch);
        }
    }

    fn end_lost_lease(&mut self, epoch: u64) {
        let done = self.engine.present().is_some_and(PieceSet::is_full);
        self.end_lease(epoch, (!done).then_some(Failure::Store));
    }

    /// One line a pull that says where its bytes came from.
    fn finished(&self, outcome: &Result<(), PullError>) {
        let sources = &self.report.totals;
        let elapsed_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (origin_bytes, peer_bytes, cache_bytes) =
            (sources.origin_bytes, sources.peer_bytes, sources.cache_bytes);
        let peers = sources.parents.len();
        let task = self.request.task();
        let span = Span::current();
        span.record("origin_bytes", origin_bytes);
        span.record("peer_bytes", peer_bytes);
        span.record("cache_bytes", cache_bytes);
        if let Err(error) = outcome {
            span.record("error", error.to_string());
        }
        match outcome {
            Ok(()) => {
                tracing::info!(%task, origin_bytes, peer_bytes, cache_bytes, peers, elapsed_ms, "pull finished")
            }
            Err(PullError::Stopping) => {
                tracing::info!(%task, origin_bytes, peer_bytes, cache_bytes, peers, elapsed_ms, "pull stopped");
            }
            Err(error) => {
                tracing::warn!(%task, origin_bytes, peer_bytes, cache_bytes, peers, elapsed_ms, %error, "pull failed");
            }
        }
        self.env.metrics.pull_ended(outcome.is_ok());
        self.env.journal.download(Download {
            digest: task.to_string(),
            began: self.started,
            asked: self.asked_at,
            first: self.first_at,
            error: outcome.as_ref().err().map(ToString::to_string),
            origin_bytes,
            peers: &sources.parents,
        });
    }
}

impl Drop for Driver {
    /// However the driver ends, by a panic or at a shutdown as well, nobody waits for it any more and the next who wants
    /// the content starts anew.
    fn drop(&mut self) {
        self.shared.availability.end(Err(PullError::Stopping));
        self.env.forget(self.request.task(), &self.shared);
    }
}
