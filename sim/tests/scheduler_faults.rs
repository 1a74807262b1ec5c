//! The scheduler is killed, started empty, out of reach, or was never there.

use std::time::Duration;

use darter_sim::scenario::scripted;
use darter_sim::{Pull, Shape, World};

const MIB: u64 = 1024 * 1024;

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
            origin_rate: 4 * MIB,
            ..Shape::default()
        };
        let mut world = World::new(seed, shape);
        let blob = world.blob(4 * MIB);
        for node in 0..4 {
            world.pull(node, &blob);
        }
        in_the_middle(&mut world, MIB);
        world.kill("scheduler-0");
        world.settle(Duration::from_secs(30));
        // Parents that are known go on; what cannot be linked without the scheduler is fetched by each node itself.
        assert!(world.origin_bytes(&blob) <= 4 * blob.length());
        assert!(world.pulls.iter().all(|pull| pull.progress().direct_bytes == 0));
        world.finish();
    });
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
