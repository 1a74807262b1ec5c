//! Readers who wait for the proof of the whole: no byte before it, and none of them pays for a forged chain.

use proptest::prelude::*;

use super::forget::{Shell, links_of, other_blob};
use super::*;

/// Who waits for the proof and reads from a parent that has all, by a chain that an author of trust published.
fn reading(blob: &Blob, seed: u64) -> Shell {
    let mut shell = Shell::with(seed, Release::Proved);
    shell.on(links_of(blob, PIECES, true));
    shell.on(offer(&["a"]));
    shell.on(Event::ParentHas(host("a"), vec![run(0, PIECES)]));
    shell
}

#[test]
fn no_byte_is_released_before_the_whole_is_proved() {
    for (release, early) in [(Release::Linked, PIECES - 1), (Release::Proved, 0)] {
        let mut shell = Shell::with(1, release);
        shell.on(links_of(&BLOB, PIECES, true));
        shell.on(offer(&["a"]));
        shell.on(Event::ParentHas(host("a"), vec![run(0, PIECES)]));
        (0..PIECES - 1).for_each(|piece| shell.send(&BLOB, piece));
        assert_eq!(
            shell.shown.len(),
            PIECES as usize - 1,
            "other nodes may have them"
        );
        assert_eq!(shell.released.len(), early as usize, "{release:?}");
        shell.send(&BLOB, PIECES - 1);
        assert_eq!(shell.outcome, Some(Ok(())));
        assert_eq!(shell.released.len(), PIECES as usize);
    }
}

#[test]
fn what_this_node_reads_itself_waits_as_well_and_is_seen_to_come() {
    let mut script = Script::with(LENGTH, |settings| settings.release = Release::Proved);
    script.given([Event::LengthKnown(LENGTH), Event::SchedulerDown, read_all()]);
    let (fetch, offset) = (FetchId(0), 100 * KIB);
    assert_eq!(
        script.on(Event::OriginBytes { fetch, offset }),
        [Action::BytesCame]
    );
    for piece in 0..PIECES - 1 {
        let border = script.border(0, piece);
        let actions = script.on(border);
        let released = actions
            .iter()
            .any(|action| matches!(action, Action::Release(_) | Action::ReleaseBytes { .. }));
        assert!(!released, "{actions:?}");
    }
    let last = script.last(0);
    let actions = script.on(last);
    assert!(actions.contains(&Action::Release(run(0, PIECES))), "{actions:?}");
}

#[test]
fn who_checks_what_it_reads_gets_parts_as_they_are_linked() {
    let part = |reader, checks| Event::ReaderOpened {
        reader: ReaderId(reader),
        range: ByteRange::new(0, 512 * KIB),
        checks,
    };
    let mut script = Script::with(LENGTH, |settings| settings.release = Release::Proved);
    let links = script.links(1, 5, true);
    script.given([Event::SchedulerUp, Event::LengthKnown(LENGTH), part(0, true)]);
    script.given([
        offer(&["a"]),
        links,
        Event::ParentHas(host("a"), vec![run(0, PIECES)]),
    ]);
    let actions = script.on(linked(0, 0));
    assert!(actions.contains(&Action::ReleaseToRanges(0)), "{actions:?}");
    assert!(
        !actions.iter().any(|action| matches!(action, Action::Release(_))),
        "{actions:?}"
    );
}

#[test]
fn who_waits_for_the_proof_waits_again_for_a_piece_that_is_dropped() {
    let mut script = Script::with(LENGTH, |settings| settings.release = Release::Proved);
    // By the word of nobody in particular.
    let links = script.links(1, 5, false);
    script.given([Event::SchedulerUp, Event::LengthKnown(LENGTH), read_all()]);
    script.given([
        offer(&["a"]),
        links,
        Event::ParentHas(host("a"), vec![run(0, PIECES)]),
    ]);
    script.given([linked(0, 0), linked(0, 1)]);
    let stands = |script: &Script| script.task.readers[&READER].offset;
    assert_eq!(stands(&script), script.blob.layout.piece_range(1).end);
    // Asked for piece 0 by name, this node drops it: it cannot answer for it.
    let asked = Event::PiecesAsked {
        epoch: 1,
        runs: vec![run(0, 1)],
    };
    let actions = script.on(asked);
    let dropped = |action: &Action| matches!(action, Action::Forget { runs, .. } if runs == &[run(0, 1)]);
    assert!(actions.iter().any(dropped), "{actions:?}");
    assert_eq!(stands(&script), 0);
}

#[test]
fn a_part_that_waits_for_the_proof_makes_the_whole_be_fetched() {
    for (checks, whole) in [(true, false), (false, true)] {
        let mut script = Script::with(LENGTH, |settings| {
            settings.release = Release::Proved;
            settings.whole = false;
        });
        let range = ByteRange::new(0, 100);
        let reader = READER;
        script.given([
            Event::LengthKnown(LENGTH),
            Event::SchedulerUp,
            Event::ReaderOpened {
                reader,
                range,
                checks,
            },
        ]);
        assert_eq!(script.task.wants_whole(), whole);
    }
}

#[test]
fn a_chain_whose_end_is_forged_costs_no_stream() {
    for at in 0..PIECES {
        let lie = other_blob(at);
        let mut shell = reading(&lie, u64::from(at));
        (0..PIECES - 1).for_each(|piece| shell.send(&lie, piece));
        assert_eq!(shell.shown.len(), PIECES as usize - 1, "all of it links");
        // No bytes end that chain in the digest, so that in the end the registry is asked, which knows nothing of it.
        shell.on(Event::ParentLost(host("a"), crate::ParentFailure::WrongBytes));
        shell.on(Event::GoAlone);
        shell.read_origin(PIECES);
        if at < PIECES - 1 {
            assert_eq!((shell.alone, &shell.outcome), (1, &None));
            assert!(shell.shown.is_empty() && shell.released.is_empty());
            shell.read_origin(PIECES);
        }
        assert_eq!(shell.outcome, Some(Ok(())), "piece {at}");
        assert_eq!(shell.store, BLOB.bytes);
        assert_eq!(shell.released.len(), PIECES as usize);
    }
}

#[test]
fn what_others_say_counts_no_more_after_a_forged_chain() {
    let lie = other_blob(1);
    let mut shell = reading(&lie, 3);
    (0..PIECES - 1).for_each(|piece| shell.send(&lie, piece));
    // Two chains: one of them is a lie, and nothing of either was given away.
    shell.on(links_of(&BLOB, PIECES, true));
    assert_eq!((shell.alone, &shell.outcome), (1, &None));
    let (fetch, whole, _) = shell.origin.expect("the registry is asked");
    assert_eq!((whole.first, whole.end() >= PIECES), (0, true));
    shell.on(Event::SchedulerUp);
    shell.on(links_of(&lie, PIECES, true));
    shell.on(offer(&["a", "b"]));
    shell.on(Event::ParentHas(host("b"), vec![run(0, PIECES)]));
    let (epoch, runs) = (9, Vec::new());
    let given_back = Action::EndLease {
        epoch,
        failure: Some(Failure::Unavailable),
    };
    let lease = Event::LeaseGranted { epoch, runs };
    assert_eq!(
        shell.script.on(lease),
        [given_back],
        "another node may be luckier"
    );
    shell.on(Event::LinksForgotten);
    assert!(shell.peer.is_empty());
    assert_eq!(shell.origin.map(|(running, ..)| running), Some(fetch));
    assert_eq!(shell.script.task.lease_epoch(), None);
    shell.read_origin(PIECES);
    assert_eq!((shell.alone, &shell.outcome), (1, &Some(Ok(()))));
}

#[test]
fn a_registry_that_is_wrong_itself_is_not_asked_for_ever() {
    let wrong = Digest::of(Algorithm::Sha256, b"something else");
    for length in [LENGTH, 100] {
        let mut script = Script::with(length, |settings| settings.release = Release::Proved);
        script.given([Event::LengthKnown(length), Event::SchedulerDown, read_all()]);
        let last = script.blob.layout.last_piece();
        for piece in 0..last {
            let border = script.border(0, piece);
            script.given([border]);
        }
        let (fetch, digest) = (FetchId(0), wrong);
        let actions = script.on(Event::OriginLast { fetch, digest });
        assert!(
            actions.contains(&Action::Fail(Failure::WrongContent)),
            "{actions:?}"
        );
    }
    // Nor is it asked a third time where the first was a chain of others.
    let lie = other_blob(1);
    let mut shell = reading(&lie, 3);
    shell.send(&lie, 0);
    shell.on(links_of(&BLOB, PIECES, true));
    assert_eq!(shell.alone, 1);
    let (fetch, ..) = shell.origin.unwrap();
    (0..PIECES - 1).for_each(|piece| {
        let state = BLOB.states[piece as usize + 1];
        shell.on(Event::OriginBorder { fetch, piece, state });
    });
    shell.on(Event::OriginLast { fetch, digest: wrong });
    assert_eq!(shell.outcome, Some(Err(Failure::WrongContent)));
}

#[test]
fn where_nobody_waits_a_wrong_chain_is_the_end() {
    let lie = other_blob(1);
    let mut script = Script::with(LENGTH, |settings| {
        settings.release = Release::Proved;
        settings.background = true;
    });
    script.given([
        Event::SchedulerUp,
        Event::LengthKnown(LENGTH),
        links_of(&lie, PIECES, true),
    ]);
    let actions = script.on(links_of(&BLOB, PIECES, true));
    assert!(
        actions.contains(&Action::Fail(Failure::WrongContent)),
        "{actions:?}"
    );
}

#[test]
fn who_waits_for_the_proof_is_not_kept_waiting_for_one_piece_by_others_that_come() {
    let mut script = Script::with(20 * 1024 * KIB, |settings| {
        settings.limits.run_bytes = 256 * KIB;
        settings.release = Release::Proved;
    });
    let links = script.links(1, 80, true);
    script.given([Event::SchedulerUp, read_all(), offer(&["a", "b"]), links]);
    // One holds the second piece and sends nothing of it, the other all the rest, and brings it.
    script.given([Event::ParentHas(host("a"), vec![run(1, 1)])]);
    let mut under_way = std::collections::VecDeque::new();
    let rest = vec![run(0, 1), run(2, 78)];
    under_way.extend(asked(&script.on(Event::ParentHas(host("b"), rest))));
    let origin = loop {
        script.now = script.now + Duration::from_millis(150);
        let (fetch, _, run) = under_way
            .pop_front()
            .expect("the registry is asked before the end");
        let mut actions = script.on(linked(fetch, run.first));
        actions.extend(script.on(ended(fetch)));
        under_way.extend(asked(&actions));
        let found = actions.iter().find_map(|action| match action {
            Action::FetchOrigin { run, .. } => Some(*run),
            _ => None,
        });
        if let Some(found) = found {
            break found;
        }
    };
    assert_eq!(origin, run(1, 1));
    let waited = script.now.since(Moment::START);
    assert!(
        waited > Duration::from_secs(4) && waited < Duration::from_secs(11),
        "{waited:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(darter_testkit::cases(300, 20_000)))]

    /// A stolen key vouches for any chain up to the digest, by however many pieces, and the true one comes at any moment, or never.
    #[test]
    fn no_byte_of_a_forged_chain_is_released_and_the_pull_ends_well(
        at in 0..PIECES - 1,
        own in 0..PIECES,
        known in 2..=PIECES,
        pieces in prop::collection::vec(0..PIECES, 0..8),
        truth in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let lie = other_blob(at);
        let mut shell = Shell::with(seed, Release::Proved);
        if own > 0 {
            shell.on(Event::LeaseGranted { epoch: 1, runs: Vec::new() });
            shell.read_origin(own);
            shell.on(Event::LeaseRevoked { epoch: 1 });
        }
        shell.on(links_of(&lie, known, true));
        shell.on(offer(&["a"]));
        shell.on(Event::ParentHas(host("a"), vec![run(0, PIECES)]));
        for piece in pieces {
            shell.send(&lie, piece);
            prop_assert!(shell.released.is_empty() || shell.outcome == Some(Ok(())));
        }
        // What this node read itself may have been all that the lie differs in.
        if truth && shell.outcome.is_none() {
            shell.on(links_of(&BLOB, PIECES, true));
        }
        if shell.outcome.is_none() {
            shell.on(Event::ParentLost(host("a"), crate::ParentFailure::WrongBytes));
            shell.on(Event::GoAlone);
        }
        // Gaps first, one request each; then all of it.
        for _ in 0..2 * PIECES {
            if shell.outcome.is_none() {
                prop_assert!(shell.released.is_empty());
                shell.read_origin(PIECES);
            }
        }
        prop_assert_eq!(&shell.outcome, &Some(Ok(())));
        prop_assert_eq!(&shell.store, &BLOB.bytes);
        prop_assert_eq!(shell.released.len(), PIECES as usize);
    }
}
