//! Dependencies between the members point one way: `types → proto → service → {proxy, scheduler, manager} → cli` and
//! `types → {engine, store, origin} → proxy`. Roles never know each other: they meet in `proto`.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on fails the test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// What each member may depend on outside its tests, itself left out. A new member needs a line here.
const MAY_USE: [(&str, &[&str]); 17] = [
    ("darter-types", &[]),
    ("darter-proto", &["darter-types"]),
    ("darter-service", &["darter-types", "darter-proto"]),
    ("darter-engine", &["darter-types"]),
    ("darter-store", &["darter-types"]),
    ("darter-origin", &["darter-types", "darter-service"]),
    (
        "darter-proxy",
        &[
            "darter-types",
            "darter-proto",
            "darter-service",
            "darter-engine",
            "darter-store",
            "darter-origin",
            "darter-containerd-config",
        ],
    ),
    (
        "darter-scheduler",
        &["darter-types", "darter-proto", "darter-service"],
    ),
    (
        "darter-manager",
        &["darter-types", "darter-proto", "darter-service"],
    ),
    (
        "darter-nydus-bridge",
        &[
            "darter-types",
            "darter-service",
            // Its converter finds logins as the proxy does.
            "darter-origin",
        ],
    ),
    ("darter-containerd-config", &[]),
    ("darter-certs", &["darter-types", "darter-service"]),
    (
        "darter",
        &[
            "darter-types",
            "darter-proto",
            "darter-service",
            // Its doctor asks registries as the proxy does.
            "darter-origin",
            "darter-proxy",
            "darter-scheduler",
            "darter-manager",
            "darter-containerd-config",
            "darter-certs",
        ],
    ),
    // For tests only: they may know everything below the binary.
    ("darter-testkit", &["darter-types", "darter-service"]),
    (
        "darter-sim",
        &[
            "darter-types",
            "darter-proto",
            "darter-service",
            "darter-engine",
            "darter-store",
            "darter-origin",
            "darter-proxy",
            "darter-scheduler",
            "darter-testkit",
        ],
    ),
    // Knows the binary from outside alone; its benchmarks also measure the scheduler's decisions and simulated swarms, and
    // its faults send a million frames through the reader of the proxy.
    (
        "darter-e2e",
        &["darter-testkit", "darter-proxy", "darter-scheduler", "darter-sim"],
    ),
    ("xtask", &[]),
];

/// Members whose code decides: no I/O, no clock, no runtime. What they may use from outside the workspace.
const PURE: [(&str, &[&str]); 2] = [
    ("darter-types", &["serde", "sha2", "thiserror"]),
    ("darter-engine", &["rand", "thiserror"]),
];

/// Normal and build dependencies of every member, by name; those of tests are left out.
fn members() -> BTreeMap<String, BTreeSet<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(root)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    packages
        .iter()
        .map(|package| (text(&package["name"]), dependencies(package)))
        .collect()
}

fn dependencies(package: &Value) -> BTreeSet<String> {
    let all = package["dependencies"].as_array().unwrap().iter();
    let normal = all.filter(|dependency| dependency["kind"] != "dev");
    normal
        .map(|dependency| dependency["name"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn dependencies_point_one_way() {
    let members = members();
    let allowed: BTreeMap<&str, &[&str]> = MAY_USE.into();
    let known: BTreeSet<&str> = allowed.keys().copied().collect();
    let found: BTreeSet<&str> = members.keys().map(String::as_str).collect();
    assert_eq!(
        found, known,
        "MAY_USE has a line for each member and for nothing else"
    );
    for (member, dependencies) in &members {
        for dependency in dependencies.iter().filter(|name| found.contains(name.as_str())) {
            assert!(
                allowed[member.as_str()].contains(&dependency.as_str()),
                "{member} must not depend on {dependency}: see \"Dependencies\" in ARCHITECTURE.md"
            );
        }
    }
}

#[test]
fn what_decides_can_do_no_io() {
    let members = members();
    for (member, allowed) in PURE {
        let outside = members[member].iter().filter(|name| !members.contains_key(*name));
        let more: Vec<&String> = outside.filter(|name| !allowed.contains(&name.as_str())).collect();
        assert!(
            more.is_empty(),
            "{member} decides and does no I/O: may it really use {more:?}?"
        );
    }
}
