//! The node's own credentials: what they open, where they are sent, and what happens when they change.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use darter_origin::{CredentialsConfig, Share};
use darter_testkit::origin::Access;
use tempfile::TempDir;

use super::*;

const BASIC: &str = "Basic YW5uYTpjYW5hcnk=";

/// A registry that asks for `access`, and a node that has a user's name and password for it.
async fn node(access: Access) -> (Bench, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let credentials = CredentialsConfig {
        share: Some(Share::Node),
        username_file: Some(secret(&dir, "user", "anna\n")),
        password_file: Some(secret(&dir, "password", "canary\n")),
        ..CredentialsConfig::default()
    };
    let entry = RegistryConfig {
        credentials: Some(credentials),
        ..plain()
    };
    let bench = Bench::with(entry, impatient()).await;
    bench.origin.set_access(REPOSITORY, access);
    bench.origin.add_user("anna", "canary");
    bench.origin.allow(REPOSITORY, "anna");
    (bench, dir)
}

fn secret(dir: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path
}

async fn read_as_node(bench: &Bench) -> Result<Vec<u8>, OriginError> {
    let fetch = bench.origins.fetch(&bench.locator, 0, None, &Credentials::Node);
    drain(&mut fetch.await?).await.1
}

fn shown(bench: &Bench, path: &str) -> Vec<String> {
    let log = bench.origin.log();
    let there = log.iter().filter(|record| record.path.ends_with(path));
    there
        .map(|record| record.authorization().unwrap_or("-").to_owned())
        .collect()
}

#[tokio::test]
async fn a_token_is_fetched_with_them_and_kept() {
    let (bench, _dir) = node(Access::Bearer { public: false }).await;
    for _ in 0..2 {
        right(&read_as_node(&bench).await.unwrap());
    }
    assert_eq!(shown(&bench, "/token"), [BASIC]);
    let shown = shown(&bench, &bench.digest);
    assert_eq!(shown.len(), 3, "{shown:?}");
    assert_eq!(shown[0], "-");
    assert!(
        shown[1].starts_with("Bearer ") && shown[1] == shown[2],
        "{shown:?}"
    );
}

#[tokio::test]
async fn nobody_reads_by_them_who_does_not_ask_as_the_node() {
    let (bench, _dir) = node(Access::Bearer { public: false }).await;
    right(&read_as_node(&bench).await.unwrap());
    assert_eq!(status(&bench.fails().await), 401);
    // Root's processes alone, unless others are named.
    for (user, lent) in [(Some(0), true), (Some(1000), false), (None, false)] {
        assert_eq!(bench.origins.lends(&bench.registry(), || user), lent, "{user:?}");
    }
    let unasked = || unreachable!("whose connection it is costs a look into the system's tables");
    assert!(!bench.origins.lends(&"other.test".parse().unwrap(), unasked));
}

#[tokio::test]
async fn a_registry_without_tokens_is_shown_them() {
    let (bench, _dir) = node(Access::Basic).await;
    for _ in 0..2 {
        right(&read_as_node(&bench).await.unwrap());
    }
    assert_eq!(shown(&bench, &bench.digest), ["-", BASIC, BASIC]);
}

#[tokio::test]
async fn a_token_that_ran_out_while_a_reader_lives_is_replaced() {
    let (bench, _dir) = node(Access::Bearer { public: false }).await;
    let mut start = bench
        .origins
        .fetch(&bench.locator, 0, Some(1000), &Credentials::Node)
        .await
        .unwrap();
    assert_eq!(drain(&mut start).await.0, 1000);
    bench.origin.revoke_tokens();
    let mut rest = bench
        .origins
        .fetch(&bench.locator, 1000, None, &Credentials::Node)
        .await
        .unwrap();
    assert_eq!(drain(&mut rest).await.1.unwrap(), blob().read(1000..LENGTH));
    assert_eq!(shown(&bench, "/token").len(), 2);
}

#[tokio::test]
async fn a_password_that_changed_is_read_again() {
    let (bench, dir) = node(Access::Bearer { public: false }).await;
    right(&read_as_node(&bench).await.unwrap());
    bench.origin.add_user("anna", "another");
    bench.origin.revoke_tokens();
    secret(&dir, "password", "another");
    right(&read_as_node(&bench).await.unwrap());
}

#[tokio::test]
async fn a_wrong_password_is_not_tried_again_and_again() {
    let (bench, dir) = node(Access::Bearer { public: false }).await;
    secret(&dir, "password", "wrong");
    for _ in 0..5 {
        assert_eq!(status(&read_as_node(&bench).await.unwrap_err()), 401);
    }
    let asked = shown(&bench, "/token").len();
    assert!(asked < 5, "{asked}");
}

#[tokio::test]
async fn a_realm_on_another_host_in_the_clear_gets_nothing() {
    let (bench, _dir) = node(Access::Bearer { public: false }).await;
    let thief = Origin::new();
    let running = thief.spawn_on_loopback().await.unwrap();
    bench.origin.set_realm(&format!("{}/token", running.url()));
    is_unusable(&read_as_node(&bench).await.unwrap_err(), "not https");
    assert_eq!(thief.requests_total(), 0);
}
