//! Requests that two readers could take for different ones, for the tests of every port that speaks HTTP.
//!
//! In a text, `{M}` is a method, `{T}` a target, `{H}` a host, `{S}` a second request that hides in the first one or
//! behind it, and `{N}` its length. Who asks the registry for [`HIDDEN`] has fallen for it.

use std::fmt::Debug;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::client::{End, RawConnection};

/// The path of the request that hides.
pub const HIDDEN: &str = "/v2/hidden/tags/list";

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What it does.
    pub name: &'static str,
    text: &'static str,
    /// Whether everybody has to refuse it: 400, or 431 where a length is beyond all bounds.
    pub refused: bool,
    /// Whether those have to refuse it who pass no request on.
    pub refused_finally: bool,
}

const fn refused(name: &'static str, text: &'static str) -> Case {
    Case {
        name,
        text,
        refused: true,
        refused_finally: true,
    }
}

const fn taken(name: &'static str, text: &'static str) -> Case {
    Case {
        name,
        text,
        refused: false,
        refused_finally: false,
    }
}

const fn not_here(name: &'static str, text: &'static str) -> Case {
    Case {
        name,
        text,
        refused: false,
        refused_finally: true,
    }
}

/// A head up to its headers, and the hidden request behind an empty body.
macro_rules! headers {
    ($headers:literal) => {
        concat!("{M} {T} HTTP/1.1\r\nHost: {H}\r\n", $headers, "\r\n\r\n{S}")
    };
}

/// A chunked body.
macro_rules! chunks {
    ($body:literal) => {
        concat!(
            "{M} {T} HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunked\r\n\r\n",
            $body
        )
    };
}

/// All of them.
pub const CORPUS: &[Case] = &[
    // Two lengths.
    refused(
        "two lengths",
        headers!("Content-Length: 0\r\nContent-Length: {N}"),
    ),
    refused(
        "two lengths, the long one first",
        headers!("Content-Length: {N}\r\nContent-Length: 0"),
    ),
    refused("a list of lengths", headers!("Content-Length: 0, 0")),
    refused("a list of two lengths", headers!("Content-Length: 0, {N}")),
    refused("a signed length", headers!("Content-Length: +0")),
    refused("a negative length", headers!("Content-Length: -1")),
    refused("a hexadecimal length", headers!("Content-Length: 0x0")),
    refused("a length with a space", headers!("Content-Length: 0 0")),
    refused("a length of nothing", headers!("Content-Length:")),
    refused(
        "a length that overflows",
        headers!("Content-Length: 99999999999999999999"),
    ),
    refused(
        "the longest length",
        headers!("Content-Length: 18446744073709551615"),
    ),
    refused("a fraction", headers!("Content-Length: 0.0")),
    // Length and coding.
    taken(
        "length, then coding",
        headers!("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0"),
    ),
    taken(
        "coding, then length",
        headers!("Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0"),
    ),
    taken(
        "a body that is short by its length",
        headers!("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0"),
    ),
    // Codings.
    refused("no chunks", headers!("Transfer-Encoding: identity")),
    refused("another coding", headers!("Transfer-Encoding: gzip")),
    refused(
        "chunks that are not the last",
        headers!("Transfer-Encoding: chunked, identity"),
    ),
    refused(
        "a coding almost like chunks",
        headers!("Transfer-Encoding: xchunked"),
    ),
    refused("chunks in quotes", headers!("Transfer-Encoding: \"chunked\"")),
    refused("an empty coding", headers!("Transfer-Encoding:")),
    refused(
        "a control character before the coding",
        headers!("Transfer-Encoding: \u{b}chunked"),
    ),
    refused(
        "two codings",
        headers!("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
    ),
    refused(
        "a space before the colon",
        headers!("Transfer-Encoding : chunked"),
    ),
    refused("a tab before the colon", headers!("Transfer-Encoding\t: chunked")),
    refused(
        "a coding before HTTP/1.1",
        "{M} {T} HTTP/1.0\r\nHost: {H}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{S}",
    ),
    // Lines.
    refused("a folded line", headers!("X-A: b\r\n Content-Length: {N}")),
    refused("a folded coding", headers!("Transfer-Encoding:\r\n chunked")),
    refused("a line that begins with a space", headers!(" X-A: b")),
    refused(
        "a carriage return within a line",
        headers!("X-A: b\rContent-Length: {N}"),
    ),
    refused("a zero byte", headers!("X-A: b\0c")),
    refused("no name", headers!(": b")),
    refused("no colon", headers!("Content-Length")),
    refused("a name with a space", headers!("Content Length: {N}")),
    refused("a name that is not ASCII", headers!("C\u{f6}ntent-Length: {N}")),
    refused(
        "no carriage returns",
        "{M} {T} HTTP/1.1\nHost: {H}\nConnection: close\n\n{S}",
    ),
    refused(
        "no carriage returns in chunks",
        "{M} {T} HTTP/1.1\nHost: {H}\nTransfer-Encoding: chunked\n\n0\n\n{S}",
    ),
    refused(
        "one line without a carriage return",
        "{M} {T} HTTP/1.1\r\nHost: {H}\nX-A: b\r\n\r\n{S}",
    ),
    refused(
        "a first line without a carriage return",
        "{M} {T} HTTP/1.1\nHost: {H}\r\n\r\n{S}",
    ),
    refused(
        "a last line without a carriage return",
        "{M} {T} HTTP/1.1\r\nHost: {H}\r\n\n{S}",
    ),
    refused(
        "an empty line without a carriage return",
        "\n{M} {T} HTTP/1.1\r\nHost: {H}\r\n\r\n{S}",
    ),
    // Who is asked.
    refused("no host", "{M} {T} HTTP/1.1\r\n\r\n{S}"),
    refused("two hosts", headers!("Host: other")),
    refused("the same host twice", headers!("Host: {H}")),
    // The first line.
    refused("two spaces", "{M}  {T} HTTP/1.1\r\nHost: {H}\r\n\r\n{S}"),
    refused(
        "something behind the version",
        "{M} {T} HTTP/1.1 x\r\nHost: {H}\r\n\r\n{S}",
    ),
    refused(
        "a version in small letters",
        "{M} {T} http/1.1\r\nHost: {H}\r\n\r\n{S}",
    ),
    refused("an unknown version", "{M} {T} HTTP/1.9\r\nHost: {H}\r\n\r\n{S}"),
    refused("no version", "{M} {T}\r\nHost: {H}\r\n\r\n{S}"),
    refused(
        "a zero byte in the target",
        "{M} {T}\0 HTTP/1.1\r\nHost: {H}\r\n\r\n{S}",
    ),
    taken("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{S}"),
    not_here(
        "an upgrade that nobody agreed to",
        "{M} {T} HTTP/1.1\r\nHost: {H}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{S}",
    ),
    // Chunks.
    taken("an extension", chunks!("5;a=b\r\nhello\r\n0\r\n\r\n")),
    taken(
        "an extension with a line feed",
        chunks!("5;a\n=b\r\nhello\r\n0\r\n\r\n{S}"),
    ),
    taken("a signed size", chunks!("+5\r\nhello\r\n0\r\n\r\n{S}")),
    taken("a negative size", chunks!("-5\r\nhello\r\n0\r\n\r\n{S}")),
    taken("a size with a prefix", chunks!("0x5\r\nhello\r\n0\r\n\r\n{S}")),
    taken(
        "a size that overflows",
        chunks!("fffffffffffffffff\r\nhello\r\n0\r\n\r\n{S}"),
    ),
    taken("a chunk without its end", chunks!("5\r\nhelloxx0\r\n\r\n{S}")),
    taken("no size", chunks!("\r\nhello\r\n0\r\n\r\n{S}")),
    taken(
        "a trailer that frames",
        chunks!("0\r\nContent-Length: 100\r\nHost: other\r\n\r\n"),
    ),
    // The hidden request as what it is: a body.
    taken(
        "a body that looks like a request",
        headers!("Content-Length: {N}"),
    ),
    taken(
        "a length that the connection claims",
        headers!("Connection: close, Content-Length\r\nContent-Length: {N}"),
    ),
    taken(
        "a host that the connection claims",
        headers!("Connection: close, Host"),
    ),
];

impl Case {
    /// What is sent: `hidden` is the target of the request that hides.
    pub fn text(&self, method: &str, target: &str, host: &str, hidden: &str) -> String {
        let second = format!("GET {hidden} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        self.text
            .replace("{M}", method)
            .replace("{T}", target)
            .replace("{H}", host)
            .replace("{N}", &second.len().to_string())
            .replace("{S}", &second)
    }

    /// Sends a text and reads all that comes back, which begins with the status; how it ended.
    ///
    /// # Panics
    /// If the connection breaks.
    pub async fn send<I>(&self, io: I, text: &str) -> (String, End)
    where
        I: AsyncRead + AsyncWrite + Unpin + Debug,
    {
        let mut connection = RawConnection::new(io);
        connection.send(text.as_bytes()).await.expect("it is sent");
        // The answer is waited for; that nothing comes behind it, only where the connection may stay open.
        let head = connection.read_head().await;
        let answered = head.as_ref().map_or(0, |head| head.status);
        if !self.refused_finally {
            connection = connection.with_patience(Duration::from_millis(200));
        }
        let (rest, end) = connection
            .read_to_end()
            .await
            .expect("it ends by FIN or by a reset");
        (format!("{answered} {}", String::from_utf8_lossy(&rest)), end)
    }
}
