//! The state of one download, and what each event does to it.

mod arrivals;
mod origin;
mod plan;
mod requests;

use std::collections::BTreeMap;

use darter_types::{ByteRange, ChainState, Digest, HostId, Moment, PieceLayout, PieceRun, PieceSet};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::content::Content;
use crate::event::{Event, FetchId, ReaderId};
use crate::gate::{Gate, Lease};
use crate::parents::Parents;
use crate::{Action, Limits};

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
}

#[cfg(test)]
mod tests;
