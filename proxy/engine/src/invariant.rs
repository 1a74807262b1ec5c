//! What must hold after every event: each invariant one predicate, used by `debug_assert!`, by the property tests and
//! by the simulation's oracle.

use crate::Release;
use crate::content::Content;
use crate::task::Task;

/// The invariant in words, and whether it holds.
type Check = (&'static str, fn(&Task) -> bool);

impl Task {
    /// The first invariant that does not hold, by name.
    pub fn broken_invariant(&self) -> Option<&'static str> {
        let checks: [Check; 10] = [
            ("released pieces are present", released_is_present),
            ("released pieces were vouched for", released_was_vouched_for),
            (
                "the last piece is released only when all is proved",
                last_piece_needs_proof,
            ),
            (
                "where the proof is waited for, nothing is released before it",
                proof_is_waited_for,
            ),
            (
                "who waits for the proof stands before the first byte that is not here",
                Task::readers_are_placed,
            ),
            ("no more requests than the limit", requests_are_bounded),
            (
                "a parent's request count is that of its requests",
                parent_counts_agree,
            ),
            ("pieces are counted as often as parents have them", |task| {
                task.parents.counts_agree()
            }),
            ("at most one request to the origin in order", one_origin_request),
            ("what is apart is attested and not present", apart_is_attested),
        ];
        checks
            .iter()
            .find(|(_, holds)| !holds(self))
            .map(|(name, _)| *name)
    }
}

fn released_is_present(task: &Task) -> bool {
    task.content.as_ref().is_none_or(|content| {
        content
            .released
            .iter()
            .all(|piece| content.present.contains(piece))
    })
}

fn released_was_vouched_for(task: &Task) -> bool {
    let holds = |content: &Content| content.released.iter().all(|piece| content.may_release(piece));
    task.content.as_ref().is_none_or(holds)
}

fn last_piece_needs_proof(task: &Task) -> bool {
    task.content.as_ref().is_none_or(|content| {
        content.is_proved() || !content.released.contains(content.layout().last_piece())
    })
}

fn proof_is_waited_for(task: &Task) -> bool {
    let waits = task.settings.release == Release::Proved;
    let holds = |content: &Content| !waits || content.is_proved() || content.released.is_empty();
    task.content.as_ref().is_none_or(holds)
}

fn requests_are_bounded(task: &Task) -> bool {
    task.peer_requests() <= task.settings.limits.requests_max
}

fn parent_counts_agree(task: &Task) -> bool {
    task.parents
        .by_host
        .iter()
        .all(|(host, parent)| parent.requests == task.requests_to(host))
}

fn one_origin_request(task: &Task) -> bool {
    task.chain_requests() <= 1 && task.apart_requests() <= task.settings.limits.apart_requests_max
}

fn apart_is_attested(task: &Task) -> bool {
    let holds = |content: &Content| {
        content.apart.iter().all(|piece| {
            content.attestation(piece).is_some()
                && !content.present.contains(piece)
                && !content.released.contains(piece)
        })
    };
    task.content.as_ref().is_none_or(holds)
}
