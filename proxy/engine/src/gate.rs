//! When the origin may be asked.
//!
//! By right: with a lease, the node fetches for the whole cluster. Out of need: the scheduler is gone or silent,
//! says that it cannot help, or readers have waited too long. A need lasts until a parent delivers: nodes of a cluster
//! whose links or machines are overloaded would otherwise all end at the origin, one slow answer after the other, and
//! stay there, where everything is slower still. Only where the scheduler itself says that it cannot help, the
//! content is fetched alone to its end, or single pieces for a while.

use std::time::Duration;

use darter_types::{Moment, PieceNumber, PieceRun, PieceSet};

use crate::Limits;

/// How often at most the scheduler is asked whether it is still there.
const PROBE_PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Lease {
    pub(crate) epoch: u64,
    /// Empty = all that is missing.
    pub(crate) runs: Vec<PieceRun>,
    /// Not for what `runs` says, but only for what is asked for one by one.
    pub(crate) on_demand: bool,
}

impl Lease {
    /// Whether it is for the piece by what it says, or by what was `asked` under it.
    pub(crate) fn names(&self, asked: &PieceSet, piece: PieceNumber) -> bool {
        let of_runs = || self.runs.is_empty() || self.runs.iter().any(|run| run.contains(piece));
        asked.contains(piece) || (!self.on_demand && of_runs())
    }
}

/// How long somebody has waited, and for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    /// Since when no byte came.
    pub(crate) since: Moment,
    /// When a parent last told of a new piece: others are served, so this node's turn will come.
    pub(crate) news: Moment,
    pub(crate) parent_alive: bool,
    /// There were some, and all of them were given up.
    pub(crate) parents_lost: bool,
    /// Since when a reader waits for a piece that nobody brings in time, whatever else comes.
    pub(crate) stuck: Option<Moment>,
    /// A request to the origin runs: to be allowed another one would bring nothing sooner.
    pub(crate) origin_asked: bool,
    pub(crate) links: Links,
    /// Since when it is so with links.
    pub(crate) links_since: Moment,
}

/// Whether what parents have could be linked: links come by way of the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Links {
    /// Something can, or is on its way.
    Known,
    /// Nothing that is missing; no parent has the next piece either.
    Awaited,
    /// Nothing that is missing, though a parent has the next piece: whoever linked it told the scheduler.
    Late,
}

/// Whether need has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    None,
    /// Nobody answers or delivers in time.
    Hurried {
        /// A parent has brought a piece since.
        relieved: bool,
    },
    /// The scheduler says that nobody helps; with single pieces, that counts for a while.
    Alone {
        until: Option<Moment>,
    },
}

#[derive(Debug)]
pub(crate) struct Gate {
    pub(crate) lease: Option<Lease>,
    need: Need,
    scheduler_up: bool,
    /// When the scheduler was asked and has not answered yet.
    asked_at: Option<Moment>,
    /// When it was last asked for links that are late.
    probed_at: Option<Moment>,
    failures: u32,
    /// When a failure was last counted.
    failed_at: Option<Moment>,
    /// The origin failed too often, and nothing came from anywhere since.
    gave_up: bool,
    paused_until: Moment,
    /// The farthest offset that the origin's bytes reached: coming that far again is no progress.
    reached: u64,
    /// Spreads the patience of many nodes around 1.
    jitter: f64,
}

impl Gate {
    pub(crate) fn new(jitter: f64) -> Self {
        Self {
            lease: None,
            need: Need::None,
            scheduler_up: false,
            asked_at: None,
            probed_at: None,
            failures: 0,
            failed_at: None,
            gave_up: false,
            paused_until: Moment::START,
            reached: 0,
            jitter,
        }
    }

    pub(crate) fn is_scheduler_up(&self) -> bool {
        self.scheduler_up
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

    /// Whether to ask the scheduler, whose links are late, if it is still there; its answer is awaited then.
    pub(crate) fn probe(&mut self, now: Moment) -> bool {
        let just_done = self.probed_at.is_some_and(|at| now.since(at) < PROBE_PAUSE);
        let may = self.scheduler_up && self.asked_at.is_none() && !just_done;
        if may {
            self.asked_at = Some(now);
            self.probed_at = Some(now);
        }
        may
    }

    pub(crate) fn granted(&mut self, lease: Lease) {
        self.lease = Some(lease);
        self.failures = 0;
    }

    /// Whether the origin may be asked out of need.
    pub(crate) fn in_need(&self) -> bool {
        self.need != Need::None
    }

    /// The scheduler cannot help: the node fetches for itself, to the end or `until` then.
    pub(crate) fn go_alone(&mut self, until: Option<Moment>) {
        self.need = Need::Alone { until };
    }

    /// Ends what counted for a while.
    pub(crate) fn expire(&mut self, now: Moment) {
        if matches!(self.need, Need::Alone { until: Some(until) } if until <= now) {
            self.need = Need::None;
        }
    }

    /// How long a reader waits beside parents that live, on this node.
    pub(crate) fn patience(&self, limits: &Limits) -> Duration {
        limits.patience_alive.mul_f64(self.jitter)
    }

    /// Whether parents live and have delivered since need came, also to a reader that is `stuck`; it is over then.
    pub(crate) fn is_over_it(&mut self, parent_alive: bool, stuck: bool) -> bool {
        let over = parent_alive && !stuck && self.need == (Need::Hurried { relieved: true });
        if over {
            self.need = Need::None;
        }
        over
    }

    /// Decides whether need has come.
    pub(crate) fn consider(&mut self, now: Moment, waiting: Option<Waiting>, limits: &Limits) {
        let Some(waiting) = waiting else { return };
        // A lease helps, but not against a parent that leaves lying what it was asked for.
        let helped = self.lease.is_some() && (waiting.origin_asked || !waiting.parent_alive);
        if self.in_need() || helped {
            return;
        }
        let unanswered = self
            .asked_at
            .is_some_and(|at| now.since(at) >= limits.scheduler_answer);
        let nobody_helps = !waiting.parent_alive && (!self.scheduler_up || unanswered);
        let waited = |since: Moment, patience: Duration| now.since(since) >= patience.mul_f64(self.jitter);
        // What a parent just told of is linked in a moment, however long this node waited for it to come.
        let unlinked = waiting.since.max(waiting.links_since);
        let for_links = match waiting.links {
            Links::Known => false,
            // They will not come any more.
            Links::Awaited | Links::Late if !self.scheduler_up || unanswered => {
                waited(unlinked, limits.scheduler_answer)
            }
            Links::Awaited => false,
            Links::Late => waited(unlinked, limits.patience_links),
        };
        let too_long = if waiting.parent_alive {
            for_links
                || waited(waiting.since.max(waiting.news), limits.patience_alive)
                || waited(waiting.since, limits.patience_news)
                || waiting
                    .stuck
                    .is_some_and(|since| waited(since, limits.patience_news))
        } else {
            let patience = match waiting.parents_lost {
                true => limits.patience_lost,
                false => limits.patience_alone,
            };
            waited(waiting.since, patience)
        };
        if nobody_helps || too_long {
            self.need = Need::Hurried { relieved: false };
        }
    }

    /// Whether a request to the origin may start now.
    pub(crate) fn is_open(&self, now: Moment) -> bool {
        (self.in_need() || self.lease.is_some()) && !self.is_paused(now)
    }

    /// Whether the origin failed a moment ago.
    pub(crate) fn is_paused(&self, now: Moment) -> bool {
        now < self.paused_until
    }

    /// Notes that a request that began at `started` failed, in a way that may pass; true if it was one too many. Requests that ran
    /// side by side fail by the same cause, so it counts once.
    pub(crate) fn failed(&mut self, now: Moment, started: Moment, limits: &Limits) -> bool {
        if self.failed_at.is_some_and(|at| started <= at) {
            return false;
        }
        self.failed_at = Some(now);
        self.failures += 1;
        self.paused_until = now + limits.origin_pause * 2u32.saturating_pow(self.failures.min(6) - 1);
        self.failures > limits.origin_failures_max
    }

    /// Leaves the origin to others; false if that was tried already and brought nothing.
    pub(crate) fn give_up(&mut self) -> bool {
        self.need = Need::None;
        self.failures = 0;
        !std::mem::replace(&mut self.gave_up, true)
    }

    /// Bytes came from the origin, up to `offset`.
    pub(crate) fn reached(&mut self, offset: u64) {
        if offset > self.reached {
            self.reached = offset;
            self.failures = 0;
        }
    }

    /// What came before counts no more, so it may come again.
    pub(crate) fn forget_reached(&mut self) {
        self.reached = 0;
    }

    /// A piece came whole, from anywhere.
    pub(crate) fn progressed(&mut self, from_origin: bool) {
        self.gave_up = false;
        if from_origin {
            self.failures = 0;
        }
    }

    /// A parent brought a piece.
    pub(crate) fn delivered(&mut self) {
        if let Need::Hurried { relieved } = &mut self.need {
            *relieved = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::after_start(Duration::from_millis(ms))
    }

    fn gate() -> (Gate, Limits) {
        (Gate::new(1.0), Limits::default())
    }

    /// Somebody waits since `since` ms, parents told news at `news` ms.
    fn waiting(since: u64, news: u64, parent_alive: bool) -> Option<Waiting> {
        Some(Waiting {
            since: at(since),
            news: at(news),
            parent_alive,
            parents_lost: false,
            stuck: None,
            origin_asked: false,
            links: Links::Known,
            links_since: at(since),
        })
    }

    #[test]
    fn links_that_will_not_come_are_not_waited_for() {
        let (without, with) = (
            Limits::default().scheduler_answer,
            Limits::default().patience_links,
        );
        for (links, up, patience) in [
            (Links::Awaited, false, Some(without)),
            (Links::Late, false, Some(without)),
            (Links::Late, true, Some(with)),
            (Links::Awaited, true, None),
            (Links::Known, false, None),
        ] {
            let (mut gate, limits) = gate();
            if up {
                gate.scheduler_up(at(0));
                gate.scheduler_answered();
            }
            let waits = |now: u64| waiting(0, now, true).map(|waiting| Waiting { links, ..waiting });
            let patience = patience.map(|patience| u64::try_from(patience.as_millis()).unwrap());
            let before = patience.map_or(4_999, |patience| patience - 1);
            gate.consider(at(before), waits(before), &limits);
            assert!(!gate.is_open(at(before)), "{links:?}, scheduler up: {up}");
            if let Some(patience) = patience {
                gate.consider(at(patience), waits(patience), &limits);
                assert!(gate.is_open(at(patience)), "{links:?}, scheduler up: {up}");
            }
        }
    }

    #[test]
    fn a_scheduler_that_does_not_answer_brings_no_links() {
        let late = |now| {
            waiting(0, now, true).map(|waiting| Waiting {
                links: Links::Late,
                ..waiting
            })
        };
        for answers in [true, false] {
            let (mut gate, limits) = gate();
            gate.scheduler_up(at(0));
            gate.scheduler_answered();
            assert!(gate.probe(at(100)) && !gate.probe(at(101)), "once");
            gate.consider(at(399), late(399), &limits);
            assert!(!gate.in_need());
            if answers {
                gate.scheduler_answered();
            }
            gate.consider(at(400), late(400), &limits);
            assert_eq!(gate.in_need(), !answers);
            assert!(!gate.probe(at(1_099)), "not so soon again");
            assert_eq!(gate.probe(at(1_100)), answers);
        }
        let (mut gate, _) = gate();
        assert!(!gate.probe(at(100)), "there is none");
    }

    #[test]
    fn a_link_is_late_from_when_its_piece_is_known() {
        let (mut gate, limits) = gate();
        gate.scheduler_up(at(0));
        gate.scheduler_answered();
        let late = |now| {
            waiting(0, now, true).map(|waiting| Waiting {
                links: Links::Late,
                links_since: at(3_000),
                ..waiting
            })
        };
        let patience = u64::try_from(limits.patience_links.as_millis()).unwrap();
        gate.consider(at(2_999 + patience), late(2_999 + patience), &limits);
        assert!(!gate.is_open(at(2_999 + patience)));
        gate.consider(at(3_000 + patience), late(3_000 + patience), &limits);
        assert!(gate.is_open(at(3_000 + patience)));
    }

    #[test]
    fn without_a_scheduler_and_parents_it_opens_at_once() {
        let (mut gate, limits) = gate();
        gate.consider(at(0), waiting(0, 0, false), &limits);
        assert!(gate.is_open(at(0)));
    }

    #[test]
    fn nobody_waiting_is_no_need() {
        let (mut gate, limits) = gate();
        gate.consider(at(99_000), None, &limits);
        assert!(!gate.is_open(at(99_000)));
    }

    #[test]
    fn a_silent_scheduler_is_not_waited_for() {
        let (mut gate, limits) = gate();
        gate.scheduler_up(at(0));
        gate.consider(at(299), waiting(0, 0, false), &limits);
        assert!(!gate.is_open(at(299)));
        gate.consider(at(300), waiting(0, 0, false), &limits);
        assert!(gate.is_open(at(300)));
    }

    #[test]
    fn live_parents_get_more_patience_than_dead_ones() {
        for (alive, lost, patience) in [
            (false, false, 700),
            (false, true, 400),
            (true, false, 4000),
            (true, true, 4000),
        ] {
            let (mut gate, limits) = gate();
            gate.scheduler_up(at(0));
            gate.scheduler_answered();
            let waits = || {
                waiting(0, 0, alive).map(|waiting| Waiting {
                    parents_lost: lost,
                    ..waiting
                })
            };
            gate.consider(at(patience - 1), waits(), &limits);
            assert!(!gate.is_open(at(patience - 1)));
            gate.consider(at(patience), waits(), &limits);
            assert!(gate.is_open(at(patience)));
        }
    }

    #[test]
    fn while_others_are_served_a_node_waits_for_its_turn_but_not_for_ever() {
        let (mut gate, limits) = gate();
        gate.scheduler_up(at(0));
        gate.scheduler_answered();
        gate.consider(at(7_999), waiting(0, 7_900, true), &limits);
        assert!(!gate.is_open(at(7_999)));
        gate.consider(at(8_000), waiting(0, 7_900, true), &limits);
        assert!(gate.is_open(at(8_000)));
    }

    #[test]
    fn with_a_lease_there_is_need_only_while_the_origin_is_not_asked() {
        for asked in [true, false] {
            let (mut gate, limits) = gate();
            gate.scheduler_up(at(0));
            gate.granted(Lease {
                epoch: 1,
                runs: Vec::new(),
                on_demand: false,
            });
            gate.scheduler_answered();
            let waits = waiting(0, 0, true).map(|waiting| Waiting {
                origin_asked: asked,
                ..waiting
            });
            gate.consider(at(5000), waits, &limits);
            assert_eq!(gate.in_need(), !asked);
        }
    }

    #[test]
    fn a_need_ends_when_parents_deliver() {
        let (mut gate, limits) = gate();
        gate.scheduler_up(at(0));
        gate.scheduler_answered();
        gate.consider(at(5000), waiting(0, 0, true), &limits);
        gate.progressed(true);
        assert!(!gate.is_over_it(true, false) && gate.in_need());
        gate.delivered();
        assert!(!gate.is_over_it(false, false) && gate.in_need());
        assert!(!gate.is_over_it(true, true) && gate.in_need());
        assert!(gate.is_over_it(true, false) && !gate.in_need());
    }

    #[test]
    fn what_the_scheduler_cannot_help_with_ends_alone() {
        let (mut gate, _) = gate();
        gate.go_alone(None);
        gate.delivered();
        assert!(!gate.is_over_it(true, false) && gate.in_need());
    }

    #[test]
    fn bytes_that_came_before_are_no_progress() {
        let (mut gate, limits) = gate();
        for round in 0..=limits.origin_failures_max {
            gate.reached(100);
            let now = at(u64::from(round) + 1);
            assert_eq!(
                gate.failed(now, now, &limits),
                round == limits.origin_failures_max
            );
        }
        gate.reached(101);
        assert!(!gate.failed(at(99), at(99), &limits));
    }

    #[test]
    fn the_origin_is_left_to_others_once() {
        let (mut gate, _) = gate();
        assert!(gate.give_up());
        assert!(!gate.give_up());
        gate.progressed(false);
        assert!(gate.give_up());
    }

    #[test]
    fn failures_pause_ever_longer_and_end() {
        let (mut gate, limits) = gate();
        gate.go_alone(None);
        let failed = |gate: &mut Gate, ms| gate.failed(at(ms), at(ms), &limits);
        assert!(!failed(&mut gate, 0));
        assert!(!gate.is_open(at(199)) && gate.is_open(at(200)));
        assert!(!failed(&mut gate, 200));
        assert!(!gate.is_open(at(599)) && gate.is_open(at(600)));
        assert!(!failed(&mut gate, 600));
        assert!(failed(&mut gate, 1400));
        gate.progressed(true);
        assert!(!failed(&mut gate, 9000));
    }

    #[test]
    fn requests_that_fail_together_count_once() {
        let (mut gate, limits) = gate();
        gate.go_alone(None);
        for late in 0..20 {
            assert!(!gate.failed(at(100 + late), at(late), &limits), "the {late}th");
        }
        assert!(!gate.is_open(at(299)) && gate.is_open(at(300)), "the first pause");
    }
}
