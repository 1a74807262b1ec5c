//! Tokens with which schedulers and nodes join.

use sqlx::any::AnyRow;
use sqlx::{FromRow, Row as _};

use super::audit::Entry;
use super::{Millis, Store, StoreError};

/// Tokens that there may be.
const TOKENS_MAX: i64 = 1000;

/// A token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is what its name says")]
pub struct JoinToken {
    pub id: String,
    pub name: String,
    /// Whose members it makes; empty for any, by placement.
    pub cluster: String,
    pub created: Millis,
    /// 0 for never.
    pub expires: Millis,
}

impl FromRow<'_, AnyRow> for JoinToken {
    fn from_row(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            cluster: row.try_get("cluster_id")?,
            created: row.try_get("created_ms")?,
            expires: row.try_get("expires_ms")?,
        })
    }
}

impl JoinToken {
    /// Whether it has not ended.
    pub fn is_good(&self, now: Millis) -> bool {
        self.expires == 0 || self.expires > now
    }
}

impl Store {
    /// Adds a token, known by the hash of its secret.
    ///
    /// # Errors
    /// There is one of that name or there are too many, or the database fails.
    pub async fn add_join_token(
        &self,
        token: &JoinToken,
        hash: &str,
        entry: Entry,
    ) -> Result<(), StoreError> {
        let mut change = self.pool.begin().await?;
        sqlx::query(
            "INSERT INTO join_tokens (id, hash, name, cluster_id, created_ms, expires_ms) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(&token.id)
        .bind(hash)
        .bind(&token.name)
        .bind(&token.cluster)
        .bind(token.created)
        .bind(token.expires)
        .execute(&mut *change)
        .await?;
        let (count,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM join_tokens")
            .fetch_one(&mut *change)
            .await?;
        if count > TOKENS_MAX {
            return Err(StoreError::InUse(
                "there are 1,000 join tokens already: remove one first",
            ));
        }
        entry.write(&mut change).await?;
        Ok(change.commit().await?)
    }

    /// All of them by name.
    ///
    /// # Errors
    /// The database fails.
    pub async fn join_tokens(&self) -> Result<Vec<JoinToken>, StoreError> {
        let found = sqlx::query_as("SELECT * FROM join_tokens ORDER BY name");
        Ok(found.fetch_all(&self.pool).await?)
    }

    /// The one with this hash, if it has not ended.
    ///
    /// # Errors
    /// There is none, or the database fails.
    pub async fn join_token(&self, hash: &str, now: Millis) -> Result<JoinToken, StoreError> {
        let found = sqlx::query_as(
            "SELECT * FROM join_tokens WHERE hash = $1 AND (expires_ms = 0 OR expires_ms > $2)",
        );
        Ok(found.bind(hash).bind(now).fetch_one(&self.pool).await?)
    }

    /// Removes one.
    ///
    /// # Errors
    /// There is none, or the database fails.
    pub async fn remove_join_token(&self, id: &str, entry: Entry) -> Result<(), StoreError> {
        let mut change = self.pool.begin().await?;
        let removed = sqlx::query("DELETE FROM join_tokens WHERE id = $1")
            .bind(id)
            .execute(&mut *change)
            .await?;
        if removed.rows_affected() == 0 {
            return Err(StoreError::Absent);
        }
        entry.write(&mut change).await?;
        Ok(change.commit().await?)
    }
}
