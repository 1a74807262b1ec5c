//! Tokens: asked for once, kept until they expire, never for the wrong scope.

use tokio::time::advance;

use super::*;

fn granted(seconds: u64) -> Result<Option<Grant>, OriginError> {
    Ok(grant(
        format!("{{\"token\":\"t{seconds}\",\"expires_in\":{seconds}}}").as_bytes(),
    ))
}

#[test]
fn answers_are_read() {
    let read = |text: &str| {
        grant(text.as_bytes()).map(|grant| (grant.token.to_str().unwrap().to_owned(), grant.life))
    };
    let minute = Duration::from_secs(60);
    assert_eq!(
        read(r#"{"token":"a","access_token":"b"}"#),
        Some(("Bearer a".to_owned(), minute))
    );
    assert_eq!(
        read(r#"{"access_token":"b","expires_in":300,"issued_at":"x"}"#),
        Some(("Bearer b".to_owned(), minute * 5))
    );
    assert_eq!(
        read(r#"{"token":"a","expires_in":99999999999}"#),
        Some(("Bearer a".to_owned(), LIFE_MAX))
    );
    for wrong in [
        "",
        "{}",
        r#"{"token":""}"#,
        r#"{"token":7}"#,
        r#"{"token":"a\nb"}"#,
        "<html>",
    ] {
        assert_eq!(read(wrong), None, "{wrong}");
    }
    let secret = grant(br#"{"token":"canary"}"#).unwrap();
    assert!(!format!("{secret:?}").contains("canary"));
}

#[test]
fn addresses_carry_what_the_challenge_asks_for() {
    let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
        let own = |text: Option<&str>| text.map(str::to_owned);
        address(&Bearer {
            realm: realm.to_owned(),
            service: own(service),
            scope: own(scope),
        })
        .map(String::from)
    };
    assert_eq!(
        bearer("https://auth.test/token?a=b", Some("reg &x"), Some("repository:a/b:pull  repository:c:pull")),
        Some(
            "https://auth.test/token?a=b&service=reg+%26x&scope=repository%3Aa%2Fb%3Apull&scope=repository%3Ac%3Apull"
                .to_owned()
        )
    );
    assert_eq!(bearer("/token", None, None), None);
    assert_eq!(bearer("https://user:secret@auth.test/", None, None), None);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_used_until_shortly_before_its_end() {
    let tokens = Tokens::default();
    let slot = tokens.slot("a");
    assert!(slot.token().is_none() && slot.settled(None).is_none());
    slot.settle(&granted(300));
    let token = tokens.slot("a").token().unwrap();
    assert!(tokens.slot("b").token().is_none(), "each repository has its own");
    assert_eq!(slot.settled(None).unwrap().unwrap(), Some(token.clone()));
    assert!(
        slot.settled(Some(&token)).is_none(),
        "a refused one is fetched anew"
    );
    advance(Duration::from_secs(294)).await;
    assert!(slot.token().is_some());
    advance(Duration::from_secs(2)).await;
    assert!(slot.token().is_none() && slot.settled(None).is_none());
}

#[tokio::test(start_paused = true)]
async fn refusals_and_failures_are_remembered_for_a_moment() {
    let slot = Slot::default();
    slot.settle(&Ok(None));
    assert!(slot.settled(None).unwrap().unwrap().is_none());
    advance(REFUSED_TIME).await;
    assert!(slot.settled(None).is_none());
    let error = OriginError::Unreachable {
        registry: "r".to_owned(),
        reason: String::new(),
    };
    slot.settle(&Err(error));
    assert!(slot.settled(None).unwrap().is_err());
    advance(FAILED_TIME).await;
    assert!(slot.settled(None).is_none());
}

#[tokio::test(start_paused = true)]
async fn slots_are_bounded_and_used_ones_stay() {
    let tokens = Tokens::default();
    let live = tokens.slot("live");
    live.settle(&granted(300));
    drop(live);
    for number in 0..SLOTS_MAX * 2 {
        let _ = tokens.slot(&format!("name-{number}"));
    }
    assert!(tokens.slots().len() <= SLOTS_MAX);
    assert!(tokens.slot("live").token().is_some());
}
