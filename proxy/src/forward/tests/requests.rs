//! What is asked of the proxy itself, in the clear and inside tunnels that are looked into.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use darter_testkit::content::Content;
use darter_testkit::origin::{Access, Fault, Match, When};
use http::Method;

use super::lab::{Lab, intercept};
use crate::forward::{RuleAction, RuleConfig};

const LENGTH: u64 = 2_000_000;

#[tokio::test]
async fn a_blob_inside_a_tunnel_is_fetched_once() {
    let lab = Lab::new(intercept).await;
    let digest = lab.origin.add_blob("a", Content::generated(1, LENGTH));
    let path = format!("/v2/a/blobs/{digest}");
    for _ in 0..3 {
        let answer = lab.ask_inside(&lab.get(&path, "")).await;
        assert_eq!((answer.status, answer.body_digest()), (200, digest.clone()));
    }
    let part = lab.ask_inside(&lab.get(&path, "Range: bytes=5-9\r\n")).await;
    assert_eq!(part.status, 206);
    assert_eq!(part.body, Content::generated(1, LENGTH).read(5..10));
    assert_eq!(lab.origin.requests_for(&Method::GET, &digest), 1);
    assert_eq!(
        lab.metric("darter_proxy_forward_requests_total{way=\"shared\",code=\"200\"}"),
        3
    );
    lab.end().await;
}

#[tokio::test]
async fn rights_inside_a_tunnel_are_the_callers() {
    let lab = Lab::new(intercept).await;
    let digest = lab.origin.add_blob("a", Content::generated(1, 1000));
    lab.origin.set_access("a", Access::Basic);
    lab.origin.set_ping_access(Access::Basic);
    lab.origin.add_user("anna", "canary");
    lab.origin.allow("a", "anna");
    let path = format!("/v2/a/blobs/{digest}");
    let authorization = format!("Authorization: Basic {}\r\n", STANDARD.encode("anna:canary"));
    assert_eq!(
        lab.ask_inside(&lab.get(&path, &authorization))
            .await
            .body_digest(),
        digest
    );
    for path in [path.as_str(), "/v2/"] {
        let refused = lab.ask_inside(&lab.get(path, "")).await;
        assert_eq!(refused.status, 401, "{path}");
        assert!(
            refused.header("www-authenticate").unwrap().starts_with("Basic"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn all_else_is_passed_on_with_its_body() {
    let lab = Lab::new(intercept).await;
    let authority = lab.authority();
    let request = format!(
        "POST /v2/a/blobs/uploads/?mount=x HTTP/1.1\r\nHost: {authority}\r\nContent-Length: 5\r\n\
         X-Mine: yes\r\nConnection: x-hop\r\nX-Hop: canary\r\nProxy-Authorization: Basic canary\r\n\r\nhello"
    );
    let answer = lab.ask_inside(&request).await;
    let log = lab.origin.log();
    let [seen] = log.as_slice() else { panic!("{log:?}") };
    assert_eq!(Some(answer.status), seen.status);
    assert_eq!(
        (seen.method.as_str(), seen.target().as_str()),
        ("POST", "/v2/a/blobs/uploads/?mount=x")
    );
    assert_eq!(seen.header("content-length"), Some("5"));
    assert_eq!(seen.header("x-mine"), Some("yes"));
    assert_eq!(seen.header("host"), Some(authority.as_str()));
    assert_eq!(seen.header("via"), Some("1.1 darter"));
    assert!(
        seen.headers.iter().all(|(_, value)| !value.contains("canary")),
        "{seen:?}"
    );
}

#[tokio::test]
async fn a_tunnel_leads_to_one_host() {
    let lab = Lab::new(intercept).await;
    for request in [
        "GET /v2/ HTTP/1.1\r\nHost: other.test\r\n\r\n".to_owned(),
        format!(
            "GET https://other.test/v2/ HTTP/1.1\r\nHost: {}\r\n\r\n",
            lab.authority()
        ),
    ] {
        assert_eq!(lab.ask_inside(&request).await.status, 421, "{request}");
    }
    assert_eq!(lab.origin.requests_total(), 0);
}

#[tokio::test]
async fn what_the_mirror_cannot_give_is_asked_of_the_host() {
    let lab = Lab::new(intercept).await;
    let digest = lab.origin.add_blob("a", Content::generated(1, 1000));
    let head = Match::digest(&digest).head();
    let id = lab.origin.inject(head, When::Always, Fault::status(500));
    let answer = lab
        .ask_inside(&lab.get(&format!("/v2/a/blobs/{digest}"), ""))
        .await;
    assert_eq!((answer.status, answer.body_digest()), (200, digest));
    assert!(lab.origin.fired(id) >= 1);
    assert_eq!(
        lab.metric("darter_proxy_forward_requests_total{way=\"direct\",code=\"200\"}"),
        1
    );
}

#[tokio::test]
async fn absolute_addresses_are_answered_too() {
    let lab = Lab::plain(|_, _, _| {}).await;
    let digest = lab.origin.add_blob("a", Content::generated(1, LENGTH));
    let authority = lab.authority();
    let absolute = |path: &str| format!("GET http://{authority}{path} HTTP/1.1\r\nHost: elsewhere\r\n\r\n");
    for _ in 0..2 {
        let answer = lab
            .ask(&absolute(&format!("/v2/a/blobs/{digest}?ns=other.test")))
            .await;
        assert_eq!((answer.status, answer.body_digest()), (200, digest.clone()));
    }
    assert_eq!(lab.origin.requests_for(&Method::GET, &digest), 1);
    assert_eq!(lab.ask(&absolute("/v2/")).await.status, 200);
    let last = lab.origin.log().pop().unwrap();
    assert_eq!(
        (last.path.as_str(), last.header("host")),
        ("/v2/", Some(authority.as_str()))
    );
}

#[tokio::test]
async fn what_is_not_for_a_forward_proxy_is_said() {
    let lab = Lab::plain(|_, _, _| {}).await;
    for (request, status) in [
        ("GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET ftp://a.test/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET http://u:p@a.test/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        ("GET http://a.test:6666/ HTTP/1.1\r\nHost: a\r\n\r\n", 403),
        ("GET http://127.0.0.1/ HTTP/1.1\r\nHost: a\r\n\r\n", 403),
        (
            "GET http://169.254.169.254/latest/meta-data/ HTTP/1.1\r\nHost: a\r\n\r\n",
            403,
        ),
    ] {
        assert_eq!(lab.ask(request).await.status, status, "{request}");
    }
}

#[tokio::test]
async fn users_are_asked_and_their_secret_goes_nowhere() {
    let lab = Lab::plain(|config, files, _| {
        config.forward.users_file = Some(files.secret("users", "anna:canary\n"));
    })
    .await;
    let authority = lab.authority();
    let basic = |pair: &str| format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(pair));
    let ask = |extra: String| format!("GET http://{authority}/v2/ HTTP/1.1\r\nHost: x\r\n{extra}\r\n");
    for wrong in [
        String::new(),
        basic("anna:wrong"),
        basic("anna:canary").replace("Proxy-", ""),
    ] {
        let refused = lab.ask(&ask(wrong)).await;
        assert_eq!(refused.status, 407);
        assert!(
            refused
                .header("proxy-authenticate")
                .unwrap()
                .starts_with("Basic realm=")
        );
    }
    assert_eq!(lab.tunnel(&authority).await.unwrap_err(), 407);
    assert_eq!(lab.origin.requests_total(), 0);
    assert_eq!(lab.ask(&ask(basic("anna:canary"))).await.status, 200);
    let log = lab.origin.log();
    assert_eq!(log.len(), 1);
    let encoded = STANDARD.encode("anna:canary");
    assert!(log.iter().all(|record| !format!("{record:?}").contains(&encoded)));
}

#[tokio::test]
async fn rules_send_elsewhere_and_refuse() {
    let lab = Lab::new(|config, files, running| {
        intercept(config, files, running);
        config.forward.rules = vec![
            RuleConfig {
                url: r"/v2/hidden/".into(),
                action: RuleAction::Block,
                ..RuleConfig::default()
            },
            RuleConfig {
                url: r"^http://alias\.test/".into(),
                action: RuleAction::P2p,
                to: Some(format!("https://localhost:{}", running.addr.port())),
                ..RuleConfig::default()
            },
            RuleConfig {
                url: r"/v2/straight/".into(),
                ..RuleConfig::default()
            },
        ];
    })
    .await;
    let digest = lab.origin.add_blob("a", Content::generated(1, LENGTH));
    lab.origin.add_blob("straight", Content::generated(1, LENGTH));
    assert_eq!(
        lab.ask_inside(&lab.get("/v2/hidden/tags/list", "")).await.status,
        403
    );
    assert_eq!(lab.origin.requests_total(), 0);
    let alias = format!("GET http://alias.test/v2/a/blobs/{digest} HTTP/1.1\r\nHost: alias.test\r\n\r\n");
    for _ in 0..2 {
        assert_eq!(lab.ask(&alias).await.body_digest(), digest);
    }
    assert_eq!(lab.origin.requests_for(&Method::GET, &digest), 1);
    for _ in 0..2 {
        let straight = lab.get(&format!("/v2/straight/blobs/{digest}"), "");
        assert_eq!(lab.ask_inside(&straight).await.body_digest(), digest);
    }
    assert_eq!(lab.origin.requests_for(&Method::GET, &digest), 3);
}
