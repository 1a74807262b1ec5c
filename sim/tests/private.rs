//! Private content: the registry says who may read, whatever is cached.

use std::time::Duration;

use darter_sim::scenario::scripted;
use darter_sim::world::REPOSITORY;
use darter_sim::{Shape, World};
use darter_testkit::origin::Access;

const MIB: u64 = 1024 * 1024;
/// user:secret
const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

#[test]
fn nobody_reads_a_private_blob_without_the_right() {
    scripted("nobody_reads_a_private_blob_without_the_right", |seed| {
        let mut world = World::new(seed, Shape::default());
        let blob = world.blob(MIB);
        world.origin.set_access(REPOSITORY, Access::Basic);
        world.origin.add_user("user", "secret");
        world.origin.allow(REPOSITORY, "user");
        world.pull_as(0, &blob, Some(BASIC));
        world.settle(Duration::from_secs(10));
        // Cached on node 0 now, and asked for there and elsewhere by callers with no right or a wrong one.
        let strangers = [
            world.pull(0, &blob),
            world.pull_as(0, &blob, Some("Basic dXNlcjp3cm9uZw==")),
            world.pull(1, &blob),
        ];
        world.settle(Duration::from_secs(20));
        for stranger in strangers {
            let progress = stranger.progress();
            assert_eq!(progress.bytes, 0, "{progress:?}");
            assert!(
                progress.refusals.iter().all(|status| *status == 401),
                "{progress:?}"
            );
        }
        world.pulls.truncate(1);
        world.origin.revoke(REPOSITORY, "user");
        world.run_for(Duration::from_secs(61));
        let revoked = world.pull_as(0, &blob, Some(BASIC));
        world.settle(Duration::from_secs(20));
        assert_eq!(revoked.progress().bytes, 0, "{:?}", revoked.progress());
        world.pulls.truncate(1);
        world.finish();
    });
}
