//! What belongs to one connection of a client: who is at the other end, and by which right its answer is being sent.
//!
//! Requests carry it as an extension. Nothing here is asked of the system or of a registry before somebody needs it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll};

use darter_service::net::{PeerAddr, Stream};

use crate::access::Standing;

use super::local_user::{self, Socket};

/// A connection of a client. Clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Both ends, where the system can tell whose the other one is.
    socket: Option<Socket>,
    /// Over a socket file, not a network.
    local: bool,
    /// The user of this machine at the other end; `None` if there is none, or nobody knows.
    user: OnceLock<Option<u32>>,
    /// The right by which the answer under way is sent.
    standing: Mutex<Weak<Standing>>,
}

impl Client {
    /// Of a connection that was accepted.
    pub(crate) fn of(stream: &Stream, from: PeerAddr) -> Self {
        let user = OnceLock::new();
        let here = stream.as_tcp().and_then(|tcp| tcp.local_addr().ok());
        let socket = match from {
            PeerAddr::Ip(client) => here.map(|here| Socket { client, here }),
            PeerAddr::Unix { uid } => {
                _ = user.set(uid);
                None
            }
        };
        let inner = Inner {
            socket,
            local: matches!(from, PeerAddr::Unix { .. }),
            user,
            standing: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Whether it came over a socket file, which only this machine can reach.
    pub(super) fn is_local(&self) -> bool {
        self.inner.local
    }

    /// Whether it came over a socket file, or from a loopback address.
    pub(super) fn is_of_this_machine(&self) -> bool {
        let loopback = |socket: Socket| socket.client.ip().to_canonical().is_loopback();
        self.inner.local || self.inner.socket.is_some_and(loopback)
    }

    /// The user of this machine at the other end. The system is asked once; it blocks for as long as that takes.
    pub(crate) fn user(&self) -> Option<u32> {
        let ask = || self.inner.socket.and_then(local_user::of);
        *self.inner.user.get_or_init(ask)
    }

    /// Has the answer that begins now end when this right does.
    pub(super) fn sends_by(&self, standing: &Arc<Standing>) {
        let mut current = self.inner.standing.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::downgrade(standing);
    }

    /// Ready when the right is over by which an answer is being sent. Whoever sends polls this as well: a body is not
    /// polled while the client takes nothing.
    pub(super) fn poll_over(&self, cx: &mut Context<'_>) -> Poll<()> {
        let current = self.inner.standing.lock().unwrap_or_else(PoisonError::into_inner);
        match current.upgrade() {
            Some(standing) => standing.poll_over(cx),
            None => Poll::Pending,
        }
    }
}
