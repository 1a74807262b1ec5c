//! The whole role over loopback, with real clients.

mod secure;

use std::sync::Arc;
use std::time::Duration;

use darter_proto::pb::scheduler::v1 as pb;
use darter_proto::pb::scheduler::v1::query_client::QueryClient;
use darter_proto::pb::scheduler::v1::scheduler_client::SchedulerClient;
use darter_proto::scheduler::*;
use darter_service::net::{Network, TokioNetwork};
use darter_service::supervise::{Ended, Supervisor};
use darter_types::{Algorithm, ChainState, ContentKind, Digest, OriginLocator, PieceRun, TaskId};
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Streaming};

use crate::app::App;
use crate::config::Config;

const WAIT: Duration = Duration::from_secs(20);
const PIECE: u64 = 256 * 1024;

/// A scheduler that runs.
struct Running {
    address: String,
    stop: CancellationToken,
    supervisor: Supervisor,
    registry: Registry,
}

async fn start(listen: &str, change: impl FnOnce(&mut Config)) -> Running {
    let mut config = Config {
        listen: listen.to_owned(),
        ..Config::default()
    };
    config.lease.grace = darter_service::config::Period::millis(300);
    change(&mut config);
    let network: Arc<dyn Network> = Arc::new(TokioNetwork);
    let mut registry = Registry::default();
    let app = App::bind(&config, &network, &mut registry, 1, 1).await.unwrap();
    let address = app.address().to_owned();
    let stop = CancellationToken::new();
    let mut supervisor = Supervisor::new(stop.clone());
    app.add_to(&mut supervisor, &stop);
    Running {
        address,
        stop,
        supervisor,
        registry,
    }
}

impl Running {
    async fn stop(self) -> String {
        self.stop.cancel();
        assert!(matches!(self.supervisor.run(WAIT).await, Ended::Stopped));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }
}

/// A node that speaks the protocol.
struct Node {
    name: String,
    say: mpsc::Sender<pb::NodeMessage>,
    hear: Streaming<pb::SchedulerMessage>,
}

fn hello(name: &str) -> Hello {
    Hello {
        wire_version: 1,
        host: name.parse().unwrap(),
        address: format!("{name}.test:4000"),
        locality: "fra".parse().unwrap(),
        role: if name.starts_with("seed") {
            Role::Seed
        } else {
            Role::Peer
        },
        upload_bytes_per_second_max: None,
        build: "test".into(),
    }
}

async fn open(
    address: &str,
    first: pb::NodeMessage,
) -> Result<(mpsc::Sender<pb::NodeMessage>, Streaming<pb::SchedulerMessage>), tonic::Status> {
    let mut client = SchedulerClient::connect(format!("http://{address}"))
        .await
        .unwrap();
    let (say, said) = mpsc::channel(64);
    say.send(first).await.unwrap();
    let hear = client.converse(ReceiverStream::new(said)).await?.into_inner();
    Ok((say, hear))
}

impl Node {
    async fn connect(address: &str, name: &str) -> Self {
        let (say, hear) = open(address, NodeMessage::Hello(hello(name)).into())
            .await
            .unwrap();
        let mut node = Self {
            name: name.to_owned(),
            say,
            hear,
        };
        assert!(matches!(node.next().await, SchedulerMessage::Welcome(welcome) if welcome.incarnation == 1));
        node
    }

    async fn say(&self, message: NodeMessage) {
        self.say.send(message.into()).await.unwrap();
    }

    async fn next(&mut self) -> SchedulerMessage {
        let message = tokio::time::timeout(WAIT, self.hear.message()).await;
        let message = message.unwrap_or_else(|_| panic!("{} was told nothing", self.name));
        message.unwrap().expect("the stream goes on").try_into().unwrap()
    }

    /// Reads on until `pick` picks something.
    async fn until<T>(&mut self, mut pick: impl FnMut(SchedulerMessage) -> Option<T>) -> T {
        loop {
            if let Some(picked) = pick(self.next().await) {
                return picked;
            }
        }
    }

    async fn until_parents(&mut self, count: usize) -> Parents {
        self.until(|message| match message {
            SchedulerMessage::Parents(parents) if parents.parents.len() == count => Some(parents),
            _ => None,
        })
        .await
    }

    async fn until_lease(&mut self) -> SourceLease {
        self.until(|message| match message {
            SchedulerMessage::SourceLease(lease) => Some(lease),
            _ => None,
        })
        .await
    }
}

fn task() -> TaskId {
    Digest::of(Algorithm::Sha256, b"content").into()
}

fn want() -> NodeMessage {
    NodeMessage::Want(Want {
        task: task(),
        origin: OriginLocator {
            registry: "registry.test".parse().unwrap(),
            repository: "library/app".parse().unwrap(),
            kind: ContentKind::Blob,
            digest: task().digest().unwrap(),
        },
        length: None,
        held: vec![],
        states_known: 1,
        public: true,
        urgency: Urgency::Reader,
        lease_epoch: None,
        first: Vec::new(),
        on_demand: false,
    })
}

fn have(count: u32, fed: &[(Option<&str>, u64)]) -> NodeMessage {
    NodeMessage::Have(Have {
        task: task(),
        length: 3 * PIECE,
        runs: vec![PieceRun { first: 0, count }],
        fed: fed
            .iter()
            .map(|(from, bytes)| (from.map(|name| name.parse().unwrap()), *bytes))
            .collect(),
    })
}

fn links(epoch: u64) -> NodeMessage {
    NodeMessage::Links(Links {
        task: task(),
        epoch,
        length: 3 * PIECE,
        first_border: 1,
        states: [1, 2]
            .map(|n| ChainState::from_bytes(Algorithm::Sha256, &[n; 32]).unwrap())
            .to_vec(),
        proved: true,
    })
}

#[tokio::test]
async fn two_nodes_and_a_seed_share_a_content() {
    let running = start("127.0.0.1:0", |_| {}).await;
    let mut seed = Node::connect(&running.address, "seed-1").await;
    let mut a = Node::connect(&running.address, "a").await;
    let mut b = Node::connect(&running.address, "b").await;
    a.say(want()).await;
    let lease = seed.until_lease().await;
    assert_eq!(lease.task, task());
    b.say(want()).await;
    b.until_parents(2).await;
    a.until_parents(2).await;
    seed.say(links(lease.epoch)).await;
    seed.say(have(3, &[(None, 3 * PIECE)])).await;
    for node in [&mut a, &mut b] {
        let known = node
            .until(|message| match message {
                SchedulerMessage::Links(links) => Some(links),
                _ => None,
            })
            .await;
        assert!(known.trusted && known.states.len() == 2);
    }
    a.say(have(3, &[(Some("seed-1"), 2 * PIECE), (Some("b"), PIECE)]))
        .await;
    check_answers(&running.address).await;
    drop((seed, a, b));
    let metrics = running.stop().await;
    for line in [
        "darter_scheduler_messages_total{kind=\"want\"} 2",
        "darter_scheduler_decisions_total{result=\"Lease\"} 1",
        "darter_scheduler_tasks 1",
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
}

/// What an operator sees of the content that a, b and the seed share.
async fn check_answers(address: &str) {
    // Answers come in the order of what was said, by each node: ask until the last Have is known.
    let mut query = QueryClient::connect(format!("http://{}", address)).await.unwrap();
    let asked = pb::GetTaskRequest {
        task: task().to_string(),
    };
    let answer = loop {
        let answer = query.get_task(asked.clone()).await.unwrap().into_inner();
        if answer.edges.len() == 3 {
            break answer;
        }
        tokio::task::yield_now().await;
    };
    let line = answer.task.unwrap();
    assert_eq!(
        (line.holders, line.waiting, line.lease_holder.as_str()),
        (2, 2, "seed-1")
    );
    let of_a = answer.peers.iter().find(|peer| peer.host == "a").unwrap();
    assert_eq!(of_a.pieces, 3);
    assert!(
        of_a.choices
            .iter()
            .any(|choice| choice.parent == "seed-1" && choice.reasons.len() >= 5)
    );
    let hosts = query
        .list_hosts(pb::ListHostsRequest::default())
        .await
        .unwrap()
        .into_inner()
        .hosts;
    assert_eq!(hosts.len(), 3);
    let tasks = query
        .list_tasks(pb::ListTasksRequest::default())
        .await
        .unwrap()
        .into_inner()
        .tasks;
    assert_eq!(tasks.len(), 1);
}

#[tokio::test]
async fn a_scheduler_that_starts_again_empty_learns_everything_from_its_nodes() {
    let first = start("127.0.0.1:0", |_| {}).await;
    let address = first.address.clone();
    let mut seed = Node::connect(&address, "seed-1").await;
    let mut a = Node::connect(&address, "a").await;
    a.say(want()).await;
    let lease = seed.until_lease().await;
    first.stop().await;
    // The streams end with the scheduler, whatever was under way.
    while let Ok(Some(_)) = a.hear.message().await {}

    let second = start(&address, |_| {}).await;
    let seed = Node::connect(&address, "seed-1").await;
    let mut a = Node::connect(&address, "a").await;
    a.say(want()).await;
    let NodeMessage::Want(claim) = want() else {
        unreachable!()
    };
    seed.say(NodeMessage::Want(Want {
        lease_epoch: Some(lease.epoch),
        ..claim
    }))
    .await;
    a.until_parents(1).await;
    seed.say(links(lease.epoch)).await;
    let known = a
        .until(|message| match message {
            SchedulerMessage::Links(links) => Some(links),
            SchedulerMessage::SourceLease(lease) => panic!("a second lease {lease:?}"),
            _ => None,
        })
        .await;
    assert!(known.trusted);
    drop((seed, a));
    second.stop().await;
}

#[tokio::test]
async fn a_node_that_leaves_is_forgotten_and_its_lease_passes_on() {
    let running = start("127.0.0.1:0", |_| {}).await;
    let mut seed = Node::connect(&running.address, "seed-1").await;
    let mut a = Node::connect(&running.address, "a").await;
    a.say(want()).await;
    seed.until_lease().await;
    drop(seed);
    assert_eq!(a.until_lease().await.epoch, 2);
    drop(a);
    running.stop().await;
}

#[tokio::test]
async fn what_breaks_the_protocol_is_refused() {
    let running = start("127.0.0.1:0", |config| config.limits.hosts_max = 1).await;
    let no_hello = open(&running.address, want().into()).await.unwrap_err();
    assert_eq!(no_hello.code(), Code::FailedPrecondition);
    let mut bad = hello("a");
    bad.address = "nowhere".into();
    let refused = open(&running.address, NodeMessage::Hello(bad).into())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);

    let mut a = Node::connect(&running.address, "a").await;
    let (_say, mut second) = open(&running.address, NodeMessage::Hello(hello("b")).into())
        .await
        .unwrap();
    assert_eq!(
        second.message().await.unwrap_err().code(),
        Code::ResourceExhausted
    );

    // A newer release's message is ignored, a wrong one ends the stream.
    a.say.send(pb::NodeMessage { message: None }).await.unwrap();
    a.say(want()).await;
    a.until_lease().await;
    let unwant = pb::Unwant { task: "../x".into() };
    let wrong = pb::NodeMessage {
        message: Some(pb::node_message::Message::Unwant(unwant)),
    };
    a.say.send(wrong).await.unwrap();
    let status = loop {
        match a.hear.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("ended without a status"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::InvalidArgument);
    drop(a);
    running.stop().await;
}

#[tokio::test]
async fn a_node_that_does_not_read_is_disconnected() {
    let running = start("127.0.0.1:0", |config| config.limits.messages_per_host_max = 4).await;
    let (say, mut deaf) = open(&running.address, NodeMessage::Hello(hello("deaf")).into())
        .await
        .unwrap();
    // Each want that is repeated is answered; none of the answers is read, so the queue fills at some point.
    let other = Node::connect(&running.address, "b").await;
    other.say(want()).await;
    let flood = async { while say.send(want().into()).await.is_ok() {} };
    tokio::time::timeout(WAIT, flood)
        .await
        .expect("the flood is cut off");
    // What was in the queue is read, then the stream ends.
    while let Ok(Some(_)) = deaf.message().await {}
    drop((deaf, other));
    let metrics = running.stop().await;
    assert!(
        metrics.contains("darter_scheduler_nodes_too_slow_total 1"),
        "{metrics}"
    );
}

/// A manager's numbers do not wait behind what nodes say, and are never refused because too much of that waits.
#[test]
fn numbers_change_while_the_inbox_is_full() {
    let mut config = Config::default();
    config.limits.messages_waiting_max = 1;
    let metrics = crate::metrics::Metrics::register(&mut Registry::default());
    let (handle, mut owner) = super::start(config.settings(1, 1), &config.limits, metrics);
    let gone = || super::Command::Gone(crate::resource::Connection(1), "a".parse().unwrap());
    handle.inbox.try_send(gone()).unwrap();
    handle.inbox.try_send(gone()).unwrap_err();
    for parents_max in [3, 7] {
        handle.tune(crate::schedule::Tuning {
            parents_max,
            lease_first_byte: Duration::from_secs(1),
            lease_stall: Duration::from_secs(2),
            lease_pause: Duration::from_secs(3),
            chain_idle: Duration::from_secs(4),
            block: Duration::from_secs(5),
            trial_after: Duration::from_secs(6),
        });
    }
    owner.retune();
    assert_eq!(owner.scheduler.settings.parents_max, 7);
    assert_eq!(owner.scheduler.settings.trial_after, Duration::from_secs(6));
}
