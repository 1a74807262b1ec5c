//! The scheduler is killed, started empty, out of reach, seen by some only, of another mind, or was never there.

use std::time::Duration;

use darter_sim::scenario::scripted;
use darter_sim::{Pull, Shape, World};

const MIB: u64 = 1024 * 1024;

/// Bytes that all nodes took from one another.
fn from_peers(world: &World) -> u64 {
    world
        .node_names()
        .iter()
        .map(|node| {
            world
                .node(node)
                .metric("darter_proxy_received_bytes_total", "source=\"peer\"")
        })
        .sum()
}

/// How long a node waits for a scheduler's word before it decides for itself.
const DECISION: Duration = Duration::from_millis(300);
/// The registry's answer, and a tick of the engine.
const ANSWER: Duration = Duration::from_millis(150);

/// Until some pull has so many bytes; none is over then. (Without a seed only the node that fetches can show its client
/// what it has before all of it is proved.)
fn in_the_middle(world: &mut World, bytes: u64) {
    world.run_until(Duration::from_secs(10), "a pull is in the middle", |world| {
        world.pulls.iter().any(|pull| pull.progress().bytes >= bytes)
    });
    assert!(
        !world.pulls.iter().any(Pull::is_over),
        "the fault must fall into the middle"
    );
}

#[test]
fn a_restarted_scheduler_soon_knows_what_nodes_hold() {
    scripted("a_restarted_scheduler_soon_knows_what_nodes_hold", |seed| {
        let shape = Shape {
            nodes: 3,
            origin_rate: 4 * MIB,
            ..Shape::default()
        };
        let mut world = World::new(seed, shape);
        let (held, running) = (world.blob(2 * MIB), world.blob(4 * MIB));
        world.pull(0, &held);
        world.settle(Duration::from_secs(10));
        let begun = world.pulls.len();
        for node in 0..3 {
            world.pull(node, &running);
        }
        world.run_until(Duration::from_secs(10), "a pull is in the middle", |world| {
            world
                .pulls
                .iter()
                .skip(begun)
                .all(|pull| pull.progress().bytes > MIB)
        });
        world.kill("scheduler-0");
        world.run_for(Duration::from_millis(300));
        world.restart("scheduler-0");
        world.settle(Duration::from_secs(15));

        world.run_for(Duration::from_secs(10));
        let late = world.add_node();
        world.run_for(Duration::from_secs(1));
        let before = (world.origin_bytes(&held), world.origin_bytes(&running));
        world.pull(late, &held);
        world.pull(late, &running);
        world.settle(Duration::from_secs(10));
        let after = (world.origin_bytes(&held), world.origin_bytes(&running));
        assert_eq!(before, after, "peers had it all");
        world.finish();
    });
}

#[test]
fn pulls_end_though_the_scheduler_dies_for_good() {
    scripted("pulls_end_though_the_scheduler_dies_for_good", |seed| {
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
        world.run_until(Duration::from_secs(10), "all have most of it", |world| {
            world.pulls.iter().all(|pull| pull.progress().bytes >= 3 * MIB)
        });
        assert!(!world.pulls.iter().any(Pull::is_over));
        world.kill("scheduler-0");
        world.settle(Duration::from_secs(30));
        // What cannot be linked without the scheduler is fetched by each node itself; that is the rest, not all.
        let (sent, alone) = (world.origin_bytes(&blob), 5 * blob.length());
        assert!(sent <= alone / 2, "{sent} bytes of {alone}");
        assert!(world.pulls.iter().all(|pull| pull.progress().direct_bytes == 0));
        world.finish();
    });
}

/// A pull of what three slow nodes hold, whose scheduler is taken away in the middle.
fn without_its_scheduler(seed: u64, fault: impl Fn(&mut World, &str), heal: impl Fn(&mut World, &str)) {
    let mut world = World::new(seed, Shape::default());
    let blob = world.blob(16 * MIB);
    for node in 0..3 {
        world.pull(node, &blob);
    }
    world.settle(Duration::from_secs(20));
    for node in ["node-0", "node-1", "node-2"] {
        world.node(node).spec.rate.set(MIB);
    }
    let late = world.add_node();
    world.run_for(Duration::from_secs(1));
    let pull = world.pull(late, &blob);
    let started = from_peers(&world);
    world.run_until(Duration::from_secs(20), "the pull is in the middle", |world| {
        from_peers(world) >= started + 4 * MIB
    });
    assert!(!pull.is_over());
    let name = format!("node-{late}");
    let before = (from_peers(&world), world.origin_bytes(&blob));
    fault(&mut world, &name);
    world.settle(Duration::from_secs(30));
    let after = (from_peers(&world), world.origin_bytes(&blob));
    let brought = after.0 - before.0;
    assert!(brought >= 8 * MIB, "peers brought {brought} bytes more");
    assert_eq!(after.1, before.1, "the registry was not needed");
    heal(&mut world, &name);
    world.finish();
}

#[test]
fn parents_that_are_known_are_used_when_the_scheduler_is_dead() {
    scripted(
        "parents_that_are_known_are_used_when_the_scheduler_is_dead",
        |seed| {
            without_its_scheduler(seed, |world, _| world.kill("scheduler-0"), |_, _| {});
        },
    );
}

#[test]
fn parents_that_are_known_are_used_when_the_scheduler_is_silent() {
    scripted(
        "parents_that_are_known_are_used_when_the_scheduler_is_silent",
        |seed| {
            let fault = |world: &mut World, node: &str| world.hold(node, "scheduler-0");
            let heal = |world: &mut World, node: &str| world.release(node, "scheduler-0");
            without_its_scheduler(seed, fault, heal);
        },
    );
}

/// What the mirror waited for before the first byte, when the scheduler is so.
fn decided(seed: u64, shape: Shape, fault: impl Fn(&mut World)) -> Duration {
    let mut world = World::new(seed, shape);
    fault(&mut world);
    let blob = world.blob(MIB);
    let pull = world.pull(0, &blob);
    world.settle(Duration::from_secs(10));
    assert_eq!(pull.progress().hand_overs, 0);
    let first = pull.progress().first_byte.expect("its first byte came");
    world.finish();
    first
}

#[test]
fn a_node_decides_for_itself_within_300_ms() {
    scripted("a_node_decides_for_itself_within_300_ms", |seed| {
        let none = Shape {
            schedulers: 0,
            ..Shape::default()
        };
        // Whoever is known to be gone is not asked.
        let dead = decided(seed, Shape::default(), |world| {
            world.kill("scheduler-0");
            world.run_for(Duration::from_millis(100));
        });
        let never = decided(seed, none, |_| {});
        for first in [dead, never] {
            assert!(first <= ANSWER, "first byte after {first:?}");
        }
        // Whoever says nothing is waited for, and no longer than that.
        let stopped = decided(seed, Shape::default(), |world| {
            world.hold("node-0", "scheduler-0")
        });
        let dropped = decided(seed, Shape::default(), |world| {
            world.partition("node-0", "scheduler-0")
        });
        for first in [stopped, dropped] {
            assert!(first >= DECISION, "first byte after {first:?}");
            assert!(first <= DECISION + ANSWER, "first byte after {first:?}");
        }
    });
}

#[test]
fn a_scheduler_that_comes_back_knows_all_within_ten_seconds() {
    scripted(
        "a_scheduler_that_comes_back_knows_all_within_ten_seconds",
        |seed| {
            let mut world = World::new(seed, Shape::default());
            let (first, second) = (world.blob(MIB), world.blob(MIB));
            for (node, blob) in [(0, &first), (1, &second)] {
                world.pull(node, blob);
            }
            world.settle(Duration::from_secs(10));
            // Long enough that nodes try seldom.
            world.kill("scheduler-0");
            world.run_for(Duration::from_secs(40));
            world.restart("scheduler-0");
            world.run_for(Duration::from_secs(10));
            assert!(world.nodes_speak_to(1));
            // Out of reach is another thing than dead: connections hang.
            for node in world.node_names() {
                world.partition(&node, "scheduler-0");
            }
            world.run_for(Duration::from_secs(40));
            for node in world.node_names() {
                world.repair(&node, "scheduler-0");
            }
            world.run_for(Duration::from_secs(10));
            assert!(world.nodes_speak_to(1));
            let late = world.add_node();
            world.run_for(Duration::from_secs(1));
            let before = (world.origin_bytes(&first), world.origin_bytes(&second));
            world.pull(late, &first);
            world.pull(late, &second);
            world.settle(Duration::from_secs(10));
            let after = (world.origin_bytes(&first), world.origin_bytes(&second));
            assert_eq!(before, after, "it knows who holds what");
            world.finish();
        },
    );
}

#[test]
fn a_scheduler_behind_a_black_hole_delays_and_does_not_stop() {
    scripted(
        "a_scheduler_behind_a_black_hole_delays_and_does_not_stop",
        |seed| {
            let mut world = World::new(seed, Shape::default());
            for node in ["node-0", "node-1", "node-2"] {
                world.partition(node, "scheduler-0");
            }
            let blob = world.blob(MIB);
            for node in 0..3 {
                world.pull(node, &blob);
            }
            world.settle(Duration::from_secs(10));
            for pull in &world.pulls {
                let first = pull.progress().first_byte.unwrap();
                assert!(first <= Duration::from_secs(1), "first byte after {first:?}");
            }
            world.finish();
        },
    );
}

#[test]
fn nodes_without_any_scheduler_pull() {
    scripted("nodes_without_any_scheduler_pull", |seed| {
        let mut world = World::new(
            seed,
            Shape {
                schedulers: 0,
                ..Shape::default()
            },
        );
        let blob = world.blob(MIB);
        for node in 0..3 {
            world.pull(node, &blob);
        }
        world.settle(Duration::from_secs(10));
        assert!(world.origin_bytes(&blob) <= 3 * blob.length());
        assert!(world.pulls.iter().all(|pull| pull.progress().hand_overs == 0));
        world.finish();
    });
}

#[test]
fn one_of_two_schedulers_dies() {
    scripted("one_of_two_schedulers_dies", |seed| {
        let shape = Shape {
            schedulers: 2,
            origin_rate: 4 * MIB,
            ..Shape::default()
        };
        let mut world = World::new(seed, shape);
        let blobs = [world.blob(2 * MIB), world.blob(2 * MIB), world.blob(2 * MIB)];
        for blob in &blobs {
            for node in 0..3 {
                world.pull(node, blob);
            }
        }
        in_the_middle(&mut world, 1);
        world.kill("scheduler-1");
        world.settle(Duration::from_secs(30));
        world.finish();
    });
}

#[test]
fn a_node_that_sees_one_scheduler_of_two_pulls_all() {
    scripted("a_node_that_sees_one_scheduler_of_two_pulls_all", |seed| {
        let shape = Shape {
            schedulers: 2,
            ..Shape::default()
        };
        let mut world = World::new(seed, shape);
        world.partition("node-0", "scheduler-1");
        let mut asked = Vec::new();
        for wait in [0, 20] {
            // At first it believes that it sees both, then it knows better.
            world.run_for(Duration::from_secs(wait));
            let blobs: Vec<_> = (0..6).map(|_| world.blob(MIB)).collect();
            for blob in &blobs {
                for node in 0..3 {
                    asked.push(world.pull(node, blob));
                }
            }
            world.settle(Duration::from_secs(30));
            for blob in &blobs {
                // Node 0 fetches for itself what it cannot ask for, the others share.
                assert!(world.origin_bytes(blob) <= 2 * blob.length() + blob.length() / 50);
            }
        }
        assert!(asked.iter().all(|pull| pull.progress().direct_bytes == 0));
        world.repair("node-0", "scheduler-1");
        world.run_for(Duration::from_secs(10));
        assert!(world.nodes_speak_to(2), "it is whole again");
        let after = world.blob(MIB);
        for node in 0..3 {
            world.pull(node, &after);
        }
        world.settle(Duration::from_secs(10));
        world.finish();
    });
}

/// What schedulers may say in such a test: nobody is sent in circles.
const SAID_MAX: u64 = 100_000;

#[test]
fn schedulers_that_disagree_stop_nobody() {
    // Each knows itself alone; one knows both. (One that does not know itself does not start, and of those that do each sends
    // on to a greater weight: there is no circle.)
    let rings: [&[&[usize]]; 3] = [&[&[0], &[1]], &[&[0], &[0, 1]], &[&[0, 1], &[1]]];
    for ring in rings {
        scripted("schedulers_that_disagree_stop_nobody", |seed| {
            let shape = Shape {
                schedulers: 2,
                ..Shape::default()
            };
            let mut world = World::disagreeing(seed, shape, ring);
            let blobs: Vec<_> = (0..4).map(|_| world.blob(MIB)).collect();
            for blob in &blobs {
                for node in 0..3 {
                    world.pull(node, blob);
                }
            }
            world.settle(Duration::from_secs(30));
            for blob in &blobs {
                assert!(world.origin_bytes(blob) <= 3 * blob.length());
            }
            for pull in &world.pulls {
                let first = pull.progress().first_byte.unwrap();
                assert!(
                    first <= DECISION + ANSWER * 2,
                    "{ring:?}: first byte after {first:?}"
                );
            }
            let said = world.schedulers_sent();
            assert!(said <= SAID_MAX, "{ring:?}: schedulers said {said} bytes");
            world.finish();
        });
    }
}

#[test]
fn two_nodes_of_one_name_both_pull() {
    scripted("two_nodes_of_one_name_both_pull", |seed| {
        let mut world = World::new(seed, Shape::default());
        let twin = world.add_node_as("node-0");
        world.run_for(Duration::from_secs(1));
        let blobs: Vec<_> = (0..4).map(|_| world.blob(MIB)).collect();
        for blob in &blobs {
            for node in [0, twin, 1, 2] {
                world.pull(node, blob);
            }
        }
        world.settle(Duration::from_secs(30));
        for blob in &blobs {
            assert!(world.origin_bytes(blob) <= 4 * blob.length());
        }
        world.finish();
    });
}
