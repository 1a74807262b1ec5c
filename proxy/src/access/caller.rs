//! Who asks: what he shows, how long that is good, and the name under which his grants are kept, a keyed hash of it.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use darter_origin::Credentials;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::HeaderValue;
use serde::Deserialize;
use sha2::Sha256;

use crate::mirror::client::Client;

/// Who wants to read.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// What it shows.
    pub authorization: Option<&'a HeaderValue>,
    /// Over which connection it came.
    pub(crate) client: Option<&'a Client>,
}

impl<'a> From<Option<&'a HeaderValue>> for Asker<'a> {
    fn from(authorization: Option<&'a HeaderValue>) -> Self {
        Self {
            authorization,
            client: None,
        }
    }
}

/// A caller under the name by which he is remembered; `None` is everybody.
pub(super) type Caller<'a> = Option<(CallerKey, Who<'a>)>;

/// Who a registry is asked for.
#[derive(Clone, Copy)]
pub(super) enum Who<'a> {
    /// A caller with a credential of his own.
    Caller(&'a HeaderValue),
    /// This node, for a caller without one.
    Node,
}

impl Who<'_> {
    pub(super) fn credentials(self) -> Credentials {
        match self {
            Self::Caller(authorization) => Credentials::Caller(authorization.clone()),
            Self::Node => Credentials::Node,
        }
    }
}

pub(super) fn credentials(caller: Caller<'_>) -> Credentials {
    caller.map_or(Credentials::Anonymous, |(_, who)| who.credentials())
}

/// HMAC-SHA256 of an `Authorization` header under a key that lives as long as the process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CallerKey([u8; 32]);

impl fmt::Debug for CallerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallerKey")
    }
}

impl CallerKey {
    pub(super) fn of(key: &[u8; 32], authorization: &HeaderValue) -> Self {
        Self(keyed_hash(key, authorization.as_bytes()))
    }

    /// Whoever has this address, by what signs it.
    pub(super) fn address(key: &[u8; 32], address: &str) -> Self {
        Self(keyed_hash(key, format!("\0{address}").as_bytes()))
    }

    /// The node itself, for callers that bring nothing. No header can hold this text.
    pub(super) fn node(key: &[u8; 32]) -> Self {
        Self(keyed_hash(key, b"\0node"))
    }
}

/// How long a caller's token is good from now on, where it says so itself: a JWT (RFC 7519) can be read by anybody. Whether it
/// is one that the registry believes, the registry has said. One that is over by this clock and was believed all the same
/// tells nothing: the clocks disagree.
#[expect(
    clippy::disallowed_methods,
    reason = "a token tells its end by the wall clock"
)]
pub(super) fn token_left(authorization: &HeaderValue) -> Option<Duration> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    let left = expiry(authorization)?.checked_sub(now)?;
    (!left.is_zero()).then_some(left)
}

/// When a token is over, since 1970.
fn expiry(authorization: &HeaderValue) -> Option<Duration> {
    let (scheme, token) = authorization.to_str().ok()?.split_once(' ')?;
    let mut parts = token.trim().split('.').skip(1);
    let (claims, _signature) = (parts.next()?, parts.next()?);
    let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
    let claims: Claims = serde_json::from_slice(&claims).ok()?;
    let bearer = scheme.eq_ignore_ascii_case("bearer") && parts.next().is_none();
    Duration::try_from_secs_f64(claims.exp).ok().filter(|_| bearer)
}

/// What of a token's claims is read.
#[derive(Deserialize)]
struct Claims {
    exp: f64,
}

/// HMAC-SHA256 of a text.
pub(crate) fn keyed_hash(key: &[u8; 32], text: &[u8]) -> [u8; 32] {
    // A key shorter than the block is padded with zeros (RFC 2104 section 2).
    let mut block = [0; 64];
    block
        .iter_mut()
        .zip(key)
        .for_each(|(padded, byte)| *padded = *byte);
    let mut mac = Hmac::<Sha256>::new(&block.into());
    mac.update(text);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depends_on_key_and_credential_and_shows_neither() {
        let of = |key: u8, text: &'static str| CallerKey::of(&[key; 32], &HeaderValue::from_static(text));
        assert_eq!(of(1, "Bearer a"), of(1, "Bearer a"));
        assert_ne!(of(1, "Bearer a"), of(1, "Bearer b"));
        assert_ne!(of(1, "Bearer a"), of(2, "Bearer a"));
        assert_eq!(format!("{:?}", of(1, "Bearer a")), "CallerKey");
    }

    #[test]
    fn a_token_tells_when_it_is_over_if_it_can_be_read() {
        let token = |claims: &str| format!("Bearer h.{}.s", URL_SAFE_NO_PAD.encode(claims));
        let read = |text: &str| expiry(&HeaderValue::from_str(text).unwrap());
        let secs = |secs| Some(Duration::from_secs(secs));
        assert_eq!(
            read(&token(r#"{"exp":1700000000,"sub":"a"}"#)),
            secs(1_700_000_000)
        );
        assert_eq!(
            read(&token(r#"{"exp":12.5}"#)),
            Some(Duration::from_millis(12_500))
        );
        assert_eq!(read(&token(r#"{"exp":7}"#).replace("Bearer", "bearer")), secs(7));
        for opaque in [
            "Bearer opaque".to_owned(),
            "Bearer a.b.c".to_owned(),
            "Bearer".to_owned(),
            token(r#"{"sub":"a"}"#),
            token(r#"{"exp":"soon"}"#),
            token(r#"{"exp":-1}"#),
            token(r#"{"exp":1e300}"#),
            token(r#"{"exp":7}"#) + ".more",
            token(r#"{"exp":7}"#).replace("Bearer", "Basic"),
        ] {
            assert_eq!(read(&opaque), None, "{opaque}");
        }
        // Over by this clock, and believed all the same.
        let old = HeaderValue::from_str(&token(r#"{"exp":7}"#)).unwrap();
        assert_eq!(token_left(&old), None);
        let young = HeaderValue::from_str(&token(r#"{"exp":9000000000}"#)).unwrap();
        assert!(token_left(&young).is_some());
    }
}
