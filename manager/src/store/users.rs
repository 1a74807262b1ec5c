//! People who may sign in.

use sqlx::FromRow;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::audit::Entry;
use super::{Millis, Store, StoreError};
use crate::auth::Role;

/// Somebody who may sign in. Their password is not here, see [`Store::user_by_name`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is what its name says")]
pub struct User {
    pub id: String,
    pub name: String,
    pub role: Role,
    pub disabled: bool,
    pub created: Millis,
}

impl FromRow<'_, AnyRow> for User {
    fn from_row(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            role: super::role(row, "role")?,
            disabled: row.try_get::<i64, _>("disabled")? != 0,
            created: row.try_get("created_ms")?,
        })
    }
}

impl Store {
    /// Adds a user.
    ///
    /// # Errors
    /// The name is taken, or the database fails.
    pub async fn add_user(&self, user: &User, password_hash: &str, entry: Entry) -> Result<(), StoreError> {
        let mut change = self.pool.begin().await?;
        sqlx::query(
            "INSERT INTO users (id, name, role, password_hash, disabled, created_ms) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(&user.id)
        .bind(&user.name)
        .bind(user.role.as_str())
        .bind(password_hash)
        .bind(i64::from(user.disabled))
        .bind(user.created)
        .execute(&mut *change)
        .await?;
        entry.write(&mut change).await?;
        Ok(change.commit().await?)
    }

    /// All users by name.
    ///
    /// # Errors
    /// The database fails.
    pub async fn users(&self) -> Result<Vec<User>, StoreError> {
        Ok(sqlx::query_as("SELECT * FROM users ORDER BY name")
            .fetch_all(&self.pool)
            .await?)
    }

    /// One user.
    ///
    /// # Errors
    /// There is none, or the database fails.
    pub async fn user(&self, id: &str) -> Result<User, StoreError> {
        let found = sqlx::query_as("SELECT * FROM users WHERE id = $1");
        Ok(found.bind(id).fetch_one(&self.pool).await?)
    }

    /// A user and the hash of their password.
    ///
    /// # Errors
    /// There is none, or the database fails.
    pub async fn user_by_name(&self, name: &str) -> Result<(User, String), StoreError> {
        let row = sqlx::query("SELECT * FROM users WHERE name = $1")
            .bind(name)
            .fetch_one(&self.pool)
            .await?;
        Ok((User::from_row(&row)?, row.try_get("password_hash")?))
    }

    /// Changes role and whether they may sign in. Their sessions end when they may not.
    ///
    /// # Errors
    /// There is none, nobody would be left to administer, or the database fails.
    pub async fn change_user(
        &self,
        id: &str,
        role: Role,
        disabled: bool,
        entry: Entry,
    ) -> Result<User, StoreError> {
        let mut change = self.pool.begin().await?;
        hold_administrators(&mut change).await?;
        let changed = sqlx::query("UPDATE users SET role = $2, disabled = $3 WHERE id = $1")
            .bind(id)
            .bind(role.as_str())
            .bind(i64::from(disabled))
            .execute(&mut *change)
            .await?;
        if changed.rows_affected() == 0 {
            return Err(StoreError::Absent);
        }
        keep_an_administrator(&mut change).await?;
        if disabled {
            end_sessions(&mut change, id).await?;
        }
        entry.write(&mut change).await?;
        let user = sqlx::query_as("SELECT * FROM users WHERE id = $1")
            .bind(id)
            .fetch_one(&mut *change)
            .await?;
        change.commit().await?;
        Ok(user)
    }

    /// Changes a password. All their sessions end.
    ///
    /// # Errors
    /// There is no such user, or the database fails.
    pub async fn change_password(
        &self,
        id: &str,
        password_hash: &str,
        entry: Entry,
    ) -> Result<(), StoreError> {
        let mut change = self.pool.begin().await?;
        let changed = sqlx::query("UPDATE users SET password_hash = $2 WHERE id = $1")
            .bind(id)
            .bind(password_hash)
            .execute(&mut *change)
            .await?;
        if changed.rows_affected() == 0 {
            return Err(StoreError::Absent);
        }
        end_sessions(&mut change, id).await?;
        entry.write(&mut change).await?;
        Ok(change.commit().await?)
    }

    /// Removes a user with their sessions and tokens.
    ///
    /// # Errors
    /// There is none, nobody would be left to administer, or the database fails.
    pub async fn remove_user(&self, id: &str, entry: Entry) -> Result<(), StoreError> {
        let mut change = self.pool.begin().await?;
        hold_administrators(&mut change).await?;
        let removed = sqlx::query("DELETE FROM users WHERE id = $1")
            .bind(id)
            .execute(&mut *change)
            .await?;
        if removed.rows_affected() == 0 {
            return Err(StoreError::Absent);
        }
        keep_an_administrator(&mut change).await?;
        entry.write(&mut change).await?;
        Ok(change.commit().await?)
    }
}

async fn end_sessions(change: &mut sqlx::AnyConnection, user: &str) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM sessions WHERE user_id = $1")
        .bind(user)
        .execute(change)
        .await?;
    Ok(())
}

/// Whoever else changes administrators waits: two that each remove the other's last one would leave none.
async fn hold_administrators(change: &mut sqlx::AnyConnection) -> Result<(), StoreError> {
    sqlx::query("UPDATE users SET disabled = disabled WHERE role = $1")
        .bind(Role::Admin.as_str())
        .execute(change)
        .await?;
    Ok(())
}

/// Refuses what would leave nobody who could undo it.
async fn keep_an_administrator(change: &mut sqlx::AnyConnection) -> Result<(), StoreError> {
    let (left,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM users WHERE role = $1 AND disabled = 0")
        .bind(Role::Admin.as_str())
        .fetch_one(change)
        .await?;
    match left {
        0 => Err(StoreError::InUse(
            "nobody would be left who may administer: make another administrator first",
        )),
        _ => Ok(()),
    }
}
