//! Lines that end by a line feed alone: the HTTP library takes them for lines, others do not, and what two readers divide
//! differently hides requests (RFC 9112 section 2.2). Here such a feed becomes a zero byte on its way to the library,
//! which no head may have: it answers 400 and closes.
//!
//! Bodies are passed through as they are, so this has to know where heads begin: it reads lengths, and looks no further
//! behind a CONNECT or a chunked body.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};

/// How much is looked at in one step.
const STEP_BYTES: usize = 8 * 1024;
/// As much of a line as is needed to know what it frames.
const LINE_KEPT_BYTES: usize = 64;

/// A connection to a server of HTTP/1.1 that is read with care.
#[derive(Debug)]
pub struct Strict<I> {
    io: I,
    heads: Heads,
}

impl<I> Strict<I> {
    /// From the first request on.
    pub fn new(io: I) -> Self {
        let heads = Heads::default();
        Self { io, heads }
    }

    /// The connection.
    pub fn into_inner(self) -> I {
        self.io
    }
}

impl<I: Read + Unpin> Read for Strict<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.heads.place == Place::Beyond {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        let mut space = [0; STEP_BYTES];
        let room = buf.remaining().min(STEP_BYTES);
        let mut part = ReadBuf::new(space.get_mut(..room).unwrap_or_default());
        ready!(Pin::new(&mut this.io).poll_read(cx, part.unfilled()))?;
        let filled = part.filled().len();
        let bytes = space.get_mut(..filled).unwrap_or_default();
        this.heads.look(bytes);
        buf.put_slice(bytes);
        Poll::Ready(Ok(()))
    }
}

impl<I: Write + Unpin> Write for Strict<I> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }
}

/// Where in the stream of requests the next byte stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Head,
    /// So many bytes of a body are left.
    Body(u64),
    /// Where nothing is looked at any more.
    Beyond,
}

/// What is known of the head that is being read.
#[derive(Debug, Default)]
struct Heads {
    place: Place,
    /// The begin of the current line.
    line: Vec<u8>,
    /// Bytes of the current line, and the last of them.
    line_bytes: usize,
    last: u8,
    /// The first line was read.
    begun: bool,
    length: u64,
    /// What follows cannot be counted.
    open: bool,
}

impl Heads {
    /// Looks at what was read, and spoils the first line feed that stands alone.
    fn look(&mut self, bytes: &mut [u8]) {
        let mut rest = bytes;
        while let Some(byte) = rest.first_mut() {
            let step = match self.place {
                Place::Beyond => return,
                Place::Head => {
                    self.head(byte);
                    1
                }
                Place::Body(left) => {
                    let step = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    let left = left.saturating_sub(step as u64);
                    self.place = if left == 0 { Place::Head } else { Place::Body(left) };
                    step
                }
            };
            rest = rest.get_mut(step..).unwrap_or_default();
        }
    }

    fn head(&mut self, byte: &mut u8) {
        if *byte != b'\n' {
            if self.line.len() < LINE_KEPT_BYTES {
                self.line.push(*byte);
            }
            self.line_bytes += 1;
            self.last = *byte;
            return;
        }
        if self.line_bytes == 0 || self.last != b'\r' {
            *byte = 0;
            self.place = Place::Beyond;
            return;
        }
        match (self.line_bytes, self.begun) {
            // Empty lines before a request are skipped.
            (1, false) => {}
            (1, true) => self.end(),
            (_, false) => {
                self.begun = true;
                self.open = self.line.starts_with(b"CONNECT ");
            }
            (_, true) => self.header(),
        }
        self.line.clear();
        self.line_bytes = 0;
    }

    /// What the line says of the body. What the library will refuse is not counted.
    fn header(&mut self) {
        let text = String::from_utf8_lossy(&self.line);
        let (name, value) = text.split_once(':').unwrap_or((text.as_ref(), ""));
        if name.eq_ignore_ascii_case("transfer-encoding") {
            self.open = true;
        } else if name.eq_ignore_ascii_case("content-length") {
            match value.trim().parse() {
                Ok(length) if self.line_bytes <= LINE_KEPT_BYTES => self.length = length,
                _ => self.open = true,
            }
        }
    }

    fn end(&mut self) {
        self.place = match self.length {
            _ if self.open => Place::Beyond,
            0 => Place::Head,
            length => Place::Body(length),
        };
        self.begun = false;
        self.length = 0;
    }
}

/// The body of a fuzz target: what a client sends, whose first byte says in parts of which size it comes.
///
/// # Panics
/// If anything but one line feed is changed, or if it matters in which parts it came.
pub fn fuzz_heads(data: &[u8]) {
    let size = data.first().map_or(1, |first| usize::from(*first).max(1));
    let (mut heads, mut at_once) = (Heads::default(), data.to_vec());
    heads.look(&mut at_once);
    assert!(
        heads.line.len() <= LINE_KEPT_BYTES,
        "a line is kept without a bound"
    );
    let (mut heads, mut in_parts) = (Heads::default(), data.to_vec());
    in_parts.chunks_mut(size).for_each(|part| heads.look(part));
    assert_eq!(at_once, in_parts, "parts of {size} bytes are read in another way");
    let mut changed = data.iter().zip(&at_once).filter(|(sent, seen)| sent != seen);
    if let Some(change) = changed.next() {
        assert_eq!(change, (&b'\n', &0));
    }
    assert_eq!(changed.next(), None, "more than one byte was changed");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the library gets to see, in parts of this size.
    fn seen(text: &str, size: usize) -> String {
        let (mut heads, mut bytes) = (Heads::default(), text.as_bytes().to_vec());
        bytes.chunks_mut(size).for_each(|part| heads.look(part));
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_first_line_feed_that_stands_alone_is_spoiled() {
        let good = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let body = "PUT / HTTP/1.1\r\nHost: a\r\ncontent-length: 5\r\n\r\na\nb\nc";
        let chunked = "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\na\nb\r\n0\r\n\r\n";
        let tunnel = "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\nSSH\nSSH\n";
        for text in [
            good.to_owned(),
            format!("\r\n{good}"),
            good.repeat(3),
            body.repeat(2),
            format!("{good}{body}{good}{chunked}"),
            format!("{good}{tunnel}"),
            "PUT / HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\na\nb".to_owned(),
            format!(
                "PUT / HTTP/1.1\r\nContent-Length: {}5\r\n\r\na\nb",
                " ".repeat(70)
            ),
        ] {
            for size in [1, 2, 7, 1000] {
                assert_eq!(seen(&text, size), text, "{text:?} in parts of {size}");
            }
        }
        for text in [
            "GET / HTTP/1.1\n",
            "\n",
            "GET / HTTP/1.1\r\nHost: a\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            "GET / HTTP/1.1\r\nHost: a\rb\n",
        ] {
            for before in [String::new(), good.to_owned(), body.to_owned()] {
                for size in [1, 2, 7, 1000] {
                    let spoiled = format!("{before}{}\0", &text[..text.len() - 1]);
                    let found = seen(&format!("{before}{text}{good}"), size);
                    assert_eq!(found, format!("{spoiled}{good}"), "{text:?} in parts of {size}");
                }
            }
        }
    }

    #[test]
    fn likely_bytes_are_read_alike_in_any_parts() {
        darter_testkit::fuzz::check("heads", fuzz_heads);
    }

    proptest! {
        #[test]
        fn any_heads_are_read_alike_in_any_parts(
            text in "(GET / HTTP/1.1\r\n|Content-Length: [0-9]{1,3}\r\n|\r\n|[a\r\n]{0,9}){0,12}",
        ) {
            fuzz_heads(text.as_bytes());
        }
    }
}
