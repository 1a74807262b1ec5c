//! Where nothing is given away before the whole is proved: readers who wait for that, and what is left to do when a chain of
//! others turns out to be wrong.
//!
//! A reader got no byte of what rested on that chain, so that its stream need not end: what this node read from the origin itself
//! stays, all else comes from there, and nothing that others say of the content counts until its end.

use darter_types::Moment;

use super::{Reader, Task};
use crate::{Action, Event, Failure, Release};

impl Event {
    /// Whether it tells what others say or have.
    pub(super) fn is_of_others(&self) -> bool {
        matches!(
            self,
            Self::SchedulerUp
                | Self::ParentsOffered(_)
                | Self::ParentAlive(_)
                | Self::ParentHas(..)
                | Self::LinksCame { .. }
                | Self::LinksForgotten
                | Self::LeaseGranted { .. }
                | Self::PiecesAsked { .. }
                | Self::AttestationsCame { .. }
                | Self::GoAlone
        )
    }
}

/// Gives a lease back that comes too late, so that another node gets it.
pub(super) fn refuse(event: &Event, actions: &mut Vec<Action>) {
    if let Event::LeaseGranted { epoch, .. } | Event::PiecesAsked { epoch, .. } = event {
        actions.push(Action::EndLease {
            epoch: *epoch,
            failure: Some(Failure::Unavailable),
        });
    }
}

impl Task {
    /// What others say of the content contradicts itself, the digest or the origin. Where readers wait for the proof of the whole,
    /// and were given nothing, the origin is asked instead; the second time it is the origin that is wrong.
    pub(super) fn contradicted(&mut self, now: Moment, actions: &mut Vec<Action>) {
        if self.origin_only || !self.has_waiting_reader() {
            return self.fail(Failure::WrongContent, actions);
        }
        self.end_lease(Some(Failure::WrongContent), actions);
        self.cancel(|_| true, actions);
        self.parents_offered(Vec::new(), actions);
        self.gate.scheduler_down();
        self.gate.go_alone(None);
        self.settings.whole = true;
        actions.push(Action::OriginOnly);
        self.links_forgotten(now, actions);
        self.origin_only = true;
    }

    /// Whether somebody reads what is given away when the whole is proved, and not before.
    pub(super) fn has_waiting_reader(&self) -> bool {
        let (rule, length) = (self.settings.release, self.layout().map(|layout| layout.length()));
        let waits = |reader: &Reader| {
            let part = length.is_some_and(|length| reader.is_of_range(length, rule));
            !part && !reader.range.is_empty()
        };
        rule == Release::Proved && self.readers.values().any(waits)
    }

    /// Brings readers who wait for the proof up to what is here. What they wait for and since when is told by that, for they take
    /// nothing until the end.
    pub(super) fn move_readers(&mut self, now: Moment) {
        self.place_readers(now, |reader| reader.offset);
    }

    /// What was here is gone: those who were behind it wait for it again.
    pub(super) fn move_readers_back(&mut self, now: Moment) {
        self.place_readers(now, |reader| reader.range.start);
    }

    /// Places readers who wait for the proof before the first byte that is not here, looked for from `start` on.
    fn place_readers(&mut self, now: Moment, start: impl Fn(&Reader) -> u64) {
        let rule = self.settings.release;
        let Some(content) = self.content.as_ref().filter(|_| rule == Release::Proved) else {
            return;
        };
        let length = content.layout().length();
        let waiting = self.readers.values_mut();
        for reader in waiting.filter(|reader| !reader.is_of_range(length, rule)) {
            let place = content.here_until(start(reader), reader.range.end);
            if place != reader.offset {
                reader.offset = place;
                reader.since = now;
            }
        }
    }

    /// Whether readers who wait for the proof stand where they belong.
    pub(crate) fn readers_are_placed(&self) -> bool {
        let rule = self.settings.release;
        let Some(content) = self.content.as_ref().filter(|_| rule == Release::Proved) else {
            return true;
        };
        let length = content.layout().length();
        let mut waiting = self
            .readers
            .values()
            .filter(|reader| !reader.is_of_range(length, rule));
        waiting.all(|reader| reader.offset == content.here_until(reader.range.start, reader.range.end))
    }
}
