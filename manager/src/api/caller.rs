//! Who asks: a browser's session or a token; and whether the route is for them.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use darter_service::net::PeerAddr;
use http::header::{AUTHORIZATION, COOKIE as COOKIE_HEADER};
use http::request::Parts;
use http::{HeaderMap, Method};

use super::Shared;
use super::problem::Problem;
use crate::auth::secret::TOKEN_PREFIX;
use crate::auth::{Policy, Principal, Via};
use crate::store::StoreError;

/// The cookie of a session.
pub const COOKIE: &str = "darter_session";
/// The same over https: browsers take it from this host alone, and send it by https alone.
pub const SECURE_COOKIE: &str = "__Host-darter_session";
/// What a browser's request that changes something must have. Pages of others cannot send it without asking, and are refused.
pub const CSRF_HEADER: &str = "x-darter-request";
/// What hashes of sessions and tokens are for.
pub(super) const SESSION: &str = "session";
pub(super) const TOKEN: &str = "token";
/// Addresses of proxies that are looked at in `X-Forwarded-For`.
const HOPS_MAX: usize = 16;

/// Where a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct From(pub(super) IpAddr);

impl std::fmt::Display for From {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Lets through whom the policy allows, and says who it is and whence.
pub(super) async fn guard(
    State((shared, policy)): State<(Shared, Policy)>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    let from = origin(&shared, parts.extensions.get(), &parts.headers);
    parts.extensions.insert(From(from));
    if policy != Policy::Open {
        match look(&shared, policy, &parts).await {
            Ok(principal) => drop(parts.extensions.insert(principal)),
            Err(problem) => {
                shared.metrics.refused(problem.status);
                return problem.into_response();
            }
        }
    }
    next.run(Request::from_parts(parts, body)).await
}

async fn look(shared: &Shared, policy: Policy, request: &Parts) -> Result<Principal, Problem> {
    let principal = identify(shared, &request.headers).await?;
    if matches!(principal.via, Via::Session(_)) {
        check_origin(&request.method, &request.headers)?;
    }
    if policy.allows(&principal) {
        return Ok(principal);
    }
    Err(Problem::forbidden(match policy {
        Policy::AtLeast(role) => format!(
            "this needs the role {role}; {} has {}",
            principal.name, principal.role
        ),
        _ => "this needs a browser's session: sign in with name and password".to_owned(),
    }))
}

async fn identify(shared: &Shared, headers: &HeaderMap) -> Result<Principal, Problem> {
    let nobody =
        || Problem::unauthorized("sign in, or send a token that is good: it may have ended or been removed");
    let absent = |error| match error {
        StoreError::Absent => nobody(),
        other => Problem::from(other),
    };
    if let Some(value) = headers.get(AUTHORIZATION) {
        let token = value.to_str().ok().and_then(bearer).ok_or_else(nobody)?;
        let hash = shared.key.hash(TOKEN, token).ok_or_else(nobody)?;
        let found = shared.store.user_of_token(&hash, shared.now()).await;
        let (user, role) = found.map_err(absent)?;
        return Ok(Principal {
            role: role.min(user.role),
            id: user.id,
            name: user.name,
            via: Via::Token,
        });
    }
    let session = cookie(headers, shared.secure).ok_or_else(nobody)?;
    let hash = shared.key.hash(SESSION, session).ok_or_else(nobody)?;
    let found = shared.store.user_of_session(&hash, shared.now()).await;
    let user = found.map_err(absent)?;
    Ok(Principal {
        id: user.id,
        name: user.name,
        role: user.role,
        via: Via::Session(hash),
    })
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim_start();
    (scheme.eq_ignore_ascii_case("bearer") && token.starts_with(TOKEN_PREFIX)).then_some(token)
}

/// The name of the cookie.
pub(super) const fn cookie_name(secure: bool) -> &'static str {
    if secure { SECURE_COOKIE } else { COOKIE }
}

fn cookie(headers: &HeaderMap, secure: bool) -> Option<&str> {
    let mut cookies = headers.get_all(COOKIE_HEADER).iter();
    cookies.find_map(|value| {
        let mut pairs = value.to_str().ok()?.split(';');
        pairs.find_map(|pair| {
            let (name, value) = pair.trim().split_once('=')?;
            (name == cookie_name(secure)).then_some(value)
        })
    })
}

/// Refuses what a page of somebody else made a browser send.
fn check_origin(method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
    if method.is_safe() {
        return Ok(());
    }
    let site = headers.get("sec-fetch-site").map(http::HeaderValue::as_bytes);
    let own = site.is_none_or(|site| site == b"same-origin");
    if own && headers.contains_key(CSRF_HEADER) {
        return Ok(());
    }
    let text = format!(
        "a browser's request that changes something needs the header {CSRF_HEADER}, from the manager's own pages"
    );
    Err(Problem::forbidden(text))
}

/// Where a request came from: the nearest address that is no trusted proxy's.
fn origin(shared: &Shared, peer: Option<&PeerAddr>, headers: &HeaderMap) -> IpAddr {
    let unknown = IpAddr::from([0, 0, 0, 0]);
    let mut found = match peer {
        Some(PeerAddr::Ip(address)) => address.ip().to_canonical(),
        _ => return unknown,
    };
    let trusted = |address: &IpAddr| {
        shared
            .trusted_proxies
            .iter()
            .any(|proxies| proxies.contains(address))
    };
    let said: Vec<&str> = headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .collect();
    for hop in said.iter().rev().take(HOPS_MAX) {
        if !trusted(&found) {
            break;
        }
        match hop.trim().parse::<IpAddr>() {
            Ok(address) => found = address.to_canonical(),
            Err(_) => break,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_known_by_its_beginning() {
        assert_eq!(bearer("Bearer darter_pat_x"), Some("darter_pat_x"));
        assert_eq!(bearer("bearer  darter_pat_x"), Some("darter_pat_x"));
        for other in ["Bearer x", "Basic darter_pat_x", "darter_pat_x", ""] {
            assert_eq!(bearer(other), None, "{other}");
        }
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE_HEADER, "a=b; darter_session=one".parse().unwrap());
        headers.append(COOKIE_HEADER, "__Host-darter_session=two".parse().unwrap());
        assert_eq!(cookie(&headers, false), Some("one"));
        assert_eq!(cookie(&headers, true), Some("two"));
    }

    #[test]
    fn what_others_made_a_browser_send_is_refused() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            pairs
                .iter()
                .map(|&(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
                .collect::<HeaderMap>()
        };
        for (method, pairs, good) in [
            (Method::GET, &[("sec-fetch-site", "cross-site")][..], true),
            (Method::POST, &[], false),
            (Method::POST, &[(CSRF_HEADER, "1")], true),
            (
                Method::POST,
                &[(CSRF_HEADER, "1"), ("sec-fetch-site", "same-origin")],
                true,
            ),
            (
                Method::DELETE,
                &[(CSRF_HEADER, "1"), ("sec-fetch-site", "same-site")],
                false,
            ),
            (Method::PUT, &[("sec-fetch-site", "same-origin")], false),
        ] {
            assert_eq!(
                check_origin(&method, &headers(pairs)).is_ok(),
                good,
                "{method} {pairs:?}"
            );
        }
    }
}
