//! Who changed what.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Shared;
use super::problem::Problem;
use crate::store::audit;

/// Lines of one answer.
const COUNT_MAX: u32 = 500;

/// Which lines.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct Which {
    /// Those before this line, by its id.
    before: Option<String>,
    /// At most so many: 100 if nothing is said, 500 at most.
    count: Option<u32>,
    /// Those of this user, by the whole name.
    #[serde(default)]
    actor: String,
    /// Those whose action begins so, such as `cluster.`.
    #[serde(default)]
    action: String,
}

/// One line.
#[derive(Debug, Serialize, ToSchema)]
pub struct Line {
    /// Names the line.
    id: String,
    /// When, in milliseconds since 1970.
    at: i64,
    /// Who: a user's name, as it was given.
    actor: String,
    /// What, such as `cluster.change`.
    action: String,
    /// To what, by its name; for `session.…`, from which address.
    object: String,
    /// How.
    detail: String,
}

impl From<audit::Entry> for Line {
    fn from(entry: audit::Entry) -> Self {
        Self {
            id: entry.id,
            at: entry.at,
            actor: entry.actor,
            action: entry.action,
            object: entry.object,
            detail: entry.detail,
        }
    }
}

/// Who changed what, newest first
#[utoipa::path(get, path = "/api/v1/audit", tag = "audit", params(Which), responses((status = 200, body = Vec<Line>)))]
pub(super) async fn list(
    State(shared): State<Shared>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Vec<Line>>, Problem> {
    let Query(which) = which?;
    let count = which.count.unwrap_or(100).min(COUNT_MAX);
    let filter = audit::Filter {
        before: which.before,
        actor: which.actor,
        action: which.action,
    };
    let entries = shared.store.entries(&filter, count).await?;
    Ok(Json(entries.into_iter().map(Line::from).collect()))
}
