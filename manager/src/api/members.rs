//! Who is in a cluster, how they are, and which configuration they run.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Shared;
use super::problem::Problem;
use crate::store::instances::Instance;

/// Members that are listed without a limit in the request, and the most that are.
const LISTED: u32 = 1000;
const LISTED_MAX: u32 = 5000;

/// A scheduler or a node that has joined.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// Names it: `scheduler:ADDRESS` or `proxy:HOST`.
    id: String,
    /// `scheduler`, `seed` or `peer`.
    role: String,
    /// Its host name.
    host: String,
    /// Where its cluster reaches it, `host:port`.
    address: String,
    /// Its data centre.
    idc: String,
    /// Its place, from wide to narrow.
    location: String,
    /// The release that it runs.
    build: String,
    /// What it says of itself: `starting` or `serving`.
    state: String,
    /// Whether it was heard of lately; one that was not is not handed out.
    healthy: bool,
    /// Why it is in this cluster.
    reason: String,
    /// When it joined first, in milliseconds since 1970.
    joined: i64,
    /// When it was heard of last, in milliseconds since 1970.
    seen: i64,
    /// What it does with the cluster's configuration.
    configuration: Running,
}

/// What a member does with its cluster's configuration.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    /// The version that it runs; 0 when it runs its own file alone.
    version: i64,
    /// Whether that is the cluster's newest.
    is_newest: bool,
    /// The version that it refused to apply, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<Refused>,
}

/// A version that a member did not apply.
#[derive(Debug, Serialize, ToSchema)]
pub struct Refused {
    /// Which.
    version: i64,
    /// What it says of why.
    reason: String,
}

/// Which of them.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct Page {
    /// The last id of the page before.
    #[serde(default)]
    after: String,
    /// Most that are listed, up to 5,000; 1,000 by default.
    limit: Option<u32>,
}

/// The members of a cluster, by id
#[utoipa::path(
    get, path = "/api/v1/clusters/{id}/members", tag = "members", params(("id" = String, Path), Page),
    responses((status = 200, body = Vec<Member>), (status = 404, body = Problem)),
)]
pub(super) async fn list(
    State(shared): State<Shared>,
    Path(id): Path<String>,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Json<Vec<Member>>, Problem> {
    let Query(page) = page?;
    shared.store.cluster(&id).await?;
    let newest = shared.store.configuration(&id, None).await?;
    let newest = newest.map_or(0, |newest| newest.version);
    let limit = page.limit.unwrap_or(LISTED).min(LISTED_MAX);
    let found = shared.store.instances(&id, &page.after, limit).await?;
    let since = shared.now().saturating_sub(shared.silence_max);
    let members = found.into_iter().map(|found| member(found, newest, since));
    Ok(Json(members.collect()))
}

fn member(found: Instance, newest: i64, since: i64) -> Member {
    Member {
        healthy: found.seen >= since,
        configuration: Running {
            version: found.running,
            is_newest: found.running == newest,
            refused: (found.refused > 0).then_some(Refused {
                version: found.refused,
                reason: found.refused_reason,
            }),
        },
        id: found.id,
        role: found.role,
        host: found.host,
        address: found.address,
        idc: found.idc,
        location: found.location,
        build: found.build,
        state: found.state,
        reason: found.reason,
        joined: found.joined,
        seen: found.seen,
    }
}
