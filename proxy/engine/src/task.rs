//! The state of one download, and what each event does to it.

mod apart;
mod arrivals;
mod forget;
mod origin;
mod origin_only;
mod plan;
mod requests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use darter_types::{
    ByteRange, ChainState, Digest, HostId, Moment, PieceLayout, PieceNumber, PieceRun, PieceSet,
};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use self::origin_only::refuse;
use crate::content::Content;
use crate::event::{Event, FetchId, ReaderId};
use crate::gate::{Gate, Links};
use crate::parents::Parents;
use crate::{Action, Limits};

/// When readers get bytes of a content that comes from others. Readers of ranges who check what they read are not concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Release {
    /// As pieces are linked by the word of an author of trust; the last one when the whole is proved.
    #[default]
    Linked,
    /// Not one before the whole is proved.
    Proved,
}

/// What a task is told when it is made.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The content.
    pub digest: Digest,
    /// Fetch all of it, whatever the readers ask for.
    pub whole: bool,
    /// Fetch it though nobody reads it: a seed's duty, or a preheat.
    pub background: bool,
    /// When readers get bytes.
    pub release: Release,
    /// Bounds.
    pub limits: Limits,
    /// Seed of its randomness.
    pub seed: u64,
}

#[derive(Debug)]
struct Reader {
    range: ByteRange,
    /// The next byte that it needs. One that waits for the proof of the whole: the next one that is not here.
    offset: u64,
    /// It checks what it reads.
    checks: bool,
    /// When it came, or came to where it is.
    since: Moment,
    /// It was far ahead of the chain when the whole began to be fetched: it goes on being served out of order.
    ahead: bool,
}

#[derive(Debug)]
struct Fetch {
    /// `None` = the origin.
    host: Option<HostId>,
    run: PieceRun,
    /// Of a request to the origin: out of order. Of one to a parent: pieces that come by an attestation.
    apart: Apart,
    started: Moment,
}

/// Which pieces of a request are not linked when they come.
#[derive(Debug, PartialEq)]
enum Apart {
    None,
    All,
    Some(BTreeSet<PieceNumber>),
}

impl Apart {
    fn contains(&self, piece: PieceNumber) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Some(pieces) => pieces.contains(&piece),
        }
    }
}

/// Spreads the patience of many nodes; the upper end keeps a node whose parents are all dead below a second.
const JITTER: std::ops::Range<f64> = 0.75..1.15;

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
    /// Pieces in the store that are being checked, by the chain or else (false) by an attestation.
    checking: BTreeMap<PieceNumber, bool>,
    /// Pieces apart that are being hashed from the state before them.
    walking: Option<PieceNumber>,
    /// Pieces that others wait for, under the lease.
    asked: PieceSet,
    /// When the scheduler last asked for some.
    asked_at: Moment,
    /// Pieces ahead of the chain that the scheduler was told to be waited for.
    told: PieceSet,
    gate: Gate,
    /// When the last byte came.
    last_progress: Moment,
    /// When a parent last told of a new piece.
    last_news: Moment,
    /// Whether links are what is missing, and since when that is so.
    links: (Links, Moment),
    /// When the scheduler was last told what is wanted.
    last_want: Option<Moment>,
    /// How long requests to parents take, smoothed.
    usual_request: Option<Duration>,
    next_fetch: u64,
    /// Requests to parents that the node leaves to this task.
    requests_share: usize,
    rng: SmallRng,
    /// A chain of others was wrong: nothing that others say counts any more.
    origin_only: bool,
    over: bool,
}

impl Task {
    /// A task of which nothing is known but its name.
    pub fn new(settings: Settings, now: Moment) -> Self {
        let mut rng = SmallRng::seed_from_u64(settings.seed);
        let jitter = rng.random_range(JITTER);
        Self {
            settings,
            content: None,
            readers: BTreeMap::new(),
            parents: Parents::default(),
            fetches: BTreeMap::new(),
            under_way: PieceSet::new(0),
            checking: BTreeMap::new(),
            walking: None,
            asked: PieceSet::new(0),
            asked_at: now,
            told: PieceSet::new(0),
            gate: Gate::new(jitter),
            last_progress: now,
            last_news: now,
            links: (Links::Known, now),
            last_want: None,
            usual_request: None,
            next_fetch: 0,
            requests_share: usize::MAX,
            rng,
            origin_only: false,
            over: false,
        }
    }

    /// Takes over what the store kept from an earlier life, before any event: the chain's states from border 1 on,
    /// which an author of trust vouched for (see [`Action::KeepStates`]), the pieces that it claims, which are linked
    /// again before anybody gets them, and those that were linked in this life.
    pub fn restore(
        &mut self,
        layout: PieceLayout,
        states: &[ChainState],
        claimed: &PieceSet,
        present: &PieceSet,
    ) {
        let mut content = Content::new(self.settings.digest, layout, self.settings.release);
        content.restore(states, claimed, present);
        self.start_content(content);
    }

    /// Takes over attestations that the store kept, after [`Self::restore`]: their pieces are checked again as well.
    pub fn restore_attested(&mut self, sums: &BTreeMap<PieceNumber, Digest>) {
        if let Some(content) = self.content.as_mut() {
            content.restore_attested(sums);
        }
    }

    fn start_content(&mut self, content: Content) {
        let piece_count = content.layout().piece_count();
        self.under_way = PieceSet::new(piece_count);
        for fetch in self.fetches.values_mut() {
            fetch.run.count = fetch.run.end().min(piece_count).saturating_sub(fetch.run.first);
            self.under_way.insert_run(fetch.run);
        }
        self.asked = PieceSet::new(piece_count);
        self.told = PieceSet::new(piece_count);
        self.parents.cut(piece_count);
        self.content = Some(content);
    }

    /// Leaves it so many requests to parents, and never more than its bounds allow: the node's links are shared by all
    /// that it fetches. What is under way goes on.
    pub fn share_requests(&mut self, requests_max: usize) {
        self.requests_share = requests_max;
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

    /// Pieces that are here, be they linked or only attested.
    pub fn held(&self) -> Option<PieceSet> {
        self.content.as_ref().map(|content| {
            let mut held = content.present.clone();
            held.insert_all(&content.apart);
            held
        })
    }

    /// Whether the whole is wanted here, rather than what readers ask for.
    pub fn wants_whole(&self) -> bool {
        self.settings.whole
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
        self.gate.lease.is_some() || self.gate.in_need()
    }

    /// Applies one event and appends what is to be done about it.
    pub fn apply(&mut self, now: Moment, event: Event, actions: &mut Vec<Action>) {
        if self.over {
            return;
        }
        if self.origin_only && event.is_of_others() {
            return refuse(&event, actions);
        }
        let minor = matches!(event, Event::OriginBytes { .. } | Event::ReaderMoved { .. });
        // News of one parent changes only what that one may be asked: with many neighbours most events are such.
        let only = match &event {
            Event::ParentHas(host, _) => Some(host.clone()),
            _ => None,
        };
        self.take(now, event, actions);
        if !minor && !self.over {
            self.plan(now, only.as_ref(), actions);
        }
        debug_assert_eq!(self.broken_invariant(), None);
    }

    fn take(&mut self, now: Moment, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::ReaderOpened {
                reader,
                range,
                checks,
            } => self.reader_opened(now, reader, (range, checks), actions),
            Event::ReaderMoved { reader, offset } => self.reader_moved(now, reader, offset),
            Event::ReaderClosed { reader } => drop(self.readers.remove(&reader)),
            Event::LengthKnown(length) => drop(self.cut(length, actions)),
            Event::SchedulerUp => self.scheduler_up(now, actions),
            Event::SchedulerDown => self.gate.scheduler_down(),
            Event::ParentsOffered(offers) => self.parents_offered(offers, actions),
            Event::ParentAlive(host) => self.parents.alive(&host),
            Event::ParentHas(host, runs) => {
                if self.parents.has(&host, &runs) {
                    self.last_news = now;
                }
            }
            Event::ParentLost(host, failure) => self.parent_lost(now, &host, failure, actions),
            Event::LinksCame {
                length,
                first,
                states,
                trusted,
            } => {
                self.links_came(now, length, first, &states, trusted, actions);
            }
            Event::LinksForgotten => self.links_forgotten(now, actions),
            Event::LeaseGranted { epoch, runs } => self.lease_granted(epoch, runs, actions),
            Event::PiecesAsked { epoch, runs } => self.pieces_asked(now, epoch, &runs, actions),
            Event::AttestationsCame { length, sums } => self.attestations_came(length, &sums, actions),
            Event::LeaseRevoked { epoch } => self.lease_revoked(epoch, actions),
            Event::GoAlone => {
                self.gate.scheduler_answered();
                let until = (!self.settings.whole).then(|| now + self.settings.limits.alone);
                self.gate.go_alone(until);
            }
            Event::PieceLinked { fetch, piece } => self.piece_linked(now, fetch, piece, actions),
            Event::OriginBorder { fetch, piece, state } => {
                self.origin_border(now, fetch, piece, state, actions)
            }
            Event::OriginLast { fetch, digest } => self.origin_last(now, fetch, digest, actions),
            Event::OriginPiece { fetch, piece, sum } => self.origin_piece(now, fetch, piece, sum, actions),
            Event::Walked { piece, after } => self.walked(now, piece, after, actions),
            Event::OriginBytes { fetch, offset } => self.origin_bytes(now, fetch, offset, actions),
            Event::FetchEnded { fetch, failure } => self.fetch_ended(now, fetch, failure, actions),
            Event::ClaimChecked { piece, good } => self.claim_checked(now, piece, good, actions),
            Event::Tick => {}
        }
    }
}

#[cfg(test)]
mod tests;
