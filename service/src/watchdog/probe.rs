//! One question to a port of this machine, asked with nothing but the system: no runtime, no shared client.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::net::Address;

/// The head of an answer that is read at most.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Where to ask, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    target: Target,
    path: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// The head of an HTTP answer, whatever its status: who answers is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    head: String,
}

impl Answer {
    /// The first header of this name, trimmed.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl Probe {
    /// `GET path` on a port that listens on `listen`; a wildcard address is asked over loopback.
    pub fn tcp(listen: SocketAddr, path: &'static str) -> Self {
        let ip = match listen.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        Self {
            target: Target::Tcp(SocketAddr::new(ip, listen.port())),
            path,
        }
    }

    /// The same for an address of either kind; `None` when it is a name.
    pub fn new(listen: &Address, path: &'static str) -> Option<Self> {
        match listen {
            Address::Tcp(text) => Some(Self::tcp(text.parse().ok()?, path)),
            Address::Unix(socket) => Some(Self {
                target: Target::Unix(socket.clone()),
                path,
            }),
        }
    }

    /// Asks once; blocks for `patience` at most.
    ///
    /// # Errors
    /// No connection, no answer in time, or one that is no HTTP.
    pub fn ask(&self, patience: Duration) -> io::Result<Answer> {
        let end = now() + patience;
        match &self.target {
            Target::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, patience)?;
                stream.set_write_timeout(Some(patience))?;
                self.exchange(&stream, end, |left| stream.set_read_timeout(Some(left)))
            }
            Target::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_write_timeout(Some(patience))?;
                self.exchange(&stream, end, |left| stream.set_read_timeout(Some(left)))
            }
        }
    }

    fn exchange<S>(
        &self,
        mut stream: S,
        end: Instant,
        limit: impl Fn(Duration) -> io::Result<()>,
    ) -> io::Result<Answer>
    where
        S: Read + Write,
    {
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: darter-watchdog\r\nConnection: close\r\n\r\n",
            self.path
        );
        stream.write_all(request.as_bytes())?;
        let mut head = Vec::new();
        let mut part = [0; 2048];
        while !head.windows(4).any(|four| four == b"\r\n\r\n") {
            let left = end.saturating_duration_since(now());
            if left.is_zero() || head.len() > HEAD_BYTES_MAX {
                return Err(io::ErrorKind::TimedOut.into());
            }
            limit(left)?;
            match stream.read(&mut part)? {
                0 => break,
                count => head.extend(part.iter().take(count)),
            }
        }
        answer(&head).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is no HTTP"))
    }
}

#[expect(clippy::disallowed_methods, reason = "asked beside all runtimes")]
fn now() -> Instant {
    Instant::now()
}

fn answer(bytes: &[u8]) -> Option<Answer> {
    let text = String::from_utf8_lossy(bytes);
    let head = text.split("\r\n\r\n").next()?.to_owned();
    let status = head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
    Some(Answer { status, head })
}
