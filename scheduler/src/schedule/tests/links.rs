//! Chains: relayed, trusted, asked for, disputed, forgotten.

use super::*;

#[test]
fn states_are_relayed_at_once_to_everybody_who_wants_the_task() {
    let mut world = World::with(&["seed-1", "a", "b", "c"]);
    world.want("a", task(1));
    world.want("b", task(1));
    world.sent.clear();
    world.say("seed-1", links(task(1), 1, 9, 1, &[1, 2]));
    for host in ["a", "b"] {
        assert_eq!(world.told(host), ["links 1+2 trusted"]);
    }
    assert!(world.told("c").is_empty() && world.told("seed-1").is_empty());
    world.say("seed-1", links(task(1), 1, 9, 1, &[1, 2]));
    assert!(world.sent.is_empty(), "nothing new");
    world.say("seed-1", links(task(1), 1, 9, 3, &[3]));
    assert_eq!(world.told("a"), ["links 3+1 trusted"]);
}

#[test]
fn a_chain_of_an_ordinary_node_is_not_trusted_until_a_seed_says_the_same() {
    let mut world = World::with(&["a", "b"]);
    world.want("a", task(1));
    world.want("b", task(1));
    world.sent.clear();
    world.say("a", links(task(1), 1, 9, 1, &[1, 2]));
    assert_eq!(world.told("b"), ["links 1+2 untrusted"]);
    world.connect("seed-1");
    world.disconnect("a");
    assert_eq!(world.lease(task(1)), Some(("seed-1".into(), 2)));
    assert_eq!(
        world.told("seed-1"),
        ["welcome", "links 1+2 untrusted", "lease 2"]
    );
    world.sent.clear();
    world.say("seed-1", links(task(1), 2, 9, 1, &[1, 2, 3]));
    assert_eq!(world.told("b"), ["links 1+3 trusted"]);
}

#[test]
fn only_the_holder_of_the_lease_publishes() {
    let mut world = World::with(&["seed-1", "a", "b"]);
    world.want("a", task(1));
    world.want("b", task(1));
    world.sent.clear();
    for epoch in [0, 1, 2] {
        world.say("b", links(task(1), epoch, 9, 1, &[1]));
    }
    assert_eq!(world.sent, []);
    assert!(world.task(task(1)).unwrap().chain.is_none());
}

#[test]
fn a_restarted_scheduler_asks_a_holder_for_the_chain_seeds_first() {
    let mut world = World::with(&["seed-1", "a", "b"]);
    world.say("a", held(task(1), 3, &[run(0, 3)], 3));
    world.say("seed-1", held(task(1), 3, &[run(0, 3)], 3));
    world.want("b", task(1));
    assert_eq!(world.told("seed-1"), ["send links 1"]);
    assert_eq!(world.told("b"), ["parents a seed-1"]);
    world.say("seed-1", links(task(1), 0, 3, 1, &[1, 2]));
    assert_eq!(world.told("b"), ["links 1+2 trusted"]);
    assert_eq!(world.lease(task(1)), None);
}

#[test]
fn the_next_holder_is_asked_when_the_first_does_not_answer_and_then_it_is_fetched() {
    let mut world = World::with(&["seed-1", "a", "b"]);
    world.say("a", held(task(1), 3, &[run(0, 3)], 3));
    world.say("seed-1", held(task(1), 3, &[run(0, 3)], 3));
    world.want("b", task(1));
    world.sent.clear();
    world.pass(Duration::from_millis(1_500));
    assert_eq!(world.told("a"), ["send links 1"]);
    world.pass(Duration::from_millis(1_500));
    assert_eq!(world.lease(task(1)).unwrap().0, "b");
    assert_eq!(
        world.told("b").last().unwrap(),
        "lease 1",
        "all of it, since no chain is known"
    );
}

#[test]
fn a_content_of_one_piece_needs_no_chain() {
    let mut world = World::with(&["a", "b"]);
    world.say("a", held(task(1), 1, &[run(0, 1)], 1));
    world.want("b", task(1));
    assert_eq!(world.told("b"), ["parents a"]);
    assert!(world.told("a").is_empty());
}

#[test]
fn authors_who_disagree_lose_leases_and_everybody_goes_alone() {
    let mut world = World::with(&["seed-1", "seed-2", "a"]);
    world.want("a", task(1));
    let (first, epoch) = world.lease(task(1)).unwrap();
    world.say(&first, links(task(1), epoch, 9, 1, &[1, 2]));
    world.disconnect(&first);
    let (second, epoch) = world.lease(task(1)).unwrap();
    world.sent.clear();
    world.say(&second, links(task(1), epoch, 9, 1, &[1, 7]));
    assert_eq!(
        world.told("a"),
        [
            "alone: two nodes disagree about its content",
            "forget links",
            "parents"
        ]
    );
    assert_eq!(world.told(&second), ["forget links", "revoked 2"]);
    assert!(world.task(task(1)).unwrap().chain.is_none());
    world.want("a", task(2));
    assert_eq!(
        world.lease(task(2)).unwrap().0,
        "a",
        "the seed gets no leases for a while"
    );
}

#[test]
fn a_wrong_content_drops_the_chain_and_denies_its_author_leases() {
    let mut world = World::with(&["seed-1", "a"]);
    world.want("a", task(1));
    world.say("seed-1", links(task(1), 1, 9, 1, &[1]));
    world.sent.clear();
    world.say("seed-1", ended(task(1), 1, LeaseOutcome::WrongContent));
    assert!(
        world
            .told("a")
            .contains(&"alone: the content is not what its digest says".to_owned())
    );
    world.want("a", task(2));
    assert_eq!(world.lease(task(2)).unwrap().0, "a");
    world.pass(Duration::from_secs(601));
    world.want("a", task(3));
    assert_eq!(world.lease(task(3)).unwrap().0, "seed-1");
}

#[test]
fn a_content_that_its_origin_changed_begins_anew_and_is_nobodys_fault() {
    let mut world = World::with(&["seed-1", "a"]);
    world.want("a", task(1));
    world.say("seed-1", links(task(1), 1, 9, 1, &[1]));
    world.sent.clear();
    world.say("seed-1", ended(task(1), 1, LeaseOutcome::Changed));
    let told = world.told("a");
    assert!(told.contains(&"alone: the origin changed the content while it was read".to_owned()));
    assert!(told.contains(&"forget links".to_owned()), "{told:?}");
    assert!(world.task(task(1)).unwrap().chain.is_none());
    world.want("a", task(2));
    assert_eq!(world.lease(task(2)).unwrap().0, "seed-1");
}

#[test]
fn a_contradiction_drops_the_chain_and_the_next_one_has_another_author() {
    let mut world = World::with(&["seed-1", "seed-2", "a", "b"]);
    world.want("a", task(1));
    let (liar, _) = world.lease(task(1)).unwrap();
    world.fetched(&liar, task(1), 9);
    world.want("b", task(1));
    world.sent.clear();
    let complain = || ended(task(1), 0, LeaseOutcome::WrongContent);
    world.say("a", complain());
    assert!(
        world
            .told("b")
            .contains(&"alone: the registry contradicts its chain".to_owned())
    );
    assert!(world.told("a").contains(&"forget links".to_owned()));
    assert!(world.task(task(1)).unwrap().chain.is_none());
    // The liar says it again, unasked, and nobody listens.
    world.say(&liar, links(task(1), 0, 9, 1, &[1, 2]));
    assert!(world.task(task(1)).unwrap().chain.is_none());
    world.want("b", task(1));
    let (holder, epoch) = world.lease(task(1)).unwrap();
    assert_ne!(holder, liar, "another one reads the registry");
    world.say(&holder, links(task(1), epoch, 9, 1, &[7, 8]));
    world.sent.clear();
    // The same node is not heard again, and a stranger not at all.
    world.say("a", complain());
    world.connect("c");
    world.say("c", complain());
    assert!(world.task(task(1)).unwrap().chain.is_some());
}

#[test]
fn a_lease_that_ends_in_wrong_content_puts_the_chains_author_in_doubt_as_well() {
    let mut world = World::with(&["a", "b"]);
    // All but the last piece, which fits no chain that is wrong.
    world.say("b", held(task(1), 9, &[run(0, 8)], 9));
    world.want("a", task(1));
    let lie = links(task(1), 0, 9, 1, &[1, 2, 3, 4, 5, 6, 7, 8]);
    world.say("b", lie.clone());
    let (holder, epoch) = world.lease(task(1)).unwrap();
    assert_eq!(holder, "a");
    world.say("a", ended(task(1), epoch, LeaseOutcome::WrongContent));
    assert!(world.task(task(1)).unwrap().chain.is_none());
    world.say("b", lie);
    assert!(
        world.task(task(1)).unwrap().chain.is_none(),
        "the liar is heard again"
    );
}

#[test]
fn who_waits_for_a_content_without_links_hears_of_its_length() {
    let mut world = World::with(&["seed-1", "a"]);
    world.want("a", task(1));
    world.sent.clear();
    world.say("seed-1", have(task(1), 1, &[run(0, 1)]));
    let lengths: Vec<_> = world
        .sent
        .iter()
        .filter_map(|(to, message)| match message {
            SchedulerMessage::Parents(parents) if *to == id("a") => Some(parents.length),
            _ => None,
        })
        .collect();
    assert_eq!(lengths, [Some(PIECE)]);
    world.sent.clear();
    world.say("seed-1", have(task(1), 1, &[run(0, 1)]));
    assert!(world.told("a").is_empty(), "once");
}

#[test]
fn the_lease_holders_length_wins_and_others_go_alone() {
    let mut world = World::with(&["seed-1", "a", "b"]);
    world.want("a", task(1));
    world.say("seed-1", have(task(1), 9, &[run(0, 1)]));
    world.sent.clear();
    world.say("a", have(task(1), 8, &[run(0, 1)]));
    assert_eq!(world.told("a"), ["alone: its length differs from the origin's"]);
    world.say(
        "b",
        NodeMessage::Want(Want {
            length: Some(8 * PIECE),
            ..want(task(1))
        }),
    );
    assert_eq!(world.told("b"), ["alone: its length differs from the origin's"]);
    assert_eq!(world.task(task(1)).unwrap().length, Some(9 * PIECE));
}

#[test]
fn the_chain_of_a_task_that_nobody_wants_is_forgotten() {
    let mut world = World::with(&["seed-1", "a"]);
    world.want("a", task(1));
    world.fetched("seed-1", task(1), 3);
    world.say("a", NodeMessage::Unwant(task(1)));
    world.pass(Duration::from_secs(200));
    assert!(world.task(task(1)).unwrap().chain.is_some());
    world.pass(Duration::from_secs(150));
    assert!(world.task(task(1)).unwrap().chain.is_none());
    world.sent.clear();
    world.want("a", task(1));
    assert_eq!(world.told("seed-1"), ["send links 1"]);
}
