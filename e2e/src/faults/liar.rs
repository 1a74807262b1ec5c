//! The wire before a node's pieces: other nodes reach it through this, and it does to the bytes what a test says.
//!
//! Behind it stands a real node, so that all but the lie is true. One request a connection: each is a choice anew. After what
//! breaks the protocol the wire leaves the connection open: it is for the other side to close it.

#![expect(
    clippy::disallowed_methods,
    reason = "the harness owns real sockets in namespaces of its own"
)]

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::island::Island;
use super::wire::{Answer, Asked, read_head};

/// Where other nodes find it.
pub(super) const PORT: u16 = 4100;
/// Where the node itself listens.
const TRUTH: &str = "127.0.0.1:4000";
/// No piece is shorter, but for a content's last one.
const PIECE_MIN: u64 = 256 * 1024;
/// Within each of those one bit is flipped, at this offset.
const FLIPPED: u64 = 1000;
/// Until the other side must have closed a connection on which it was lied to.
pub(super) const CLOSED_WITHIN: Duration = Duration::from_secs(10);

/// What it does to answers with pieces; the news of who has what stay true unless said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lie {
    /// Passes everything on.
    None,
    /// One bit of each piece is another.
    Flip,
    /// No request for pieces is answered.
    Mute,
    /// Half of each answer, then nothing.
    Stall,
    /// One byte a second.
    Drip,
    /// So many bytes of pieces in all; then connections end.
    Budget(u64),
    /// `Content-Range` names another range than was asked.
    OtherRange,
    /// The bytes are of a range that nobody asked for.
    Unasked,
    /// Half of the range, framed as if that were right.
    Short,
    /// A few bytes more than were asked for.
    Long,
    /// Everything twice.
    Twice,
    /// A body of 2^63 bytes is announced.
    Huge,
    /// The news are none.
    Nonsense(&'static str),
}

#[derive(Debug)]
struct State {
    lie: Lie,
    /// Requests for pieces that came.
    requests: u64,
    /// Requests that were answered by a lie.
    told: u64,
    /// Left of [`Lie::Budget`].
    budget: u64,
    /// Connections that the other side closed after a lie that breaks the protocol, and those that it kept.
    closed: u64,
    kept: u64,
}

/// A wire that lies on demand.
#[derive(Clone, Debug)]
pub(super) struct Liar {
    state: Arc<Mutex<State>>,
}

impl Liar {
    /// Listens on the island's host.
    pub(super) fn start(island: &Island) -> Result<Self> {
        let state = State {
            lie: Lie::None,
            requests: 0,
            told: 0,
            budget: 0,
            closed: 0,
            kept: 0,
        };
        let liar = Self {
            state: Arc::new(Mutex::new(state)),
        };
        let listener = island.run(TcpListener::bind(("0.0.0.0", PORT)))?;
        let listener = listener.context("cannot listen before a node")?;
        let own = liar.clone();
        island.spawn(async move { own.serve(listener).await });
        Ok(liar)
    }

    /// From the next request on.
    pub(super) fn set(&self, lie: Lie) {
        let mut state = self.lock();
        state.lie = lie;
        state.budget = match lie {
            Lie::Budget(bytes) => bytes,
            _ => 0,
        };
    }

    /// Requests for pieces so far.
    pub(super) fn requests(&self) -> u64 {
        self.lock().requests
    }

    /// Lies so far.
    pub(super) fn told(&self) -> u64 {
        self.lock().told
    }

    /// Connections that the other side closed after a lie that breaks the protocol, and those that it kept.
    pub(super) fn closed_and_kept(&self) -> (u64, u64) {
        let state = self.lock();
        (state.closed, state.kept)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(self, listener: TcpListener) {
        let mut talks = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                Some(_) = talks.join_next() => {}
                Ok((child, _)) = listener.accept() => {
                    let liar = self.clone();
                    // A child that leaves is nobody's error.
                    talks.spawn(async move { drop(liar.talk(child).await) });
                }
            }
        }
    }

    async fn talk(&self, mut child: TcpStream) -> io::Result<()> {
        let asked = Asked::read(&mut child).await?;
        let lie = self.choose(&asked);
        if lie == Lie::Mute {
            return std::future::pending().await;
        }
        let answered = self.answer(&mut child, &asked, lie).await;
        if lie.breaks_the_protocol() {
            let closed = answered.is_err() || closes(&mut child).await;
            let mut state = self.lock();
            state.closed += u64::from(closed);
            state.kept += u64::from(!closed);
            return Ok(());
        }
        answered?;
        child.shutdown().await
    }

    async fn answer(&self, child: &mut TcpStream, asked: &Asked, lie: Lie) -> io::Result<()> {
        let mut node = TcpStream::connect(TRUTH).await?;
        node.write_all(&asked.for_node(lie)).await?;
        let head = read_head(&mut node).await?;
        if asked.pieces {
            let answer = Answer::of(&head);
            child.write_all(answer.told(asked, lie).as_bytes()).await?;
            return self.body(node, child, answer, lie).await;
        }
        child.write_all(&head).await?;
        let Lie::Nonsense(text) = lie else {
            tokio::io::copy(&mut node, child).await?;
            return Ok(());
        };
        let chunk = format!("{:x}\r\n{text}\n\r\n", text.len() + 1);
        child.write_all(chunk.as_bytes()).await
    }

    fn choose(&self, asked: &Asked) -> Lie {
        let mut state = self.lock();
        let lie = match (asked.pieces, state.lie) {
            (false, Lie::Nonsense(text)) => Lie::Nonsense(text),
            (false, _) | (true, Lie::Nonsense(_)) => Lie::None,
            (true, lie) => lie,
        };
        state.requests += u64::from(asked.pieces);
        state.told += u64::from(lie != Lie::None);
        lie
    }

    async fn body(
        &self,
        mut node: TcpStream,
        child: &mut TcpStream,
        answer: Answer,
        lie: Lie,
    ) -> io::Result<()> {
        let (mut at, mut sent) = (answer.first, 0);
        let mut kept = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = node.read(&mut buffer).await?;
            let Some(bytes) = buffer.get_mut(..count).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            let half = answer.length / 2;
            let room = match lie {
                Lie::Flip => {
                    flip(at, bytes);
                    count
                }
                Lie::Short | Lie::Stall => usize::try_from(half - sent.min(half)).unwrap_or(count),
                Lie::Budget(_) => self.spend(count),
                Lie::Drip => return drip(child, bytes).await,
                _ => count,
            };
            if lie == Lie::Twice {
                kept.extend_from_slice(bytes);
            }
            child
                .write_all(bytes.get(..room.min(count)).unwrap_or_default())
                .await?;
            if room < count {
                match lie {
                    Lie::Stall => return std::future::pending().await,
                    _ => return Ok(()),
                }
            }
            at += count as u64;
            sent += count as u64;
        }
        match lie {
            Lie::Twice => child.write_all(&kept).await,
            Lie::Long => child.write_all(b"forever").await,
            Lie::Huge => child.write_all(&vec![7; 1 << 20]).await,
            _ => Ok(()),
        }
    }

    fn spend(&self, count: usize) -> usize {
        let mut state = self.lock();
        let room = state.budget.min(count as u64);
        state.budget -= room;
        usize::try_from(room).unwrap_or(count)
    }
}

impl Lie {
    /// Whether the other side is to close the connection on which it was told.
    pub(super) fn breaks_the_protocol(self) -> bool {
        match self {
            Self::None | Self::Flip | Self::Mute | Self::Stall | Self::Drip | Self::Budget(_) => false,
            Self::OtherRange
            | Self::Unasked
            | Self::Short
            | Self::Long
            | Self::Twice
            | Self::Huge
            | Self::Nonsense(_) => true,
        }
    }
}

/// Whether the other side ends the connection, and asks for nothing more on it.
async fn closes(child: &mut TcpStream) -> bool {
    let ended = tokio::time::timeout(CLOSED_WITHIN, child.read_u8()).await;
    matches!(ended, Ok(Err(_)))
}

/// Flips one bit of each piece that is in `bytes`, which begin at offset `at`.
fn flip(at: u64, bytes: &mut [u8]) {
    for (offset, byte) in (at..).zip(bytes) {
        if offset % PIECE_MIN == FLIPPED {
            *byte ^= 1;
        }
    }
}

async fn drip(child: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    for byte in bytes {
        child.write_all(&[*byte]).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_of_each_piece_is_flipped() {
        let mut bytes = vec![0; 600_000];
        flip(100, &mut bytes);
        let flipped: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        assert_eq!(flipped, [900, 262_144 + 900, 524_288 + 900]);
    }
}
