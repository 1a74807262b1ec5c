//! Event scripts: each rule of the scheduler as what nodes say and what they are told.

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
            format!("lease {}{}", lease.epoch, runs.concat())
        }
        SchedulerMessage::LeaseRevoked(_, epoch) => format!("revoked {epoch}"),
        SchedulerMessage::Links(links) => format!(
            "links {}+{} {}",
            links.first_border,
            links.states.len(),
            if links.trusted { "trusted" } else { "untrusted" }
        ),
        SchedulerMessage::GoAlone(_, reason) => format!("alone: {reason}"),
        SchedulerMessage::Drop(_) => "drop".into(),
        SchedulerMessage::Redirect(redirect) => format!("redirect {}", redirect.scheduler),
        SchedulerMessage::SendLinks(_, first) => format!("send links {first}"),
        SchedulerMessage::ForgetLinks(_) => "forget links".into(),
    }
}
