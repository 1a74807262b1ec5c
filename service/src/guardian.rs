//! A process that runs another one and ends it when it hangs: for machines where nobody else does.
//!
//! The worker says that it is alive through `NOTIFY_SOCKET`, as it would tell systemd. When it falls silent for the
//! patience, even because it was stopped as a whole, it is killed and started again. The socket has an abstract name, so
//! that no file is written; words of other processes than the worker are ignored. One that never says that it serves is not
//! waited for for ever either.
//!
//! A mount has a guardian of its own (`nydus-bridge/src/mount/guardian.rs`), since its worker outlives it and leaves open files
//! to the next one, which no worker here may do.
//!
//! What must hold: a worker does not outlive its guardian (the worker asks the kernel for that: [`follow_guardian`]); a
//! worker that ended by itself before it ever served is not started again, so that a wrong configuration is seen.

mod socket;

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::process::ExitStatus;
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt as _};
use rand::RngExt as _;
use rand::rngs::StdRng;
use rustix::process::{Pid, Signal, getpid, getppid, kill_process, set_parent_process_death_signal};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal as Heard, SignalKind, signal};
use tokio::time::{Instant, sleep, sleep_until};

use crate::backoff::Backoff;
use crate::notify::{NOTIFY_SOCKET, Notifier};

use socket::Words;

/// How long a worker may take to stop: what runs in it has [`run`](Guardian::run)'s caller's own grace, and then some.
const STOP_GRACE: Duration = Duration::from_secs(30);
/// How long a worker may take until it serves: a store is read before that. systemd's own bound is as long.
pub const START_GRACE: Duration = Duration::from_secs(90);
/// Before a worker that ended unasked is started again.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A worker that lived for so long failed for a new reason.
const LIVED: Duration = Duration::from_secs(60);

/// What is run, and how long it may be silent.
#[derive(Debug)]
pub struct Guardian {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// How long a worker that serves may be silent; `None` for ever.
    pub patience: Option<Duration>,
    /// How long it may take until it serves, mostly [`START_GRACE`]; without a patience as long as it likes.
    pub start: Duration,
    /// The guardian's own supervisor: it hears what the worker says.
    pub outer: Notifier,
    /// Chooses pauses and the socket's name.
    pub rng: StdRng,
}

/// How one worker's life went.
#[derive(Debug)]
struct Life {
    status: ExitStatus,
    served: bool,
    began: Instant,
    /// What it was asked for.
    asked: Asked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Nothing,
    /// To make room for a successor.
    Renew,
    Stop,
}

/// A worker's part: ends with SIGTERM when the guardian that started it is gone. To be called at the start of a process
/// that a guardian may have started; others are not touched.
///
/// # Errors
/// The system refuses, or the guardian is gone already.
pub fn follow_guardian(guarded: Option<&OsStr>) -> io::Result<()> {
    let Some(guardian) = guarded else {
        return Ok(());
    };
    set_parent_process_death_signal(Some(Signal::TERM))?;
    let parent = getppid().map(|pid| pid.as_raw_nonzero().to_string());
    if parent.as_deref().map(OsStr::new) != Some(guardian) {
        return Err(io::Error::other("the process that started this one is gone"));
    }
    Ok(())
}

impl Guardian {
    /// Runs workers, one after the other, until SIGTERM or SIGINT; how the last one ended. SIGUSR2 makes the worker leave
    /// in order and starts the next, from the program as it is then.
    ///
    /// Must be called on the thread that the process ends with: the kernel ends a worker with the thread that started it.
    ///
    /// # Errors
    /// The system gives no socket, no signals, or cannot start the program.
    pub async fn run(self) -> io::Result<ExitStatus> {
        self.run_asked(pin!(signals()?)).await
    }

    async fn run_asked(mut self, mut signals: Pin<&mut impl Stream<Item = Asked>>) -> io::Result<ExitStatus> {
        let mut pauses = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
        let mut first = true;
        loop {
            let life = self.live(signals.as_mut()).await?;
            let refused = first && !life.served && life.status.code().is_some();
            if life.asked == Asked::Stop || refused {
                return Ok(life.status);
            }
            first = false;
            if life.asked == Asked::Renew {
                continue;
            }
            if life.began.elapsed() >= LIVED {
                pauses.reset();
            }
            let pause = pauses.pause(&mut self.rng);
            tracing::error!(status = %life.status, pause_ms = pause.as_millis(), "the worker ended; it is started again");
            tokio::select! {
                biased;
                Some(Asked::Stop) = signals.next() => return Ok(life.status),
                () = sleep(pause) => {}
            }
        }
    }

    /// One worker from its start to its end.
    async fn live(&mut self, mut signals: Pin<&mut impl Stream<Item = Asked>>) -> io::Result<Life> {
        let words = Words::bind(&format!("darter-guardian-{:032x}", self.rng.random::<u128>()))?;
        let mut worker = Command::new(&self.program)
            .args(&self.arguments)
            .env(NOTIFY_SOCKET, words.name())
            .env(GUARDED, getpid().as_raw_nonzero().to_string())
            .kill_on_drop(true)
            .spawn()?;
        let Some(pid) = pid(&worker) else {
            return Err(io::Error::other("the worker has no process number"));
        };
        let began = Instant::now();
        let (mut served, mut asked, mut killed) = (false, Asked::Nothing, false);
        let mut deadline = self.patience.map(|_| began + self.start);
        loop {
            let late = async {
                match deadline {
                    Some(deadline) if !killed => sleep_until(deadline).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                status = worker.wait() => return Ok(Life { status: status?, served, began, asked }),
                Some(again) = signals.next() => {
                    // A second signal is for those who do not want to wait.
                    let signal = match (asked, again) {
                        (Asked::Stop, _) => Signal::KILL,
                        (_, Asked::Renew) => Signal::USR2,
                        _ => Signal::TERM,
                    };
                    asked = again;
                    tell(pid, signal);
                    deadline = Some(Instant::now() + STOP_GRACE);
                }
                state = words.next(pid) => {
                    self.outer.tell(state?);
                    served = true;
                    if let (Asked::Nothing, Some(patience)) = (asked, self.patience) {
                        deadline = Some(Instant::now() + patience);
                    }
                }
                () = late => {
                    tracing::error!(?asked, "the worker does not answer any more: it is killed");
                    tell(pid, Signal::KILL);
                    killed = true;
                }
            }
        }
    }
}

/// Tells a worker who its guardian is: the process number.
pub const GUARDED: &str = "DARTER_GUARDED";

fn pid(worker: &Child) -> Option<Pid> {
    Pid::from_raw(i32::try_from(worker.id()?).ok()?)
}

/// It has not been waited for, so the number is still its own.
fn tell(pid: Pid, signal: Signal) {
    // It may have ended just now.
    let _ = kill_process(pid, signal);
}

/// What the signals of this process ask of its guardian.
fn signals() -> io::Result<impl Stream<Item = Asked>> {
    let listening = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::user_defined2())?,
    );
    let next = async |(mut terminate, mut interrupt, mut renew): (Heard, Heard, Heard)| {
        let asked = tokio::select! {
            biased;
            _ = terminate.recv() => Asked::Stop,
            _ = interrupt.recv() => Asked::Stop,
            _ = renew.recv() => Asked::Renew,
        };
        Some((asked, (terminate, interrupt, renew)))
    };
    Ok(stream::unfold(listening, next))
}

#[cfg(test)]
mod tests;
