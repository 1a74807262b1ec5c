//! The units in `deploy/systemd`, as systemd itself reads them, and what they must have for a proxy that is frozen, that
//! upgrades itself, or that somebody has broken into.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on fails the test"
)]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const UNITS: [&str; 3] = [
    "darter-manager.service",
    "darter-proxy.service",
    "darter-scheduler.service",
];
/// It mounts, so that most of what the others are shut in with would break it.
const SNAPSHOTTER: &str = "darter-snapshotter.service";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd")
}

fn systemd_analyze(arguments: &[&str]) -> Output {
    let output = Command::new("systemd-analyze").args(arguments).output();
    output.expect("systemd-analyze: install it with `apt-get install systemd`")
}

fn said(output: &Output) -> String {
    let texts = [&output.stdout, &output.stderr];
    texts.map(|text| String::from_utf8_lossy(text)).concat()
}

/// The values of each key of a unit, whatever its section.
fn keys(unit: &str) -> BTreeMap<String, Vec<String>> {
    let text = std::fs::read_to_string(folder().join(unit)).unwrap();
    let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with(['#', '['])) {
        if let Some((key, value)) = line.split_once('=') {
            keys.entry(key.to_owned()).or_default().push(value.to_owned());
        }
    }
    keys
}

#[test]
fn systemd_understands_every_line() {
    let dir = tempfile::tempdir().unwrap();
    // It looks for the program; the one of the unit is not installed here.
    let program = dir.path().join("darter");
    std::fs::write(&program, "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    for unit in UNITS.into_iter().chain([SNAPSHOTTER]) {
        let text = std::fs::read_to_string(folder().join(unit)).unwrap();
        assert!(text.contains("=/usr/local/bin/darter "), "{unit}");
        let text = text.replace("/usr/local/bin/darter", program.to_str().unwrap());
        let path = dir.path().join(unit);
        std::fs::write(&path, text).unwrap();
        let output = systemd_analyze(&["verify", "--man=no", path.to_str().unwrap()]);
        // Of other units on this machine it may say anything.
        let ours: Vec<String> = said(&output)
            .lines()
            .filter(|line| line.contains("darter"))
            .map(str::to_owned)
            .collect();
        assert_eq!(ours, [] as [String; 0], "{unit}");
    }
}

#[test]
fn little_is_exposed() {
    for unit in UNITS {
        let path = folder().join(unit);
        // In tenths; a service without any of it has 96.
        let output = systemd_analyze(&[
            "security",
            "--offline=true",
            "--threshold=15",
            path.to_str().unwrap(),
        ]);
        assert!(output.status.success(), "{unit}: {}", said(&output));
    }
}

#[test]
fn a_frozen_process_is_killed_and_every_end_is_followed_by_a_start() {
    for unit in UNITS {
        let keys = keys(unit);
        let one = |key: &str| match keys.get(key).map(Vec::as_slice) {
            Some([value]) => value.as_str(),
            other => panic!("{unit}: {key} is {other:?}"),
        };
        assert_eq!(one("Type"), "notify");
        assert_eq!(one("WatchdogSec"), "10s");
        assert_eq!(one("WatchdogSignal"), "SIGKILL");
        assert_eq!(one("Restart"), "always");
        assert_eq!(one("RestartPreventExitStatus"), "64");
        assert_eq!(one("NoNewPrivileges"), "yes");
        assert_eq!(one("CapabilityBoundingSet"), "");
        assert_eq!(one("ProtectSystem"), "strict");
        assert_eq!(one("User"), "darter");
        assert!(keys.contains_key("MemoryMax"), "{unit}");
    }
}
