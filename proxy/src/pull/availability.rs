//! What of a content may be read now: written by its driver, watched by readers and by the peer server.
//!
//! One small lock that is never held across an await or an I/O call; a version that grows with every change wakes
//! whoever waits.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use darter_engine::Offers;
use darter_store::{ContentFacts, StoredTask};
use darter_types::{ByteRange, HostId, Moment, PieceLayout, PieceNumber, PieceRun, PieceSet};
use tokio::time::Instant;

use super::PullError;
use super::changes::{Changes, Changing};
use crate::metrics::BytesFrom;

/// The shared view of one running pull.
#[derive(Debug)]
pub struct Availability {
    state: Mutex<State>,
    version: Changing,
    /// How often pieces were taken back.
    withdrawals: AtomicU32,
    started: Instant,
}

#[derive(Debug, Default)]
struct State {
    ready: Option<Ready>,
    /// Nodes that listen to what this one has, but for `on_demand`.
    children: BTreeSet<HostId>,
    /// Those that wait for single pieces: they see all that is here, and exchange nothing first.
    on_demand: BTreeSet<HostId>,
    /// This node reads the origin: it shows each piece to one child first.
    source: bool,
    outcome: Option<Result<(), PullError>>,
}

#[derive(Debug)]
struct Ready {
    layout: PieceLayout,
    stored: Arc<dyn StoredTask>,
    /// Linked: other nodes may have them.
    present: PieceSet,
    /// Clients may have them.
    released: PieceSet,
    /// Attested, if not linked since: other nodes, and clients that read parts, may have them.
    apart: PieceSet,
    /// Linked, and held back until the whole is proved: clients that read parts may have them.
    parts: PieceSet,
    /// Which of the present ones another node sent.
    from_peers: PieceSet,
    /// Which of the present ones the store had before this pull.
    from_store: PieceSet,
    /// Bytes of a piece that is arriving from the origin which clients may have already.
    partial: ByteRange,
    /// Which of them each child may know of; absent = all.
    offers: Option<Offers>,
}

/// What a reader finds at its offset.
#[derive(Debug)]
pub(crate) enum Readable {
    /// These bytes, from this place.
    Bytes(Arc<dyn StoredTask>, ByteRange),
    /// Nothing yet.
    NotYet,
    /// Never.
    Failed(PullError),
}

impl Availability {
    /// Nothing is known yet.
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::default(),
            version: Changing::default(),
            withdrawals: AtomicU32::new(0),
            started: Instant::now(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere cannot leave the state half changed: each change is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, with: impl FnOnce(&mut State)) {
        with(&mut self.lock());
        self.version.changed();
    }

    fn change_ready(&self, with: impl FnOnce(&mut Ready)) {
        self.change(|state| {
            if let Some(ready) = state.ready.as_mut() {
                with(ready);
            }
        });
    }

    /// Wakes at every change from now on.
    pub(crate) fn watch(&self) -> Changes {
        self.version.watch()
    }

    // === the driver's side ===

    pub(crate) fn ready(&self, stored: Arc<dyn StoredTask>, layout: PieceLayout) {
        let none = PieceSet::new(layout.piece_count());
        let partial = ByteRange::new(0, 0);
        self.change(|state| {
            state.ready = Some(Ready {
                layout,
                stored,
                present: none.clone(),
                released: none.clone(),
                apart: none.clone(),
                parts: none.clone(),
                from_peers: none.clone(),
                from_store: none,
                partial,
                offers: None,
            });
        });
        self.make_offers();
    }

    /// Of a content that is all there and proved: nothing will change any more.
    pub(crate) fn complete(stored: Arc<dyn StoredTask>, layout: PieceLayout) -> Self {
        let all = PieceSet::full(layout.piece_count());
        let partial = ByteRange::new(0, 0);
        let ready = Ready {
            layout,
            stored,
            present: all.clone(),
            released: all.clone(),
            apart: PieceSet::new(layout.piece_count()),
            parts: PieceSet::new(layout.piece_count()),
            from_peers: PieceSet::new(layout.piece_count()),
            from_store: all,
            partial,
            offers: None,
        };
        let state = State {
            ready: Some(ready),
            outcome: Some(Ok(())),
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            ..Self::new()
        }
    }

    /// This node reads the origin for the cluster: from now on each piece is shown to one child first.
    pub(crate) fn become_source(&self) {
        self.lock().source = true;
        self.make_offers();
    }

    fn make_offers(&self) {
        let now = self.now();
        self.change(|state| {
            let Some(ready) = state
                .ready
                .as_mut()
                .filter(|ready| state.source && ready.offers.is_none())
            else {
                return;
            };
            let mut offers = Offers::new(ready.layout.piece_count(), now);
            state
                .children
                .iter()
                .for_each(|child| offers.child_joined(child.clone(), now));
            ready
                .present
                .iter()
                .for_each(|piece| offers.piece_arrived(piece, now));
            ready.offers = Some(offers);
        });
    }

    fn now(&self) -> Moment {
        Moment::after_start(self.started.elapsed())
    }

    /// Takes pieces back that rest on a chain which counts no more, and bytes of an arriving piece from `first` on.
    pub(crate) fn withdraw(&self, runs: &[PieceRun], first: PieceNumber) {
        self.withdrawals.fetch_add(1, Ordering::Relaxed);
        self.change_ready(|ready| {
            for piece in runs.iter().flat_map(|run| run.pieces()) {
                ready.present.remove(piece);
                ready.released.remove(piece);
                ready.apart.remove(piece);
                ready.parts.remove(piece);
                ready.from_peers.remove(piece);
                ready.from_store.remove(piece);
            }
            if ready.layout.piece_at(ready.partial.start) >= first {
                ready.partial = ByteRange::new(0, 0);
            }
        });
    }

    /// Bytes of `range` by where they came from; what is arriving comes from the origin.
    pub(crate) fn sources(&self, range: ByteRange) -> Vec<(BytesFrom, u64)> {
        let state = self.lock();
        let Some(ready) = &state.ready else {
            return Vec::new();
        };
        let pieces = ready.layout.pieces_of(range).pieces();
        pieces
            .map(|piece| {
                let bytes = ready.layout.piece_range(piece).intersect(range).len();
                (ready.source(piece), bytes)
            })
            .collect()
    }

    pub(crate) fn set_present(&self, piece: PieceNumber, from: BytesFrom) {
        let now = self.now();
        self.change_ready(|ready| {
            ready.present.insert(piece);
            match from {
                BytesFrom::Peer => drop(ready.from_peers.insert(piece)),
                BytesFrom::Cache => drop(ready.from_store.insert(piece)),
                BytesFrom::Origin => {}
            }
            if let Some(offers) = ready.offers.as_mut() {
                offers.piece_arrived(piece, now);
            }
        });
    }

    /// A piece is here, attested only.
    pub(crate) fn set_apart(&self, piece: PieceNumber, from: BytesFrom) {
        self.change_ready(|ready| {
            ready.apart.insert(piece);
            match from {
                BytesFrom::Peer => drop(ready.from_peers.insert(piece)),
                BytesFrom::Cache => drop(ready.from_store.insert(piece)),
                BytesFrom::Origin => {}
            }
        });
    }

    // === the peer server's side ===

    /// A child listens; one that wants single pieces (`on_demand`) sees all, and no piece is shown to it for the others.
    pub(crate) fn child_joined(&self, child: &HostId, on_demand: bool) {
        let now = self.now();
        self.change(|state| {
            if on_demand {
                state.on_demand.insert(child.clone());
                return;
            }
            state.children.insert(child.clone());
            if let Some(offers) = state.ready.as_mut().and_then(|ready| ready.offers.as_mut()) {
                offers.child_joined(child.clone(), now);
            }
        });
    }

    pub(crate) fn child_left(&self, child: &HostId, on_demand: bool) {
        let now = self.now();
        self.change(|state| {
            if on_demand {
                state.on_demand.remove(child);
                return;
            }
            state.children.remove(child);
            if let Some(offers) = state.ready.as_mut().and_then(|ready| ready.offers.as_mut()) {
                offers.child_left(child, now);
            }
        });
    }

    /// Whether another node waits for what comes here.
    pub(crate) fn has_children(&self) -> bool {
        let state = self.lock();
        !(state.children.is_empty() && state.on_demand.is_empty())
    }

    /// A piece went out whole.
    pub(crate) fn sent(&self, piece: PieceNumber) {
        let now = self.now();
        if self
            .lock()
            .ready
            .as_ref()
            .is_some_and(|ready| ready.offers.is_some())
        {
            self.change_ready(|ready| {
                if let Some(offers) = ready.offers.as_mut() {
                    offers.piece_sent(piece, now);
                }
            });
        }
    }

    /// Lets time pass for what children were shown; `busy` says that this node has no upload to spare. Gives how many pieces all
    /// children see now because one left them.
    pub(crate) fn offers_tick(&self, busy: bool) -> usize {
        let now = self.now();
        let mut state = self.lock();
        let offers = state.ready.as_mut().and_then(|ready| ready.offers.as_mut());
        offers.map_or(0, |offers| offers.tick(now, busy))
    }

    /// How often pieces were taken back: after another time, what a child was told of may be gone.
    pub(crate) fn withdrawals(&self) -> u32 {
        self.withdrawals.load(Ordering::Relaxed)
    }

    /// Whether any piece is here.
    pub(crate) fn has_any(&self) -> bool {
        let state = self.lock();
        state
            .ready
            .as_ref()
            .is_some_and(|ready| !ready.present.is_empty())
    }

    /// Whether all pieces of `run` may be given to other nodes.
    pub(crate) fn has(&self, run: PieceRun) -> bool {
        self.lock()
            .ready
            .as_ref()
            .is_some_and(|ready| run.pieces().all(|piece| ready.is_here(piece)))
    }

    /// Pieces that a child may know of, and the content's length in bytes.
    pub(crate) fn visible_to(&self, child: Option<&HostId>) -> Option<(PieceSet, u64)> {
        let state = self.lock();
        let ready = state.ready.as_ref()?;
        let mut visible = ready.present.clone();
        let held_back = child.filter(|child| !state.on_demand.contains(*child));
        if let (Some(offers), Some(child)) = (&ready.offers, held_back) {
            ready
                .present
                .iter()
                .filter(|piece| !offers.shows(child, *piece))
                .for_each(|piece| {
                    visible.remove(piece);
                });
        }
        // Whoever wants those waits for them now: nobody is to exchange them first.
        visible.insert_all(&ready.apart);
        Some((visible, ready.layout.length()))
    }

    pub(crate) fn release(&self, run: PieceRun) {
        self.change_ready(|ready| ready.released.insert_run(run));
    }

    /// Readers of parts may have a piece that is present.
    pub(crate) fn release_to_ranges(&self, piece: PieceNumber) {
        self.change_ready(|ready| {
            ready.parts.insert(piece);
        });
    }

    /// Bytes came that nobody may read yet: whoever waits sees that something happens.
    pub(crate) fn bytes_came(&self) {
        self.version.changed();
    }

    /// Bytes of the arriving piece up to `offset` may be read.
    pub(crate) fn release_bytes(&self, offset: u64) {
        self.change_ready(|ready| {
            let piece = ready.layout.piece_at(offset.saturating_sub(1));
            ready.partial = ByteRange::new(ready.layout.piece_range(piece).start, offset);
        });
    }

    /// Ends the pull. The first outcome stands.
    pub(crate) fn end(&self, outcome: Result<(), PullError>) {
        self.change(|state| {
            state.outcome.get_or_insert(outcome);
        });
    }

    // === the readers' side ===

    /// Whether it ended, and how.
    pub(crate) fn outcome(&self) -> Option<Result<(), PullError>> {
        self.lock().outcome.clone()
    }

    /// What is known of the content, once its length is.
    pub(crate) fn facts(&self) -> Option<ContentFacts> {
        self.lock().ready.as_ref().map(|ready| ready.stored.facts())
    }

    /// Where the content is kept, once its length is known.
    pub(crate) fn stored(&self) -> Option<(Arc<dyn StoredTask>, PieceLayout)> {
        self.lock()
            .ready
            .as_ref()
            .map(|ready| (Arc::clone(&ready.stored), ready.layout))
    }

    /// What can be read at `offset` by who reads `range`. If that is a part of the content and he takes `parts`, what is not linked
    /// yet, or held back until the whole is proved, is for him as well.
    pub(crate) fn readable(&self, offset: u64, range: ByteRange, parts: bool) -> Readable {
        let end = range.end;
        let state = self.lock();
        let until = state
            .ready
            .as_ref()
            .map_or(offset, |ready| ready.readable_until(offset, range, parts))
            .min(end);
        match (&state.ready, &state.outcome) {
            (Some(ready), _) if until > offset => {
                Readable::Bytes(Arc::clone(&ready.stored), ByteRange::new(offset, until))
            }
            (_, Some(Err(error))) => Readable::Failed(error.clone()),
            _ => Readable::NotYet,
        }
    }
}

impl Ready {
    fn source(&self, piece: PieceNumber) -> BytesFrom {
        if self.from_peers.contains(piece) {
            BytesFrom::Peer
        } else if self.from_store.contains(piece) {
            BytesFrom::Cache
        } else {
            BytesFrom::Origin
        }
    }

    fn is_here(&self, piece: PieceNumber) -> bool {
        self.present.contains(piece) || self.apart.contains(piece)
    }

    fn readable_until(&self, offset: u64, range: ByteRange, parts: bool) -> u64 {
        let piece = self.layout.piece_at(offset);
        let of_part = parts && (range.start > 0 || range.end < self.layout.length());
        let mut next = self.released.next_missing(piece);
        while of_part && (self.apart.contains(next) || self.parts.contains(next)) {
            next = self.parts.next_missing(self.apart.next_missing(next));
            next = self.released.next_missing(next);
        }
        let released = if next > piece {
            self.layout.piece_range(next - 1).end
        } else {
            offset
        };
        if self.partial.contains(released) {
            self.partial.end
        } else {
            released
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use darter_store::{MemoryStore, PieceStore as _};
    use darter_types::{Algorithm, Digest};

    const MIB: u64 = 1024 * 1024;

    fn available(length: u64) -> Availability {
        let layout = PieceLayout::of(length).unwrap();
        let facts = ContentFacts {
            layout,
            origin: None,
            media_type: None,
            whole: true,
            public: true,
        };
        let stored = MemoryStore::new(u64::MAX)
            .open(Digest::of(Algorithm::Sha256, b"x").into(), &facts)
            .unwrap();
        let availability = Availability::new();
        availability.ready(stored, layout);
        availability
    }

    fn until(availability: &Availability, offset: u64) -> Option<u64> {
        match availability.readable(offset, ByteRange::new(0, u64::MAX), true) {
            Readable::Bytes(_, range) => Some(range.end),
            _ => None,
        }
    }

    #[test]
    fn reads_on_from_released_pieces_into_the_arriving_one() {
        let availability = available(MIB);
        assert_eq!(until(&availability, 0), None);
        availability.release_bytes(1000);
        assert_eq!(until(&availability, 0), Some(1000));
        assert_eq!(until(&availability, 1000), None);
        availability.release(PieceRun::one(0));
        availability.release_bytes(MIB / 4 + 10);
        assert_eq!(until(&availability, 5), Some(MIB / 4 + 10));
        availability.release(PieceRun { first: 1, count: 3 });
        assert_eq!(until(&availability, 5), Some(MIB));
    }

    #[test]
    fn bytes_are_told_by_where_they_came_from() {
        let availability = available(MIB);
        availability.set_present(0, BytesFrom::Cache);
        availability.set_present(1, BytesFrom::Peer);
        availability.set_present(2, BytesFrom::Origin);
        assert_eq!(
            availability.sources(ByteRange::new(100, 3 * MIB / 4 + 7)),
            [
                (BytesFrom::Cache, MIB / 4 - 100),
                (BytesFrom::Peer, MIB / 4),
                (BytesFrom::Origin, MIB / 4),
                (BytesFrom::Origin, 7)
            ]
        );
    }

    #[test]
    fn what_is_taken_back_is_given_to_nobody() {
        let availability = available(MIB);
        for piece in 0..3 {
            availability.set_present(piece, BytesFrom::Peer);
        }
        availability.release(PieceRun { first: 0, count: 3 });
        availability.release_bytes(3 * MIB / 4 + 10);
        assert_eq!(until(&availability, 0), Some(3 * MIB / 4 + 10));
        availability.withdraw(&[PieceRun { first: 1, count: 2 }], 2);
        assert_eq!(until(&availability, 0), Some(MIB / 4));
        assert_eq!(until(&availability, MIB / 2), None);
        assert_eq!(
            until(&availability, 3 * MIB / 4),
            None,
            "of the arriving piece as well"
        );
        assert!(availability.has(PieceRun::one(0)));
        assert!(!availability.has(PieceRun { first: 0, count: 2 }));
        let (visible, _) = availability.visible_to(None).unwrap();
        assert_eq!(visible.iter().collect::<Vec<_>>(), [0]);
        availability.release(PieceRun::one(1));
        assert_eq!(until(&availability, 0), Some(MIB / 2), "until it comes again");
    }

    #[test]
    fn what_is_only_attested_is_for_readers_of_ranges() {
        let availability = available(MIB);
        availability.set_apart(1, BytesFrom::Origin);
        availability.set_apart(2, BytesFrom::Peer);
        availability.release(PieceRun::one(3));
        let until = |range: ByteRange| match availability.readable(MIB / 4, range, true) {
            Readable::Bytes(_, range) => Some(range.end),
            _ => None,
        };
        assert_eq!(until(ByteRange::new(0, MIB)), None);
        assert_eq!(until(ByteRange::new(1, MIB)), Some(MIB));
        assert_eq!(until(ByteRange::new(0, MIB - 1)), Some(MIB - 1));
        assert!(availability.has(PieceRun { first: 1, count: 2 }));
        let seen = availability
            .visible_to(None)
            .map(|(seen, _)| seen.iter().collect::<Vec<_>>());
        assert_eq!(seen, Some(vec![1, 2]), "present is another thing");
        availability.withdraw(&[PieceRun::one(1)], PieceNumber::MAX);
        assert_eq!(until(ByteRange::new(1, MIB)), None);
    }

    #[test]
    fn the_last_piece_goes_to_readers_of_ranges_before_the_whole_is_proved() {
        let availability = available(MIB);
        availability.set_present(3, BytesFrom::Origin);
        availability.release_to_ranges(3);
        let start = 3 * MIB / 4;
        let is_there = |range| matches!(availability.readable(start, range, true), Readable::Bytes(..));
        assert!(is_there(ByteRange::new(start, MIB)));
        assert!(!is_there(ByteRange::new(0, MIB)));
    }

    #[test]
    fn what_waits_for_the_proof_goes_to_who_takes_parts_and_to_nobody_else() {
        let availability = available(MIB);
        for piece in 0..3 {
            availability.set_present(piece, BytesFrom::Peer);
            availability.release_to_ranges(piece);
        }
        let is_there = |range, parts| matches!(availability.readable(0, range, parts), Readable::Bytes(..));
        let (part, whole) = (ByteRange::new(0, 3 * MIB / 4), ByteRange::new(0, MIB));
        assert!(is_there(part, true));
        assert!(!is_there(part, false) && !is_there(whole, true) && !is_there(whole, false));
        availability.release(PieceRun { first: 0, count: 4 });
        assert!(is_there(part, false) && is_there(whole, true) && is_there(whole, false));
        availability.withdraw(&[PieceRun { first: 0, count: 4 }], 1);
        assert!(!is_there(part, true));
    }

    #[test]
    fn nothing_is_held_back_from_a_child_that_waits_for_single_pieces() {
        let [a, b, single]: [HostId; 3] = ["a", "b", "single"].map(|name| name.parse().unwrap());
        let children = [a, b];
        let availability = available(MIB);
        let seen = |child| {
            let (seen, _) = availability.visible_to(Some(child)).unwrap();
            seen.len()
        };
        children
            .iter()
            .for_each(|child| availability.child_joined(child, false));
        availability.child_joined(&single, true);
        availability.become_source();
        (0..4).for_each(|piece| availability.set_present(piece, BytesFrom::Origin));
        assert_eq!(seen(&single), 4);
        assert_eq!(
            children.iter().map(seen).sum::<u32>(),
            4,
            "each is shown to one first, and none for the sake of the child that sees all"
        );
        // One of them listens for single pieces as well, and ends that first.
        availability.child_joined(&children[0], true);
        assert_eq!(seen(&children[0]), 4);
        availability.child_left(&children[0], true);
        assert!(seen(&children[0]) < 4);
        children
            .iter()
            .for_each(|child| availability.child_left(child, false));
        assert!(availability.has_children());
        availability.child_left(&single, true);
        assert!(!availability.has_children());
    }

    #[test]
    fn a_failure_comes_after_what_can_be_read() {
        let availability = available(MIB);
        availability.release(PieceRun::one(0));
        availability.end(Err(PullError::WrongContent));
        availability.end(Ok(()));
        assert_eq!(until(&availability, 0), Some(MIB / 4));
        assert!(matches!(
            availability.readable(MIB / 4, ByteRange::new(0, MIB), true),
            Readable::Failed(PullError::WrongContent)
        ));
    }
}
