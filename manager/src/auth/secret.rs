//! Secrets that the manager gives out: sessions, tokens, the first password. It keeps an HMAC of them, never the thing itself.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use darter_service::config::Secret;
use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::TryRng as _;
use rand::rngs::SysRng;
use sha2::Sha256;
use thiserror::Error;

/// How tokens begin, so that scanners for leaked secrets know them.
pub const TOKEN_PREFIX: &str = "darter_pat_";
/// How join tokens begin.
pub const JOIN_PREFIX: &str = "darter_join_";
/// The purpose of the hash of a join token.
pub const JOIN: &str = "join";
/// Longest secret that is looked at, in bytes.
const LENGTH_MAX: usize = 256;

/// The system gives no random bytes.
#[derive(Debug, Error)]
#[error("the operating system gives no random bytes, and secrets are made of them")]
pub struct NoRandomness;

/// 32 bytes that nobody can foresee, as text.
///
/// # Errors
/// The system gives none.
pub fn mint() -> Result<Secret, NoRandomness> {
    let mut bytes = [0_u8; 32];
    SysRng.try_fill_bytes(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(bytes)))
}

/// A name for a row, that sorts by the time `now` (milliseconds) at which it was made.
///
/// # Errors
/// The system gives no random bytes.
pub fn id(now: i64) -> Result<String, NoRandomness> {
    let mut bytes = [0_u8; 8];
    SysRng.try_fill_bytes(&mut bytes).map_err(|_| NoRandomness)?;
    Ok(format!("{now:012x}{:016x}", u64::from_be_bytes(bytes)))
}

/// The key of this installation.
#[derive(Clone, Debug)]
pub struct Key(Secret);

impl Key {
    /// From what the store keeps.
    pub fn new(secret: Secret) -> Self {
        Self(secret)
    }

    /// Under which name a secret is kept. `None` for what is no secret of ours.
    pub fn hash(&self, purpose: &str, secret: &str) -> Option<String> {
        if secret.is_empty() || secret.len() > LENGTH_MAX {
            return None;
        }
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.expose().as_bytes()).ok()?;
        // Framed: no purpose is another's with the beginning of a secret.
        mac.update(&(purpose.len() as u64).to_be_bytes());
        mac.update(purpose.as_bytes());
        mac.update(secret.as_bytes());
        Some(URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_differ_and_are_not_shown() {
        let (one, other) = (mint().unwrap(), mint().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.expose().len(), 43);
        assert!(!format!("{one:?} {:?}", Key::new(one.clone())).contains(one.expose()));
    }

    #[test]
    fn a_hash_is_of_one_key_one_purpose_and_one_secret() {
        let (key, another) = (Key::new(Secret::new("a")), Key::new(Secret::new("b")));
        let hash = key.hash("token", "secret").unwrap();
        assert_eq!(key.hash("token", "secret").unwrap(), hash);
        for other in [
            another.hash("token", "secret"),
            key.hash("session", "secret"),
            key.hash("tokens", "ecret"),
            key.hash("token", "Secret"),
        ] {
            assert_ne!(other.unwrap(), hash);
        }
        assert_eq!(key.hash("token", ""), None);
        assert_eq!(key.hash("token", &"x".repeat(257)), None);
    }

    #[test]
    fn ids_sort_by_time() {
        let (early, late) = (id(1_700_000_000_000).unwrap(), id(1_700_000_000_001).unwrap());
        assert!(early < late);
        assert_eq!(early.len(), late.len());
    }
}
