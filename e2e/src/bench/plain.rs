//! The yardstick of `piece`: hyper as anybody would use it, without sendfile, and a hyper client for both servers.

use std::fs::File;
use std::net::{TcpListener as StdListener, TcpStream as StdStream};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Where it listens, on every address of its host.
pub(super) const PORT: u16 = 5100;
/// Bytes read and sent at once.
const BUFFER: usize = 256 * 1024;

type Buffers = Arc<Mutex<Vec<Vec<u8>>>>;
type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>;

/// A buffer that goes back to its pool when the last byte of it was sent.
struct Pooled {
    buffer: Vec<u8>,
    length: usize,
    pool: Buffers,
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        self.pool
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(buffer);
    }
}

/// Serves ranges of `file` until it is killed.
pub(super) fn serve(file: Option<&Path>) -> Result<()> {
    let path = file.context("--file says what is served")?;
    let file = Arc::new(File::open(path).with_context(|| format!("cannot open {}", path.display()))?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async move {
        let listener = StdListener::bind(("0.0.0.0", PORT))?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (file, pool) = (Arc::clone(&file), Buffers::default());
            connections.spawn(async move {
                let answer = service_fn(move |request| {
                    let answer = answer(&request, Arc::clone(&file), Arc::clone(&pool));
                    async move { answer }
                });
                let http = hyper::server::conn::http1::Builder::new();
                // A client that goes away is no error.
                let _ = http.serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    })
}

fn answer(request: &Request<Incoming>, file: Arc<File>, pool: Buffers) -> Result<Response<Body>> {
    let range = request.headers().get(header::RANGE).context("no Range")?;
    let range = range.to_str()?.strip_prefix("bytes=").context("not bytes")?;
    let (first, last) = range.split_once('-').context("not a range")?;
    let (first, end) = (first.parse::<u64>()?, last.parse::<u64>()? + 1);
    let frames = stream::try_unfold(first, move |offset| {
        let next = (offset < end).then(|| read(&file, offset, end - offset, &pool));
        async move {
            let Some(bytes) = next.transpose()? else {
                return Ok(None);
            };
            let after = offset + bytes.len() as u64;
            Ok(Some((Frame::data(bytes), after)))
        }
    });
    let response = Response::builder()
        .status(206)
        .header(header::CONTENT_LENGTH, end - first);
    Ok(response.body(StreamBody::new(frames).boxed_unsync())?)
}

fn read(file: &File, offset: u64, left: u64, pool: &Buffers) -> std::io::Result<Bytes> {
    let free = pool.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let mut pooled = Pooled {
        buffer: free.unwrap_or_else(|| vec![0; BUFFER]),
        length: 0,
        pool: Arc::clone(pool),
    };
    let want = usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER));
    let part = pooled.buffer.get_mut(..want).unwrap_or_default();
    pooled.length = file.read_at(part, offset)?;
    if pooled.length == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Bytes::from_owner(pooled))
}

/// What the client asks for.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    pub(super) address: String,
    pub(super) path: String,
    /// Bytes from the start on.
    pub(super) length: u64,
    /// Bytes of one request.
    pub(super) range: u64,
}

/// Reads with a hyper client over one connection, from where the calling thread stands, and throws it away.
pub(super) fn fetch(reading: &Reading) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let stream = StdStream::connect(&reading.address)?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let io = TokioIo::new(TcpStream::from_std(stream)?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(io).await?;
        let mut tasks = JoinSet::new();
        tasks.spawn(connection);
        let mut first = 0;
        while first < reading.length {
            let last = (first + reading.range).min(reading.length) - 1;
            let request = Request::get(&reading.path)
                .header(header::HOST, &reading.address)
                .header(header::RANGE, format!("bytes={first}-{last}"))
                .body(Empty::new())?;
            sender.ready().await?;
            let answer = sender.send_request(request).await?;
            ensure!(
                answer.status() == 206,
                "{} answered {}",
                reading.address,
                answer.status()
            );
            let mut body = answer.into_body();
            let mut left = last + 1 - first;
            while let Some(frame) = body.frame().await {
                left -= frame?.data_ref().map_or(0, |data| data.len() as u64);
            }
            ensure!(left == 0, "{} ended short", reading.address);
            first = last + 1;
        }
        Ok(())
    })
}
