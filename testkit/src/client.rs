//! A plain HTTP/1.1 client that sees every byte: it sends requests verbatim, right or odd, and tells
//! exactly what came back and how the connection ended. It follows nothing, retries nothing, corrects
//! nothing.
//!
//! [`get`] is the short way. [`RawConnection`] sends anything, reads heads and bodies step by step, and
//! finds out whether a connection ended by FIN or by a reset: the difference that decides whether a real
//! container runtime hands a pull over to its next host or fails it. TLS is not spoken here, but a
//! connection works on any I/O object ([`RawConnection::new`]).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

mod head;
mod multipart;

pub use head::Head;
pub use multipart::{Part, parts};

/// How long a client waits for the next byte before it says [`End::Quiet`], unless told otherwise.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Whole, as its framing said; the connection was left open.
    Complete,
    /// The connection ended orderly (FIN). Before the end of a framed body this is a cut; of a body
    /// without framing it is the proper end.
    Fin,
    /// The connection was reset (RST).
    Reset,
    /// Nothing more came for as long as the client was willing to wait.
    Quiet,
}

/// An answer, as far as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// All headers in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body bytes that arrived; without chunk framing if the body was chunked.
    pub body: Bytes,
    /// How it ended.
    pub end: End,
}

impl Response {
    /// The first value of this header (name in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// The digest of the body that arrived.
    pub fn body_digest(&self) -> String {
        crate::content::sha256_of(&self.body)
    }

    /// The value of `Content-Length`.
    pub fn content_length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection could not be made, or broke in another way than those of [`End`].
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// It ended before a whole head came.
    #[error("no answer: the connection ended by {end:?} after {bytes} bytes of a head")]
    NoAnswer {
        /// How.
        end: End,
        /// Bytes that came.
        bytes: usize,
    },
    /// What came is no HTTP/1 head or chunk.
    #[error("not HTTP/1: {0:?}")]
    Malformed(String),
}

/// How the body that follows is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

/// One connection.
#[derive(Debug)]
pub struct RawConnection<I = TcpStream> {
    io: I,
    buffer: BytesMut,
    patience: Duration,
}

impl RawConnection<TcpStream> {
    /// Connects.
    ///
    /// # Errors
    /// If nobody listens there.
    pub async fn connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self::new(stream))
    }

    /// Leaves by a reset.
    pub fn reset(self) {
        // A socket that is gone already needs no reset.
        _ = self.io.set_zero_linger();
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> RawConnection<I> {
    /// Talks over this I/O object.
    pub fn new(io: I) -> Self {
        Self {
            io,
            buffer: BytesMut::new(),
            patience: PATIENCE,
        }
    }

    /// What it talks over. What was read and not taken is lost.
    pub fn into_inner(self) -> I {
        self.io
    }

    /// Waits so long for the next byte.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Sends these bytes and nothing else.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.io.write_all(bytes).await?;
        self.io.flush().await
    }

    /// Sends a well-formed request without a body. `target` is path and query.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn request(
        &mut self,
        method: &str,
        host: &str,
        target: &str,
        headers: &[(&str, &str)],
    ) -> io::Result<()> {
        let mut text = format!("{method} {target} HTTP/1.1\r\nhost: {host}\r\n");
        for (name, value) in headers {
            text.extend([name, ": ", value, "\r\n"]);
        }
        text.push_str("\r\n");
        self.send(text.as_bytes()).await
    }

    /// Says that nothing more will be sent (FIN), and goes on reading.
    ///
    /// # Errors
    /// If the connection is gone.
    pub async fn finish_sending(&mut self) -> io::Result<()> {
        self.io.shutdown().await
    }

    /// Reads one head, and no byte of what follows it. Interim heads (1xx) are returned like others.
    ///
    /// # Errors
    /// [`ClientError::NoAnswer`] if the connection ends or is silent before.
    pub async fn read_head(&mut self) -> Result<Head, ClientError> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let text = self.buffer.split_to(end + 4).freeze();
                return Head::parse(text);
            }
            if let Some(end) = self.fill().await? {
                return Err(ClientError::NoAnswer {
                    end,
                    bytes: self.buffer.len(),
                });
            }
        }
    }

    /// Reads at most `max` bytes as they are on the wire; fewer only if the connection ended, which
    /// `Some` tells.
    ///
    /// # Errors
    /// If the connection broke in another way than those of [`End`].
    pub async fn read_raw(&mut self, max: usize) -> io::Result<(Bytes, Option<End>)> {
        while self.buffer.len() < max {
            if let Some(end) = self.fill().await? {
                return Ok((self.buffer.split().freeze(), Some(end)));
            }
        }
        Ok((self.buffer.split_to(max).freeze(), None))
    }

    /// Reads the answer to a request. For HEAD say so: it has no body, whatever its headers say.
    ///
    /// # Errors
    /// If there is no whole head, or broken chunks. A cut body is no error: see [`Response::end`].
    pub async fn read_response(&mut self, is_head: bool) -> Result<Response, ClientError> {
        let mut head = self.read_head().await?;
        while head.status / 100 == 1 {
            head = self.read_head().await?;
        }
        let bodyless = is_head || matches!(head.status, 204 | 304);
        let framing = if bodyless {
            Framing::Length(0)
        } else {
            head.framing()?
        };
        let (body, end) = match framing {
            Framing::Length(length) => self.read_length(length).await?,
            Framing::Chunked => self.read_chunks().await?,
            Framing::UntilClose => self.read_length(u64::MAX).await?,
        };
        Ok(Response {
            status: head.status,
            headers: head.headers,
            body,
            end,
        })
    }

    /// Waits for the connection's end: bytes that come before it, and how it ends. [`End::Quiet`] means
    /// that it is still open; [`End::Complete`] is never given.
    ///
    /// # Errors
    /// If the connection broke in another way than those of [`End`].
    pub async fn read_to_end(&mut self) -> io::Result<(Bytes, End)> {
        let (bytes, end) = self.read_raw(usize::MAX).await?;
        Ok((bytes, end.unwrap_or(End::Quiet)))
    }

    async fn read_length(&mut self, length: u64) -> Result<(Bytes, End), ClientError> {
        let max = usize::try_from(length).unwrap_or(usize::MAX);
        let (body, end) = self.read_raw(max).await?;
        Ok((body, end.unwrap_or(End::Complete)))
    }

    async fn read_chunks(&mut self) -> Result<(Bytes, End), ClientError> {
        let mut body = BytesMut::new();
        loop {
            let Some(size) = self.read_line().await? else {
                return self.cut_chunks(body).await;
            };
            let digits = size.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(digits, 16).map_err(|_| ClientError::Malformed(size.clone()))?;
            if size == 0 {
                // No trailers are expected, only the empty line.
                let end = self.read_line().await?.map_or(End::Fin, |_| End::Complete);
                return Ok((body.freeze(), end));
            }
            let (chunk, end) = self.read_raw(size).await?;
            body.extend_from_slice(&chunk);
            if let Some(end) = end {
                return Ok((body.freeze(), end));
            }
            self.read_line().await?;
        }
    }

    async fn cut_chunks(&mut self, body: BytesMut) -> Result<(Bytes, End), ClientError> {
        let (_, end) = self.read_to_end().await?;
        Ok((body.freeze(), end))
    }

    /// A line without its end, or `None` if the connection ended before.
    async fn read_line(&mut self) -> Result<Option<String>, ClientError> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line = self.buffer.split_to(end);
                self.buffer.advance(2);
                return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            if self.fill().await?.is_some() {
                return Ok(None);
            }
        }
    }

    /// Reads some more into the buffer, or tells that and how there is no more.
    async fn fill(&mut self) -> io::Result<Option<End>> {
        self.buffer.reserve(64 * 1024);
        match timeout(self.patience, self.io.read_buf(&mut self.buffer)).await {
            Err(_) => Ok(Some(End::Quiet)),
            Ok(Ok(0)) => Ok(Some(End::Fin)),
            Ok(Ok(_)) => Ok(None),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => Ok(Some(End::Reset)),
            Ok(Err(error)) => Err(error),
        }
    }
}

/// One GET on a connection of its own.
///
/// # Errors
/// If there is no answer. A cut body is no error: see [`Response::end`].
pub async fn get(addr: SocketAddr, target: &str, headers: &[(&str, &str)]) -> Result<Response, ClientError> {
    ask(addr, "GET", target, headers).await
}

/// One HEAD on a connection of its own.
///
/// # Errors
/// If there is no answer.
pub async fn head(addr: SocketAddr, target: &str, headers: &[(&str, &str)]) -> Result<Response, ClientError> {
    ask(addr, "HEAD", target, headers).await
}

async fn ask(
    addr: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> Result<Response, ClientError> {
    let mut connection = RawConnection::connect(addr).await?;
    connection
        .request(method, &addr.to_string(), target, headers)
        .await?;
    connection.read_response(method == "HEAD").await
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answer(bytes: &'static [u8], is_head: bool) -> Result<Response, ClientError> {
        let (mut server, client) = tokio::io::duplex(64);
        let write = async move { server.write_all(bytes).await };
        let mut connection = RawConnection::new(client);
        let (written, response) = tokio::join!(write, connection.read_response(is_head));
        written.unwrap();
        response
    }

    #[tokio::test]
    async fn framings() {
        let length = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef", false)
            .await
            .unwrap();
        assert_eq!((&length.body[..], length.end), (&b"abc"[..], End::Complete));
        let cut = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", false)
            .await
            .unwrap();
        assert_eq!((&cut.body[..], cut.end), (&b"abc"[..], End::Fin));
        let close = answer(b"HTTP/1.0 200 OK\r\n\r\nabc", false).await.unwrap();
        assert_eq!((&close.body[..], close.end), (&b"abc"[..], End::Fin));
        let head = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", true)
            .await
            .unwrap();
        assert_eq!(
            (head.body.len(), head.end, head.content_length()),
            (0, End::Complete, Some(9))
        );
        let interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(answer(interim, false).await.unwrap().status, 404);
    }

    #[tokio::test]
    async fn chunks() {
        const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let chunked = |rest: &str| {
            answer(
                Box::leak(format!("{HEAD}{rest}").into_boxed_str()).as_bytes(),
                false,
            )
        };
        let whole = chunked("3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n").await.unwrap();
        assert_eq!((&whole.body[..], whole.end), (&b"abcde"[..], End::Complete));
        let cut = chunked("3\r\nabc\r\n5\r\nde").await.unwrap();
        assert_eq!((&cut.body[..], cut.end), (&b"abcde"[..], End::Fin));
        let between = chunked("3\r\nabc\r\n").await.unwrap();
        assert_eq!((&between.body[..], between.end), (&b"abc"[..], End::Fin));
        assert!(matches!(chunked("zz\r\n").await, Err(ClientError::Malformed(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_no_head() {
        let (_server, client) = tokio::io::duplex(64);
        let quiet = RawConnection::new(client).read_head().await;
        assert!(matches!(
            quiet,
            Err(ClientError::NoAnswer {
                end: End::Quiet,
                bytes: 0
            })
        ));
        let cut = answer(b"HTTP/1.1 200", false).await;
        assert!(matches!(
            cut,
            Err(ClientError::NoAnswer {
                end: End::Fin,
                bytes: 12
            })
        ));
        assert!(matches!(
            answer(b"SSH-2.0\r\n\r\n", false).await,
            Err(ClientError::Malformed(_))
        ));
    }
}
