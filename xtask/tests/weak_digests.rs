//! What the binary is made of proves contents by sha256 and sha512 alone: no crate that computes a broken digest is among its
//! normal dependencies, on any system that it is built for, so that none can be taken for a proof by mistake.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on fails the test"
)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

/// Crates by whose names one would find md4, md5, sha1 and checksums that are no digests.
const BROKEN: [&str; 9] = [
    "md4",
    "md-4",
    "md5",
    "md-5",
    "sha1",
    "sha-1",
    "sha1_smol",
    "sha1-checked",
    "sha1collisiondetection",
];
/// Who is looked at, and where it runs.
const BINARY: &str = "darter";
const TARGETS: [&str; 2] = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];

/// The names of all crates that a build of the binary compiles into it.
fn compiled_in(target: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--package",
            BINARY,
            "--edges",
            "normal",
            "--target",
            target,
        ])
        .args([
            "--all-features",
            "--prefix",
            "none",
            "--format",
            "{p}",
            "--offline",
        ])
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let text = String::from_utf8(output.stdout).unwrap();
    let name = |line: &str| Some(line.split_whitespace().next()?.to_owned());
    text.lines().filter_map(name).collect()
}

#[test]
fn no_broken_digest_is_compiled_in() {
    for target in TARGETS {
        let found = compiled_in(target);
        // It is the tree that was meant.
        assert!(found.contains("sha2") && found.contains("hyper"), "{found:?}");
        let broken: Vec<&str> = BROKEN.into_iter().filter(|name| found.contains(*name)).collect();
        assert!(
            broken.is_empty(),
            "{broken:?} for {target}: what needs them proves nothing"
        );
    }
}
