//! Who is signed in, by browser.

use std::ops::Range;

use sqlx::FromRow as _;

use super::audit::Entry;
use super::users::User;
use super::{Millis, Store, StoreError};

/// Sessions that one user may have; the oldest make room.
const PER_USER_MAX: i64 = 20;

impl Store {
    /// Begins a session, known by the hash of its secret, for as long as `life` says. Those that have ended go.
    ///
    /// # Errors
    /// The database fails.
    pub async fn add_session(
        &self,
        hash: &str,
        user: &str,
        life: Range<Millis>,
        entry: Entry,
    ) -> Result<(), StoreError> {
        let mut change = self.pool.begin().await?;
        sqlx::query("INSERT INTO sessions (hash, user_id, created_ms, expires_ms) VALUES ($1, $2, $3, $4)")
            .bind(hash)
            .bind(user)
            .bind(life.start)
            .bind(life.end)
            .execute(&mut *change)
            .await?;
        sqlx::query("DELETE FROM sessions WHERE expires_ms <= $1")
            .bind(life.start)
            .execute(&mut *change)
            .await?;
        sqlx::query(
            "DELETE FROM sessions WHERE user_id = $1 AND hash NOT IN \
             (SELECT hash FROM sessions WHERE user_id = $1 ORDER BY created_ms DESC LIMIT $2)",
        )
        .bind(user)
        .bind(PER_USER_MAX)
        .execute(&mut *change)
        .await?;
        entry.write(&mut change).await?;
        Ok(change.commit().await?)
    }

    /// Whose session it is, if it has not ended and they may still sign in.
    ///
    /// # Errors
    /// There is none, or the database fails.
    pub async fn user_of_session(&self, hash: &str, now: Millis) -> Result<User, StoreError> {
        let row = sqlx::query(
            "SELECT users.* FROM sessions JOIN users ON users.id = sessions.user_id \
             WHERE sessions.hash = $1 AND sessions.expires_ms > $2 AND users.disabled = 0",
        )
        .bind(hash)
        .bind(now)
        .fetch_one(&self.pool)
        .await?;
        Ok(User::from_row(&row)?)
    }

    /// Ends a session. None is as good.
    ///
    /// # Errors
    /// The database fails.
    pub async fn remove_session(&self, hash: &str) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM sessions WHERE hash = $1")
            .bind(hash)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}
