//! Other nodes die, lie, or say nothing.

use std::time::Duration;

use darter_proxy::config::Config;
use darter_proxy::pull::Release;
use darter_sim::scenario::scripted;
use darter_sim::{Blob, Pull, Shape, World};

const MIB: u64 = 1024 * 1024;

/// A world whose first `nodes` nodes hold a blob, and a new node that does not.
fn all_hold(seed: u64, nodes: usize) -> (World, Blob, usize) {
    let mut world = World::new(
        seed,
        Shape {
            nodes,
            ..Shape::default()
        },
    );
    let blob = world.blob(4 * MIB);
    for node in 0..nodes {
        world.pull(node, &blob);
    }
    world.settle(Duration::from_secs(10));
    let late = world.add_node();
    world.run_for(Duration::from_secs(1));
    (world, blob, late)
}

#[test]
fn the_seed_dies_in_mid_pull() {
    scripted("the_seed_dies_in_mid_pull", |seed| {
        let shape = Shape {
            nodes: 4,
            seeds: 1,
            origin_rate: 4 * MIB,
            ..Shape::default()
        };
        let mut world = World::new(seed, shape);
        let blob = world.blob(4 * MIB);
        for node in 0..4 {
            world.pull(node, &blob);
        }
        world.run_until(Duration::from_secs(10), "the pulls are in the middle", |world| {
            world.pulls.iter().all(|pull| pull.progress().bytes >= MIB)
        });
        assert!(!world.pulls.iter().any(Pull::is_over));
        world.kill("seed-0");
        world.settle(Duration::from_secs(20));
        assert!(
            world.origin_bytes(&blob) <= 2 * blob.length(),
            "what nodes have is not fetched again by all"
        );
        world.finish();
    });
}

#[test]
fn a_serving_peer_dies_in_mid_pull() {
    scripted("a_serving_peer_dies_in_mid_pull", |seed| {
        let (mut world, blob, late) = all_hold(seed, 2);
        for node in ["node-0", "node-1"] {
            world.node(node).spec.rate.set(4 * MIB);
        }
        let before = world.origin_bytes(&blob);
        let pull = world.pull(late, &blob);
        world.run_until(Duration::from_secs(10), "the pull is in the middle", |_| {
            pull.progress().bytes >= MIB
        });
        world.kill("node-0");
        world.settle(Duration::from_secs(20));
        assert_eq!(world.origin_bytes(&blob), before, "the other peer has it");
        world.finish();
    });
}

#[test]
fn a_peer_loses_power_and_comes_back() {
    scripted("a_peer_loses_power_and_comes_back", |seed| {
        let (mut world, blob, late) = all_hold(seed, 2);
        world.node("node-0").spec.rate.set(4 * MIB);
        world.node("node-1").spec.rate.set(4 * MIB);
        let pull = world.pull(late, &blob);
        world.run_until(Duration::from_secs(10), "the pull is in the middle", |_| {
            pull.progress().bytes >= MIB
        });
        world.power_cut("node-0");
        world.run_for(Duration::from_millis(500));
        world.restart("node-0");
        world.settle(Duration::from_secs(20));
        // What it kept must be linked again before it is served, to itself and to others.
        world.pull(0, &blob);
        world.settle(Duration::from_secs(10));
        let kept = world
            .node("node-0")
            .metric("darter_proxy_served_bytes_total", "source=\"cache\"");
        let lost = world
            .node("node-0")
            .metric("darter_proxy_verify_failures_total", "source=\"store\"");
        assert!(
            kept + lost > 0,
            "what it kept is linked again, and served or refused"
        );
        world.finish();
    });
}

#[test]
fn all_peers_flip_bits() {
    scripted("all_peers_flip_bits", |seed| {
        let (mut world, blob, late) = all_hold(seed, 4);
        for node in ["node-0", "node-1", "node-2", "node-3"] {
            assert!(world.rot(node, &blob) > 0);
        }
        let before = world.origin_bytes(&blob);
        let pull = world.pull(late, &blob);
        world.settle(Duration::from_secs(10));
        let sent = world.origin_bytes(&blob) - before;
        let most = blob.length() + blob.length() / 20;
        assert!(
            sent <= most,
            "the registry sent {sent} bytes of {} because peers lie",
            blob.length()
        );
        let name = format!("node-{late}");
        assert!(
            world
                .node(&name)
                .metric("darter_proxy_parent_failures_total", "wrong_bytes")
                > 0
        );
        let moved = |name: &str, source: &str| {
            let label = format!("source=\"{source}\"");
            world.node(&format!("node-{late}")).metric(name, &label)
        };
        assert!(moved("darter_proxy_verify_failures_total", "peer") > 0);
        assert!(pull.progress().took.unwrap() <= Duration::from_secs(3));
        world.finish();
    });
}

#[test]
fn one_of_three_peers_flips_bits() {
    scripted("one_of_three_peers_flips_bits", |seed| {
        let (mut world, blob, late) = all_hold(seed, 3);
        assert!(world.rot("node-1", &blob) > 0);
        let before = world.origin_bytes(&blob);
        world.pull(late, &blob);
        world.settle(Duration::from_secs(10));
        let name = format!("node-{late}");
        let bad = world
            .node(&name)
            .metric("darter_proxy_parent_failures_total", "wrong_bytes");
        assert!(bad <= 1, "{bad} wrong pieces were taken from one peer");
        assert_eq!(world.origin_bytes(&blob), before, "the others have it");
        world.finish();
    });
}

#[test]
fn all_peers_are_black_holes() {
    scripted("all_peers_are_black_holes", |seed| {
        let (mut world, blob, late) = all_hold(seed, 3);
        let name = format!("node-{late}");
        for node in ["node-0", "node-1", "node-2"] {
            world.partition(&name, node);
        }
        let pull = world.pull(late, &blob);
        world.settle(Duration::from_secs(10));
        let progress = pull.progress();
        assert!(
            progress.first_byte.unwrap() <= Duration::from_secs(1),
            "{progress:?}"
        );
        assert!(world.origin_bytes(&blob) <= 2 * blob.length() + blob.length() / 50);
        world.finish();
    });
}

#[test]
fn a_silent_parent_is_replaced() {
    scripted("a_silent_parent_is_replaced", |seed| {
        let (mut world, blob, late) = all_hold(seed, 2);
        for node in ["node-0", "node-1"] {
            world.node(node).spec.rate.set(8 * MIB);
        }
        let name = format!("node-{late}");
        let pull = world.pull(late, &blob);
        world.run_until(Duration::from_secs(10), "the pull has begun", |_| {
            pull.progress().bytes > 0
        });
        world.hold(&name, "node-0");
        world.settle(Duration::from_secs(10));
        let progress = pull.progress();
        assert!(progress.longest_gap <= Duration::from_secs(5), "{progress:?}");
        assert!(progress.took.unwrap() <= Duration::from_secs(4), "{progress:?}");
        world.release(&name, "node-0");
        world.finish();
    });
}

#[test]
fn a_slow_parent_is_no_brake() {
    scripted("a_slow_parent_is_no_brake", |seed| {
        let (mut world, blob, late) = all_hold(seed, 3);
        world.slow_down("node-0", 64 * 1024);
        let pull = world.pull(late, &blob);
        world.settle(Duration::from_secs(20));
        let progress = pull.progress();
        assert!(progress.longest_gap <= Duration::from_secs(5), "{progress:?}");
        world.finish();
    });
}

#[test]
fn the_only_holder_drips_or_says_nothing_and_the_registry_is_asked() {
    let name = "the_only_holder_drips_or_says_nothing_and_the_registry_is_asked";
    scripted(name, |seed| {
        for pause in [Duration::from_secs(1), Duration::from_secs(3600)] {
            let mut world = World::new(
                seed,
                Shape {
                    nodes: 1,
                    ..Shape::default()
                },
            );
            let blob = world.blob(8 * MIB);
            world.pull(0, &blob);
            world.settle(Duration::from_secs(10));
            let late = world.add_node();
            world.run_for(Duration::from_secs(1));
            world.drip("node-0", pause);
            let before = world.origin_bytes(&blob);
            let pull = world.pull(late, &blob);
            world.settle(Duration::from_secs(30));
            let progress = pull.progress();
            assert!(progress.longest_gap <= Duration::from_secs(5), "{progress:?}");
            assert!(progress.took.unwrap() <= Duration::from_secs(8), "{progress:?}");
            assert_eq!(progress.hand_overs, 0, "{progress:?}");
            let sent = world.origin_bytes(&blob) - before;
            assert!(
                sent <= blob.length() + blob.length() / 50,
                "the registry sent {sent}"
            );
            world.finish();
        }
    });
}

#[test]
fn a_killed_proxy_hands_over_and_knows_its_pieces_after() {
    scripted("a_killed_proxy_hands_over_and_knows_its_pieces_after", |seed| {
        let mut world = World::new(
            seed,
            Shape {
                nodes: 2,
                origin_rate: 4 * MIB,
                ..Shape::default()
            },
        );
        let blob = world.blob(4 * MIB);
        let pull = world.pull(0, &blob);
        world.run_until(Duration::from_secs(10), "the pull is in the middle", |_| {
            pull.progress().bytes >= 2 * MIB
        });
        world.kill("node-0");
        world.settle(Duration::from_secs(10));
        assert!(
            pull.progress().hand_overs > 0,
            "the client went on at the registry"
        );
        world.restart("node-0");
        world.run_for(Duration::from_secs(2));
        let before = world.origin.bytes_sent_for(&blob.digest);
        let again = world.pull(0, &blob);
        world.settle(Duration::from_secs(10));
        assert_eq!(again.progress().hand_overs, 0);
        let sent = world.origin.bytes_sent_for(&blob.digest) - before;
        assert!(
            sent <= blob.length() / 2 + MIB,
            "{sent} bytes fetched again though two MiB were marked"
        );
        world.finish();
    });
}

#[test]
fn a_full_disk_is_no_reason_to_fail() {
    scripted("a_full_disk_is_no_reason_to_fail", |seed| {
        let mut world = World::new(
            seed,
            Shape {
                nodes: 2,
                ..Shape::default()
            },
        );
        let blobs = [world.blob(2 * MIB), world.blob(2 * MIB)];
        world.fill_disk("node-0", 0);
        world.fill_disk("node-1", MIB);
        for node in 0..2 {
            world.pull(node, &blobs[0]);
        }
        world.settle(Duration::from_secs(30));
        for node in ["node-0", "node-1"] {
            world.empty_disk(node);
        }
        world.run_for(Duration::from_secs(10));
        for node in 0..2 {
            world.pull(node, &blobs[1]);
        }
        world.settle(Duration::from_secs(10));
        world.sent_once_to_nodes(&blobs[1]);
        world.finish();
    });
}

/// So many nodes, and two seeds of which one has a forged content in its store and a key that makes others believe it.
fn with_a_stolen_key(seed: u64, nodes: usize, edit: fn(&mut Config)) -> (World, Blob) {
    let shape = Shape {
        nodes,
        seeds: 2,
        ..Shape::default()
    };
    let mut world = World::with(seed, shape, edit);
    let blob = world.blob(4 * MIB);
    // It says what it holds to a scheduler that knows nothing.
    world.kill("scheduler-0");
    world.poison("seed-0", &blob);
    world.restart("scheduler-0");
    world.run_for(Duration::from_secs(10));
    (world, blob)
}

/// Pulls whose clients read a lie: none of them got the end of it from Darter.
fn the_last_piece_came_from_the_registry(lied_to: &[Pull]) {
    for pull in lied_to {
        let progress = pull.progress();
        let last = pull.blob.layout().piece_range(pull.blob.layout().last_piece());
        let ended = progress.bytes == pull.blob.length();
        assert!(!ended || progress.direct_bytes >= last.len(), "{progress:?}");
        assert!(progress.hand_overs > 0, "{progress:?}");
    }
}

/// Five seconds after a lie came out, everybody reads the truth, those as well that come new, and nothing from who forged it.
fn the_lie_is_over(mut world: World, blob: &Blob, nodes: usize) {
    world.run_for(Duration::from_secs(5));
    let forged = |world: &World| {
        world
            .node("seed-0")
            .metric("darter_proxy_peer_sent_bytes_total", "")
    };
    let told = forged(&world);
    assert!(told > 0, "the lie was told at all");
    let before = world.origin_bytes(blob);
    for node in 0..nodes {
        world.pull(node, blob);
    }
    world.settle(Duration::from_secs(20));
    let sent = world.origin_bytes(blob) - before;
    // At most each node for itself, and the honest seed.
    assert!(sent <= (nodes as u64 + 1) * blob.length(), "{sent} bytes");
    let late = world.add_node();
    world.run_for(Duration::from_secs(1));
    world.pull(late, blob);
    world.settle(Duration::from_secs(20));
    assert_eq!(forged(&world), told, "nobody takes a byte from who forged it");
    world.finish();
}

#[test]
fn one_pull_fails_by_a_seed_whose_key_was_stolen() {
    scripted("one_pull_fails_by_a_seed_whose_key_was_stolen", |seed| {
        let (mut world, blob) = with_a_stolen_key(seed, 3, |_| {});
        world.pull(0, &blob);
        world.settle(Duration::from_secs(20));
        let lied_to: Vec<Pull> = world.pulls.drain(..).collect();
        assert!(lied_to[0].progress().wrong_bytes > 0, "the lie was told at all");
        the_last_piece_came_from_the_registry(&lied_to);
        the_lie_is_over(world, &blob, 3);
    });
}

#[test]
fn pulls_that_run_when_a_lie_comes_out_never_end_in_it() {
    scripted("pulls_that_run_when_a_lie_comes_out_never_end_in_it", |seed| {
        let (mut world, blob) = with_a_stolen_key(seed, 6, |_| {});
        for node in 0..6 {
            world.pull(node, &blob);
        }
        world.settle(Duration::from_secs(20));
        let all: Vec<Pull> = world.pulls.drain(..).collect();
        let lied_to: Vec<Pull> = all
            .into_iter()
            .filter(|pull| pull.progress().wrong_bytes > 0)
            .collect();
        assert!(!lied_to.is_empty(), "the lie was told at all");
        the_last_piece_came_from_the_registry(&lied_to);
        the_lie_is_over(world, &blob, 6);
    });
}

/// Whether one of so many nodes received more than the blob has bytes: some were dropped, for they did not fit.
fn was_told_the_lie(world: &World, blob: &Blob, nodes: usize) -> bool {
    let received = |node: usize| {
        let node = world.node(&format!("node-{node}"));
        node.metric("darter_proxy_received_bytes_total", "")
    };
    (0..nodes).any(|node| received(node) > blob.length())
}

#[test]
fn no_pull_fails_by_a_stolen_key_where_clients_wait_for_the_proof() {
    scripted(
        "no_pull_fails_by_a_stolen_key_where_clients_wait_for_the_proof",
        |seed| {
            let proved = |config: &mut Config| config.pull.release = Release::Proved;
            let (mut world, blob) = with_a_stolen_key(seed, 6, proved);
            for node in 0..6 {
                world.pull(node, &blob);
            }
            world.settle(Duration::from_secs(20));
            assert!(was_told_the_lie(&world, &blob, 6), "the lie was told at all");
            for pull in &world.pulls {
                let progress = pull.progress();
                let alone = (progress.hand_overs, progress.broken_bodies, progress.direct_bytes);
                assert_eq!(alone, (0, 0, 0), "through {}: {progress:?}", pull.node);
            }
            // That all is there and nothing wrong says the oracle, of these pulls as well.
            the_lie_is_over(world, &blob, 6);
        },
    );
}

#[test]
fn the_first_pull_of_a_forged_content_ends_well_where_clients_wait_for_the_proof() {
    scripted(
        "the_first_pull_of_a_forged_content_ends_well_where_clients_wait_for_the_proof",
        |seed| {
            let proved = |config: &mut Config| config.pull.release = Release::Proved;
            let (mut world, blob) = with_a_stolen_key(seed, 3, proved);
            world.pull(0, &blob);
            world.settle(Duration::from_secs(20));
            assert!(was_told_the_lie(&world, &blob, 1), "the lie was told at all");
            let progress = world.pulls[0].progress();
            assert_eq!(
                (progress.hand_overs, progress.direct_bytes),
                (0, 0),
                "{progress:?}"
            );
            the_lie_is_over(world, &blob, 3);
        },
    );
}
