//! What the binary is made of proves contents by sha256 and sha512 alone: no crate that computes a broken digest is among its
//! normal dependencies, on any system that it is built for, so that none can be taken for a proof by mistake. The one exception
//! is the driver of Postgres, which has md5 for servers that ask for a password so; no content comes near it.

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
/// Who may have one, and which.
const EXCEPTION: (&str, &str) = ("sqlx-postgres", "md-5");
const TARGETS: [&str; 2] = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];

/// What `cargo tree` says of the binary, or of who needs `of`.
fn tree(target: &str, of: Option<&str>) -> BTreeSet<String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args([
        "tree",
        "--package",
        BINARY,
        "--edges",
        "normal",
        "--target",
        target,
    ]);
    cargo.args([
        "--all-features",
        "--prefix",
        "none",
        "--format",
        "{p}",
        "--offline",
    ]);
    if let Some(of) = of {
        cargo.args(["--invert", of, "--depth", "1"]);
    }
    let output = cargo
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
        let found = tree(target, None);
        // It is the tree that was meant.
        assert!(found.contains("sha2") && found.contains("hyper"), "{found:?}");
        let (who, which) = EXCEPTION;
        let excepted = |name: &str| {
            name == which && tree(target, Some(name)) == BTreeSet::from([name.to_owned(), who.to_owned()])
        };
        let broken: Vec<&str> = BROKEN
            .into_iter()
            .filter(|name| found.contains(*name) && !excepted(name))
            .collect();
        assert!(
            broken.is_empty(),
            "{broken:?} for {target}: what needs them proves nothing"
        );
    }
}
