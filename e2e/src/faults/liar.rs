//! The wire before a node's pieces: other nodes reach it through this, and it does to the bytes what a test says.
//!
//! Behind it stands a real node, so that all but the lie is true. One request a connection: each is a choice anew.

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

/// Where other nodes find it.
pub(super) const PORT: u16 = 4100;
/// Where the node itself listens.
const TRUTH: &str = "127.0.0.1:4000";
/// No piece is shorter, but for a content's last one.
const PIECE_MIN: u64 = 256 * 1024;
/// Within each of those one bit is flipped, at this offset.
const FLIPPED: u64 = 1000;
/// Heads are short; what is longer is an attack on the harness.
const HEAD_MAX: usize = 64 * 1024;

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
}

/// A wire that lies on demand.
#[derive(Clone, Debug)]
pub(super) struct Liar {
    state: Arc<Mutex<State>>,
}

/// A request for pieces, or for something else.
struct Asked {
    head: Vec<u8>,
    pieces: bool,
}

impl Liar {
    /// Listens on the island's host.
    pub(super) fn start(island: &Island) -> Result<Self> {
        let state = State {
            lie: Lie::None,
            requests: 0,
            told: 0,
            budget: 0,
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
        let mut node = TcpStream::connect(TRUTH).await?;
        node.write_all(&asked.for_node(lie)).await?;
        let head = read_head(&mut node).await?;
        if !asked.pieces {
            child.write_all(&head).await?;
            if let Lie::Nonsense(text) = lie {
                child
                    .write_all(format!("{:x}\r\n{text}\n\r\n", text.len() + 1).as_bytes())
                    .await?;
            }
            tokio::io::copy(&mut node, &mut child).await?;
            return child.shutdown().await;
        }
        let answer = Answer::of(&head);
        child.write_all(answer.told(&asked, lie).as_bytes()).await?;
        self.body(node, &mut child, answer, lie).await?;
        child.shutdown().await
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

impl Asked {
    async fn read(child: &mut TcpStream) -> io::Result<Self> {
        let head = read_head(child).await?;
        let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let pieces = String::from_utf8_lossy(line).contains("/pieces ");
        Ok(Self { head, pieces })
    }

    fn range(&self) -> Option<(u64, u64)> {
        let text = String::from_utf8_lossy(&self.head).to_ascii_lowercase();
        let range = text
            .lines()
            .find_map(|line| line.strip_prefix("range: bytes="))?
            .trim()
            .to_owned();
        let (first, last) = range.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    }

    /// The request as the node gets it: the last one of its connection.
    fn for_node(&self, lie: Lie) -> Vec<u8> {
        let text = String::from_utf8_lossy(&self.head);
        let mut lines: Vec<String> = text.trim_end().lines().map(str::to_owned).collect();
        if let (Lie::Unasked, Some((first, last))) = (lie, self.range()) {
            // Before it if there is room, else nothing but the start: other bytes, or fewer.
            let length = last - first + 1;
            let other = if first >= length {
                first - length
            } else {
                first + length
            };
            for line in &mut lines {
                if line.to_ascii_lowercase().starts_with("range:") {
                    *line = format!("range: bytes={other}-{}", other + length - 1);
                }
            }
        }
        lines.push("connection: close\r\n\r\n".to_owned());
        lines.join("\r\n").into_bytes()
    }
}

/// What the node answered.
struct Answer {
    head: String,
    length: u64,
    first: u64,
}

impl Answer {
    fn of(head: &[u8]) -> Self {
        let head = String::from_utf8_lossy(head).into_owned();
        let value = |name: &str| {
            let mut lines = head.lines();
            lines.find_map(|line| {
                Some(
                    line.to_ascii_lowercase()
                        .strip_prefix(name)?
                        .trim_start_matches(':')
                        .trim()
                        .to_owned(),
                )
            })
        };
        let length = value("content-length")
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        let range = value("content-range").unwrap_or_default();
        let first = range.trim_start_matches("bytes ").split('-').next();
        let first = first.and_then(|text| text.parse().ok()).unwrap_or(0);
        Self { head, length, first }
    }

    /// The head as the child gets it.
    fn told(&self, asked: &Asked, lie: Lie) -> String {
        let length = match lie {
            Lie::Short => self.length / 2,
            Lie::Long => self.length + 7,
            Lie::Twice => self.length * 2,
            Lie::Huge => 1 << 63,
            _ => self.length,
        };
        let total = self.head.rsplit('/').next().unwrap_or_default();
        let total: String = total.chars().take_while(char::is_ascii_digit).collect();
        let (first, last) = asked.range().unwrap_or((0, self.length.saturating_sub(1)));
        let shift = u64::from(lie == Lie::OtherRange);
        let mut text = String::new();
        for line in self.head.trim_end().lines() {
            let lower = line.to_ascii_lowercase();
            if lower.starts_with("content-length:") {
                text.push_str(&format!("content-length: {length}\r\n"));
            } else if lower.starts_with("content-range:") {
                let range = format!("bytes {}-{}/{total}", first + shift, last + shift);
                text.push_str(&format!("content-range: {range}\r\n"));
            } else {
                text.push_str(line);
                text.push_str("\r\n");
            }
        }
        text + "\r\n"
    }
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

/// Byte by byte: nothing of what follows may be taken.
async fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= HEAD_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        head.push(stream.read_u8().await?);
    }
    Ok(head)
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

    #[test]
    fn requests_and_answers_are_bent_as_asked() {
        let asked = Asked {
            head: b"GET /v1/tasks/x/pieces HTTP/1.1\r\nrange: bytes=10-19\r\n\r\n".to_vec(),
            pieces: true,
        };
        let other = String::from_utf8(asked.for_node(Lie::Unasked)).unwrap();
        assert!(
            other.contains("range: bytes=0-9\r\nconnection: close\r\n\r\n"),
            "{other}"
        );
        let head =
            b"HTTP/1.1 206 Partial Content\r\ncontent-length: 10\r\ncontent-range: bytes 10-19/30\r\n\r\n";
        let answer = Answer::of(head);
        assert_eq!((answer.length, answer.first), (10, 10));
        assert_eq!(answer.told(&asked, Lie::None).as_bytes(), head);
        assert!(answer.told(&asked, Lie::Twice).contains("content-length: 20"));
        assert!(answer.told(&asked, Lie::OtherRange).contains("bytes 11-20/30"));
    }
}
