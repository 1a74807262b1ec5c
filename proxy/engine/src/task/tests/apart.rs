//! Pieces by name: whose word is enough for readers of ranges, what a holder of a lease says, and what ends.

use super::*;

fn read(reader: u64, start: u64, end: u64) -> Event {
    Event::ReaderOpened {
        reader: ReaderId(reader),
        range: ByteRange::new(start, end),
        checks: false,
    }
}

/// A task that fetches what is read, and nothing else.
fn partial() -> Script {
    let mut script = Script::with(LENGTH, |settings| settings.whole = false);
    script.given([Event::SchedulerUp, Event::LengthKnown(LENGTH)]);
    script
}

fn has(name: &str, first: PieceNumber, count: u32) -> Event {
    Event::ParentHas(host(name), vec![run(first, count)])
}

fn ask(epoch: u64, first: PieceNumber, count: u32) -> Event {
    let runs = vec![run(first, count)];
    Event::PiecesAsked { epoch, runs }
}

fn attest(script: &Script, epoch: u64, piece: PieceNumber) -> Action {
    let sum = script.blob.sum(piece);
    Action::Attest { epoch, piece, sum }
}

#[test]
fn a_last_piece_that_is_linked_goes_to_readers_of_ranges() {
    let mut script = partial();
    let links = script.links(1, 5, true);
    script.given([offer(&["a"]), links, has("a", 0, PIECES)]);
    assert_eq!(
        asked(&script.on(read(1, 1090 * KIB, LENGTH))),
        [(0, "a".into(), run(4, 1))]
    );
    let came = script.on(linked(0, 4));
    assert!(came.contains(&Action::ReleaseToRanges(4)), "{came:?}");
    assert!(!came.contains(&Action::Release(run(4, 1))));
    // Its reader waits for nothing any more.
    assert!(!asks_origin(&script.after(9000, Event::Tick)));
}

#[test]
fn what_nobody_of_trust_linked_is_read_from_the_origin() {
    let mut script = partial();
    let links = script.links(1, 5, false);
    script.given([offer(&["a"]), links, has("a", 0, PIECES)]);
    assert_eq!(asked(&script.on(read(1, 300 * KIB, 301 * KIB))), []);
    let alone = script.on(Event::GoAlone);
    assert!(alone.contains(&script.origin_request(0, run(1, 1))), "{alone:?}");
    let border = script.border(0, 1);
    let came = script.on(border);
    assert!(came.contains(&Action::Release(run(1, 1))), "{came:?}");
}

#[test]
fn what_others_get_does_not_end_the_need_of_one_that_waits() {
    let mut script = partial();
    script.given([offer(&["a"]), Event::ParentAlive(host("a"))]);
    script.given([read(1, 0, 10), read(2, 900 * KIB, 901 * KIB)]);
    let needs = script.after(9500, Event::Tick);
    assert!(asks_origin(&needs), "{needs:?}");
    let apart = needs.iter().find_map(|action| match action {
        Action::FetchApart { fetch, run } if run.contains(3) => Some(*fetch),
        _ => None,
    });
    let apart = apart.expect("the piece ahead of the chain is read by itself");
    let sums = vec![(0, script.blob.sum(0))];
    let length = LENGTH;
    script.given([Event::AttestationsCame { length, sums }, has("a", 0, 1)]);
    let from_a = script.on(Event::Tick);
    let delivered = asked(&from_a).first().map(|(fetch, ..)| linked(*fetch, 0));
    let delivered = delivered.unwrap_or(Event::Tick);
    let came = script.on(delivered);
    assert!(!came.contains(&Action::Cancel(apart)), "{came:?}");
}

#[test]
fn a_holder_of_a_lease_says_again_what_is_here() {
    let mut script = partial();
    script.given([ask(1, 3, 1)]);
    let came = script.piece(0, 3);
    let told = script.on(came);
    assert!(told.contains(&attest(&script, 1, 3)), "{told:?}");
    script.given([ended(0)]);
    // Another scheduler, or the same one that forgot.
    for epoch in [1, 2] {
        let told = script.on(ask(epoch, 3, 1));
        assert!(told.contains(&attest(&script, epoch, 3)), "{told:?}");
    }
    // And what is linked, with the chain.
    script.given([Event::LeaseRevoked { epoch: 2 }]);
    let links = script.links(1, 5, true);
    script.given([links]);
    let good = true;
    script.given([Event::ClaimChecked { piece: 3, good }]);
    let told = script.on(ask(3, 3, 1));
    let with_chain = |action: &Action| matches!(action, Action::Publish { epoch: Some(3), first: 1, states } if states.len() >= 4);
    assert!(told.iter().any(with_chain), "{told:?}");
    assert!(!asks_origin(&told), "{told:?}");
}

#[test]
fn a_lease_for_single_pieces_outlasts_them_a_while() {
    let mut script = partial();
    script.given([ask(1, 3, 1)]);
    let came = script.piece(0, 3);
    script.given([came, ended(0)]);
    assert_eq!(script.after(9000, Event::Tick), []);
    script.given([ask(1, 3, 1)]);
    assert_eq!(script.after(9000, Event::Tick), []);
    let failure = None;
    let epoch = 1;
    assert_eq!(
        script.after(1100, Event::Tick),
        [Action::EndLease { epoch, failure }]
    );
}

#[test]
fn what_the_store_kept_is_checked_when_others_ask_for_it() {
    let mut script = Script::with(LENGTH, |settings| {
        settings.whole = false;
        settings.background = true;
    });
    let states = &BLOB.states[1..];
    let mut claimed = PieceSet::new(PIECES);
    claimed.insert_run(run(1, 1));
    script
        .task
        .restore(BLOB.layout, states, &claimed, &PieceSet::new(PIECES));
    script.given([Event::SchedulerUp]);
    let checks = script.on(ask(1, 1, 1));
    let is_check = |action: &Action| matches!(action, Action::Check { piece: 1, .. });
    assert!(checks.iter().any(is_check), "{checks:?}");
    let good = true;
    let told = script.on(Event::ClaimChecked { piece: 1, good });
    assert!(
        !asks_origin(&told) && !asks_origin(&script.after(9000, Event::Tick)),
        "{told:?}"
    );
}

#[test]
fn a_holder_of_a_lease_takes_from_parents_what_others_wait_for() {
    let mut script = Script::with(LENGTH, |settings| settings.whole = false);
    let links = script.links(1, 5, true);
    script.given([Event::SchedulerUp, links, offer(&["a"]), has("a", 2, 1)]);
    assert_eq!(asked(&script.on(ask(1, 2, 1))), [(0, "a".into(), run(2, 1))]);
}

#[test]
fn bytes_apart_that_contradict_what_readers_got_end_it() {
    let mut script = partial();
    let links = script.links(1, 3, true);
    script.given([offer(&["a"]), links, has("a", 0, 1), read(1, 0, 10)]);
    assert!(script.on(linked(0, 0)).contains(&Action::Release(run(0, 1))));
    script.given([ended(0), Event::LinksForgotten]);
    let sums = vec![(0, script.blob.sum(0))];
    let length = LENGTH;
    script.given([read(2, 1, 10), Event::AttestationsCame { length, sums }]);
    let walks = script.on(linked(1, 0));
    assert!(
        walks
            .iter()
            .any(|action| matches!(action, Action::Walk { piece: 0, .. })),
        "{walks:?}"
    );
    let after = Some(script.blob.states[2]);
    let failed = script.on(Event::Walked { piece: 0, after });
    assert!(
        failed.contains(&Action::Fail(Failure::WrongContent)),
        "{failed:?}"
    );
}

#[test]
fn whoever_begins_to_want_the_whole_says_so_at_once() {
    let mut script = partial();
    script.given([read(1, 600 * KIB, 700 * KIB)]);
    let flip = script.on(read(2, 0, 700 * KIB));
    assert!(flip.contains(&Action::Want), "{flip:?}");
    assert!(script.task.wants_whole());
}

#[test]
fn pieces_behind_the_chain_are_named_too_and_those_of_a_moment_together() {
    let mut script = partial();
    let links = script.links(1, 5, true);
    script.given([links]);
    script.after(2000, Event::Tick);
    assert_eq!(script.on(read(1, 300 * KIB, 301 * KIB)), [Action::Want]);
    assert_eq!(script.task.wanted_first(), [run(1, 1)]);
    assert_eq!(script.on(read(2, 900 * KIB, 901 * KIB)), []);
    assert_eq!(script.after(60, Event::Tick), [Action::WantPieces]);
    assert_eq!(script.task.wanted_first(), [run(1, 1), run(3, 1)]);
}

#[test]
fn that_nobody_helps_with_single_pieces_counts_for_a_while() {
    let mut script = partial();
    script.given([offer(&["a"]), Event::ParentAlive(host("a")), Event::GoAlone]);
    assert!(script.task.uses_origin());
    script.after(7900, Event::Tick);
    assert!(script.task.uses_origin());
    script.after(200, Event::Tick);
    assert!(!script.task.uses_origin());
}

#[test]
fn a_new_lease_hears_the_chain_from_its_beginning() {
    let mut script = Script::new();
    script.given([Event::SchedulerUp, Event::LengthKnown(LENGTH)]);
    let lease = |epoch| Event::LeaseGranted {
        epoch,
        runs: Vec::new(),
    };
    script.given([lease(1)]);
    let borders = [script.border(0, 0), script.border(0, 1)];
    script.given(borders);
    let told = script.on(lease(2));
    let states = script.state(1).into_iter().chain(script.state(2)).collect();
    let all = Action::Publish {
        epoch: Some(2),
        first: 1,
        states,
    };
    assert!(told.contains(&all), "{told:?}");
}

#[test]
fn what_doubtful_authors_linked_is_read_again_when_it_is_asked_for_by_name() {
    let mut script = Script::with(LENGTH, |settings| settings.background = true);
    let links = script.links(1, 5, false);
    script.given([
        Event::SchedulerUp,
        Event::LengthKnown(LENGTH),
        offer(&["a"]),
        links,
    ]);
    let asks = script.on(has("a", 3, 1));
    assert_eq!(asked(&asks), [(0, "a".into(), run(3, 1))]);
    script.given([linked(0, 3), ended(0)]);
    let told = script.on(ask(1, 3, 1));
    let dropped = |action: &Action| matches!(action, Action::Forget { runs, .. } if *runs == [run(3, 1)]);
    assert!(told.iter().any(dropped), "{told:?}");
    assert!(
        told.contains(&script.origin_request(1, run(0, PIECES))),
        "{told:?}"
    );
    assert_eq!(asked(&told), [], "no parent's word is worth more");
    script.given((0..3).map(|piece| script.border(1, piece)).collect::<Vec<_>>());
    let border = script.border(1, 3);
    let told = script.on(border);
    let with_chain = |action: &Action| matches!(action, Action::Publish { epoch: Some(1), first, states } if *first as usize + states.len() > 4);
    assert!(told.iter().any(with_chain), "{told:?}");
}

#[test]
fn what_is_read_behind_states_of_doubtful_authors_is_attested() {
    let mut script = partial();
    let links = script.links(1, 5, false);
    script.given([offer(&["a"]), links, has("a", 0, PIECES)]);
    let asks = script.on(ask(1, 3, 1));
    assert!(asks.contains(&script.origin_request(0, run(3, 1))), "{asks:?}");
    let border = script.border(0, 3);
    let told = script.on(border);
    let (epoch, piece) = (1, 3);
    let range = script.blob.layout.piece_range(piece).indices();
    let attests = |action: &Action| {
        matches!(action, Action::AttestStored { epoch: told, piece: which, proof }
            if (*told, *which) == (epoch, piece) && proof.links(&script.blob.bytes[range.clone()]))
    };
    assert!(told.iter().any(attests), "{told:?}");
    // Once: the scheduler knows it now.
    assert!(!asks_origin(&script.on(ended(0))));
}
