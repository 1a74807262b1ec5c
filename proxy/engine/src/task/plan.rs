//! What follows from the state: which parent is asked for what, and when the task is done.

use std::collections::BTreeMap;

use darter_types::{ByteRange, HostId, Moment, PieceLayout, PieceNumber, PieceRun};
use rand::RngExt;

use super::{Reader, Task};
use crate::Action;
use crate::content::Content;
use crate::event::ReaderId;
use crate::picker::Choice;

impl Task {
    /// Brings requests in line with the state: ends what is done, asks for what is missing.
    pub(super) fn plan(&mut self, now: Moment, actions: &mut Vec<Action>) {
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

    pub(super) fn finish_if_proved(&mut self, actions: &mut Vec<Action>) -> bool {
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
    pub(super) fn waiting_since(&self) -> Option<Moment> {
        (self.settings.background || !self.readers.is_empty()).then_some(self.last_progress)
    }

    /// Claimed pieces are read back and linked as soon as their states are known.
    pub(super) fn check_claims(&mut self, actions: &mut Vec<Action>) {
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

    pub(super) fn ask_parents(&mut self, now: Moment, actions: &mut Vec<Action>) {
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
    pub(super) fn askable_parents(&mut self, now: Moment) -> Vec<HostId> {
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

    pub(super) fn choose(&mut self, now: Moment, host: &HostId) -> Option<PieceRun> {
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
    pub(super) fn hedge(&self, now: Moment, host: &HostId) -> Option<PieceRun> {
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
    pub(super) fn urgent_pieces(&self) -> Vec<PieceNumber> {
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
    pub(super) fn is_wanted(&self, piece: PieceNumber) -> bool {
        self.settings.whole
            || self
                .layout()
                .is_some_and(|layout| is_read(&self.readers, layout, piece))
    }

    pub(super) fn ask_parent(
        &mut self,
        now: Moment,
        host: &HostId,
        run: PieceRun,
        actions: &mut Vec<Action>,
    ) {
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
}

/// Whether a reader will come to the piece.
fn is_read(readers: &BTreeMap<ReaderId, Reader>, layout: PieceLayout, piece: PieceNumber) -> bool {
    readers
        .values()
        .any(|reader| layout.pieces_of(reader.range).contains(piece))
}
