//! Scripts about whose word is enough, and what a restart leaves.

use super::*;

fn set(pieces: &[PieceNumber]) -> PieceSet {
    let mut set = PieceSet::new(PIECES);
    pieces.iter().for_each(|piece| assert!(set.insert(*piece)));
    set
}

/// A reader whose only parent has everything, by a chain of this trust.
fn with_chain(trusted: bool) -> Script {
    let mut script = Script::new();
    let links = script.links(1, 5, trusted);
    script.given([Event::SchedulerUp, read_all(), offer(&["a"]), links]);
    script.given([Event::ParentHas(host("a"), vec![run(0, 5)])]);
    script
}

fn released(actions: &[Action]) -> Vec<PieceRun> {
    let run = |action: &Action| {
        if let Action::Release(run) = action {
            Some(*run)
        } else {
            None
        }
    };
    actions.iter().filter_map(run).collect()
}

#[test]
fn a_piece_of_a_trusted_chain_is_released_at_once_but_the_last() {
    let mut script = with_chain(true);
    assert_eq!(released(&script.on(linked(0, 0))), [run(0, 1)]);
    assert_eq!(released(&script.on(linked(1, 4))), []);
    script.given([linked(0, 1), linked(0, 2)]);
    let end = script.on(linked(0, 3));
    assert_eq!(released(&end), [run(3, 2)]);
    assert_eq!(end.last(), Some(&Action::Proved));
}

#[test]
fn a_piece_of_a_doubtful_chain_waits_for_trust() {
    let mut script = with_chain(false);
    assert_eq!(released(&script.on(linked(0, 0))), []);
    assert_eq!(released(&script.on(linked(0, 2))), []);
    let trust = script.links(1, 3, true);
    let actions = script.on(trust);
    assert_eq!(released(&actions), [run(0, 1)]);
    // Only what may be trusted is kept for a later life.
    assert!(actions.contains(&Action::KeepStates {
        first: 1,
        states: script.blob.states[1..3].to_vec()
    }));
    let gap = script.links(4, 5, true);
    assert_eq!(
        released(&script.on(gap)),
        [],
        "trust in border 4 says nothing of border 3"
    );
}

#[test]
fn a_doubtful_chain_is_released_when_the_whole_is_proved() {
    let mut script = with_chain(false);
    script.given((0..4).map(|piece| linked(0, piece)));
    let end = script.on(linked(1, 4));
    assert_eq!(released(&end), [run(0, 5)]);
    assert!(end.contains(&Action::KeepStates {
        first: 1,
        states: script.blob.states[1..].to_vec()
    }));
}

#[test]
fn what_the_node_read_itself_needs_no_word_of_others() {
    let mut script = Script::new();
    let links = script.links(1, 3, false);
    script.given([read_all(), links]);
    script.given([Event::LeaseGranted {
        epoch: 1,
        runs: Vec::new(),
    }]);
    let event = script.border(0, 0);
    assert_eq!(released(&script.on(event)), [run(0, 1)]);
}

#[test]
fn chains_that_differ_end_the_task() {
    let mut script = with_chain(false);
    let mut states = script.state(1);
    states[0] = script.blob.states[2];
    let event = Event::LinksCame {
        length: LENGTH,
        first: 1,
        states,
        trusted: true,
    };
    assert_eq!(
        script.on(event).last(),
        Some(&Action::Fail(Failure::WrongContent))
    );
}

#[test]
fn an_origin_that_contradicts_the_chain_ends_the_task() {
    let mut script = Script::new();
    let lie = vec![script.blob.states[3]];
    script.given([
        read_all(),
        Event::LinksCame {
            length: LENGTH,
            first: 1,
            states: lie,
            trusted: false,
        },
    ]);
    let event = script.border(0, 0);
    assert_eq!(
        script.on(event),
        [Action::Cancel(FetchId(0)), Action::Fail(Failure::WrongContent)]
    );
}

#[test]
fn lengths_that_differ_end_the_task_only_on_the_word_of_trust() {
    for trusted in [false, true] {
        let mut script = with_chain(true);
        let states = script.state(1);
        let actions = script.on(Event::LinksCame {
            length: LENGTH + 1,
            first: 1,
            states,
            trusted,
        });
        assert_eq!(actions.contains(&Action::Fail(Failure::WrongContent)), trusted);
    }
}

#[test]
fn a_gap_in_the_chain_is_asked_for_once_a_second() {
    let mut script = with_chain(true);
    let mut other = Script::new();
    other.given([
        Event::SchedulerUp,
        read_all(),
        Event::LengthKnown(LENGTH),
        offer(&[]),
    ]);
    let gap = script.links(3, 5, true);
    assert_eq!(other.on(gap.clone()), []);
    other.given([offer(&["a"]), Event::ParentAlive(host("a"))]);
    assert_eq!(other.after(1000, gap.clone()), [Action::Want]);
    assert_eq!(other.after(10, gap), []);
    script.given([Event::Tick]);
}

#[test]
fn claims_of_an_earlier_life_are_linked_before_they_are_released() {
    let mut script = Script::new();
    script.task.restore(
        script.blob.layout,
        &script.blob.states[1..3],
        &set(&[0, 1, 3]),
        &set(&[]),
    );
    let actions = script.on(read_all());
    let check = |piece: PieceNumber| Action::Check {
        piece,
        proof: darter_types::PieceProof {
            before: script.blob.states[piece as usize],
            offset: u64::from(piece) * 256 * KIB,
            length: 256 * KIB,
            after: darter_types::Link::Border(script.blob.states[piece as usize + 1]),
        },
    };
    // Piece 3 cannot be checked without its states: the origin goes on as if it were not there.
    assert_eq!(actions, [check(0), check(1), script.origin_request(0, run(2, 3))]);
    assert_eq!(
        script.on(Event::ClaimChecked { piece: 0, good: true }),
        [
            Action::Have {
                piece: 0,
                from: None,
                was_apart: false
            },
            Action::Release(run(0, 1))
        ]
    );
    assert_eq!(
        script.on(Event::ClaimChecked {
            piece: 1,
            good: false
        }),
        []
    );
    script.given([ended(0)]);
    assert_eq!(
        script.after(300, Event::Tick),
        [script.origin_request(1, run(1, 4))]
    );
}

#[test]
fn no_more_claims_are_checked_at_once_than_the_limit() {
    let mut script = Script::with(LENGTH, |settings| settings.limits.checks_max = 2);
    script.task.restore(
        script.blob.layout,
        &script.blob.states[1..],
        &PieceSet::full(5),
        &set(&[]),
    );
    let checks = |actions: &[Action]| -> Vec<PieceNumber> {
        let piece = |action: &Action| {
            if let Action::Check { piece, .. } = action {
                Some(*piece)
            } else {
                None
            }
        };
        actions.iter().filter_map(piece).collect()
    };
    let range = ByteRange::new(600 * KIB, LENGTH);
    assert_eq!(
        checks(&script.on(Event::ReaderOpened {
            reader: READER,
            range,
            checks: false,
        })),
        [2, 3]
    );
    assert_eq!(
        checks(&script.on(Event::ClaimChecked { piece: 2, good: true })),
        [4]
    );
    assert_eq!(
        checks(&script.on(Event::ClaimChecked { piece: 4, good: true })),
        [0]
    );
}

#[test]
fn a_content_that_is_all_here_is_released_and_proved_by_the_first_event() {
    let mut script = Script::new();
    script.task.restore(
        script.blob.layout,
        &script.blob.states[1..],
        &set(&[]),
        &PieceSet::full(5),
    );
    assert_eq!(
        script.on(Event::Tick),
        [Action::Release(run(0, 5)), Action::Proved]
    );
}
