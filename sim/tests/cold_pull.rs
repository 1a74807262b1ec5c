//! Nobody has the blob and all nodes ask at once: the registry sends it once.

use std::time::Duration;

use darter_sim::scenario::scripted;
use darter_sim::{Shape, World};

const MIB: u64 = 1024 * 1024;

#[test]
fn a_cold_blob_leaves_the_registry_once() {
    scripted("a_cold_blob_leaves_the_registry_once", |seed| {
        let mut world = World::new(
            seed,
            Shape {
                nodes: 5,
                ..Shape::default()
            },
        );
        let blob = world.blob(4 * MIB + 12_345);
        for node in 0..5 {
            world.pull(node, &blob);
        }
        world.settle(Duration::from_secs(10));
        world.sent_once(&blob);
        world.finish();
    });
}

#[test]
fn the_same_with_a_seed_that_fetches_for_all() {
    scripted("the_same_with_a_seed_that_fetches_for_all", |seed| {
        let mut world = World::new(
            seed,
            Shape {
                nodes: 4,
                seeds: 1,
                ..Shape::default()
            },
        );
        let blob = world.blob(3 * MIB);
        for node in 0..4 {
            world.pull(node, &blob);
        }
        world.settle(Duration::from_secs(10));
        world.sent_once(&blob);
        let by_seed = world
            .node("seed-0")
            .metric("darter_proxy_received_bytes_total", "source=\"origin\"");
        assert_eq!(by_seed, blob.length(), "the seed fetched, and nobody else");
        for node in ["node-0", "node-1", "node-2", "node-3"] {
            let served = |source: &str| {
                let label = format!("source=\"{source}\"");
                world.node(node).metric("darter_proxy_served_bytes_total", &label)
            };
            assert_eq!(
                served("peer"),
                blob.length(),
                "its client's bytes came from other nodes"
            );
            assert_eq!(served("origin") + served("cache"), 0);
        }
        world.finish();
    });
}

#[test]
fn small_blobs_leave_the_registry_once_each() {
    scripted("small_blobs_leave_the_registry_once_each", |seed| {
        let mut world = World::new(
            seed,
            Shape {
                nodes: 4,
                seeds: 1,
                schedulers: 2,
                ..Shape::default()
            },
        );
        let blobs: Vec<_> = [0, 1, 10_240, 65_536, 262_144, 262_145]
            .map(|length| world.blob(length))
            .into();
        for blob in &blobs {
            for node in 0..4 {
                world.pull(node, blob);
            }
        }
        world.settle(Duration::from_secs(10));
        for blob in &blobs {
            world.sent_once(blob);
        }
        world.finish();
    });
}

#[test]
fn a_late_node_needs_nothing_of_the_registry() {
    scripted("a_late_node_needs_nothing_of_the_registry", |seed| {
        let mut world = World::new(seed, Shape::default());
        let blob = world.blob(2 * MIB);
        world.pull(0, &blob);
        world.settle(Duration::from_secs(10));
        let late = world.add_node();
        world.run_for(Duration::from_secs(1));
        world.pull(late, &blob);
        world.settle(Duration::from_secs(10));
        world.sent_once(&blob);
        world.finish();
    });
}

#[test]
fn a_herd_of_clients_at_one_node_is_one_request() {
    scripted("a_herd_of_clients_at_one_node_is_one_request", |seed| {
        let mut world = World::new(
            seed,
            Shape {
                nodes: 1,
                ..Shape::default()
            },
        );
        let blob = world.blob(2 * MIB);
        for _ in 0..40 {
            world.pull(0, &blob);
        }
        world.settle(Duration::from_secs(20));
        world.sent_once(&blob);
        let gets = world.origin.requests_for(&http::Method::GET, &blob.digest);
        assert_eq!(gets, 1, "one GET for all");
        world.finish();
    });
}
