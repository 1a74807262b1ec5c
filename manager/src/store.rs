//! What the manager keeps: one database, SQLite in its data directory or a Postgres that several managers share.
//!
//! What must hold: the statements are those that both understand; a change and its line in the [`audit`] are written together
//! or not at all; nothing here knows a password, a session or a token, only what is made of them.

pub mod audit;
pub mod clusters;
pub mod configurations;
pub mod instances;
pub mod join_tokens;
pub mod sessions;
pub mod tokens;
pub mod users;

use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::Once;
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions, AnyRow};
use sqlx::error::ErrorKind;
use sqlx::migrate::MigrateError;
use sqlx::{AnyConnection, AnyPool, Row as _};
use thiserror::Error;

use darter_service::config::Secret;

use crate::auth::Role;

/// Connections to the database at a time. SQLite writes with one at a time whatever there are.
const CONNECTIONS_MAX: u32 = 8;
/// How long a request waits for one of them.
const CONNECTION_WAIT: Duration = Duration::from_secs(5);

/// Where the database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file, made if it is not there.
    Sqlite(PathBuf),
    /// A server, as `postgres://user:password@host/name`.
    Postgres(Secret),
}

/// Why something was not kept or found.
#[derive(Debug, Error)]
pub enum StoreError {
    /// There is one already with this name.
    #[error("there is one with this name already")]
    Exists,
    /// There is none.
    #[error("there is none")]
    Absent,
    /// Something else depends on it.
    #[error("{0}")]
    InUse(&'static str),
    /// The database's layout is not this version's.
    #[error("the database cannot be brought to this version's layout")]
    Migrate(#[from] MigrateError),
    /// The database does not answer, or not as it should.
    #[error("the database")]
    Database(#[source] sqlx::Error),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::RowNotFound => Self::Absent,
            sqlx::Error::Database(told) if told.kind() == ErrorKind::UniqueViolation => Self::Exists,
            _ => Self::Database(error),
        }
    }
}

/// Milliseconds since 1970.
pub type Millis = i64;

/// The database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    pool: AnyPool,
}

impl Store {
    /// Opens it, and brings it to this version's layout.
    ///
    /// # Errors
    /// It cannot be opened, or is of a later version.
    pub async fn open(place: &Place) -> Result<Self, StoreError> {
        static DRIVERS: Once = Once::new();
        DRIVERS.call_once(sqlx::any::install_default_drivers);
        let (url, is_file) = match place {
            Place::Sqlite(path) => (format!("sqlite://{}?mode=rwc", path.display()), true),
            Place::Postgres(url) => (url.expose().to_owned(), false),
        };
        let options = AnyConnectOptions::from_str(&url)?;
        let pool = AnyPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(CONNECTION_WAIT)
            .after_connect(move |connection, _| Box::pin(prepare(connection, is_file)))
            .connect_with(options)
            .await?;
        sqlx::migrate!().run(&pool).await?;
        Ok(Self { pool })
    }

    /// Whether it answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.pool).await?;
        Ok(())
    }

    /// What this manager made once for itself, or `made`, which is kept from now on.
    ///
    /// # Errors
    /// The database fails.
    pub async fn secret(&self, name: &str, made: &Secret) -> Result<Secret, StoreError> {
        // Two managers that start at the same moment end with one.
        sqlx::query("INSERT INTO secrets (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
            .bind(name)
            .bind(made.expose())
            .execute(&self.pool)
            .await?;
        let (value,): (String,) = sqlx::query_as("SELECT value FROM secrets WHERE name = $1")
            .bind(name)
            .fetch_one(&self.pool)
            .await?;
        Ok(Secret::new(value))
    }

    /// Closes it, when what runs has ended.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// What each connection must have.
async fn prepare(connection: &mut AnyConnection, is_file: bool) -> Result<(), sqlx::Error> {
    let statements: &[&'static str] = match is_file {
        // WAL: who reads does not wait for who writes. FULL: what was answered outlives a power cut.
        true => &[
            "PRAGMA foreign_keys = ON",
            "PRAGMA busy_timeout = 5000",
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = FULL",
        ],
        false => &["SET statement_timeout = 10000"],
    };
    for &statement in statements {
        sqlx::query(statement).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Reads a role.
fn role(row: &AnyRow, column: &str) -> Result<Role, sqlx::Error> {
    let text: String = row.try_get(column)?;
    text.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))
}
