//! What strangers make a role log stays small and harmless: lines beyond a rate are left out and counted, and a line holds no
//! control byte, so that nobody can forge another line or speak to the terminal.
//!
//! The formatter hands over one event at a time, whole.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::time::Instant;
use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

const MINUTE: Duration = Duration::from_secs(60);

/// A writer of lines, bounded.
#[derive(Debug)]
pub(super) struct Bounded<W> {
    pub(super) inner: W,
    pub(super) flow: Arc<Flow>,
    /// Lines are coloured, by escape sequences that change nothing else.
    pub(super) colours: bool,
}

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for Bounded<W> {
    type Writer = Lines<'a, W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        self.lines(self.inner.make_writer())
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Self::Writer {
        self.lines(self.inner.make_writer_for(metadata))
    }
}

impl<W> Bounded<W> {
    fn lines<'a, I>(&'a self, inner: I) -> Lines<'a, I> {
        Lines {
            inner,
            flow: &self.flow,
            colours: self.colours,
        }
    }
}

/// Writes one event.
#[derive(Debug)]
pub(super) struct Lines<'a, I> {
    inner: I,
    flow: &'a Flow,
    colours: bool,
}

impl<I: io::Write> io::Write for Lines<'_, I> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let Some(left_out) = self.flow.admit(event.len(), Instant::now()) else {
            return Ok(event.len());
        };
        if left_out > 0 {
            let told = format!(
                "{{\"level\":\"WARN\",\"target\":\"darter_service::log\",\"message\":\"lines were left out: \
                 log.bytesPerMinuteMax\",\"lines\":{left_out}}}\n"
            );
            self.inner.write_all(told.as_bytes())?;
        }
        self.inner.write_all(&harmless(event, self.colours))?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// How much is written, over all writers.
#[derive(Debug)]
pub(super) struct Flow {
    /// What may come at once, in bytes: a tenth of a minute's share, so that no minute has more than that.
    burst_bytes: f64,
    bytes_per_second: f64,
    state: Mutex<State>,
    left_out_total: Counter,
}

#[derive(Debug)]
struct State {
    room_bytes: f64,
    at: Option<Instant>,
    left_out: u64,
}

impl Flow {
    pub(super) fn new(bytes_per_minute: u64) -> Self {
        #[expect(
            clippy::cast_precision_loss,
            reason = "more than 2^53 bytes a minute is no limit"
        )]
        let share = bytes_per_minute as f64;
        Self {
            burst_bytes: share / 10.0,
            bytes_per_second: share * 0.9 / MINUTE.as_secs_f64(),
            state: Mutex::new(State {
                room_bytes: share / 10.0,
                at: None,
                left_out: 0,
            }),
            left_out_total: Counter::default(),
        }
    }

    /// Lines that were left out since the start.
    pub(super) fn left_out_total(&self) -> &Counter {
        &self.left_out_total
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an event may be written; then how many were left out since the last one.
    fn admit(&self, bytes: usize, now: Instant) -> Option<u64> {
        #[expect(
            clippy::cast_precision_loss,
            reason = "an event has far fewer than 2^53 bytes"
        )]
        let cost = bytes as f64;
        let mut state = self.state();
        let passed = state
            .at
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        state.at = Some(now);
        state.room_bytes =
            (state.room_bytes + passed.as_secs_f64() * self.bytes_per_second).min(self.burst_bytes);
        // A line that is longer than all the room is one of those that nobody wants either.
        if cost > state.room_bytes {
            state.left_out += 1;
            self.left_out_total.inc();
            return None;
        }
        state.room_bytes -= cost;
        Some(std::mem::take(&mut state.left_out))
    }
}

/// The event with every control character but the last line break written out, as JSON writes them.
fn harmless(event: &[u8], colours: bool) -> Vec<u8> {
    let (body, end) = match event.strip_suffix(b"\n") {
        Some(body) => (body, &b"\n"[..]),
        None => (event, &b""[..]),
    };
    let mut out = Vec::with_capacity(event.len());
    let text = String::from_utf8_lossy(body);
    let mut rest = &*text;
    while let Some(c) = rest.chars().next() {
        let colour = if colours { colour(rest) } else { 0 };
        let length = colour.max(c.len_utf8());
        let (part, behind) = rest.split_at_checked(length).unwrap_or((rest, ""));
        rest = behind;
        if c.is_control() && colour == 0 {
            out.extend(format!("\\u{:04x}", u32::from(c)).bytes());
        } else {
            out.extend(part.bytes());
        }
    }
    out.extend(end);
    out
}

/// Bytes of the sequence at the start of a text that sets a colour; 0 if there is none.
fn colour(text: &str) -> usize {
    let Some(numbers) = text.strip_prefix("\u{1b}[") else {
        return 0;
    };
    match numbers.find(|c: char| !c.is_ascii_digit() && c != ';') {
        Some(end) if numbers.as_bytes().get(end) == Some(&b'm') => end + 3,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_minute_has_more_than_its_share() {
        let flow = Flow::new(60_000);
        let start = Instant::now();
        let (mut written, mut times) = (0, Vec::new());
        for millis in 0..180_000u64 {
            let now = start + Duration::from_millis(millis);
            for _ in 0..3 {
                if flow.admit(100, now).is_some() {
                    written += 100;
                    times.push(millis);
                }
            }
        }
        for first in (0..120_000).step_by(1000) {
            let minute = first..first + 60_000;
            let lines = times.iter().filter(|at| minute.contains(*at)).count();
            assert!(lines * 100 <= 60_000, "{lines} lines from {first} ms on");
        }
        assert!(written > 3 * 50_000, "{written} bytes in three minutes");
        assert_eq!(flow.left_out_total().get(), 540_000 - times.len() as u64);
    }

    #[test]
    fn what_was_left_out_is_told_once() {
        let flow = Flow::new(1000);
        let now = Instant::now();
        assert_eq!(flow.admit(100, now), Some(0));
        assert_eq!((flow.admit(1, now), flow.admit(1, now)), (None, None));
        let later = now + MINUTE;
        assert_eq!((flow.admit(1, later), flow.admit(1, later)), (Some(2), Some(0)));
    }

    #[test]
    fn a_line_stays_one_line_and_speaks_to_no_terminal() {
        let evil = "a\nb\r\u{1b}]0;title\u{7}\u{1b}[31mred\u{1b}[2J\u{9b}1m\u{7f}\t\u{e4}\n".as_bytes();
        let plain = String::from_utf8(harmless(evil, false)).unwrap();
        let expected =
            "a\\u000ab\\u000d\\u001b]0;title\\u0007\\u001b[31mred\\u001b[2J\\u009b1m\\u007f\\u0009\u{e4}\n";
        assert_eq!(plain, expected);
        let coloured = String::from_utf8(harmless(evil, true)).unwrap();
        assert_eq!(coloured, expected.replace("\\u001b[31m", "\u{1b}[31m"));
        assert_eq!(harmless(b"\xff\n", false), "\u{fffd}\n".as_bytes());
    }
}
