//! A cluster of any size, made up: how long decisions take, for the benchmark of the scheduler.

use std::time::Duration;

use darter_proto::scheduler::{Have, Hello, NodeMessage, Role, Urgency, Want};
use darter_types::{
    Algorithm, ContentKind, Digest, HostId, Locality, Moment, OriginLocator, PieceRun, TaskId,
};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::resource::Connection;
use crate::schedule::{Event, Outbox, Scheduler, Settings};

/// Pieces of each made-up content.
const PIECES: u32 = 64;
/// Length of each made-up content, in bytes.
const LENGTH: u64 = PIECES as u64 * 256 * 1024;

/// How large.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Nodes; one of a hundred is a seed.
    pub hosts: u32,
    /// Contents.
    pub tasks: u32,
    /// Nodes that want each content.
    pub wants_per_task: u32,
    /// Seed of the random generator.
    pub seed: u64,
}

/// What came out.
#[derive(Debug)]
pub struct Outcome {
    /// Time of each decision about a want, in nanoseconds, sorted.
    pub decisions_ns: Vec<u64>,
    /// Messages that were sent.
    pub messages: u64,
    /// The scheduler with all that it knows at the end, so that its memory can be measured.
    pub scheduler: Scheduler,
}

impl Outcome {
    /// The decision time below which `share` (0 to 1) of all lie, in nanoseconds.
    pub fn quantile_ns(&self, share: f64) -> u64 {
        let count = u32::try_from(self.decisions_ns.len()).unwrap_or(u32::MAX);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a count is a count"
        )]
        let at = (f64::from(count) * share.clamp(0.0, 1.0)) as usize;
        let last = self.decisions_ns.len().saturating_sub(1);
        self.decisions_ns.get(at.min(last)).copied().unwrap_or(0)
    }
}

/// Connects all hosts, then lets nodes want each content, the seed fetch it and the nodes get it. `clock`
/// gives the time since any fixed point; only differences are used.
pub fn run(scale: Scale, mut clock: impl FnMut() -> Duration) -> Outcome {
    let mut rng = SmallRng::seed_from_u64(scale.seed);
    let now = Moment::START + Duration::from_secs(2);
    let mut scheduler = Scheduler::new(Moment::START, Settings::default());
    let mut out: Outbox = Vec::new();
    let mut messages = 0;
    for n in 0..scale.hosts {
        scheduler.apply(now, Event::Hello(connection(n), hello(n)), &mut out);
    }
    let mut decisions_ns = Vec::new();
    for n in 0..scale.tasks {
        let task: TaskId = Digest::of(Algorithm::Sha256, &n.to_be_bytes()).into();
        let wanting: Vec<u32> = (0..scale.wants_per_task)
            .map(|_| rng.random_range(0..scale.hosts))
            .collect();
        for node in &wanting {
            let before = clock();
            scheduler.apply(now, said(*node, NodeMessage::Want(want(task))), &mut out);
            let took = clock().saturating_sub(before);
            decisions_ns.push(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
            messages += out.len() as u64;
            out.clear();
        }
        for node in &wanting {
            scheduler.apply(now, said(*node, have(task)), &mut out);
            scheduler.apply(now, said(*node, NodeMessage::Unwant(task)), &mut out);
        }
        out.clear();
    }
    decisions_ns.sort_unstable();
    Outcome {
        decisions_ns,
        messages,
        scheduler,
    }
}

fn connection(node: u32) -> Connection {
    Connection(u64::from(node) + 1)
}

fn host(node: u32) -> HostId {
    match format!("node-{node}").parse() {
        Ok(host) => host,
        Err(_) => unreachable!("the name is made of letters and digits"),
    }
}

fn hello(node: u32) -> Hello {
    let locality = format!("idc{}|zone{}|rack{}", node % 4, node % 40, node % 400);
    Hello {
        wire_version: darter_proto::WIRE_VERSION,
        host: host(node),
        address: format!("10.{}.{}.{}:4000", node >> 16 & 255, node >> 8 & 255, node & 255),
        locality: locality.parse().unwrap_or_else(|_| Locality::default()),
        role: if node.is_multiple_of(100) {
            Role::Seed
        } else {
            Role::Peer
        },
        upload_bytes_per_second_max: None,
        build: String::new(),
    }
}

fn said(node: u32, message: NodeMessage) -> Event {
    Event::Message(connection(node), host(node), message)
}

fn want(task: TaskId) -> Want {
    let (TaskId::Content(digest) | TaskId::Url(digest)) = task;
    let (Ok(registry), Ok(repository)) = ("registry.test".parse(), "library/app".parse()) else {
        unreachable!("the names are well-formed")
    };
    Want {
        task,
        origin: OriginLocator {
            registry,
            repository,
            kind: ContentKind::Blob,
            digest,
        },
        length: Some(LENGTH),
        held: Vec::new(),
        states_known: 1,
        public: true,
        urgency: Urgency::Reader,
        lease_epoch: None,
        first: Vec::new(),
        on_demand: false,
    }
}

fn have(task: TaskId) -> NodeMessage {
    NodeMessage::Have(Have {
        task,
        length: LENGTH,
        runs: vec![PieceRun {
            first: 0,
            count: PIECES,
        }],
        fed: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_cluster_is_served() {
        let mut ticks = 0;
        let scale = Scale {
            hosts: 300,
            tasks: 20,
            wants_per_task: 60,
            seed: 1,
        };
        let outcome = run(scale, || {
            ticks += 1;
            Duration::from_nanos(ticks)
        });
        assert_eq!(outcome.decisions_ns.len(), 1_200);
        assert_eq!(outcome.quantile_ns(0.99), 1);
        assert_eq!(outcome.scheduler.tasks_known(), 20);
        assert_eq!(outcome.scheduler.hosts_connected(), 300);
        assert_eq!(outcome.scheduler.wants_parked(), 0);
        assert_eq!(outcome.scheduler.tally().leases, 20);
        // Each newcomer changes the sets of itself and about ten others.
        assert!(outcome.messages < 1_200 * 16, "{} messages", outcome.messages);
    }
}
