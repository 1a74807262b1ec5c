//! Passwords: argon2id, on threads that may take their time, so many at once.

use std::sync::Arc;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher as _, PasswordVerifier as _};
use darter_service::config::Secret;
use darter_service::supervise::Tasks;
use thiserror::Error;
use tokio::sync::Semaphore;

/// Hashes that are made at the same time; each takes 19 MiB and a core for some 20 ms.
const AT_ONCE_MAX: usize = 2;
/// Hashes that wait for their turn. Who comes then is told to come later.
const WAITING_MAX: usize = 32;
/// Characters of a password. The shortest is NIST SP 800-63B's for passwords alone.
const CHARS: std::ops::RangeInclusive<usize> = 15..=128;
/// Somebody's that there is not: so that names cannot be told apart by the time that an answer takes.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5bm9ib2R5bm9ib2R5$8gyo3C0cJmfQXn0ucAW5M5XoYpNQ7XhZBDKnyCFHzxU";

/// Why a password was not looked at.
#[derive(Debug, Error)]
pub enum PasswordError {
    /// It cannot be one.
    #[error("a password has {} to {} characters", CHARS.start(), CHARS.end())]
    Length,
    /// Too many are being looked at.
    #[error("too many sign in at this moment: try again in a few seconds")]
    Busy,
    /// The hash cannot be made.
    #[error("a password cannot be hashed")]
    Hash,
}

/// Makes and compares hashes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Passwords {
    turns: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    tasks: Tasks,
}

impl Passwords {
    /// Works on threads of `tasks`.
    pub fn new(tasks: Tasks) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(AT_ONCE_MAX)),
            waiting: Arc::new(Semaphore::new(AT_ONCE_MAX + WAITING_MAX)),
            tasks,
        }
    }

    /// A new password's hash, as a PHC string.
    ///
    /// # Errors
    /// It is too short or too long, or too many are being looked at.
    pub async fn hash(&self, password: Secret) -> Result<String, PasswordError> {
        if !CHARS.contains(&password.expose().chars().count()) {
            return Err(PasswordError::Length);
        }
        let made = self.in_turn(move || {
            let hash = Argon2::default().hash_password(password.expose().as_bytes());
            hash.map(|hash| hash.to_string())
        });
        made.await?.map_err(|_| PasswordError::Hash)
    }

    /// Whether a password is the one of a hash. Without a hash it is not, and takes as long.
    ///
    /// # Errors
    /// Too many are being looked at.
    pub async fn is(&self, password: Secret, hash: Option<String>) -> Result<bool, PasswordError> {
        // Whatever it is, it is nobody's; and hashing what is long costs.
        if password.expose().chars().count() > *CHARS.end() {
            return Ok(false);
        }
        let known = hash.is_some();
        let looked = self.in_turn(move || {
            let hash = hash.as_deref().unwrap_or(NOBODY);
            let hash = PasswordHash::new(hash).map_err(|_| PasswordError::Hash)?;
            Ok(Argon2::default()
                .verify_password(password.expose().as_bytes(), &hash)
                .is_ok())
        });
        Ok(looked.await?? && known)
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PasswordError> {
        let _place = self.waiting.try_acquire().map_err(|_| PasswordError::Busy)?;
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        let turn = turn.map_err(|_| PasswordError::Hash)?;
        let done = self.tasks.blocking("password", move || {
            // Given back when it is done, not when nobody waits for it any more.
            let _turn = turn;
            work()
        });
        done.await.map_err(|_| PasswordError::Hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_that_of_its_hash_alone() {
        let passwords = Passwords::new(Tasks::new());
        let secret = || Secret::new("correct horse battery");
        let hash = passwords.hash(secret()).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_ne!(
            passwords.hash(secret()).await.unwrap(),
            hash,
            "no two have the same salt"
        );
        assert!(passwords.is(secret(), Some(hash.clone())).await.unwrap());
        assert!(
            !passwords
                .is(Secret::new("correct horse batterz"), Some(hash))
                .await
                .unwrap()
        );
        assert!(!passwords.is(secret(), None).await.unwrap());
        assert!(PasswordHash::new(NOBODY).is_ok());
    }

    #[tokio::test]
    async fn what_is_too_short_or_too_long_is_refused() {
        let passwords = Passwords::new(Tasks::new());
        for text in ["x".repeat(14), "x".repeat(129)] {
            let error = passwords.hash(Secret::new(text)).await.unwrap_err();
            assert_eq!(error.to_string(), "a password has 15 to 128 characters");
        }
        assert!(
            !passwords
                .is(Secret::new("x".repeat(1 << 20)), None)
                .await
                .unwrap()
        );
    }
}
