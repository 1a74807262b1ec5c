//! A child process with a log file, which ends with its handle.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::clock::{now, pause, until};
use crate::command::{render, tail};

/// Time between the polite signal and the one that cannot be refused: a proxy lets its clients finish for 10 s.
const GRACE: Duration = Duration::from_secs(15);
/// Lines of the log that an error carries.
const LINES_SHOWN: usize = 20;

/// A running program. Dropping it stops the program.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `command` with both outputs appended to `log`.
    ///
    /// # Errors
    /// When the log cannot be opened or the program not started.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = open_log(log)?;
        command.stdout(file.try_clone()?).stderr(file);
        Self::spawn(name, command, log)
    }

    /// Starts `command` with its errors appended to `log`: its output is progress for a terminal.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_quietly(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        command.stdout(Stdio::null()).stderr(open_log(log)?);
        Self::spawn(name, command, log)
    }

    fn spawn(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let shown = render(command);
        let child = command.stdin(Stdio::null()).spawn();
        let child = child.with_context(|| format!("cannot start {name}: '{shown}'"))?;
        Ok(Self {
            name: name.to_owned(),
            log: log.to_owned(),
            child,
        })
    }

    /// Waits until `check` gives a value, and fails at once when the program ends before.
    ///
    /// # Errors
    /// With the end of the log, when the program ended or `limit` passed.
    pub fn ready<T>(&mut self, limit: Duration, mut check: impl FnMut() -> Option<T>) -> Result<T> {
        let what = format!("{} to be ready", self.name);
        let child = &mut self.child;
        let ready = until(&what, limit, || match (check(), child.try_wait()?) {
            (Some(value), _) => Ok(Some(value)),
            (None, None) => Ok(None),
            (None, Some(status)) => bail!("it ended with {status}"),
        });
        ready.with_context(|| self.last_words())
    }

    /// Waits for the program's own end.
    ///
    /// # Errors
    /// When it does not end within `limit`, or ends with anything but 0; with the end of its log.
    pub fn success(&mut self, limit: Duration) -> Result<()> {
        let status = until(&format!("{} to end", self.name), limit, || {
            Ok(self.child.try_wait()?)
        });
        match status.with_context(|| self.last_words())? {
            status if status.success() => Ok(()),
            status => bail!("{} ended with {status}\n{}", self.name, self.last_words()),
        }
    }

    /// Ends it as a power cut would.
    ///
    /// # Errors
    /// When it had ended by itself before, which a test must not take for its own doing.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!(
                "{} was to be killed, but had ended with {status}\n{}",
                self.name,
                self.last_words()
            );
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Freezes it: its sockets stay open and answer nothing.
    ///
    /// # Errors
    /// When it has ended.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a frozen program go on.
    ///
    /// # Errors
    /// When it has ended.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Asks it to end, and kills it when it does not within 15 s. How it ended.
    ///
    /// # Errors
    /// When the system refuses, which it does not.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        self.signal(Signal::TERM)?;
        let start = now();
        while start.elapsed() < GRACE {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            pause(Duration::from_millis(10));
        }
        self.child.kill()?;
        Ok(self.child.wait()?)
    }

    /// Is it still running?
    ///
    /// # Errors
    /// When the system refuses, which it does not.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it wrote so far.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn log(&self) -> Result<String> {
        let bytes =
            std::fs::read(&self.log).with_context(|| format!("cannot read {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.with_context(|| format!("{} has no process id", self.name))?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.name))
    }

    fn last_words(&self) -> String {
        let log = self.log().unwrap_or_else(|error| error.to_string());
        format!("the end of {}:\n{}", self.log.display(), tail(&log, LINES_SHOWN))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            eprintln!("e2e: cannot stop {}: {error:#}", self.name);
        }
    }
}

/// Appended, so that a second start keeps the first one's words.
fn open_log(path: &Path) -> Result<File> {
    let file = File::options().create(true).append(true).open(path);
    file.with_context(|| format!("cannot open the log {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn start(name: &str, script: &str) -> Process {
        let log = std::env::temp_dir().join(format!("darter-e2e-unit-{}-{name}.log", std::process::id()));
        let _ = std::fs::remove_file(&log);
        Process::start(name, Command::new("sh").args(["-c", script]), &log).unwrap()
    }

    fn forget(process: Process) {
        let log = process.log.clone();
        drop(process);
        std::fs::remove_file(log).unwrap();
    }

    #[test]
    fn ready_is_a_condition_on_the_world() {
        let mut process = start("ready", "echo listening; exec sleep 1000");
        let log = process.log.clone();
        let seen = process.ready(LIMIT, || {
            std::fs::read_to_string(&log).ok().filter(|text| !text.is_empty())
        });
        assert_eq!(seen.unwrap(), "listening\n");
        assert!(process.is_running().unwrap());
        process.kill().unwrap();
        assert!(!process.is_running().unwrap());
        assert!(process.kill().is_err(), "it is dead already");
        forget(process);
    }

    #[test]
    fn an_early_end_is_told_with_the_log() {
        let mut process = start("early", "echo broken config; exit 64");
        let error = format!("{:#}", process.ready::<()>(LIMIT, || None).unwrap_err());
        assert!(
            error.contains("exit status: 64") && error.contains("broken config"),
            "{error}"
        );
        assert!(process.success(LIMIT).is_err());
        forget(process);
    }

    #[test]
    fn dropping_ends_the_program() {
        let process = start("drop", "exec sleep 1000");
        let id = process.id();
        forget(process);
        assert!(!crate::netns::is_running(id));
    }
}
