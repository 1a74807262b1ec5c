//! Connections: HTTP over any I/O object, loopback listeners, and how a connection ends.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::body::FaultyBody;
use super::fault::CutBy;
use super::plan::{Instead, Plan};
use super::record::Way;
use super::route::Route;
use super::tls::{Identity, TlsMode};
use super::wire::{Control, Ending, Wire};
use super::{Origin, Running};

/// How long a half-closed connection is read before it is dropped, so that unread input makes no reset.
const LINGER: Duration = Duration::from_secs(2);
/// Lets sent bytes arrive before a reset throws away what is still queued.
const RESET_GRACE: Duration = Duration::from_millis(20);

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;

/// The service's error: no answer, the connection ends as its control says.
#[derive(Debug, thiserror::Error)]
#[error("a fault ends this connection without an answer")]
struct NoAnswer;

/// Of sockets that have no addresses.
const PLAIN: Way = Way {
    source: None,
    secure: false,
};

type Answered = Result<Response<FaultyBody>, NoAnswer>;

impl Origin {
    /// Serves HTTP/1.1 on one connection until it ends. Dropping the future drops the connection.
    ///
    /// Works on any I/O object, so that a simulation can serve it on simulated sockets. There a reset
    /// ([`CutBy::Rst`]) is a plain drop.
    pub async fn serve_connection<I>(&self, io: I)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (io, ending) = self.drive(io, PLAIN).await;
        finish(io, ending).await;
    }

    /// Serves all connections of a listener until the future is dropped, which drops them as well.
    pub async fn serve(&self, listener: TcpListener) {
        self.accept(listener, None, std::future::pending()).await;
    }

    /// Serves on a free port of 127.0.0.1 until the returned value is dropped.
    ///
    /// # Errors
    /// If the socket cannot be had.
    pub async fn spawn_on_loopback(&self) -> io::Result<RunningOrigin> {
        self.spawn_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
    }

    /// Serves on this address, e.g. the one where an origin ran before that is to come back.
    ///
    /// # Errors
    /// If the socket cannot be had.
    pub async fn spawn_on(&self, addr: SocketAddr) -> io::Result<RunningOrigin> {
        self.start(TcpListener::bind(addr).await?, None)
    }

    /// Serves HTTPS on a free port of 127.0.0.1, with a certificate that is right or wrong as `mode` says.
    ///
    /// # Errors
    /// If the socket or the certificate cannot be had.
    pub async fn spawn_on_loopback_tls(&self, mode: TlsMode) -> io::Result<RunningOrigin> {
        let identity = Identity::new(mode).map_err(io::Error::other)?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        self.start(listener, Some(identity))
    }

    fn start(&self, listener: TcpListener, identity: Option<Identity>) -> io::Result<RunningOrigin> {
        // A registry has room for as many clients as a herd has.
        rustix::net::listen(&listener, BACKLOG)?;
        let addr = listener.local_addr()?;
        let (ca_pem, acceptor) = identity
            .map(|identity| (identity.ca_pem, identity.acceptor))
            .unzip();
        let origin = self.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move { _ = stopped.await };
        let task = tokio::spawn(async move { origin.accept(listener, acceptor, stopped).await });
        Ok(RunningOrigin {
            addr,
            ca_pem,
            stop: Some(stop),
            task,
        })
    }

    async fn accept(&self, listener: TcpListener, tls: Option<TlsAcceptor>, stop: impl Future<Output = ()>) {
        let mut connections = JoinSet::new();
        let mut stop = pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        let (origin, tls) = (self.clone(), tls.clone());
                        connections.spawn(async move { origin.serve_tcp(stream, tls).await });
                    }
                    // Out of file descriptors, most likely: the next one may fit again.
                    Err(_) => tokio::time::sleep(RESET_GRACE).await,
                },
            }
        }
        drop(listener);
        connections.shutdown().await;
    }

    async fn serve_tcp(&self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        // A socket that died already fails at its first use.
        _ = stream.set_nodelay(true);
        let source = stream.peer_addr().ok().map(|address| address.ip());
        let way = |secure| Way { source, secure };
        let Some(tls) = tls else {
            let (stream, ending) = self.drive(stream, way(false)).await;
            linger(&stream, ending.as_ref()).await;
            return finish(stream, ending).await;
        };
        if let Ok(stream) = tls.accept(stream).await {
            let (stream, ending) = self.drive(stream, way(true)).await;
            linger(stream.get_ref().0, ending.as_ref()).await;
            finish(stream, ending).await;
        }
    }

    /// Runs HTTP until the connection is done, and hands it back.
    async fn drive<I>(&self, io: I, way: Way) -> (I, Option<Ending>)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.state().ledger.connections += 1;
        let control = Arc::new(Control::new(self.clone(), way.source));
        let service = service_fn(|request| -> Pin<Box<dyn Future<Output = Answered> + Send>> {
            let (origin, control) = (self.clone(), Arc::clone(&control));
            Box::pin(async move { origin.respond(request, way, control).await })
        });
        let wire = TokioIo::new(Wire::new(io, Arc::clone(&control)));
        let mut connection = http1::Builder::new()
            .auto_date_header(false)
            .serve_connection(wire, service);
        // How it ended is known to the control; a client that left early is nobody's error.
        _ = poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
        let wire = connection.into_parts().io.into_inner();
        (wire.io, control.take_ending())
    }

    async fn respond(&self, request: Request<Incoming>, way: Way, control: Arc<Control>) -> Answered {
        let (parts, body) = request.into_parts();
        let body = if super::push::writes(&parts.method) {
            let body = Limited::new(body, super::push::BODY_BYTES_MAX).collect().await;
            body.map_err(|_| NoAnswer)?.to_bytes()
        } else {
            Bytes::new()
        };
        let route = Route::parse(parts.uri.path());
        let digest = self.state().digest_of(&route);
        let number = self.state().ledger.arrived(&parts, digest.clone(), way);
        let running = Running {
            origin: self.clone(),
            source: way.source,
        };
        let plan = {
            let digest = digest.as_deref();
            self.state().answer(&parts, &body, &route, digest, way.secure)
        };
        if !plan.delay.is_zero() {
            tokio::time::sleep(plan.delay).await;
        }
        match plan.instead {
            Some(Instead::Silence) => std::future::pending().await,
            Some(Instead::End(ending)) => {
                control.end(ending);
                Err(NoAnswer)
            }
            None => {
                self.state().ledger.answered(number, plan.status.as_u16());
                let body = if plan.chunked {
                    u64::MAX
                } else {
                    plan.body_length(&parts.method)
                };
                control.expect_answer(plan.digest.clone(), body);
                Ok(response(plan, control, running))
            }
        }
    }
}

fn response(plan: Plan, control: Arc<Control>, running: Running) -> Response<FaultyBody> {
    let Plan {
        status,
        headers,
        content,
        slice,
        flow,
        ..
    } = plan;
    let body = FaultyBody {
        content,
        slice,
        flow,
        sent: 0,
        pause: None,
        control,
        _running: running,
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Makes the coming drop a reset, if that is what was asked for.
async fn linger(stream: &TcpStream, ending: Option<&Ending>) {
    if ending == Some(&Ending::Cut(CutBy::Rst)) {
        tokio::time::sleep(RESET_GRACE).await;
        _ = stream.set_zero_linger();
    }
}

async fn finish<I: AsyncRead + AsyncWrite + Unpin>(mut io: I, ending: Option<Ending>) {
    match ending {
        Some(Ending::Cut(CutBy::Rst)) => return,
        Some(Ending::Raw(bytes)) => _ = io.write_all(&bytes).await,
        Some(Ending::Cut(CutBy::Fin)) | None => {}
    }
    if io.shutdown().await.is_ok() {
        let mut rest = [0; 4096];
        let drain = async { while matches!(io.read(&mut rest).await, Ok(1..)) {} };
        _ = tokio::time::timeout(LINGER, drain).await;
    }
}

/// An origin that serves until this is dropped: then the port is closed and all connections with it.
#[derive(Debug)]
pub struct RunningOrigin {
    /// Where it listens.
    pub addr: SocketAddr,
    /// The certificate that a client must trust, for TLS. Of no use in [`TlsMode::SelfSigned`].
    pub ca_pem: Option<String>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl RunningOrigin {
    /// `127.0.0.1:<port>`: the host part of an image reference.
    pub fn host(&self) -> String {
        self.addr.to_string()
    }

    /// `http://127.0.0.1:<port>` or `https://localhost:<port>`: the name that the certificate is for.
    pub fn url(&self) -> String {
        match self.ca_pem {
            Some(_) => format!("https://localhost:{}", self.addr.port()),
            None => format!("http://{}", self.addr),
        }
    }

    /// Stops, and waits until the port is closed and no connection is left.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        // A task that panicked is stopped as well.
        _ = (&mut self.task).await;
    }
}

impl Drop for RunningOrigin {
    fn drop(&mut self) {
        self.task.abort();
    }
}
