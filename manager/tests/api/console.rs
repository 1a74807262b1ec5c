//! The console, in a real browser: `e2e/console` has the tests, which drive Chromium against a manager of this process.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use darter_service::net::Address;
use tokio::process::Command;

use crate::home::{Home, Manager};
use crate::roles;

const NOT_THERE: &str = "install it with `apt-get install chromium nodejs npm`";

/// The tests' folder, with the packages that their lock file names.
async fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/console");
    let lock = std::fs::read_to_string(folder.join("package-lock.json")).unwrap();
    let mark = folder.join("node_modules/.of-lock");
    if std::fs::read_to_string(&mark).is_ok_and(|of| of == lock) {
        return folder;
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts"])
        .current_dir(&folder)
        .stdin(Stdio::null());
    let done = npm.status().await;
    let done = done.unwrap_or_else(|error| panic!("npm cannot be started ({error}): {NOT_THERE}"));
    assert!(done.success(), "npm cannot install the tests' packages");
    std::fs::write(mark, lock).unwrap();
    folder
}

/// Pages say how long ago something was: the manager's time is to be the browser's.
#[expect(clippy::disallowed_methods, reason = "a browser has the wall clock")]
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

#[tokio::test]
async fn the_console_works_in_a_browser() {
    let folder = folder().await;
    let home = Home::folder();
    let manager = Manager::start(&home).await;
    manager.clock.store(now(), Ordering::Relaxed);
    let members = roles::two_that_join(&manager).await;
    let Address::Tcp(address) = manager.address() else {
        panic!("it listens on TCP");
    };
    let mut node = Command::new("node");
    node.arg("main.js")
        .current_dir(folder)
        .env("DARTER_CONSOLE_URL", format!("http://{address}"))
        .env("DARTER_CONSOLE_PASSWORD", manager.password.as_deref().unwrap())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let done = node.output().await;
    let done = done.unwrap_or_else(|error| panic!("node cannot be started ({error}): {NOT_THERE}"));
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(
        done.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
    for member in members.running {
        member.end().await;
    }
    manager.stop().await;
}
