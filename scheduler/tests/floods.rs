//! Somebody floods the port of the nodes with frames of HTTP/2 (RFC 9113) that cost him nothing: the scheduler stays
//! small, and a node that behaves is served all the while.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on fails the test"
)]

use std::io;
use std::sync::Arc;
use std::time::Duration;

use darter_proto::pb::scheduler::v1 as pb;
use darter_proto::pb::scheduler::v1::scheduler_client::SchedulerClient;
use darter_proto::scheduler::{Hello, NodeMessage, Role, Want};
use darter_scheduler::app::run;
use darter_scheduler::config::Config;
use darter_service::net::{Network, Stream, TokioNetwork};
use darter_types::{Algorithm, ContentKind, Digest, OriginLocator};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::Endpoint;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

const WAIT: Duration = Duration::from_secs(60);
/// Frames of one flood.
const FRAMES: u32 = 50_000;
/// How much the process may grow by all floods together, in bytes.
const GROWTH_MAX: u64 = 32 * 1024 * 1024;
/// Connections that announce too much at the same time; each may cost a megabyte.
const CONNECTIONS: u64 = 20;

// RFC 9113, section 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const GOAWAY: u8 = 7;
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Headers of a node's stream (RFC 7541: literals without indexing, but for what the static table has whole).
fn headers() -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    for (name, value) in [
        (0x04, "/darter.scheduler.v1.Scheduler/Converse"),
        (0x01, "scheduler"),
        (0x0f, "application/grpc"),
    ] {
        block.push(name);
        if name == 0x0f {
            // Index 31, content-type, does not fit the prefix of four bits.
            block.push(31 - 15);
        }
        block.push(u8::try_from(value.len()).unwrap());
        block.extend(value.bytes());
    }
    block
}

#[derive(Clone, Copy, Debug)]
enum Flood {
    RapidReset,
    Continuation,
    EmptyData,
    Settings,
    Ping,
}

const FLOODS: [Flood; 5] = [
    Flood::RapidReset,
    Flood::Continuation,
    Flood::EmptyData,
    Flood::Settings,
    Flood::Ping,
];

impl Flood {
    /// What is sent first.
    fn begin(self) -> Vec<u8> {
        match self {
            Self::Continuation => frame(HEADERS, 0, 1, &headers()),
            Self::EmptyData => frame(HEADERS, END_HEADERS, 1, &headers()),
            Self::RapidReset | Self::Settings | Self::Ping => Vec::new(),
        }
    }

    /// The frames of round `number`.
    fn round(self, number: u32) -> Vec<u8> {
        match self {
            Self::RapidReset => {
                let stream = 2 * number + 1;
                let mut frames = frame(HEADERS, END_HEADERS, stream, &headers());
                frames.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
                frames
            }
            // A header that is named by its text, and never ends to come.
            Self::Continuation => {
                let mut block = vec![0x00, 1, b'x', 100];
                block.extend([b'y'; 100]);
                frame(CONTINUATION, 0, 1, &block)
            }
            Self::EmptyData => frame(DATA, 0, 1, &[]),
            Self::Settings => frame(SETTINGS, 0, 0, &[]),
            Self::Ping => frame(PING, 0, 0, &u64::from(number).to_be_bytes()),
        }
    }

    /// Sends all of it, reading nothing, until it is sent, held back or thrown out.
    async fn send(self, stream: &mut Stream) -> io::Result<()> {
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
        stream.write_all(&self.begin()).await?;
        for round in 0..FRAMES / 100 {
            let frames: Vec<u8> = (0..100).flat_map(|at| self.round(round * 100 + at)).collect();
            let held_back = timeout(Duration::from_secs(1), stream.write_all(&frames));
            match held_back.await {
                Ok(written) => written?,
                Err(_) => break,
            }
        }
        stream.flush().await
    }
}

/// Opens a node's stream and announces a message of 4 GiB; whether the server ended it, by trailers, a reset or its
/// connection.
async fn announce_the_longest(stream: &mut Stream) -> bool {
    let mut request = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    request.extend(frame(SETTINGS, 0, 0, &[]));
    request.extend(frame(HEADERS, END_HEADERS, 1, &headers()));
    // Not compressed, and so many bytes; some of them come.
    let mut message = vec![0, 0xff, 0xff, 0xff, 0xff];
    message.extend([0x0a; 1000]);
    request.extend(frame(DATA, 0, 1, &message));
    stream.write_all(&request).await.unwrap();
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return true;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.unwrap();
        let ends = head[3] == HEADERS && head[4] & END_STREAM != 0;
        if ends || head[3] == RST_STREAM || head[3] == GOAWAY {
            return true;
        }
    }
}

/// Memory of this process that is in use, in bytes.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// A node that behaves.
struct Node {
    say: mpsc::Sender<pb::NodeMessage>,
    hear: Streaming<pb::SchedulerMessage>,
}

impl Node {
    async fn connect(address: &str) -> Self {
        let mut client = SchedulerClient::connect(format!("http://{address}"))
            .await
            .unwrap();
        let (say, said) = mpsc::channel(8);
        let hello = Hello {
            wire_version: 1,
            host: "good".parse().unwrap(),
            address: "good.test:4000".to_owned(),
            locality: "fra".parse().unwrap(),
            role: Role::Peer,
            upload_bytes_per_second_max: None,
            build: "test".to_owned(),
        };
        say.send(NodeMessage::Hello(hello).into()).await.unwrap();
        let hear = client.converse(ReceiverStream::new(said)).await.unwrap();
        let mut node = Self {
            say,
            hear: hear.into_inner(),
        };
        node.hears().await;
        node
    }

    async fn hears(&mut self) {
        let message = timeout(WAIT, self.hear.message()).await;
        message
            .expect("the scheduler answers")
            .unwrap()
            .expect("the stream goes on");
    }

    /// Wants a new content, and is given its lease.
    async fn is_served(&mut self, number: u64) {
        let digest = Digest::of(Algorithm::Sha256, &number.to_be_bytes());
        let want = Want {
            task: digest.into(),
            origin: OriginLocator {
                registry: "registry.test".parse().unwrap(),
                repository: "library/app".parse().unwrap(),
                kind: ContentKind::Blob,
                digest,
            },
            length: None,
            held: Vec::new(),
            states_known: 1,
            public: true,
            urgency: darter_proto::scheduler::Urgency::Reader,
            lease_epoch: None,
            first: Vec::new(),
            on_demand: false,
        };
        self.say.send(NodeMessage::Want(want).into()).await.unwrap();
        self.hears().await;
    }
}

async fn serves(address: &str, service: &str) -> ServingStatus {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut client = HealthClient::new(endpoint.connect().await.unwrap());
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    let answer = client.check(request).await.unwrap().into_inner();
    ServingStatus::try_from(answer.status).unwrap()
}

/// Memory is measured for the whole process: one test after the other.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Runs a scheduler while `test` talks to it.
async fn with_scheduler(test: impl AsyncFnOnce(&str)) {
    let _alone = ALONE.lock().await;
    let network: Arc<dyn Network> = Arc::new(TokioNetwork);
    let (taken, stop) = (
        network.bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap(),
        CancellationToken::new(),
    );
    let address = taken.local_addr().unwrap().to_string();
    drop(taken);
    let config = Config {
        listen: address.clone(),
        ..Config::default()
    };
    let (mut registry, ending) = (Registry::default(), stop.clone());
    let scheduler = run(config, network, &mut registry, 1, 1, ending);
    let test = async {
        while TokioNetwork.connect(&address).await.is_err() {
            tokio::task::yield_now().await;
        }
        test(&address).await;
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(scheduler, test);
    ended.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_frames_costs_no_memory_and_disturbs_nobody() {
    with_scheduler(async |address| {
        for service in ["", "darter.scheduler.v1.Scheduler"] {
            assert_eq!(serves(address, service).await, ServingStatus::Serving);
        }
        let mut node = Node::connect(address).await;
        node.is_served(0).await;
        let before = resident_bytes();
        for (flood, number) in FLOODS.into_iter().zip(1..) {
            let mut attacker = TokioNetwork.connect(address).await.unwrap();
            // Thrown out or held back or served: only what it does to others counts.
            let _ = flood.send(&mut attacker).await;
            node.is_served(number).await;
            let grown = resident_bytes().saturating_sub(before);
            assert!(grown <= GROWTH_MAX, "{flood:?}: {grown} bytes more");
        }
        assert_eq!(serves(address, "").await, ServingStatus::Serving);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_four_gigabytes_is_refused_before_it_comes() {
    with_scheduler(async |address| {
        let mut node = Node::connect(address).await;
        node.is_served(0).await;
        // Once, so that what is made at first use is there.
        let mut attackers = vec![TokioNetwork.connect(address).await.unwrap()];
        assert!(announce_the_longest(&mut attackers[0]).await);
        let before = resident_bytes();
        for _ in 0..CONNECTIONS {
            let mut attacker = TokioNetwork.connect(address).await.unwrap();
            let refused = timeout(WAIT, announce_the_longest(&mut attacker)).await;
            assert!(refused.expect("it is not waited for"));
            attackers.push(attacker);
        }
        let grown = resident_bytes().saturating_sub(before);
        assert!(grown <= CONNECTIONS * 1024 * 1024, "{grown} bytes more");
        node.is_served(1).await;
    })
    .await;
}
