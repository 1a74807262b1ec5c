//! One's own tokens, for programs.

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
use super::{Shared, Who, caller, end};
use crate::auth::{Role, secret};
use crate::store::tokens;

/// A token, without its secret.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    /// Names it in addresses.
    id: String,
    /// What its user calls it.
    name: String,
    /// What it may do.
    role: Role,
    /// When it was made, in milliseconds since 1970.
    created: i64,
    /// When it ends, in milliseconds since 1970.
    expires: i64,
}

impl From<tokens::Token> for Token {
    fn from(token: tokens::Token) -> Self {
        Self {
            id: token.id,
            name: token.name,
            role: token.role,
            created: token.created,
            expires: token.expires,
        }
    }
}

/// A token to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NewToken {
    /// What it is for.
    name: String,
    /// What it may do; no more than its user.
    role: Role,
    /// How long it is good, such as `720h`.
    #[schema(value_type = String)]
    lifetime: Period,
}

/// A token that was made, with its secret, which is shown this once.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MadeToken {
    #[serde(flatten)]
    token: Token,
    /// Send it as `Authorization: Bearer …`.
    secret: String,
}

/// One's own tokens
#[utoipa::path(get, path = "/api/v1/tokens", tag = "tokens", responses((status = 200, body = Vec<Token>)))]
pub(super) async fn list(
    State(shared): State<Shared>,
    Extension(who): Who,
) -> Result<Json<Vec<Token>>, Problem> {
    let tokens = shared.store.tokens_of(&who.id).await?;
    Ok(Json(tokens.into_iter().map(Token::from).collect()))
}

/// Makes a token
///
/// Its secret is in the answer, and nowhere else ever after.
#[utoipa::path(
    post, path = "/api/v1/tokens", tag = "tokens", request_body = NewToken,
    responses((status = 201, body = MadeToken), (status = 409, body = Problem), (status = 422, body = Problem)),
)]
pub(super) async fn create(
    State(shared): State<Shared>,
    Extension(who): Who,
    asked: Result<Json<NewToken>, JsonRejection>,
) -> Result<(StatusCode, Json<MadeToken>), Problem> {
    let Json(asked) = asked?;
    Problem::fields(check_name(&asked.name).into_iter().collect())?;
    if asked.role > who.role {
        return Err(Problem::field(
            "role",
            format!("a token may do no more than its user, who is {}", who.role),
        ));
    }
    let lifetime = asked.lifetime.as_duration();
    if lifetime < Duration::from_secs(1) || lifetime > shared.token_lifetime_max.as_duration() {
        let most = shared.token_lifetime_max;
        return Err(Problem::field(
            "lifetime",
            format!("write a time from 1s to {most}"),
        ));
    }
    let minted = shared.mint(secret::TOKEN_PREFIX, caller::TOKEN)?;
    let token = tokens::Token {
        id: minted.id,
        user: who.id,
        name: asked.name,
        role: asked.role,
        created: minted.created,
        expires: end(minted.created, lifetime),
    };
    let detail = format!("role {}, good for {}", token.role, asked.lifetime);
    let entry = shared.entry(&who.name, "token.create", &token.name, detail)?;
    shared.store.add_token(&token, &minted.hash, entry).await?;
    let made = MadeToken {
        token: token.into(),
        secret: minted.secret.expose().to_owned(),
    };
    Ok((StatusCode::CREATED, Json(made)))
}

/// Removes one of one's own tokens
#[utoipa::path(
    delete, path = "/api/v1/tokens/{id}", tag = "tokens", params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = Problem)),
)]
pub(super) async fn remove(
    State(shared): State<Shared>,
    Extension(who): Who,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let entry = shared.entry(&who.name, "token.remove", &id, String::new())?;
    shared.store.remove_token(&who.id, &id, entry).await?;
    Ok(StatusCode::NO_CONTENT)
}
