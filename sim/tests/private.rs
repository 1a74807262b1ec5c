//! Private content: the registry says who may read, whatever is cached.

use std::time::Duration;

use darter_sim::scenario::scripted;
use darter_sim::world::{OWNER, PRIVATE_REPOSITORY, STRANGER};
use darter_sim::{Blob, Pull, Shape, World};

const MIB: u64 = 1024 * 1024;

/// A world with a blob that one user may read, and that his client has read through node 0.
fn read_by_its_user(seed: u64, nodes: usize) -> (World, Blob) {
    let mut world = World::new(
        seed,
        Shape {
            nodes,
            ..Shape::default()
        },
    );
    let blob = world.private_blob(MIB);
    world.pull_as(0, &blob, Some(OWNER));
    world.settle(Duration::from_secs(10));
    world.all_pulls_done();
    (world, blob)
}

/// These pulls were refused by all, without a byte.
fn refused(world: &mut World, pulls: &[Pull]) {
    world.settle(Duration::from_secs(20));
    for pull in pulls {
        let progress = pull.progress();
        assert_eq!(progress.bytes, 0, "{progress:?}");
        assert!(!progress.refusals.is_empty(), "{progress:?}");
        let known = [401, 403];
        assert!(
            progress.refusals.iter().all(|status| known.contains(status)),
            "{progress:?}"
        );
    }
}

#[test]
fn nobody_reads_a_private_blob_without_the_right() {
    scripted("nobody_reads_a_private_blob_without_the_right", |seed| {
        let (mut world, blob) = read_by_its_user(seed, 2);
        // owner:wrong
        let wrong = Some("Basic b3duZXI6d3Jvbmc=");
        let strangers = [
            world.pull(0, &blob),
            world.pull_as(0, &blob, wrong),
            world.pull_as(0, &blob, Some(STRANGER)),
            world.pull(1, &blob),
            world.pull_as(1, &blob, wrong),
        ];
        refused(&mut world, &strangers);
        world.finish();
    });
}

#[test]
fn a_revoked_right_ends_within_a_minute() {
    scripted("a_revoked_right_ends_within_a_minute", |seed| {
        let (mut world, blob) = read_by_its_user(seed, 1);
        world.origin.revoke(PRIVATE_REPOSITORY, "owner");
        world.run_for(Duration::from_secs(60));
        let late = world.pull_as(0, &blob, Some(OWNER));
        refused(&mut world, &[late]);
        world.finish();
    });
}
