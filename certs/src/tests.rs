//! What is made is what roles take; what is there stays; what is wrong is said.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use darter_service::tls::{CertificateRole, NodeTls};
use time::OffsetDateTime;

use crate::authority::{self, Authority};
use crate::node::{self, Node};
use crate::{Error, Written, show};

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

fn node(name: &str) -> Node {
    Node {
        name: name.parse().unwrap(),
        names: vec!["10.0.0.7".into()],
        roles: [CertificateRole::Seed].into(),
        days: 30,
    }
}

fn sign(dir: &Path, node: &Node) -> Result<Written, Error> {
    node::make(&Authority::open(dir, now())?, dir, node, false, now())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn roles_take_what_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("new/tls");
    let ca = authority::make(&dir, 365, false, now()).unwrap();
    let made = sign(&dir, &node("node-1")).unwrap();
    assert_eq!((mode(&ca.key_file), mode(&made.key_file)), (0o600, 0o600));
    assert_eq!((mode(&made.cert_file), mode(&dir)), (0o644, 0o700));
    let files = NodeTls {
        cert_file: made.cert_file.clone(),
        key_file: made.key_file,
        ca_file: ca.cert_file,
        revoked_file: None,
    };
    let identity = files.load().unwrap();
    let certificate = identity.certificate();
    assert_eq!(certificate.dns, ["node-1"]);
    assert_eq!(certificate.addresses.len(), 1);
    assert!(certificate.may_act_as(CertificateRole::Seed));
    assert!(!certificate.may_act_as(CertificateRole::Scheduler));
    let text = show::file(&made.cert_file, now()).unwrap();
    for part in ["node-1, 10.0.0.7", "role         seed", "days left", "sha256:"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn nothing_is_replaced_unasked() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let ca = authority::make(dir, 365, false, now()).unwrap();
    let key = fs::read(&ca.key_file).unwrap();
    let refused = authority::make(dir, 365, false, now()).unwrap_err();
    assert!(matches!(refused, Error::Exists(_)), "{refused}");
    assert_eq!(fs::read(&ca.key_file).unwrap(), key);
    sign(dir, &node("a")).unwrap();
    assert!(matches!(sign(dir, &node("a")), Err(Error::Exists(_))));
    authority::make(dir, 365, true, now()).unwrap();
    assert_ne!(fs::read(&ca.key_file).unwrap(), key);
    assert_eq!(mode(&ca.key_file), 0o600);
}

#[test]
fn nobody_outlives_his_authority() {
    let dir = tempfile::tempdir().unwrap();
    let ca = authority::make(dir.path(), 3, false, now()).unwrap();
    let made = sign(dir.path(), &node("a")).unwrap();
    assert_eq!(made.not_after.unix_timestamp(), ca.not_after.unix_timestamp());
    let later = now() + time::Duration::days(4);
    let refused = Authority::open(dir.path(), later).unwrap_err();
    assert!(matches!(refused, Error::Expired(_)), "{refused}");
    assert!(
        show::file(&ca.cert_file, later)
            .unwrap()
            .contains("its time is over")
    );
}

#[test]
fn an_authority_for_interception_signs_its_hosts_only() {
    let dir = tempfile::tempdir().unwrap();
    let hosts = ["registry.example".to_owned()];
    let ca = authority::make_for_interception(dir.path(), &hosts, 90, false, now()).unwrap();
    let text = show::file(&ca.cert_file, now()).unwrap();
    assert!(text.contains("may sign     registry.example"), "{text}");
    // It makes no nodes.
    assert!(matches!(
        Authority::open(dir.path(), now()),
        Err(Error::NoAuthority { .. })
    ));
    for hosts in [vec![], vec!["*".to_owned()], vec!["10.0.0.1".to_owned()]] {
        let refused = authority::make_for_interception(dir.path(), &hosts, 90, true, now()).unwrap_err();
        assert!(refused.is_usage(), "{refused}");
    }
}

#[test]
fn what_is_wrong_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let missing = sign(dir, &node("a")).unwrap_err().to_string();
    assert!(missing.contains("darter certs ca --dir"), "{missing}");
    let ca = authority::make(dir, 365, false, now()).unwrap();
    for (bad, days) in [("a b", 30), ("", 30), ("*", 30), ("good", 0), ("good", 4000)] {
        let node = Node {
            names: vec![bad.into()],
            days,
            ..node("a")
        };
        let refused = sign(dir, &node).unwrap_err();
        assert!(refused.is_usage(), "{bad:?}: {refused}");
    }
    assert!(!dir.join("a.key").exists(), "a key without a certificate");
    let made = sign(dir, &node("a")).unwrap();
    fs::copy(&made.key_file, &ca.key_file).unwrap();
    let refused = Authority::open(dir, now()).unwrap_err().to_string();
    assert!(refused.contains("is not the key of"), "{refused}");
    fs::copy(&made.cert_file, &ca.cert_file).unwrap();
    let refused = Authority::open(dir, now()).unwrap_err().to_string();
    assert!(refused.contains("no certificate of a CA"), "{refused}");
    assert!(show::file(&made.key_file, now()).is_err());
}
