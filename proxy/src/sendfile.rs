//! A connection that sends stored pieces without copying them.
//!
//! The store hands out slices of mapped files and hyper hands them down to the socket as they are. Here, a slice that lies
//! in a mapping is sent by `sendfile(2)` from the file itself: its pages are never touched by this process. Whatever
//! else is written, and everything on connections that are not TCP, takes the ordinary way; both give the same
//! bytes, so nothing above knows of this file.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use darter_service::http_server::Wrap;
use darter_service::net::Stream;
use darter_store::{MappedRange, Mappings};
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use rustix::net::SendFlags;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// Shorter slices are copied: the system call would cost more than it saves.
const SENDFILE_BYTES_MIN: usize = 16 * 1024;
/// Most bytes of one call, so that one fast connection does not keep a core to itself.
const SENDFILE_BYTES_MAX: usize = 1024 * 1024;

/// Wraps connections so; without mappings, connections stay as they are.
#[derive(Clone, Debug, Default)]
pub struct ZeroCopy {
    mappings: Option<Arc<Mappings>>,
}

impl ZeroCopy {
    /// Sends what lies in `mappings` from its files.
    pub fn new(mappings: Option<Arc<Mappings>>) -> Self {
        Self { mappings }
    }

    /// Wraps one connection.
    pub fn wrap_stream(&self, stream: Stream) -> ZeroCopyStream {
        ZeroCopyStream {
            stream,
            mappings: self.mappings.clone(),
        }
    }
}

impl Wrap for ZeroCopy {
    type Io = TokioIo<ZeroCopyStream>;

    fn wrap(&self, stream: Stream) -> impl Future<Output = io::Result<Self::Io>> + Send {
        let io = TokioIo::new(self.wrap_stream(stream));
        async move { Ok(io) }
    }
}

/// One connection.
#[derive(Debug)]
pub struct ZeroCopyStream {
    stream: Stream,
    mappings: Option<Arc<Mappings>>,
}

impl ZeroCopyStream {
    fn mapped(&self, bytes: &[u8]) -> Option<MappedRange> {
        if bytes.len() < SENDFILE_BYTES_MIN {
            return None;
        }
        self.mappings.as_ref()?.find(bytes)
    }
}

/// Runs a socket operation when the socket can take bytes.
fn when_writable(
    tcp: &TcpStream,
    cx: &mut Context<'_>,
    mut write: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(tcp.poll_write_ready(cx))?;
        match tcp.try_io(Interest::WRITABLE, &mut write) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return Poll::Ready(result),
        }
    }
}

fn send_file(
    tcp: &TcpStream,
    cx: &mut Context<'_>,
    range: &MappedRange,
    length: usize,
) -> Poll<io::Result<usize>> {
    when_writable(tcp, cx, || {
        let mut offset = range.offset;
        let sent = rustix::fs::sendfile(
            tcp.as_fd(),
            range.file.as_fd(),
            Some(&mut offset),
            length.min(SENDFILE_BYTES_MAX),
        );
        match sent {
            // Mapped files are never cut off; if one is all the same, the stream must end rather than hang.
            Ok(0) => {
                range.give_up();
                Err(io::ErrorKind::UnexpectedEof.into())
            }
            Err(Errno::IO) => {
                range.give_up();
                Err(Errno::IO.into())
            }
            sent => Ok(sent?),
        }
    })
}

/// Sends a head of which more follows at once, so that both share their first packet.
fn send_more(tcp: &TcpStream, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
    when_writable(tcp, cx, || {
        Ok(rustix::net::send(
            tcp.as_fd(),
            bytes,
            SendFlags::MORE | SendFlags::NOSIGNAL,
        )?)
    })
}

impl AsyncWrite for ZeroCopyStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let (Some(range), Some(tcp)) = (this.mapped(bytes), this.stream.as_tcp()) {
            return send_file(tcp, cx, &range, bytes.len());
        }
        Pin::new(&mut this.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let filled = slices.iter().position(|slice| !slice.is_empty()).unwrap_or(0);
        let slices = slices.get(filled..).unwrap_or_default();
        let plain = slices
            .iter()
            .take_while(|slice| this.mapped(slice).is_none())
            .count();
        let Some(tcp) = this.stream.as_tcp().filter(|_| plain < slices.len()) else {
            return Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        };
        match slices {
            [first, ..] if plain == 0 => match this.mapped(first) {
                Some(range) => send_file(tcp, cx, &range, first.len()),
                None => Pin::new(&mut this.stream).poll_write(cx, first),
            },
            [head, ..] if plain == 1 => send_more(tcp, cx, head),
            _ => {
                let plain = slices.get(..plain).unwrap_or_default();
                Pin::new(&mut this.stream).poll_write_vectored(cx, plain)
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl AsyncRead for ZeroCopyStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use darter_service::net::{Listener, Network as _, TokioNetwork};
    use darter_store::{ContentFacts, DiskOptions, DiskStore, PieceStore as _};
    use darter_types::{Algorithm, ByteRange, Digest, PieceLayout};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn pair() -> (Stream, Stream) {
        let mut listener: Box<dyn Listener> =
            TokioNetwork.bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (accepted, connected) = tokio::join!(listener.accept(), TokioNetwork.connect(&address));
        (accepted.unwrap().0, connected.unwrap())
    }

    #[tokio::test]
    async fn heads_mapped_slices_and_the_rest_arrive_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let options = DiskOptions {
            dir: dir.path().join("store"),
            quota_bytes: u64::MAX,
            free_floor_bytes: 0,
        };
        let (store, _) = DiskStore::open(options).unwrap();
        let content: Vec<u8> = (0..3_000_000u32)
            .map(|at| at.to_be_bytes()[2] ^ at.to_be_bytes()[3])
            .collect();
        let layout = PieceLayout::of(content.len() as u64).unwrap();
        let facts = ContentFacts {
            layout,
            origin: None,
            media_type: None,
            whole: true,
            public: true,
        };
        let stored = store
            .open(Digest::of(Algorithm::Sha256, &content).into(), &facts)
            .unwrap();
        stored.write(0, &content).unwrap();
        (0..layout.piece_count()).for_each(|piece| stored.mark_present(piece).unwrap());
        let mapped = stored.read(ByteRange::new(5, 2_000_005)).unwrap();
        let zero_copy = ZeroCopy::new(Some(store.mappings()));
        let (server, mut client) = pair().await;
        let mut server = zero_copy.wrap_stream(server);
        assert!(
            server.mapped(&mapped).is_some(),
            "the test must take the way that it is about"
        );

        let mut expected = b"head".to_vec();
        expected.extend(&mapped);
        expected.extend(b"between");
        expected.extend(&mapped[..SENDFILE_BYTES_MIN]);
        let writer = async {
            let between = [
                b"head".as_slice(),
                &mapped,
                b"",
                b"between",
                &mapped[..SENDFILE_BYTES_MIN],
            ];
            let mut rest: Vec<&[u8]> = between.to_vec();
            while !rest.is_empty() {
                let slices: Vec<IoSlice<'_>> = rest.iter().map(|part| IoSlice::new(part)).collect();
                let mut sent = server.write_vectored(&slices).await.unwrap();
                while let Some(first) = rest.first_mut() {
                    if sent < first.len() {
                        *first = &first[sent..];
                        break;
                    }
                    sent -= first.len();
                    rest.remove(0);
                }
            }
            server.shutdown().await.unwrap();
        };
        let reader = async {
            let mut received = Vec::new();
            client.read_to_end(&mut received).await.unwrap();
            received
        };
        let ((), received) = tokio::join!(writer, reader);
        assert!(
            received == expected,
            "{} bytes came, {} were sent",
            received.len(),
            expected.len()
        );
    }
}
