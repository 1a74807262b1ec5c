//! What a process tells whoever started it: ready, alive, stopping. The protocol is systemd's `sd_notify(3)`: a datagram
//! of `NAME=value` lines to the socket that `NOTIFY_SOCKET` names. [`crate::guardian`] listens to the same.
//!
//! A word that cannot be delivered is dropped: nobody may be kept waiting by a supervisor that does not listen.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;

/// The environment variable that names the socket.
pub const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// What can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It serves.
    Ready,
    /// It answers; to be told again and again by who has a watchdog.
    Alive,
    /// It is about to end because it was asked to.
    Stopping,
}

impl State {
    /// The word of the protocol.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ready => "READY=1",
            Self::Alive => "WATCHDOG=1",
            Self::Stopping => "STOPPING=1",
        }
    }

    /// The states that a datagram tells, in its order; what else it says is not ours.
    pub fn read(datagram: &[u8]) -> impl Iterator<Item = Self> {
        let known = [Self::Ready, Self::Alive, Self::Stopping];
        datagram
            .split(|&byte| byte == b'\n')
            .filter_map(move |line| known.into_iter().find(|state| state.word().as_bytes() == line))
    }
}

/// Tells the process's supervisor, if it has one. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Notifier {
    to: Option<Arc<(UnixDatagram, SocketAddr)>>,
}

impl Notifier {
    /// Nobody listens.
    pub fn none() -> Self {
        Self::default()
    }

    /// The socket that the environment names: a path, or `@` and an abstract name.
    ///
    /// # Errors
    /// It names none, or the system gives no socket.
    pub fn new(name: Option<&OsStr>) -> io::Result<Self> {
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Ok(Self::none());
        };
        let address = match name.as_bytes() {
            [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest)?,
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            _ => {
                let text = format!("{NOTIFY_SOCKET}={}: it must begin with / or @", name.display());
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            to: Some(Arc::new((socket, address))),
        })
    }

    /// Whether somebody listens.
    pub fn is_heard(&self) -> bool {
        self.to.is_some()
    }

    /// Tells it, without waiting.
    pub fn tell(&self, state: State) {
        if let Some(to) = &self.to {
            let (socket, address) = &**to;
            // Nobody to tell it to, or more than it wants to hear.
            let _ = socket.send_to_addr(state.word().as_bytes(), address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_arrive_at_a_path_and_at_an_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("darter-test-{}", std::process::id());
        let abstract_name = SocketAddr::from_abstract_name(&name).unwrap();
        for (socket, named) in [
            (UnixDatagram::bind(&path).unwrap(), path.clone().into_os_string()),
            (
                UnixDatagram::bind_addr(&abstract_name).unwrap(),
                format!("@{name}").into(),
            ),
        ] {
            let notifier = Notifier::new(Some(&named)).unwrap();
            assert!(notifier.is_heard());
            for state in [State::Ready, State::Alive, State::Stopping] {
                notifier.tell(state);
                let mut said = [0; 64];
                let count = socket.recv(&mut said).unwrap();
                assert_eq!(State::read(&said[..count]).collect::<Vec<_>>(), [state]);
            }
        }
    }

    #[test]
    fn without_a_socket_nothing_is_told() {
        assert!(!Notifier::new(None).unwrap().is_heard());
        assert!(!Notifier::new(Some(OsStr::new(""))).unwrap().is_heard());
        Notifier::none().tell(State::Ready);
        // A supervisor that is gone does not disturb.
        Notifier::new(Some(OsStr::new("/nonexistent/notify")))
            .unwrap()
            .tell(State::Ready);
    }

    #[test]
    fn a_name_that_is_none_is_an_error() {
        let error = Notifier::new(Some(OsStr::new("vsock:2:1"))).unwrap_err();
        assert!(error.to_string().contains("NOTIFY_SOCKET=vsock:2:1"), "{error}");
    }

    #[test]
    fn only_whole_lines_that_are_known_count() {
        let told = State::read(b"STATUS=READY=1\nREADY=1\nWATCHDOG=12\nSTOPPING=1");
        assert_eq!(told.collect::<Vec<_>>(), [State::Ready, State::Stopping]);
    }
}
