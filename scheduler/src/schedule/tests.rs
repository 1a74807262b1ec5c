//! Event scripts: each rule of the scheduler as what nodes say and what they are told.

mod first;
mod leases;
mod links;
mod peers;
mod random;

use std::time::Duration;

use darter_proto::scheduler::*;
use darter_types::{
    Algorithm, ChainState, ContentKind, Digest, HostId, Moment, OriginLocator, PieceRun, TaskId,
};

use super::*;

const PIECE: u64 = 256 * 1024;

/// A scheduler with the means to talk to it.
struct World {
    scheduler: Scheduler,
    now: Moment,
    connections: u64,
    by_host: BTreeMap<String, Connection>,
    /// What was sent since it was looked at last.
    sent: Outbox,
}

fn task(n: u32) -> TaskId {
    Digest::of(Algorithm::Sha256, &n.to_be_bytes()).into()
}

fn origin(task: TaskId) -> OriginLocator {
    OriginLocator {
        registry: "registry.test".parse().unwrap(),
        repository: "library/app".parse().unwrap(),
        kind: ContentKind::Blob,
        digest: task.digest().unwrap(),
    }
}

fn id(name: &str) -> HostId {
    name.parse().unwrap()
}

fn hello(name: &str, role: Role) -> Hello {
    Hello {
        wire_version: 1,
        host: id(name),
        address: format!("{name}.test:4000"),
        locality: "fra|z1".parse().unwrap(),
        role,
        upload_bytes_per_second_max: None,
        build: "test".into(),
    }
}

fn want(task: TaskId) -> Want {
    Want {
        task,
        origin: origin(task),
        length: None,
        held: Vec::new(),
        states_known: 1,
        public: true,
        urgency: Urgency::Reader,
        lease_epoch: None,
        first: Vec::new(),
        on_demand: false,
    }
}

fn run(first: u32, count: u32) -> PieceRun {
    PieceRun { first, count }
}

fn have(task: TaskId, pieces: u64, runs: &[PieceRun]) -> NodeMessage {
    NodeMessage::Have(Have {
        task,
        length: pieces * PIECE,
        runs: runs.to_vec(),
        fed: Vec::new(),
    })
}

fn state(n: u8) -> ChainState {
    ChainState::from_bytes(Algorithm::Sha256, &[n; 32]).unwrap()
}

fn links(task: TaskId, epoch: u64, pieces: u64, first: u32, states: &[u8]) -> NodeMessage {
    NodeMessage::Links(Links {
        task,
        epoch,
        length: pieces * PIECE,
        first_border: first,
        states: states.iter().map(|n| state(*n)).collect(),
        proved: false,
    })
}

fn ended(task: TaskId, epoch: u64, outcome: LeaseOutcome) -> NodeMessage {
    NodeMessage::LeaseEnded(LeaseEnded {
        task,
        epoch,
        outcome,
        status: None,
    })
}

fn failed(task: TaskId, parent: &str, reason: FailureReason) -> NodeMessage {
    NodeMessage::Failed(Failed {
        task,
        parent: id(parent),
        reason,
        piece: 0,
    })
}

fn held(task: TaskId, pieces: u64, runs: &[PieceRun], states_known: u32) -> NodeMessage {
    NodeMessage::Announce(vec![Held {
        task,
        length: pieces * PIECE,
        runs: runs.to_vec(),
        origin: Some(origin(task)),
        states_known,
    }])
}

impl World {
    fn new(settings: Settings) -> Self {
        Self {
            scheduler: Scheduler::new(Moment::START, settings),
            now: Moment::START,
            connections: 0,
            by_host: BTreeMap::new(),
            sent: Vec::new(),
        }
    }

    /// After the grace, with these hosts; names that start with `seed` are seeds.
    fn with(hosts: &[&str]) -> Self {
        let mut world = Self::new(Settings::default());
        world.pass(Duration::from_secs(2));
        hosts.iter().for_each(|host| world.connect(host));
        world.sent.clear();
        world
    }

    fn apply(&mut self, event: Event) {
        self.scheduler.apply(self.now, event, &mut self.sent);
    }

    fn connect(&mut self, host: &str) {
        self.connections += 1;
        self.by_host.insert(host.to_owned(), Connection(self.connections));
        let role = if host.starts_with("seed") {
            Role::Seed
        } else {
            Role::Peer
        };
        self.apply(Event::Hello(Connection(self.connections), hello(host, role)));
    }

    fn disconnect(&mut self, host: &str) {
        let connection = self.by_host.remove(host).unwrap();
        self.apply(Event::Disconnected(connection, id(host)));
    }

    fn say(&mut self, host: &str, message: NodeMessage) {
        let connection = self.by_host[host];
        self.apply(Event::Message(connection, id(host), message));
    }

    fn want(&mut self, host: &str, task: TaskId) {
        self.say(host, NodeMessage::Want(want(task)));
    }

    fn pass(&mut self, time: Duration) {
        // In steps, as ticks come, but no more of them than tests can afford.
        let end = self.now + time;
        let step = Duration::from_millis(250).max(time / 100);
        while self.now < end {
            self.now = (self.now + step).min(end);
            self.apply(Event::Tick);
        }
    }

    /// What was sent to a host since it was asked last, in short.
    fn told(&mut self, host: &str) -> Vec<String> {
        let mut told = Vec::new();
        self.sent.retain(|(to, message)| {
            let its = *to == id(host);
            if its {
                told.push(short(message));
            }
            !its
        });
        told
    }

    /// The epoch of the lease that is held for a task, and who holds it.
    fn lease(&self, task: TaskId) -> Option<(String, u64)> {
        let lease = self.task(task)?.lease.as_ref()?;
        let holder = self.scheduler.hosts.get(lease.holder)?.id().to_string();
        Some((holder, lease.epoch))
    }

    fn task(&self, task: TaskId) -> Option<&crate::resource::Task> {
        self.scheduler.tasks.get(self.scheduler.tasks.key(&task)?)
    }

    fn neighbours(&self, host: &str, task: TaskId) -> Vec<String> {
        let key = self.scheduler.hosts.key(&id(host)).unwrap();
        let mut names: Vec<String> = self
            .task(task)
            .map(|task| task.graph.neighbours(key).to_vec())
            .unwrap_or_default()
            .iter()
            .map(|key| self.scheduler.hosts.get(*key).unwrap().id().to_string())
            .collect();
        names.sort();
        names
    }

    /// A seed that fetched a whole task, with its chain known.
    fn fetched(&mut self, seed: &str, task: TaskId, pieces: u8) {
        let (holder, epoch) = self.lease(task).unwrap();
        assert_eq!(holder, seed);
        let states: Vec<u8> = (1..pieces).collect();
        self.say(seed, links(task, epoch, u64::from(pieces), 1, &states));
        self.say(seed, have(task, u64::from(pieces), &[run(0, u32::from(pieces))]));
        self.say(seed, ended(task, epoch, LeaseOutcome::Done));
    }
}

fn on_demand(task: TaskId, first: &[PieceRun]) -> NodeMessage {
    NodeMessage::Want(Want {
        length: Some(10 * PIECE),
        first: first.to_vec(),
        on_demand: true,
        ..want(task)
    })
}

fn attested(task: TaskId, epoch: u64, piece: u32) -> NodeMessage {
    NodeMessage::Attested(darter_proto::scheduler::Attested {
        task,
        epoch,
        length: 10 * PIECE,
        sums: vec![(piece, Digest::of(Algorithm::Sha256, &[7]))],
    })
}

#[test]
fn pieces_by_name_are_read_by_a_seed_once_for_all() {
    let mut world = World::with(&["seed", "a", "b"]);
    let task = task(1);
    world.say("a", on_demand(task, &[run(5, 1)]));
    world.say("b", on_demand(task, &[run(5, 2)]));
    let epoch = world.lease(task).unwrap().1;
    let leases = |told: Vec<String>| -> Vec<String> {
        told.into_iter()
            .filter(|line| line.starts_with("lease"))
            .collect()
    };
    let expected = [
        format!("lease {epoch} first 5+1 only"),
        format!("lease {epoch} first 6+1 only"),
    ];
    assert_eq!(leases(world.told("seed")), expected);
    world.told("a");
    world.say("a", attested(task, epoch, 5));
    assert!(
        world.told("b").iter().all(|line| !line.starts_with("attested")),
        "no seed"
    );
    for piece in [5, 6] {
        world.say("seed", attested(task, epoch, piece));
        world.say("seed", have(task, 10, &[run(piece, 1)]));
    }
    assert_eq!(world.told("a"), ["attested 5", "attested 6"]);
    world.say("seed", ended(task, epoch, LeaseOutcome::Done));
    assert_eq!(world.lease(task), None);
    // A late one is told at once and nobody reads anything.
    world.connect("c");
    world.say("c", on_demand(task, &[run(6, 1)]));
    assert!(world.told("c").contains(&"attested 6".to_owned()));
    assert_eq!(world.lease(task), None);
    // Another piece is another lease; whoever wants the whole turns it into one for all.
    world.say("a", on_demand(task, &[run(9, 1)]));
    let epoch = world.lease(task).unwrap().1;
    assert_eq!(
        leases(world.told("seed")),
        [format!("lease {epoch} first 9+1 only")]
    );
    world.want("b", task);
    let whole = world.lease(task).unwrap().1;
    assert_eq!(whole, epoch, "what its holder tells under it still counts");
    // All that lies behind the chain, be it held by somebody: the chain leads through it.
    assert_eq!(leases(world.told("seed")), [format!("lease {whole} first 9+1")]);
}

#[test]
fn without_a_seed_pieces_by_name_are_everybodys_own() {
    let mut world = World::with(&["a", "b"]);
    let task = task(1);
    world.say("a", on_demand(task, &[run(5, 1)]));
    assert!(world.told("a").iter().any(|line| line.starts_with("alone")));
    world.want("b", task);
    assert_eq!(world.lease(task).unwrap().0, "b");
}

fn short(message: &SchedulerMessage) -> String {
    match message {
        SchedulerMessage::Welcome(_) => "welcome".into(),
        SchedulerMessage::Parents(parents) => {
            let mut names: Vec<&str> = parents.parents.iter().map(|p| p.host.as_str()).collect();
            names.sort_unstable();
            format!("parents {}", names.join(" ")).trim_end().to_owned()
        }
        SchedulerMessage::SourceLease(lease) => {
            let runs: Vec<String> = lease
                .runs
                .iter()
                .map(|r| format!(" {}+{}", r.first, r.count))
                .collect();
            let first: Vec<String> = lease
                .first
                .iter()
                .map(|r| format!(" first {}+{}", r.first, r.count))
                .collect();
            let only = if lease.on_demand { " only" } else { "" };
            format!("lease {}{}{}{only}", lease.epoch, runs.concat(), first.concat())
        }
        SchedulerMessage::LeaseRevoked(_, epoch) => format!("revoked {epoch}"),
        SchedulerMessage::Links(links) => format!(
            "links {}+{} {}",
            links.first_border,
            links.states.len(),
            if links.trusted { "trusted" } else { "untrusted" }
        ),
        SchedulerMessage::Attestations(_, _, sums) => {
            let pieces: Vec<String> = sums.iter().map(|(piece, _)| format!(" {piece}")).collect();
            format!("attested{}", pieces.concat())
        }
        SchedulerMessage::GoAlone(_, reason) => format!("alone: {reason}"),
        SchedulerMessage::Drop(_) => "drop".into(),
        SchedulerMessage::Redirect(redirect) => format!("redirect {}", redirect.scheduler),
        SchedulerMessage::SendLinks(_, first) => format!("send links {first}"),
        SchedulerMessage::ForgetLinks(_) => "forget links".into(),
    }
}
