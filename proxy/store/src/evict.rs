//! Which tasks go when there is no room: least recently used first. Pure.
//!
//! What must hold: a task with a live handle stays; nothing goes for a wish that cannot be met anyway.

use darter_types::TaskId;

use crate::account::Deficit;

/// What is known of a task when one must go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) task: TaskId,
    pub(crate) stored_bytes: u64,
    /// Position in the order of last uses; higher is later.
    pub(crate) last_used: u64,
    /// Whether it was proved: of two that were used equally long ago the unproved one goes.
    pub(crate) proved: bool,
    /// Whether somebody has it open.
    pub(crate) open: bool,
}

/// The tasks to drop, in order. The deficit as things are is met as far as possible; the wish on top of it
/// only if dropping can meet it.
pub(crate) fn choose(candidates: impl IntoIterator<Item = Candidate>, deficit: Deficit) -> Vec<TaskId> {
    let mut droppable: Vec<Candidate> = candidates
        .into_iter()
        .filter(|candidate| !candidate.open)
        .collect();
    droppable.sort_by_key(|candidate| (candidate.last_used, candidate.proved, candidate.task));
    let attainable = droppable
        .iter()
        .fold(0u64, |sum, candidate| sum.saturating_add(candidate.stored_bytes));
    let goal = match deficit.wanted_bytes <= attainable {
        true => deficit.wanted_bytes,
        false => deficit.now_bytes,
    };
    let mut freed = 0u64;
    droppable
        .into_iter()
        .take_while(|candidate| {
            let needed = freed < goal;
            freed = freed.saturating_add(candidate.stored_bytes);
            needed
        })
        .map(|candidate| candidate.task)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use darter_types::{Algorithm, Digest};
    use proptest::prelude::*;

    fn candidate(number: u8, stored_bytes: u64, last_used: u64, open: bool) -> Candidate {
        Candidate {
            task: Digest::of(Algorithm::Sha256, &[number]).into(),
            stored_bytes,
            last_used,
            proved: false,
            open,
        }
    }

    fn deficit(now_bytes: u64, wanted_bytes: u64) -> Deficit {
        Deficit {
            now_bytes,
            wanted_bytes,
        }
    }

    #[test]
    fn drops_the_least_recently_used_first_and_no_more_than_needed() {
        let all = [
            candidate(0, 10, 5, false),
            candidate(1, 10, 1, true),
            candidate(2, 10, 3, false),
            candidate(3, 10, 4, false),
        ];
        let names = |chosen: &[usize]| chosen.iter().map(|at| all[*at].task).collect::<Vec<_>>();
        assert_eq!(choose(all, deficit(0, 0)), []);
        assert_eq!(choose(all, deficit(0, 1)), names(&[2]));
        assert_eq!(choose(all, deficit(11, 15)), names(&[2, 3]));
    }

    #[test]
    fn keeps_the_cache_when_a_wish_cannot_be_met() {
        let all = [candidate(0, 10, 1, false), candidate(1, 10, 2, true)];
        assert_eq!(choose(all, deficit(0, 11)), []);
        assert_eq!(choose(all, deficit(15, 40)).len(), 1, "but the limits come first");
    }

    proptest! {
        #[test]
        fn never_drops_an_open_task_and_frees_enough(
            tasks in prop::collection::vec((0u64..100, 0u64..10, any::<bool>()), 0..40),
            now in 0u64..1000, more in 0u64..1000,
        ) {
            let all: Vec<Candidate> = tasks.iter().zip(0u8..)
                .map(|((bytes, used, open), number)| candidate(number, *bytes, *used, *open)).collect();
            let chosen = choose(all.iter().copied(), deficit(now, now + more));
            let of = |task: &TaskId| all.iter().find(|c| c.task == *task).copied().unwrap();
            let freed: u64 = chosen.iter().map(|task| of(task).stored_bytes).sum();
            let attainable: u64 = all.iter().filter(|c| !c.open).map(|c| c.stored_bytes).sum();
            prop_assert!(chosen.iter().all(|task| !of(task).open));
            let goal = if now + more <= attainable { now + more } else { now };
            prop_assert!(freed >= goal.min(attainable));
            if let Some(last) = chosen.last() {
                prop_assert!(freed - of(last).stored_bytes < goal, "one less would have done");
            }
        }
    }
}
