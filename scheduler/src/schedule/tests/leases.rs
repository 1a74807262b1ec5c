//! The lease: who gets it, when it passes on, how it ends.

use proptest::prelude::*;

use super::*;

#[test]
fn a_seed_fetches_a_public_content_and_everybody_is_connected_with_it_at_once() {
    let mut world = World::with(&["seed-1", "a", "b"]);
    world.want("a", task(1));
    assert_eq!(world.told("seed-1"), ["lease 1"]);
    assert_eq!(world.told("a"), ["parents seed-1"]);
    world.want("b", task(1));
    assert_eq!(world.told("b"), ["parents a seed-1"]);
    assert_eq!(world.told("a"), ["parents b seed-1"]);
    assert!(world.told("seed-1").is_empty());
}

#[test]
fn the_first_asker_fetches_where_there_is_no_seed() {
    let mut world = World::with(&["a", "b"]);
    world.want("a", task(1));
    world.want("b", task(1));
    assert_eq!(world.told("a"), ["lease 1", "parents b"]);
    assert_eq!(world.told("b"), ["parents a"]);
}

#[test]
fn a_private_content_is_fetched_by_whoever_asked() {
    let mut world = World::with(&["seed-1", "a"]);
    world.say(
        "a",
        NodeMessage::Want(Want {
            public: false,
            ..want(task(1))
        }),
    );
    assert_eq!(world.told("a"), ["lease 1"]);
    assert!(world.told("seed-1").is_empty());
}

#[test]
fn tasks_are_spread_over_seeds_and_stay_where_they_are() {
    let holder = |hosts: &[&str], n| {
        let mut world = World::with(hosts);
        world.want("a", task(n));
        world.lease(task(n)).unwrap().0
    };
    let three: Vec<String> = (0..60)
        .map(|n| holder(&["a", "seed-1", "seed-2", "seed-3"], n))
        .collect();
    for seed in ["seed-1", "seed-2", "seed-3"] {
        assert!(
            three.iter().filter(|holder| *holder == seed).count() >= 8,
            "{three:?}"
        );
    }
    for (n, before) in (0..60).zip(&three).filter(|(_, before)| *before != "seed-3") {
        assert_eq!(&holder(&["a", "seed-1", "seed-2"], n), before);
    }
}

#[test]
fn a_lease_without_a_first_byte_passes_on() {
    let mut world = World::with(&["seed-1", "seed-2", "a"]);
    world.want("a", task(1));
    let (first, _) = world.lease(task(1)).unwrap();
    world.pass(Duration::from_millis(9_500));
    assert_eq!(world.lease(task(1)), Some((first.clone(), 1)));
    world.pass(Duration::from_secs(1));
    let (second, epoch) = world.lease(task(1)).unwrap();
    assert!(second != first && second.starts_with("seed") && epoch == 2);
    assert_eq!(world.told(&first), ["lease 1", "revoked 1"]);
    assert_eq!(world.told(&second), ["lease 2"]);
}

#[test]
fn progress_renews_a_lease_and_a_stall_ends_it() {
    let mut world = World::with(&["seed-1", "a"]);
    world.want("a", task(1));
    for piece in 0..4 {
        world.pass(Duration::from_secs(4));
        world.say("seed-1", have(task(1), 9, &[run(piece, 1)]));
        assert_eq!(world.lease(task(1)), Some(("seed-1".into(), 1)));
    }
    world.pass(Duration::from_millis(5_500));
    assert_eq!(world.lease(task(1)), Some(("a".into(), 2)));
}

#[test]
fn a_lease_passes_on_when_its_holder_leaves_and_covers_what_nobody_holds() {
    let mut world = World::with(&["seed-1", "seed-2", "a"]);
    world.want("a", task(1));
    let (first, epoch) = world.lease(task(1)).unwrap();
    world.say(&first, links(task(1), epoch, 9, 1, &[1, 2, 3]));
    world.say(&first, have(task(1), 9, &[run(0, 3)]));
    world.say("a", have(task(1), 9, &[run(0, 2)]));
    world.disconnect(&first);
    let (second, _) = world.lease(task(1)).unwrap();
    assert_ne!(second, first);
    assert_eq!(world.told(&second), ["links 1+3 trusted", "lease 2 2+7"]);
}

#[test]
fn every_piece_is_fetched_again_once_nobody_holds_it_any_more() {
    let mut world = World::with(&["seed-1", "a", "b"]);
    world.want("a", task(1));
    world.fetched("seed-1", task(1), 3);
    world.say("a", have(task(1), 3, &[run(0, 1)]));
    assert_eq!(world.lease(task(1)), None);
    world.told("seed-1");
    world.say("seed-1", NodeMessage::Withdraw(task(1), vec![run(0, 2)]));
    assert_eq!(world.told("seed-1"), ["lease 2 1+1"]);
}

#[test]
fn nothing_is_fetched_that_is_held() {
    let mut world = World::with(&["seed-1", "a", "b"]);
    world.want("a", task(1));
    world.fetched("seed-1", task(1), 3);
    world.want("b", task(1));
    assert_eq!(world.lease(task(1)), None);
    assert_eq!(world.told("b"), ["links 1+2 trusted", "parents a seed-1"]);
}

#[test]
fn a_refusal_is_one_callers_alone() {
    let mut world = World::with(&["a", "b", "c"]);
    for host in ["a", "b", "c"] {
        world.say(
            host,
            NodeMessage::Want(Want {
                public: false,
                ..want(task(1))
            }),
        );
    }
    world.say("a", ended(task(1), 1, LeaseOutcome::Refused));
    assert_eq!(world.lease(task(1)), Some(("b".into(), 2)));
    assert!(world.told("a").iter().all(|told| !told.starts_with("alone")));
}

#[test]
fn a_seed_that_is_refused_leaves_the_content_to_those_who_ask() {
    let mut world = World::with(&["seed-1", "seed-2", "a"]);
    world.want("a", task(1));
    let (seed, epoch) = world.lease(task(1)).unwrap();
    world.say(&seed, ended(task(1), epoch, LeaseOutcome::Refused));
    assert_eq!(world.lease(task(1)), Some(("a".into(), 2)));
}

#[test]
fn an_absent_content_sends_everybody_to_the_origin() {
    let mut world = World::with(&["seed-1", "a", "b"]);
    world.want("a", task(1));
    world.want("b", task(1));
    world.say("seed-1", ended(task(1), 1, LeaseOutcome::Absent));
    for host in ["a", "b"] {
        assert!(
            world
                .told(host)
                .contains(&"alone: the origin does not have it".to_owned())
        );
    }
    assert_eq!(world.lease(task(1)), None);
    assert_eq!(world.scheduler.wants_parked(), 0);
}

#[test]
fn when_all_fail_everybody_goes_alone() {
    let mut world = World::with(&["seed-1", "a"]);
    world.want("a", task(1));
    world.say("seed-1", ended(task(1), 1, LeaseOutcome::Failed));
    world.say("a", ended(task(1), 2, LeaseOutcome::Failed));
    assert!(
        world
            .told("a")
            .contains(&"alone: nobody could fetch it from the origin".to_owned())
    );
}

#[test]
fn a_lease_that_is_done_without_everything_passes_on() {
    let mut world = World::with(&["seed-1", "a"]);
    world.want("a", task(1));
    world.say("seed-1", have(task(1), 3, &[run(0, 2)]));
    world.say("seed-1", ended(task(1), 1, LeaseOutcome::Done));
    assert_eq!(world.lease(task(1)), Some(("a".into(), 2)));
}

#[test]
fn what_is_said_under_an_old_lease_has_no_effect() {
    let mut world = World::with(&["seed-1", "a"]);
    world.want("a", task(1));
    world.pass(Duration::from_secs(11));
    assert_eq!(world.lease(task(1)), Some(("a".into(), 2)));
    world.say("seed-1", ended(task(1), 1, LeaseOutcome::Absent));
    world.say("seed-1", ended(task(1), 2, LeaseOutcome::Absent));
    world.say("seed-1", links(task(1), 1, 9, 1, &[1]));
    assert_eq!(world.lease(task(1)), Some(("a".into(), 2)));
    assert!(world.task(task(1)).unwrap().chain.is_none());
}

#[test]
fn readers_get_the_lease_before_background_wants() {
    let mut world = World::new(Settings::default());
    world.connect("a");
    world.connect("b");
    world.say(
        "a",
        NodeMessage::Want(Want {
            urgency: Urgency::Background,
            ..want(task(1))
        }),
    );
    world.want("b", task(1));
    world.pass(Duration::from_secs(2));
    assert_eq!(world.lease(task(1)).unwrap().0, "b");
}

#[test]
fn a_young_scheduler_waits_for_announcements_before_it_gives_leases() {
    let mut world = World::new(Settings::default());
    world.connect("a");
    world.connect("b");
    world.want("a", task(1));
    world.pass(Duration::from_millis(500));
    assert_eq!(world.lease(task(1)), None);
    world.say("b", held(task(1), 1, &[run(0, 1)], 1));
    world.pass(Duration::from_secs(2));
    assert_eq!(world.lease(task(1)), None, "a holder announced itself meanwhile");
    assert_eq!(world.told("a"), ["welcome", "parents b"]);
}

#[test]
fn a_restarted_scheduler_takes_over_leases() {
    let mut world = World::new(Settings::default());
    world.connect("seed-1");
    world.connect("a");
    world.want("a", task(1));
    world.say(
        "seed-1",
        NodeMessage::Want(Want {
            lease_epoch: Some(41),
            ..want(task(1))
        }),
    );
    assert_eq!(world.lease(task(1)), Some(("seed-1".into(), 41)));
    world.say(
        "a",
        NodeMessage::Want(Want {
            lease_epoch: Some(7),
            ..want(task(1))
        }),
    );
    assert!(world.told("a").contains(&"revoked 7".to_owned()));
    world.want("a", task(2));
    world.pass(Duration::from_secs(2));
    assert!(world.lease(task(2)).unwrap().1 > 41, "epochs go on");
}

fn adoption(epoch: u64) -> NodeMessage {
    NodeMessage::Want(Want {
        lease_epoch: Some(epoch),
        ..want(task(1))
    })
}

#[test]
fn a_lease_whose_number_no_scheduler_gave_is_not_taken_over() {
    let mut world = World::with(&["a", "b"]);
    world.say("a", adoption(u64::MAX));
    assert!(world.told("a").contains(&format!("revoked {}", u64::MAX)));
    world.want("b", task(2));
    assert_eq!(world.lease(task(2)).map(|(_, epoch)| epoch), Some(2));
}

proptest! {
    #[test]
    fn whatever_number_a_node_names_leases_go_on(epochs in prop::collection::vec(any::<u64>(), 1..4)) {
        let mut world = World::with(&["a", "b", "seed-1"]);
        for epoch in epochs {
            world.say("a", adoption(epoch));
            world.say("b", adoption(epoch));
            world.want("b", task(2));
            let epoch = world.lease(task(2)).map(|(_, epoch)| epoch);
            prop_assert!(epoch.is_some());
            // Its holder goes, and the next one is counted on.
            world.disconnect("seed-1");
            world.connect("seed-1");
            world.pass(Duration::from_secs(60));
        }
    }
}

#[test]
fn a_peer_may_become_a_seed_while_it_runs() {
    let mut world = World::with(&["a", "b"]);
    let connection = world.by_host["b"];
    world.apply(Event::Hello(connection, hello("b", Role::Seed)));
    world.want("a", task(1));
    assert_eq!(world.lease(task(1)).unwrap().0, "b");
    world.apply(Event::Hello(connection, hello("b", Role::Peer)));
    world.want("a", task(2));
    assert_eq!(world.lease(task(2)).unwrap().0, "a");
}

#[test]
fn a_seed_that_steps_down_ends_its_leases_as_a_seed_and_gets_no_more() {
    let mut world = World::with(&["seed-1", "a", "b"]);
    world.want("a", task(1));
    world.say("seed-1", links(task(1), 1, 9, 1, &[1, 2]));
    world.say("seed-1", have(task(1), 9, &[run(0, 2)]));
    let connection = world.by_host["seed-1"];
    world.apply(Event::Hello(connection, hello("seed-1", Role::Peer)));
    assert_eq!(world.lease(task(1)), Some(("seed-1".into(), 1)), "it goes on");
    world.told("a");
    world.say("seed-1", links(task(1), 1, 9, 3, &[3, 4, 5, 6, 7, 8]));
    assert_eq!(world.told("a"), ["links 3+6 trusted"]);
    world.say("seed-1", have(task(1), 9, &[run(2, 7)]));
    world.say("seed-1", ended(task(1), 1, LeaseOutcome::Done));
    assert_eq!(world.lease(task(1)), None);
    world.want("b", task(2));
    assert_eq!(world.lease(task(2)).unwrap().0, "b");
    // What it holds is still offered.
    world.told("b");
    world.want("b", task(1));
    assert_eq!(world.told("b"), ["links 1+8 trusted", "parents a seed-1"]);
}

#[test]
fn a_peer_that_becomes_a_seed_is_offered_on_and_keeps_what_it_holds() {
    let mut world = World::with(&["a", "b"]);
    world.want("a", task(1));
    world.want("b", task(1));
    world.say("a", links(task(1), 1, 3, 1, &[1]));
    world.say("a", have(task(1), 3, &[run(0, 1)]));
    let connection = world.by_host["a"];
    world.apply(Event::Hello(connection, hello("a", Role::Seed)));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.lease(task(1)), Some(("a".into(), 1)));
    assert_eq!(world.neighbours("b", task(1)), ["a"]);
    assert!(world.task(task(1)).unwrap().peers.len() == 2);
    assert!(world.told("a").iter().all(|told| !told.starts_with("welcome")));
}

#[test]
fn a_want_of_another_schedulers_task_is_redirected() {
    let ring = vec!["one:8002".to_owned(), "two:8002".to_owned()];
    let mut world = World::new(Settings {
        advertise: "one:8002".into(),
        schedulers: ring.clone(),
        ..Settings::default()
    });
    world.connect("a");
    world.sent.clear();
    let (mine, other): (Vec<u32>, Vec<u32>) =
        (0..20).partition(|n| darter_proto::ring::owner(&ring, task(*n)) == Some("one:8002"));
    world.want("a", task(other[0]));
    assert_eq!(world.told("a"), ["redirect two:8002"]);
    assert_eq!(world.scheduler.tasks_known(), 0);
    world.want("a", task(mine[0]));
    assert!(world.told("a").is_empty());
    assert_eq!(world.scheduler.tasks_known(), 1);
}

#[test]
fn bounds_send_wants_to_the_origin() {
    let mut world = World::new(Settings {
        tasks_max: 2,
        wants_parked_max: 2,
        ..Settings::default()
    });
    ["a", "b", "c"].iter().for_each(|host| world.connect(host));
    world.want("a", task(1));
    world.want("a", task(2));
    world.told("a");
    world.want("b", task(2));
    assert_eq!(
        world.told("b").last().unwrap(),
        "alone: the scheduler has too many parked wants"
    );
    world.say("a", NodeMessage::Unwant(task(1)));
    world.want("b", task(2));
    world.want("c", task(3));
    assert_eq!(
        world.told("c").last().unwrap(),
        "alone: the scheduler has too many parked wants"
    );
    world.say("b", NodeMessage::Unwant(task(2)));
    world.say("b", have(task(2), 1, &[run(0, 1)]));
    world.want("c", task(3));
    world.say("a", NodeMessage::Unwant(task(2)));
    assert_eq!(world.scheduler.tasks_known(), 2);
    world.want("c", task(4));
    assert_eq!(
        world.scheduler.tasks_known(),
        2,
        "the task that nobody wants made room"
    );
    assert!(world.task(task(2)).is_none());
}
