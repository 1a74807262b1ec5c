//! Nodes that read the same parts of a content at the same time, as those do that start the same image: each piece leaves the
//! registry once where a seed is there, and else once for each node.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use darter_proxy::pull::OnDemand;
use darter_sim::scenario::scripted;
use darter_sim::{Shape, World};
use rand::RngExt as _;

const MIB: u64 = 1024 * 1024;
const PIECE: u64 = MIB / 4;
const LENGTH: u64 = 64 * MIB;
const NODES: usize = 4;

/// Parts by chance, and how many bytes the pieces have that they touch.
fn parts(world: &mut World) -> (Vec<Range<u64>>, u64) {
    let mut pieces = BTreeSet::new();
    let parts = (0..16).map(|_| {
        let start = world.rng.random_range(0..LENGTH - MIB);
        let range = start..start + world.rng.random_range(1..MIB / 2);
        pieces.extend(range.start / PIECE..=(range.end - 1) / PIECE);
        range
    });
    let parts = parts.collect();
    (parts, pieces.len() as u64 * PIECE)
}

/// What the registry sent for `NODES` nodes that read the same parts, and what those touch.
fn read_by_all(seed: u64, seeds: usize) -> (u64, u64) {
    let shape = Shape {
        nodes: NODES,
        seeds,
        ..Shape::default()
    };
    let mut world = World::with(seed, shape, |config| config.pull.on_demand = OnDemand::Always);
    let blob = world.blob(LENGTH);
    let (parts, union) = parts(&mut world);
    let reads: Vec<_> = (0..NODES)
        .map(|node| world.read(node, &blob, parts.clone()))
        .collect();
    let all = parts.len();
    world.run_until(Duration::from_secs(30), "all parts are read", move |_| {
        reads.iter().all(|read| read.parts_read() == all)
    });
    let sent = world.origin.bytes_sent_for(&blob.digest);
    world.finish();
    (sent, union)
}

#[test]
fn each_piece_that_is_read_leaves_the_registry_once() {
    scripted("each_piece_that_is_read_leaves_the_registry_once", |seed| {
        let (sent, union) = read_by_all(seed, 1);
        assert!(sent * 100 <= union * 102, "{sent} bytes of {union}");
    });
}

#[test]
fn without_a_seed_each_node_reads_its_own() {
    scripted("without_a_seed_each_node_reads_its_own", |seed| {
        let (sent, union) = read_by_all(seed, 0);
        let own = union * NODES as u64;
        assert!(sent * 100 <= own * 102, "{sent} bytes of {own}");
    });
}
