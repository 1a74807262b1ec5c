//! The registry itself, asked past the proxy, as the proxy asks it: is it reached, does its challenge make sense, is its clock this one.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use darter_origin::{Credentials, Origins};
use darter_proxy::config::Config;
use darter_service::net::TokioNetwork;
use darter_types::RegistryName;
use http::{HeaderMap, Method, StatusCode, header};
use tokio::time::timeout;

use super::finding::Finding;

const CHECK: &str = "registry";
const PATIENCE: Duration = Duration::from_secs(10);
/// A certificate or a token may be valid only now and not then.
const SKEW_WARN: Duration = Duration::from_secs(30);
const SKEW_FAIL: Duration = Duration::from_secs(300);

/// Asks `/v2/` of a registry, as the proxy would: by its addresses, its authorities and its guard.
pub(super) async fn check(config: &Config, registry: &RegistryName) -> Vec<Finding> {
    let (status, headers) = match timeout(PATIENCE, ask(config, registry)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return vec![unreached(error)],
        Err(_) => {
            let seen = format!("{registry} gave no answer within {} s", PATIENCE.as_secs());
            return vec![unreached(seen)];
        }
    };
    let mut findings = vec![judge(registry, status, &headers)];
    findings.extend(clock(&headers, super::wall_clock()));
    findings
}

async fn ask(config: &Config, registry: &RegistryName) -> Result<(StatusCode, HeaderMap), String> {
    let origins = Origins::new(&config.origin, Arc::new(TokioNetwork), rand::random())
        .map_err(|error| error.to_string())?;
    let (none, nobody) = (HeaderMap::new(), Credentials::Anonymous);
    let answer = origins.relay(registry, Method::GET, "/v2/", &none, &nobody);
    let (head, _) = answer.await.map_err(|error| error.to_string())?.into_parts();
    Ok((head.status, head.headers))
}

fn unreached(seen: String) -> Finding {
    let advice =
        "check the network, DNS and firewall; for a registry of your own, its entry in origin.registries";
    Finding::fail(CHECK, seen, advice)
}

fn judge(registry: &RegistryName, status: StatusCode, headers: &HeaderMap) -> Finding {
    let challenge = headers
        .get(header::WWW_AUTHENTICATE)
        .and_then(|value| value.to_str().ok());
    let sane = challenge.is_some_and(|text| {
        let text = text.to_lowercase();
        text.starts_with("basic ") || (text.starts_with("bearer ") && text.contains("realm=\"http"))
    });
    match status {
        StatusCode::OK => Finding::ok(CHECK, format!("{registry} answers, and asks for no credential")),
        StatusCode::UNAUTHORIZED if sane => Finding::ok(
            CHECK,
            format!("{registry} answers, and says where tokens are had"),
        ),
        StatusCode::UNAUTHORIZED => Finding::fail(
            CHECK,
            format!("{registry} answers 401 with a challenge that no client understands: {challenge:?}"),
            "something stands before the registry: look at `curl -i` of its /v2/",
        ),
        StatusCode::TOO_MANY_REQUESTS => Finding::warn(
            CHECK,
            format!("{registry} answers 429: it limits this address"),
            "wait, or pull with a credential; more nodes behind Darter cost it nothing",
        ),
        other => Finding::fail(
            CHECK,
            format!("{registry}/v2/ answers {other}, as no registry does"),
            "is this the registry's address? is a captive portal or another proxy in between?",
        ),
    }
}

/// This machine's clock against the registry's.
fn clock(headers: &HeaderMap, now: SystemTime) -> Option<Finding> {
    let check = "clock";
    let text = headers.get(header::DATE)?.to_str().ok()?;
    let theirs = httpdate::parse_http_date(text).ok()?;
    let skew = now
        .duration_since(theirs)
        .unwrap_or_else(|behind| behind.duration());
    let seen = format!("{} s from the registry's", skew.as_secs());
    let advice = "let chrony or systemd-timesyncd set the clock: certificates and tokens depend on it";
    Some(match skew {
        skew if skew >= SKEW_FAIL => Finding::fail(check, seen, advice),
        skew if skew >= SKEW_WARN => Finding::warn(check, seen, advice),
        _ => Finding::ok(check, seen),
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().unwrap()))
            .collect()
    }

    fn state(status: u16, challenge: &str) -> State {
        let headers = headers(&[(header::WWW_AUTHENTICATE, challenge)]);
        judge(
            &"r.test".parse().unwrap(),
            StatusCode::from_u16(status).unwrap(),
            &headers,
        )
        .state
    }

    #[test]
    fn an_answer_is_judged() {
        assert_eq!(state(200, "Basic"), State::Ok);
        assert_eq!(
            state(401, "Bearer realm=\"https://auth.test/token\",service=\"r\""),
            State::Ok
        );
        assert_eq!(state(401, "Basic realm=\"r\""), State::Ok);
        assert_eq!(state(401, "Negotiate"), State::Fail);
        assert_eq!(state(429, "Basic"), State::Warn);
        assert_eq!(state(302, "Basic"), State::Fail);
    }

    #[test]
    fn clocks_are_compared() {
        let theirs = httpdate::parse_http_date("Sun, 22 Nov 2026 12:00:00 GMT").unwrap();
        let headers = headers(&[(header::DATE, "Sun, 22 Nov 2026 12:00:00 GMT")]);
        let state = |now: SystemTime| clock(&headers, now).unwrap().state;
        assert_eq!(state(theirs + Duration::from_secs(2)), State::Ok);
        assert_eq!(state(theirs - Duration::from_secs(60)), State::Warn);
        assert_eq!(state(theirs + Duration::from_secs(3600)), State::Fail);
        assert_eq!(clock(&HeaderMap::new(), theirs), None);
    }

    #[tokio::test]
    async fn a_registry_that_is_there_and_one_that_is_not() {
        let origin = darter_testkit::origin::Origin::new();
        let running = origin.spawn_on_loopback().await.unwrap();
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (name, gone) = (running.host(), nobody.local_addr().unwrap().to_string());
        drop(nobody);
        let entries = [&name, &gone].map(|name| format!("\"{name}\": {{plainHttp: true}}"));
        let text = format!("{{origin: {{registries: {{{}}}}}}}", entries.join(","));
        let config: Config = serde_saphyr::from_str(&text).unwrap();
        let found = check(&config, &name.parse().unwrap()).await;
        assert_eq!(found[0].state, State::Ok, "{found:?}");
        let found = check(&config, &gone.parse().unwrap()).await;
        assert_eq!(found[0].state, State::Fail);
        assert!(found[0].seen.contains("cannot be reached"), "{found:?}");
    }
}
