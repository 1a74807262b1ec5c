//! The socket at which a guardian hears its worker: an abstract name, and the kernel's word on who speaks.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg, sockopt};
use rustix::process::Pid;
use tokio::io::Interest;
use tokio::net::UnixDatagram as Datagrams;

use crate::notify::State;

/// Longest datagram that is read; the words that count are a few bytes.
const DATAGRAM_BYTES_MAX: usize = 4096;

/// What workers say.
#[derive(Debug)]
pub(super) struct Words {
    socket: Datagrams,
    name: String,
}

impl Words {
    /// Listens under an abstract name. Must be called in a runtime.
    pub(super) fn bind(name: &str) -> io::Result<Self> {
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
        socket.set_nonblocking(true)?;
        sockopt::set_socket_passcred(&socket, true)?;
        Ok(Self {
            socket: Datagrams::from_std(socket)?,
            name: format!("@{name}"),
        })
    }

    /// What `NOTIFY_SOCKET` says.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The next state that the process `pid` tells. Cancel safe.
    pub(super) async fn next(&self, pid: Pid) -> io::Result<State> {
        loop {
            let received = self
                .socket
                .async_io(Interest::READABLE, || receive(&self.socket, pid))
                .await?;
            if let Some(state) = received {
                return Ok(state);
            }
        }
    }
}

/// One datagram: the last state that it tells, if it comes from `pid`.
fn receive(socket: &Datagrams, pid: Pid) -> io::Result<Option<State>> {
    let mut bytes = [0; DATAGRAM_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut extra = RecvAncillaryBuffer::new(&mut space);
    let read = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut extra,
        RecvFlags::empty(),
    )?;
    let from = extra
        .drain()
        .any(|message| matches!(message, RecvAncillaryMessage::ScmCredentials(sender) if sender.pid == pid));
    if !from {
        return Ok(None);
    }
    Ok(bytes.get(..read.bytes).and_then(|said| State::read(said).last()))
}
