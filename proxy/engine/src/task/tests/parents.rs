//! Scripts about parents: who is asked for what, and what becomes of those that fail.

use std::collections::VecDeque;

use super::*;
use crate::ParentFailure;

fn broken(fetch: u64, failure: ParentFailure) -> Event {
    Event::FetchEnded {
        fetch: FetchId(fetch),
        failure: Some(FetchFailure::Parent(failure)),
    }
}

fn has(name: &str, first: PieceNumber, count: u32) -> Event {
    Event::ParentHas(host(name), vec![run(first, count)])
}

/// A reader, a scheduler that answered, all links, and parents that have nothing yet.
fn with_parents(names: &[&str]) -> Script {
    let mut script = Script::with(LENGTH, |settings| settings.limits.run_bytes = 256 * KIB);
    let links = script.links(1, 5, true);
    script.given([Event::SchedulerUp, read_all(), offer(names), links]);
    script
}

#[test]
fn parents_are_watched_while_they_are_offered() {
    let mut script = Script::new();
    let watch = |name: &str, address: &str| Action::Watch {
        host: host(name),
        address: address.into(),
    };
    assert_eq!(
        script.on(offer(&["a", "b"])),
        [watch("a", "a:4000"), watch("b", "b:4000")]
    );
    assert_eq!(
        script.on(offer(&["b", "c"])),
        [Action::Unwatch(host("a")), watch("c", "c:4000")]
    );
    let moved = ParentOffer {
        host: host("b"),
        address: "b:5000".into(),
    };
    assert_eq!(
        script.on(Event::ParentsOffered(vec![moved])),
        [
            Action::Unwatch(host("b")),
            Action::Unwatch(host("c")),
            watch("b", "b:5000")
        ]
    );
}

#[test]
fn what_the_reader_needs_is_asked_first_and_no_piece_twice() {
    let mut script = with_parents(&["a", "b"]);
    assert_eq!(
        asked(&script.on(has("a", 0, 5))),
        [(0, "a".into(), run(0, 1)), (1, "a".into(), run(1, 1))]
    );
    let more = asked(&script.on(has("b", 0, 2)));
    assert_eq!(more, []);
    let more = asked(&script.on(has("b", 3, 1)));
    assert_eq!(more, [(2, "b".into(), run(3, 1))]);
}

#[test]
fn who_alone_has_something_is_asked_before_all_others() {
    for seed in 0..16 {
        let mut script = Script::with(LENGTH, |settings| {
            settings.limits.requests_max = 1;
            settings.seed = seed;
        });
        script.given([Event::SchedulerUp, read_all(), offer(&["a", "b", "c"])]);
        script.given([has("a", 0, 4), has("b", 4, 1), has("c", 0, 4)]);
        let links = script.links(1, 5, true);
        assert_eq!(asked(&script.on(links)), [(0, "b".into(), run(4, 1))]);
    }
}

#[test]
fn a_piece_without_a_link_is_not_asked_for() {
    let mut script = Script::new();
    let links = script.links(1, 2, true);
    script.given([Event::SchedulerUp, read_all(), offer(&["a"]), links]);
    assert_eq!(asked(&script.on(has("a", 0, 5))), [(0, "a".into(), run(0, 1))]);
}

#[test]
fn a_scheduler_that_stands_still_is_found_out_by_its_late_links() {
    for answers in [true, false] {
        let mut script = Script::new();
        let links = script.links(1, 2, true);
        script.given([Event::SchedulerUp, read_all(), offer(&["a"]), links]);
        script.given([has("a", 0, 5), linked(0, 0), ended(0)]);
        assert_eq!(script.after(99, Event::Tick), []);
        assert_eq!(script.after(1, Event::Tick), [Action::Want]);
        assert_eq!(script.after(1, Event::Tick), [], "it is asked once");
        if answers {
            script.given([offer(&["a"])]);
        }
        assert_eq!(script.after(298, Event::Tick), []);
        let expected = match answers {
            true => vec![],
            false => vec![script.origin_request(1, run(1, 4))],
        };
        assert_eq!(script.after(1, Event::Tick), expected);
    }
}

#[test]
fn a_content_of_one_piece_needs_no_link() {
    let mut script = Script::with(1000, |_| ());
    script.given([
        Event::SchedulerUp,
        read_all(),
        offer(&["a"]),
        Event::LengthKnown(1000),
    ]);
    assert_eq!(asked(&script.on(has("a", 0, 1))), [(0, "a".into(), run(0, 1))]);
    assert_eq!(
        script.on(linked(0, 0)),
        [
            Action::Have {
                piece: 0,
                from: Some(host("a")),
                was_apart: false,
            },
            Action::Release(run(0, 1)),
            Action::Proved
        ]
    );
}

#[test]
fn wrong_bytes_end_a_parent_for_ever() {
    let mut script = with_parents(&["a"]);
    script.given([has("a", 0, 1)]);
    assert_eq!(
        script.on(broken(0, ParentFailure::WrongBytes)),
        [
            Action::Unwatch(host("a")),
            Action::Blame {
                host: host("a"),
                failure: ParentFailure::WrongBytes,
                piece: 0
            }
        ]
    );
    script.given([has("a", 0, 1)]);
    assert_eq!(script.on(offer(&["a"])), []);
    let later = script.after(60_000, Event::Tick);
    assert!(
        !later.iter().any(|action| matches!(action, Action::Watch { .. })),
        "{later:?}"
    );
}

#[test]
fn a_silent_parent_comes_back_ever_later() {
    let mut script = with_parents(&["a", "b"]);
    script.given([Event::ParentAlive(host("b")), has("a", 0, 2)]);
    let lost = script.on(Event::ParentLost(host("a"), ParentFailure::Silent));
    let [first, second] = [0, 1].map(|fetch| Action::Cancel(FetchId(fetch)));
    assert_eq!(lost[..3], [first, second, Action::Unwatch(host("a"))]);
    let watch = Action::Watch {
        host: host("a"),
        address: "a:4000".into(),
    };
    assert!(!script.after(4900, Event::Tick).contains(&watch));
    assert!(script.after(100, Event::Tick).contains(&watch));
    script.given([Event::ParentLost(host("a"), ParentFailure::Unreachable)]);
    assert!(!script.after(9900, Event::Tick).contains(&watch));
    assert!(script.after(100, Event::Tick).contains(&watch));
}

#[test]
fn a_parent_that_leaves_requests_lying_but_tells_news_is_asked_again_and_then_dropped() {
    let mut script = with_parents(&["a"]);
    script.given([has("a", 0, 1)]);
    for fetch in [0, 1] {
        assert_eq!(script.on(broken(fetch, ParentFailure::Silent)), []);
        assert_eq!(asked(&script.after(299, Event::Tick)), []);
        let again = (fetch + 1, "a".into(), run(0, 1));
        assert_eq!(asked(&script.after(1, Event::Tick)), [again]);
    }
    let dropped = script.on(broken(2, ParentFailure::Silent));
    assert!(dropped.contains(&Action::Unwatch(host("a"))), "{dropped:?}");
}

#[test]
fn a_parent_that_lacks_what_it_told_of_is_asked_for_other_pieces_and_then_dropped() {
    let mut script = with_parents(&["a"]);
    script.given([has("a", 0, 4)]);
    assert_eq!(script.on(broken(0, ParentFailure::Missing)), []);
    let next = asked(&script.after(300, Event::Tick));
    assert!(next.iter().all(|(_, _, run)| run.first != 0), "{next:?}");
    script.given([broken(1, ParentFailure::Missing)]);
    // An answer without the piece that was asked for is no better.
    let dropped = script.on(ended(2));
    assert!(dropped.contains(&Action::Unwatch(host("a"))), "{dropped:?}");
}

#[test]
fn a_busy_parent_is_left_alone_for_a_moment() {
    let mut script = with_parents(&["a"]);
    script.given([has("a", 0, 1)]);
    assert_eq!(script.on(broken(0, ParentFailure::Busy)), []);
    assert_eq!(script.after(299, Event::Tick), []);
    assert_eq!(asked(&script.after(1, Event::Tick)), [(1, "a".into(), run(0, 1))]);
}

#[test]
fn a_late_piece_that_the_reader_needs_is_asked_of_another_though_there_is_other_work() {
    let mut script = with_parents(&["a", "b"]);
    script.given([has("a", 0, 1), has("b", 3, 1)]);
    script.given([has("b", 0, 1)]);
    assert_eq!(asked(&script.after(999, Event::Tick)), []);
    assert_eq!(asked(&script.after(1, Event::Tick)), [(2, "b".into(), run(0, 1))]);
    let came = script.on(linked(2, 0));
    assert!(came.contains(&Action::Cancel(FetchId(0))) && !came.contains(&Action::Cancel(FetchId(2))));
}

#[test]
fn no_more_than_two_are_asked_for_one_piece() {
    let mut script = with_parents(&["a", "b", "c"]);
    script.given([has("a", 0, 1), has("b", 0, 1), has("c", 0, 1)]);
    assert_eq!(asked(&script.after(1000, Event::Tick)).len(), 1);
    assert_eq!(asked(&script.after(1000, Event::Tick)), []);
}

#[test]
fn dead_parents_delay_the_origin_by_less_than_a_second() {
    for seed in 0..20 {
        let mut script = Script::with(LENGTH, |settings| settings.seed = seed);
        script.given([Event::SchedulerUp, read_all(), offer(&["a", "b", "c"])]);
        script.given([Event::LengthKnown(LENGTH)]);
        let early = script.after(500, Event::Tick);
        assert!(!asks_origin(&early));
        assert!(asks_origin(&script.after(310, Event::Tick)), "seed {seed}");
    }
}

#[test]
fn liars_delay_the_origin_by_less_than_a_second() {
    let mut script = with_parents(&["a", "b", "c", "d"]);
    let mut requests = Vec::new();
    for name in ["a", "b", "c", "d"] {
        requests.extend(asked(&script.on(has(name, 0, 5))));
    }
    script.now = script.now + Duration::from_millis(20);
    while let Some((fetch, _, _)) = requests.pop() {
        requests.extend(asked(&script.on(broken(fetch, ParentFailure::WrongBytes))));
    }
    let later = script.after(800, Event::Tick);
    assert!(asks_origin(&later), "{later:?}");
}

#[test]
fn the_origin_brings_little_at_a_time_while_parents_live() {
    let mut script = Script::with(20 * 1024 * KIB, |_| ());
    let links = script.links(1, 80, true);
    script.given([
        Event::SchedulerUp,
        read_all(),
        offer(&["a"]),
        Event::ParentAlive(host("a")),
        links,
    ]);
    let actions = script.on(Event::GoAlone);
    assert_eq!(actions, [script.origin_request(0, run(0, 16))]);
}

/// A content that node "a" holds and does not send in time, and the request to the origin that follows.
fn hurried(script: &mut Script) -> (FetchId, PieceRun) {
    let links = script.links(1, 80, true);
    script.given([
        Event::SchedulerUp,
        read_all(),
        offer(&["a"]),
        has("a", 0, 80),
        links,
    ]);
    let actions = script.after(5800, Event::Tick);
    let origin = actions.iter().find_map(|action| match action {
        Action::FetchOrigin { fetch, run, .. } => Some((*fetch, *run)),
        _ => None,
    });
    origin.unwrap_or_else(|| panic!("the origin is not asked: {actions:?}"))
}

#[test]
fn a_slow_parent_that_delivers_takes_the_origins_place_again() {
    let mut script = Script::with(20 * 1024 * KIB, |_| ());
    let (origin, _) = hurried(&mut script);
    let came = script.on(linked(0, 0));
    assert!(came.contains(&Action::Cancel(origin)), "{came:?}");
    let still = script.after(2900, Event::Tick);
    assert!(!asks_origin(&still), "{still:?}");
}

#[test]
fn a_parent_that_stays_slow_does_not_make_readers_wait_again_for_each_request() {
    let mut script = Script::with(20 * 1024 * KIB, |_| ());
    let (origin, brought) = hurried(&mut script);
    for piece in brought.pieces() {
        let border = script.border(origin.0, piece);
        script.given([border]);
    }
    let next = script.on(ended(origin.0));
    assert!(asks_origin(&next), "{next:?}");
}

#[test]
fn what_a_sole_holder_leaves_lying_is_brought_by_the_origin() {
    for seed in 0..20 {
        let mut script = Script::with(LENGTH, |settings| settings.seed = seed);
        let links = script.links(1, 5, true);
        script.given([Event::SchedulerUp, read_all(), offer(&["a"]), links]);
        let asked = asked(&script.on(has("a", 0, 5)));
        let under_way: u32 = asked.iter().map(|(_, _, run)| run.count).sum();
        assert_eq!(under_way, PIECES, "a is asked for everything: {asked:?}");
        // It sends a byte a second: never silent, and no piece gets whole.
        for _ in 0..5 {
            let early = script.after(590, Event::Tick);
            assert!(!asks_origin(&early), "seed {seed}");
        }
        let later = script.after(1700, Event::Tick);
        let whole = script.origin_request(2, run(0, PIECES));
        assert!(later.contains(&whole), "seed {seed}: {later:?}");
    }
}

#[test]
fn however_long_requests_usually_take_a_reader_does_not_wait_longer() {
    let mut script = with_parents(&["a"]);
    script.given([has("a", 0, 5)]);
    for fetch in 0..2 {
        script.after(3000, linked(fetch, u32::try_from(fetch).unwrap()));
        script.given([ended(fetch)]);
    }
    let later = script.after(4700, Event::Tick);
    assert!(later.contains(&script.origin_request(4, run(2, 3))), "{later:?}");
}

#[test]
fn a_reader_is_not_kept_waiting_for_one_piece_by_all_the_others_that_come() {
    let mut script = Script::with(20 * 1024 * KIB, |settings| settings.limits.run_bytes = 256 * KIB);
    let links = script.links(1, 80, true);
    script.given([Event::SchedulerUp, read_all(), offer(&["a", "b"]), links]);
    // One holds the beginning and sends nothing of it, the other all the rest, and brings it.
    script.given([has("a", 0, 1)]);
    let mut under_way: VecDeque<_> = asked(&script.on(has("b", 1, 79))).into();
    let origin = loop {
        script.now = script.now + Duration::from_millis(150);
        let (fetch, _, run) = under_way.pop_front().unwrap();
        let mut actions = script.on(linked(fetch, run.first));
        actions.extend(script.on(ended(fetch)));
        under_way.extend(asked(&actions));
        let found = actions.iter().find_map(|action| match action {
            Action::FetchOrigin { fetch, run, .. } => Some((*fetch, *run)),
            _ => None,
        });
        if let Some(found) = found {
            break found;
        }
    };
    assert_eq!(origin.1, run(0, 1));
    let waited = script.now.since(Moment::START);
    assert!(
        waited >= Duration::from_secs(6) && waited < Duration::from_millis(9500),
        "{waited:?}"
    );
    let border = script.border(origin.0.0, 0);
    let came = script.on(border);
    assert!(came.contains(&Action::Cancel(FetchId(0))), "{came:?}");
    assert!(!asks_origin(&script.after(100, Event::Tick)), "the need is over");
}

#[test]
fn what_a_parent_was_asked_for_just_now_is_left_to_it() {
    let mut script = Script::with(20 * 1024 * KIB, |_| ());
    let (origin, _) = hurried(&mut script);
    // The first pieces come; in their place others are asked for, of the same parent.
    for piece in 0..8 {
        let border = script.border(origin.0, piece);
        script.given([border]);
    }
    let fresh: Vec<PieceRun> = script
        .task
        .fetches
        .values()
        .filter(|fetch| fetch.host.is_some() && fetch.started == script.now)
        .map(|fetch| fetch.run)
        .collect();
    assert!(!fresh.is_empty());
    for piece in 8..16 {
        let border = script.border(origin.0, piece);
        script.given([border]);
    }
    let next = script.on(ended(origin.0));
    let origin = next.iter().find_map(|action| match action {
        Action::FetchOrigin { run, .. } => Some(*run),
        _ => None,
    });
    let origin = origin.unwrap_or_else(|| panic!("{next:?}"));
    assert!(
        fresh.iter().all(|run| !run.contains(origin.first)),
        "{fresh:?} {origin:?}"
    );
}

#[test]
fn a_lease_for_the_rest_does_not_tie_a_node_to_who_holds_the_beginning() {
    let mut script = with_parents(&["a"]);
    script.given([has("a", 0, 2)]);
    let granted = script.on(Event::LeaseGranted {
        epoch: 1,
        runs: Vec::new(),
    });
    assert!(
        granted.contains(&script.origin_request(2, run(2, 3))),
        "{granted:?}"
    );
    for piece in 2..4 {
        let border = script.border(2, piece);
        script.given([border]);
    }
    script.given([script.last(2), ended(2)]);
    let later = script.after(4700, Event::Tick);
    assert!(later.contains(&script.origin_request(3, run(0, 2))), "{later:?}");
}

#[test]
fn a_share_of_the_nodes_requests_binds() {
    let mut script = with_parents(&["a", "b", "c"]);
    script.task.share_requests(2);
    let mut requests = Vec::new();
    for name in ["a", "b", "c"] {
        requests.extend(asked(&script.on(has(name, 0, 5))));
    }
    assert_eq!(requests.len(), 2);
}
