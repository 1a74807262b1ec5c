//! A client as containerd is one: reads a blob through its node's mirror, resumes where a body breaks off, and goes to the
//! registry from the exact offset when the mirror says that it cannot.
//!
//! It compares every byte with the truth as it comes, and never asks again for what it has. What it does not forgive is what
//! containerd does not forgive: wrong bytes, a reset, silence, three bodies without a byte. It reaches hosts by what it is
//! given ([`Dial`]), so that it works on simulated sockets as well.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};

use crate::client::{ClientError, End, Head, RawConnection};
use crate::content::Content;

/// `dial_timeout` of the `hosts.toml` that Darter writes, and more than it.
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);
/// Longer silence is a hang: no bar allows it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bodies without a byte after which containerd gives up.
const EMPTY_MAX: u32 = 3;
/// Tries at the last host, where containerd repeats what failed.
const LAST_HOST_TRIES: u32 = 5;
/// Bytes that are read and compared at a time.
const PART_BYTES: u64 = 32 * 1024;

/// How connections are made.
pub trait Dial: Sync {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send;

    /// Connects to `host:port`.
    fn dial(&self, authority: &str) -> impl Future<Output = io::Result<Self::Io>> + Send;
}

/// Real TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

impl Dial for Tcp {
    type Io = tokio::net::TcpStream;

    async fn dial(&self, authority: &str) -> io::Result<Self::Io> {
        let stream = tokio::net::TcpStream::connect(authority).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// What is to be read, and from whom.
#[derive(Clone, Debug)]
pub struct Errand {
    /// The repository that the blob is in.
    pub repository: String,
    /// `sha256:…`
    pub digest: String,
    /// Its true bytes.
    pub content: Content,
    /// `host:port` of the mirror, which is asked first; none for a pull without one.
    pub mirror: Option<String>,
    /// Query of requests to the mirror, with its `?`.
    pub mirror_query: String,
    /// `host:port` of the registry, the last host.
    pub origin: String,
    /// `Authorization` to send, if there is one.
    pub authorization: Option<String>,
}

/// How a pull ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All bytes are there. Whether they are right says [`Progress::wrong_bytes`].
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
    /// The longest time that the mirror took for a status that was not 2xx.
    pub slowest_refusal: Duration,
    /// When it ended.
    pub took: Option<Duration>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Statuses of the mirror that were not 2xx, in order.
    pub refusals: Vec<u16>,
}

/// A handle on what one pull has seen. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    progress: Arc<Mutex<Progress>>,
}

impl Watch {
    /// What it has seen so far.
    pub fn progress(&self) -> Progress {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs an errand to its end, told in `watch`.
pub async fn pull<D: Dial>(dial: &D, errand: &Errand, watch: &Watch) {
    let session = Session { dial, errand, watch };
    let started = Instant::now();
    let outcome = match session.read(started).await {
        Ok(()) => Outcome::Done,
        Err(outcome) => outcome,
    };
    let mut progress = watch.lock();
    progress.took = Some(started.elapsed());
    progress.outcome = Some(outcome);
}

/// Why a host does not serve.
enum Refusal {
    /// The next host may be asked.
    Next,
    /// The client gives up.
    Fatal(String),
}

/// An answer whose body comes.
struct Opened<I> {
    connection: RawConnection<I>,
    /// Bytes that the body is said to have.
    length: u64,
    /// Of those, the first that the client has already.
    skip: u64,
    /// From the registry itself.
    direct: bool,
}

struct Session<'a, D> {
    dial: &'a D,
    errand: &'a Errand,
    watch: &'a Watch,
}

impl<D: Dial> Session<'_, D> {
    async fn read(&self, started: Instant) -> Result<(), Outcome> {
        let mut empty = 0;
        let mut last_byte = started;
        while self.offset() < self.errand.content.len() {
            let before = self.offset();
            let opened = self.open().await?;
            let streamed = self.stream(opened, started, &mut last_byte).await;
            streamed.map_err(Outcome::Failed)?;
            if self.offset() < self.errand.content.len() {
                self.watch.lock().broken_bodies += 1;
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
        self.watch.lock().bytes
    }

    /// Opens the rest at the mirror, else at the registry.
    async fn open(&self) -> Result<Opened<D::Io>, Outcome> {
        if let Some(mirror) = &self.errand.mirror {
            let asked = Instant::now();
            match self.ask(mirror, &self.errand.mirror_query, false).await {
                Ok(opened) => return Ok(opened),
                Err(Refusal::Fatal(why)) => return Err(Outcome::Failed(why)),
                Err(Refusal::Next) => {
                    let mut progress = self.watch.lock();
                    progress.hand_overs += 1;
                    progress.slowest_refusal = progress.slowest_refusal.max(asked.elapsed());
                }
            }
        }
        for _ in 0..LAST_HOST_TRIES {
            match self.ask(&self.errand.origin, "", true).await {
                Ok(opened) => return Ok(opened),
                Err(Refusal::Fatal(why)) => return Err(Outcome::Failed(why)),
                Err(Refusal::Next) => {}
            }
        }
        Err(Outcome::RegistryRefused)
    }

    async fn ask(&self, authority: &str, query: &str, direct: bool) -> Result<Opened<D::Io>, Refusal> {
        let Ok(Ok(stream)) = timeout(DIAL_TIMEOUT, self.dial.dial(authority)).await else {
            return Err(Refusal::Next);
        };
        let mut connection = RawConnection::new(stream).with_patience(PATIENCE);
        let target = format!(
            "/v2/{}/blobs/{}{query}",
            self.errand.repository, self.errand.digest
        );
        let offset = self.offset();
        let range = format!("bytes={offset}-");
        let mut headers = vec![("accept-encoding", "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5")];
        if offset > 0 {
            headers.push(("range", &range));
        }
        let authorization = self.errand.authorization.as_deref();
        headers.extend(authorization.map(|value| ("authorization", value)));
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
            skip: if head.status == 200 { offset } else { 0 },
            direct,
        })
    }

    /// Whether a head is one that a client can go on with; then the length of its body.
    fn judge(&self, authority: &str, offset: u64, head: &Head, direct: bool) -> Result<u64, Refusal> {
        let fatal = |why: String| Err(Refusal::Fatal(format!("{authority}: {why}")));
        let skipped = if head.status == 200 { 0 } else { offset };
        let rest = self.errand.content.len() - skipped;
        match head.status {
            // Some registries ignore `Range`. A mirror that does would do so to parallel requests as well.
            200 if offset == 0 || direct => {}
            206 if head
                .header("content-range")
                .is_some_and(|it| it.starts_with(&format!("bytes {offset}-"))) => {}
            200 | 206 => return fatal(format!("status {} does not fit offset {offset}", head.status)),
            429 if !direct => return fatal("429, which containerd repeats at once".to_owned()),
            status => {
                if !direct {
                    self.watch.lock().refusals.push(status);
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
    async fn stream(
        &self,
        opened: Opened<D::Io>,
        started: Instant,
        last_byte: &mut Instant,
    ) -> Result<(), String> {
        let Opened {
            mut connection,
            mut length,
            mut skip,
            direct,
        } = opened;
        while skip > 0 {
            let part = usize::try_from(skip.min(length).min(PART_BYTES)).unwrap_or(usize::MAX);
            let (bytes, end) = connection
                .read_raw(part)
                .await
                .map_err(|error| error.to_string())?;
            skip -= bytes.len() as u64;
            length -= bytes.len() as u64;
            if end.is_some() || length == 0 {
                return Ok(());
            }
        }
        loop {
            let missing = self.errand.content.len() - self.offset();
            let part = match (missing, length) {
                (0, 0) => return Ok(()),
                (_, 0) => return Err(format!("a whole body ends {missing} bytes short")),
                // More is announced than there should be. It must break off before a byte of it: then containerd has what it
                // wants and does not ask for the rest.
                (0, _) => 1,
                _ => missing.min(length).min(PART_BYTES),
            };
            let part = usize::try_from(part).unwrap_or(usize::MAX);
            let (bytes, end) = connection
                .read_raw(part)
                .await
                .map_err(|error| error.to_string())?;
            if missing == 0 && !bytes.is_empty() {
                return Err("a body goes on behind its content".to_owned());
            }
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
        let mut progress = self.watch.lock();
        let at = progress.bytes;
        let truth = self.errand.content.read(at..at + bytes.len() as u64);
        if *bytes != truth {
            let pairs = bytes.iter().zip(truth.iter());
            progress.wrong_bytes += pairs.filter(|(one, other)| one != other).count() as u64;
        }
        progress.bytes += bytes.len() as u64;
        progress.direct_bytes += if direct { bytes.len() as u64 } else { 0 };
        progress.longest_gap = progress.longest_gap.max(gap);
        progress.first_byte.get_or_insert(since_start);
    }
}
