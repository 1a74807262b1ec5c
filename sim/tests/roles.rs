//! A peer becomes a seed and a seed steps down while contents are being fetched.

use std::time::Duration;

use darter_proxy::config::NodeRole;
use darter_sim::scenario::scripted;
use darter_sim::{Pull, Shape, World};

const MIB: u64 = 1024 * 1024;

/// Bytes that a node read from the registry.
fn fetched(world: &World, node: &str) -> u64 {
    world
        .node(node)
        .metric("darter_proxy_received_bytes_total", "source=\"origin\"")
}

/// Four nodes and one seed on a slow registry, in the middle of a content that the seed fetches for three of them.
fn in_mid_pull(seed: u64) -> (World, darter_sim::Blob) {
    let shape = Shape {
        nodes: 4,
        seeds: 1,
        schedulers: 2,
        origin_rate: 4 * MIB,
        ..Shape::default()
    };
    let mut world = World::new(seed, shape);
    let blob = world.blob(4 * MIB);
    for node in 0..3 {
        world.pull(node, &blob);
    }
    world.run_until(Duration::from_secs(10), "the pulls are in the middle", |world| {
        world.pulls.iter().all(|pull| pull.progress().bytes >= MIB)
    });
    assert!(
        !world.pulls.iter().any(Pull::is_over),
        "the change must fall into the middle"
    );
    (world, blob)
}

#[test]
fn a_peer_becomes_a_seed_in_mid_run_and_takes_leases() {
    scripted("a_peer_becomes_a_seed_in_mid_run_and_takes_leases", |seed| {
        let (mut world, running) = in_mid_pull(seed);
        world.node("node-3").set_role(NodeRole::Seed);
        world.run_for(Duration::from_millis(50));
        // Leases are spread over both from here on.
        let later: Vec<_> = (0..12).map(|_| world.blob(MIB)).collect();
        for blob in &later {
            for node in 0..3 {
                world.pull(node, blob);
            }
        }
        world.settle(Duration::from_secs(30));
        world.sent_once(&running);
        later.iter().for_each(|blob| world.sent_once(blob));
        let (old, new) = (fetched(&world, "seed-0"), fetched(&world, "node-3"));
        assert!(old > running.length(), "the old seed goes on: {old}");
        assert!(new >= MIB, "the new one fetches: {new}");
        assert_eq!(old + new, running.length() + 12 * MIB, "and nobody else does");
        world.finish();
    });
}

#[test]
fn a_seed_steps_down_and_its_leases_end_well() {
    scripted("a_seed_steps_down_and_its_leases_end_well", |seed| {
        let (mut world, running) = in_mid_pull(seed);
        world.node("node-3").set_role(NodeRole::Seed);
        world.node("seed-0").set_role(NodeRole::Peer);
        let before: u64 = world.pulls.iter().map(|pull| pull.progress().bytes).sum();
        world.run_for(Duration::from_millis(300));
        let after: u64 = world.pulls.iter().map(|pull| pull.progress().bytes).sum();
        assert!(
            after > before,
            "its word counts for the lease that it has: clients get on"
        );
        let later = world.blob(2 * MIB);
        for node in 0..3 {
            world.pull(node, &later);
        }
        world.settle(Duration::from_secs(30));
        world.sent_once(&running);
        world.sent_once(&later);
        assert_eq!(
            fetched(&world, "seed-0"),
            running.length(),
            "all of the first, none of the second"
        );
        assert_eq!(fetched(&world, "node-3"), later.length());

        // It holds what it held: a late node needs nothing of the registry.
        let late = world.add_node();
        world.run_for(Duration::from_secs(1));
        world.pull(late, &running);
        world.settle(Duration::from_secs(10));
        world.sent_once(&running);
        world.finish();
    });
}

#[test]
fn a_role_outlives_streams_and_not_restarts() {
    scripted("a_role_outlives_streams_and_not_restarts", |seed| {
        let mut world = World::new(
            seed,
            Shape {
                nodes: 2,
                ..Shape::default()
            },
        );
        world.node("node-1").set_role(NodeRole::Seed);
        world.kill("scheduler-0");
        world.run_for(Duration::from_millis(200));
        world.restart("scheduler-0");
        world.run_for(Duration::from_secs(10));
        let first = world.blob(MIB);
        world.pull(0, &first);
        world.settle(Duration::from_secs(10));
        assert_eq!(
            fetched(&world, "node-1"),
            MIB,
            "the new scheduler knows it as a seed"
        );

        world.kill("node-1");
        world.run_for(Duration::from_millis(200));
        world.restart("node-1");
        world.run_for(Duration::from_secs(2));
        let second = world.blob(MIB);
        world.pull(0, &second);
        world.settle(Duration::from_secs(10));
        assert_eq!(
            fetched(&world, "node-0"),
            MIB,
            "the first asker fetches: there is no seed"
        );
        world.finish();
    });
}
