//! Faults by chance, everywhere, for a while; then everything heals, and every pull must have its bytes.

use std::time::Duration;

use darter_sim::scenario::random;
use darter_sim::{Blob, Shape, World};
use darter_testkit::origin::{CutBy, Fault, Match, When};
use rand::RngExt as _;

const MIB: u64 = 1024 * 1024;
const NODES: usize = 4;
/// How long faults come.
const ROUNDS: u32 = 12;
/// How soon after the last fault is healed all pulls must have ended.
const BOUND: Duration = Duration::from_secs(60);

// Two tests, so that two cores are busy.

#[test]
fn nemesis_of_odd_seeds() {
    random("nemesis_of_odd_seeds", (1..=9).step_by(2), 1, nemesis);
}

#[test]
fn nemesis_of_even_seeds() {
    random("nemesis_of_even_seeds", (2..=10).step_by(2), 1, nemesis);
}

fn nemesis(seed: u64) {
    let shape = Shape {
        nodes: NODES,
        seeds: 1,
        schedulers: 2,
        origin_rate: 4 * MIB,
        node_rate: 8 * MIB,
        latency_max: Duration::from_millis(10),
    };
    let mut world = World::new(seed, shape);
    world.registry_may_refuse = true;
    let blobs: Vec<Blob> = [3 * MIB, 2 * MIB + 1, 300_000, 999]
        .map(|length| world.blob(length))
        .into();
    let mut sick = Vec::new();
    for _ in 0..ROUNDS {
        order(&mut world, &blobs);
        let ill = strike(&mut world, &blobs);
        let pause = world.rng.random_range(50..1500);
        world.run_for(Duration::from_millis(pause));
        sick.push(ill);
        if sick.len() > 2 {
            let healed = sick.remove(0);
            heal(&mut world, &healed);
        }
    }
    for ill in sick {
        heal(&mut world, &ill);
    }
    world.origin.heal_all();
    world.settle(BOUND);
    // What was ill is well again, by itself.
    let healed = world.pulls.len();
    for blob in &blobs {
        for node in 0..NODES {
            world.pull(node, blob);
        }
    }
    world.settle(BOUND);
    for pull in world.pulls.iter().skip(healed) {
        assert!(
            pull.is_done(),
            "{} did not recover: {:?}",
            pull.node,
            pull.progress()
        );
    }
    for blob in &blobs {
        let (sent, length) = (world.origin_bytes(blob), blob.length());
        // Each node may have to fetch it alone, and again when a crash took what it had.
        assert!(
            sent <= 2 * (NODES as u64 + 1) * length,
            "{sent} bytes of {length}"
        );
    }
    for pull in &world.pulls {
        let most = Duration::from_secs(5);
        let gap = pull.progress().longest_gap;
        assert!(gap <= most * 3, "{} waited {gap:?} for a byte", pull.node);
    }
    world.finish();
}

fn order(world: &mut World, blobs: &[Blob]) {
    for _ in 0..world.rng.random_range(0..4) {
        let node = world.rng.random_range(0..NODES);
        let blob = world.rng.random_range(0..blobs.len());
        world.pull(node, &blobs[blob]);
    }
}

enum Ill {
    Dead(String),
    Apart(String, String),
    Held(String, String),
    Slow(String),
    Full(String),
    Nothing,
}

/// One fault by chance.
fn strike(world: &mut World, blobs: &[Blob]) -> Ill {
    let hosts: Vec<String> = world
        .hosts()
        .into_iter()
        .filter(|host| host != "origin")
        .collect();
    let one = hosts[world.rng.random_range(0..hosts.len())].clone();
    let other = hosts[world.rng.random_range(0..hosts.len())].clone();
    let is_node = one.starts_with("node") || one.starts_with("seed");
    match world.rng.random_range(0..9) {
        0 if world.is_running(&one) => {
            world.kill(&one);
            Ill::Dead(one)
        }
        1 if world.is_running(&one) => {
            world.power_cut(&one);
            Ill::Dead(one)
        }
        2 if one != other => {
            world.partition(&one, &other);
            Ill::Apart(one, other)
        }
        3 if one != other => {
            world.hold(&one, &other);
            Ill::Held(one, other)
        }
        4 if is_node => {
            world.node(&one).spec.rate.set(200_000);
            Ill::Slow(one)
        }
        5 if is_node => {
            world.node(&one).spec.store.faults().no_space_after(MIB);
            Ill::Full(one)
        }
        6 => {
            let at = world.rng.random_range(0..3 * MIB);
            world.origin.inject(
                Match::any().get(),
                When::Percent(30),
                Fault::Cut { at, by: CutBy::Fin },
            );
            Ill::Nothing
        }
        7 => {
            let fault = [
                Fault::status(500),
                Fault::too_many_requests(1),
                Fault::status(502),
            ];
            let fault = fault[world.rng.random_range(0..3)].clone();
            world.origin.inject(Match::any(), When::Percent(20), fault);
            Ill::Nothing
        }
        8 => {
            // No client reads through the seed: what it sends must be found out by those that it sends to.
            let rotten: usize = blobs.iter().map(|blob| world.rot("seed-0", blob)).sum();
            tracing::info!(rotten, "pieces of the seed are wrong");
            Ill::Nothing
        }
        _ => Ill::Nothing,
    }
}

fn heal(world: &mut World, ill: &Ill) {
    match ill {
        Ill::Dead(host) if !world.is_running(host) => world.restart(host),
        Ill::Apart(one, other) => world.repair(one, other),
        Ill::Held(one, other) => world.release(one, other),
        Ill::Slow(host) => world.node(host).spec.rate.set(8 * MIB),
        Ill::Full(host) => world.node(host).spec.store.faults().space_returns(),
        Ill::Dead(_) | Ill::Nothing => {}
    }
}
