//! Pieces by name: what is lacking, who is asked for it, and what is nobody's fault.

use super::*;

fn leases(world: &mut World, host: &str) -> Vec<String> {
    let told = world.told(host).into_iter();
    told.filter(|line| line.starts_with("lease")).collect()
}

fn names_first(lease: &str, runs: &str) -> bool {
    lease.contains(&format!(" first {runs}"))
}

#[test]
fn a_piece_that_is_held_and_that_nobody_of_trust_spoke_for_is_asked_of_the_seed() {
    let mut world = World::with(&["seed", "a", "b"]);
    let task = task(1);
    // As after a restart, or where a node read it in need.
    world.say("seed", held(task, 10, &[run(5, 1)], 1));
    world.say("a", held(task, 10, &[run(7, 1)], 1));
    world.say("b", on_demand(task, &[run(5, 1), run(7, 1)]));
    let told = leases(&mut world, "seed");
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        names_first(&told[0], "5+1") && names_first(&told[0], "7+1"),
        "{told:?}"
    );
    let epoch = world.lease(task).unwrap().1;
    world.say("seed", attested(task, epoch, 5));
    assert!(world.told("b").contains(&"attested 5".to_owned()));
    // Whoever has a piece itself waits for nobody.
    let mut has = on_demand(task, &[run(7, 1)]);
    if let NodeMessage::Want(want) = &mut has {
        want.held = vec![run(7, 1)];
    }
    world.say("a", has);
    assert!(leases(&mut world, "seed").is_empty());
}

#[test]
fn a_word_that_crosses_the_end_of_its_lease_counts_and_nobody_is_blamed() {
    let mut world = World::with(&["seed", "a"]);
    let task = task(1);
    world.say("a", on_demand(task, &[run(5, 1)]));
    let first = world.lease(task).unwrap().1;
    world.say("seed", attested(task, first, 5));
    world.say("seed", have(task, 10, &[run(5, 1)]));
    // It ends what it has done while more is asked for.
    world.say("a", on_demand(task, &[run(5, 2)]));
    world.say("seed", ended(task, first, LeaseOutcome::Done));
    let second = world.lease(task).expect("the seed is asked again").1;
    assert!(second > first);
    assert!(world.told("a").iter().all(|line| !line.starts_with("alone")));
    world.say("seed", attested(task, first, 6));
    assert!(world.told("a").contains(&"attested 6".to_owned()));
}

#[test]
fn a_seed_that_reads_nothing_is_passed_over() {
    let mut world = World::with(&["seed", "a"]);
    let task = task(1);
    world.say("a", on_demand(task, &[run(5, 1)]));
    let epoch = world.lease(task).unwrap().1;
    world.say("seed", ended(task, epoch, LeaseOutcome::Done));
    assert_eq!(world.lease(task), None);
    assert!(world.told("a").iter().any(|line| line.starts_with("alone")));
}

#[test]
fn a_lease_for_single_pieces_rests_while_none_is_asked_for() {
    let mut world = World::with(&["seed", "a"]);
    let task = task(1);
    world.say("a", on_demand(task, &[run(5, 1)]));
    let epoch = world.lease(task).unwrap().1;
    world.say("seed", attested(task, epoch, 5));
    world.say("seed", have(task, 10, &[run(5, 1)]));
    world.pass(Duration::from_secs(30));
    assert_eq!(world.lease(task).unwrap().1, epoch);
    world.say("a", on_demand(task, &[run(6, 1)]));
    world.pass(Duration::from_secs(30));
    assert_eq!(world.lease(task), None, "it stalled");
}

#[test]
fn a_lease_is_taken_over_as_what_it_was() {
    let mut world = World::with(&["seed", "a"]);
    let task = task(1);
    let mut again = on_demand(task, &[run(5, 1)]);
    if let NodeMessage::Want(want) = &mut again {
        want.lease_epoch = Some(7);
    }
    world.say("seed", again);
    world.told("seed");
    world.want("a", task);
    assert_eq!(world.lease(task), Some(("seed".into(), 7)));
    let told = leases(&mut world, "seed");
    assert!(
        told.iter().any(|line| !line.ends_with("only")),
        "for all: {told:?}"
    );
}

#[test]
fn whoever_holds_all_without_a_chain_still_gets_the_lease() {
    let mut world = World::with(&["seed", "a"]);
    let task = task(1);
    world.say("seed", held(task, 10, &[run(0, 10)], 1));
    world.want("a", task);
    assert_eq!(world.told("seed"), ["send links 1"]);
    world.say("seed", links(task, 0, 10, 1, &[]));
    assert_eq!(world.lease(task).map(|(holder, _)| holder), Some("seed".into()));
    assert_eq!(leases(&mut world, "seed").len(), 1);
}

#[test]
fn a_lease_leads_through_what_others_hold_behind_the_chain() {
    let mut world = World::with(&["seed", "a", "b"]);
    let task = task(1);
    world.say("b", held(task, 10, &[run(4, 2)], 1));
    world.want("a", task);
    let told = leases(&mut world, "seed");
    assert_eq!(told.len(), 1);
    assert!(!told[0].contains('+'), "all of it: {told:?}");
}

#[test]
fn the_chain_of_a_node_that_is_no_seed_helps_nobody_who_wants_single_pieces() {
    let mut world = World::with(&["a", "b"]);
    let task = task(1);
    world.want("a", task);
    let epoch = world.lease(task).unwrap().1;
    world.say("a", links(task, epoch, 10, 1, &[1, 2, 3, 4, 5, 6]));
    world.say("a", have(task, 10, &[run(0, 6)]));
    world.say("b", on_demand(task, &[run(2, 1)]));
    assert!(world.told("b").iter().any(|line| line.starts_with("alone")));
    assert_eq!(world.lease(task), Some(("a".into(), epoch)));
}

#[test]
fn beside_a_whole_that_nobody_of_trust_linked_single_pieces_are_asked_of_a_seed() {
    let mut world = World::with(&["a", "b", "c"]);
    let task = task(1);
    world.want("a", task);
    let epoch = world.lease(task).unwrap().1;
    world.say("a", links(task, epoch, 10, 1, &[1, 2, 3, 4, 5, 6, 7, 8, 9]));
    world.say("a", have(task, 10, &[run(0, 10)]));
    world.say("a", ended(task, epoch, LeaseOutcome::Done));
    world.want("c", task);
    world.connect("seed");
    world.say("b", on_demand(task, &[run(2, 1)]));
    assert_eq!(leases(&mut world, "seed").len(), 1);
    assert!(world.told("b").iter().all(|line| !line.starts_with("alone")));
}

#[test]
fn asks_give_no_more_time_to_whoever_owes_earlier_pieces() {
    let mut world = World::with(&["seed", "a"]);
    let task = task(1);
    world.say("a", on_demand(task, &[run(0, 1)]));
    let epoch = world.lease(task).unwrap().1;
    // It says nothing, while more and more is asked of it.
    for piece in 1..9 {
        world.pass(Duration::from_secs(5));
        if world.lease(task).is_none() {
            assert!(world.told("seed").contains(&format!("revoked {epoch}")));
            return;
        }
        world.say("a", on_demand(task, &[run(0, piece + 1)]));
    }
    panic!("a holder that brings nothing has the lease after 40 seconds");
}

#[test]
fn seeds_that_attest_different_bytes_are_believed_no_more() {
    let mut world = World::with(&["seed", "seed-2", "a"]);
    let task = task(1);
    world.say("a", on_demand(task, &[run(5, 1)]));
    let (holder, epoch) = world.lease(task).unwrap();
    let other = if holder == "seed" { "seed-2" } else { "seed" };
    world.say(&holder, attested(task, epoch, 5));
    world.say(&holder, have(task, 10, &[run(5, 1)]));
    assert!(world.told("a").contains(&"attested 5".to_owned()));
    world.say(other, held(task, 10, &[run(6, 1)], 1));
    let sums = vec![(5, Digest::of(Algorithm::Sha256, &[8]))];
    let differing = darter_proto::scheduler::Attested {
        task,
        epoch: 0,
        length: 10 * PIECE,
        sums,
    };
    world.say(other, NodeMessage::Attested(differing));
    let told = world.told("a");
    assert!(told.contains(&"forget links".to_owned()), "{told:?}");
    assert!(told.iter().any(|line| line.starts_with("alone")), "{told:?}");
    assert_eq!(world.lease(task), None);
    // Neither is an author for a while.
    for liar in [&*holder, other] {
        world.say(liar, attested(task, epoch, 5));
    }
    assert!(world.told("a").iter().all(|line| !line.starts_with("attested")));
}

#[test]
fn a_piece_that_many_wants_name_is_looked_at_once() {
    const WANTS: u32 = 200;
    let mut world = World::with(&["seed"]);
    let task = task(1);
    let first: Vec<PieceRun> = (0..64).map(|piece| run(2 * piece, 1)).collect();
    for number in 0..WANTS {
        let name = format!("n{number}");
        world.connect(&name);
        let want = NodeMessage::Want(Want {
            length: Some(200 * PIECE),
            first: first.clone(),
            on_demand: true,
            ..want(task)
        });
        world.say(&name, want);
    }
    let named = |world: &World| {
        let key = world.scheduler.tasks.key(&task).unwrap();
        let named = &world.scheduler.tasks.get(key).unwrap().named;
        (named.pieces().count(), named.only())
    };
    assert_eq!(named(&world), (64, WANTS as usize));
    // All are asked of the seed by one message, and nothing again for those who come later.
    assert_eq!(leases(&mut world, "seed").len(), 1);
    for number in 0..WANTS {
        world.say(&format!("n{number}"), NodeMessage::Unwant(task));
    }
    assert_eq!(named(&world), (0, 0));
}
