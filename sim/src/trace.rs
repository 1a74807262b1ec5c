//! The log of a simulated run: on demand for people, whole for the test that compares two runs.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::subscriber::{DefaultGuard, set_default};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// Simulated time in front of each line.
#[derive(Debug)]
struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        let now = turmoil::in_simulation().then(turmoil::sim_elapsed).flatten();
        match now {
            Some(now) => write!(writer, "{:>9.3}", now.as_secs_f64()),
            None => write!(writer, "{:>9}", "-"),
        }
    }
}

/// Logs this thread to stderr with the filter in `SIM_LOG`, if there is one, until the result is dropped.
pub(crate) fn to_stderr_if_asked() -> Option<DefaultGuard> {
    let filter = std::env::var("SIM_LOG").ok()?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_timer(Clock)
        .with_ansi(false)
        .with_writer(io::stderr)
        .finish();
    Some(set_default(subscriber))
}

/// Everything that `run` logs on this thread, at the levels of `filter`.
pub fn of(filter: &str, run: impl FnOnce()) -> String {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_timer(Clock)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, run);
    let bytes = std::mem::take(&mut *lines.0.lock().unwrap_or_else(PoisonError::into_inner));
    String::from_utf8_lossy(&bytes).into_owned()
}

#[derive(Clone, Debug, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The first lines of two logs that differ, with where they stand.
pub fn difference(one: &str, other: &str) -> Option<String> {
    if one == other {
        return None;
    }
    let (mut left, mut right) = (one.lines(), other.lines());
    for number in 1.. {
        match (left.next(), right.next()) {
            (None, None) => break,
            (a, b) if a != b => {
                return Some(format!(
                    "line {number}:\n  {}\n  {}",
                    a.unwrap_or("(end)"),
                    b.unwrap_or("(end)")
                ));
            }
            _ => {}
        }
    }
    Some("only in their line ends".to_owned())
}
