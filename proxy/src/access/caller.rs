//! Who asks: what he shows, and the name under which his grants are kept, a keyed hash of it.

use std::fmt;

use darter_origin::Credentials;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::HeaderValue;
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
}
