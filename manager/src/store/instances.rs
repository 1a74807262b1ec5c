//! Schedulers and nodes that have joined, wherever: all managers with one database know the same.

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, FromRow, Row as _};

use super::{Millis, Store, StoreError};

/// One scheduler or node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is what its name says")]
pub struct Instance {
    /// `scheduler:ADDRESS` or `proxy:HOST`.
    pub id: String,
    pub cluster: String,
    /// Why it is in this cluster, in words.
    pub reason: String,
    /// `scheduler`, `seed` or `peer`.
    pub role: String,
    pub host: String,
    pub address: String,
    pub idc: String,
    pub location: String,
    pub build: String,
    pub state: String,
    /// The version of the configuration that it runs; 0 for its own file alone.
    pub running: i64,
    /// The version that it refused; 0 for none.
    pub refused: i64,
    /// Why it did.
    pub refused_reason: String,
    /// The life of the manager that it has a stream to; empty without one.
    pub manager: String,
    pub joined: Millis,
    pub seen: Millis,
}

impl FromRow<'_, AnyRow> for Instance {
    fn from_row(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            cluster: row.try_get("cluster_id")?,
            reason: row.try_get("reason")?,
            role: row.try_get("role")?,
            host: row.try_get("host")?,
            address: row.try_get("address")?,
            idc: row.try_get("idc")?,
            location: row.try_get("location")?,
            build: row.try_get("build")?,
            state: row.try_get("state")?,
            running: row.try_get("running")?,
            refused: row.try_get("refused")?,
            refused_reason: row.try_get("refused_reason")?,
            manager: row.try_get("manager")?,
            joined: row.try_get("joined_ms")?,
            seen: row.try_get("seen_ms")?,
        })
    }
}

/// A scheduler that nodes are told of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is what its name says")]
pub struct LiveScheduler {
    pub cluster: String,
    pub address: String,
}

impl Store {
    /// Writes what instances are now, all in one transaction. One whose cluster has gone meanwhile is left out: it is placed anew.
    /// The time at which one joined stays.
    ///
    /// # Errors
    /// The database fails. Nothing is written then.
    pub async fn put_instances(&self, instances: &[Instance]) -> Result<(), StoreError> {
        let mut change = self.pool.begin().await?;
        for instance in instances {
            put(&mut change, instance).await?;
        }
        Ok(change.commit().await?)
    }

    /// All that have a stream to this life of a manager are alive at `now`.
    ///
    /// # Errors
    /// The database fails.
    pub async fn touch_instances(&self, manager: &str, now: Millis) -> Result<(), StoreError> {
        sqlx::query("UPDATE instances SET seen_ms = $2 WHERE manager = $1")
            .bind(manager)
            .bind(now)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// An instance has no stream to this life of a manager any more; it was heard last at `seen`. Nothing, if it has one to another.
    ///
    /// # Errors
    /// The database fails.
    pub async fn part_instance(&self, id: &str, manager: &str, seen: Millis) -> Result<(), StoreError> {
        sqlx::query("UPDATE instances SET manager = '', seen_ms = $3 WHERE id = $1 AND manager = $2")
            .bind(id)
            .bind(manager)
            .bind(seen)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Schedulers that serve and were seen since `since`.
    ///
    /// # Errors
    /// The database fails.
    pub async fn live_schedulers(&self, since: Millis) -> Result<Vec<LiveScheduler>, StoreError> {
        let rows = sqlx::query(
            "SELECT cluster_id, address FROM instances WHERE role = 'scheduler' AND state = 'serving' AND seen_ms >= $1 \
             ORDER BY address",
        );
        let rows = rows.bind(since).fetch_all(&self.pool).await?;
        let read = |row: &AnyRow| -> Result<LiveScheduler, sqlx::Error> {
            Ok(LiveScheduler {
                cluster: row.try_get("cluster_id")?,
                address: row.try_get("address")?,
            })
        };
        Ok(rows.iter().map(read).collect::<Result<_, _>>()?)
    }

    /// When any instance was seen last; `None` if there is none.
    ///
    /// # Errors
    /// The database fails.
    pub async fn last_seen(&self) -> Result<Option<Millis>, StoreError> {
        let (last,): (i64,) = sqlx::query_as("SELECT COALESCE(MAX(seen_ms), -1) FROM instances")
            .fetch_one(&self.pool)
            .await?;
        Ok((last >= 0).then_some(last))
    }

    /// Says `now` of those that were seen after `latest`, which is in the future: the clock was set back.
    ///
    /// # Errors
    /// The database fails.
    pub async fn bring_back_instances(&self, latest: Millis, now: Millis) -> Result<(), StoreError> {
        sqlx::query("UPDATE instances SET seen_ms = $2 WHERE seen_ms > $1")
            .bind(latest)
            .bind(now)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Whether an instance has a stream as a member of another cluster than `cluster`, and was seen since `since`.
    ///
    /// # Errors
    /// The database fails.
    pub async fn is_elsewhere(&self, id: &str, cluster: &str, since: Millis) -> Result<bool, StoreError> {
        let found = sqlx::query_as(
            "SELECT COUNT(*) FROM instances WHERE id = $1 AND cluster_id <> $2 AND manager <> '' AND seen_ms >= $3",
        );
        let (count,): (i64,) = found
            .bind(id)
            .bind(cluster)
            .bind(since)
            .fetch_one(&self.pool)
            .await?;
        Ok(count > 0)
    }

    /// How many of each role were seen since `since`.
    ///
    /// # Errors
    /// The database fails.
    pub async fn count_instances(&self, since: Millis) -> Result<Vec<(String, i64)>, StoreError> {
        let found = sqlx::query_as("SELECT role, COUNT(*) FROM instances WHERE seen_ms >= $1 GROUP BY role");
        Ok(found.bind(since).fetch_all(&self.pool).await?)
    }

    /// The instances of a cluster by id, from the one after `after` on.
    ///
    /// # Errors
    /// The database fails.
    pub async fn instances(
        &self,
        cluster: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<Instance>, StoreError> {
        let found =
            sqlx::query_as("SELECT * FROM instances WHERE cluster_id = $1 AND id > $2 ORDER BY id LIMIT $3");
        let found = found.bind(cluster).bind(after).bind(i64::from(limit));
        Ok(found.fetch_all(&self.pool).await?)
    }

    /// Forgets instances that were not seen since `since`.
    ///
    /// # Errors
    /// The database fails.
    pub async fn forget_instances(&self, since: Millis) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM instances WHERE seen_ms < $1")
            .bind(since)
            .execute(&self.pool)
            .await?;
        Ok(())
    }
}

async fn put(change: &mut AnyConnection, instance: &Instance) -> Result<(), StoreError> {
    // The SELECT leaves out what has no cluster: a broken reference would undo the whole transaction.
    sqlx::query(
        "INSERT INTO instances (id, cluster_id, reason, role, host, address, idc, location, build, state, running, refused, \
         refused_reason, manager, joined_ms, seen_ms) \
         SELECT $1, clusters.id, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16 FROM clusters \
         WHERE clusters.id = $2 \
         ON CONFLICT (id) DO UPDATE SET cluster_id = excluded.cluster_id, reason = excluded.reason, role = excluded.role, \
         host = excluded.host, address = excluded.address, idc = excluded.idc, location = excluded.location, \
         build = excluded.build, state = excluded.state, running = excluded.running, refused = excluded.refused, \
         refused_reason = excluded.refused_reason, manager = excluded.manager, seen_ms = excluded.seen_ms",
    )
    .bind(&instance.id)
    .bind(&instance.cluster)
    .bind(&instance.reason)
    .bind(&instance.role)
    .bind(&instance.host)
    .bind(&instance.address)
    .bind(&instance.idc)
    .bind(&instance.location)
    .bind(&instance.build)
    .bind(&instance.state)
    .bind(instance.running)
    .bind(instance.refused)
    .bind(&instance.refused_reason)
    .bind(&instance.manager)
    .bind(instance.joined)
    .bind(instance.seen)
    .execute(change)
    .await?;
    Ok(())
}
