//! Serves HTTP/1.1 on a listener: one task a connection, within limits, until asked to stop.
//!
//! Requests that two readers could take for different ones are answered 400 and end their connection ([`hygiene`],
//! [`Strict`]), here and in the servers that have loops of their own.

pub mod hygiene;
mod strict;
mod unread;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::net::{Acceptor, Listener, PeerAddr, Stream, stall, unsent};
use crate::supervise::Tasks;
use crate::tls::PeerIdentity;

use unread::Unread;

pub use strict::{Strict, fuzz_heads};

/// Connections that are told at one time that there are too many; further ones are closed without a word.
const REFUSALS_MAX: usize = 256;
/// How long a connection that was refused may take to read why.
const REFUSAL_PAUSE: Duration = Duration::from_secs(1);

/// Bounds of one server.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at the same time; further ones are answered 503 and closed.
    pub connections_max: usize,
    /// How long the head of a request may take.
    pub header_timeout: Duration,
    /// Longest head of a request, in bytes; at least 8192.
    pub head_bytes_max: usize,
    /// Most headers of a request.
    pub headers_max: usize,
    /// How long what is answered may wait to be taken.
    pub stall_timeout: Duration,
    /// Bytes of an answer that may wait in a connection's socket before they are sent; `None` leaves it to the system.
    pub unsent_bytes_max: Option<u32>,
}

/// Connections that were ended because of a limit. Clones share the counters.
#[derive(Clone, Debug, Default)]
pub struct Cuts {
    /// There were as many as there may be.
    pub too_many: Counter,
    /// The other end did not take what it was sent.
    pub stalled: Counter,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            header_timeout: Duration::from_secs(10),
            head_bytes_max: 64 * 1024,
            headers_max: 128,
            stall_timeout: Duration::from_secs(10),
            unsent_bytes_max: None,
        }
    }
}

/// Turns an accepted connection into what is served: the plain stream, TLS, or one that sends files by itself.
pub trait Wrap: Clone + Send + Sync + 'static {
    /// What is served.
    type Io: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static;

    /// Wraps one connection; an error (a failed handshake) closes it.
    fn wrap(&self, stream: Stream) -> impl Future<Output = std::io::Result<Self::Io>> + Send;

    /// Who is at the other end, where it proved that. Requests carry it among their extensions.
    fn peer(_: &Self::Io) -> Option<Arc<PeerIdentity>> {
        None
    }
}

/// Serves connections as they are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl Wrap for Plain {
    type Io = TokioIo<Stream>;

    #[expect(clippy::manual_async_fn, reason = "the trait names its future as Send")]
    fn wrap(&self, stream: Stream) -> impl Future<Output = std::io::Result<Self::Io>> + Send {
        async move { Ok(TokioIo::new(stream)) }
    }
}

/// What a handler answers requests with.
pub trait Handler<B>: Clone + Send + Sync + 'static {
    /// Answers one request of a peer.
    fn answer(&self, request: Request<Incoming>, peer: PeerAddr) -> impl Future<Output = Response<B>> + Send;
}

impl<B, F, Answer> Handler<B> for F
where
    F: Fn(Request<Incoming>, PeerAddr) -> Answer + Clone + Send + Sync + 'static,
    Answer: Future<Output = Response<B>> + Send,
{
    fn answer(&self, request: Request<Incoming>, peer: PeerAddr) -> impl Future<Output = Response<B>> + Send {
        self(request, peer)
    }
}

/// One HTTP server.
#[derive(Debug)]
pub struct HttpServer<W> {
    /// Names its tasks.
    pub name: &'static str,
    /// Its bounds.
    pub limits: Limits,
    /// Owns its connections.
    pub tasks: Tasks,
    /// What connections are wrapped in.
    pub wrap: W,
    /// What it counts.
    pub cuts: Cuts,
}

impl<W: Wrap> HttpServer<W> {
    /// Accepts until `stop`; connections then finish the request that they are at and close.
    pub async fn serve<B, H>(self, listener: Box<dyn Listener>, handler: H, stop: CancellationToken)
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        H: Handler<B>,
    {
        let room = Arc::new(Semaphore::new(self.limits.connections_max));
        let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
        let mut acceptor = Acceptor::new(self.name, listener);
        while let Some((stream, peer)) = stop.run_until_cancelled(acceptor.accept()).await {
            stall::bound(&stream, self.limits.stall_timeout);
            if let Some(max) = self.limits.unsent_bytes_max {
                unsent::bound(&stream, max);
            }
            let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
                self.cuts.too_many.inc();
                if let Ok(slot) = Arc::clone(&refusals).try_acquire_owned() {
                    let wrap = self.wrap.clone();
                    self.tasks.spawn("refusal of a connection", async move {
                        let _slot = slot;
                        let _ = tokio::time::timeout(REFUSAL_PAUSE, refuse(wrap, stream)).await;
                    });
                }
                continue;
            };
            let (wrap, limits, handler, stop) =
                (self.wrap.clone(), self.limits, handler.clone(), stop.clone());
            let stalled = self.cuts.stalled.clone();
            self.tasks.spawn(self.name, async move {
                let _permit = permit;
                match stop.run_until_cancelled(wrap.wrap(stream)).await {
                    Some(Ok(io)) => {
                        let identity = W::peer(&io);
                        let io = Unread::new(io, limits.stall_timeout, stalled);
                        serve_connection(io, limits, handler, (peer, identity), stop).await;
                    }
                    Some(Err(error)) => tracing::debug!(%error, "a connection was not established"),
                    None => {}
                }
            });
        }
    }
}

async fn serve_connection<I, B, H>(
    io: I,
    limits: Limits,
    handler: H,
    (peer, identity): (PeerAddr, Option<Arc<PeerIdentity>>),
    stop: CancellationToken,
) where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    H: Handler<B>,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        let handler = handler.clone();
        if let Some(identity) = &identity {
            request.extensions_mut().insert(Arc::clone(identity));
        }
        async move {
            let (parts, body) = request.into_parts();
            Ok::<_, Infallible>(match hygiene::check_final(&parts) {
                Err(problem) => plain(StatusCode::BAD_REQUEST, format!("{problem}\n")).map(Either::Right),
                Ok(()) => {
                    let request = Request::from_parts(parts, body);
                    handler.answer(request, peer).await.map(Either::Left)
                }
            })
        }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.head_bytes_max.max(8192))
        .max_headers(limits.headers_max);
    let mut connection = std::pin::pin!(builder.serve_connection(Strict::new(io), service));
    let served = match stop.run_until_cancelled(connection.as_mut()).await {
        Some(served) => served,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        // Clients leave when they have what they came for: an early close is no fault.
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Says 503 rather than nothing: a client that hears nothing waits, one that hears 503 goes to its next host. It is said
/// in the way in which everything else would be: nothing leaves a server with TLS in the clear.
async fn refuse<W: Wrap>(wrap: W, stream: Stream) {
    let Ok(io) = wrap.wrap(stream).await else {
        return;
    };
    let service = service_fn(|_: Request<Incoming>| async {
        let mut response = plain(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many connections\n".to_owned(),
        );
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        Ok::<_, Infallible>(response)
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .serve_connection(io, service);
    // Who does not read it is refused as well.
    let _ = connection.await;
}

/// A few words, behind which the connection ends.
fn plain(status: StatusCode, words: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(words.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Network as _, TokioNetwork};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn server(limits: Limits, stop: &CancellationToken) -> (String, Tasks) {
        let listener = TokioNetwork.bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let tasks = Tasks::new();
        let server = HttpServer {
            name: "test",
            limits,
            tasks: tasks.clone(),
            wrap: Plain,
            cuts: Cuts::default(),
        };
        let handler = |request: Request<Incoming>, _| async move {
            assert_ne!(request.uri().path(), "/panic", "on purpose");
            Response::new(Full::new(Bytes::from_static(b"hello")))
        };
        let stop = stop.clone();
        tasks.spawn(
            "server",
            async move { server.serve(listener, handler, stop).await },
        );
        (address, tasks)
    }

    async fn ask(address: &str, path: &str) -> String {
        let mut stream = TokioNetwork.connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    }

    #[tokio::test]
    async fn a_panic_closes_its_connection_only() {
        let stop = CancellationToken::new();
        let (address, _tasks) = server(Limits::default(), &stop).await;
        assert_eq!(ask(&address, "/panic").await, "");
        assert!(ask(&address, "/").await.ends_with("hello"));
    }

    #[tokio::test]
    async fn requests_that_mean_two_things_are_refused_and_one_is_answered_at_most() {
        use darter_testkit::client::End;
        use darter_testkit::smuggling::{CORPUS, HIDDEN};

        let stop = CancellationToken::new();
        let (address, _tasks) = server(Limits::default(), &stop).await;
        for case in CORPUS {
            let text = case.text("GET", "/livez", &address, HIDDEN);
            let stream = TokioNetwork.connect(&address).await.unwrap();
            let (answer, end) = case.send(stream, &text).await;
            if case.refused_finally {
                assert!(answer.starts_with('4'), "{}: {answer}", case.name);
                assert!(!answer.contains("hello"), "{}: {answer}", case.name);
                assert!(matches!(end, End::Fin | End::Reset), "{}: {end:?}", case.name);
            }
            assert!(
                !answer.contains("HTTP/1.1"),
                "{}: two answers: {answer}",
                case.name
            );
        }
    }

    #[tokio::test]
    async fn one_connection_too_many_hears_503() {
        let stop = CancellationToken::new();
        let (address, _tasks) = server(
            Limits {
                connections_max: 1,
                ..Limits::default()
            },
            &stop,
        )
        .await;
        let mut first = TokioNetwork.connect(&address).await.unwrap();
        first.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let mut answer = String::new();
        while !answer.starts_with("HTTP/1.1 503") {
            answer = ask(&address, "/").await;
        }
    }

    #[tokio::test]
    async fn refusals_are_bounded() {
        let stop = CancellationToken::new();
        let limits = Limits {
            connections_max: 1,
            ..Limits::default()
        };
        let (address, tasks) = server(limits, &stop).await;
        let mut held = vec![TokioNetwork.connect(&address).await.unwrap()];
        // They ask nothing, so each refusal waits for its request.
        for _ in 0..REFUSALS_MAX + 50 {
            held.push(TokioNetwork.connect(&address).await.unwrap());
            let refused = tasks.running().get("refusal of a connection").copied();
            assert!(refused.unwrap_or(0) <= REFUSALS_MAX);
        }
        // Whoever comes beyond them is closed without a word, which is quick.
        let mut last = held.pop().unwrap();
        let mut said = Vec::new();
        let _ = last.read_to_end(&mut said).await;
    }

    #[tokio::test]
    async fn stops_when_asked() {
        let stop = CancellationToken::new();
        let (address, tasks) = server(Limits::default(), &stop).await;
        assert!(ask(&address, "/").await.ends_with("hello"));
        stop.cancel();
        tasks.shut_down(Duration::from_secs(5)).await;
        assert!(TokioNetwork.connect(&address).await.is_err());
    }
}
