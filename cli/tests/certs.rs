//! `darter certs` as a person uses it: what is written, what is said, how it ends.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on fails the test"
)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

/// Status and everything that was said.
fn certs(dir: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_darter"))
        .arg("certs")
        .args(arguments)
        .current_dir(dir)
        .env_clear()
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[test]
fn a_cluster_in_three_commands() {
    let dir = tempfile::tempdir().unwrap();
    let (code, text) = certs(dir.path(), &["ca", "--dir", "pki"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("darter certs node --dir pki"),
        "no next step: {text}"
    );
    let node = [
        "node",
        "--dir",
        "pki",
        "--name",
        "node1",
        "--san",
        "10.0.0.7",
        "--role",
        "seed",
        "--role",
        "scheduler",
    ];
    let (code, text) = certs(dir.path(), &node);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("certFile: /etc/darter/tls/node1.pem"), "{text}");
    let (code, text) = certs(dir.path(), &["show", "pki/node1.pem"]);
    assert_eq!(code, Some(0), "{text}");
    for part in ["node1, 10.0.0.7", "seed, scheduler", "days left"] {
        assert!(text.contains(part), "{text}");
    }
    for key in ["pki/ca.key", "pki/node1.key"] {
        let mode = dir.path().join(key).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    let (code, text) = certs(dir.path(), &node);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("is there already: --force replaces it"), "{text}");
    let (code, text) = certs(dir.path(), &[&node[..], &["--force"]].concat());
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn what_is_wrong_is_said_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    for (arguments, status, reason) in [
        (
            &["node", "--dir", "pki", "--name", "a"][..],
            1,
            "darter certs ca --dir pki",
        ),
        (&["node", "--dir", "pki", "--name", "a b"], 64, "host name"),
        (&["ca", "--dir", "pki", "--days", "0"], 64, "1 to 3650 days"),
        (&["interception-ca", "--dir", "pki"], 64, "--host"),
        (
            &["interception-ca", "--dir", "pki", "--host", "*"],
            64,
            "neither a DNS name",
        ),
        (&["show", "nothing.pem"], 1, "nothing.pem: cannot be read"),
    ] {
        let (code, text) = certs(dir.path(), arguments);
        assert_eq!(code, Some(status), "{arguments:?}: {text}");
        assert!(text.contains(reason), "{arguments:?}: {text}");
    }
    assert!(!dir.path().join("pki").exists(), "a failure left something");
    let made = ["interception-ca", "--dir", "pki", "--host", "registry.example"];
    let (code, text) = certs(dir.path(), &made);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("can sign registry.example and what lies under"),
        "{text}"
    );
}
