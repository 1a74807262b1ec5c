//! Clusters.

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, FromRow, Row as _};

use super::audit::Entry;
use super::{Millis, Store, StoreError};
use crate::placement::{Places, Scope};

/// Clusters that there may be: each manager reads all of them every second.
const CLUSTERS_MAX: i64 = 1000;

/// A set of schedulers, seeds and peers that exchange with each other.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is what its name says")]
pub struct Cluster {
    pub id: String,
    pub name: String,
    pub description: String,
    pub is_default: bool,
    pub scope: Scope,
    pub created: Millis,
}

impl FromRow<'_, AnyRow> for Cluster {
    fn from_row(row: &AnyRow) -> Result<Self, sqlx::Error> {
        let scope: String = row.try_get("scope")?;
        Ok(Self {
            id: row.try_get("id")?,
            name: row.try_get("name")?,
            description: row.try_get("description")?,
            is_default: row.try_get::<i64, _>("is_default")? != 0,
            scope: serde_json::from_str(&scope).map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
            created: row.try_get("created_ms")?,
        })
    }
}

/// All of them, to find the one for a node.
pub fn places(clusters: &[Cluster]) -> Places {
    Places::new(
        clusters
            .iter()
            .map(|cluster| (cluster.name.as_str(), cluster.is_default, &cluster.scope)),
    )
}

impl Cluster {
    fn scope_text(&self) -> Result<String, StoreError> {
        serde_json::to_string(&self.scope).map_err(|error| sqlx::Error::Encode(Box::new(error)).into())
    }
}

impl Store {
    /// Adds a cluster. If it is the default, no other is any more.
    ///
    /// # Errors
    /// The name is taken, there are too many, or the database fails.
    pub async fn add_cluster(&self, cluster: &Cluster, entry: Entry) -> Result<(), StoreError> {
        let mut change = self.pool.begin().await?;
        // First, since of two managers that do this at once one must wait.
        sqlx::query(
            "INSERT INTO clusters (id, name, description, is_default, scope, created_ms) VALUES ($1, $2, $3, 0, $4, $5)",
        )
        .bind(&cluster.id)
        .bind(&cluster.name)
        .bind(&cluster.description)
        .bind(cluster.scope_text()?)
        .bind(cluster.created)
        .execute(&mut *change)
        .await?;
        let (count,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM clusters")
            .fetch_one(&mut *change)
            .await?;
        if count > CLUSTERS_MAX {
            return Err(StoreError::InUse(
                "there are 1,000 clusters already: remove one first",
            ));
        }
        if cluster.is_default {
            make_default(&mut change, &cluster.id).await?;
        }
        entry.write(&mut change).await?;
        Ok(change.commit().await?)
    }

    /// All clusters by name.
    ///
    /// # Errors
    /// The database fails.
    pub async fn clusters(&self) -> Result<Vec<Cluster>, StoreError> {
        let found = sqlx::query_as("SELECT * FROM clusters ORDER BY name");
        Ok(found.fetch_all(&self.pool).await?)
    }

    /// One cluster.
    ///
    /// # Errors
    /// There is none, or the database fails.
    pub async fn cluster(&self, id: &str) -> Result<Cluster, StoreError> {
        let found = sqlx::query_as("SELECT * FROM clusters WHERE id = $1");
        Ok(found.bind(id).fetch_one(&self.pool).await?)
    }

    /// Writes what a cluster is now. The default stays one until another is made it.
    ///
    /// # Errors
    /// There is none, the name is taken, it was the default and would not be, or the database fails.
    pub async fn change_cluster(&self, cluster: &Cluster, entry: Entry) -> Result<(), StoreError> {
        let mut change = self.pool.begin().await?;
        let changed =
            sqlx::query("UPDATE clusters SET name = $2, description = $3, scope = $4 WHERE id = $1")
                .bind(&cluster.id)
                .bind(&cluster.name)
                .bind(&cluster.description)
                .bind(cluster.scope_text()?)
                .execute(&mut *change)
                .await?;
        if changed.rows_affected() == 0 {
            return Err(StoreError::Absent);
        }
        if cluster.is_default {
            make_default(&mut change, &cluster.id).await?;
        } else {
            refuse_default(&mut change, &cluster.id).await?;
        }
        entry.write(&mut change).await?;
        Ok(change.commit().await?)
    }

    /// Removes a cluster.
    ///
    /// # Errors
    /// There is none, it is the default, or the database fails.
    pub async fn remove_cluster(&self, id: &str, entry: Entry) -> Result<(), StoreError> {
        let mut change = self.pool.begin().await?;
        // It writes before it reads: a transaction of SQLite that does it the other way round may be refused.
        let removed = sqlx::query("DELETE FROM clusters WHERE id = $1 AND is_default = 0")
            .bind(id)
            .execute(&mut *change)
            .await?;
        if removed.rows_affected() == 0 {
            refuse_default(&mut change, id).await?;
            return Err(StoreError::Absent);
        }
        sqlx::query("DELETE FROM join_tokens WHERE cluster_id = $1")
            .bind(id)
            .execute(&mut *change)
            .await?;
        entry.write(&mut change).await?;
        Ok(change.commit().await?)
    }
}

async fn make_default(change: &mut AnyConnection, id: &str) -> Result<(), StoreError> {
    sqlx::query("UPDATE clusters SET is_default = CASE WHEN id = $1 THEN 1 ELSE 0 END")
        .bind(id)
        .execute(change)
        .await?;
    Ok(())
}

async fn refuse_default(change: &mut AnyConnection, id: &str) -> Result<(), StoreError> {
    let found: Option<(i64,)> = sqlx::query_as("SELECT is_default FROM clusters WHERE id = $1")
        .bind(id)
        .fetch_optional(change)
        .await?;
    match found {
        Some((1,)) => Err(StoreError::InUse(
            "it is the default, which nodes that fit nowhere belong to: make another cluster the default first",
        )),
        _ => Ok(()),
    }
}
