//! A proxy whose wall clock jumps and stands still: rights live by another clock, pieces by none.
//!
//! Its clock is a file: a small library between it and the system ([`SHIM`]) adds what the file says, or says the same time
//! for ever.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use darter_testkit::client::get;
use darter_testkit::content::Content;
use darter_testkit::origin::{Access, Origin};

use crate::role::{Role, address};

const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int (*real)(clockid_t, struct timespec *);

/* "+3600" and "-3600" are added to the time, "=1700000000" is the time. */
static void shift(struct timespec *now) {
    const char *path = getenv("TEST_CLOCK");
    char text[32] = {0};
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    ssize_t count = read(file, text, sizeof text - 1);
    close(file);
    if (count < 2) return;
    if (text[0] == '=') {
        now->tv_sec = atoll(text + 1);
        now->tv_nsec = 0;
    } else {
        now->tv_sec += atoll(text);
    }
}

int clock_gettime(clockid_t id, struct timespec *now) {
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, now);
    if (result == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) shift(now);
    return result;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"#;

const HOUR: i64 = 3600;
const YEAR: i64 = 365 * 24 * HOUR;
/// alice:secret
const ALICE: [(&str, &str); 1] = [("authorization", "Basic YWxpY2U6c2VjcmV0")];
/// How long a right is believed; in life it is a minute.
const GRANT: Duration = Duration::from_secs(3);

/// The library, made by the C compiler that the build needs as well.
fn shim(dir: &Path) -> PathBuf {
    let (source, library) = (dir.join("clock.c"), dir.join("clock.so"));
    std::fs::write(&source, SHIM).unwrap();
    let made = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .status();
    assert!(made.unwrap().success(), "cc failed");
    library
}

struct World {
    origin: Origin,
    role: Role,
    mirror: SocketAddr,
    clock: PathBuf,
    public: String,
    private: String,
    _dir: tempfile::TempDir,
    _running: darter_testkit::origin::RunningOrigin,
}

impl World {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let origin = Origin::new();
        let public = origin.add_blob("open", Content::generated(1, 900_000));
        let private = origin.add_blob("closed", Content::generated(2, 900_000));
        origin.set_access("closed", Access::Basic);
        origin.add_user("alice", "secret");
        origin.allow("closed", "alice");
        let running = origin.spawn_on_loopback().await.unwrap();
        let clock = dir.path().join("clock");
        std::fs::write(&clock, "+0").unwrap();
        let store = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_darter"));
        command
            .args(["proxy", "run", "--log", "debug"])
            .env("LD_PRELOAD", shim(dir.path()))
            .env("TEST_CLOCK", &clock);
        for setting in [
            "host=here".to_owned(),
            "mirror.listen=127.0.0.1:0".to_owned(),
            "peer.listen=127.0.0.1:0".to_owned(),
            "admin.listen=127.0.0.1:0".to_owned(),
            format!("store.dir={}", store.path().join("store").display()),
            format!("access.privateGrant={}s", GRANT.as_secs()),
            format!("origin.registries.\"registry.test\".endpoint={}", running.url()),
        ] {
            command.args(["--set", &setting]);
        }
        let mut role = Role::start(&mut command, store);
        let mirror = address(&role.logged("proxy is ready"), "mirror");
        role.read_on();
        Self {
            origin,
            role,
            mirror,
            clock,
            public,
            private,
            _dir: dir,
            _running: running,
        }
    }

    fn set(&self, clock: &str) {
        std::fs::write(&self.clock, clock).unwrap();
    }

    /// The status of the public content.
    async fn open(&self) -> u16 {
        let target = format!("/v2/open/blobs/{}?ns=registry.test", self.public);
        get(self.mirror, &target, &[]).await.unwrap().status
    }

    /// The status of the private one, with its owner's password.
    async fn closed(&self) -> u16 {
        let target = format!("/v2/closed/blobs/{}?ns=registry.test", self.private);
        get(self.mirror, &target, &ALICE).await.unwrap().status
    }

    /// Processor time that the proxy has used.
    fn worked(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.role.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        // User and system time, in ticks of which Linux shows 100 a second.
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }
}

fn clocks() -> Vec<String> {
    let jumps = [HOUR, -HOUR, YEAR, -YEAR].map(|seconds| format!("{seconds:+}"));
    // Frozen now, and long ago.
    jumps
        .into_iter()
        .chain(["=1000000000".to_owned(), "=1".to_owned()])
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wall_clock_that_jumps_is_nothing_to_pieces_and_rights() {
    let world = World::start().await;
    assert_eq!((world.open().await, world.closed().await), (200, 200));
    let sent = world.origin.bytes_sent();
    for clock in clocks() {
        world.set(&clock);
        assert_eq!((world.open().await, world.closed().await), (200, 200), "{clock}");
        assert_eq!(
            world.origin.bytes_sent(),
            sent,
            "{clock}: a piece was fetched again"
        );
        // A right lives as long as before, by the clock that nobody sets.
        world.origin.revoke("closed", "alice");
        tokio::time::sleep(GRANT + Duration::from_millis(200)).await;
        let refused = world.closed().await;
        assert!(refused == 401 || refused == 403, "{clock}: {refused}");
        world.origin.allow("closed", "alice");
        assert_eq!(world.closed().await, 200, "{clock}");
        let asked = world.origin.requests_total();
        world.set("+0");
        assert_eq!(world.closed().await, 200, "{clock}, and back");
        assert_eq!(
            world.origin.requests_total(),
            asked,
            "{clock}: a right was forgotten"
        );
    }
    let before = world.worked();
    world.set("=1");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let worked = world.worked() - before;
    assert!(
        worked < Duration::from_secs(1),
        "it worked {worked:?} of two seconds, for nothing"
    );
}
