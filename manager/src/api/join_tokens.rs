//! Tokens with which schedulers and nodes join that show no certificate.

use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use darter_service::config::Period;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::problem::Problem;
use super::users::check_name;
use super::{Shared, Who, end};
use crate::auth::secret;
use crate::store::{StoreError, join_tokens};

/// A token, without its secret.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct JoinToken {
    /// Names it in addresses.
    id: String,
    /// What people call it.
    name: String,
    /// The cluster whose members it makes; null for any, by placement.
    cluster: Option<String>,
    /// When it was made, in milliseconds since 1970.
    created: i64,
    /// When it ends, in milliseconds since 1970; null for never.
    expires: Option<i64>,
}

impl From<join_tokens::JoinToken> for JoinToken {
    fn from(token: join_tokens::JoinToken) -> Self {
        Self {
            id: token.id,
            name: token.name,
            cluster: (!token.cluster.is_empty()).then_some(token.cluster),
            created: token.created,
            expires: (token.expires > 0).then_some(token.expires),
        }
    }
}

/// A token to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NewJoinToken {
    /// What it is for.
    name: String,
    /// The cluster whose members it makes, whatever their address and name; absent for any, by placement.
    cluster: Option<String>,
    /// How long it is good, such as `720h`; absent for as long as it is there.
    #[schema(value_type = Option<String>)]
    lifetime: Option<Period>,
}

/// A token that was made, with its secret, which is shown this once.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MadeJoinToken {
    #[serde(flatten)]
    token: JoinToken,
    /// What goes into the file that `manager.joinTokenFile` of schedulers and nodes names.
    secret: String,
}

/// All join tokens
#[utoipa::path(
    get, path = "/api/v1/join-tokens", tag = "members", responses((status = 200, body = Vec<JoinToken>)),
)]
pub(super) async fn list(State(shared): State<Shared>) -> Result<Json<Vec<JoinToken>>, Problem> {
    let tokens = shared.store.join_tokens().await?;
    Ok(Json(tokens.into_iter().map(JoinToken::from).collect()))
}

/// Makes a join token
///
/// Its secret is in the answer, and nowhere else ever after.
#[utoipa::path(
    post, path = "/api/v1/join-tokens", tag = "members", request_body = NewJoinToken,
    responses(
        (status = 201, body = MadeJoinToken), (status = 409, body = Problem), (status = 422, body = Problem),
    ),
)]
pub(super) async fn create(
    State(shared): State<Shared>,
    Extension(who): Who,
    asked: Result<Json<NewJoinToken>, JsonRejection>,
) -> Result<(StatusCode, Json<MadeJoinToken>), Problem> {
    let Json(asked) = asked?;
    Problem::fields(check_name(&asked.name).into_iter().collect())?;
    let lifetime = asked.lifetime.map(Period::as_duration);
    if lifetime.is_some_and(|lifetime| lifetime < Duration::from_secs(1)) {
        return Err(Problem::field("lifetime", "write a time from 1s on, or nothing"));
    }
    let cluster = asked.cluster.unwrap_or_default();
    if !cluster.is_empty() {
        let absent = |error| match error {
            StoreError::Absent => Problem::field("cluster", "there is no cluster with this id"),
            other => Problem::from(other),
        };
        shared.store.cluster(&cluster).await.map_err(absent)?;
    }
    let minted = shared.mint(secret::JOIN_PREFIX, secret::JOIN)?;
    let token = join_tokens::JoinToken {
        id: minted.id,
        name: asked.name,
        cluster,
        created: minted.created,
        expires: lifetime.map_or(0, |lifetime| end(minted.created, lifetime)),
    };
    let place = match token.cluster.as_str() {
        "" => "any cluster",
        cluster => cluster,
    };
    let entry = shared.entry(
        &who.name,
        "join-token.create",
        &token.name,
        format!("for {place}"),
    )?;
    shared.store.add_join_token(&token, &minted.hash, entry).await?;
    shared.changed.notify_one();
    let made = MadeJoinToken {
        token: token.into(),
        secret: minted.secret.expose().to_owned(),
    };
    Ok((StatusCode::CREATED, Json(made)))
}

/// Removes a join token
///
/// Whoever joined with it loses its stream, and goes on with what it knows.
#[utoipa::path(
    delete, path = "/api/v1/join-tokens/{id}", tag = "members", params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = Problem)),
)]
pub(super) async fn remove(
    State(shared): State<Shared>,
    Extension(who): Who,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let entry = shared.entry(&who.name, "join-token.remove", &id, String::new())?;
    shared.store.remove_join_token(&id, entry).await?;
    shared.changed.notify_one();
    Ok(StatusCode::NO_CONTENT)
}
