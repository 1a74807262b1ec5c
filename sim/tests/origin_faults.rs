//! The registry misbehaves: cuts, other lengths, wrong bytes, refusals.

use std::time::Duration;

use darter_sim::scenario::scripted;
use darter_sim::{Outcome, Shape, World};
use darter_testkit::content::Content;
use darter_testkit::origin::{CutBy, Fault, Match, RedirectTo, Target, When};

const MIB: u64 = 1024 * 1024;

/// Where a blob of 300 000 bytes is cut: around its borders, and all over.
fn cuts() -> Vec<u64> {
    let mut cuts = vec![0, 1, 1000, 262_143, 262_144, 262_145, 299_998, 299_999];
    cuts.extend((1..=192).map(|nth| nth * 1_554 + nth % 64));
    cuts
}

#[test]
fn a_registry_that_takes_no_connection_is_not_waited_for() {
    scripted("a_registry_that_takes_no_connection_is_not_waited_for", |seed| {
        for seeds in [0, 1] {
            let mut world = World::new(
                seed,
                Shape {
                    nodes: 1,
                    seeds,
                    ..Shape::default()
                },
            );
            let blob = world.blob(MIB);
            // What the node sends arrives nowhere; the client reaches the registry by another way.
            world.hold("node-0", "origin");
            let pull = world.pull(0, &blob);
            world.settle(Duration::from_secs(20));
            let progress = pull.progress();
            assert_eq!(progress.refusals, [503], "{progress:?}");
            assert!(
                progress.slowest_refusal <= Duration::from_millis(1500),
                "{progress:?}"
            );
            world.release("node-0", "origin");
            world.finish();
        }
    });
}

#[test]
fn a_registry_that_thinks_for_seconds_is_waited_for() {
    scripted("a_registry_that_thinks_for_seconds_is_waited_for", |seed| {
        let mut world = World::new(
            seed,
            Shape {
                nodes: 1,
                ..Shape::default()
            },
        );
        let blob = world.blob(MIB);
        let slow = Fault::Delay(Duration::from_secs(3));
        world
            .origin
            .inject(Match::digest(&blob.digest), When::Always, slow);
        let pull = world.pull(0, &blob);
        world.settle(Duration::from_secs(30));
        assert_eq!(pull.progress().hand_overs, 0, "{:?}", pull.progress());
        world.finish();
    });
}

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
        assert_eq!(cuts().len(), 200);
        for some in cuts().chunks(25) {
            let cut: Vec<_> = some.iter().map(|at| (*at, world.blob(300_000))).collect();
            let mut faults = Vec::new();
            for (at, blob) in &cut {
                let fault = Fault::Cut {
                    at: *at,
                    by: CutBy::Fin,
                };
                let what = Match::digest(&blob.digest).get();
                faults.push(world.origin.inject(what, When::Nth(1), fault));
                world.pull(0, blob);
                world.pull(1, blob);
            }
            world.settle(Duration::from_secs(60));
            for ((at, blob), fault) in cut.iter().zip(faults) {
                assert_eq!(world.origin.fired(fault), 1);
                let sent = world.origin_bytes(blob);
                assert!(
                    sent <= blob.length() + blob.length() / 20,
                    "{sent} bytes after a cut at {at}"
                );
            }
        }
        world.finish();
    });
}

#[test]
fn a_registry_that_drips_is_waited_for() {
    scripted("a_registry_that_drips_is_waited_for", |seed| {
        let mut world = World::new(
            seed,
            Shape {
                nodes: 1,
                ..Shape::default()
            },
        );
        let blob = world.blob(400_000);
        let slow = Fault::Drip {
            bytes_per_second: 10 * 1024,
        };
        world
            .origin
            .inject(Match::digest(&blob.digest).get(), When::Always, slow);
        world.pull(0, &blob);
        world.settle(Duration::from_secs(60));
        world.sent_once(&blob);
        assert_eq!(world.origin.requests_for(&http::Method::GET, &blob.digest), 1);
        world.finish();
    });
}

#[test]
fn a_registry_that_falls_silent_is_asked_for_the_rest() {
    scripted("a_registry_that_falls_silent_is_asked_for_the_rest", |seed| {
        let mut world = World::new(
            seed,
            Shape {
                nodes: 1,
                ..Shape::default()
            },
        );
        // In the middle of one answer, and in the first segment of several.
        for length in [MIB, 4 * MIB] {
            let blob = world.blob(length);
            let what = Match::digest(&blob.digest).get();
            let silence = world
                .origin
                .inject(what, When::First(2), Fault::Stall { at: 100_000 });
            let pull = world.pull(0, &blob);
            world.settle(Duration::from_secs(60));
            assert_eq!(world.origin.fired(silence), 2);
            world.sent_once(&blob);
            let gap = pull.progress().longest_gap;
            assert!(gap < Duration::from_secs(5), "the client saw nothing for {gap:?}");
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
fn a_version_that_passes_is_never_mixed_in() {
    scripted("a_version_that_passes_is_never_mixed_in", |seed| {
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
        // As long as the true one: the entity tag alone tells them apart before the end.
        let other = Fault::Replace {
            content: Content::generated(99, MIB),
            etag: "\"other\"".to_owned(),
        };
        let fault = world.origin.inject(what, When::Nth(2), other);
        world.pull(0, &blob);
        world.pull(1, &blob);
        world.settle(Duration::from_secs(20));
        assert_eq!(world.origin.fired(fault), 1);
        world.finish();
    });
}

#[test]
fn a_version_that_stays_ends_the_stream_and_is_never_mixed_in() {
    scripted(
        "a_version_that_stays_ends_the_stream_and_is_never_mixed_in",
        |seed| {
            // Where one connection reads it all, and where several do.
            for length in [MIB, 4 * MIB] {
                let mut world = World::new(
                    seed,
                    Shape {
                        nodes: 1,
                        ..Shape::default()
                    },
                );
                let blob = world.blob(length);
                let what = Match::digest(&blob.digest).get();
                let cut = Fault::Cut {
                    at: 500_000,
                    by: CutBy::Fin,
                };
                world.origin.inject(what.clone(), When::Nth(1), cut);
                let other = Fault::Replace {
                    content: Content::generated(99, length),
                    etag: "\"other\"".to_owned(),
                };
                let fault = world.origin.inject(what, When::After(1), other);
                let pull = world.pull(0, &blob);
                world.run_until(Duration::from_secs(20), "the client is handed over", |_| {
                    pull.progress().hand_overs > 0
                });
                let progress = pull.progress();
                assert_eq!(progress.wrong_bytes, 0, "{progress:?}");
                assert!(progress.bytes > 0 && progress.direct_bytes == 0, "{progress:?}");
                assert!(world.origin.fired(fault) > 1);
                let wrong = "darter_proxy_verify_failures_total";
                assert_eq!(world.node("node-0").metric(wrong, ""), 0, "nothing was compared");
                // The client goes on at the registry, which would lie to it as well.
                assert!(world.origin.heal(fault));
                world.settle(Duration::from_secs(20));
                // What was read of the first version does not stand in the way of the whole.
                world.run_for(Duration::from_secs(10));
                world.pull(0, &blob);
                world.settle(Duration::from_secs(20));
                world.finish();
            }
        },
    );
}

#[test]
fn a_signed_address_that_expires_in_the_middle_is_asked_for_anew() {
    scripted(
        "a_signed_address_that_expires_in_the_middle_is_asked_for_anew",
        |seed| {
            let mut world = World::new(
                seed,
                Shape {
                    nodes: 1,
                    ..Shape::default()
                },
            );
            let blob = world.blob(MIB);
            let what = Match::digest(&blob.digest).get();
            let signed = RedirectTo::Presigned {
                host: None,
                valid: Duration::from_millis(500),
            };
            world
                .origin
                .inject(what.clone(), When::Always, Fault::Redirect(signed));
            let slow = Fault::Drip {
                bytes_per_second: 512 * 1024,
            };
            world.origin.inject(what.clone(), When::Always, slow);
            // The registry's own answer has no body to cut; what it leads to breaks off after a second.
            let cut = Fault::Cut {
                at: 512 * 1024,
                by: CutBy::Fin,
            };
            world.origin.inject(what, When::First(2), cut);
            world.pull(0, &blob);
            world.settle(Duration::from_secs(20));
            world.sent_once(&blob);
            let storage = |status| {
                world
                    .origin
                    .count(|request| request.path.starts_with("/storage/") && request.status == Some(status))
            };
            assert_eq!((storage(200), storage(206), storage(403)), (1, 1, 0));
            world.finish();
        },
    );
}

#[test]
fn slow_connections_are_read_side_by_side() {
    scripted("slow_connections_are_read_side_by_side", |seed| {
        let mut world = World::new(
            seed,
            Shape {
                nodes: 3,
                seeds: 1,
                ..Shape::default()
            },
        );
        let blob = world.blob(4 * MIB);
        let what = Match::digest(&blob.digest).get();
        let slow = Fault::Drip {
            bytes_per_second: 512 * 1024,
        };
        world.origin.inject(what.clone(), When::Always, slow);
        let cut = Fault::Cut {
            at: 100_000,
            by: CutBy::Fin,
        };
        world.origin.inject(what, When::Every(5), cut);
        for node in 0..3 {
            world.pull(node, &blob);
        }
        world.settle(Duration::from_secs(20));
        world.sent_once(&blob);
        assert_eq!(world.origin.concurrent_max(), 4);
        let held = world.node("seed-0").metric("darter_proxy_origin_ahead_bytes", "");
        assert_eq!(held, 0, "the memory for what came ahead was given back");
        world.finish();
    });
}

#[test]
fn a_link_that_is_full_is_not_divided_among_connections() {
    scripted("a_link_that_is_full_is_not_divided_among_connections", |seed| {
        let mut world = World::new(
            seed,
            Shape {
                nodes: 1,
                origin_rate: 2 * MIB,
                ..Shape::default()
            },
        );
        let blob = world.blob(8 * MIB);
        world.pull(0, &blob);
        world.settle(Duration::from_secs(20));
        world.sent_once(&blob);
        // One segment alone, four to see that they bring nothing, what was asked for meanwhile, and the rest.
        let gets = world.origin.requests_for(&http::Method::GET, &blob.digest);
        assert!((6..=10).contains(&gets), "{gets} requests");
        world.finish();
    });
}

#[test]
fn a_content_whose_length_nobody_tells_arrives() {
    scripted("a_content_whose_length_nobody_tells_arrives", |seed| {
        let mut world = World::new(
            seed,
            Shape {
                nodes: 2,
                ..Shape::default()
            },
        );
        for length in [1000, MIB, 6 * MIB] {
            let blob = world.blob(length);
            world
                .origin
                .inject(Match::digest(&blob.digest), When::Always, Fault::Chunked);
            world.pull(0, &blob);
            world.pull(1, &blob);
            world.settle(Duration::from_secs(30));
        }
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

#[test]
fn where_three_in_ten_answers_fail_each_is_asked_for_once_more_and_no_more() {
    let name = "where_three_in_ten_answers_fail_each_is_asked_for_once_more_and_no_more";
    scripted(name, |seed| {
        let mut world = World::new(
            seed,
            Shape {
                nodes: 3,
                ..Shape::default()
            },
        );
        let mut faults = Vec::new();
        for (percent, fault) in [
            (10, Fault::status(500)),
            (10, Fault::status(503)),
            (10, Fault::too_many_requests(1)),
        ] {
            let what = Match::target(Target::Blobs).get();
            faults.push(world.origin.inject(what, When::Percent(percent), fault));
        }
        let blobs: Vec<_> = (0..30).map(|_| world.blob(300_000)).collect();
        for blob in &blobs {
            for node in 0..3 {
                world.pull(node, blob);
            }
        }
        world.settle(Duration::from_secs(60));
        let failed = world
            .origin
            .count(|request| request.method == http::Method::GET && request.status >= Some(400));
        let asked = world
            .origin
            .count(|request| request.method == http::Method::GET && request.path.contains("/blobs/"));
        assert!(failed > 0 && faults.iter().any(|fault| world.origin.fired(*fault) > 0));
        assert!(
            asked <= (blobs.len() + failed) * 110 / 100,
            "{asked} requests for {} blobs, {failed} of which failed",
            blobs.len()
        );
        world.finish();
    });
}
