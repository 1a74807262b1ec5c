//! Simulated sockets behind the seam that every role goes through: turmoil's streams, with links that have a speed.
//!
//! Turmoil delays and reorders messages but carries any number of bytes at once. Here each host has an uplink: what is
//! written leaves in small segments at the uplink's rate, so that a pull takes time and faults can fall into its middle.
//! It is not TCP: a message that a partition swallows is never sent again, and its connection stays silent for ever.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use darter_service::net::{Address, BoxFuture, Listener, Network, PeerAddr, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};
use turmoil::net::{TcpListener, TcpStream};

/// Most bytes of one simulated segment.
const SEGMENT_BYTES: usize = 16 * 1024;
/// How far an uplink may run ahead of its rate: timers have whole milliseconds.
const AHEAD: Duration = Duration::from_millis(2);

/// From so many bytes in one write on, it is the body of a long answer.
const BULK_BYTES: usize = 4 * 1024;
/// What of it goes out in any case: the head of the answer.
const BULK_HEAD_BYTES: usize = 1024;

/// Speed of a host's uplink in bytes a second. Clones share it; it survives the host's crashes.
#[derive(Clone, Debug)]
pub struct Rate {
    bytes_per_second: Arc<AtomicU64>,
    /// Between two bytes of long answers, in ms; 0 = they flow.
    bulk_pause: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
}

impl Rate {
    /// An uplink of this speed.
    pub fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second: Arc::new(AtomicU64::new(bytes_per_second)),
            bulk_pause: Arc::default(),
            sent: Arc::default(),
        }
    }

    /// Long answers go out byte by byte from here on, with a pause after each; what is short goes as ever.
    pub fn drip(&self, pause: Duration) {
        let pause = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        self.bulk_pause.store(pause, Ordering::Relaxed);
    }

    fn bulk_pause(&self) -> Option<Duration> {
        let pause = self.bulk_pause.load(Ordering::Relaxed);
        (pause > 0).then(|| Duration::from_millis(pause))
    }

    /// Changes the speed, from the next segment on.
    pub fn set(&self, bytes_per_second: u64) {
        self.bytes_per_second
            .store(bytes_per_second.max(1), Ordering::Relaxed);
    }

    /// Bytes that went over it so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn time_of(&self, bytes: usize) -> Duration {
        let rate = self.bytes_per_second.load(Ordering::Relaxed).max(1);
        let nanos = (bytes as u64).saturating_mul(1_000_000_000) / rate;
        Duration::from_nanos(nanos)
    }
}

/// The sockets of one simulated host, for one life of it.
#[derive(Clone, Debug)]
pub struct TurmoilNetwork {
    uplink: Arc<Uplink>,
    sockets: Arc<Mutex<Sockets>>,
}

/// All connections of a host in the order in which they were made. A runtime that is dropped drops its tasks in an order that
/// differs from run to run; the ends of connections must not.
#[derive(Debug, Default)]
struct Sockets {
    severed: bool,
    made: u64,
    open: BTreeMap<u64, Arc<Mutex<Option<TcpStream>>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Uplink {
    rate: Rate,
    /// When everything that was written has left.
    free_at: Mutex<Option<Instant>>,
}

impl Uplink {
    /// Takes `bytes` and tells when the next ones may follow.
    fn take(&self, bytes: usize) -> Instant {
        self.rate.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        let now = Instant::now();
        let mut free_at = lock(&self.free_at);
        let begin = free_at.map_or(now, |at| at.max(now));
        let end = begin + self.rate.time_of(bytes);
        *free_at = Some(end);
        end.checked_sub(AHEAD).unwrap_or(now)
    }
}

impl TurmoilNetwork {
    /// Sockets that send at `rate` together.
    pub fn new(rate: Rate) -> Self {
        let free_at = Mutex::new(None);
        Self {
            uplink: Arc::new(Uplink { rate, free_at }),
            sockets: Arc::default(),
        }
    }

    /// Ends all connections as the system does for a process that dies, and lets nothing through any more; whoever holds one
    /// hears nothing. To be called on the host, which is to crash then.
    pub fn sever(&self) {
        let open = {
            let mut sockets = lock(&self.sockets);
            sockets.severed = true;
            std::mem::take(&mut sockets.open)
        };
        for socket in open.values() {
            drop(lock(socket).take());
        }
    }

    fn wire(&self, stream: TcpStream) -> Stream {
        let mut sockets = lock(&self.sockets);
        sockets.made += 1;
        let number = sockets.made;
        let socket = Arc::new(Mutex::new((!sockets.severed).then_some(stream)));
        if !sockets.severed {
            sockets.open.insert(number, Arc::clone(&socket));
        }
        Stream::Other(Box::new(Wire {
            number,
            socket,
            network: self.clone(),
            pause: None,
            drips: false,
        }))
    }
}

fn split(authority: &str) -> io::Result<(&str, u16)> {
    let wrong = || {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{authority:?} is no host:port"),
        )
    };
    let (host, port) = authority.rsplit_once(':').ok_or_else(wrong)?;
    Ok((host, port.parse().map_err(|_| wrong())?))
}

impl Network for TurmoilNetwork {
    fn bind<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let Address::Tcp(authority) = address else {
                return Err(io::ErrorKind::Unsupported.into());
            };
            let listener = TcpListener::bind(split(authority)?).await?;
            let network = self.clone();
            Ok(Box::new(TurmoilListener { listener, network }) as Box<dyn Listener>)
        })
    }

    fn connect<'a>(&'a self, authority: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(async move {
            let stream = TcpStream::connect(split(authority)?).await?;
            Ok(self.wire(stream))
        })
    }

    fn resolve<'a>(&'a self, authority: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move {
            let (host, port) = split(authority)?;
            Ok(vec![SocketAddr::new(turmoil::lookup(host), port)])
        })
    }
}

struct TurmoilListener {
    listener: TcpListener,
    network: TurmoilNetwork,
}

impl fmt::Debug for TurmoilListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TurmoilListener")
    }
}

impl Listener for TurmoilListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Stream, PeerAddr)>> {
        Box::pin(async move {
            let (stream, address) = self.listener.accept().await?;
            Ok((self.network.wire(stream), PeerAddr::Ip(address)))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// One connection that sends at its host's speed.
struct Wire {
    number: u64,
    /// Nothing once the host is severed.
    socket: Arc<Mutex<Option<TcpStream>>>,
    network: TurmoilNetwork,
    pause: Option<Pin<Box<Sleep>>>,
    /// A long answer began on it that goes out byte by byte.
    drips: bool,
}

impl Wire {
    /// Waits until the uplink has room.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(pause) = self.pause.as_mut() {
            ready!(pause.as_mut().poll(cx));
            self.pause = None;
        }
        Poll::Ready(())
    }

    /// How many of so many bytes go out now, and the pause after them, if it is not the uplink's.
    fn share(&mut self, bytes: usize) -> (usize, Option<Duration>) {
        let pause = self.network.uplink.rate.bulk_pause();
        let most = match pause {
            Some(_) if self.drips => 1,
            Some(_) if bytes >= BULK_BYTES => BULK_HEAD_BYTES,
            _ => return (bytes.min(SEGMENT_BYTES), None),
        };
        self.drips = true;
        (bytes.min(most), pause)
    }

    /// Does something with the socket; never comes back where there is none.
    fn with<T>(&self, act: impl FnOnce(Pin<&mut TcpStream>) -> Poll<T>) -> Poll<T> {
        lock(&self.socket)
            .as_mut()
            .map_or(Poll::Pending, |stream| act(Pin::new(stream)))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        lock(&self.network.sockets).open.remove(&self.number);
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_room(cx));
        let (most, pause) = self.share(buf.len());
        let segment = buf.get(..most).unwrap_or(buf);
        let written = ready!(self.with(|stream| stream.poll_write(cx, segment)))?;
        let free = self.network.uplink.take(written);
        let next = pause.map_or(free, |pause| Instant::now() + pause);
        if next > Instant::now() {
            self.pause = Some(Box::pin(sleep_until(next)));
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_shutdown(cx))
    }
}
