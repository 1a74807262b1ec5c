//! CONNECT: tunnels that are passed on unread, their bounds, and what is not tunnelled.

use darter_service::config::Period;
use darter_testkit::client::{End, RawConnection};
use darter_testkit::content::Content;
use tokio::io::AsyncWriteExt as _;

use super::lab::{Lab, intercept};
use crate::forward::{RuleAction, RuleConfig};

const LENGTH: u64 = 3_000_000;

#[tokio::test]
async fn a_tunnel_is_passed_on_unread() {
    let lab = Lab::new(|_, _, _| {}).await;
    let digest = lab.origin.add_blob("a", Content::generated(1, LENGTH));
    // The registry's own certificate: nobody is in between.
    let mut connection = lab.inside(&lab.files.origin_ca).await.unwrap();
    for _ in 0..2 {
        let request = lab.get(&format!("/v2/a/blobs/{digest}"), "");
        connection.send(request.as_bytes()).await.unwrap();
        assert_eq!(
            connection.read_response(false).await.unwrap().body_digest(),
            digest
        );
    }
    assert_eq!(lab.metric("darter_proxy_forward_tunnels_running "), 1);
    drop(connection);
    let passed = lab.metric("darter_proxy_forward_passed_bytes_total{direction=\"from_host\"}");
    assert!(passed > 2 * LENGTH && passed < 3 * LENGTH, "{passed}");
    assert_eq!(
        lab.metric("darter_proxy_forward_requests_total{way=\"tunnel\",code=\"200\"}"),
        1
    );
    assert_eq!(
        lab.metric("darter_proxy_received_bytes_total{source=\"origin\"}"),
        0
    );
    assert!(
        lab.origin
            .log()
            .iter()
            .all(|record| record.header("via").is_none())
    );
    lab.end().await;
}

#[tokio::test]
async fn what_comes_with_the_connect_is_not_lost() {
    let lab = Lab::plain(|_, _, _| {}).await;
    let digest = lab.origin.add_blob("a", Content::generated(2, 1000));
    let authority = lab.authority();
    let text = format!(
        "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n{}",
        lab.get(&format!("/v2/a/blobs/{digest}"), "")
    );
    let mut connection = RawConnection::new(lab.dial().await);
    connection.send(text.as_bytes()).await.unwrap();
    let opened = connection.read_head().await.unwrap();
    assert_eq!((opened.status, opened.header("transfer-encoding")), (200, None));
    assert_eq!(
        connection.read_response(false).await.unwrap().body_digest(),
        digest
    );
}

#[tokio::test]
async fn tunnels_lead_to_allowed_places_only() {
    let lab = Lab::new(|config, _, _| {
        config.forward.rules = vec![RuleConfig {
            url: r"^https://blocked\.test/".into(),
            action: RuleAction::Block,
            ..RuleConfig::default()
        }];
    })
    .await;
    for (authority, status) in [
        ("127.0.0.1:25", 403),
        ("blocked.test:443", 403),
        ("127.0.0.1:443", 403),
        ("localhost:80", 403),
        ("[::1]:443", 403),
        ("2130706433:443", 403),
        ("10.0.0.1:443", 403),
        ("169.254.169.254:80", 403),
        ("[::ffff:169.254.169.254]:80", 403),
        ("no-port.test", 400),
        ("user@a.test:443", 400),
    ] {
        assert_eq!(lab.tunnel(authority).await.unwrap_err(), status, "{authority}");
    }
    assert_eq!(lab.metric("darter_proxy_forward_tunnels_running "), 0);
    assert_eq!(lab.origin.connections(), 0);
}

#[tokio::test]
async fn tunnels_are_bounded_and_a_slot_comes_back() {
    let lab = Lab::new(|config, _, _| config.forward.tunnels_max = 1).await;
    let authority = lab.authority();
    let first = lab.tunnel(&authority).await.unwrap();
    assert_eq!(lab.tunnel(&authority).await.unwrap_err(), 503);
    let refused = "darter_proxy_forward_requests_total{way=\"refused\",code=\"503\"}";
    assert_eq!(lab.metric(refused), 1);
    drop(first);
    while let Err(status) = lab.tunnel(&authority).await {
        assert_eq!(status, 503);
    }
}

#[tokio::test]
async fn a_silent_tunnel_is_ended() {
    let lab = Lab::new(|config, _, _| config.forward.idle_timeout = Period::millis(100)).await;
    let mut connection = RawConnection::new(lab.tunnel(&lab.authority()).await.unwrap());
    let (bytes, end) = connection.read_to_end().await.unwrap();
    assert_eq!((bytes.len(), end), (0, End::Fin));
    assert_eq!(lab.metric("darter_proxy_forward_idle_ends_total "), 1);
}

#[tokio::test]
async fn a_client_that_does_not_trust_the_authority_gets_nothing() {
    let lab = Lab::new(intercept).await;
    assert!(lab.inside(&lab.files.origin_ca).await.is_err());
    let mut plain = lab.tunnel(&lab.authority()).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    // Not TLS: the tunnel ends. It leads nowhere in the meantime.
    _ = RawConnection::new(plain).read_to_end().await;
    assert_eq!(lab.origin.connections(), 0);
    assert_eq!(lab.metric("darter_proxy_forward_handshakes_failed_total "), 2);
}

#[tokio::test]
async fn a_certificate_that_was_pushed_out_is_made_again_and_counted() {
    for (certificates_max, made) in [(1, 3), (2, 2)] {
        let lab = Lab::new(|config, files, running| {
            intercept(config, files, running);
            let hosts = &mut config.forward.intercept.hosts;
            hosts.push(crate::forward::HostPattern("other.test".into()));
            config.forward.intercept.certificates_max = certificates_max;
        })
        .await;
        for authority in [lab.authority(), "other.test:443".to_owned(), lab.authority()] {
            lab.tunnel(&authority).await.unwrap();
        }
        assert_eq!(lab.metric("darter_proxy_forward_certificates_made_total "), made);
    }
}
