//! The leanest HTTP/1.1 client: it reads and throws away, so that what is measured is the server.
//!
//! Not a client for anything else: answers must have a `Content-Length`.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::clock::now;

/// Bytes asked of the kernel at once: larger costs less, up to what stays in the processor's cache.
const BUFFER: usize = 1 << 20;
/// An answer that stands still for so long is broken.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest head of an answer.
const HEAD_MAX: usize = 64 * 1024;

/// One keep-alive connection.
#[derive(Debug)]
pub(super) struct Client {
    stream: TcpStream,
    address: String,
    buffer: Vec<u8>,
}

/// What an answer was.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    /// Bytes of the body.
    pub(super) bytes: u64,
    /// From the request to the first byte of the body, or to the end of the head when there is none.
    pub(super) first_byte: Duration,
    /// From the request to the last byte.
    pub(super) took: Duration,
}

impl Client {
    /// Connects from where the calling thread stands.
    pub(super) fn connect(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            address: address.to_owned(),
            buffer: vec![0; BUFFER],
        })
    }

    /// Gets `path` and throws it away.
    pub(super) fn get(&mut self, path: &str) -> Result<Answer> {
        self.ask(path, "")
    }

    /// Gets `length` bytes of `path` from `first` on, and throws them away.
    pub(super) fn get_range(&mut self, path: &str, first: u64, length: u64) -> Result<Answer> {
        let last = first + length - 1;
        self.ask(path, &format!("Range: bytes={first}-{last}\r\n"))
    }

    fn ask(&mut self, path: &str, headers: &str) -> Result<Answer> {
        let start = now();
        let (length, mut have) = self.head(path, headers)?;
        let mut first_byte = start.elapsed();
        if have == 0 && length > 0 {
            have = self.read()?;
            first_byte = start.elapsed();
        }
        while have < length {
            have += self.read()?;
        }
        ensure!(have == length, "{path}: more bytes than Content-Length said");
        Ok(Answer {
            bytes: length,
            first_byte,
            took: start.elapsed(),
        })
    }

    /// Begins an answer of which only `bytes` are read at a time: the length of its body and what came already.
    pub(super) fn begin(&mut self, path: &str) -> Result<(u64, u64)> {
        self.head(path, "")
    }

    /// Reads up to `max` bytes of a body that was begun.
    pub(super) fn read_some(&mut self, max: usize) -> Result<u64> {
        let part = self.buffer.get_mut(..max).context("more than the buffer holds")?;
        counted(self.stream.read(part)?)
    }

    fn read(&mut self) -> Result<u64> {
        let address = &self.address;
        let read = self.stream.read(&mut self.buffer);
        counted(read.with_context(|| format!("no more bytes from {address}"))?)
    }

    /// Sends a request; the length of the answer's body and the bytes of it that came with the head.
    fn head(&mut self, path: &str, headers: &str) -> Result<(u64, u64)> {
        let address = &self.address;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAccept: */*\r\n{headers}\r\n");
        self.stream.write_all(request.as_bytes())?;
        let mut have = 0;
        loop {
            let rest = self.buffer.get_mut(have..HEAD_MAX).unwrap_or_default();
            ensure!(!rest.is_empty(), "{path}: a head of more than {HEAD_MAX} bytes");
            let count = self.stream.read(rest)?;
            ensure!(count > 0, "{path}: closed before the head came");
            have += count;
            let read = self.buffer.get(..have).unwrap_or_default();
            if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(read.get(..end).unwrap_or_default());
                let length = content_length(&head).with_context(|| format!("{path} at {address}"))?;
                return Ok((length, u64::try_from(have - end - 4)?));
            }
        }
    }
}

fn counted(count: usize) -> Result<u64> {
    ensure!(count > 0, "the answer ended short");
    Ok(u64::try_from(count)?)
}

fn content_length(head: &str) -> Result<u64> {
    let status = head.split(' ').nth(1).unwrap_or_default();
    if !matches!(status, "200" | "206") {
        bail!("answered {}", head.lines().next().unwrap_or_default());
    }
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().ok())?
    };
    head.lines().find_map(header).context("no Content-Length")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_good_answers_have_a_length() {
        assert_eq!(
            content_length("HTTP/1.1 206 Partial Content\r\ncontent-length: 12\r\nx: y").unwrap(),
            12
        );
        let refused = content_length("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 12");
        assert!(refused.unwrap_err().to_string().contains("503"));
        assert!(content_length("HTTP/1.1 200 OK\r\n").is_err());
    }
}
