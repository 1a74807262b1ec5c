//! What each action of the engine means outside.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use darter_engine::{Action, Event, Failure, FetchFailure, FetchId, ParentFailure};
use darter_proto::scheduler::{
    Failed, FailureReason, LeaseEnded, LeaseOutcome, Links, NodeMessage, Urgency, Want,
};
use darter_store::{ContentFacts, StoreError, StoredTask};
use darter_types::{ChainState, HostId, PieceLayout, PieceNumber, PieceProof, PieceRun};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use tracing::field::Empty;

use super::{Driver, Running};
use crate::metrics::{BytesFrom, Unverified};
use crate::peer::{PeerFetch, PeerWatch};
use crate::pull::origin_fetch::OriginFetch;
use crate::pull::{PullError, check};

impl Driver {
    pub(super) fn perform(&mut self, action: Action) {
        match action {
            Action::Want => self.want(true),
            Action::WantPieces => self.want(false),
            Action::Watch { host, address } => self.watch(host, address),
            Action::Unwatch(host) => self.unwatch(&host),
            Action::FetchPeer {
                fetch,
                host,
                address,
                run,
                proofs,
            } => {
                self.fetch_peer(fetch, host, address, run, proofs);
            }
            Action::FetchOrigin { fetch, run, before } => self.fetch_origin(fetch, run, Some(before)),
            Action::FetchApart { fetch, run } => self.fetch_origin(fetch, run, None),
            Action::Shorten { fetch, end } => self.shorten(fetch, end),
            Action::Cancel(fetch) => self.cancel(fetch),
            Action::Check { piece, proof } => self.check(piece, proof),
            Action::Walk { piece, before } => self.walk(piece, before),
            Action::HaveApart { piece, sum, from } => self.have_apart(piece, sum, from),
            Action::Attest { epoch, piece, sum } => self.attest(epoch, piece, sum),
            Action::AttestStored { epoch, piece, proof } => self.attest_stored(epoch, piece, proof),
            Action::Prepare { length } => self.prepare(length),
            Action::Have {
                piece,
                from,
                was_apart,
            } => self.have(piece, from, was_apart),
            Action::Release(run) => self.shared.availability.release(run),
            Action::ReleaseToRanges(piece) => self.shared.availability.release_to_ranges(piece),
            Action::ReleaseBytes { offset } => self.shared.availability.release_bytes(offset),
            Action::BytesCame => self.shared.availability.bytes_came(),
            Action::OriginOnly => self.origin_only(),
            Action::KeepStates { first, states } => self.keep_states(first, &states),
            Action::Forget { runs, claims, first } => self.forget(&runs, &claims, first),
            Action::Publish { epoch, first, states } => self.publish(epoch, first, states, false),
            Action::Blame { host, failure, piece } => self.blame(host, failure, piece),
            Action::EndLease { epoch, failure } => self.end_lease(epoch, failure),
            Action::Proved => self.proved(),
            Action::Fail(failure) => self.failed(failure),
        }
    }

    // === the store ===

    fn prepare(&mut self, length: u64) {
        if self.stored.is_some() {
            return;
        }
        match self.open_stored(length) {
            Ok((stored, layout)) => self.use_store(stored, layout),
            Err(error) => {
                // Whatever is under way reports to a driver that is over; readers go past the store.
                self.end(Err(PullError::Store(error.to_string())));
            }
        }
    }

    fn open_stored(&self, length: u64) -> Result<(Arc<dyn StoredTask>, PieceLayout), StoreError> {
        let task = self.request.task();
        let layout = PieceLayout::of(length).map_err(|_| StoreError::NoSpace { wanted_bytes: length })?;
        let facts = ContentFacts {
            layout,
            origin: Some(self.request.locator.clone()),
            media_type: self.request.media_type.clone(),
            whole: self.request.whole,
            public: self.request.public,
        };
        let stored = match self.env.store.open(task, &facts) {
            Err(StoreError::NoSpace { .. }) => {
                self.env.make_room(facts.registry(), facts.allocated_bytes());
                self.env.store.open(task, &facts)?
            }
            other => other?,
        };
        Ok((stored, layout))
    }

    pub(super) fn use_store(&mut self, stored: Arc<dyn StoredTask>, layout: PieceLayout) {
        self.shared.availability.ready(Arc::clone(&stored), layout);
        for piece in stored.present().iter() {
            self.shared.availability.set_present(piece, BytesFrom::Cache);
        }
        self.stored = Some(stored);
    }

    fn have(&mut self, piece: PieceNumber, from: Option<HostId>, was_apart: bool) {
        let Some(stored) = &self.stored else { return };
        let bytes = stored.facts().layout.piece_range(piece).len();
        // A claim ends when other bytes are written over it.
        let kept = || self.claims.contains(piece) && stored.claimed().contains(piece);
        let source = match &from {
            Some(_) => BytesFrom::Peer,
            None if kept() => BytesFrom::Cache,
            None => BytesFrom::Origin,
        };
        if let Err(error) = stored.mark_present(piece) {
            tracing::debug!(task = %self.request.task(), piece, %error, "store did not record a piece");
        }
        // It was counted when it came.
        if !was_apart {
            self.count(piece, from, bytes, source);
        }
        self.shared.availability.set_present(piece, source);
    }

    fn keep_states(&self, first: u32, states: &[ChainState]) {
        if let Some(Err(error)) = self
            .stored
            .as_ref()
            .map(|stored| stored.record_states(first, states))
        {
            // Only a restart would need them.
            tracing::debug!(task = %self.request.task(), %error, "store did not record states");
        }
    }

    /// Readers first, then other nodes, then the store: nobody gets what rests on a chain that counts no more.
    fn forget(&mut self, runs: &[PieceRun], claims: &[PieceNumber], first: u32) {
        self.shared.availability.withdraw(runs, first);
        let task = self.request.task();
        if let Some(stored) = &self.stored {
            let pieces = runs.iter().flat_map(|run| run.pieces());
            pieces
                .chain(claims.iter().copied())
                .for_each(|piece| stored.forget(piece));
            if let Err(error) = stored.forget_states(first) {
                // A later life would believe them.
                tracing::warn!(%task, %error, "a chain that counts no more could not be dropped, so its content is");
                return self.failed(Failure::WrongContent);
            }
        }
        // What was reported before it is taken back.
        self.send_report();
        if !runs.is_empty() && self.request.public {
            self.env
                .scheduling
                .send(task, NodeMessage::Withdraw(task, runs.to_vec()));
        }
    }

    fn check(&self, piece: PieceNumber, proof: PieceProof) {
        let (Some(stored), events) = (self.stored.clone(), self.shared.events.clone()) else {
            return;
        };
        let metrics = Arc::clone(&self.env.metrics);
        self.env.tasks.spawn("check of a stored piece", async move {
            let good = check::links(&*stored, &proof);
            if !good {
                metrics.unverified(Unverified::Store);
                stored.forget(piece);
            }
            let _ = events.send(Event::ClaimChecked { piece, good }).await;
        });
    }

    // === requests ===

    fn watch(&mut self, host: HostId, address: String) {
        if self.env.is_blocked(&host) {
            return;
        }
        let token = CancellationToken::new();
        self.watches.insert(host.clone(), token.clone());
        let watch = PeerWatch {
            task: self.request.task(),
            host,
            address,
            shared: Arc::downgrade(&self.shared),
            origins: self.env.origins.clone(),
            events: self.shared.events.clone(),
            on_demand: !self.engine.wants_whole(),
        };
        let peers = self.env.peers.clone();
        self.env.tasks.spawn("watch of a parent", async move {
            token.run_until_cancelled(peers.watch(watch)).await;
        });
    }

    fn unwatch(&mut self, host: &HostId) {
        if let Some(token) = self.watches.remove(host) {
            token.cancel();
        }
    }

    fn fetch_peer(
        &mut self,
        fetch: FetchId,
        host: HostId,
        address: String,
        run: PieceRun,
        proofs: Vec<PieceProof>,
    ) {
        let Some(stored) = self.stored.clone() else { return };
        let span = tracing::info_span!(
            "peer fetch",
            task = %self.request.task(),
            source = "peer",
            peer = %host,
            first = run.first,
            count = run.count,
            bytes = stored.facts().layout.run_range(run).len(),
            failure = Empty,
        );
        let (token, _) = self.begin_fetch(fetch);
        let request = PeerFetch {
            fetch,
            host,
            address,
            right: self.shared.right().unwrap_or_else(|| self.request.right()),
            run,
            proofs,
            stored,
            events: self.shared.events.clone(),
            shared: Arc::clone(&self.shared),
            background: self.env.background.clone(),
        };
        let peers = self.env.peers.clone();
        let fetched = async move {
            token.run_until_cancelled(peers.fetch(request)).await;
        };
        self.env
            .tasks
            .spawn("fetch from a parent", fetched.instrument(span));
    }

    fn fetch_origin(&mut self, fetch: FetchId, run: PieceRun, before: Option<ChainState>) {
        if !self.has_room(run) {
            let failure = Some(FetchFailure::Store);
            return self.apply(Event::FetchEnded { fetch, failure });
        }
        if self.engine.lease_epoch().is_some() {
            self.shared.availability.become_source();
        } else {
            // For the cluster this is a copy too many; an operator who sees many of them looks at the swarm.
            tracing::debug!(task = %self.request.task(), first = run.first, count = run.count, "asks the origin without a lease");
        }
        let span = tracing::info_span!(
            "origin fetch",
            task = %self.request.task(),
            registry = %self.request.locator.registry,
            source = "origin",
            first = run.first,
            in_order = before.is_some(),
            leased = self.engine.lease_epoch().is_some(),
            bytes = Empty,
            failure = Empty,
        );
        let (token, stop_at) = self.begin_fetch(fetch);
        let request = OriginFetch {
            fetch,
            run,
            before,
            stop_at,
            locator: self.request.locator.clone(),
            version: self.env.version(self.request.task()),
            shared: Arc::clone(&self.shared),
            store: Arc::clone(&self.env.store),
            origins: self.env.origins.clone(),
            metrics: Arc::clone(&self.env.metrics),
            background: self.env.background.clone(),
        };
        let fetched = async move {
            token.run_until_cancelled(request.run()).await;
        };
        self.env
            .tasks
            .spawn("fetch from the origin", fetched.instrument(span));
    }

    fn begin_fetch(&mut self, fetch: FetchId) -> (CancellationToken, Arc<AtomicU32>) {
        // Those that ended by themselves are dropped here, so that the map stays as small as what runs.
        self.fetches.retain(|_, running| !running.token.is_cancelled());
        let token = CancellationToken::new();
        let stop_at = Arc::new(AtomicU32::new(PieceNumber::MAX));
        let running = Running {
            token: token.clone(),
            stop_at: Arc::clone(&stop_at),
        };
        self.fetches.insert(fetch, running);
        (token, stop_at)
    }

    fn shorten(&self, fetch: FetchId, end: PieceNumber) {
        if let Some(running) = self.fetches.get(&fetch) {
            running.stop_at.fetch_min(end, Ordering::Relaxed);
        }
    }

    fn cancel(&mut self, fetch: FetchId) {
        if let Some(running) = self.fetches.remove(&fetch) {
            running.token.cancel();
        }
    }

    // === the scheduler ===

    /// Tells the scheduler what is wanted, and what is `held` if it may not know.
    fn want(&mut self, held: bool) {
        if !self.is_shared() {
            // What only this caller may read is nobody else's business.
            return self.apply(Event::GoAlone);
        }
        let now = Instant::now();
        self.wanted_at = Some(now);
        let task = self.request.task();
        if self.asked_at.is_none() {
            self.asked_at = Some(now);
            self.want = Some(tracing::info_span!("scheduler want", %task, decision = Empty));
        }
        let want = Want {
            task,
            origin: self.request.locator.clone(),
            length: self.engine.layout().map(PieceLayout::length),
            held: self
                .engine
                .held()
                .filter(|_| held)
                .map(|set| set.runs().collect())
                .unwrap_or_default(),
            states_known: self.engine.states_known(),
            public: self.request.public,
            urgency: if self.shared.readers.urgent() > 0 {
                Urgency::Reader
            } else {
                Urgency::Background
            },
            lease_epoch: self.engine.lease_epoch(),
            first: self.engine.wanted_first(),
            on_demand: !self.engine.wants_whole(),
        };
        self.env.scheduling.send(task, NodeMessage::Want(want));
    }

    pub(super) fn send_report(&mut self) {
        let task = self.request.task();
        let Some(length) = self.engine.layout().map(PieceLayout::length) else {
            return;
        };
        if let Some(have) = self.report.take(task, length)
            && self.is_shared()
        {
            self.env.scheduling.send(task, NodeMessage::Have(have));
        }
    }

    /// Tells that the lease goes on, though no piece got whole.
    pub(super) fn send_sign_of_life(&mut self) {
        let task = self.request.task();
        if self.engine.lease_epoch().is_some()
            && let Some(length) = self.engine.layout().map(PieceLayout::length)
            && let Some(have) = self.report.take_sign_of_life(task, length)
        {
            self.env.scheduling.send(task, NodeMessage::Have(have));
        }
    }

    fn publish(&self, epoch: Option<u64>, first_border: u32, states: Vec<ChainState>, proved: bool) {
        let Some(length) = self.engine.layout().map(PieceLayout::length) else {
            return;
        };
        if let Some(epoch) = epoch {
            let task = self.request.task();
            let links = Links {
                task,
                epoch,
                length,
                first_border,
                states,
                proved,
            };
            self.env.scheduling.send(task, NodeMessage::Links(links));
        }
    }

    fn blame(&mut self, parent: HostId, failure: ParentFailure, piece: PieceNumber) {
        let reason = match failure {
            ParentFailure::Unreachable => FailureReason::Unreachable,
            ParentFailure::Silent => FailureReason::Silent,
            ParentFailure::WrongBytes => FailureReason::WrongBytes,
            ParentFailure::Missing => FailureReason::Missing,
            ParentFailure::Busy => FailureReason::Refused,
        };
        let task = self.request.task();
        tracing::debug!(%task, %parent, ?failure, piece, "a parent failed");
        self.env.metrics.parent_failed(failure);
        if failure == ParentFailure::WrongBytes {
            tracing::warn!(%task, peer = %parent, piece, "a peer sent wrong bytes and is not asked any more");
            self.env.block(parent.clone());
        }
        self.env.scheduling.send(
            task,
            NodeMessage::Failed(Failed {
                task,
                parent,
                reason,
                piece,
            }),
        );
    }

    pub(super) fn end_lease(&mut self, epoch: u64, failure: Option<Failure>) {
        self.send_report();
        let outcome = match failure {
            None => LeaseOutcome::Done,
            Some(Failure::Refused) => LeaseOutcome::Refused,
            Some(Failure::Absent) => LeaseOutcome::Absent,
            Some(Failure::WrongContent) if self.changed().is_some() => LeaseOutcome::Changed,
            Some(Failure::WrongContent) => LeaseOutcome::WrongContent,
            Some(Failure::Unavailable | Failure::Store) => LeaseOutcome::Failed,
        };
        let task = self.request.task();
        let status = self
            .shared
            .origin_error()
            .and_then(|error| error.status())
            .map(|status| status.as_u16());
        self.env.scheduling.send(
            task,
            NodeMessage::LeaseEnded(LeaseEnded {
                task,
                epoch,
                outcome,
                status,
            }),
        );
    }
}
