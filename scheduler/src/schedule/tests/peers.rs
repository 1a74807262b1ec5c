//! Neighbours: the mesh, failures, exclusion, trial, and the connection itself.

use super::*;

#[test]
fn few_peers_are_everybodys_neighbours_both_ways() {
    let names: Vec<String> = (0..11).map(|n| format!("n{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut world = World::with(&names);
    names.iter().for_each(|host| world.want(host, task(1)));
    for host in &names {
        assert_eq!(world.neighbours(host, task(1)).len(), 10);
    }
}

#[test]
fn many_peers_have_about_ten_neighbours_each() {
    let names: Vec<String> = (0..60).map(|n| format!("n{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut world = World::with(&names);
    names.iter().for_each(|host| world.want(host, task(1)));
    for host in &names {
        let count = world.neighbours(host, task(1)).len();
        assert!((8..=20).contains(&count), "{host} has {count}");
    }
    for host in names.iter().take(30) {
        world.disconnect(host);
    }
    for host in names.iter().skip(30) {
        let count = world.neighbours(host, task(1)).len();
        assert!(
            (4..=20).contains(&count),
            "{host} has {count} after half of them left"
        );
    }
}

#[test]
fn whoever_leaves_is_taken_from_everybodys_set() {
    let mut world = World::with(&["a", "b", "c"]);
    ["a", "b", "c"].iter().for_each(|host| world.want(host, task(1)));
    world.sent.clear();
    world.disconnect("c");
    assert_eq!(world.told("a"), ["parents b"]);
    assert_eq!(world.told("b"), ["parents a"]);
    world.disconnect("b");
    assert_eq!(world.told("a"), ["parents"]);
}

#[test]
fn two_nodes_that_want_nothing_are_no_neighbours() {
    let mut world = World::with(&["seed-1", "a", "b"]);
    world.want("a", task(1));
    world.want("b", task(1));
    world.fetched("seed-1", task(1), 1);
    for host in ["a", "b"] {
        world.say(host, have(task(1), 1, &[run(0, 1)]));
        world.say(host, NodeMessage::Unwant(task(1)));
    }
    assert!(
        ["a", "b", "seed-1"]
            .iter()
            .all(|host| world.neighbours(host, task(1)).is_empty())
    );
    assert_eq!(world.task(task(1)).unwrap().peers.len(), 3);
}

#[test]
fn a_new_connection_of_a_host_replaces_the_old_one() {
    let mut world = World::with(&["a", "b"]);
    world.say("b", held(task(1), 1, &[run(0, 1)], 1));
    let old = world.by_host["b"];
    world.connect("b");
    assert!(world.task(task(1)).is_none(), "it says again what it holds");
    world.say("b", held(task(1), 1, &[run(0, 1)], 1));
    world.apply(Event::Disconnected(old, id("b")));
    world.apply(Event::Message(
        old,
        id("b"),
        NodeMessage::Withdraw(task(1), vec![]),
    ));
    assert_eq!(world.scheduler.hosts_connected(), 2);
    assert!(world.task(task(1)).is_some());
}

#[test]
fn wrong_bytes_block_a_host_at_once_for_ten_minutes() {
    let mut world = World::with(&["seed-1", "a", "bad"]);
    world.say("bad", held(task(1), 1, &[run(0, 1)], 1));
    world.want("a", task(1));
    assert_eq!(world.told("a"), ["parents bad"]);
    world.say("a", failed(task(1), "bad", FailureReason::WrongBytes));
    assert_eq!(world.neighbours("a", task(1)), ["seed-1"]);
    assert_eq!(
        world.lease(task(1)).unwrap().0,
        "seed-1",
        "what it holds does not count"
    );
    world.want("bad", task(2));
    assert!(
        world
            .told("bad")
            .contains(&"alone: this node is left out for a while".to_owned())
    );
    world.pass(Duration::from_secs(590));
    assert!(
        !world
            .scheduler
            .hosts
            .is_live(world.scheduler.hosts.key(&id("bad")).unwrap())
    );
    world.pass(Duration::from_secs(20));
    let key = world.scheduler.hosts.key(&id("bad")).unwrap();
    assert!(world.scheduler.hosts.is_live(key) && world.scheduler.hosts.get(key).unwrap().on_trial);
}

#[test]
fn a_host_that_accuses_everybody_is_not_heard_any_more() {
    let names = ["a", "b", "c", "d", "e", "liar"];
    let mut world = World::with(&names);
    names.iter().for_each(|host| world.want(host, task(1)));
    for host in ["a", "b", "c", "d", "e"] {
        world.say("liar", failed(task(1), host, FailureReason::WrongBytes));
    }
    let live = ["a", "b", "c", "d", "e"]
        .iter()
        .filter(|host| {
            world
                .scheduler
                .hosts
                .is_live(world.scheduler.hosts.key(&id(host)).unwrap())
        })
        .count();
    assert_eq!(live, 2);
}

#[test]
fn a_parent_that_was_out_of_reach_is_replaced_for_that_child() {
    let mut world = World::with(&["seed-1", "a", "b"]);
    world.want("a", task(1));
    world.want("b", task(1));
    world.say("a", failed(task(1), "b", FailureReason::Unreachable));
    assert_eq!(world.neighbours("a", task(1)), ["seed-1"]);
    assert_eq!(world.neighbours("b", task(1)), ["seed-1"]);
    assert!(
        world
            .scheduler
            .hosts
            .is_live(world.scheduler.hosts.key(&id("b")).unwrap())
    );
}

#[test]
fn several_children_that_cannot_reach_the_lease_holder_move_the_lease() {
    let mut world = World::with(&["seed-1", "seed-2", "a", "b"]);
    world.want("a", task(1));
    world.want("b", task(1));
    let (first, _) = world.lease(task(1)).unwrap();
    world.say("a", failed(task(1), &first, FailureReason::Silent));
    assert_eq!(
        world.lease(task(1)).unwrap().0,
        first,
        "one child alone may be wrong"
    );
    world.say("b", failed(task(1), &first, FailureReason::Silent));
    assert_ne!(world.lease(task(1)).unwrap().0, first);
}

#[test]
fn a_lease_that_gets_on_is_not_moved_by_silence() {
    let mut world = World::with(&["seed-1", "seed-2", "a", "b"]);
    world.want("a", task(1));
    world.want("b", task(1));
    let (first, _) = world.lease(task(1)).unwrap();
    world.say(&first, have(task(1), 9, &[run(0, 1)]));
    for host in ["a", "b"] {
        world.say(host, failed(task(1), &first, FailureReason::Silent));
    }
    assert_eq!(world.lease(task(1)).unwrap().0, first);
    world.pass(Duration::from_secs(4));
    for host in ["a", "b"] {
        world.say(host, failed(task(1), &first, FailureReason::Silent));
    }
    assert_ne!(world.lease(task(1)).unwrap().0, first);
}

#[test]
fn silence_parts_two_nodes_when_it_comes_again_and_leaves_nobody_out() {
    let mut world = World::with(&["seed-1", "a", "b", "c"]);
    for n in 0..6 {
        for host in ["a", "b", "c"] {
            world.want(host, task(n));
        }
        world.say("seed-1", have(task(n), 9, &[run(0, 1)]));
        world.say("b", have(task(n), 9, &[run(0, 1)]));
    }
    let silent = "b".to_owned();
    for n in 0..6 {
        for host in ["a", "c"] {
            world.say(host, failed(task(n), "b", FailureReason::Silent));
        }
    }
    assert!(world.neighbours("a", task(1)).contains(&silent));
    world.say("a", failed(task(1), "b", FailureReason::Silent));
    assert!(!world.neighbours("a", task(1)).contains(&silent));
    let key = world.scheduler.hosts.key(&id("b")).unwrap();
    assert!(world.scheduler.hosts.is_live(key));
}

#[test]
fn who_reads_the_origin_and_gets_on_loses_no_child_by_silence() {
    let mut world = World::with(&["seed-1", "a", "b"]);
    for host in ["a", "b"] {
        world.want(host, task(1));
    }
    world.say("seed-1", have(task(1), 9, &[run(0, 1)]));
    let seed = "seed-1".to_owned();
    for _ in 0..5 {
        world.say("a", failed(task(1), "seed-1", FailureReason::Silent));
    }
    assert!(world.neighbours("a", task(1)).contains(&seed));
    world.pass(Duration::from_secs(4));
    for _ in 0..2 {
        world.say("a", failed(task(1), "seed-1", FailureReason::Silent));
    }
    assert!(!world.neighbours("a", task(1)).contains(&seed));
}

#[test]
fn a_host_that_fails_several_is_left_out_and_comes_back_on_trial() {
    let mut world = World::with(&["a", "b", "lame"]);
    for n in 0..2 {
        for host in ["a", "b", "lame"] {
            world.want(host, task(n));
        }
        for host in ["a", "b"] {
            world.say(host, failed(task(n), "lame", FailureReason::Unreachable));
        }
    }
    let key = world.scheduler.hosts.key(&id("lame")).unwrap();
    assert!(!world.scheduler.hosts.is_live(key));
    world.pass(Duration::from_secs(31));
    assert!(world.scheduler.hosts.is_live(key) && world.scheduler.hosts.get(key).unwrap().on_trial);
    let cost = PieceCost {
        parent: id("lame"),
        nanos_per_byte: 1.0,
        pieces: 3,
    };
    world.say(
        "a",
        NodeMessage::Load(Load {
            costs: vec![cost],
            ..Load::default()
        }),
    );
    assert!(
        !world.scheduler.hosts.get(key).unwrap().on_trial,
        "it served well"
    );
}

#[test]
fn a_child_that_can_reach_no_holder_goes_alone() {
    let mut world = World::with(&["a", "b"]);
    world.say("b", held(task(1), 1, &[run(0, 1)], 1));
    world.want("a", task(1));
    for _ in 0..4 {
        world.say("a", failed(task(1), "b", FailureReason::Silent));
    }
    assert!(
        world
            .told("a")
            .contains(&"alone: none of its holders could be reached".to_owned())
    );
}

#[test]
fn a_missing_piece_is_not_offered_any_more() {
    let mut world = World::with(&["seed-1", "a", "b"]);
    world.say("b", held(task(1), 1, &[run(0, 1)], 1));
    world.want("a", task(1));
    world.say("a", failed(task(1), "b", FailureReason::Missing));
    assert_eq!(world.lease(task(1)).unwrap().0, "seed-1");
}

#[test]
fn a_node_that_became_slow_is_replaced_where_others_hold_everything() {
    let mut world = World::with(&["a", "slow", "good"]);
    let cost = |nanos_per_byte| {
        let cost = PieceCost {
            parent: id("slow"),
            nanos_per_byte,
            pieces: 1,
        };
        NodeMessage::Load(Load {
            costs: vec![cost],
            ..Load::default()
        })
    };
    world.say("slow", held(task(1), 1, &[run(0, 1)], 1));
    world.say("good", held(task(1), 1, &[run(0, 1)], 1));
    world.say("slow", held(task(2), 1, &[run(0, 1)], 1));
    world.want("a", task(1));
    assert_eq!(world.neighbours("a", task(1)), ["good", "slow"]);
    (0..20).for_each(|_| world.say("a", cost(10.0)));
    world.say("a", cost(100.0));
    assert_eq!(world.neighbours("a", task(1)), ["good"]);
    world.want("a", task(2));
    assert_eq!(world.neighbours("a", task(2)), ["slow"], "nobody else holds it");
    assert_eq!(world.lease(task(2)), None);
    world.pass(Duration::from_secs(31));
    assert_eq!(world.neighbours("a", task(1)), ["good", "slow"], "back on trial");
}

#[test]
fn a_nearer_parent_comes_first() {
    let mut world = World::with(&["a"]);
    for (host, place) in [("far", "ams|z1|r1"), ("zone", "fra|z1|r9"), ("rack", "fra|z1|r1")] {
        world.connect(host);
        let connection = world.by_host[host];
        let near = Hello {
            locality: place.parse().unwrap(),
            ..hello(host, Role::Peer)
        };
        world.apply(Event::Hello(connection, near));
        world.say(host, held(task(1), 1, &[run(0, 1)], 1));
    }
    let connection = world.by_host["a"];
    let here = Hello {
        locality: "fra|z1|r1".parse().unwrap(),
        ..hello("a", Role::Peer)
    };
    world.apply(Event::Hello(connection, here));
    world.want("a", task(1));
    let order: Vec<String> = world
        .sent
        .iter()
        .find_map(|(_, message)| match message {
            SchedulerMessage::Parents(parents) => Some(parents),
            _ => None,
        })
        .map(|parents| {
            parents
                .parents
                .iter()
                .map(|parent| parent.host.to_string())
                .collect()
        })
        .unwrap();
    assert_eq!(order, ["rack", "zone", "far"]);
}
