//! A client as containerd is one: reads a blob through its node's mirror, resumes where a body breaks off, and goes to the
//! registry from the exact offset when the mirror says that it cannot.
//!
//! It compares every byte with the truth as it comes, and never asks again for what it has. What it does not forgive is what
//! containerd does not forgive: wrong bytes, a reset, silence, three bodies without a byte.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use darter_service::net::{Network as _, Stream};
use darter_service::supervise::Tasks;
use darter_testkit::client::{ClientError, End, Head, RawConnection};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::network::TurmoilNetwork;
use crate::world::{Blob, ORIGIN, REGISTRY};

/// `dial_timeout` of the `hosts.toml` that Darter writes.
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Longer silence is a hang: no bar allows it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bodies without a byte after which containerd gives up.
const EMPTY_MAX: u32 = 3;
/// Tries at the last host, where containerd repeats what failed.
const LAST_HOST_TRIES: u32 = 5;
/// Bytes that are read and compared at a time.
const PART_BYTES: u64 = 32 * 1024;

/// How a pull ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All bytes are there, and right.
    Done,
    /// The client gave up, and why.
    Failed(String),
    /// The mirror handed over and the registry itself refused again and again.
    RegistryRefused,
}

/// What one pull has seen so far. Times are since its start.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Bytes that came, from wherever.
    pub bytes: u64,
    /// Bytes that differ from the truth.
    pub wrong_bytes: u64,
    /// Bytes that the registry sent to the client itself.
    pub direct_bytes: u64,
    /// How often the registry was asked because the mirror could not.
    pub hand_overs: u32,
    /// How often a body broke off.
    pub broken_bodies: u32,
    /// When the first byte came.
    pub first_byte: Option<Duration>,
    /// The longest time without a byte.
    pub longest_gap: Duration,
    /// When it ended.
    pub took: Option<Duration>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Statuses of the mirror that were not 2xx, in order.
    pub refusals: Vec<u16>,
}

/// A handle on one pull.
#[derive(Clone, Debug)]
pub struct Pull {
    /// Which node's mirror it reads through.
    pub node: String,
    /// What it reads.
    pub blob: Blob,
    /// `Authorization` that it sends, if it has one.
    pub authorization: Option<String>,
    progress: Arc<Mutex<Progress>>,
}

impl Pull {
    /// A pull that did not start.
    pub fn new(node: &str, blob: &Blob, authorization: Option<&str>) -> Self {
        Self {
            node: node.to_owned(),
            blob: blob.clone(),
            authorization: authorization.map(str::to_owned),
            progress: Arc::default(),
        }
    }

    /// What it has seen so far.
    pub fn progress(&self) -> Progress {
        self.lock().clone()
    }

    /// Whether it ended, well or not.
    pub fn is_over(&self) -> bool {
        self.lock().outcome.is_some()
    }

    /// Whether it has all bytes.
    pub fn is_done(&self) -> bool {
        self.lock().outcome == Some(Outcome::Done)
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Pulls that wait for their client's host to run them.
#[derive(Clone, Debug, Default)]
pub struct Orders {
    queue: Arc<Mutex<VecDeque<Pull>>>,
    come: Arc<Notify>,
}

impl Orders {
    /// Orders one pull.
    pub fn push(&self, pull: Pull) {
        self.queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(pull);
        self.come.notify_one();
    }

    fn pop(&self) -> Option<Pull> {
        self.queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }
}

/// A client's host: runs all pulls that are ordered, side by side, for ever.
pub async fn run(orders: Orders, network: TurmoilNetwork) -> turmoil::Result {
    let tasks = Tasks::new();
    loop {
        while let Some(pull) = orders.pop() {
            let network = network.clone();
            tasks.spawn("pull of a client", async move {
                Session { pull, network }.run().await;
            });
        }
        orders.come.notified().await;
    }
}

/// Why a host does not serve.
enum Refusal {
    /// The next host may be asked.
    Next,
    /// The client gives up.
    Fatal(String),
}

/// An answer whose body comes.
struct Opened {
    connection: RawConnection<Stream>,
    /// Bytes that the body is said to have.
    length: u64,
    /// From the registry itself.
    direct: bool,
}

struct Session {
    pull: Pull,
    network: TurmoilNetwork,
}

impl Session {
    async fn run(self) {
        let started = Instant::now();
        let outcome = match self.read(started).await {
            Ok(()) => Outcome::Done,
            Err(outcome) => outcome,
        };
        tracing::debug!(node = %self.pull.node, digest = %self.pull.blob.digest, ?outcome, "client is done");
        let mut progress = self.pull.lock();
        progress.took = Some(started.elapsed());
        progress.outcome = Some(outcome);
    }

    async fn read(&self, started: Instant) -> Result<(), Outcome> {
        let mut empty = 0;
        let mut last_byte = started;
        while self.offset() < self.pull.blob.length() {
            let before = self.offset();
            let opened = self.open().await?;
            let streamed = self.stream(opened, started, &mut last_byte).await;
            streamed.map_err(Outcome::Failed)?;
            if self.offset() < self.pull.blob.length() {
                self.pull.lock().broken_bodies += 1;
            }
            empty = if self.offset() > before { 0 } else { empty + 1 };
            if empty >= EMPTY_MAX {
                let why = format!("{EMPTY_MAX} bodies without a byte at offset {before}");
                return Err(Outcome::Failed(why));
            }
        }
        Ok(())
    }

    fn offset(&self) -> u64 {
        self.pull.lock().bytes
    }

    /// Opens the rest at the mirror, else at the registry.
    async fn open(&self) -> Result<Opened, Outcome> {
        let mirror = format!("{}:4001", self.pull.node);
        let query = format!("?ns={REGISTRY}");
        match self.ask(&mirror, &query, false).await {
            Ok(opened) => return Ok(opened),
            Err(Refusal::Fatal(why)) => return Err(Outcome::Failed(why)),
            Err(Refusal::Next) => self.pull.lock().hand_overs += 1,
        }
        for _ in 0..LAST_HOST_TRIES {
            match self.ask(&format!("{ORIGIN}:80"), "", true).await {
                Ok(opened) => return Ok(opened),
                Err(Refusal::Fatal(why)) => return Err(Outcome::Failed(why)),
                Err(Refusal::Next) => {}
            }
        }
        Err(Outcome::RegistryRefused)
    }

    async fn ask(&self, authority: &str, query: &str, direct: bool) -> Result<Opened, Refusal> {
        let connecting = timeout(DIAL_TIMEOUT, self.network.connect(authority));
        let Ok(Ok(stream)) = connecting.await else {
            return Err(Refusal::Next);
        };
        let mut connection = RawConnection::new(stream).with_patience(PATIENCE);
        let blob = &self.pull.blob;
        let target = format!("/v2/{}/blobs/{}{query}", blob.repository, blob.digest);
        let offset = self.offset();
        let range = format!("bytes={offset}-");
        let mut headers = vec![("accept-encoding", "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5")];
        if offset > 0 {
            headers.push(("range", &range));
        }
        headers.extend(
            self.pull
                .authorization
                .as_deref()
                .map(|value| ("authorization", value)),
        );
        if connection
            .request("GET", authority, &target, &headers)
            .await
            .is_err()
        {
            return Err(Refusal::Next);
        }
        let head = match connection.read_head().await {
            Ok(head) => head,
            Err(ClientError::NoAnswer { end: End::Quiet, .. }) => {
                return Err(Refusal::Fatal(format!(
                    "{authority} gave no answer in {PATIENCE:?}"
                )));
            }
            Err(_) => return Err(Refusal::Next),
        };
        let length = self.judge(authority, offset, &head, direct)?;
        Ok(Opened {
            connection,
            length,
            direct,
        })
    }

    /// Whether a head is one that a client can go on with; then the length of its body.
    fn judge(&self, authority: &str, offset: u64, head: &Head, direct: bool) -> Result<u64, Refusal> {
        let fatal = |why: String| Err(Refusal::Fatal(format!("{authority}: {why}")));
        let rest = self.pull.blob.length() - offset;
        match head.status {
            200 if offset == 0 => {}
            206 if head
                .header("content-range")
                .is_some_and(|it| it.starts_with(&format!("bytes {offset}-"))) => {}
            200 | 206 => return fatal(format!("status {} does not fit offset {offset}", head.status)),
            429 if !direct => return fatal("429, which containerd repeats at once".to_owned()),
            status => {
                if !direct {
                    self.pull.lock().refusals.push(status);
                }
                return Err(Refusal::Next);
            }
        }
        match head.header("content-length").map(str::parse::<u64>) {
            Some(Ok(length)) => Ok(length),
            None if direct => Ok(rest),
            _ => fatal("a mirror always says the length".to_owned()),
        }
    }

    /// Reads a body as far as it comes. One that ends as its head said, and has not the bytes that the client's manifest
    /// says, is the end of the pull.
    async fn stream(&self, opened: Opened, started: Instant, last_byte: &mut Instant) -> Result<(), String> {
        let Opened {
            mut connection,
            mut length,
            direct,
        } = opened;
        loop {
            let missing = self.pull.blob.length() - self.offset();
            match (missing, length) {
                (0, 0) => return Ok(()),
                (0, _) | (_, 0) => {
                    return Err(format!(
                        "a whole body ends {missing} bytes short, {length} too long"
                    ));
                }
                _ => {}
            }
            let part = missing.min(length).min(PART_BYTES);
            let part = usize::try_from(part).unwrap_or(usize::MAX);
            let (bytes, end) = connection
                .read_raw(part)
                .await
                .map_err(|error| error.to_string())?;
            if !bytes.is_empty() {
                length -= bytes.len() as u64;
                self.take(&bytes, direct, started.elapsed(), last_byte.elapsed());
                *last_byte = Instant::now();
            }
            match end {
                None => {}
                Some(End::Fin | End::Complete) => return Ok(()),
                Some(end) => return Err(format!("{end:?} at offset {}", self.offset())),
            }
        }
    }

    fn take(&self, bytes: &Bytes, direct: bool, since_start: Duration, gap: Duration) {
        let mut progress = self.pull.lock();
        let at = progress.bytes;
        let truth = self.pull.blob.content.read(at..at + bytes.len() as u64);
        if *bytes != truth {
            let wrong = bytes
                .iter()
                .zip(truth.iter())
                .filter(|(one, other)| one != other)
                .count();
            progress.wrong_bytes += wrong as u64;
        }
        progress.bytes += bytes.len() as u64;
        progress.direct_bytes += if direct { bytes.len() as u64 } else { 0 };
        progress.longest_gap = progress.longest_gap.max(gap);
        progress.first_byte.get_or_insert(since_start);
    }
}
