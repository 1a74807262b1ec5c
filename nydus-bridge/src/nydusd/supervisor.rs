//! The other end of a supervisor's socket: it keeps a state and the connection to the kernel, and knows neither.
//!
//! Blocks, for as long as [`PATIENCE`] between two parts: not to be called on a thread of the runtime.

use std::io::{self, ErrorKind};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::state::STATE_BYTES_MAX;
use crate::mount::guardian;

/// How long the supervisor may be silent.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes that are taken at once.
const PART_BYTES: usize = 256 << 10;

/// Gives a state and a connection to the supervisor, and closes.
pub(super) fn give(socket: &Path, state: &[u8], connection: BorrowedFd<'_>) -> io::Result<()> {
    let stream = connect(socket)?;
    let mut rest = state;
    let mut descriptors = vec![connection];
    while !rest.is_empty() {
        let sent = guardian::send(&stream, rest, &descriptors)?;
        // It went with the first bytes.
        descriptors.clear();
        rest = rest.get(sent..).unwrap_or_default();
    }
    stream.shutdown(std::net::Shutdown::Write)
}

/// Takes what the supervisor has.
pub(super) fn take(socket: &Path) -> io::Result<(Vec<u8>, OwnedFd)> {
    let stream = connect(socket)?;
    let (mut state, mut connection) = (Vec::new(), None);
    let mut part = vec![0; PART_BYTES];
    loop {
        let (length, descriptors) = guardian::receive(&stream, &mut part)?;
        connection = connection.or_else(|| descriptors.into_iter().next());
        if length == 0 {
            break;
        }
        state.extend_from_slice(part.get(..length).unwrap_or_default());
        if state.len() > STATE_BYTES_MAX {
            return Err(io::Error::new(ErrorKind::InvalidData, "the state is too long"));
        }
    }
    let none = || {
        io::Error::new(
            ErrorKind::InvalidData,
            "the supervisor has no connection to the kernel",
        )
    };
    Ok((state, connection.ok_or_else(none)?))
}

fn connect(socket: &Path) -> io::Result<UnixStream> {
    connect_within(socket, PATIENCE)
}

/// A connection, unless there is none for so long: who listens may accept nobody.
pub(super) fn connect_within(socket: &Path, patience: Duration) -> io::Result<UnixStream> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
    let stream = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    let stream = UnixStream::from(stream);
    // The system goes by this when it connects as well.
    stream.set_write_timeout(Some(patience))?;
    stream.set_read_timeout(Some(patience))?;
    rustix::net::connect(&stream, &SocketAddrUnix::new(socket)?)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixListener;

    #[test]
    fn what_is_given_is_taken_however_long_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("supervisor.sock");
        for length in [1, 682, 40 << 10, 3 << 20] {
            let state: Vec<u8> = (0..length).map(|at: usize| at.to_le_bytes()[0]).collect();
            let listener = UnixListener::bind(&path).unwrap();
            let file = tempfile::tempfile().unwrap();
            std::thread::scope(|scope| {
                let taking = scope.spawn(|| {
                    let (given, _) = listener.accept().unwrap();
                    let (mut bytes, mut descriptors, mut part) = (Vec::new(), Vec::new(), vec![0; 256 << 10]);
                    loop {
                        let (length, more) = guardian::receive(&given, &mut part).unwrap();
                        descriptors.extend(more);
                        if length == 0 {
                            break;
                        }
                        bytes.extend_from_slice(&part[..length]);
                    }
                    assert_eq!(descriptors.len(), 1, "exactly one");
                    // Now the other way.
                    let (asked, _) = listener.accept().unwrap();
                    let mut rest = &bytes[..];
                    let mut descriptors = vec![descriptors[0].as_fd()];
                    while !rest.is_empty() {
                        let sent = guardian::send(&asked, rest, &descriptors).unwrap();
                        descriptors.clear();
                        rest = &rest[sent..];
                    }
                });
                give(&path, &state, file.as_fd()).unwrap();
                let (taken, _connection) = take(&path).unwrap();
                assert!(taken == state);
                taking.join().unwrap();
            });
            std::fs::remove_file(&path).unwrap();
        }
        assert!(take(&path).is_err(), "nobody listens");
    }

    #[test]
    fn who_accepts_nobody_is_not_waited_for_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("full.sock");
        let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
        let listener = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let patience = Duration::from_millis(200);
        let connections: Vec<_> = (0..3).map(|_| connect_within(&path, patience)).collect();
        let last = connections.last().unwrap().as_ref().unwrap_err();
        assert_eq!(last.kind(), ErrorKind::WouldBlock);
    }
}
