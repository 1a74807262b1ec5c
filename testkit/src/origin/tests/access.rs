//! Challenges, tokens, rights and their end.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::*;

impl Bench {
    async fn status(&self, authorization: &str) -> u16 {
        self.get(&[("authorization", authorization)]).await.status
    }

    /// Asks the realm of the challenge for a token, as clients do.
    async fn token(&self, basic: Option<&str>) -> Result<String, u16> {
        let challenge = self.get(&[]).await.header("www-authenticate").unwrap().to_owned();
        let part = |name: &str| {
            let (_, rest) = challenge.split_once(&format!("{name}=\"")).unwrap();
            rest.split_once('"').unwrap().0.to_owned()
        };
        let realm = part("realm");
        let path = realm.strip_prefix(&self.running.url()).unwrap();
        let path = format!("{path}?service={}&scope={}", part("service"), part("scope"));
        let headers: Vec<_> = basic.map(|value| ("authorization", value)).into_iter().collect();
        let got = self.at(&path, &headers).await;
        let parsed: serde_json::Value = serde_json::from_slice(&got.body).unwrap();
        parsed["token"]
            .as_str()
            .map(|token| format!("Bearer {token}"))
            .ok_or(got.status)
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

/// A bench whose repository needs a right that only `ann` has.
async fn private(access: Access) -> Bench {
    let bench = Bench::new().await;
    bench.origin.set_access(REPOSITORY, access);
    bench.origin.add_user("ann", "secret");
    bench.origin.add_user("bob", "hunter2");
    bench.origin.allow(REPOSITORY, "ann");
    bench
}

#[tokio::test]
async fn public_repositories_want_an_anonymous_token() {
    let bench = private(Access::Bearer { public: true }).await;
    let refused = bench.get(&[]).await;
    assert_eq!(refused.status, 401);
    let wanted = format!(
        "Bearer realm=\"{}/token\",service=\"darter-testkit\",scope=\"repository:{REPOSITORY}:pull\"",
        bench.running.url()
    );
    assert_eq!(refused.header("www-authenticate"), Some(wanted.as_str()));
    assert_eq!(bench.origin.bytes_sent(), 0);
    let token = bench.token(None).await.unwrap();
    assert_eq!(bench.get(&[("authorization", &token)]).await.body, blob());
    assert_eq!(bench.status("Bearer forged").await, 401);
}

#[tokio::test]
async fn private_repositories_want_the_right_user() {
    let bench = private(Access::Bearer { public: false }).await;
    let anonymous = bench.token(None).await.unwrap();
    let refused = bench.get(&[("authorization", &anonymous)]).await;
    assert_eq!(refused.status, 401);
    assert!(
        refused
            .header("www-authenticate")
            .unwrap()
            .ends_with(",error=\"insufficient_scope\"")
    );
    let ann = bench.token(Some(&basic("ann", "secret"))).await.unwrap();
    assert_eq!(bench.status(&ann).await, 200);
    let bob = bench.token(Some(&basic("bob", "hunter2"))).await.unwrap();
    assert_eq!(bench.status(&bob).await, 401);
    assert_eq!(bench.token(Some(&basic("ann", "wrong"))).await, Err(401));
    bench.origin.revoke(REPOSITORY, "ann");
    assert_eq!(bench.status(&ann).await, 403);
    bench.origin.set_denial(Denial::NotFound);
    assert_eq!(bench.status(&ann).await, 404);
    bench.origin.allow(REPOSITORY, "ann");
    assert_eq!(bench.status(&ann).await, 200);
    bench.origin.revoke_tokens();
    assert_eq!(bench.status(&ann).await, 401);
}

#[tokio::test]
async fn a_token_is_for_its_repositories_and_its_time() {
    let bench = private(Access::Bearer { public: false }).await;
    let hour = Duration::from_secs(3600);
    bench.origin.add_token("other", Some("ann"), &["elsewhere"], hour);
    assert_eq!(bench.status("Bearer other").await, 401);
    bench.origin.add_token("canary", Some("ann"), &[REPOSITORY], hour);
    assert_eq!(bench.status("Bearer canary").await, 200);
    bench
        .origin
        .add_token("late", Some("ann"), &[REPOSITORY], Duration::ZERO);
    assert_eq!(bench.status("Bearer late").await, 401);
    bench.origin.set_token_life(Duration::ZERO);
    let expired = bench.token(Some(&basic("ann", "secret"))).await.unwrap();
    assert_eq!(bench.status(&expired).await, 401);
}

#[tokio::test]
async fn basic_credentials() {
    let bench = private(Access::Basic).await;
    assert_eq!(
        bench.get(&[]).await.header("www-authenticate"),
        Some("Basic realm=\"darter-testkit\"")
    );
    assert_eq!(bench.status(&basic("ann", "secret")).await, 200);
    assert_eq!(bench.status(&basic("ann", "wrong")).await, 401);
    assert_eq!(bench.status(&basic("bob", "hunter2")).await, 403);
    assert_eq!(bench.status("Basic !").await, 401);
    bench.origin.set_ping_access(Access::Basic);
    assert_eq!(bench.at("/v2/", &[]).await.status, 401);
    assert_eq!(
        bench
            .at("/v2/", &[("authorization", &basic("bob", "hunter2"))])
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn refused_requests_meet_only_the_faults_that_say_so() {
    let bench = private(Access::Basic).await;
    let id = bench
        .origin
        .inject(Match::digest(&bench.digest), When::First(1), Fault::status(500));
    assert_eq!(bench.get(&[]).await.status, 401);
    assert_eq!(bench.origin.fired(id), 0);
    assert_eq!(bench.status(&basic("ann", "secret")).await, 500);
    let early = Match::digest(&bench.digest).before_access();
    bench.origin.inject(early, When::Always, Fault::status(503));
    assert_eq!(bench.get(&[]).await.status, 503);
}

#[tokio::test]
async fn the_realm_may_be_foreign_and_faulty() {
    let bench = private(Access::Bearer { public: true }).await;
    bench
        .origin
        .inject(Match::target(Target::Token), When::Always, Fault::status(503));
    assert_eq!(bench.at("/token", &[]).await.status, 503);
    bench.origin.set_realm("http://thief.invalid/token");
    let challenge = bench
        .get(&[])
        .await
        .header("www-authenticate")
        .unwrap()
        .to_owned();
    assert!(
        challenge.starts_with("Bearer realm=\"http://thief.invalid/token\","),
        "{challenge}"
    );
}
