//! The table: one row a fault, as text or as one JSON object a line.

#![expect(clippy::print_stdout, reason = "the table is what the program is for")]

use std::collections::BTreeMap;
use std::time::Duration;

use darter_testkit::puller::{Outcome, Progress};
use serde::Serialize;

use crate::bench::median;

/// Failures of one fault that are told in words.
const TOLD_MAX: usize = 5;
/// No fault may cost a pull more, but for those that say why in their row.
pub(super) const ADDED_MAX: Duration = Duration::from_secs(1);
/// Times are taken on machines that do other things as well: a row is broken only beyond so many times its bound. What is
/// printed is the time that it was, and a row between the two is marked.
const SLACK: f64 = 2.0;

/// What one fault did to pulls.
#[derive(Debug)]
pub(super) struct Tally {
    fault: String,
    pulls: u64,
    ok: u64,
    wrong_bytes: u64,
    /// Pulls of which the registry itself gave a part, and what the mirror had said to them.
    handed_over: u64,
    refusals: BTreeMap<u16, u64>,
    added: Vec<f64>,
    /// What a reader of the row must know.
    notes: Vec<String>,
    slow: bool,
    broken: Vec<String>,
}

/// One row, its fields in the order in which they are printed.
#[derive(Debug, Serialize)]
struct Row {
    fault: String,
    pulls: u64,
    ok: u64,
    wrong_bytes: u64,
    added_s_median: f64,
    added_s_max: f64,
}

impl Tally {
    pub(super) fn new(fault: &str) -> Self {
        eprintln!("faults: {fault}");
        Self {
            fault: fault.to_owned(),
            pulls: 0,
            ok: 0,
            wrong_bytes: 0,
            handed_over: 0,
            refusals: BTreeMap::new(),
            added: Vec::new(),
            notes: Vec::new(),
            slow: false,
            broken: Vec::new(),
        }
    }

    /// A pull by the client that compares every byte; `plain` is what the same takes without Darter.
    pub(super) fn pull(&mut self, progress: &Progress, plain: Duration) {
        let done = progress.outcome == Some(Outcome::Done) && progress.wrong_bytes == 0;
        self.wrong_bytes += progress.wrong_bytes;
        self.handed_over += u64::from(progress.hand_overs > 0);
        for status in &progress.refusals {
            *self.refusals.entry(*status).or_default() += 1;
        }
        let took = progress.took.unwrap_or_default();
        self.took(took, plain);
        if !self.counted(done) {
            self.breaks(format!("a pull ended with {progress:?}"));
        }
    }

    /// A pull by `ctr` that was verified.
    pub(super) fn real_pull(&mut self, result: &anyhow::Result<Duration>, plain: Duration) {
        match result {
            Ok(took) => {
                self.took(*took, plain);
                self.counted(true);
            }
            Err(error) => {
                self.counted(false);
                self.breaks(format!("a pull of containerd failed: {error:#}"));
            }
        }
    }

    /// Bytes that a client was given and that are not the content's.
    pub(super) fn wrong(&mut self, bytes: u64) {
        self.wrong_bytes += bytes;
    }

    /// The bar's own condition.
    pub(super) fn must(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.breaks(otherwise());
        }
    }

    /// No pull took longer than without Darter by more than [`ADDED_MAX`].
    pub(super) fn added_in_bounds(&mut self) {
        self.within(ADDED_MAX);
    }

    /// The bound of a fault that may cost more, and why: the row tells it.
    pub(super) fn added_at_most(&mut self, limit: Duration, why: &str) {
        self.notes
            .push(format!("{:.1} s allowed: {why}", limit.as_secs_f64()));
        self.within(limit);
    }

    /// What a reader of the row must know.
    pub(super) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    fn within(&mut self, limit: Duration) {
        let (max, limit) = (self.added_max(), limit.as_secs_f64());
        self.slow = max > limit;
        self.must(max <= limit * SLACK, || {
            format!("a pull took {max:.2} s longer than without Darter; allowed are {limit:.2} s")
        });
    }

    /// The fault with all that is to be known.
    fn told(&self) -> String {
        let mut notes = self.notes.clone();
        if self.handed_over > 0 {
            let statuses: Vec<String> = self
                .refusals
                .iter()
                .map(|(status, times)| format!("{times} x {status}"))
                .collect();
            let by = if statuses.is_empty() {
                "without an answer".to_owned()
            } else {
                statuses.join(", ")
            };
            notes.push(format!("{} handed over, {by}", self.handed_over));
        }
        if notes.is_empty() {
            self.fault.clone()
        } else {
            format!("{} ({})", self.fault, notes.join("; "))
        }
    }

    fn took(&mut self, took: Duration, plain: Duration) {
        self.added.push(took.as_secs_f64() - plain.as_secs_f64());
    }

    fn counted(&mut self, ok: bool) -> bool {
        self.pulls += 1;
        self.ok += u64::from(ok);
        ok
    }

    fn breaks(&mut self, why: String) {
        if self.broken.len() < TOLD_MAX {
            eprintln!("faults: {}: {why}", self.fault);
        }
        self.broken.push(why);
    }

    fn added_max(&self) -> f64 {
        self.added.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    fn row(&self) -> Row {
        let known = !self.added.is_empty();
        Row {
            fault: self.told(),
            pulls: self.pulls,
            ok: self.ok,
            wrong_bytes: self.wrong_bytes,
            added_s_median: if known { rounded(median(&self.added)) } else { 0.0 },
            added_s_max: if known { rounded(self.added_max()) } else { 0.0 },
        }
    }

    pub(super) fn is_good(&self) -> bool {
        self.broken.is_empty() && self.ok == self.pulls && self.wrong_bytes == 0
    }
}

/// All rows, printed as they come.
#[derive(Debug)]
pub(super) struct Report {
    json: bool,
    good: bool,
    broken: Vec<String>,
}

impl Report {
    pub(super) fn new(json: bool) -> Self {
        if !json {
            println!(
                "{:<52} {:>6} {:>6} {:>11} {:>12} {:>9}",
                "fault", "pulls", "ok", "wrong bytes", "added median", "added max"
            );
        }
        Self {
            json,
            good: true,
            broken: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, tally: &Tally) {
        let row = tally.row();
        if self.json {
            // It is made of texts and finite numbers.
            println!("{}", serde_json::to_string(&row).unwrap_or_default());
        } else {
            let mark = match (tally.is_good(), tally.slow) {
                (false, _) => "  BROKEN",
                (true, true) => "  SLOW",
                (true, false) => "",
            };
            println!(
                "{:<52} {:>6} {:>6} {:>11} {:>10.3} s {:>7.3} s{mark}",
                row.fault, row.pulls, row.ok, row.wrong_bytes, row.added_s_median, row.added_s_max
            );
        }
        if !tally.is_good() {
            self.good = false;
            let first = tally.broken.first().cloned().unwrap_or_default();
            self.broken.push(format!("{}: {first}", tally.fault));
        }
    }

    /// A fault that could not be tried at all.
    pub(super) fn not_run(&mut self, bar: &str, error: &anyhow::Error) {
        self.good = false;
        let why = format!("{bar}: could not be run: {error:#}");
        eprintln!("faults: {why}");
        self.broken.push(why);
    }

    /// Whether everything held.
    pub(super) fn finish(self) -> bool {
        for broken in &self.broken {
            eprintln!("faults: BROKEN: {broken}");
        }
        self.good
    }
}

/// To milliseconds.
fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_exactly_the_fields_that_are_promised() {
        let mut tally = Tally::new("48 kill -9 of the proxy");
        for added in [0, 0, 400] {
            let took = Ok(Duration::from_millis(1000 + added));
            tally.real_pull(&took, Duration::from_secs(1));
        }
        let wanted = concat!(
            r#"{"fault":"48 kill -9 of the proxy","pulls":3,"ok":3,"wrong_bytes":0,"#,
            r#""added_s_median":0.0,"added_s_max":0.4}"#
        );
        assert_eq!(serde_json::to_string(&tally.row()).unwrap(), wanted);
        assert!(tally.is_good());
    }

    #[test]
    fn a_failed_pull_wrong_bytes_and_a_broken_condition_are_told() {
        let mut failed = Tally::new("x");
        failed.real_pull(&Err(anyhow::anyhow!("no")), Duration::ZERO);
        let mut wrong = Tally::new("x");
        wrong.wrong(1);
        let mut slow = Tally::new("x");
        slow.real_pull(&Ok(Duration::from_millis(3100)), Duration::from_secs(1));
        slow.added_in_bounds();
        for tally in [failed, wrong, slow] {
            assert!(!tally.is_good());
            let mut report = Report::new(true);
            report.add(&tally);
            assert!(!report.finish());
        }
    }

    #[test]
    fn a_row_tells_of_its_exception_and_of_hand_overs() {
        let mut tally = Tally::new("49 frozen proxy");
        let handed = Progress {
            outcome: Some(Outcome::Done),
            hand_overs: 1,
            refusals: vec![503],
            ..Progress::default()
        };
        tally.pull(&handed, Duration::ZERO);
        tally.added_at_most(Duration::from_secs(12), "the watchdog's patience");
        let wanted = "49 frozen proxy (12.0 s allowed: the watchdog's patience; 1 handed over, 1 x 503)";
        assert_eq!(tally.row().fault, wanted);
        assert!(tally.is_good());
    }

    #[test]
    fn between_the_bound_and_its_slack_a_row_is_marked_and_not_broken() {
        let mut tally = Tally::new("x");
        tally.real_pull(&Ok(Duration::from_millis(2500)), Duration::from_secs(1));
        tally.added_in_bounds();
        assert!(tally.slow && tally.is_good());
    }
}
