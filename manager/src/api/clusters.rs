//! Clusters, and which one a node belongs to.

use std::net::IpAddr;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::{Extension, Json};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::problem::{FieldProblem, Problem};
use super::users::check_name;
use super::{Shared, Who};
use crate::auth::secret;
use crate::placement::{About, Scope};
use crate::store::clusters;

/// Longest description, in characters.
const DESCRIPTION_CHARS_MAX: usize = 1000;

/// A set of schedulers, seeds and peers that exchange with each other.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// Names it in addresses.
    id: String,
    /// What people call it.
    name: String,
    /// What it is.
    description: String,
    /// Whether nodes that no cluster is for belong to it.
    is_default: bool,
    /// Which nodes it is for.
    scope: Scope,
    /// When it was added, in milliseconds since 1970.
    created: i64,
}

impl From<clusters::Cluster> for Cluster {
    fn from(cluster: clusters::Cluster) -> Self {
        Self {
            id: cluster.id,
            name: cluster.name,
            description: cluster.description,
            is_default: cluster.is_default,
            scope: cluster.scope,
            created: cluster.created,
        }
    }
}

/// What a cluster is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ClusterBody {
    /// 1 to 64 letters, digits and `._@-`.
    name: String,
    /// What it is, in at most 1,000 characters.
    #[serde(default)]
    description: String,
    /// Whether nodes that no cluster is for belong to it. No other is the default then.
    #[serde(default)]
    is_default: bool,
    /// Which nodes it is for.
    #[serde(default)]
    scope: Scope,
}

impl ClusterBody {
    fn check(&self) -> Result<(), Problem> {
        let mut problems: Vec<FieldProblem> = check_name(&self.name).into_iter().collect();
        if self.description.chars().count() > DESCRIPTION_CHARS_MAX {
            problems.push(FieldProblem {
                field: "description".to_owned(),
                message: format!("write at most {DESCRIPTION_CHARS_MAX} characters"),
            });
        }
        problems.extend(
            self.scope
                .problems()
                .into_iter()
                .map(|(place, message)| FieldProblem {
                    field: format!("scope.{place}"),
                    message,
                }),
        );
        Problem::fields(problems)
    }
}

/// A node that asks where it belongs.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its address.
    #[param(value_type = String)]
    address: IpAddr,
    /// Its host name.
    #[serde(default)]
    hostname: String,
    /// Its data centre.
    #[serde(default)]
    idc: String,
    /// Its place, from wide to narrow, as `europe|berlin`.
    #[serde(default)]
    location: String,
}

/// Where a node belongs.
#[derive(Debug, Serialize, ToSchema)]
pub struct Placement {
    /// The cluster's id.
    cluster: String,
    /// The cluster's name.
    name: String,
    /// Why this one.
    reason: String,
}

/// All clusters
#[utoipa::path(get, path = "/api/v1/clusters", tag = "clusters", responses((status = 200, body = Vec<Cluster>)))]
pub(super) async fn list(State(shared): State<Shared>) -> Result<Json<Vec<Cluster>>, Problem> {
    let clusters = shared.store.clusters().await?;
    Ok(Json(clusters.into_iter().map(Cluster::from).collect()))
}

/// One cluster
#[utoipa::path(
    get, path = "/api/v1/clusters/{id}", tag = "clusters", params(("id" = String, Path)),
    responses((status = 200, body = Cluster), (status = 404, body = Problem)),
)]
pub(super) async fn get(
    State(shared): State<Shared>,
    Path(id): Path<String>,
) -> Result<Json<Cluster>, Problem> {
    Ok(Json(shared.store.cluster(&id).await?.into()))
}

/// Adds a cluster
#[utoipa::path(
    post, path = "/api/v1/clusters", tag = "clusters", request_body = ClusterBody,
    responses((status = 201, body = Cluster), (status = 409, body = Problem), (status = 422, body = Problem)),
)]
pub(super) async fn create(
    State(shared): State<Shared>,
    Extension(who): Who,
    asked: Result<Json<ClusterBody>, JsonRejection>,
) -> Result<(StatusCode, Json<Cluster>), Problem> {
    let Json(asked) = asked?;
    asked.check()?;
    let created = shared.now();
    let cluster = clusters::Cluster {
        id: secret::id(created)?,
        name: asked.name,
        description: asked.description,
        is_default: asked.is_default,
        scope: asked.scope,
        created,
    };
    let entry = shared.entry(&who.name, "cluster.create", &cluster.name, detail(&cluster))?;
    shared.store.add_cluster(&cluster, entry).await?;
    shared.changed.notify_one();
    Ok((StatusCode::CREATED, Json(cluster.into())))
}

/// Changes a cluster
#[utoipa::path(
    put, path = "/api/v1/clusters/{id}", tag = "clusters", request_body = ClusterBody, params(("id" = String, Path)),
    responses(
        (status = 200, body = Cluster), (status = 404, body = Problem), (status = 409, body = Problem),
        (status = 422, body = Problem),
    ),
)]
pub(super) async fn change(
    State(shared): State<Shared>,
    Extension(who): Who,
    Path(id): Path<String>,
    asked: Result<Json<ClusterBody>, JsonRejection>,
) -> Result<Json<Cluster>, Problem> {
    let Json(asked) = asked?;
    asked.check()?;
    let before = shared.store.cluster(&id).await?;
    let cluster = clusters::Cluster {
        name: asked.name,
        description: asked.description,
        is_default: asked.is_default,
        scope: asked.scope,
        ..before
    };
    let entry = shared.entry(&who.name, "cluster.change", &cluster.name, detail(&cluster))?;
    shared.store.change_cluster(&cluster, entry).await?;
    shared.changed.notify_one();
    Ok(Json(cluster.into()))
}

/// Removes a cluster
#[utoipa::path(
    delete, path = "/api/v1/clusters/{id}", tag = "clusters", params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)),
)]
pub(super) async fn remove(
    State(shared): State<Shared>,
    Extension(who): Who,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let cluster = shared.store.cluster(&id).await?;
    let entry = shared.entry(&who.name, "cluster.remove", &cluster.name, String::new())?;
    shared.store.remove_cluster(&id, entry).await?;
    shared.changed.notify_one();
    Ok(StatusCode::NO_CONTENT)
}

/// Which cluster a node belongs to, and why
#[utoipa::path(
    get, path = "/api/v1/placement", tag = "clusters", params(Node),
    responses((status = 200, body = Placement), (status = 404, body = Problem)),
)]
pub(super) async fn place(
    State(shared): State<Shared>,
    node: Result<Query<Node>, QueryRejection>,
) -> Result<Json<Placement>, Problem> {
    let Query(node) = node?;
    let found = shared.store.clusters().await?;
    let about = About {
        address: node.address.to_canonical(),
        hostname: node.hostname,
        idc: node.idc,
        location: node.location,
    };
    let none = || Problem::not_found("no cluster is for this node, and none is the default");
    let (at, reason) = clusters::places(&found).find(&about).ok_or_else(none)?;
    let cluster = found.get(at).ok_or_else(none)?;
    Ok(Json(Placement {
        cluster: cluster.id.clone(),
        name: cluster.name.clone(),
        reason: reason.to_string(),
    }))
}

fn detail(cluster: &clusters::Cluster) -> String {
    let scope = serde_json::to_string(&cluster.scope).unwrap_or_default();
    format!("default {}, scope {scope}", cluster.is_default)
}
