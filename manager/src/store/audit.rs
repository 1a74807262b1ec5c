//! Who changed what, and when; who tried to sign in and could not.

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AssertSqlSafe, FromRow, Row as _};

use super::{Millis, Store, StoreError};

/// Lines that are kept of sign-ins, and of all else.
pub const ENTRIES_MAX: u32 = 100_000;
/// Longest text of a line, in characters.
const DETAIL_CHARS_MAX: usize = 4096;

/// One line. It has no secrets in it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is what its name says")]
pub struct Entry {
    /// Sorts by time.
    pub id: String,
    pub at: Millis,
    pub actor: String,
    /// Such as `cluster.change`.
    pub action: String,
    /// What was changed, by its name.
    pub object: String,
    pub detail: String,
}

/// Which lines are asked for. Empty texts let all through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Those before this line, by its id.
    pub before: Option<String>,
    /// Those of this user.
    pub actor: String,
    /// Those whose action begins so.
    pub action: String,
}

impl FromRow<'_, AnyRow> for Entry {
    fn from_row(row: &AnyRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: row.try_get("id")?,
            at: row.try_get("at_ms")?,
            actor: row.try_get("actor")?,
            action: row.try_get("action")?,
            object: row.try_get("object")?,
            detail: row.try_get("detail")?,
        })
    }
}

impl Entry {
    /// Writes it with the change that it tells of.
    pub(super) async fn write(&self, change: &mut AnyConnection) -> Result<(), StoreError> {
        let detail: String = self.detail.chars().take(DETAIL_CHARS_MAX).collect();
        sqlx::query(
            "INSERT INTO audit (id, at_ms, actor, action, object, detail) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(&self.id)
        .bind(self.at)
        .bind(&self.actor)
        .bind(&self.action)
        .bind(&self.object)
        .bind(detail)
        .execute(change)
        .await?;
        Ok(())
    }
}

impl Store {
    /// Writes a line by itself, of something that changed nothing here.
    ///
    /// # Errors
    /// The database fails.
    pub async fn add_entry(&self, entry: &Entry) -> Result<(), StoreError> {
        let mut connection = self.pool.acquire().await?;
        entry.write(&mut connection).await
    }

    /// The newest lines that fit, newest first.
    ///
    /// # Errors
    /// The database fails.
    pub async fn entries(&self, filter: &Filter, count: u32) -> Result<Vec<Entry>, StoreError> {
        // Of a text that is empty each line's beginning is the same, so such a filter lets all through.
        const FITS: &str = "($2 = '' OR actor = $2) AND substr(action, 1, length($3)) = $3";
        let before = if filter.before.is_some() {
            "AND id < $4"
        } else {
            ""
        };
        let statement = format!("SELECT * FROM audit WHERE {FITS} {before} ORDER BY id DESC LIMIT $1");
        let mut found = sqlx::query_as(AssertSqlSafe(statement))
            .bind(i64::from(count))
            .bind(&filter.actor)
            .bind(&filter.action);
        if let Some(before) = &filter.before {
            found = found.bind(before);
        }
        Ok(found.fetch_all(&self.pool).await?)
    }

    /// Forgets the oldest lines beyond `keep` of sign-ins and `keep` of all else: whoever guesses passwords does not make the changes
    /// forgotten.
    ///
    /// # Errors
    /// The database fails.
    pub async fn trim_entries(&self, keep: u32) -> Result<(), StoreError> {
        for kind in ["LIKE", "NOT LIKE"] {
            let statement = format!(
                "DELETE FROM audit WHERE action {kind} 'session.%' AND id <= \
                 (SELECT id FROM audit WHERE action {kind} 'session.%' ORDER BY id DESC LIMIT 1 OFFSET $1)"
            );
            sqlx::query(AssertSqlSafe(statement))
                .bind(i64::from(keep))
                .execute(&self.pool)
                .await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Place;

    #[tokio::test]
    async fn guesses_do_not_make_changes_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&Place::Sqlite(dir.path().join("db"))).await.unwrap();
        let line = |number: i64, action: &str| Entry {
            id: format!("{number:04}"),
            at: number,
            actor: "a".to_owned(),
            action: action.to_owned(),
            object: String::new(),
            detail: "x".repeat(5000),
        };
        for number in 0..6 {
            store.add_entry(&line(number, "cluster.change")).await.unwrap();
        }
        for number in 6..20 {
            store.add_entry(&line(number, "session.refuse")).await.unwrap();
        }
        store.trim_entries(20).await.unwrap();
        assert_eq!(store.entries(&Filter::default(), 100).await.unwrap().len(), 20);
        store.trim_entries(4).await.unwrap();
        let kept = store.entries(&Filter::default(), 100).await.unwrap();
        let times: Vec<i64> = kept.iter().map(|entry| entry.at).collect();
        assert_eq!(times, [19, 18, 17, 16, 5, 4, 3, 2]);
        assert_eq!(kept[0].detail.len(), DETAIL_CHARS_MAX);
        let before = Some(kept[5].id.clone());
        let filter = Filter {
            before,
            ..Filter::default()
        };
        let next = store.entries(&filter, 1).await.unwrap();
        assert_eq!(next[0].at, 3);
    }
}
