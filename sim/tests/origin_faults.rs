//! The registry misbehaves: cuts, other lengths, wrong bytes, refusals.

use std::time::Duration;

use darter_sim::scenario::scripted;
use darter_sim::{Outcome, Shape, World};
use darter_testkit::content::Content;
use darter_testkit::origin::{CutBy, Fault, Match, When};

const MIB: u64 = 1024 * 1024;

#[test]
fn cuts_anywhere_are_resumed() {
    scripted("cuts_anywhere_are_resumed", |seed| {
        let mut world = World::new(
            seed,
            Shape {
                nodes: 2,
                ..Shape::default()
            },
        );
        for at in [0, 1, 1000, 262_143, 262_144, 262_145, 700_000, MIB - 1] {
            let blob = world.blob(MIB + 77);
            let what = Match::digest(&blob.digest).get();
            let cut = world
                .origin
                .inject(what, When::Nth(1), Fault::Cut { at, by: CutBy::Fin });
            world.pull(0, &blob);
            world.pull(1, &blob);
            world.settle(Duration::from_secs(20));
            assert_eq!(world.origin.fired(cut), 1);
            let sent = world.origin_bytes(&blob);
            assert!(
                sent <= blob.length() + blob.length() / 20,
                "{sent} bytes after a cut at {at}"
            );
        }
        world.finish();
    });
}

#[test]
fn a_registry_that_ignores_ranges_is_read_from_the_start() {
    scripted("a_registry_that_ignores_ranges_is_read_from_the_start", |seed| {
        let mut world = World::new(
            seed,
            Shape {
                nodes: 2,
                ..Shape::default()
            },
        );
        let blob = world.blob(MIB);
        let what = Match::digest(&blob.digest).get();
        world
            .origin
            .inject(what.clone(), When::Always, Fault::IgnoreRange);
        let cut = Fault::Cut {
            at: 600_000,
            by: CutBy::Fin,
        };
        world.origin.inject(what, When::Nth(1), cut);
        world.pull(0, &blob);
        world.pull(1, &blob);
        world.settle(Duration::from_secs(20));
        world.finish();
    });
}

#[test]
fn another_content_in_the_middle_is_never_mixed_in() {
    scripted("another_content_in_the_middle_is_never_mixed_in", |seed| {
        let mut world = World::new(
            seed,
            Shape {
                nodes: 2,
                ..Shape::default()
            },
        );
        let blob = world.blob(MIB);
        let what = Match::digest(&blob.digest).get();
        let cut = Fault::Cut {
            at: 500_000,
            by: CutBy::Fin,
        };
        world.origin.inject(what.clone(), When::Nth(1), cut);
        let other = Fault::Replace {
            content: Content::generated(99, MIB + 5),
            etag: "\"other\"".to_owned(),
        };
        let fault = world.origin.inject(what, When::Nth(2), other);
        world.pull(0, &blob);
        world.pull(1, &blob);
        world.settle(Duration::from_secs(30));
        assert_eq!(world.origin.fired(fault), 1);
        world.finish();
    });
}

#[test]
fn wrong_bytes_are_neither_kept_nor_announced() {
    scripted("wrong_bytes_are_neither_kept_nor_announced", |seed| {
        let mut world = World::new(
            seed,
            Shape {
                nodes: 2,
                ..Shape::default()
            },
        );
        let blob = world.blob(MIB);
        let what = Match::digest(&blob.digest).get();
        let fault = world
            .origin
            .inject(what, When::Always, Fault::WrongByte { at: 300_000 });
        let bad = world.pull(0, &blob);
        world.settle(Duration::from_secs(60));
        // The client may have gone to the registry, which lies to it as well; or given up. What Darter sent is
        // the registry's word up to its last piece, never the whole.
        assert!(bad.progress().bytes - bad.progress().direct_bytes < blob.length());
        world.run_for(Duration::from_secs(1));
        let held = world.node("node-0").spec.store.clone();
        assert!(
            !holds(&held, &blob),
            "a content that is wrong stayed in the store"
        );
        assert!(world.origin.heal(fault));
        world.pulls.clear();
        // The digest is the origin's alone for a while, and right again.
        world.run_for(Duration::from_secs(10));
        world.pull(0, &blob);
        world.pull(1, &blob);
        world.settle(Duration::from_secs(20));
        world.finish();
    });
}

fn holds(store: &darter_store::MemoryStore, blob: &darter_sim::Blob) -> bool {
    use darter_store::PieceStore as _;
    store
        .list()
        .iter()
        .any(|line| line.task == blob.task() && !line.held.is_empty())
}

#[test]
fn short_long_and_empty_bodies_are_not_taken_for_the_blob() {
    scripted("short_long_and_empty_bodies_are_not_taken_for_the_blob", |seed| {
        let mut world = World::new(
            seed,
            Shape {
                nodes: 1,
                ..Shape::default()
            },
        );
        for fault in [
            Fault::ShortBy(1000),
            Fault::LongBy(1000),
            Fault::NoBytes,
            Fault::HeadLength(17),
        ] {
            let blob = world.blob(MIB / 2);
            let id = world
                .origin
                .inject(Match::digest(&blob.digest), When::First(2), fault.clone());
            let pull = world.pull(0, &blob);
            world.settle(Duration::from_secs(60));
            assert!(world.origin.fired(id) > 0, "{fault:?}");
            world.origin.heal(id);
            let progress = pull.progress();
            assert_eq!(progress.wrong_bytes, 0, "{fault:?}: {progress:?}");
            world.run_for(Duration::from_secs(10));
            if progress.outcome != Some(Outcome::Done) {
                world.pulls.clear();
            }
            world.pull(0, &blob);
            world.settle(Duration::from_secs(20));
        }
        world.finish();
    });
}

#[test]
fn refusals_are_retried_and_never_passed_on_as_429() {
    scripted("refusals_are_retried_and_never_passed_on_as_429", |seed| {
        let mut world = World::new(
            seed,
            Shape {
                nodes: 3,
                ..Shape::default()
            },
        );
        for fault in [
            Fault::status(500),
            Fault::status(503),
            Fault::too_many_requests(1),
        ] {
            let blob = world.blob(MIB);
            let id = world
                .origin
                .inject(Match::digest(&blob.digest).get(), When::Nth(1), fault);
            for node in 0..3 {
                world.pull(node, &blob);
            }
            world.settle(Duration::from_secs(20));
            assert_eq!(world.origin.fired(id), 1);
            let sent = world.origin_bytes(&blob);
            assert!(sent <= blob.length() + blob.length() / 50, "{sent}");
        }
        world.finish();
    });
}
