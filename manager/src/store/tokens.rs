//! Personal access tokens, for programs.

use sqlx::any::AnyRow;
use sqlx::{FromRow, Row as _};

use super::audit::Entry;
use super::users::User;
use super::{Millis, Store, StoreError};
use crate::auth::Role;

/// Tokens that one user may have.
const PER_USER_MAX: i64 = 100;

/// A token, without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is what its name says")]
pub struct Token {
    pub id: String,
    pub user: String,
    pub name: String,
    /// What it may do; never more than its user.
    pub role: Role,
    pub created: Millis,
    pub expires: Millis,
}

impl FromRow<'_, AnyRow> for Token {
    fn from_row(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            user: row.try_get("user_id")?,
            name: row.try_get("name")?,
            role: super::role(row, "role")?,
            created: row.try_get("created_ms")?,
            expires: row.try_get("expires_ms")?,
        })
    }
}

impl Store {
    /// Adds a token, known by the hash of its secret.
    ///
    /// # Errors
    /// Its user has one of that name or too many, or the database fails.
    pub async fn add_token(&self, token: &Token, hash: &str, entry: Entry) -> Result<(), StoreError> {
        let mut change = self.pool.begin().await?;
        sqlx::query(
            "INSERT INTO tokens (id, hash, user_id, name, role, created_ms, expires_ms) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(&token.id)
        .bind(hash)
        .bind(&token.user)
        .bind(&token.name)
        .bind(token.role.as_str())
        .bind(token.created)
        .bind(token.expires)
        .execute(&mut *change)
        .await?;
        let (count,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM tokens WHERE user_id = $1")
            .bind(&token.user)
            .fetch_one(&mut *change)
            .await?;
        if count > PER_USER_MAX {
            return Err(StoreError::InUse(
                "this user has 100 tokens already: remove one first",
            ));
        }
        entry.write(&mut change).await?;
        Ok(change.commit().await?)
    }

    /// A user's tokens by name.
    ///
    /// # Errors
    /// The database fails.
    pub async fn tokens_of(&self, user: &str) -> Result<Vec<Token>, StoreError> {
        let found = sqlx::query_as("SELECT * FROM tokens WHERE user_id = $1 ORDER BY name");
        Ok(found.bind(user).fetch_all(&self.pool).await?)
    }

    /// Whose token it is and what it may do, if it has not ended and its user may still sign in.
    ///
    /// # Errors
    /// There is none, or the database fails.
    pub async fn user_of_token(&self, hash: &str, now: Millis) -> Result<(User, Role), StoreError> {
        let row = sqlx::query(
            "SELECT users.*, tokens.role AS token_role FROM tokens JOIN users ON users.id = tokens.user_id \
             WHERE tokens.hash = $1 AND tokens.expires_ms > $2 AND users.disabled = 0",
        )
        .bind(hash)
        .bind(now)
        .fetch_one(&self.pool)
        .await?;
        Ok((User::from_row(&row)?, super::role(&row, "token_role")?))
    }

    /// Removes a user's token.
    ///
    /// # Errors
    /// They have none such, or the database fails.
    pub async fn remove_token(&self, user: &str, id: &str, entry: Entry) -> Result<(), StoreError> {
        let mut change = self.pool.begin().await?;
        let removed = sqlx::query("DELETE FROM tokens WHERE user_id = $1 AND id = $2")
            .bind(user)
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
