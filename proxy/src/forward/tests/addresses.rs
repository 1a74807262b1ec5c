//! Contents of other hosts that a rule finds by the digest in their address.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use darter_testkit::content::Content;
use darter_testkit::origin::{Access, Fault, Match, RedirectTo, When};

use super::lab::Lab;
use crate::forward::{RuleAction, RuleConfig};

const LENGTH: u64 = 2_000_000;

/// A rule that shares what lies at `/storage/`, where the registry's redirects lead, and how long a signature is good.
async fn with_storage(valid: Duration) -> (Lab, String) {
    let lab = Lab::plain(|config, _, running| {
        config.forward.rules = vec![RuleConfig {
            url: format!(
                "^http://{}/storage/(?<digest>sha256:[0-9a-f]{{64}})",
                running.host()
            ),
            action: RuleAction::P2p,
            ignore_query: vec!["sig".into()],
            ..RuleConfig::default()
        }];
    })
    .await;
    let digest = lab.origin.add_blob("a", Content::generated(1, LENGTH));
    let redirect = Fault::Redirect(RedirectTo::Presigned { host: None, valid });
    lab.origin.inject(
        Match::path(&format!("/v2/a/blobs/{digest}")),
        When::Always,
        redirect,
    );
    (lab, digest)
}

/// An address of the content that is signed anew.
async fn signed(lab: &Lab, digest: &str) -> String {
    let path = format!("/v2/a/blobs/{digest}");
    let answer = darter_testkit::client::get(lab.running.addr, &path, &[])
        .await
        .unwrap();
    let location = answer.header("location").unwrap();
    assert!(location.contains("?sig="), "{location}");
    match location.starts_with('/') {
        true => format!("http://{}{location}", lab.authority()),
        false => location.to_owned(),
    }
}

fn absolute(url: &str, headers: &str) -> String {
    format!("GET {url} HTTP/1.1\r\nHost: elsewhere\r\n{headers}\r\n")
}

#[tokio::test]
async fn signed_addresses_of_one_content_cost_its_host_one_fetch() {
    let (lab, digest) = with_storage(Duration::from_secs(600)).await;
    let mut urls = Vec::new();
    for _ in 0..3 {
        urls.push(signed(&lab, &digest).await);
    }
    urls.sort();
    urls.dedup();
    assert_eq!(urls.len(), 3, "each client has a signature of its own");
    lab.origin.reset_counters();
    for url in &urls {
        let answer = lab.ask(&absolute(url, "")).await;
        assert_eq!((answer.status, answer.body_digest()), (200, digest.clone()));
    }
    let part = lab.ask(&absolute(&urls[0], "Range: bytes=5-9\r\n")).await;
    assert_eq!(
        (part.status, part.body),
        (206, Content::generated(1, LENGTH).read(5..10))
    );
    // Each was asked for one byte with the client's own signature, and the content came once.
    assert_eq!(lab.origin.bytes_sent_for(&digest), LENGTH + 4);
    let log = lab.origin.log();
    for url in &urls {
        let query = url.split_once('?').unwrap().1;
        assert!(log.iter().any(|seen| seen.target().ends_with(query)), "{log:?}");
    }
    assert_eq!(
        lab.metric("darter_proxy_forward_requests_total{way=\"shared\",code=\"200\"}"),
        3
    );
    lab.end().await;
}

#[tokio::test]
async fn a_signature_that_is_wrong_opens_nothing_and_the_host_says_so() {
    let (lab, digest) = with_storage(Duration::from_secs(600)).await;
    let good = signed(&lab, &digest).await;
    assert_eq!(lab.ask(&absolute(&good, "")).await.status, 200);
    let wrong = format!("{}?sig=wrong", good.split_once('?').unwrap().0);
    let refused = lab.ask(&absolute(&wrong, "")).await;
    assert_eq!(refused.status, 403);
    let said = String::from_utf8_lossy(&refused.body).into_owned();
    assert!(said.contains("the signature is unknown or has expired"), "{said}");
    assert_eq!(
        lab.metric("darter_proxy_forward_requests_total{way=\"direct\",code=\"403\"}"),
        1
    );
    // HEAD is not what the address is signed for: its host says what it is worth.
    let head = lab.ask(&absolute(&good, "").replace("GET", "HEAD")).await;
    assert_eq!((head.status, head.content_length()), (200, Some(LENGTH)));
    lab.end().await;
}

#[tokio::test]
async fn a_signature_that_runs_out_ends_what_it_opened() {
    let (lab, digest) = with_storage(Duration::from_millis(1500)).await;
    let url = signed(&lab, &digest).await;
    let asked = tokio::time::Instant::now();
    let first = lab.ask(&absolute(&url, "")).await;
    // On a machine that stands still the signature may have run out by then.
    assert!(
        first.status == 200 || asked.elapsed() > Duration::from_secs(1),
        "{}",
        first.status
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(lab.ask(&absolute(&url, "")).await.status, 403);
    let fresh = signed(&lab, &digest).await;
    assert_eq!(lab.ask(&absolute(&fresh, "")).await.status, 200);
    lab.end().await;
}

#[tokio::test]
async fn an_address_that_names_a_digest_opens_only_what_it_has() {
    let lab = Lab::plain(|config, _, running| {
        config.forward.rules = vec![RuleConfig {
            url: format!(
                "^http://{}/v2/theirs/blobs/(?<digest>sha256:[0-9a-f]{{64}})",
                running.host()
            ),
            action: RuleAction::P2p,
            ..RuleConfig::default()
        }];
    })
    .await;
    let digest = lab.origin.add_blob("a", Content::generated(1, LENGTH));
    lab.origin.set_access("a", Access::Basic);
    lab.origin.add_user("anna", "pw");
    lab.origin.allow("a", "anna");
    let host = lab.authority();
    let ours = format!("http://{host}/v2/a/blobs/{digest}");
    let basic = format!("Authorization: Basic {}\r\n", STANDARD.encode("anna:pw"));
    assert_eq!(lab.ask(&absolute(&ours, &basic)).await.body_digest(), digest);
    // Somebody has other bytes at an address of the same host that names the same digest.
    lab.origin
        .add_blob_as("theirs", &digest, Content::generated(2, LENGTH));
    let theirs = format!("http://{host}/v2/theirs/blobs/{digest}");
    let stolen = lab.ask(&absolute(&theirs, "")).await;
    assert_eq!(stolen.body, Content::generated(2, LENGTH).read(0..LENGTH));
    assert_eq!(
        lab.metric("darter_proxy_forward_requests_total{way=\"direct\",code=\"200\"}"),
        1
    );
    lab.end().await;
}
