//! Limits of what a node takes from other nodes: they bind, and pulls go on within them.

use std::time::Duration;

use darter_proxy::config::Config;
use darter_service::config::ByteSize;
use darter_sim::scenario::scripted;
use darter_sim::{Blob, Shape, World};

const MIB: u64 = 1024 * 1024;

/// So many nodes that hold these blobs, and one that does not.
fn held(seed: u64, holders: usize, lengths: &[u64], edit: fn(&mut Config)) -> (World, Vec<Blob>) {
    let shape = Shape {
        nodes: holders + 1,
        ..Shape::default()
    };
    let mut world = World::with(seed, shape, edit);
    let blobs: Vec<Blob> = lengths.iter().map(|length| world.blob(*length)).collect();
    for holder in 0..holders {
        for blob in &blobs {
            world.pull(holder, blob);
        }
    }
    world.settle(Duration::from_secs(60));
    world.all_pulls_done();
    (world, blobs)
}

/// A metric of the node that takes, behind `darter_proxy_`.
fn metric(world: &World, name: &str, label: &str) -> u64 {
    let taker = world.nodes().last().expect("it is there");
    taker.metric(&format!("darter_proxy_{name}"), label)
}

/// Lets the last node take the blobs, and gives the largest value that a metric had meanwhile.
fn most_while_taking(world: &mut World, blobs: &[Blob], name: &str) -> u64 {
    let taker = world.nodes().len() - 1;
    for blob in blobs {
        world.pull(taker, blob);
    }
    let mut most = 0;
    while !world.pulls.iter().all(darter_sim::Pull::is_over) {
        world.run_for(Duration::from_millis(2));
        most = most.max(metric(world, name, ""));
    }
    world.all_pulls_done();
    let length: u64 = blobs.iter().map(Blob::length).sum();
    assert_eq!(metric(world, "received_bytes_total", "source=\"peer\""), length);
    most
}

#[test]
fn the_rate_of_what_is_received_holds_for_bytes_of_other_nodes() {
    scripted(
        "the_rate_of_what_is_received_holds_for_bytes_of_other_nodes",
        |seed| {
            let edit = |config: &mut Config| config.pull.bytes_per_second_max = Some(ByteSize::mib(1));
            let (mut world, blobs) = held(seed, 1, &[4 * MIB], edit);
            let began = world.elapsed();
            most_while_taking(&mut world, &blobs, "pulls_running");
            let took = world.elapsed() - began;
            // Four seconds but for what may pass at once.
            assert!(took > Duration::from_secs(3), "{took:?}");
            assert!(metric(&world, "received_delayed_bytes_total", "limit=\"all\"") > 0);
            world.finish();
        },
    );
}

#[test]
fn requests_of_all_contents_together_are_bounded() {
    scripted("requests_of_all_contents_together_are_bounded", |seed| {
        let edits: [fn(&mut Config); 2] = [|_| {}, |config| config.pull.requests_total_max = 2];
        let most = edits.map(|edit| {
            let (mut world, blobs) = held(seed, 3, &[8 * MIB], edit);
            let most = most_while_taking(&mut world, &blobs, "peer_requests_running");
            world.finish();
            most
        });
        assert!(most[0] > 2 && most[1] <= 2, "{most:?}");
    });
}

#[test]
fn pieces_that_are_not_verified_yet_are_bounded_in_memory() {
    scripted("pieces_that_are_not_verified_yet_are_bounded_in_memory", |seed| {
        let edits: [fn(&mut Config); 2] =
            [|_| {}, |config| config.peer.buffer_bytes_max = ByteSize::kib(512)];
        let most = edits.map(|edit| {
            let (mut world, blobs) = held(seed, 1, &[4 * MIB, 4 * MIB, 4 * MIB], edit);
            let most = most_while_taking(&mut world, &blobs, "peer_buffered_bytes");
            let waited = metric(&world, "peer_buffer_waits_total", "");
            world.finish();
            (most, waited > 0)
        });
        let bound = 512 * 1024;
        assert!(most[0].0 > bound && !most[0].1, "{most:?}");
        assert!(most[1].0 <= bound && most[1].1, "{most:?}");
    });
}

#[test]
fn what_nobody_waits_for_is_fetched_at_its_own_rate() {
    scripted("what_nobody_waits_for_is_fetched_at_its_own_rate", |seed| {
        let shape = Shape {
            nodes: 1,
            seeds: 1,
            origin_rate: 4 * MIB,
            ..Shape::default()
        };
        let mut world = World::with(seed, shape, |config| {
            config.pull.background_bytes_per_second_max = Some(ByteSize::mib(1));
        });
        let of_seed = |world: &World, name: &str, label: &str| {
            world
                .node("seed-0")
                .metric(&format!("darter_proxy_{name}"), label)
        };
        let fetched = |world: &World| of_seed(world, "received_bytes_total", "source=\"origin\"");
        let delayed = |world: &World| of_seed(world, "received_delayed_bytes_total", "limit=\"background\"");
        let blob = world.blob(6 * MIB);
        world.pull(0, &blob);
        world.run_until(Duration::from_secs(10), "the seed fetches", |world| {
            fetched(world) >= MIB
        });
        assert_eq!(delayed(&world), 0, "somebody waits");
        // Nobody does any more, and the seed has its lease.
        world.kill("node-0");
        let (before, began) = (fetched(&world), world.elapsed());
        world.run_until(Duration::from_secs(30), "the seed has it all", |world| {
            fetched(world) == 6 * MIB && of_seed(world, "pulls_running", "") == 0
        });
        let (rest, took) = (6 * MIB - before, world.elapsed() - began);
        assert!(delayed(&world) > 0);
        assert!(rest <= MIB + MIB * took.as_secs(), "{rest} bytes in {took:?}");
        world.restart("node-0");
        world.settle(Duration::from_secs(30));
        world.finish();
    });
}
