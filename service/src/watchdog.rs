//! A role that does not answer on its own port any more is ended, so that its clients go on without it.
//!
//! A thread of its own asks the role as a client would, over loopback. It shares nothing with the role's runtime: not its
//! threads, not its log, no lock. While answers come it tells the supervisor that the role is alive ([`State::Alive`]);
//! when none came for the patience, it ends the process. A process that is stopped as a whole cannot run this thread
//! either: for that the supervisor must listen, systemd (`WatchdogSec=`) or [`crate::guardian`].
//!
//! What must hold: a pause of the whole process or machine is no missed answer.

mod probe;

use std::io::Write as _;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::config::{Period, Problems, Validate};
use crate::notify::{Notifier, State};

pub use probe::{Answer, Probe};

/// Between two questions.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long one question may take; a busy role answers the next one.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);
/// How long the last words may take: what hangs may be the very pipe that they go to.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// With less, one slow moment would end the role.
const PATIENCE_MIN: Duration = Duration::from_secs(3);

/// Section `watchdog`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct WatchdogConfig {
    /// How long the role may leave its own questions unanswered before it ends itself. Default 10s; at least 3s;
    /// `null` never.
    pub patience: Option<Period>,
}

impl Default for WatchdogConfig {
    fn default() -> Self {
        Self {
            patience: Some(Period::secs(10)),
        }
    }
}

impl Validate for WatchdogConfig {
    fn validate(&self, problems: &mut Problems) {
        if self
            .patience
            .is_some_and(|patience| patience.as_duration() < PATIENCE_MIN)
        {
            problems.add("patience", "must be at least 3s, or null for no watchdog");
        }
    }
}

/// When a role counts as gone. Pure.
#[derive(Debug)]
struct Health {
    patience: Duration,
    /// Since when no answer came: the last good one, or the last moment at which this thread ran for sure.
    silent_since: Instant,
}

impl Health {
    fn new(now: Instant, patience: Duration) -> Self {
        Self {
            patience,
            silent_since: now,
        }
    }

    /// Takes the outcome of a question asked at `asked`; `previous` is when the one before it ended. Whether the role is
    /// gone.
    fn take(&mut self, previous: Instant, asked: Instant, now: Instant, answered: bool) -> bool {
        if answered {
            self.silent_since = now;
            return false;
        }
        // Between two questions lies the interval. Where it was much more, nothing ran here, so nothing was missed.
        let paused = asked.saturating_duration_since(previous) > 3 * INTERVAL;
        // Likewise when a question took far longer than it may.
        let held = now.saturating_duration_since(asked) > ANSWER_PATIENCE + 3 * INTERVAL;
        if paused || held {
            self.silent_since = if held { now } else { asked };
        }
        now.saturating_duration_since(self.silent_since) >= self.patience
    }
}

/// A watchdog at work; dropping it ends it.
#[derive(Debug)]
pub struct Watchdog {
    /// Never sent on: its end is the signal.
    _stop: mpsc::Sender<()>,
}

impl Watchdog {
    /// Watches a role as its configuration says: not at all without a patience, or at an address that cannot be asked.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn of_role(
        config: &WatchdogConfig,
        listen: &str,
        path: &'static str,
        notifier: &Notifier,
    ) -> std::io::Result<Option<Self>> {
        let probe = listen.parse().ok().and_then(|listen| Probe::new(&listen, path));
        match (config.patience, probe) {
            (Some(patience), Some(probe)) => {
                Self::start(probe, patience.as_duration(), notifier.clone()).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Asks `probe` every second, and ends the process when no answer came for the patience.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(probe: Probe, patience: Duration, notifier: Notifier) -> std::io::Result<Self> {
        Self::watch(probe, patience, notifier, move || end_process(patience))
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a thread beside all runtimes has the system's clock"
    )]
    fn watch(
        probe: Probe,
        patience: Duration,
        notifier: Notifier,
        gone: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<Self> {
        let (sender, stop) = mpsc::channel::<()>();
        let work = move || {
            let mut previous = Instant::now();
            let mut health = Health::new(previous, patience);
            while stop.recv_timeout(INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
                let asked = Instant::now();
                let answered = probe.ask(ANSWER_PATIENCE).is_ok();
                let now = Instant::now();
                if answered {
                    notifier.tell(State::Alive);
                }
                if health.take(previous, asked, now, answered) {
                    // Asked to stop meanwhile: what does not answer then has closed its port.
                    if stop.try_recv() == Err(mpsc::TryRecvError::Empty) {
                        gone();
                    }
                    return;
                }
                previous = now;
            }
        };
        std::thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(work)?;
        Ok(Self { _stop: sender })
    }
}

/// By SIGABRT, which asks nothing of the process any more. The last words get a thread and a moment.
fn end_process(patience: Duration) {
    let (done, said) = mpsc::channel();
    let words = move || {
        let text = format!(
            "darter: no answer on the own port for {} s: ended by the watchdog\n",
            patience.as_secs()
        );
        // Whoever reads it is the only one to tell.
        let _ = std::io::stderr().write_all(text.as_bytes());
        let _ = done.send(());
    };
    if std::thread::Builder::new().spawn(words).is_ok() {
        let _ = said.recv_timeout(LAST_WORDS);
    }
    std::process::abort();
}

#[cfg(test)]
mod tests;
