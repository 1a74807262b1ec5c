//! The world: nodes, scheduler, origin, and the order in which things happen.

use darter_engine::{Action, Event, FetchFailure, FetchId, ParentFailure, ParentOffer, ReaderId};
use darter_proto::scheduler::{Have, Hello, NodeMessage, Role, SchedulerMessage};
use darter_scheduler::resource::Connection;
use darter_scheduler::schedule::{self, Scheduler};
use darter_types::{
    Algorithm, ByteRange, ChainState, ContentKind, Digest, HostId, Locality, Moment, OriginLocator,
    PieceLayout, PieceNumber, PieceRun, PieceSet,
};
use std::time::Duration;

use super::agenda::{Agenda, Happening, Nanos, NodeIndex};
use super::link::nanos;
use super::node::Node;
use super::{BOUNDS_MAX, SwarmOptions, SwarmResult};

/// How often nodes and scheduler look at the clock; nodes report their new pieces then.
const TICK: Nanos = 50_000_000;
/// When the nodes begin to want the content: the scheduler gives no lease before it knows everybody.
const START: Nanos = 2_000_000_000;

pub(super) struct World {
    pub(super) options: SwarmOptions,
    pub(super) layout: PieceLayout,
    pub(super) digest: Digest,
    pub(super) origin: OriginLocator,
    pub(super) nodes: Vec<Node>,
    scheduler: Scheduler,
    pub(super) agenda: Agenda,
    pub(super) now: Nanos,
    pub(super) actions: Vec<Action>,
    pub(super) unfinished: u32,
    pub(super) events: u64,
    origin_bytes: u64,
    wasted_pieces: u64,
    arrived_pieces: u64,
    longest_wait: Nanos,
}

impl World {
    pub(super) fn new(options: &SwarmOptions) -> Self {
        let layout = PieceLayout::of(options.length).expect("a simulated content is short enough");
        let digest = Digest::of(Algorithm::Sha256, &options.seed.to_be_bytes());
        let origin = OriginLocator {
            registry: "registry.example".parse().expect("a name"),
            repository: "library/swarm".parse().expect("a name"),
            kind: ContentKind::Blob,
            digest,
        };
        let name = |index: u32| -> HostId { format!("n{index}").parse().expect("a name") };
        let nodes = (0..=options.nodes)
            .map(|index| Node::new(name(index), layout.piece_count(), options.upload_slots))
            .collect();
        let settings = schedule::Settings {
            seed: options.seed,
            ..schedule::Settings::default()
        };
        Self {
            options: options.clone(),
            layout,
            digest,
            origin,
            nodes,
            scheduler: Scheduler::new(Moment::START, settings),
            agenda: Agenda::default(),
            now: 0,
            actions: Vec::new(),
            unfinished: options.nodes,
            events: 0,
            origin_bytes: 0,
            wasted_pieces: 0,
            arrived_pieces: 0,
            longest_wait: 0,
        }
    }

    pub(super) fn seed(&self) -> NodeIndex {
        self.nodes.len() - 1
    }

    pub(super) fn moment(&self) -> Moment {
        Moment::after_start(Duration::from_nanos(self.now))
    }

    pub(super) fn index(&self, host: &HostId) -> NodeIndex {
        let number = host.as_str().trim_start_matches('n').parse();
        number.expect("hosts are named by their numbers")
    }

    pub(super) fn latency(&self) -> Nanos {
        u64::try_from(self.options.latency.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Adds what happens after so many ways.
    pub(super) fn later(&mut self, ways: u64, what: Happening) {
        self.agenda.add(self.now + ways * self.latency(), what);
    }

    pub(super) fn send(&mut self, node: NodeIndex, message: NodeMessage) {
        self.later(1, Happening::ToScheduler(node, Box::new(message)));
    }

    pub(super) fn origin_nanos(&self, piece: PieceNumber) -> Nanos {
        nanos(
            self.layout.piece_range(piece).len(),
            self.options.origin_mbps.min(self.options.down_mbps),
        )
    }

    /// Runs until all have finished.
    pub(super) fn run(&mut self) {
        for node in 0..self.nodes.len() {
            self.hello(node);
            let spread = TICK * node as u64 / self.nodes.len() as u64;
            self.agenda.add(START + spread, Happening::Tick(node));
        }
        self.agenda.add(0, Happening::SchedulerTick);
        self.now = START;
        let limit = START + nanos_of(self.options.fluid_bound() * BOUNDS_MAX) + 60_000_000_000;
        let mut begun = false;
        while self.unfinished > 0 {
            let Some((at, what)) = self.agenda.next() else {
                break;
            };
            if at > limit {
                break;
            }
            if at >= START && !begun {
                begun = true;
                self.begin();
            }
            self.now = at;
            self.happen(what);
        }
    }

    fn hello(&mut self, node: NodeIndex) {
        let seed = node == self.seed();
        let hello = Hello {
            wire_version: darter_proto::WIRE_VERSION,
            host: self.nodes[node].host.clone(),
            address: format!("n{node}.example:4000"),
            locality: Locality::default(),
            role: if seed { Role::Seed } else { Role::Peer },
            upload_bytes_per_second_max: None,
            build: String::new(),
        };
        let mut out = Vec::new();
        let connection = Connection(node as u64 + 1);
        self.scheduler
            .apply(Moment::START, schedule::Event::Hello(connection, hello), &mut out);
    }

    /// All nodes want the content at once.
    fn begin(&mut self) {
        self.now = START;
        let now = self.moment();
        let background = !self.options.readers;
        for node in 0..self.seed() {
            let seed = self
                .options
                .seed
                .wrapping_mul(1_000_003)
                .wrapping_add(node as u64);
            self.nodes[node].start(self.digest, self.options.limits.clone(), background, seed, now);
            self.tell(node, Event::SchedulerUp);
            self.tell(node, Event::LengthKnown(self.options.length));
            if self.options.readers {
                let range = ByteRange::new(0, self.options.length);
                self.tell(
                    node,
                    Event::ReaderOpened {
                        reader: ReaderId(0),
                        range,
                        checks: false,
                    },
                );
            }
        }
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Engine(node, event) => self.tell(node, event),
            Happening::Announce(node, piece) => self.announce(node, piece),
            Happening::Watch { parent, child } => self.watch(parent, child),
            Happening::Unwatch { parent, child } => self.unwatch(parent, child),
            Happening::Request {
                parent,
                child,
                fetch,
                run,
            } => self.requested(parent, child, fetch, run),
            Happening::Withdraw { parent, child, fetch } => {
                let now = self.now;
                self.nodes[parent].upload.withdraw(now, child, fetch);
                self.plan_upload(parent);
            }
            Happening::Sent(node, version) => self.sent(node, version),
            Happening::Arrived {
                child,
                fetch,
                piece,
                last,
            } => self.arrived(child, fetch, piece, last),
            Happening::OriginSent {
                node,
                fetch,
                piece,
                end,
            } => self.origin_sent(node, fetch, piece, end),
            Happening::ToScheduler(node, message) => {
                let event = schedule::Event::Message(
                    Connection(node as u64 + 1),
                    self.nodes[node].host.clone(),
                    *message,
                );
                self.schedule(event);
            }
            Happening::FromScheduler(node, message) => self.advised(node, *message),
            Happening::SchedulerTick => {
                self.schedule(schedule::Event::Tick);
                self.agenda.add(self.now + 4 * TICK, Happening::SchedulerTick);
            }
            Happening::Tick(node) => self.tick(node),
        }
    }

    // === scheduler ===

    fn schedule(&mut self, event: schedule::Event) {
        let mut out = Vec::new();
        self.scheduler.apply(self.moment(), event, &mut out);
        for (host, message) in out {
            let node = self.index(&host);
            self.later(1, Happening::FromScheduler(node, Box::new(message)));
        }
    }

    fn advised(&mut self, node: NodeIndex, message: SchedulerMessage) {
        match message {
            SchedulerMessage::Parents(parents) => {
                let offer = |parent: darter_proto::scheduler::Parent| ParentOffer {
                    host: parent.host,
                    address: parent.address,
                };
                self.tell(
                    node,
                    Event::ParentsOffered(parents.parents.into_iter().map(offer).collect()),
                );
            }
            SchedulerMessage::SourceLease(lease) => {
                let fresh = self.nodes[node].task.is_none();
                if fresh {
                    let now = self.moment();
                    self.nodes[node].start(self.digest, self.options.limits.clone(), true, 0, now);
                }
                self.tell(node, Event::LengthKnown(self.options.length));
                self.tell(
                    node,
                    Event::LeaseGranted {
                        epoch: lease.epoch,
                        runs: lease.runs,
                    },
                );
                if fresh {
                    self.tell(node, Event::SchedulerUp);
                }
            }
            SchedulerMessage::LeaseRevoked(_, epoch) => self.tell(node, Event::LeaseRevoked { epoch }),
            SchedulerMessage::Links(links) => {
                let (length, first) = (links.length, links.first_border);
                let event = Event::LinksCame {
                    length,
                    first,
                    states: links.states,
                    trusted: links.trusted,
                };
                self.tell(node, event);
            }
            SchedulerMessage::GoAlone(..) => self.tell(node, Event::GoAlone),
            _ => {}
        }
    }

    /// Tells the scheduler of new pieces.
    pub(super) fn report(&mut self, node: NodeIndex) {
        let runs = std::mem::take(&mut self.nodes[node].news);
        if !runs.is_empty() {
            let have = Have {
                task: self.digest.into(),
                length: self.options.length,
                runs,
                fed: Vec::new(),
            };
            self.send(node, NodeMessage::Have(have));
        }
    }

    fn tick(&mut self, node: NodeIndex) {
        self.report(node);
        let now = self.moment();
        let busy = self.nodes[node].upload.is_full();
        if let Some(offers) = self.nodes[node].offers.as_mut() {
            offers.tick(now, busy);
            self.show_all(node);
        }
        self.tell(node, Event::Tick);
        self.agenda.add(self.now + TICK, Happening::Tick(node));
    }

    // === what a parent shows ===

    fn watch(&mut self, parent: NodeIndex, child: NodeIndex) {
        let now = self.moment();
        let host = self.nodes[child].host.clone();
        let none = PieceSet::new(self.layout.piece_count());
        self.nodes[parent].watchers.insert(child, none);
        if let Some(offers) = self.nodes[parent].offers.as_mut() {
            offers.child_joined(host, now);
        }
        let parent_host = self.nodes[parent].host.clone();
        self.later(1, Happening::Engine(child, Event::ParentAlive(parent_host)));
        self.show_all(parent);
    }

    /// Tells every child what it was not told of.
    pub(super) fn show_all(&mut self, parent: NodeIndex) {
        let children: Vec<NodeIndex> = self.nodes[parent].watchers.keys().copied().collect();
        for child in children {
            let host = self.nodes[child].host.clone();
            let runs = self.nodes[parent].untold(child, &host);
            if !runs.is_empty() {
                let parent_host = self.nodes[parent].host.clone();
                self.later(1, Happening::Engine(child, Event::ParentHas(parent_host, runs)));
            }
        }
    }

    fn announce(&mut self, parent: NodeIndex, piece: PieceNumber) {
        let children: Vec<NodeIndex> = self.nodes[parent].watchers.keys().copied().collect();
        for child in children {
            let host = self.nodes[child].host.clone();
            if self.nodes[parent].untold_piece(child, &host, piece) {
                let parent_host = self.nodes[parent].host.clone();
                self.tell(child, Event::ParentHas(parent_host, vec![PieceRun::one(piece)]));
            }
        }
    }

    // === pieces ===

    fn requested(&mut self, parent: NodeIndex, child: NodeIndex, fetch: FetchId, run: PieceRun) {
        if run.pieces().any(|piece| !self.nodes[parent].has.contains(piece)) {
            let failure = Some(FetchFailure::Parent(ParentFailure::Missing));
            return self.later(1, Happening::Engine(child, Event::FetchEnded { fetch, failure }));
        }
        let (now, layout, up) = (self.now, self.layout, self.options.up_mbps);
        let takes = |piece| nanos(layout.piece_range(piece).len(), up);
        self.nodes[parent].upload.request(now, child, fetch, run, takes);
        self.plan_upload(parent);
    }

    fn plan_upload(&mut self, node: NodeIndex) {
        if let Some((at, version)) = self.nodes[node].upload.next_sent() {
            self.agenda.add(at, Happening::Sent(node, version));
        }
    }

    fn sent(&mut self, node: NodeIndex, version: u64) {
        let (now, layout, up) = (self.now, self.layout, self.options.up_mbps);
        let takes = |piece| nanos(layout.piece_range(piece).len(), up);
        let sent = self.nodes[node].upload.sent(now, version, takes);
        if sent.is_empty() {
            return;
        }
        let moment = self.moment();
        for piece in sent {
            self.nodes[node].sent_pieces += 1;
            if let Some(offers) = self.nodes[node].offers.as_mut() {
                offers.piece_sent(piece.piece, moment);
            }
            let down = nanos(self.layout.piece_range(piece.piece).len(), self.options.down_mbps);
            let there = now + self.latency();
            let at = self.nodes[piece.child].download.pass(there, down);
            let (child, fetch, last) = (piece.child, piece.fetch, piece.last);
            self.agenda.add(
                at,
                Happening::Arrived {
                    child,
                    fetch,
                    piece: piece.piece,
                    last,
                },
            );
        }
        if self.nodes[node].offers.is_some() {
            self.show_all(node);
        }
        self.plan_upload(node);
    }

    fn arrived(&mut self, child: NodeIndex, fetch: FetchId, piece: PieceNumber, last: bool) {
        let now = self.now;
        self.arrived_pieces += 1;
        self.wasted_pieces += u64::from(self.nodes[child].has.contains(piece));
        if let Some((_, since)) = self.nodes[child].asked.get_mut(&fetch)
            && let Some(since) = since.take()
        {
            self.longest_wait = self.longest_wait.max(now - since);
        }
        self.tell(child, Event::PieceLinked { fetch, piece });
        if last {
            self.nodes[child].asked.remove(&fetch);
            self.tell(child, Event::FetchEnded { fetch, failure: None });
        }
        if self.options.readers && self.nodes[child].finished_at.is_none() {
            let offset = self
                .layout
                .piece_range(self.nodes[child].has.next_missing(0))
                .start;
            self.tell(
                child,
                Event::ReaderMoved {
                    reader: ReaderId(0),
                    offset,
                },
            );
        }
    }

    fn origin_sent(&mut self, node: NodeIndex, fetch: FetchId, piece: PieceNumber, end: PieceNumber) {
        if self.nodes[node].reading_origin != Some(fetch) {
            return;
        }
        self.origin_bytes += self.layout.piece_range(piece).len();
        if piece == self.layout.last_piece() {
            self.tell(
                node,
                Event::OriginLast {
                    fetch,
                    digest: self.digest,
                },
            );
        } else {
            let state = ChainState::Sha256([piece + 1; 8]);
            self.tell(node, Event::OriginBorder { fetch, piece, state });
        }
        if piece + 1 < end {
            let at = self.now + self.origin_nanos(piece + 1);
            self.agenda.add(
                at,
                Happening::OriginSent {
                    node,
                    fetch,
                    piece: piece + 1,
                    end,
                },
            );
        } else {
            self.nodes[node].reading_origin = None;
            self.tell(node, Event::FetchEnded { fetch, failure: None });
        }
    }

    // === result ===

    pub(super) fn result(&self) -> SwarmResult {
        let peers = self.nodes.split_last().map_or(&[][..], |(_, peers)| peers);
        let mut ends: Vec<Nanos> = peers
            .iter()
            .map(|node| node.finished_at.unwrap_or(self.now).saturating_sub(START))
            .collect();
        ends.sort_unstable();
        let bound = self.options.fluid_bound().as_secs_f64();
        let last = ends.last().copied().unwrap_or_default();
        let median = ends.get(ends.len() / 2).copied().unwrap_or_default();
        let first = peers
            .iter()
            .filter_map(|node| node.released_at)
            .max()
            .unwrap_or(self.now);
        let seconds = |nanos: Nanos| Duration::from_nanos(nanos).as_secs_f64();
        let pieces = f64::from(self.layout.piece_count());
        let sent = self.nodes.last().map_or(0, |seed| seed.sent_pieces);
        SwarmResult {
            finished: self.options.nodes - self.unfinished,
            time: Duration::from_nanos(last),
            time_over_bound: seconds(last) / bound,
            median_over_bound: seconds(median) / bound,
            origin_bytes_over_size: ratio(self.origin_bytes, self.options.length),
            origin_copies_sent: count(sent) / pieces,
            wasted: ratio(self.wasted_pieces, self.arrived_pieces),
            longest_wait: Duration::from_nanos(self.longest_wait),
            first_release: Duration::from_nanos(first.saturating_sub(START)),
            events: self.events,
        }
    }
}

fn nanos_of(time: Duration) -> Nanos {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn ratio(part: u64, whole: u64) -> f64 {
    count(part) / count(whole.max(1))
}

/// A count as a number to divide by; exact up to 2^53.
fn count(number: u64) -> f64 {
    Duration::from_nanos(number).as_secs_f64() * 1e9
}
