//! Answers stay small enough for whoever asks, however much there is to tell.

use darter_proto::scheduler::{Have, Hello, NodeMessage, Role, Urgency, Want};
use darter_types::{Algorithm, Digest, HostId, Locality, Moment, OriginLocator};

use super::*;
use crate::resource::Connection;
use crate::schedule::{Event, Outbox, Settings};

const PIECE: u64 = 256 * 1024;
const PIECES: u32 = 1024;

/// Names are as long as those of nodes in a large cluster.
fn host(n: usize) -> HostId {
    format!("{}-{n}.example", "a".repeat(48)).parse().unwrap()
}

fn task() -> TaskId {
    Digest::of(Algorithm::Sha256, b"task").into()
}

/// So many nodes, each of which wants one task, has every other piece of it and was fed by `sources` others.
fn crowd(nodes: usize, sources: usize) -> Scheduler {
    let now = Moment::START;
    let mut scheduler = Scheduler::new(now, Settings::default());
    let mut out = Outbox::new();
    for n in 0..nodes {
        let hello = Hello {
            wire_version: darter_proto::WIRE_VERSION,
            host: host(n),
            address: format!("node-{n}.example:4000"),
            locality: Locality::default(),
            role: Role::Peer,
            upload_bytes_per_second_max: None,
            build: String::new(),
        };
        scheduler.apply(now, Event::Hello(Connection(n as u64 + 1), hello), &mut out);
    }
    let runs: Vec<PieceRun> = (0..PIECES).step_by(2).map(PieceRun::one).collect();
    for n in 0..nodes {
        let origin = OriginLocator {
            registry: "registry.test".parse().unwrap(),
            repository: "library/app".parse().unwrap(),
            kind: ContentKind::Blob,
            digest: task().digest().unwrap(),
        };
        let length = PIECE * u64::from(PIECES);
        let want = Want {
            task: task(),
            origin,
            length: Some(length),
            held: runs.clone(),
            states_known: 1,
            public: true,
            urgency: Urgency::Reader,
            lease_epoch: None,
            first: Vec::new(),
            on_demand: false,
        };
        let have = Have {
            task: task(),
            length,
            runs: runs.clone(),
            fed: (1..=sources)
                .map(|back| (Some(host((n + back) % nodes)), 1))
                .collect(),
        };
        for message in [NodeMessage::Want(want), NodeMessage::Have(have)] {
            let connection = Connection(n as u64 + 1);
            scheduler.apply(now, Event::Message(connection, host(n), message), &mut out);
        }
        out.clear();
    }
    scheduler
}

#[test]
fn what_there_is_to_tell_of_a_task_is_told() {
    let answer = crowd(30, 10).get_task(&task()).unwrap();
    assert_eq!(
        (answer.peers.len(), answer.edges.len(), answer.left_out),
        (30, 300, 0)
    );
}

#[test]
fn an_answer_fits_into_what_a_client_takes_by_default() {
    let (nodes, sources) = (1_100, 60);
    let answer = crowd(nodes, sources).get_task(&task()).unwrap();
    assert!(
        answer.encoded_len() <= MESSAGE_BYTES_MAX,
        "{} bytes",
        answer.encoded_len()
    );
    assert!(!answer.peers.is_empty() && answer.peers.len() <= LINES_MAX);
    assert!(!answer.edges.is_empty() && answer.edges.len() <= EDGES_MAX);
    let told = answer.peers.len() + answer.edges.len();
    assert_eq!(answer.left_out as usize, nodes * (sources + 1) - told);
}

#[test]
fn hosts_come_page_by_page_each_once() {
    let scheduler = crowd(25, 0);
    let mut names: Vec<String> = Vec::new();
    let mut pages = 0;
    loop {
        let after: Option<HostId> = names.last().map(|name| name.parse().unwrap());
        let page = scheduler.list_hosts(after.as_ref(), 10);
        assert!(page.hosts.len() <= 10);
        names.extend(page.hosts.into_iter().map(|line| line.host));
        pages += 1;
        if !page.truncated {
            break;
        }
    }
    let mut expected: Vec<String> = (0..25).map(|n| host(n).to_string()).collect();
    expected.sort();
    assert_eq!((pages, names), (3, expected));
    assert!(!scheduler.list_hosts(None, 0).truncated);
    let last = scheduler.list_hosts(None, 25);
    assert_eq!((last.hosts.len(), last.truncated), (25, false));
}

#[test]
fn an_answer_with_hosts_is_bounded() {
    let scheduler = crowd(LINES_MAX + 1, 0);
    let page = scheduler.list_hosts(None, usize::MAX);
    assert_eq!((page.hosts.len(), page.truncated), (LINES_MAX, true));
    assert!(page.encoded_len() <= MESSAGE_BYTES_MAX);
}
