//! What the actions of a node's engine mean in the simulated world: the counterpart of the shell.

use darter_engine::{Action, Event, FetchId, Offers};
use darter_proto::scheduler::{
    Failed, FailureReason, LeaseEnded, LeaseOutcome, Links, NodeMessage, Urgency, Want,
};
use darter_types::{HostId, PieceNumber, PieceRun};

use super::agenda::{Happening, NodeIndex};
use super::world::World;

impl World {
    /// Tells a node's engine something and does what it asks for.
    pub(super) fn tell(&mut self, node: NodeIndex, event: Event) {
        let now = self.moment();
        let mut actions = std::mem::take(&mut self.actions);
        if let Some(task) = self.nodes.get_mut(node).and_then(|node| node.task.as_mut()) {
            self.events += 1;
            task.apply(now, event, &mut actions);
        }
        for action in actions.drain(..) {
            self.perform(node, action);
        }
        self.actions = actions;
    }

    fn perform(&mut self, node: NodeIndex, action: Action) {
        match action {
            Action::Want | Action::WantPieces => self.want(node),
            Action::Watch { host, .. } => {
                let parent = self.index(&host);
                self.later(2, Happening::Watch { parent, child: node });
            }
            Action::Unwatch(host) => {
                let parent = self.index(&host);
                self.later(2, Happening::Unwatch { parent, child: node });
            }
            Action::FetchPeer { fetch, host, run, .. } => self.ask(node, self.index(&host), fetch, run),
            Action::FetchOrigin { fetch, run, .. } => self.read_origin(node, fetch, run),
            Action::Cancel(fetch) => self.cancel(node, fetch),
            Action::Have { piece, .. } => self.have(node, piece),
            Action::Release(_) => {
                let now = self.now;
                self.nodes[node].released_at.get_or_insert(now);
            }
            Action::Publish {
                epoch: Some(epoch),
                first,
                states,
            } => {
                let (task, length) = (self.digest.into(), self.options.length);
                let links = Links {
                    task,
                    epoch,
                    length,
                    first_border: first,
                    states,
                    proved: false,
                };
                self.send(node, NodeMessage::Links(links));
            }
            Action::Blame { host, piece, .. } => {
                let failed = Failed {
                    task: self.digest.into(),
                    parent: host,
                    reason: FailureReason::Silent,
                    piece,
                };
                self.send(node, NodeMessage::Failed(failed));
            }
            Action::EndLease { epoch, failure } => {
                let outcome = if failure.is_none() {
                    LeaseOutcome::Done
                } else {
                    LeaseOutcome::Failed
                };
                self.report(node);
                let ended = LeaseEnded {
                    task: self.digest.into(),
                    epoch,
                    outcome,
                    status: None,
                };
                self.send(node, NodeMessage::LeaseEnded(ended));
            }
            Action::Proved => self.proved(node),
            _ => {}
        }
    }

    fn want(&mut self, node: NodeIndex) {
        let Some(task) = &self.nodes[node].task else {
            return;
        };
        let want = Want {
            task: self.digest.into(),
            origin: self.origin.clone(),
            length: Some(self.options.length),
            held: task.present().map(|set| set.runs().collect()).unwrap_or_default(),
            states_known: task.states_known(),
            public: true,
            urgency: Urgency::Reader,
            lease_epoch: task.lease_epoch(),
            first: task.wanted_first(),
            on_demand: !task.wants_whole(),
        };
        self.send(node, NodeMessage::Want(want));
    }

    pub(super) fn unwatch(&mut self, parent: NodeIndex, child: NodeIndex) {
        let (now, host) = (self.moment(), self.nodes[child].host.clone());
        self.nodes[parent].watchers.remove(&child);
        if let Some(offers) = self.nodes[parent].offers.as_mut() {
            offers.child_left(&host, now);
            self.show_all(parent);
        }
    }

    fn ask(&mut self, child: NodeIndex, parent: NodeIndex, fetch: FetchId, run: PieceRun) {
        let now = self.now;
        self.nodes[child].asked.insert(fetch, (parent, Some(now)));
        self.later(
            1,
            Happening::Request {
                parent,
                child,
                fetch,
                run,
            },
        );
    }

    fn cancel(&mut self, node: NodeIndex, fetch: FetchId) {
        if self.nodes[node].reading_origin == Some(fetch) {
            self.nodes[node].reading_origin = None;
        }
        if let Some((parent, _)) = self.nodes[node].asked.remove(&fetch) {
            self.later(
                1,
                Happening::Withdraw {
                    parent,
                    child: node,
                    fetch,
                },
            );
        }
    }

    fn read_origin(&mut self, node: NodeIndex, fetch: FetchId, run: PieceRun) {
        let pieces = self.layout.piece_count();
        if self.nodes[node].offers.is_none() && self.options.super_seeding {
            let now = self.moment();
            let mut offers = Offers::new(pieces, now);
            let children: Vec<HostId> = self.nodes[node]
                .watchers
                .keys()
                .map(|child| self.nodes[*child].host.clone())
                .collect();
            children
                .into_iter()
                .for_each(|child| offers.child_joined(child, now));
            self.nodes[node]
                .has
                .iter()
                .for_each(|piece| offers.piece_arrived(piece, now));
            self.nodes[node].offers = Some(offers);
        }
        self.nodes[node].reading_origin = Some(fetch);
        let end = run.end().min(pieces);
        let at = self.now + 2 * self.latency() + self.origin_nanos(run.first);
        self.agenda.add(
            at,
            Happening::OriginSent {
                node,
                fetch,
                piece: run.first,
                end,
            },
        );
    }

    fn have(&mut self, node: NodeIndex, piece: PieceNumber) {
        let now = self.moment();
        self.nodes[node].has.insert(piece);
        self.nodes[node].add_news(piece);
        if let Some(offers) = self.nodes[node].offers.as_mut() {
            offers.piece_arrived(piece, now);
        }
        self.later(1, Happening::Announce(node, piece));
    }

    fn proved(&mut self, node: NodeIndex) {
        self.report(node);
        let now = self.now;
        if self.nodes[node].finished_at.is_none() {
            self.nodes[node].finished_at = Some(now);
            if node != self.seed() {
                self.unfinished -= 1;
            }
        }
        self.send(node, NodeMessage::Unwant(self.digest.into()));
    }
}
