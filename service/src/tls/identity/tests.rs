//! Files that change under a running role: good ones are used, bad ones change nothing, the revoked are heard no more.

use std::fs;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::net::Stream;
use crate::tls::CertificateRole;
use crate::tls::tests::Authority;

/// The two ends of a connection, or why there is none.
async fn connect(server: &NodeIdentity, client: &NodeIdentity) -> io::Result<(Stream, Stream)> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (acceptor, connector) = (
        server.acceptor(Protocol::Http1),
        client.connector(Protocol::Http1),
    );
    let (accepted, connected) = tokio::join!(
        acceptor.accept(Stream::Other(Box::new(near))),
        connector.connect("server", Stream::Other(Box::new(far)))
    );
    Ok((accepted?, connected?))
}

async fn exchange(from: &mut Stream, to: &mut Stream) -> io::Result<()> {
    from.write_all(b"x").await?;
    from.flush().await?;
    to.read_u8().await.map(drop)
}

fn identity(files: &NodeTls) -> NodeIdentity {
    NodeIdentity::load(files.clone(), Expected::default()).unwrap()
}

fn reloads(identity: &NodeIdentity, result: &'static str) -> u64 {
    identity
        .shared
        .metrics
        .reloads
        .get_or_create(&Outcome { result })
        .get()
}

#[tokio::test]
async fn new_connections_use_what_is_new_and_open_ones_stay() {
    let ours = Authority::new();
    let (server, client) = (identity(&ours.node("server")), identity(&ours.node("client")));
    let (mut near, mut far) = connect(&server, &client).await.unwrap();
    let before = server.certificate();
    server.look();
    assert_eq!(reloads(&server, "ok"), 0, "nothing has changed");
    ours.node("server");
    server.look();
    assert_eq!(reloads(&server, "ok"), 1);
    assert_ne!(server.certificate().fingerprint, before.fingerprint);
    let (_, newer) = connect(&server, &client).await.unwrap();
    let shown = newer.peer_identity().unwrap().certificate().fingerprint;
    assert_eq!(shown, server.certificate().fingerprint);
    exchange(&mut near, &mut far).await.unwrap();
    exchange(&mut far, &mut near).await.unwrap();
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_is_told_once() {
    let ours = Authority::new();
    let files = ours.node("server");
    let expected = Expected {
        names: vec!["server".into()],
        roles: Vec::new(),
    };
    let server = NodeIdentity::load(files.clone(), expected).unwrap();
    let client = identity(&ours.node("client"));
    let good = server.certificate();
    let spoil: [&dyn Fn(); 4] = [
        &|| fs::write(&files.cert_file, "junk").unwrap(),
        &|| fs::remove_file(&files.key_file).unwrap(),
        // Of another CA.
        &|| {
            let theirs = Authority::new();
            let stranger = theirs.node("server");
            fs::copy(stranger.cert_file, &files.cert_file).unwrap();
            fs::copy(stranger.key_file, &files.key_file).unwrap();
        },
        // For another name.
        &|| {
            let other = ours.node("other");
            fs::copy(other.cert_file, &files.cert_file).unwrap();
            fs::copy(other.key_file, &files.key_file).unwrap();
        },
    ];
    for (count, spoil) in (1..).zip(spoil) {
        spoil();
        server.look();
        server.look();
        assert_eq!(reloads(&server, "failed"), count);
        assert_eq!(server.certificate().fingerprint, good.fingerprint);
        connect(&server, &client).await.unwrap();
    }
    ours.node("server");
    server.look();
    assert_eq!((reloads(&server, "ok"), reloads(&server, "failed")), (1, 4));
    assert_ne!(server.certificate().fingerprint, good.fingerprint);
}

#[tokio::test]
async fn the_revoked_are_heard_no_more_on_open_connections_either() {
    let ours = Authority::new();
    let list = ours.file("revoked");
    fs::write(&list, "").unwrap();
    let mut files = ours.node("server");
    files.revoked_file = Some(list.clone());
    let server = identity(&files);
    let (thief, other) = (identity(&ours.node("thief")), identity(&ours.node("other")));
    let (mut near, mut far) = connect(&server, &thief).await.unwrap();
    let (mut near_other, mut far_other) = connect(&server, &other).await.unwrap();
    fs::write(&list, format!("{} # stolen\n", thief.certificate().serial)).unwrap();
    exchange(&mut near, &mut far).await.unwrap();
    server.look();
    assert_eq!(
        exchange(&mut near, &mut far).await.unwrap_err().kind(),
        io::ErrorKind::PermissionDenied
    );
    assert!(
        exchange(&mut far, &mut near).await.is_err(),
        "a revoked one was heard"
    );
    assert!(
        connect(&server, &thief).await.is_err(),
        "a revoked one was let in"
    );
    exchange(&mut near_other, &mut far_other).await.unwrap();
    // A list that cannot be read frees nobody.
    fs::write(&list, "who knows").unwrap();
    server.look();
    assert_eq!(reloads(&server, "failed"), 1);
    assert!(connect(&server, &thief).await.is_err());
    fs::remove_file(&list).unwrap();
    server.look();
    assert!(connect(&server, &thief).await.is_err());
    fs::write(&list, "# nobody\n").unwrap();
    server.look();
    connect(&server, &thief).await.unwrap();
    assert!(
        NodeIdentity::load(
            NodeTls {
                revoked_file: Some(ours.file("missing")),
                ..files
            },
            Expected::default()
        )
        .is_err()
    );
}

#[tokio::test]
async fn the_node_that_connects_looks_at_the_list_too() {
    let ours = Authority::new();
    let server = identity(&ours.node("server"));
    let mut files = ours.node("client");
    files.revoked_file = Some(ours.file("revoked"));
    let named = format!("sha256:{}\n", server.certificate().fingerprint);
    fs::write(ours.file("revoked"), named).unwrap();
    let refused = connect(&server, &identity(&files)).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{refused}");
}

#[tokio::test(start_paused = true)]
async fn files_are_followed_until_the_end() {
    let ours = Authority::new();
    let server = identity(&ours.node("server"));
    let (tasks, stop) = (Tasks::new(), CancellationToken::new());
    tasks.spawn(
        "follow",
        server
            .clone()
            .follow(Duration::from_secs(10), tasks.clone(), stop.clone()),
    );
    ours.node("server");
    while reloads(&server, "ok") == 0 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    stop.cancel();
    tasks.shut_down(Duration::from_secs(5)).await;
}

#[test]
fn what_is_counted_has_names() {
    let ours = Authority::new();
    let seed = ours.sign("seed", |params| {
        let uri = CertificateRole::Seed.uri().try_into().unwrap();
        params.subject_alt_names.push(rcgen::SanType::URI(uri));
    });
    let identity = identity(&seed);
    assert!(identity.certificate().may_act_as(CertificateRole::Seed));
    let mut registry = Registry::default();
    identity.register(registry.sub_registry_with_prefix("darter_proxy"));
    let text = crate::metrics::encode(&registry);
    for line in [
        &format!(
            "darter_proxy_tls_certificate_not_after_seconds {}",
            identity.certificate().not_after
        ),
        "darter_proxy_tls_reloads_total{result=\"failed\"} 0",
        "darter_proxy_tls_revoked 0",
        "darter_proxy_tls_connections_refused_total 0",
    ] {
        assert!(text.contains(line), "{text}");
    }
}
