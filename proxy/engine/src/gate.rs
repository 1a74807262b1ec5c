//! When the origin may be asked.
//!
//! By right: with a lease, the node fetches for the whole cluster. Out of need: the scheduler is gone or silent,
//! says that it cannot help, or readers have waited too long. A need is per content and never undone: what began
//! alone ends alone, so that a lost scheduler costs one decision, not one per piece.

use darter_types::{Moment, PieceRun};

use crate::Limits;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Lease {
    pub(crate) epoch: u64,
    /// Empty = all that is missing.
    pub(crate) runs: Vec<PieceRun>,
}

#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) lease: Option<Lease>,
    pub(crate) alone: bool,
    scheduler_up: bool,
    /// When the scheduler was asked and has not answered yet.
    asked_at: Option<Moment>,
    pub(crate) failures: u32,
    pub(crate) paused_until: Moment,
    /// Spreads the patience of many nodes: 0.75 to 1.25.
    jitter: f64,
}

impl Gate {
    pub(crate) fn new(jitter: f64) -> Self {
        Self {
            lease: None,
            alone: false,
            scheduler_up: false,
            asked_at: None,
            failures: 0,
            paused_until: Moment::START,
            jitter,
        }
    }

    pub(crate) fn scheduler_up(&mut self, now: Moment) {
        self.scheduler_up = true;
        self.asked_at = Some(now);
    }

    pub(crate) fn scheduler_down(&mut self) {
        self.scheduler_up = false;
        self.asked_at = None;
    }

    pub(crate) fn scheduler_answered(&mut self) {
        self.asked_at = None;
    }

    /// Decides whether need has come. `waiting_since` is when a reader last got a byte, if one waits.
    pub(crate) fn consider(
        &mut self,
        now: Moment,
        waiting_since: Option<Moment>,
        parent_alive: bool,
        limits: &Limits,
    ) {
        let Some(since) = waiting_since else { return };
        if self.alone || self.lease.is_some() {
            return;
        }
        let patience = if parent_alive {
            limits.patience_alive
        } else {
            limits.patience_alone
        };
        let unanswered = self
            .asked_at
            .is_some_and(|at| now.since(at) >= limits.scheduler_answer);
        let nobody_helps = !parent_alive && (!self.scheduler_up || unanswered);
        self.alone = nobody_helps || now.since(since) >= patience.mul_f64(self.jitter);
    }

    /// Whether a request to the origin may start now.
    pub(crate) fn is_open(&self, now: Moment) -> bool {
        (self.alone || self.lease.is_some()) && now >= self.paused_until
    }

    /// Notes a failure that may pass; true if it was one too many.
    pub(crate) fn failed(&mut self, now: Moment, limits: &Limits) -> bool {
        self.failures += 1;
        self.paused_until = now + limits.origin_pause * 2u32.saturating_pow(self.failures.min(6) - 1);
        self.failures > limits.origin_failures_max
    }

    pub(crate) fn progressed(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(ms: u64) -> Moment {
        Moment::after_start(Duration::from_millis(ms))
    }

    fn gate() -> (Gate, Limits) {
        (Gate::new(1.0), Limits::default())
    }

    #[test]
    fn without_a_scheduler_and_parents_it_opens_at_once() {
        let (mut gate, limits) = gate();
        gate.consider(at(0), Some(at(0)), false, &limits);
        assert!(gate.is_open(at(0)));
    }

    #[test]
    fn nobody_waiting_is_no_need() {
        let (mut gate, limits) = gate();
        gate.consider(at(99_000), None, false, &limits);
        assert!(!gate.is_open(at(99_000)));
    }

    #[test]
    fn a_silent_scheduler_is_not_waited_for() {
        let (mut gate, limits) = gate();
        gate.scheduler_up(at(0));
        gate.consider(at(299), Some(at(0)), false, &limits);
        assert!(!gate.is_open(at(299)));
        gate.consider(at(300), Some(at(0)), false, &limits);
        assert!(gate.is_open(at(300)));
    }

    #[test]
    fn live_parents_get_more_patience_than_dead_ones() {
        for (alive, patience) in [(false, 700), (true, 5000)] {
            let (mut gate, limits) = gate();
            gate.scheduler_up(at(0));
            gate.scheduler_answered();
            gate.consider(at(patience - 1), Some(at(0)), alive, &limits);
            assert!(!gate.is_open(at(patience - 1)));
            gate.consider(at(patience), Some(at(0)), alive, &limits);
            assert!(gate.is_open(at(patience)));
        }
    }

    #[test]
    fn failures_pause_ever_longer_and_end() {
        let (mut gate, limits) = gate();
        gate.alone = true;
        assert!(!gate.failed(at(0), &limits));
        assert!(!gate.is_open(at(199)) && gate.is_open(at(200)));
        assert!(!gate.failed(at(200), &limits));
        assert!(!gate.is_open(at(599)) && gate.is_open(at(600)));
        assert!(!gate.failed(at(600), &limits));
        assert!(gate.failed(at(1400), &limits));
        gate.progressed();
        assert!(!gate.failed(at(9000), &limits));
    }
}
