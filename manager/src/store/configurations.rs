//! Versions of what the members of a cluster are told to do.

use sqlx::FromRow;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::audit::Entry;
use super::{Millis, Store, StoreError};

/// Versions that are kept of a cluster; the oldest go.
pub const VERSIONS_MAX: i64 = 1000;

/// One version.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is what its name says")]
pub struct Configuration {
    pub cluster: String,
    /// From 1; each change is one more.
    pub version: i64,
    pub author: String,
    pub comment: String,
    /// JSON.
    pub document: String,
    pub created: Millis,
}

impl FromRow<'_, AnyRow> for Configuration {
    fn from_row(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            cluster: row.try_get("cluster_id")?,
            version: row.try_get("version")?,
            author: row.try_get("author")?,
            comment: row.try_get("comment")?,
            document: row.try_get("document")?,
            created: row.try_get("created_ms")?,
        })
    }
}

impl Store {
    /// Adds a version; it must be the one after the newest.
    ///
    /// # Errors
    /// Another was added before, or the database fails.
    pub async fn add_configuration(&self, added: &Configuration, entry: Entry) -> Result<(), StoreError> {
        let mut change = self.pool.begin().await?;
        // Of two that add the same version at once the key refuses one.
        let done = sqlx::query(
            "INSERT INTO configurations (cluster_id, version, author, comment, document, created_ms) \
             SELECT $1, $2, $3, $4, $5, $6 WHERE \
             (SELECT COALESCE(MAX(version), 0) FROM configurations WHERE cluster_id = $1) = $7",
        )
        .bind(&added.cluster)
        .bind(added.version)
        .bind(&added.author)
        .bind(&added.comment)
        .bind(&added.document)
        .bind(added.created)
        .bind(added.version - 1)
        .execute(&mut *change)
        .await?;
        if done.rows_affected() == 0 {
            return Err(StoreError::Exists);
        }
        sqlx::query("DELETE FROM configurations WHERE cluster_id = $1 AND version <= $2")
            .bind(&added.cluster)
            .bind(added.version - VERSIONS_MAX)
            .execute(&mut *change)
            .await?;
        entry.write(&mut change).await?;
        Ok(change.commit().await?)
    }

    /// A cluster's newest version, or the one that is asked for; `None` if there is none.
    ///
    /// # Errors
    /// The database fails.
    pub async fn configuration(
        &self,
        cluster: &str,
        version: Option<i64>,
    ) -> Result<Option<Configuration>, StoreError> {
        let found = match version {
            Some(version) => {
                sqlx::query_as("SELECT * FROM configurations WHERE cluster_id = $1 AND version = $2")
                    .bind(cluster)
                    .bind(version)
            }
            None => sqlx::query_as(
                "SELECT * FROM configurations WHERE cluster_id = $1 ORDER BY version DESC LIMIT 1",
            )
            .bind(cluster),
        };
        Ok(found.fetch_optional(&self.pool).await?)
    }

    /// The versions of a cluster before `before`, newest first.
    ///
    /// # Errors
    /// The database fails.
    pub async fn configurations(
        &self,
        cluster: &str,
        before: i64,
        limit: u32,
    ) -> Result<Vec<Configuration>, StoreError> {
        let found = sqlx::query_as(
            "SELECT * FROM configurations WHERE cluster_id = $1 AND version < $2 ORDER BY version DESC LIMIT $3",
        );
        let found = found.bind(cluster).bind(before).bind(i64::from(limit));
        Ok(found.fetch_all(&self.pool).await?)
    }

    /// The number of each cluster's newest version, by the cluster's id, for those that have one.
    ///
    /// # Errors
    /// The database fails.
    pub async fn newest_versions(&self) -> Result<Vec<(String, i64)>, StoreError> {
        let found = sqlx::query_as("SELECT cluster_id, MAX(version) FROM configurations GROUP BY cluster_id");
        Ok(found.fetch_all(&self.pool).await?)
    }
}
