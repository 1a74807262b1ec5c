//! Users, for administrators.

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::{Extension, Json};
use darter_service::config::Secret;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::problem::{FieldProblem, Problem};
use super::session::NAME_CHARS_MAX;
use super::{Shared, Who};
use crate::auth::{Role, secret};
use crate::store::users;

/// Somebody who may sign in.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// Names them in addresses.
    id: String,
    /// What they sign in with.
    name: String,
    /// What they may do.
    role: Role,
    /// Whether they may not sign in now.
    disabled: bool,
    /// When they were added, in milliseconds since 1970.
    created: i64,
}

impl From<users::User> for User {
    fn from(user: users::User) -> Self {
        Self {
            id: user.id,
            name: user.name,
            role: user.role,
            disabled: user.disabled,
            created: user.created,
        }
    }
}

/// A user to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NewUser {
    /// 1 to 64 letters, digits and `._@-`.
    name: String,
    /// What they may do.
    role: Role,
    /// 15 to 128 characters.
    #[schema(value_type = String, format = Password)]
    password: Secret,
}

/// What a user is to be from now on.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct UserChange {
    /// What they may do.
    role: Role,
    /// Whether they may not sign in. Their sessions end then, and their tokens are good for nothing.
    disabled: bool,
}

/// A password to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPassword {
    /// 15 to 128 characters.
    #[schema(value_type = String, format = Password)]
    password: Secret,
}

/// Whether a text may name a user, a token or a cluster.
pub(super) fn check_name(name: &str) -> Option<FieldProblem> {
    let good = |c: char| c.is_alphanumeric() || "._@-".contains(c);
    if (1..=NAME_CHARS_MAX).contains(&name.chars().count()) && name.chars().all(good) {
        return None;
    }
    Some(FieldProblem {
        field: "name".to_owned(),
        message: format!("write 1 to {NAME_CHARS_MAX} letters, digits and the characters . _ @ -"),
    })
}

/// All users
#[utoipa::path(get, path = "/api/v1/users", tag = "users", responses((status = 200, body = Vec<User>)))]
pub(super) async fn list(State(shared): State<Shared>) -> Result<Json<Vec<User>>, Problem> {
    let users = shared.store.users().await?;
    Ok(Json(users.into_iter().map(User::from).collect()))
}

/// Adds a user
#[utoipa::path(
    post, path = "/api/v1/users", tag = "users", request_body = NewUser,
    responses((status = 201, body = User), (status = 409, body = Problem), (status = 422, body = Problem)),
)]
pub(super) async fn create(
    State(shared): State<Shared>,
    Extension(who): Who,
    asked: Result<Json<NewUser>, JsonRejection>,
) -> Result<(StatusCode, Json<User>), Problem> {
    let Json(asked) = asked?;
    Problem::fields(check_name(&asked.name).into_iter().collect())?;
    let hash = shared.passwords.hash(asked.password).await?;
    let created = shared.now();
    let user = users::User {
        id: secret::id(created)?,
        name: asked.name,
        role: asked.role,
        disabled: false,
        created,
    };
    let entry = shared.entry(
        &who.name,
        "user.create",
        &user.name,
        format!("role {}", user.role),
    )?;
    shared.store.add_user(&user, &hash, entry).await?;
    Ok((StatusCode::CREATED, Json(user.into())))
}

/// Changes what a user may do
#[utoipa::path(
    put, path = "/api/v1/users/{id}", tag = "users", request_body = UserChange, params(("id" = String, Path)),
    responses((status = 200, body = User), (status = 404, body = Problem), (status = 409, body = Problem)),
)]
pub(super) async fn change(
    State(shared): State<Shared>,
    Extension(who): Who,
    Path(id): Path<String>,
    asked: Result<Json<UserChange>, JsonRejection>,
) -> Result<Json<User>, Problem> {
    let Json(asked) = asked?;
    let detail = format!("role {}, disabled {}", asked.role, asked.disabled);
    let entry = shared.entry(
        &who.name,
        "user.change",
        &shared.store.user(&id).await?.name,
        detail,
    )?;
    let changed = shared
        .store
        .change_user(&id, asked.role, asked.disabled, entry)
        .await?;
    Ok(Json(changed.into()))
}

/// Sets a user's password
///
/// All their sessions end.
#[utoipa::path(
    put, path = "/api/v1/users/{id}/password", tag = "users", request_body = NewPassword, params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 422, body = Problem)),
)]
pub(super) async fn change_password(
    State(shared): State<Shared>,
    Extension(who): Who,
    Path(id): Path<String>,
    asked: Result<Json<NewPassword>, JsonRejection>,
) -> Result<StatusCode, Problem> {
    let Json(asked) = asked?;
    let hash = shared.passwords.hash(asked.password).await?;
    let entry = shared.entry(
        &who.name,
        "user.password",
        &shared.store.user(&id).await?.name,
        String::new(),
    )?;
    shared.store.change_password(&id, &hash, entry).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes a user, with their sessions and tokens
#[utoipa::path(
    delete, path = "/api/v1/users/{id}", tag = "users", params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = Problem), (status = 409, body = Problem)),
)]
pub(super) async fn remove(
    State(shared): State<Shared>,
    Extension(who): Who,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let entry = shared.entry(
        &who.name,
        "user.remove",
        &shared.store.user(&id).await?.name,
        String::new(),
    )?;
    shared.store.remove_user(&id, entry).await?;
    Ok(StatusCode::NO_CONTENT)
}
