//! Who is asked for what: anonymous tokens are fetched and kept, a caller's credentials are not spread.

use darter_testkit::origin::{Access, Fault, Match, Target, When};
use futures_util::future::join_all;
use http::{HeaderMap, HeaderValue, header};

use super::*;

const BASIC: &str = "Basic dXNlcjpjYW5hcnk=";

async fn bearer(public: bool) -> Bench {
    let bench = Bench::new().await;
    bench.origin.set_access(REPOSITORY, Access::Bearer { public });
    bench
}

fn caller(value: &str) -> Credentials {
    Credentials::Caller(HeaderValue::from_str(value).unwrap())
}

fn token_requests(bench: &Bench) -> u64 {
    bench.origin.requests(&Method::GET, "/token")
}

#[tokio::test]
async fn anybodys_token_is_fetched_once_and_kept() {
    let bench = bearer(true).await;
    right(&bench.read().await.unwrap());
    assert_eq!((bench.gets(), token_requests(&bench)), (2, 1));
    right(&bench.read().await.unwrap());
    bench.origins.head(&bench.locator, &ANONYMOUS).await.unwrap();
    assert_eq!(
        (bench.gets(), token_requests(&bench)),
        (3, 1),
        "no second challenge"
    );
}

#[tokio::test]
async fn many_who_ask_at_once_fetch_one_token() {
    let bench = bearer(true).await;
    let slow = Fault::Delay(Duration::from_millis(100));
    bench
        .origin
        .inject(Match::target(Target::Token), When::Always, slow);
    let answers = join_all((0..15).map(|_| bench.origins.head(&bench.locator, &ANONYMOUS))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(token_requests(&bench), 1);
}

#[tokio::test]
async fn a_token_that_is_worthless_is_replaced_once() {
    let bench = bearer(true).await;
    right(&bench.read().await.unwrap());
    bench.origin.revoke_tokens();
    right(&bench.read().await.unwrap());
    assert_eq!((bench.gets(), token_requests(&bench)), (4, 2));
}

#[tokio::test]
async fn where_nobody_may_read_the_registrys_own_challenge_is_told() {
    let bench = bearer(false).await;
    for (gets, tokens) in [(2, 1), (3, 1)] {
        let error = bench.fails().await;
        assert!(error.is_credential());
        let OriginError::Status { headers, .. } = &error else {
            panic!("{error:?}")
        };
        let challenge = headers[header::WWW_AUTHENTICATE].to_str().unwrap();
        assert!(
            challenge.starts_with("Bearer realm=\"http://127.0.0.1:"),
            "{challenge}"
        );
        assert_eq!((bench.gets(), token_requests(&bench)), (gets, tokens));
    }
    let denied = Fault::status(401);
    bench
        .origin
        .inject(Match::target(Target::Token), When::Always, denied);
    assert!(bench.fails().await.is_credential());
}

#[tokio::test]
async fn a_realm_that_fails_is_no_refusal() {
    let bench = bearer(true).await;
    let id = bench
        .origin
        .inject(Match::target(Target::Token), When::Always, Fault::status(500));
    let error = bench.fails().await;
    assert!(!error.is_credential() && error.may_retry(), "{error:?}");
    assert_eq!(status(&error), 500);
    assert!(bench.origin.heal(id));
    let nonsense = Fault::Html;
    bench
        .origin
        .inject(Match::target(Target::Token), When::First(1), nonsense);
    tokio::time::sleep(Duration::from_secs(1)).await;
    is_unusable(&bench.fails().await, "no token");
}

#[tokio::test]
async fn a_callers_credentials_reach_the_registry_alone() {
    let bench = bearer(false).await;
    let thief = Origin::new();
    let theft = thief.spawn_on_loopback().await.unwrap();
    bench.origin.set_realm(&format!("{}/token", theft.url()));
    for value in [BASIC, "Bearer canary"] {
        let error = bench
            .origins
            .head(&bench.locator, &caller(value))
            .await
            .unwrap_err();
        assert!(error.is_credential());
        assert!(!format!("{error:?}{:?}", caller(value)).contains("canary"));
    }
    assert_eq!(thief.requests_total(), 0);
    assert_eq!(token_requests(&bench), 0);
    assert_eq!(bench.origin.authorizations_seen().len(), 2);
}

#[tokio::test]
async fn callers_are_let_in_by_their_own_credentials_and_leave_nothing_behind() {
    let bench = Bench::new().await;
    bench.origin.set_access(REPOSITORY, Access::Basic);
    bench.origin.add_user("user", "canary");
    bench.origin.allow(REPOSITORY, "user");
    bench.origins.head(&bench.locator, &caller(BASIC)).await.unwrap();
    assert!(
        bench.fails().await.is_credential(),
        "the next one is anonymous again"
    );

    bench
        .origin
        .set_access(REPOSITORY, Access::Bearer { public: false });
    let life = Duration::from_secs(300);
    let token = bench.origin.add_token("mine", Some("user"), &[REPOSITORY], life);
    let mine = caller(&format!("Bearer {}", token.value));
    bench.origins.head(&bench.locator, &mine).await.unwrap();
    assert!(bench.fails().await.is_credential());
}

#[tokio::test]
async fn the_pings_challenge_is_told_and_no_token_fetched() {
    let bench = bearer(true).await;
    bench.origin.set_ping_access(Access::Bearer { public: true });
    let none = HeaderMap::new();
    let ping = bench
        .origins
        .relay(&bench.registry(), Method::GET, "/v2/", &none, &ANONYMOUS)
        .await
        .unwrap();
    assert_eq!(ping.status(), 401);
    assert!(ping.headers().contains_key(header::WWW_AUTHENTICATE));
    assert_eq!(token_requests(&bench), 0);
    let tags = format!("/v2/{REPOSITORY}/tags/list");
    let tags = bench
        .origins
        .relay(&bench.registry(), Method::GET, &tags, &none, &ANONYMOUS)
        .await
        .unwrap();
    assert_eq!((tags.status(), token_requests(&bench)), (StatusCode::OK, 1));
}
