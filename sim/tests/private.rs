//! Private content: the registry says who may read, whatever is cached.

use std::time::Duration;

use darter_sim::scenario::scripted;
use darter_sim::world::REPOSITORY;
use darter_sim::{Blob, Pull, Shape, World};
use darter_testkit::origin::Access;

const MIB: u64 = 1024 * 1024;
/// user:secret
const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

/// A world with a blob that one user may read, and that his client has read through node 0.
fn read_by_its_user(seed: u64, nodes: usize) -> (World, Blob) {
    let mut world = World::new(
        seed,
        Shape {
            nodes,
            ..Shape::default()
        },
    );
    let blob = world.blob(MIB);
    world.origin.set_access(REPOSITORY, Access::Basic);
    world.origin.add_user("user", "secret");
    world.origin.allow(REPOSITORY, "user");
    world.pull_as(0, &blob, Some(BASIC));
    world.settle(Duration::from_secs(10));
    world.all_pulls_done();
    (world, blob)
}

/// These pulls were refused by all, without a byte; the world forgets them.
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
    world.pulls.truncate(1);
}

#[test]
fn nobody_reads_a_private_blob_without_the_right() {
    scripted("nobody_reads_a_private_blob_without_the_right", |seed| {
        let (mut world, blob) = read_by_its_user(seed, 2);
        // user:wrong
        let wrong = Some("Basic dXNlcjp3cm9uZw==");
        let strangers = [
            world.pull(0, &blob),
            world.pull_as(0, &blob, wrong),
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
        world.origin.revoke(REPOSITORY, "user");
        world.run_for(Duration::from_secs(60));
        let late = world.pull_as(0, &blob, Some(BASIC));
        refused(&mut world, &[late]);
        world.finish();
    });
}
