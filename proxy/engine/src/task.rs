//! The state of one download, and what each event does to it.

use std::collections::BTreeMap;

use darter_types::{
    ByteRange, ChainState, Digest, HostId, Moment, PieceLayout, PieceNumber, PieceRun, PieceSet,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::content::Content;
use crate::event::{Event, FetchFailure, FetchId, OriginFailure, ParentFailure, ReaderId};
use crate::gate::{Gate, Lease};
use crate::parents::Parents;
use crate::picker::Choice;
use crate::{Action, Failure, Limits};

/// What a task is told when it is made.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The content.
    pub digest: Digest,
    /// Fetch all of it, whatever the readers ask for.
    pub whole: bool,
    /// Fetch it though nobody reads it: a seed's duty, or a preheat.
    pub background: bool,
    /// Bounds.
    pub limits: Limits,
    /// Seed of its randomness.
    pub seed: u64,
}

#[derive(Debug)]
struct Reader {
    range: ByteRange,
    offset: u64,
}

#[derive(Debug)]
struct Fetch {
    /// `None` = the origin.
    host: Option<HostId>,
    run: PieceRun,
    started: Moment,
}

/// One content's download.
#[derive(Debug)]
pub struct Task {
    pub(crate) settings: Settings,
    pub(crate) content: Option<Content>,
    readers: BTreeMap<ReaderId, Reader>,
    pub(crate) parents: Parents,
    fetches: BTreeMap<FetchId, Fetch>,
    /// Pieces that a request covers.
    under_way: PieceSet,
    gate: Gate,
    last_progress: Moment,
    next_fetch: u64,
    rng: SmallRng,
    over: bool,
}

impl Task {
    /// A task of which nothing is known but its name.
    pub fn new(settings: Settings, now: Moment) -> Self {
        let mut rng = SmallRng::seed_from_u64(settings.seed);
        let jitter = rng.random_range(0.75..1.25);
        Self {
            settings,
            content: None,
            readers: BTreeMap::new(),
            parents: Parents::default(),
            fetches: BTreeMap::new(),
            under_way: PieceSet::new(0),
            gate: Gate::new(jitter),
            last_progress: now,
            next_fetch: 0,
            rng,
            over: false,
        }
    }

    /// Takes over what the store kept from an earlier life: the chain's states from border 1 on and the pieces that
    /// it claims. Nothing of it is released before it is linked again.
    pub fn restore(
        &mut self,
        layout: PieceLayout,
        states: &[ChainState],
        claimed: &PieceSet,
        present: &PieceSet,
    ) {
        let mut content = Content::new(self.settings.digest, layout);
        // The node computed or checked these states itself before it kept them, but they say nothing of trust.
        if content.learn(1, states, false).is_ok() {
            content.claimed.insert_all(claimed);
            content.present.insert_all(present);
        }
        self.parents.cut(layout.piece_count());
        self.under_way = PieceSet::new(layout.piece_count());
        self.content = Some(content);
    }

    /// Whether it proved its content or gave up.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// The cut of the content, once its length is known.
    pub fn layout(&self) -> Option<PieceLayout> {
        self.content.as_ref().map(Content::layout)
    }

    /// Pieces that are linked and here.
    pub fn present(&self) -> Option<&PieceSet> {
        self.content.as_ref().map(|content| &content.present)
    }

    /// Borders of the chain that are known, the first included.
    pub fn states_known(&self) -> u32 {
        self.content.as_ref().map_or(1, |content| content.chain.known())
    }

    /// The known states from border `first` on.
    pub fn states_from(&self, first: u32) -> &[ChainState] {
        self.content
            .as_ref()
            .map_or(&[], |content| content.chain.states_from(first))
    }

    /// The lease that it holds.
    pub fn lease_epoch(&self) -> Option<u64> {
        self.gate.lease.as_ref().map(|lease| lease.epoch)
    }

    /// Whether it reads, or read, the origin.
    pub fn uses_origin(&self) -> bool {
        self.gate.lease.is_some() || self.gate.alone
    }

    /// Applies one event and appends what is to be done about it.
    pub fn apply(&mut self, now: Moment, event: Event, actions: &mut Vec<Action>) {
        if self.over {
            return;
        }
        let minor = matches!(event, Event::OriginBytes { .. } | Event::ReaderMoved { .. });
        self.take(now, event, actions);
        if !minor && !self.over {
            self.plan(now, actions);
        }
        debug_assert_eq!(self.broken_invariant(), None);
    }

    fn take(&mut self, now: Moment, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::ReaderOpened { reader, range } => {
                if self.readers.is_empty() {
                    self.last_progress = now;
                }
                self.readers.insert(
                    reader,
                    Reader {
                        range,
                        offset: range.start,
                    },
                );
            }
            Event::ReaderMoved { reader, offset } => {
                if let Some(reader) = self.readers.get_mut(&reader) {
                    reader.offset = offset;
                }
            }
            Event::ReaderClosed { reader } => drop(self.readers.remove(&reader)),
            Event::LengthKnown(length) => drop(self.cut(length, actions)),
            Event::SchedulerUp => {
                self.gate.scheduler_up(now);
                actions.push(Action::Want);
            }
            Event::SchedulerDown => self.gate.scheduler_down(),
            Event::ParentsOffered(offers) => self.parents_offered(offers, actions),
            Event::ParentAlive(host) => self.parents.has(&host, &[]),
            Event::ParentHas(host, runs) => self.parents.has(&host, &runs),
            Event::ParentLost(host, failure) => self.parent_failed(now, &host, failure, 0, actions),
            Event::LinksCame {
                length,
                first,
                states,
                trusted,
            } => {
                self.links_came(length, first, &states, trusted, actions);
            }
            Event::LeaseGranted { epoch, runs } => {
                self.gate.scheduler_answered();
                self.gate.lease = Some(Lease { epoch, runs });
            }
            Event::LeaseRevoked { epoch } => self.lease_revoked(epoch, actions),
            Event::GoAlone => {
                self.gate.scheduler_answered();
                self.gate.alone = true;
            }
            Event::PieceLinked { fetch, piece } => self.piece_linked(now, fetch, piece, actions),
            Event::OriginBorder { fetch, piece, state } => {
                self.origin_border(now, fetch, piece, state, actions)
            }
            Event::OriginLast { fetch, digest } => self.origin_last(now, fetch, digest, actions),
            Event::OriginBytes { fetch, offset } => self.origin_bytes(now, fetch, offset, actions),
            Event::FetchEnded { fetch, failure } => self.fetch_ended(now, fetch, failure, actions),
            Event::ClaimChecked { piece, good } => self.claim_checked(now, piece, good, actions),
            Event::Tick => {}
        }
    }

    // === what events do ===

    /// Fixes the length; false if another one is known already or it cannot be cut.
    fn cut(&mut self, length: u64, actions: &mut Vec<Action>) -> bool {
        if let Some(content) = &self.content {
            return content.layout().length() == length;
        }
        let Ok(layout) = PieceLayout::of(length) else {
            return false;
        };
        self.content = Some(Content::new(self.settings.digest, layout));
        self.under_way = PieceSet::new(layout.piece_count());
        self.fetches
            .values()
            .for_each(|fetch| self.under_way.insert_run(fetch.run));
        self.parents.cut(layout.piece_count());
        actions.push(Action::Prepare { length });
        true
    }

    fn parents_offered(&mut self, offers: Vec<crate::ParentOffer>, actions: &mut Vec<Action>) {
        self.gate.scheduler_answered();
        let (new, gone) = self.parents.offer(offers, &self.settings.limits);
        for host in gone {
            self.cancel_requests_to(&host, actions);
            actions.push(Action::Unwatch(host));
        }
        actions.extend(new.into_iter().map(|offer| Action::Watch {
            host: offer.host,
            address: offer.address,
        }));
    }

    fn parent_failed(
        &mut self,
        now: Moment,
        host: &HostId,
        failure: ParentFailure,
        piece: PieceNumber,
        actions: &mut Vec<Action>,
    ) {
        if self.parents.failed(host, failure, now, &self.settings.limits) {
            self.cancel_requests_to(host, actions);
            actions.push(Action::Unwatch(host.clone()));
            actions.push(Action::Blame {
                host: host.clone(),
                failure,
                piece,
            });
        }
    }

    fn links_came(
        &mut self,
        length: u64,
        first: u32,
        states: &[ChainState],
        trusted: bool,
        actions: &mut Vec<Action>,
    ) {
        self.gate.scheduler_answered();
        if !self.cut(length, actions) {
            return;
        }
        let Some(content) = self.content.as_mut() else {
            return;
        };
        let known = content.chain.known();
        match content.learn(first, states, trusted) {
            Ok(()) => {
                let now_known = content.chain.known();
                if now_known > known {
                    let states = content.chain.states_from(known).to_vec();
                    actions.push(Action::KeepStates { first: known, states });
                }
                actions.extend(content.release().into_iter().map(Action::Release));
            }
            // Two authors disagree, or one talks nonsense. Who is right shows only at the origin.
            Err(darter_types::ChainError::Conflict { .. }) => self.fail(Failure::WrongContent, actions),
            Err(_) => {}
        }
    }

    fn lease_revoked(&mut self, epoch: u64, actions: &mut Vec<Action>) {
        if self.lease_epoch() == Some(epoch) {
            self.gate.lease = None;
            if !self.gate.alone {
                self.cancel(|fetch| fetch.host.is_none(), actions);
            }
        }
    }

    fn piece_linked(&mut self, now: Moment, fetch: FetchId, piece: PieceNumber, actions: &mut Vec<Action>) {
        let Some(from) = self.fetches.get(&fetch).map(|fetch| fetch.host.clone()) else {
            return;
        };
        if let Some(host) = &from {
            self.parents.succeeded(host);
        }
        self.piece_here(now, piece, from, actions);
    }

    fn origin_border(
        &mut self,
        now: Moment,
        fetch: FetchId,
        piece: PieceNumber,
        state: ChainState,
        actions: &mut Vec<Action>,
    ) {
        if !self.fetches.contains_key(&fetch) {
            return;
        }
        let epoch = self.lease_epoch();
        let Some(content) = self.content.as_mut() else {
            return;
        };
        let border = piece + 1;
        let news = border >= content.chain.known();
        if content.learn(border, &[state], true).is_err() {
            // What the origin gave over TLS contradicts the chain that others published.
            return self.fail(Failure::WrongContent, actions);
        }
        if news {
            actions.push(Action::KeepStates {
                first: border,
                states: vec![state],
            });
            actions.push(Action::Publish {
                epoch,
                first: border,
                states: vec![state],
            });
        }
        self.gate.progressed();
        self.piece_here(now, piece, None, actions);
    }

    fn origin_last(&mut self, now: Moment, fetch: FetchId, digest: Digest, actions: &mut Vec<Action>) {
        if !self.fetches.contains_key(&fetch) {
            return;
        }
        if digest != self.settings.digest {
            return self.fail(Failure::WrongContent, actions);
        }
        self.gate.progressed();
        if let Some(last) = self.layout().map(PieceLayout::last_piece) {
            self.piece_here(now, last, None, actions);
        }
    }

    fn origin_bytes(&mut self, now: Moment, fetch: FetchId, offset: u64, actions: &mut Vec<Action>) {
        let Some(layout) = self.layout() else { return };
        if self.fetches.contains_key(&fetch) {
            self.last_progress = now;
            self.gate.progressed();
            // The last piece waits for the proof of the whole.
            let end = layout.piece_range(layout.last_piece()).start;
            actions.push(Action::ReleaseBytes {
                offset: offset.min(end),
            });
        }
    }

    /// A piece is linked and written, whoever it came from.
    fn piece_here(
        &mut self,
        now: Moment,
        piece: PieceNumber,
        from: Option<HostId>,
        actions: &mut Vec<Action>,
    ) {
        let Some(content) = self.content.as_mut() else {
            return;
        };
        self.last_progress = now;
        content.claimed.remove(piece);
        if !content.present.insert(piece) {
            return;
        }
        actions.push(Action::Have { piece, from });
        if content.is_proved() {
            actions.extend(content.release().into_iter().map(Action::Release));
        } else {
            actions.extend(content.release_one(piece).map(Action::Release));
        }
        self.cancel_duplicates(piece, actions);
    }

    fn fetch_ended(
        &mut self,
        now: Moment,
        id: FetchId,
        failure: Option<FetchFailure>,
        actions: &mut Vec<Action>,
    ) {
        let Some(fetch) = self.remove_fetch(id) else {
            return;
        };
        match (failure, fetch.host) {
            (None, _) => {}
            (Some(FetchFailure::Parent(failure)), Some(host)) => {
                let missing = self.first_missing(fetch.run);
                self.parent_failed(now, &host, failure, missing, actions);
            }
            (Some(FetchFailure::Origin(failure)), _) => self.origin_failed(now, failure, actions),
            (Some(FetchFailure::Store), _) => self.fail(Failure::Store, actions),
            (Some(FetchFailure::Parent(_)), None) => {}
        }
    }

    fn origin_failed(&mut self, now: Moment, failure: OriginFailure, actions: &mut Vec<Action>) {
        let over = match failure {
            OriginFailure::WrongContent => return self.fail(Failure::WrongContent, actions),
            OriginFailure::Refused => Failure::Refused,
            OriginFailure::Absent => Failure::Absent,
            OriginFailure::Transient if !self.gate.failed(now, &self.settings.limits) => return,
            OriginFailure::Transient => Failure::Unavailable,
        };
        if let Some(lease) = self.gate.lease.take() {
            actions.push(Action::EndLease {
                epoch: lease.epoch,
                failure: Some(over),
            });
        }
        // Others may be luckier with the origin; what they fetch reaches this node as long as one of them lives.
        if self.parents.any_alive() && over == Failure::Unavailable {
            self.gate.alone = false;
            self.gate.failures = 0;
        } else {
            self.fail(over, actions);
        }
    }

    fn claim_checked(&mut self, now: Moment, piece: PieceNumber, good: bool, actions: &mut Vec<Action>) {
        self.under_way.remove(piece);
        if let Some(content) = self.content.as_mut() {
            content.claimed.remove(piece);
            if good {
                self.piece_here(now, piece, None, actions);
            }
        }
    }

    fn fail(&mut self, failure: Failure, actions: &mut Vec<Action>) {
        self.cancel(|_| true, actions);
        if let Some(lease) = self.gate.lease.take() {
            actions.push(Action::EndLease {
                epoch: lease.epoch,
                failure: Some(failure),
            });
        }
        actions.push(Action::Fail(failure));
        self.over = true;
    }

    // === what follows from the state ===

    /// Brings requests in line with the state: ends what is done, asks for what is missing.
    fn plan(&mut self, now: Moment, actions: &mut Vec<Action>) {
        if self.finish_if_proved(actions) {
            return;
        }
        let waiting = self.waiting_since();
        self.gate
            .consider(now, waiting, self.parents.any_alive(), &self.settings.limits);
        self.check_claims(actions);
        self.ask_parents(now, actions);
        self.ask_origin(now, actions);
    }

    fn finish_if_proved(&mut self, actions: &mut Vec<Action>) -> bool {
        if !self.content.as_ref().is_some_and(Content::is_proved) {
            return false;
        }
        self.cancel(|_| true, actions);
        if let Some(lease) = self.gate.lease.take() {
            actions.push(Action::EndLease {
                epoch: lease.epoch,
                failure: None,
            });
        }
        actions.push(Action::Proved);
        self.over = true;
        true
    }

    /// Since when somebody waits for a byte; `None` if nobody does.
    fn waiting_since(&self) -> Option<Moment> {
        (self.settings.background || !self.readers.is_empty()).then_some(self.last_progress)
    }

    /// Claimed pieces are read back and linked as soon as their states are known.
    fn check_claims(&mut self, actions: &mut Vec<Action>) {
        let Some(content) = &self.content else { return };
        for piece in content.claimed.iter() {
            if self.under_way.contains(piece) {
                continue;
            }
            if let Some(proof) = content.chain.proof(piece) {
                actions.push(Action::Check { piece, proof });
                self.under_way.insert(piece);
            }
        }
    }

    fn ask_parents(&mut self, now: Moment, actions: &mut Vec<Action>) {
        if self.readers.is_empty() && !self.settings.background {
            return;
        }
        // One request for each parent in turn, so that a slot is not all one parent's.
        loop {
            let mut asked = false;
            let hosts: Vec<HostId> = self.askable_parents(now);
            for host in hosts {
                if self.peer_requests() >= self.settings.limits.requests_max {
                    return;
                }
                if let Some(run) = self.choose(now, &host) {
                    self.ask_parent(now, &host, run, actions);
                    asked = true;
                }
            }
            if !asked {
                return;
            }
        }
    }

    /// Parents with a free slot, those with the fewest requests first, equals at random.
    fn askable_parents(&mut self, now: Moment) -> Vec<HostId> {
        let limits = &self.settings.limits;
        let rng = &mut self.rng;
        let mut hosts: Vec<(usize, u32, HostId)> = self
            .parents
            .by_host
            .iter()
            .filter(|(_, parent)| parent.may_be_asked(now, limits))
            .map(|(host, parent)| (parent.requests, rng.random(), host.clone()))
            .collect();
        hosts.sort_unstable();
        hosts.into_iter().map(|(_, _, host)| host).collect()
    }

    fn choose(&mut self, now: Moment, host: &HostId) -> Option<PieceRun> {
        let urgent = self.urgent_pieces();
        let Self {
            content,
            parents,
            readers,
            under_way,
            settings,
            rng,
            ..
        } = self;
        let content = content.as_ref()?;
        let choice = Choice {
            layout: content.layout(),
            has: &parents.by_host.get(host)?.has,
            wanted: |piece| {
                !under_way.contains(piece)
                    && content.is_missing(piece)
                    && content.is_linkable(piece)
                    && (settings.whole || is_read(readers, content.layout(), piece))
            },
            rarity: |piece| parents.count(piece),
            urgent: &urgent,
            run_bytes: settings.limits.run_bytes,
        };
        choice.pick(rng).or_else(|| self.hedge(now, host))
    }

    /// A piece that another parent has been asked for too long ago, when nothing else is left to ask for.
    fn hedge(&self, now: Moment, host: &HostId) -> Option<PieceRun> {
        let content = self.content.as_ref()?;
        let parent = self.parents.by_host.get(host)?;
        self.fetches
            .values()
            .filter(|fetch| fetch.host.as_ref() != Some(host))
            .filter(|fetch| now.since(fetch.started) >= self.settings.limits.hedge_after)
            .flat_map(|fetch| fetch.run.pieces())
            .find(|piece| {
                parent.has.contains(*piece)
                    && !content.present.contains(*piece)
                    && content.is_linkable(*piece)
                    && self
                        .fetches
                        .values()
                        .filter(|fetch| fetch.run.contains(*piece))
                        .count()
                        < 2
            })
            .map(PieceRun::one)
    }

    /// The next pieces that each reader lacks, in order.
    fn urgent_pieces(&self) -> Vec<PieceNumber> {
        let Some(content) = &self.content else {
            return Vec::new();
        };
        let layout = content.layout();
        let mut urgent = Vec::new();
        for reader in self.readers.values() {
            let run = layout.pieces_of(ByteRange::new(reader.offset, reader.range.end));
            let mut next = run.first;
            for _ in 0..self.settings.limits.urgent_pieces {
                next = content.present.next_missing(next);
                if next >= run.end() {
                    break;
                }
                urgent.push(next);
                next += 1;
            }
        }
        urgent
    }

    /// Whether anybody wants the piece.
    fn is_wanted(&self, piece: PieceNumber) -> bool {
        self.settings.whole
            || self
                .layout()
                .is_some_and(|layout| is_read(&self.readers, layout, piece))
    }

    fn ask_parent(&mut self, now: Moment, host: &HostId, run: PieceRun, actions: &mut Vec<Action>) {
        let Some(content) = &self.content else { return };
        let proofs: Vec<_> = run
            .pieces()
            .map_while(|piece| content.chain.proof(piece))
            .collect();
        let Some(parent) = self.parents.by_host.get_mut(host) else {
            return;
        };
        parent.requests += 1;
        let address = parent.address.clone();
        let fetch = self.add_fetch(now, Some(host.clone()), run);
        actions.push(Action::FetchPeer {
            fetch,
            host: host.clone(),
            address,
            run,
            proofs,
        });
    }

    /// Reads the origin where it may: one request at a time, from a border whose state is known.
    fn ask_origin(&mut self, now: Moment, actions: &mut Vec<Action>) {
        let wanted = self.settings.background || !self.readers.is_empty() || self.gate.lease.is_some();
        if !wanted || self.origin_requests() > 0 || !self.gate.is_open(now) {
            return;
        }
        if self.content.is_none() {
            // The origin's answer tells the length; the run is cut down to it by the shell.
            let run = PieceRun {
                first: 0,
                count: PieceLayout::PIECES_MAX,
            };
            let before = ChainState::initial(self.settings.digest.algorithm());
            let fetch = self.add_fetch(now, None, run);
            return actions.push(Action::FetchOrigin { fetch, run, before });
        }
        let Some(run) = self.origin_run() else {
            return self.end_lease_if_covered(actions);
        };
        let Some(content) = &self.content else { return };
        let Some(before) = content.chain.states_from(run.first).first().copied() else {
            return;
        };
        let fetch = self.add_fetch(now, None, run);
        actions.push(Action::FetchOrigin { fetch, run, before });
    }

    /// The first stretch that is missing and can be linked on the way: up to the next piece that is here or
    /// under way.
    fn origin_run(&self) -> Option<PieceRun> {
        let content = self.content.as_ref()?;
        let known = content.chain.known();
        let count = content.layout().piece_count();
        let missing = |piece: &PieceNumber| {
            content.is_missing(*piece) && !self.under_way.contains(*piece) && self.is_wanted(*piece)
        };
        let leased = |piece: &PieceNumber| self.gate.alone || self.in_lease(*piece);
        let first = (0..known.min(count))
            .find(|piece| missing(piece) && leased(piece))
            .or_else(|| {
                // What the lease covers lies beyond the chain: walk there, or nobody could ever link it.
                (self.has_leased_gap() || self.gate.alone)
                    .then_some(known.checked_sub(1)?)
                    .filter(missing)
            })?;
        let end = (first + 1..count).find(|piece| !missing(piece)).unwrap_or(count);
        Some(PieceRun {
            first,
            count: end - first,
        })
    }

    fn in_lease(&self, piece: PieceNumber) -> bool {
        self.gate
            .lease
            .as_ref()
            .is_some_and(|lease| lease.runs.is_empty() || lease.runs.iter().any(|run| run.contains(piece)))
    }

    fn has_leased_gap(&self) -> bool {
        self.content.as_ref().is_some_and(|content| {
            let mut piece = content.present.next_missing(0);
            while piece < content.present.capacity() {
                if self.in_lease(piece) && !self.under_way.contains(piece) {
                    return true;
                }
                piece = content.present.next_missing(piece + 1);
            }
            false
        })
    }

    /// A lease whose pieces are all here is done, though others of the content may still be missing.
    fn end_lease_if_covered(&mut self, actions: &mut Vec<Action>) {
        let Some(content) = &self.content else { return };
        let mut missing = (0..content.present.capacity()).filter(|piece| !content.present.contains(*piece));
        if self.gate.lease.is_some() && !missing.any(|piece| self.in_lease(piece)) {
            if let Some(lease) = self.gate.lease.take() {
                actions.push(Action::EndLease {
                    epoch: lease.epoch,
                    failure: None,
                });
            }
        }
    }

    // === requests ===

    fn add_fetch(&mut self, now: Moment, host: Option<HostId>, run: PieceRun) -> FetchId {
        let id = FetchId(self.next_fetch);
        self.next_fetch += 1;
        self.under_way.insert_run(run);
        self.fetches.insert(
            id,
            Fetch {
                host,
                run,
                started: now,
            },
        );
        id
    }

    fn remove_fetch(&mut self, id: FetchId) -> Option<Fetch> {
        let fetch = self.fetches.remove(&id)?;
        if let Some(parent) = fetch
            .host
            .as_ref()
            .and_then(|host| self.parents.by_host.get_mut(host))
        {
            parent.requests = parent.requests.saturating_sub(1);
        }
        let end = fetch.run.end().min(self.under_way.capacity());
        for piece in fetch.run.first..end {
            if !self.fetches.values().any(|other| other.run.contains(piece)) {
                self.under_way.remove(piece);
            }
        }
        Some(fetch)
    }

    fn cancel(&mut self, which: impl Fn(&Fetch) -> bool, actions: &mut Vec<Action>) {
        let ids: Vec<FetchId> = self
            .fetches
            .iter()
            .filter(|(_, fetch)| which(fetch))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.remove_fetch(id);
            actions.push(Action::Cancel(id));
        }
    }

    fn cancel_requests_to(&mut self, host: &HostId, actions: &mut Vec<Action>) {
        self.cancel(|fetch| fetch.host.as_ref() == Some(host), actions);
    }

    /// A piece came: other requests for it alone are for nothing.
    fn cancel_duplicates(&mut self, piece: PieceNumber, actions: &mut Vec<Action>) {
        let twice = self
            .fetches
            .values()
            .filter(|fetch| fetch.run.contains(piece))
            .count()
            > 1;
        if twice {
            self.cancel(|fetch| fetch.run == PieceRun::one(piece), actions);
        }
    }

    fn first_missing(&self, run: PieceRun) -> PieceNumber {
        let present = self.present();
        run.pieces()
            .find(|piece| present.is_none_or(|set| !set.contains(*piece)))
            .unwrap_or(run.first)
    }

    pub(crate) fn peer_requests(&self) -> usize {
        self.fetches.values().filter(|fetch| fetch.host.is_some()).count()
    }

    pub(crate) fn origin_requests(&self) -> usize {
        self.fetches.values().filter(|fetch| fetch.host.is_none()).count()
    }

    pub(crate) fn requests_to(&self, host: &HostId) -> usize {
        self.fetches
            .values()
            .filter(|fetch| fetch.host.as_ref() == Some(host))
            .count()
    }
}

/// Whether a reader will come to the piece.
fn is_read(readers: &BTreeMap<ReaderId, Reader>, layout: PieceLayout, piece: PieceNumber) -> bool {
    readers
        .values()
        .any(|reader| layout.pieces_of(reader.range).contains(piece))
}

#[cfg(test)]
mod tests;
