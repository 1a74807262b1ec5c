//! What happens by the clock. A timer says only when to look; what is due is read from the state, so a timer
//! that is out of date does no harm.

use darter_types::Moment;

use super::{Outbox, Scheduler};
use crate::resource::{HostKey, TaskKey};

/// When to look at what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The grace after the start is over.
    Grace,
    /// A lease may have stalled.
    Lease(TaskKey),
    /// An answer may be overdue.
    Asked(TaskKey),
    /// Nobody may have wanted a task for long.
    Idle(TaskKey),
    /// A host's exclusion may be over.
    Excluded(HostKey),
    /// A host may be gone for long.
    Gone(HostKey),
}

impl Scheduler {
    pub(super) fn set_timer(&mut self, at: Moment, timer: Timer) {
        self.timers.insert((at, timer));
    }

    pub(super) fn tick(&mut self, now: Moment, out: &mut Outbox) {
        while let Some((at, timer)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.pop_first();
            match timer {
                Timer::Grace => self.grace_over(now, out),
                Timer::Lease(task) => self.check_lease(now, task, out),
                Timer::Asked(task) => self.check_asked(now, task, out),
                Timer::Idle(task) => self.check_idle(now, task),
                Timer::Excluded(host) => self.check_excluded(now, host, out),
                Timer::Gone(host) => self.check_gone(now, host),
            }
        }
    }

    fn grace_over(&mut self, now: Moment, out: &mut Outbox) {
        for task in std::mem::take(&mut self.in_grace) {
            self.pump(now, task, out);
        }
    }

    /// Drops the chain of a task that nobody wanted for long.
    fn check_idle(&mut self, now: Moment, key: TaskKey) {
        let chain_idle = self.settings.chain_idle;
        if let Some(task) = self.tasks.get_mut(key)
            && task.wants == 0
            && task.lease.is_none()
            && now.since(task.last_wanted) >= chain_idle
        {
            task.forget_proofs();
            task.graph.forget_fed();
        }
    }
}
