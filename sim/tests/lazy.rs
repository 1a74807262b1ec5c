//! Nodes that read the same parts of a content at the same time, as those do that start the same image: each piece leaves the
//! registry once where a seed is there, and else once for each node.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use darter_proxy::pull::OnDemand;
use darter_sim::scenario::{random, scripted};
use darter_sim::{Blob, Pull, Shape, World};
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

/// What else happens while nodes read all of a content by ranges.
#[derive(Clone, Copy, Debug, Default)]
struct Beside {
    /// The scheduler dies and comes back.
    restart: bool,
    /// A node pulls the whole.
    whole: bool,
    /// The seed dies and comes back.
    seed_dies: bool,
}

/// All of a blob as ranges of 1 to 4 MiB, the tail among them, in any order.
fn all_as_ranges(world: &mut World, length: u64) -> Vec<Range<u64>> {
    let mut ranges = Vec::new();
    let mut start = 0;
    while start < length {
        let end = (start + world.rng.random_range(MIB..4 * MIB)).min(length);
        ranges.push(start..end);
        start = end;
    }
    for at in (1..ranges.len()).rev() {
        let other = world.rng.random_range(0..=at);
        ranges.swap(at, other);
    }
    ranges
}

/// What nodes read of a blob, in bytes of the pieces that they touch.
#[derive(Default)]
struct Touched {
    /// Each piece once.
    once: u64,
    /// Once for each node.
    each: u64,
}

/// Lets each node read a part of a blob, or all of it, over several connections at once.
fn read_at_once(world: &mut World, blob: &Blob, part: u64) -> (Vec<(Pull, usize)>, Touched) {
    let mut reads = Vec::new();
    let (mut all_pieces, mut each) = (BTreeSet::new(), 0);
    for node in 0..NODES_ALL {
        let ranges = all_as_ranges(world, blob.length());
        let kept = ranges.len() as u64 * part / 100;
        let ranges: Vec<_> = ranges
            .into_iter()
            .take(usize::try_from(kept).unwrap_or(0).max(1))
            .collect();
        let pieces: BTreeSet<u64> = ranges
            .iter()
            .flat_map(|range| range.start / PIECE..=(range.end - 1) / PIECE)
            .collect();
        each += pieces.len() as u64 * PIECE;
        all_pieces.extend(pieces);
        let lanes = world.rng.random_range(1..8);
        for lane in 0..lanes {
            let mine: Vec<_> = ranges.iter().skip(lane).step_by(lanes).cloned().collect();
            let all = mine.len();
            if all > 0 {
                reads.push((world.read(node, blob, mine), all));
            }
        }
    }
    let once = all_pieces.len() as u64 * PIECE;
    (reads, Touched { once, each })
}

/// As many as mount an image in the end-to-end test.
const NODES_ALL: usize = 3;
const LENGTH_ALL: u64 = 24 * MIB;

/// Nodes read `part` hundredths of a content by ranges, at once; what the registry sent, the content's length, and what was touched.
fn read_all_at_once(seed: u64, seeds: usize, part: u64, beside: Beside) -> (u64, u64, Touched) {
    let shape = Shape {
        nodes: NODES_ALL,
        seeds,
        ..Shape::default()
    };
    let mut world = World::with(seed, shape, |config| config.pull.on_demand = OnDemand::Always);
    let length = LENGTH_ALL + world.rng.random_range(0..MIB);
    let blob = world.blob(length);
    let (reads, touched) = read_at_once(&mut world, &blob, part);
    let pause = |world: &mut World, most: u64| Duration::from_millis(world.rng.random_range(1..most));
    let mut hosts = Vec::new();
    if beside.restart {
        hosts.push("scheduler-0");
    }
    if beside.seed_dies {
        hosts.push("seed-0");
    }
    for host in hosts {
        let (before, away) = (pause(&mut world, 1500), pause(&mut world, 2500));
        world.run_for(before);
        world.kill(host);
        world.run_for(away);
        world.restart(host);
    }
    if beside.whole {
        let before = pause(&mut world, 1500);
        world.run_for(before);
        world.pull(0, &blob);
    }
    let bound = if beside.restart || beside.seed_dies {
        40
    } else {
        20
    };
    world.run_until(Duration::from_secs(bound), "all is read", |world| {
        let read = reads.iter().all(|(read, all)| read.parts_read() == *all);
        read && world.pulls.iter().all(Pull::is_over)
    });
    world.no_wrong_bytes();
    world.all_pulls_done();
    let sent = world.origin.bytes_sent_for(&blob.digest);
    (sent, length, touched)
}

#[test]
fn all_is_read_by_ranges_at_once() {
    let name = "all_is_read_by_ranges_at_once";
    random(name, 1..=2, 0, |seed| {
        for part in [30, 60, 100] {
            let (sent, length, touched) = read_all_at_once(seed, 1, part, Beside::default());
            // Whoever reads half of it gets the whole.
            let most = if part < 50 { touched.once } else { length };
            assert!(sent * 100 <= most * 105, "{part} %: {sent} bytes of {most}");
        }
    });
}

#[test]
fn all_is_read_by_ranges_at_once_without_a_seed() {
    let name = "all_is_read_by_ranges_at_once_without_a_seed";
    random(name, 1..=2, 0, |seed| {
        for part in [30, 100] {
            let (sent, length, touched) = read_all_at_once(seed, 0, part, Beside::default());
            let own = if part < 50 {
                touched.each
            } else {
                length * NODES_ALL as u64
            };
            assert!(sent * 100 <= own * 105, "{part} %: {sent} bytes of {own}");
        }
    });
}

#[test]
fn all_is_read_by_ranges_at_once_beside_a_whole_pull() {
    let name = "all_is_read_by_ranges_at_once_beside_a_whole_pull";
    random(name, 1..=2, 0, |seed| {
        for (seeds, part) in [(1, 30), (1, 100), (0, 30)] {
            let beside = Beside {
                whole: true,
                ..Beside::default()
            };
            let (sent, length, _) = read_all_at_once(seed, seeds, part, beside);
            let own = length * if seeds > 0 { 1 } else { NODES_ALL as u64 };
            assert!(
                sent * 100 <= own * 110,
                "{seeds} seeds, {part} %: {sent} bytes of {own}"
            );
        }
    });
}

#[test]
fn all_is_read_by_ranges_at_once_though_the_scheduler_restarts() {
    let name = "all_is_read_by_ranges_at_once_though_the_scheduler_restarts";
    random(name, 1..=2, 0, |seed| {
        for (seeds, part, whole) in [(1, 30, false), (1, 100, false), (2, 60, true), (0, 60, false)] {
            let restart = true;
            let beside = Beside {
                restart,
                whole,
                ..Beside::default()
            };
            read_all_at_once(seed, seeds, part, beside);
        }
    });
}

#[test]
fn all_is_read_by_ranges_at_once_though_the_seed_dies() {
    let name = "all_is_read_by_ranges_at_once_though_the_seed_dies";
    random(name, 1..=2, 0, |seed| {
        for (seeds, part, restart) in [(1, 30, false), (1, 100, true), (2, 60, false)] {
            let seed_dies = true;
            let beside = Beside {
                restart,
                seed_dies,
                ..Beside::default()
            };
            read_all_at_once(seed, seeds, part, beside);
        }
    });
}
