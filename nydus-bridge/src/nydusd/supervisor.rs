//! The other end of a supervisor's socket: it keeps a state and the connection to the kernel, and knows neither.
//!
//! Blocks, for as long as [`PATIENCE`] between two parts: not to be called on a thread of the runtime.

use std::io::{self, ErrorKind};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

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
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
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
}
