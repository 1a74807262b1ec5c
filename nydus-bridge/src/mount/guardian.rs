//! A small process that keeps a mount alive when the one that serves it (the *worker*) dies: it holds the connection to the
//! kernel and hands it to the next worker, so that programs that read wait a moment and go on.
//!
//! It knows nothing of images: what a worker tells it is bytes and descriptors, which the next worker gets as they are.
//!
//! It is not [`darter_service::guardian`], since all that matters is the other way round there: that worker is killed when it is
//! silent, ends with its guardian, and leaves nothing to the next one.
//!
//! What must hold: a worker that never served is not started again, so that what is wrong is seen; workers that die as
//! soon as they serve are not started for ever, and then the mount is taken away; a worker outlives its guardian, since a
//! mount is of more use than its guardian.

mod descriptors;
mod worker;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal as Heard, SignalKind, signal};
use tokio::time::{Instant, sleep};

use super::{MountError, mounts};

pub use descriptors::{receive, send};
pub use worker::{Legacy, Line};

/// Longest that a worker leaves, but for descriptors.
const PACKET_BYTES_MAX: usize = 64 << 10;
/// What the first worker is told.
const FRESH: &[u8] = b"fresh";
/// A worker that served for so long did not die of what the one before died of.
const LIVED: Duration = Duration::from_millis(200);
/// Workers that die one after the other without having lived, before it is given up.
const SHORT_LIVES_MAX: u32 = 10;
/// Before the second of such workers is started; doubled for each further one.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
/// Longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A second signal this soon after the first is the same wish: Ctrl-C reaches all processes of a terminal.
const SAME_WISH: Duration = Duration::from_millis(500);

/// What is run, and for which mount.
#[derive(Debug)]
pub struct Guardian {
    /// The worker's program.
    pub program: PathBuf,
    /// What it is called.
    pub name: OsString,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Where it mounts.
    pub path: PathBuf,
}

/// What one worker left.
#[derive(Debug)]
struct Left {
    packet: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

/// How one worker's life went.
#[derive(Debug)]
struct Life {
    status: ExitStatus,
    served: Option<Duration>,
    stopped: bool,
}

/// How many workers died early, one after the other.
#[derive(Debug, Default)]
struct Luck(u32);

impl Luck {
    /// How long to wait before the next worker, after one that served for so long; `None` if there is to be none.
    fn after(&mut self, served: Option<Duration>) -> Option<Duration> {
        if served.is_some_and(|served| served >= LIVED) {
            self.0 = 0;
            return Some(Duration::ZERO);
        }
        self.0 += 1;
        // The first is started at once: readers wait.
        let pause = match self.0 {
            1 => Duration::ZERO,
            short => PAUSE_FIRST
                .saturating_mul(1 << (short - 2).min(16))
                .min(PAUSE_MAX),
        };
        (self.0 <= SHORT_LIVES_MAX).then_some(pause)
    }
}

impl Guardian {
    /// Runs workers until the mount is gone, a signal stops them, or there is no use in more; how the last one ended.
    /// No mount is left behind. Must be called within a runtime of one thread.
    ///
    /// # Errors
    /// The system gives no socket or no signals, or cannot start the program.
    pub async fn run(self) -> io::Result<ExitStatus> {
        // Before anything is there that has to be taken away.
        let mut signals = Signals::listen()?;
        let mut left = None;
        let mut luck = Luck::default();
        let ended = loop {
            let life = match self.live(&mut left, &mut signals).await {
                Ok(life) => life,
                Err(error) => {
                    self.clean(left);
                    return Err(error);
                }
            };
            if life.stopped {
                // It may have been dead when it was asked, or asked before it had the mount: what is left goes here. Where it
                // did it itself, somebody else may have mounted meanwhile.
                if life.served.is_none() || !life.status.success() {
                    self.clean(left);
                }
                let died = life.status.signal().is_some();
                return Ok(if died {
                    ExitStatus::from_raw(0)
                } else {
                    life.status
                });
            }
            if life.status.success() || left.is_none() {
                break life.status;
            }
            let Some(pause) = luck.after(life.served) else {
                tracing::error!(status = %life.status, "the processes that serve the mount die at once: it is given up");
                break life.status;
            };
            tracing::error!(status = %life.status, "the process that serves the mount died; another one goes on with it");
            tokio::select! {
                () = signals.next() => {
                    self.clean(left);
                    return Ok(ExitStatus::from_raw(0));
                }
                () = sleep(pause) => {}
            }
        };
        if !ended.success() {
            self.clean(left);
        }
        Ok(ended)
    }

    /// Takes the mount away, before its connection is closed. One that no worker had is somebody else's.
    fn clean(&self, left: Option<Left>) {
        if left.is_none() {
            return;
        }
        if let Err(error) = mounts::take_away(&self.path) {
            tracing::error!(%error, "the mount stays behind");
        }
        drop(left);
    }

    /// One worker from its start to its end.
    async fn live(&self, left: &mut Option<Left>, signals: &mut Signals) -> io::Result<Life> {
        let (own, line) = pair()?;
        match left {
            Some(left) => {
                let descriptors: Vec<_> = left.descriptors.iter().map(OwnedFd::as_fd).collect();
                send(&own, &left.packet, &descriptors)?;
            }
            None => drop(send(&own, FRESH, &[])?),
        }
        let mut worker = self.start(line)?;
        let mut own = Some(UnixStream::from_std(own.into())?);
        let mut served: Option<Instant> = None;
        let mut stopped: Option<Instant> = None;
        loop {
            tokio::select! {
                biased;
                told = hear(own.as_ref()) => match told {
                    Ok(told) => {
                        *left = Some(told);
                        served = Some(Instant::now());
                    }
                    // It closed the line, and will end.
                    Err(_) => own = None,
                },
                status = worker.wait() => return Ok(Life {
                    status: status?,
                    served: served.map(|since| since.elapsed()),
                    stopped: stopped.is_some(),
                }),
                () = signals.next() => ask_to_stop(&worker, &mut stopped),
            }
        }
    }

    fn start(&self, line: OwnedFd) -> io::Result<Child> {
        let mut command = std::process::Command::new(&self.program);
        command
            .arg0(&self.name)
            .args(&self.arguments)
            .stdin(Stdio::from(line));
        Command::from(command).spawn()
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Heard,
    interrupt: Heard,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next of either. Cancel safe.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Asks a worker to unmount and end; who asks twice does not want to wait.
fn ask_to_stop(worker: &Child, stopped: &mut Option<Instant>) {
    let signal = match stopped {
        None => Signal::TERM,
        Some(first) if first.elapsed() < SAME_WISH => return,
        Some(_) => Signal::KILL,
    };
    stopped.get_or_insert_with(Instant::now);
    let pid = worker.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    if let Some(pid) = pid {
        // It may have ended just now; it has not been waited for, so that the number is its own.
        let _ = kill_process(pid, signal);
    }
}

/// The next that a worker leaves; for ever, once it has closed the line. Cancel safe.
async fn hear(line: Option<&UnixStream>) -> io::Result<Left> {
    let Some(line) = line else {
        return std::future::pending().await;
    };
    let mut packet = vec![0; PACKET_BYTES_MAX];
    let received = line.async_io(Interest::READABLE, || receive(line, &mut packet));
    let (length, descriptors) = received.await?;
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    packet.truncate(length);
    Ok(Left { packet, descriptors })
}

/// A line: the guardian's end, which does not block, and the worker's.
fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    let (own, line) = rustix::net::socketpair(family, kind, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&own, true)?;
    Ok((own, line))
}

/// Where a mount at `path` will be, as [`Guardian`] wants it.
///
/// # Errors
/// There is no such place.
pub fn place(path: &Path) -> Result<PathBuf, MountError> {
    mounts::place(path)
}

#[cfg(test)]
mod tests;
