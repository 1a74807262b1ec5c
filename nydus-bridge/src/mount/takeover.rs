//! Serving a mount whose process has gone: the connection to the kernel is still open, because somebody else kept it.
//!
//! [`fuser::Session`] begins with the kernel's FUSE_INIT, which a connection gets once. So a new session is opened on one
//! end of a socket, where it finds the INIT that the kernel sent to the first process, and then its descriptor is put in
//! place of that socket. Requests that the process before had read and not answered are asked for again ([`resend`]).
//!
//! What must hold: the answer to the INIT is the one that the first process gave, as the kernel goes by it still; inode
//! numbers mean the same in both processes; no descriptor of the connection is a clone (`FUSE_DEV_IOC_CLONE`), for the
//! kernel fails the requests that were read from a clone when that is closed.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use fuser::{Config, Filesystem, Session};
use rustix::io::DupFlags;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};

/// FUSE_INIT in a request's head.
const INIT: u32 = 26;
/// Length of a request's head and of the INIT behind it.
const INIT_BYTES: u32 = 104;
/// The protocol whose answer has the form that is expected. Which parts of it are used is a matter of flags.
const VERSION: (u32, u32) = (7, 41);
/// FUSE_NOTIFY_RESEND, since Linux 6.9.
const RESEND: u32 = 7;
/// Of a notification without content.
const NOTIFICATION_BYTES: u32 = 16;
/// Flag 39 of the INIT: the kernel can be told to ask again.
const CAN_RESEND: u64 = 1 << 39;
/// Flag 30: there are more flags than 32. The session keeps it to itself.
const MORE_FLAGS: u64 = 1 << 30;

/// What the kernel said in its FUSE_INIT. It goes by the answer as long as the mount lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreed {
    /// What the kernel is able to do.
    pub capabilities: u64,
}

impl Agreed {
    /// Whether the kernel can ask again what the process before did not answer; else a mount cannot be taken over.
    pub fn can_resend(self) -> bool {
        self.capabilities & CAN_RESEND != 0
    }
}

/// All that another process needs to serve a mount, besides the files.
#[derive(Debug)]
pub struct Kept {
    /// The connection to the kernel. The mount lives as long as one process has it.
    pub connection: OwnedFd,
    /// What was agreed on it.
    pub agreed: Agreed,
    /// The kernel's EROFS shows the tree, and this is its source.
    pub mark: Option<PathBuf>,
    /// What is mounted over the image, if programs may write.
    pub over: Option<Over>,
}

/// An overlay over an image. The kernel serves it by itself, as long as somebody serves the image beneath.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Over {
    /// Its source.
    pub source: PathBuf,
    /// The folder for what is written.
    pub written: PathBuf,
}

/// Where a file system notes what was agreed. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Note(Arc<OnceLock<Agreed>>);

impl Note {
    pub(super) fn set(&self, agreed: Agreed) {
        // There is one INIT in a session.
        let _ = self.0.set(agreed);
    }

    /// What was agreed; nothing before the INIT.
    pub(super) fn get(&self) -> Agreed {
        self.0.get().copied().unwrap_or_default()
    }
}

/// A session that serves the connection `live`, on which `agreed` was agreed before. Nothing is read from it yet.
pub(super) fn session<F: Filesystem>(
    filesystem: F,
    live: BorrowedFd<'_>,
    agreed: Agreed,
    config: Config,
) -> io::Result<Session<F>> {
    let (kernel, device) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::send(&kernel, &init(agreed), SendFlags::NOSIGNAL)?;
    let session = Session::from_fd(filesystem, device, config.acl, config)?;
    let mut answer = [0; 256];
    rustix::net::recv(&kernel, &mut answer[..], RecvFlags::DONTWAIT)?;
    replace(session.as_fd(), live)?;
    Ok(session)
}

/// Makes the number of `old` a descriptor of what `new` is open on.
#[expect(unsafe_code, reason = "the session owns the descriptor and only lends it")]
fn replace(old: BorrowedFd<'_>, new: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the number is open, is not closed here, since the value is never dropped, and stays open in the call: it is
    // replaced in one step. Its owner, the session, uses it by number alone, and has not been started.
    let mut old = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(old.as_raw_fd()) });
    Ok(rustix::io::dup3(new, &mut old, DupFlags::CLOEXEC)?)
}

/// Has the kernel send again whatever was read from the connection and not answered.
pub(super) fn resend(live: impl AsFd) -> io::Result<()> {
    let mut notification = Vec::new();
    notification.extend(NOTIFICATION_BYTES.to_ne_bytes());
    notification.extend(RESEND.to_ne_bytes());
    notification.extend(0_u64.to_ne_bytes());
    rustix::io::write(live, &notification)?;
    Ok(())
}

/// The request with which the kernel began.
fn init(agreed: Agreed) -> Vec<u8> {
    let flags = agreed.capabilities | MORE_FLAGS;
    let [low, high] = [flags & u64::from(u32::MAX), flags >> 32].map(|half| u32::try_from(half).unwrap_or(0));
    let mut request = Vec::new();
    request.extend(INIT_BYTES.to_ne_bytes());
    request.extend(INIT.to_ne_bytes());
    // Number of the request and of the file, user, group, process, nothing.
    request.extend(1_u64.to_ne_bytes());
    request.extend([0; 24]);
    // The last number is how far the kernel reads ahead at most: the answer to it is not heard.
    for number in [VERSION.0, VERSION.1, 128 << 10, low, high] {
        request.extend(number.to_ne_bytes());
    }
    request.resize(usize::try_from(INIT_BYTES).unwrap_or_default(), 0);
    request
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Notes what it is offered.
    #[derive(Debug, Default)]
    struct Offered(Arc<Mutex<u64>>);

    impl Filesystem for Offered {
        fn init(&mut self, _: &fuser::Request, config: &mut fuser::KernelConfig) -> io::Result<()> {
            *self.0.lock().unwrap() = config.capabilities().bits();
            Ok(())
        }
    }

    #[test]
    fn a_session_begins_with_what_was_agreed_and_then_serves_the_connection() {
        let capabilities = (1 << 39) | (1 << 17) | 1;
        let agreed = Agreed { capabilities };
        let offered = Offered::default();
        let heard = Arc::clone(&offered.0);
        let flags = SocketFlags::CLOEXEC;
        let (kernel, live) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let session = session(offered, live.as_fd(), agreed, Config::default()).unwrap();
        assert_eq!(*heard.lock().unwrap(), capabilities);
        resend(session.as_fd()).unwrap();
        let mut told = [0; 64];
        let (length, _) = rustix::net::recv(&kernel, &mut told[..], RecvFlags::DONTWAIT).unwrap();
        assert_eq!(length, 16, "its descriptor is the connection now");
        assert_eq!(told[..8], [16, 0, 0, 0, 7, 0, 0, 0]);
        assert!(agreed.can_resend() && !Agreed::default().can_resend());
    }
}
