//! What follows from the state: which parent is asked for what, and when the task is done.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use darter_types::{ByteRange, HostId, Moment, PieceLayout, PieceNumber, PieceRun};
use rand::RngExt;

use super::{Apart, Fetch, Reader, Task, arrivals};
use crate::Action;
use crate::content::Content;
use crate::event::ReaderId;
use crate::gate::{Links, Waiting};
use crate::picker::Choice;

/// Parents that a node of a large swarm has at least: with fewer it knows everybody.
const NEIGHBOURHOOD: usize = 10;

impl Task {
    /// Brings requests in line with the state: ends what is done, asks for what is missing, of all parents or `only`
    /// of one.
    pub(super) fn plan(&mut self, now: Moment, only: Option<&HostId>, actions: &mut Vec<Action>) {
        if self.finish_if_proved(actions) {
            return;
        }
        arrivals::watch(self.parents.returning(now), actions);
        let links = self.links();
        if self.links.0 != links {
            self.links = (links, now);
        }
        self.ask_for_links(now, actions);
        self.gate.expire(now);
        let waiting = self.waiting(now);
        self.gate.consider(now, waiting, &self.settings.limits);
        self.consider_whole(now, actions);
        self.check_claims(actions);
        self.link_apart(actions);
        self.tell_wanted(now, actions);
        self.ask_parents(now, only, actions);
        self.ask_origin(now, actions);
    }

    fn finish_if_proved(&mut self, actions: &mut Vec<Action>) -> bool {
        if !self.content.as_ref().is_some_and(Content::is_proved) {
            return false;
        }
        self.keep_states(actions);
        self.release(actions);
        // Requests that still run brought all that they cover and are about to end by themselves; to cancel them
        // would cost good connections.
        self.end_lease(None, actions);
        actions.push(Action::Proved);
        self.over = true;
        true
    }

    /// Whether anybody wants the content here, or others do under the lease.
    pub(super) fn has_demand(&self) -> bool {
        self.settings.background || !self.readers.is_empty() || self.gate.lease.is_some()
    }

    /// How long somebody has waited for a byte; `None` if nobody does.
    fn waiting(&self, now: Moment) -> Option<Waiting> {
        let since = if self.settings.whole {
            self.has_demand().then_some(self.last_progress)?
        } else {
            // What other readers get is no comfort to the one that waits.
            self.readers
                .values()
                .filter(|reader| self.is_blocked(reader))
                .map(|reader| reader.since)
                .min()?
        };
        Some(Waiting {
            since,
            news: self.last_news,
            parent_alive: self.parents.any_alive(),
            parents_lost: self.parents.all_lost(),
            stuck: self.stuck_since(now),
            origin_asked: self.origin_requests() > 0,
            links: self.links.0,
            links_since: self.links.1,
        })
    }

    /// Since when a reader waits for a piece that parents were asked for and take much longer than usual for, though others
    /// may come all the time: the only one that has it may be slow.
    pub(super) fn stuck_since(&self, now: Moment) -> Option<Moment> {
        let layout = self.layout()?;
        let is_late = |piece: PieceNumber| {
            let mut covering = self.fetches.values().filter(|fetch| fetch.run.contains(piece));
            covering.all(|fetch| fetch.host.is_some() && now.since(fetch.started) >= self.lateness())
        };
        let stuck = |reader: &&Reader| {
            let next = layout.piece_at(reader.offset);
            self.is_blocked(reader) && self.under_way.contains(next) && is_late(next)
        };
        self.readers
            .values()
            .filter(stuck)
            .map(|reader| reader.since)
            .min()
    }

    /// Whether parents could be asked for anything, or links are what is missing.
    fn links(&self) -> Links {
        let Some(content) = &self.content else {
            return Links::Known;
        };
        let of = |piece: PieceNumber| {
            let doubtful = !self.settings.whole && !content.is_vouched_for(piece);
            if content.is_provable(piece) && !doubtful {
                Links::Known
            } else if self.parents.count(piece) > 0 {
                Links::Late
            } else {
                Links::Awaited
            }
        };
        if self.settings.whole {
            return match self.fetches.is_empty() {
                true => of(content.present.next_missing(0)),
                false => Links::Known,
            };
        }
        // Each reader waits for its own: what is on its way to one is no link for another.
        let waits = self.urgent_pieces().into_iter();
        let waits = waits.filter(|piece| !self.under_way.contains(*piece));
        waits
            .map(of)
            .fold(Links::Known, |worst, links| match (worst, links) {
                (Links::Late, _) | (_, Links::Late) => Links::Late,
                (Links::Awaited, _) | (_, Links::Awaited) => Links::Awaited,
                _ => Links::Known,
            })
    }

    /// Asks the scheduler again where links are late: it may stand still, or be out of reach, long before its stream ends.
    fn ask_for_links(&mut self, now: Moment, actions: &mut Vec<Action>) {
        let (links, since) = self.links;
        let late = links == Links::Late && now.since(since) >= self.settings.limits.links_late;
        if late && self.has_demand() && self.gate.probe(now) {
            self.last_want = Some(now);
            actions.push(Action::Want);
        }
    }

    pub(super) fn is_blocked(&self, reader: &Reader) -> bool {
        let Some(content) = &self.content else { return true };
        let next = content.layout().piece_at(reader.offset);
        let released = match reader.is_of_range(content.layout().length(), self.settings.release) {
            true => content.may_release_to_ranges(next),
            false => content.may_release(next),
        };
        reader.offset < reader.range.end && !released
    }

    /// Claimed pieces are read back and linked when their states are known, those that readers need first.
    fn check_claims(&mut self, actions: &mut Vec<Action>) {
        let Some(content) = &self.content else { return };
        if content.claimed.is_empty() {
            return;
        }
        let urgent = self.urgent_pieces();
        let urgent = urgent
            .into_iter()
            .filter(|piece| content.claimed.contains(*piece));
        let mut free = self
            .settings
            .limits
            .checks_max
            .saturating_sub(self.checking.len());
        let mut chosen: Vec<(PieceNumber, bool)> = Vec::new();
        for piece in urgent.chain(content.claimed.iter()) {
            if free == 0 {
                break;
            }
            let is_wanted = self.is_wanted(piece) || self.in_lease(piece) || !self.has_demand();
            if self.checking.contains_key(&piece)
                || chosen.iter().any(|(other, _)| *other == piece)
                || !is_wanted
            {
                continue;
            }
            if let Some(proof) = content.proof(piece) {
                actions.push(Action::Check { piece, proof });
                chosen.push((piece, !proof.is_attested()));
                free -= 1;
            }
        }
        self.checking.extend(chosen);
    }

    fn ask_parents(&mut self, now: Moment, only: Option<&HostId>, actions: &mut Vec<Action>) {
        let requests_max = self.settings.limits.requests_max.min(self.requests_share);
        if !self.has_demand() || self.content.is_none() || self.peer_requests() >= requests_max {
            return;
        }
        let urgent = self.urgent_pieces();
        // One request for each parent in turn, so that a slot is not all one parent's.
        loop {
            let mut asked = false;
            for host in self.askable_parents(now, only) {
                if self.peer_requests() >= requests_max {
                    return;
                }
                if let Some(run) = self.choose(now, &host, &urgent) {
                    self.ask_parent(now, &host, run, actions);
                    asked = true;
                }
            }
            if !asked {
                return;
            }
        }
    }

    /// Parents with a free slot, those with the fewest requests first. Of equals first who alone has something, since nobody can
    /// exchange it before this node takes it, then at random. With so few parents that they are the whole swarm, what one alone has
    /// nobody else has, and it goes before all; in a larger one most parents alone have something, and to go to them first would
    /// leave the uploads of the rest idle.
    fn askable_parents(&mut self, now: Moment, only: Option<&HostId>) -> Vec<HostId> {
        let Self {
            content,
            parents,
            under_way,
            settings,
            rng,
            ..
        } = self;
        let Some(content) = content.as_ref() else {
            return Vec::new();
        };
        let mut alone = content.missing_of(parents.sole());
        alone.remove_all(under_way);
        let all_known = parents.by_host.len() < NEIGHBOURHOOD;
        let mut hosts: Vec<(bool, usize, bool, u32, &HostId)> = parents
            .by_host
            .iter()
            .filter(|(host, parent)| {
                only.is_none_or(|only| only == *host) && parent.may_be_asked(now, &settings.limits)
            })
            .map(|(host, parent)| {
                let common = !parent.has.intersects(&alone);
                (all_known && common, parent.requests, common, rng.random(), host)
            })
            .collect();
        hosts.sort_unstable();
        hosts.into_iter().map(|(.., host)| host.clone()).collect()
    }

    fn choose(&mut self, now: Moment, host: &HostId, urgent: &[PieceNumber]) -> Option<PieceRun> {
        let late = self.late_piece(now, host, urgent);
        let Self {
            content,
            parents,
            readers,
            under_way,
            settings,
            rng,
            gate,
            asked,
            ..
        } = self;
        let content = content.as_ref()?;
        let leased = |piece| gate.lease.as_ref().is_some_and(|lease| lease.names(asked, piece));
        // What is linked by the word of nobody in particular could not be given to a reader before the whole is proved.
        // What others ask this node for by name it must be able to answer for.
        let leads = gate.lease.is_some();
        let useful = |piece| {
            let enough = settings.whole && !(leads && asked.contains(piece));
            enough || content.is_vouched_for(piece)
        };
        let choice = Choice {
            layout: content.layout(),
            has: &parents.by_host.get(host)?.has,
            wanted: |piece| {
                !under_way.contains(piece)
                    && content.is_missing(piece)
                    && content.is_provable(piece)
                    && useful(piece)
                    && (settings.whole || is_read(readers, content.layout(), piece) || leased(piece))
            },
            rarity: |piece| parents.count(piece),
            run_bytes: settings.limits.run_bytes,
        };
        let urgent = choice.urgent(urgent).or(late.map(PieceRun::one));
        urgent
            .or_else(|| choice.rarest(rng))
            .or_else(|| self.hedge(now, host))
    }

    /// A piece that a reader waits for and that was asked of another parent too long ago.
    fn late_piece(&self, now: Moment, host: &HostId, urgent: &[PieceNumber]) -> Option<PieceNumber> {
        let has = &self.parents.by_host.get(host)?.has;
        self.late_requests(now, host)
            .flat_map(|fetch| urgent.iter().filter(|piece| fetch.run.contains(**piece)))
            .copied()
            .find(|piece| has.contains(*piece) && self.may_hedge(*piece))
    }

    /// A piece that another parent was asked for too long ago, when nothing else is left to ask for.
    fn hedge(&self, now: Moment, host: &HostId) -> Option<PieceRun> {
        let has = &self.parents.by_host.get(host)?.has;
        self.late_requests(now, host)
            .flat_map(|fetch| fetch.run.pieces())
            .find(|piece| has.contains(*piece) && self.may_hedge(*piece))
            .map(PieceRun::one)
    }

    /// Requests to others that take much longer than usual.
    fn late_requests(&self, now: Moment, host: &HostId) -> impl Iterator<Item = &Fetch> {
        let patience = self.lateness();
        self.fetches
            .values()
            .filter(move |fetch| fetch.host.as_ref() != Some(host) && now.since(fetch.started) >= patience)
    }

    /// How long a request to a parent may run before it is late: much longer than usual.
    fn lateness(&self) -> Duration {
        let usual = self.usual_request.unwrap_or(Duration::ZERO);
        self.settings.limits.hedge_after.max(usual * 3)
    }

    /// Whether parents were asked for the piece so long ago that, in need, it counts as not asked for: a parent may send
    /// a byte now and then, which is neither silence nor a piece. On full links all requests take long, and one that is
    /// just late is left alone as long as anything comes at all.
    pub(super) fn is_left_lying(&self, now: Moment, piece: PieceNumber) -> bool {
        let patience = self.lateness().min(self.settings.limits.patience_alive);
        let mut covering = self.fetches.values().filter(|fetch| fetch.run.contains(piece));
        self.gate.in_need()
            && covering.all(|fetch| fetch.host.is_some() && now.since(fetch.started) >= patience)
    }

    fn may_hedge(&self, piece: PieceNumber) -> bool {
        let Some(content) = &self.content else {
            return false;
        };
        content.is_missing(piece)
            && content.is_provable(piece)
            && self.is_wanted(piece)
            && self.requests_for(piece) < 2
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
                while content.is_here(next) {
                    next += 1;
                }
                if next >= run.end() {
                    break;
                }
                urgent.push(next);
                next += 1;
            }
        }
        urgent
    }

    /// Whether anybody here wants the piece.
    pub(super) fn is_wanted(&self, piece: PieceNumber) -> bool {
        self.settings.whole
            || self
                .layout()
                .is_some_and(|layout| is_read(&self.readers, layout, piece))
    }

    fn ask_parent(&mut self, now: Moment, host: &HostId, run: PieceRun, actions: &mut Vec<Action>) {
        let Some(content) = &self.content else { return };
        let proofs: Vec<_> = run.pieces().map_while(|piece| content.proof(piece)).collect();
        let pieces = run.pieces().zip(&proofs);
        let apart: BTreeSet<PieceNumber> = pieces
            .filter_map(|(piece, proof)| proof.is_attested().then_some(piece))
            .collect();
        let apart = if apart.is_empty() {
            Apart::None
        } else {
            Apart::Some(apart)
        };
        let Some(parent) = self.parents.by_host.get(host) else {
            return;
        };
        let address = parent.address.clone();
        let fetch = self.add_fetch(now, Some(host.clone()), run, apart);
        actions.push(Action::FetchPeer {
            fetch,
            host: host.clone(),
            address,
            run,
            proofs,
        });
    }
}

/// Whether a reader will come to the piece. An empty content is its one empty piece, wanted by whoever reads.
fn is_read(readers: &BTreeMap<ReaderId, Reader>, layout: PieceLayout, piece: PieceNumber) -> bool {
    readers.values().any(|reader| {
        layout.length() == 0
            || layout
                .pieces_of(ByteRange::new(reader.offset, reader.range.end))
                .contains(piece)
    })
}
