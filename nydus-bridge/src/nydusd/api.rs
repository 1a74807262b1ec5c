//! nydusd's API: HTTP/1.1 over a socket of this machine, for nydus-snapshotter.
//!
//! `route` finds out what is asked, `answer` has the forms of answers. Connections may stay idle for as long as they like:
//! the snapshotter takes the end of one for the end of the process.

mod answer;
mod route;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darter_service::supervise::Tasks;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::daemon::Daemon;
use route::{BODY_BYTES_MAX, Call};

/// Connections at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 128;
/// After a failure to accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the API until `stop`.
pub async fn serve(listener: UnixListener, daemon: Daemon, tasks: Tasks, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let accept = async || {
        let permit = Arc::clone(&permits).acquire_owned().await;
        let accepted = listener.accept().await;
        (permit.ok(), accepted)
    };
    while let Some((permit, accepted)) = stop.run_until_cancelled(accept()).await {
        match accepted {
            Ok((stream, _)) => tasks.spawn(
                "connection to nydusd's socket",
                converse(stream, daemon.clone(), permit),
            ),
            Err(error) => {
                tracing::warn!(%error, "a connection to nydusd's socket is not accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, daemon: Daemon, _permit: Option<OwnedSemaphorePermit>) {
    let service = service_fn(move |request| {
        let daemon = daemon.clone();
        async move { Ok::<_, Infallible>(respond(&daemon, request).await) }
    });
    // Who leaves in the middle of a request hears nothing, and there is nothing to do about it.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn respond(daemon: &Daemon, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return answer::refusal(400, &error.to_string()),
    };
    let call = match route::parse(&head.method, head.uri.path(), head.uri.query(), &body) {
        Ok(call) => call,
        Err(refused) => return answer::refusal(refused.status, &refused.message),
    };
    let name = call.name();
    let answered = answer(daemon, call).await;
    if answered.status().is_client_error() || answered.status().is_server_error() {
        tracing::warn!(
            call = name,
            status = answered.status().as_u16(),
            "a call of nydusd's API failed"
        );
    }
    answered
}

async fn answer(daemon: &Daemon, call: Call) -> Response<Full<Bytes>> {
    let done = match call {
        Call::Info => return answer::info(daemon),
        Call::Metrics { id } => return answer::metrics(daemon, id.as_deref()),
        Call::CacheMetrics { id } => return answer::cache_metrics(daemon, id.as_deref()),
        Call::Inflight => return answer::inflight(daemon),
        Call::Mount {
            mountpoint,
            bootstrap,
            config,
        } => daemon.mount(mountpoint, bootstrap, config).await,
        Call::Umount { mountpoint } => daemon.umount(mountpoint).await,
        Call::Renew { id, auth } => daemon.renew(&id, &auth),
        Call::Start => daemon.start().await,
        Call::Send => daemon.send().await,
        Call::TakeOver => daemon.take_over().await,
        Call::Exit => {
            daemon.exit();
            Ok(())
        }
    };
    match done {
        Ok(()) => answer::nothing(),
        Err(error) => answer::failure(&error),
    }
}
