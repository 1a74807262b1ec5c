//! The same seed gives the same run: every line of the whole trace.

use std::time::Duration;

use darter_sim::nemesis::nemesis;
use darter_sim::{Shape, World, trace};
use darter_testkit::origin::{CutBy, Fault, Match, When};

const MIB: u64 = 1024 * 1024;

/// A short life with something of everything in it.
fn run(seed: u64) -> String {
    // Turmoil's own lines hold whole messages, and those the date on which the test runs.
    trace::of("trace,turmoil=info", || {
        let mut world = World::new(
            seed,
            Shape {
                nodes: 3,
                seeds: 1,
                schedulers: 2,
                ..Shape::default()
            },
        );
        let blobs = [world.blob(2 * MIB), world.blob(1000)];
        let cut = Fault::Cut {
            at: 700_000,
            by: CutBy::Fin,
        };
        let first = Match::digest(&blobs[0].digest).get();
        world.origin.inject(first, When::Nth(1), cut);
        for blob in &blobs {
            // Twice each: many who wait for one thing must be woken in the same order in every run.
            for node in [0, 1, 2, 0, 1, 2] {
                world.pull(node, blob);
            }
        }
        world.run_for(Duration::from_millis(60));
        world.kill("seed-0");
        world.kill("scheduler-0");
        world.run_for(Duration::from_millis(500));
        world.restart("scheduler-0");
        world.restart("seed-0");
        world.settle(Duration::from_secs(30));
        world.finish();
    })
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let (one, other) = (run(7), run(7));
    assert!(one.lines().count() > 1000, "the trace is there at all");
    if let Some(difference) = trace::difference(&one, &other) {
        panic!("two runs of one seed differ at {difference}");
    }
}

/// A life full of faults, which lines of other crates would fill memory with.
#[test]
fn the_same_seed_gives_the_same_nemesis() {
    let run = || trace::of("info,darter=trace", || nemesis(7));
    let (one, other) = (run(), run());
    assert!(one.lines().count() > 100, "the trace is there at all");
    if let Some(difference) = trace::difference(&one, &other) {
        panic!("two runs of one seed differ at {difference}");
    }
}

#[test]
fn another_seed_gives_another_trace() {
    assert!(trace::difference(&run(7), &run(8)).is_some());
}
