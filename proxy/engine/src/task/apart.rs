//! Pieces out of order: what readers of ranges wait for, ahead of the chain.
//!
//! Such a piece is read from the origin alone and attested by its SHA-256, or comes from a parent by the attestation of an
//! author of trust. It is *apart*: here, for readers of ranges and for other nodes, but not linked. When the chain reaches
//! it, it is linked from the bytes that are here.
//!
//! What must hold: where only ranges are read, nothing but what they need is fetched; a piece that is apart, or on its
//! way to be, is not fetched a second time along the chain; nothing apart goes to a reader of the whole.

use std::time::Duration;

use darter_types::{ByteRange, ChainState, Digest, Moment, PieceNumber, PieceRun, PieceSet};

use super::origin::Source;
use super::{Apart, Reader, Task};
use crate::content::Content;
use crate::event::FetchId;
use crate::gate::Lease;
use crate::{Action, Limits, Release};

/// How often at most the scheduler is told which pieces are waited for.
const NAMES_PAUSE: Duration = Duration::from_millis(50);

impl Reader {
    /// Whether it reads a part of a content of that length, and may have what is only linked, or attested.
    pub(super) fn is_of_range(&self, length: u64, rule: Release) -> bool {
        let part = self.range.start > 0 || self.range.end < length;
        part && (self.checks || rule == Release::Linked)
    }
}

impl Task {
    // === what events do ===

    pub(super) fn pieces_asked(
        &mut self,
        now: Moment,
        epoch: u64,
        runs: &[PieceRun],
        actions: &mut Vec<Action>,
    ) {
        self.gate.scheduler_answered();
        self.asked_at = now;
        if self.lease_epoch() != Some(epoch) {
            let lease = Lease {
                epoch,
                runs: Vec::new(),
                on_demand: true,
            };
            self.take_lease(lease, actions);
        }
        runs.iter().for_each(|run| self.asked.insert_run(*run));
        let asked: Vec<PieceNumber> = self.asked.iter().collect();
        for piece in asked {
            self.answer_asked(now, piece, actions);
        }
    }

    /// Says what a piece is that was asked for by name and is here: whoever asks knows of nobody who said it, and may have
    /// forgotten it. What authors of trust linked was told with the chain, when the lease came. What others linked this node
    /// cannot answer for: it is dropped, and read from the origin.
    pub(super) fn answer_asked(&mut self, now: Moment, piece: PieceNumber, actions: &mut Vec<Action>) {
        let epoch = self.lease_epoch();
        let (Some(content), Some(epoch)) = (self.content.as_mut(), epoch) else {
            return;
        };
        if !self.asked.contains(piece) || !content.is_here(piece) {
            return;
        }
        let sum = content.attestation(piece);
        if let Some(sum) = sum.filter(|_| content.apart.contains(piece)) {
            actions.push(Action::Attest { epoch, piece, sum });
        } else if content.lose_doubtful(piece) {
            return self.piece_lost(now, piece, actions);
        } else if !content.is_linked_by_trust(piece)
            && let Some(proof) = content.chain.proof(piece)
        {
            actions.push(Action::AttestStored { epoch, piece, proof });
        }
        self.asked.remove(piece);
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
        let Some(content) = self.content.as_mut().filter(|_| is_asked) else {
            return;
        };
        if !content.attest(piece, sum, true) {
            return;
        }
        if self.gate.lease.is_some() {
            self.asked.insert(piece);
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
            return self.answer_asked(now, piece, actions);
        }
        let fetch = source.fetch();
        let from = match source {
            Source::Parent(_, host) => Some(host),
            Source::Origin(_) | Source::Store => None,
        };
        actions.push(Action::HaveApart { piece, sum, from });
        self.move_readers(now);
        self.answer_asked(now, piece, actions);
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
        self.piece_lost(now, piece, actions);
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
            return self.piece_lost(now, piece, actions);
        };
        let border = piece.saturating_add(1);
        if content.learn(border, &[state], true).is_err() {
            // Readers got other bytes by the chain that was forgotten, or this piece is not what attests it.
            return self.contradicted(now, actions);
        }
        self.publish_trusted(actions);
        self.piece_here(now, piece, Source::Store, actions);
    }

    // === what follows from the state ===

    /// Whoever reads half of what there is, or all of it, is served best in order. Whoever waits for a piece that is here, but by
    /// the word of nobody in particular, gets it when the whole is proved.
    pub(super) fn consider_whole(&mut self, now: Moment, actions: &mut Vec<Action>) {
        let was_whole = self.settings.whole;
        self.decide_whole();
        if was_whole || !self.settings.whole {
            return;
        }
        let Some(content) = &self.content else { return };
        for reader in self.readers.values_mut() {
            let next = content.layout().piece_at(reader.offset);
            reader.ahead = next
                >= content
                    .chain
                    .known()
                    .saturating_add(near(&self.settings.limits, content));
        }
        // Whoever leads the chain is to hear at once that it is wanted now.
        if self.gate.is_scheduler_up() && !actions.contains(&Action::Want) {
            self.last_want = Some(now);
            actions.push(Action::Want);
        }
    }

    fn decide_whole(&mut self) {
        let Some(length) = self.layout().map(|layout| layout.length()) else {
            return;
        };
        if !self.settings.whole && (self.has_waiting_reader() || self.has_doubtful_reader()) {
            self.settings.whole = true;
        }
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

    fn has_doubtful_reader(&self) -> bool {
        self.content.as_ref().is_some_and(|content| {
            let mut blocked = self.readers.values().filter(|reader| self.is_blocked(reader));
            blocked.any(|reader| content.present.contains(content.layout().piece_at(reader.offset)))
        })
    }

    /// Whether a reader waits for longer than it should, where nothing but ranges is read. Where the whole is fetched, the
    /// scheduler sees to it that each byte leaves the origin once.
    pub(super) fn has_overdue_reader(&self, now: Moment) -> bool {
        let Some(content) = self.content.as_ref().filter(|_| !self.settings.whole) else {
            return false;
        };
        let patience = self.gate.patience(&self.settings.limits);
        self.readers.values().any(|reader| {
            let overdue = now.since(reader.since) >= patience && self.is_blocked(reader);
            overdue && !self.window(reader, content).is_empty()
        })
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
        let may = !self.settings.whole || short || reader.ahead;
        if !reader.is_of_range(layout.length(), self.settings.release) || !may {
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
        !(self.walks_to(piece) && piece - known < near(&self.settings.limits, content))
    }

    /// Runs of pieces that readers of this node, or others under its lease, wait for: what the scheduler passes on.
    pub fn wanted_first(&self) -> Vec<PieceRun> {
        runs_of(&self.wanted_by_name(), u32::MAX)
    }

    /// What readers wait for out of order; where nothing else is fetched, also what lies behind the known chain.
    fn wanted_by_name(&self) -> Vec<PieceNumber> {
        let mut wanted = self.wanted_apart();
        if let Some(content) = self.content.as_ref().filter(|_| !self.settings.whole) {
            let windows = self
                .readers
                .values()
                .flat_map(|reader| self.window(reader, content));
            wanted.extend(windows.filter(|piece| content.is_missing(*piece)));
            wanted.sort_unstable();
            wanted.dedup();
        }
        wanted
    }

    /// Tells the scheduler of pieces that it does not know to be waited for, those of a moment together.
    pub(super) fn tell_wanted(&mut self, now: Moment, actions: &mut Vec<Action>) {
        let at_rest = self.gate.lease.is_some() || self.gate.in_need();
        let just_told = self.last_want.is_some_and(|last| now.since(last) < NAMES_PAUSE);
        if !self.gate.is_scheduler_up() || at_rest || actions.contains(&Action::Want) {
            return;
        }
        let wanted = self.wanted_by_name();
        if !just_told && wanted.iter().any(|piece| !self.told.contains(*piece)) {
            self.told = PieceSet::new(self.told.capacity());
            for piece in wanted {
                self.told.insert(piece);
            }
            self.last_want = Some(now);
            actions.push(Action::WantPieces);
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
        let hurries = self.gate.in_need() || self.is_overdue(now, piece, content);
        let at_hand = content.is_provable(piece) && self.parents.count(piece) > 0 && !hurries;
        let claimed = content.claimed.contains(piece) && content.is_provable(piece);
        !is_coming && !at_hand && !claimed && (self.in_lease(piece) || hurries)
    }

    /// Whether the piece is the next one of such a reader.
    fn is_overdue(&self, now: Moment, piece: PieceNumber, content: &Content) -> bool {
        if self.settings.whole {
            return false;
        }
        let patience = self.gate.patience(&self.settings.limits);
        self.readers.values().any(|reader| {
            let overdue = now.since(reader.since) >= patience && self.is_blocked(reader);
            overdue && self.window(reader, content).start == piece
        })
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
            let may = self.settings.whole || content.is_trusted(piece);
            if free == 0 || self.checking.contains_key(&piece) || !may {
                continue;
            }
            if let Some(proof) = content.chain.proof(piece) {
                self.checking.insert(piece, true);
                actions.push(Action::Check { piece, proof });
                free -= 1;
            }
        }
        let frontier = content.chain.known() - 1;
        // Behind the word of nobody in particular, only for who wants the whole.
        let may = self.settings.whole || content.trusted >= content.chain.known();
        let walks = may && content.apart.contains(frontier) && !content.is_linkable(frontier);
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

/// How many pieces ahead of the chain are near enough that it comes to them in a moment.
fn near(limits: &Limits, content: &Content) -> u32 {
    let near = limits.origin_run_bytes / u64::from(content.layout().piece_length());
    u32::try_from(near).unwrap_or(u32::MAX)
}

/// Takes one piece from everybody; the chain stays.
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
