//! Faults by chance, everywhere, for a while; then everything heals, and every pull must have its bytes.
//!
//! Private blobs are among what is pulled, and strangers among those who pull: what they get is the oracle's to judge. At the
//! end a fresh blob shows that the cluster is whole again: it leaves the registry once.

use std::time::Duration;

use darter_testkit::origin::{CutBy, Fault, Match, When};
use rand::RngExt as _;

use crate::world::{ORIGIN, OWNER, PRIVATE_REPOSITORY, REPOSITORY, STRANGER};
use crate::{Blob, Shape, World};

const MIB: u64 = 1024 * 1024;
const NODES: usize = 4;
const SCHEDULERS: usize = 2;
const NODE_RATE: u64 = 8 * MIB;
/// How long faults come.
const ROUNDS: u32 = 12;
/// How soon after the last fault is healed all pulls must have ended.
const BOUND: Duration = Duration::from_secs(60);
/// How soon nodes and schedulers have found each other again.
const REUNION: Duration = Duration::from_secs(20);
/// Known to no registry: owner:wrong.
const WRONG: &str = "Basic b3duZXI6d3Jvbmc=";
/// A right that was taken back is worth nothing after this.
const REVOKED: Duration = Duration::from_secs(60);

/// One life of a cluster.
pub fn nemesis(seed: u64) {
    let mut world = World::new(
        seed,
        Shape {
            nodes: NODES,
            seeds: 1,
            schedulers: SCHEDULERS,
            origin_rate: 4 * MIB,
            node_rate: NODE_RATE,
            latency_max: Duration::from_millis(10),
        },
    );
    world.registry_may_refuse = true;
    let blobs: Vec<Blob> = [3 * MIB, 2 * MIB + 1, 300_000, 999]
        .map(|length| world.blob(length))
        .into();
    let private = [world.private_blob(700_000), world.private_blob(1000)];
    suffer(&mut world, &blobs, &private);
    recover(&mut world, &blobs, &private);
    live_on(&mut world, &private);
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

/// Pulls and faults, until the last one is healed and the last pull has ended.
fn suffer(world: &mut World, blobs: &[Blob], private: &[Blob]) {
    let mut sick = Vec::new();
    for _ in 0..ROUNDS {
        order(world, blobs);
        order_private(world, private);
        let ill = strike(world, blobs);
        let pause = world.rng.random_range(50..1500);
        world.run_for(Duration::from_millis(pause));
        sick.push(ill);
        if sick.len() > 2 {
            let healed = sick.remove(0);
            heal(world, &healed);
        }
    }
    for ill in sick {
        heal(world, &ill);
    }
    world.origin.heal_all();
    world.settle(BOUND);
}

/// What was ill is well again, by itself: everybody gets all that he may have.
fn recover(world: &mut World, blobs: &[Blob], private: &[Blob]) {
    let healed = world.pulls.len();
    for node in 0..NODES {
        for blob in blobs {
            world.pull(node, blob);
        }
        for blob in private {
            world.pull_as(node, blob, Some(OWNER));
            world.pull_as(node, blob, Some(STRANGER));
            world.pull(node, blob);
        }
    }
    world.settle(BOUND);
    for pull in world.pulls.iter().skip(healed).filter(|pull| pull.allowed) {
        assert!(
            pull.is_done(),
            "{} did not recover: {:?}",
            pull.node,
            pull.progress()
        );
    }
}

/// Fresh blobs for a whole cluster, and an owner who is none any more. What comes of both, the oracle asks.
fn live_on(world: &mut World, private: &[Blob]) {
    world.origin.revoke(PRIVATE_REPOSITORY, "owner");
    world.run_for(REVOKED);
    world.run_until(REUNION, "all nodes have found their schedulers again", |world| {
        world.nodes_speak_to(SCHEDULERS)
    });
    let fresh = [world.blob(MIB + 1), world.blob(500)];
    for node in 0..NODES {
        for blob in &fresh {
            world.pull(node, blob);
        }
        for blob in private {
            world.pull_as(node, blob, Some(OWNER));
        }
    }
    world.settle(BOUND);
}

/// The private blobs, by whoever may and whoever may not read them, and by a name that they do not have.
fn order_private(world: &mut World, private: &[Blob]) {
    for _ in 0..world.rng.random_range(0..3) {
        let node = world.rng.random_range(0..NODES);
        let mut blob = private[world.rng.random_range(0..private.len())].clone();
        match world.rng.random_range(0..6) {
            0 => world.pull(node, &blob),
            1 => world.pull_as(node, &blob, Some(STRANGER)),
            2 => world.pull_as(node, &blob, Some(WRONG)),
            3 => {
                blob.repository = REPOSITORY.to_owned();
                world.pull_as(node, &blob, Some(OWNER))
            }
            _ => world.pull_as(node, &blob, Some(OWNER)),
        };
    }
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
    let hosts: Vec<String> = world.hosts().into_iter().filter(|host| host != ORIGIN).collect();
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
            world.slow_down(&one, 200_000);
            Ill::Slow(one)
        }
        5 if is_node => {
            world.fill_disk(&one, MIB);
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
        Ill::Slow(host) => world.speed_up(host, NODE_RATE),
        Ill::Full(host) => world.empty_disk(host),
        Ill::Dead(_) | Ill::Nothing => {}
    }
}
