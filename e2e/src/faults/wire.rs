//! Requests and answers between nodes, as a wire that lies takes them apart.

use std::io;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::liar::Lie;

/// Heads are short; what is longer is an attack on the harness.
const HEAD_MAX: usize = 64 * 1024;

/// A request for pieces, or for something else.
pub(super) struct Asked {
    pub(super) head: Vec<u8>,
    pub(super) pieces: bool,
}

impl Asked {
    pub(super) async fn read(child: &mut TcpStream) -> io::Result<Self> {
        let head = read_head(child).await?;
        let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let pieces = String::from_utf8_lossy(line).contains("/pieces ");
        Ok(Self { head, pieces })
    }

    pub(super) fn range(&self) -> Option<(u64, u64)> {
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
    pub(super) fn for_node(&self, lie: Lie) -> Vec<u8> {
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
pub(super) struct Answer {
    pub(super) head: String,
    pub(super) length: u64,
    pub(super) first: u64,
}

impl Answer {
    pub(super) fn of(head: &[u8]) -> Self {
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
    pub(super) fn told(&self, asked: &Asked, lie: Lie) -> String {
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
            } else if lower.starts_with("connection:") && lie.breaks_the_protocol() {
                // Nothing but the lie may be why it is closed.
            } else {
                text.push_str(line);
                text.push_str("\r\n");
            }
        }
        text + "\r\n"
    }
}

/// Byte by byte: nothing of what follows may be taken.
pub(super) async fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
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
