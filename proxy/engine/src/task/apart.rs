//! Pieces out of order: what readers of ranges wait for, ahead of the chain.
//!
//! Such a piece is read from the origin alone and attested by its SHA-256, or comes from a parent by the attestation of an
//! author of trust. It is *apart*: here, for readers of ranges and for other nodes, but not linked. When the chain reaches
//! it, it is linked from the bytes that are here.
//!
//! What must hold: where only ranges are read, nothing but what they need is fetched; a piece that is apart, or on its
//! way to be, is not fetched a second time along the chain; nothing apart goes to a reader of the whole.

use darter_types::{ByteRange, ChainState, Digest, Moment, PieceNumber, PieceRun};

use super::origin::Source;
use super::{Apart, Reader, Task};
use crate::Action;
use crate::content::Content;
use crate::event::FetchId;
use crate::gate::Lease;

impl Reader {
    /// Whether it reads a part of a content of that length: then it may have what is only attested.
    pub(super) fn is_of_range(&self, length: u64) -> bool {
        self.range.start > 0 || self.range.end < length
    }
}

impl Task {
    // === what events do ===

    pub(super) fn pieces_asked(&mut self, epoch: u64, runs: &[PieceRun]) {
        self.gate.scheduler_answered();
        if self.lease_epoch() != Some(epoch) {
            self.gate.granted(Lease {
                epoch,
                runs: Vec::new(),
                on_demand: true,
            });
        }
        runs.iter().for_each(|run| self.asked.insert_run(*run));
        if let Some(content) = &self.content {
            let here: Vec<PieceNumber> = self
                .asked
                .iter()
                .filter(|piece| content.is_here(*piece))
                .collect();
            for piece in here {
                self.asked.remove(piece);
            }
        }
    }

    pub(super) fn attestations_came(
        &mut self,
        length: u64,
        sums: &[(PieceNumber, Digest)],
        actions: &mut Vec<Action>,
    ) {
        self.gate.scheduler_answered();
        if !self.cut(length, actions) {
            return;
        }
        if let Some(content) = self.content.as_mut() {
            for (piece, sum) in sums {
                content.attest(*piece, *sum, false);
            }
        }
    }

    pub(super) fn origin_piece(
        &mut self,
        now: Moment,
        fetch: FetchId,
        piece: PieceNumber,
        sum: Digest,
        actions: &mut Vec<Action>,
    ) {
        let is_asked = self.fetches.get(&fetch).is_some_and(|fetch| {
            fetch.host.is_none() && fetch.apart == Apart::All && fetch.run.contains(piece)
        });
        let epoch = self.lease_epoch();
        let Some(content) = self.content.as_mut().filter(|_| is_asked) else {
            return;
        };
        if !content.attest(piece, sum, true) {
            return;
        }
        if let Some(epoch) = epoch {
            actions.push(Action::Attest { epoch, piece, sum });
        }
        self.apart_here(now, piece, Source::Origin(fetch), actions);
    }

    /// A piece is written and fits its attestation.
    pub(super) fn apart_here(
        &mut self,
        now: Moment,
        piece: PieceNumber,
        source: Source,
        actions: &mut Vec<Action>,
    ) {
        let Some(content) = self.content.as_mut() else {
            return;
        };
        let Some(sum) = content.attestation(piece) else {
            return;
        };
        self.last_progress = now;
        self.gate.progressed(matches!(source, Source::Origin(_)));
        if !content.arrived_apart(piece) {
            return;
        }
        self.asked.remove(piece);
        let fetch = source.fetch();
        let from = match source {
            Source::Parent(_, host) => Some(host),
            Source::Origin(_) | Source::Store => None,
        };
        actions.push(Action::HaveApart { piece, sum, from });
        self.cancel_idle(piece, fetch, actions);
    }

    /// A piece that was apart was hashed between the states around it.
    pub(super) fn apart_checked(
        &mut self,
        now: Moment,
        piece: PieceNumber,
        linked: bool,
        actions: &mut Vec<Action>,
    ) {
        if linked {
            return self.piece_here(now, piece, Source::Store, actions);
        }
        // Whoever attested it was wrong, or the disk is: it comes again, by the chain.
        if let Some(content) = self.content.as_mut() {
            content.refute(piece);
        }
        forget_one(piece, actions);
    }

    pub(super) fn walked(
        &mut self,
        now: Moment,
        piece: PieceNumber,
        after: Option<ChainState>,
        actions: &mut Vec<Action>,
    ) {
        if self.walking != Some(piece) {
            return;
        }
        self.walking = None;
        let Some(content) = self.content.as_mut() else {
            return;
        };
        if !content.apart.contains(piece) || content.chain.known() != piece.saturating_add(1) {
            return;
        }
        let Some(state) = after else {
            content.lose_apart(piece);
            return forget_one(piece, actions);
        };
        let border = piece.saturating_add(1);
        if content.learn(border, &[state], true).is_ok() {
            self.publish_trusted(actions);
            self.piece_here(now, piece, Source::Store, actions);
        }
    }

    // === what follows from the state ===

    /// Whoever reads half of what there is, or all of it, is served best in order.
    pub(super) fn consider_whole(&mut self) {
        let Some(length) = self.layout().map(|layout| layout.length()) else {
            return;
        };
        if !self.settings.whole {
            let mut ranges: Vec<ByteRange> = self.readers.values().map(|reader| reader.range).collect();
            ranges.sort_unstable_by_key(|range| range.start);
            let (mut read, mut end) = (0, 0);
            for range in ranges {
                let until = range.end.min(length);
                read += until.saturating_sub(range.start.max(end));
                end = end.max(until);
            }
            self.settings.whole = read > 0 && read >= length.div_ceil(2);
        }
    }

    /// Whether the chain is to be walked up to a piece that lies ahead of it.
    pub(super) fn walks_to(&self, piece: PieceNumber) -> bool {
        let leased = self.gate.lease.as_ref().is_some_and(|lease| {
            !lease.on_demand && (lease.runs.is_empty() || lease.runs.iter().any(|run| run.contains(piece)))
        });
        self.settings.whole || leased
    }

    /// Pieces that somebody waits for and that lie ahead of the chain, in order.
    pub(super) fn wanted_apart(&self) -> Vec<PieceNumber> {
        let Some(content) = &self.content else {
            return Vec::new();
        };
        let mut wanted: Vec<PieceNumber> = self
            .readers
            .values()
            .flat_map(|reader| self.window(reader, content))
            .collect();
        if self.gate.lease.is_some() {
            wanted.extend(self.asked.iter());
        }
        wanted.sort_unstable();
        wanted.dedup();
        wanted.retain(|piece| !content.is_here(*piece) && self.is_far(*piece, content));
        wanted
    }

    /// What a reader needs soon, if it may have that out of order.
    fn window(&self, reader: &Reader, content: &Content) -> std::ops::Range<PieceNumber> {
        let (layout, limits) = (content.layout(), &self.settings.limits);
        let short = reader.range.len() <= limits.apart_range_max;
        if !reader.is_of_range(layout.length()) || (self.settings.whole && !short) {
            return 0..0;
        }
        let end = reader
            .range
            .end
            .min(reader.offset.saturating_add(limits.apart_bytes));
        layout
            .pieces_of(ByteRange::new(reader.offset.min(end), end))
            .pieces()
    }

    /// Whether the chain will not come to the piece in a moment anyway.
    fn is_far(&self, piece: PieceNumber, content: &Content) -> bool {
        let known = content.chain.known();
        if piece < known {
            return false;
        }
        let near = self.settings.limits.origin_run_bytes / u64::from(content.layout().piece_length());
        let near = u32::try_from(near).unwrap_or(u32::MAX);
        !(self.walks_to(piece) && piece - known < near)
    }

    /// Runs of pieces ahead of the chain that readers of this node wait for: what the scheduler passes on.
    pub fn wanted_first(&self) -> Vec<PieceRun> {
        runs_of(&self.wanted_apart(), u32::MAX)
    }

    /// Tells the scheduler at once of pieces that it does not know to be waited for.
    pub(super) fn tell_wanted(&mut self, now: Moment, actions: &mut Vec<Action>) {
        if !self.gate.is_scheduler_up() || self.gate.lease.is_some() || self.gate.in_need() {
            return;
        }
        let mut news = false;
        for piece in self.wanted_apart() {
            news |= self.told.insert(piece);
        }
        if news && !actions.contains(&Action::Want) {
            self.last_want = Some(now);
            actions.push(Action::Want);
        }
    }

    /// Reads from the origin what somebody waits for, out of order.
    pub(super) fn ask_apart(&mut self, now: Moment, actions: &mut Vec<Action>) {
        let limits = &self.settings.limits;
        let free = limits.apart_requests_max.saturating_sub(self.apart_requests());
        let Some(content) = self.content.as_ref().filter(|_| free > 0) else {
            return;
        };
        let longest = limits.apart_bytes / u64::from(content.layout().piece_length());
        let longest = u32::try_from(longest).unwrap_or(u32::MAX).max(1);
        let wanted: Vec<PieceNumber> = self
            .wanted_apart()
            .into_iter()
            .filter(|piece| self.origin_shall_bring_apart(now, *piece, content))
            .collect();
        for run in runs_of(&wanted, longest).into_iter().take(free) {
            self.shorten_before(run.first, actions);
            let fetch = self.add_fetch(now, None, run, Apart::All);
            actions.push(Action::FetchApart { fetch, run });
        }
    }

    fn origin_shall_bring_apart(&self, now: Moment, piece: PieceNumber, content: &Content) -> bool {
        let covering = self
            .fetches
            .values()
            .filter(|fetch| fetch.run.contains(piece) && !fetch.is_in_order());
        let is_coming = covering.count() > 0 && !self.is_left_lying(now, piece);
        let at_hand = content.is_provable(piece) && self.parents.count(piece) > 0 && !self.gate.in_need();
        let claimed = content.claimed.contains(piece) && content.is_provable(piece);
        !is_coming && !at_hand && !claimed && (self.in_lease(piece) || self.gate.in_need())
    }

    /// What comes out of order is not read along the chain as well.
    fn shorten_before(&mut self, piece: PieceNumber, actions: &mut Vec<Action>) {
        let inside = self
            .fetches
            .iter_mut()
            .find(|(_, fetch)| fetch.is_in_order() && fetch.run.first < piece && fetch.run.contains(piece));
        let Some((id, fetch)) = inside else { return };
        let (id, cut) = (
            *id,
            PieceRun {
                first: piece,
                count: fetch.run.end() - piece,
            },
        );
        fetch.run.count = piece - fetch.run.first;
        for piece in cut.first..cut.end().min(self.under_way.capacity()) {
            if self.requests_for(piece) == 0 {
                self.under_way.remove(piece);
            }
        }
        actions.push(Action::Shorten {
            fetch: id,
            end: piece,
        });
    }

    /// Links what is apart once the chain has reached it.
    pub(super) fn link_apart(&mut self, actions: &mut Vec<Action>) {
        let Some(content) = &self.content else { return };
        if content.apart.is_empty() {
            return;
        }
        let mut free = self
            .settings
            .limits
            .checks_max
            .saturating_sub(self.checking.len());
        for piece in content
            .apart
            .iter()
            .take_while(|piece| *piece < content.chain.known())
        {
            if free == 0 || self.checking.contains_key(&piece) {
                continue;
            }
            if let Some(proof) = content.chain.proof(piece) {
                self.checking.insert(piece, true);
                actions.push(Action::Check { piece, proof });
                free -= 1;
            }
        }
        let frontier = content.chain.known() - 1;
        let walks = content.apart.contains(frontier) && !content.is_linkable(frontier);
        if let Some(before) = content
            .chain
            .states_from(frontier)
            .first()
            .copied()
            .filter(|_| walks && self.walking.is_none())
        {
            self.walking = Some(frontier);
            actions.push(Action::Walk {
                piece: frontier,
                before,
            });
        }
    }
}

/// Takes one piece from everybody; the chain stays.
fn forget_one(piece: PieceNumber, actions: &mut Vec<Action>) {
    actions.push(Action::Forget {
        runs: vec![PieceRun::one(piece)],
        claims: Vec::new(),
        first: u32::MAX,
    });
}

/// Sorted pieces as runs of at most `longest`.
fn runs_of(pieces: &[PieceNumber], longest: u32) -> Vec<PieceRun> {
    let mut runs: Vec<PieceRun> = Vec::new();
    for piece in pieces {
        match runs.last_mut() {
            Some(run) if run.end() == *piece && run.count < longest => run.count += 1,
            _ => runs.push(PieceRun::one(*piece)),
        }
    }
    runs
}
