//! What belongs to one connection of a client: who is at the other end.
//!
//! Requests carry it as an extension. Nothing here is asked of the system before somebody needs it.

use std::sync::{Arc, OnceLock};

use darter_service::net::{PeerAddr, Stream};

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
    /// The user of this machine at the other end; `None` if there is none, or nobody knows.
    user: OnceLock<Option<u32>>,
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
        let inner = Inner { socket, user };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The user of this machine at the other end. The system is asked once; it blocks for as long as that takes.
    pub(crate) fn user(&self) -> Option<u32> {
        let ask = || self.inner.socket.and_then(local_user::of);
        *self.inner.user.get_or_init(ask)
    }
}
