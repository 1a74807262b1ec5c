//! Connections of the forward proxy: requests, until one of them makes a tunnel of the connection.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use darter_service::net::{Listener, Stream, stall};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::mirror::client::Client;
use crate::mirror::server::{Accepting, accept, answer_all, end};

use super::Forward;
use super::rules::Site;
use super::traffic::{Counted, Resumed};

/// How long a client may take for its TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A tunnel that a CONNECT asked for, and the right to it.
#[derive(Debug)]
pub(super) enum Connected {
    /// Passed on unread.
    Blind {
        stream: Stream,
        slot: OwnedSemaphorePermit,
    },
    /// Its TLS ends here.
    Inside {
        site: Site,
        tls: Arc<ServerConfig>,
        slot: OwnedSemaphorePermit,
    },
}

/// What a connection becomes once its CONNECT is answered.
#[derive(Debug, Default)]
pub(super) struct Pending(Mutex<Option<Connected>>);

impl Pending {
    pub(super) fn set(&self, connected: Connected) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(connected);
    }

    fn take(&self) -> Option<Connected> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Forward {
    /// Serves the connections of a listener until `stop`; tunnels then run on until the tasks are shut down.
    pub async fn serve(&self, listener: Box<dyn Listener>, stop: CancellationToken) {
        let how = Accepting {
            name: "forward proxy connection",
            connections_max: self.inner.config.connections_max,
            refused: &|| _ = self.inner.metrics.refused.inc(),
            tasks: &self.inner.tasks,
            stop,
        };
        accept(listener, how, |stream, from, stop| {
            stall::bound(&stream, self.inner.config.idle_timeout.as_duration());
            let (forward, client) = (self.clone(), Client::of(&stream, from));
            async move { forward.serve_connection(stream, client, stop).await }
        })
        .await;
    }

    async fn serve_connection(&self, stream: Stream, client: Client, stop: CancellationToken) {
        let pending = Arc::new(Pending::default());
        let heads = self.inner.mirror.heads();
        let ended = answer_all(stream, &client, heads, stop.clone(), |request| {
            let (forward, pending) = (self.clone(), Arc::clone(&pending));
            async move { forward.answer(request, &pending).await }
        })
        .await;
        let (io, early) = (ended.io, ended.early);
        match pending.take() {
            None => end(io).await,
            Some(Connected::Blind { stream, slot }) => {
                self.tunnel(Resumed::new(early, io), stream).await;
                drop(slot);
            }
            Some(Connected::Inside { site, tls, slot }) => {
                let io = Resumed::new(early, io);
                self.look_inside(io, &client, &site, tls, stop).await;
                drop(slot);
            }
        }
    }

    /// Passes bytes in both directions until both sides are done, or neither says anything.
    async fn tunnel<I: AsyncRead + AsyncWrite + Unpin>(&self, mut client: Resumed<I>, host: Stream) {
        let _open = self.inner.metrics.tunnel();
        let (mut host, watch) = Counted::new(host, self.inner.metrics.clone());
        let idle = self.inner.config.idle_timeout.as_duration();
        tokio::select! {
            biased;
            ended = copy_bidirectional(&mut client, &mut host) => if let Err(error) = ended {
                tracing::debug!(%error, "a tunnel broke");
            },
            () = watch.silence(idle) => {
                self.inner.metrics.idle_ends.inc();
                tracing::debug!("a tunnel was silent for too long");
            }
        }
        end(client.into_inner()).await;
    }

    /// Ends a tunnel's TLS and answers what is asked in it.
    async fn look_inside<I>(
        &self,
        io: Resumed<I>,
        client: &Client,
        site: &Site,
        tls: Arc<ServerConfig>,
        stop: CancellationToken,
    ) where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let _open = self.inner.metrics.tunnel();
        let handshake = timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(tls).accept(io)).await;
        let Ok(Ok(io)) = handshake else {
            self.inner.metrics.handshakes_failed.inc();
            tracing::debug!(
                host = site.host,
                "a client did not take the certificate for an intercepted host"
            );
            return;
        };
        let heads = self.inner.mirror.heads();
        let ended = answer_all(io, client, heads, stop, |request| {
            let (forward, site) = (self.clone(), site.clone());
            async move { forward.answer_inside(&site, request).await }
        })
        .await;
        end(ended.io).await;
    }
}
