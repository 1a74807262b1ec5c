//! Signing in and out.

use std::sync::{MutexGuard, PoisonError};

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use darter_service::config::Secret;
use http::header::{CACHE_CONTROL, SET_COOKIE};
use http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::problem::Problem;
use super::{Shared, Who, caller};
use crate::auth::password::PasswordError;
use crate::auth::throttle::{Throttle, TooMany};
use crate::auth::{Role, Via, secret};
use crate::store::StoreError;

/// Longest name of a user, in characters.
pub(super) const NAME_CHARS_MAX: usize = 64;
/// Whom the audit names for a name that no user has.
const UNKNOWN: &str = "(unknown)";

/// A name and its password.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    /// The user's name.
    name: String,
    /// Their password.
    #[schema(value_type = String, format = Password)]
    password: Secret,
}

/// Who is signed in.
#[derive(Debug, Serialize, ToSchema)]
pub struct Me {
    /// The user's name.
    name: String,
    /// What they may do: with a token, what that may do.
    role: Role,
    /// Whether a token showed who they are.
    token: bool,
}

/// A change of one's own password.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OwnPassword {
    /// The one that is good now.
    #[schema(value_type = String, format = Password)]
    current: Secret,
    /// The one that is to be, of 15 to 128 characters.
    #[schema(value_type = String, format = Password)]
    password: Secret,
}

/// Signs in
///
/// The answer sets a cookie that is good for `signIn.sessionLifetime`. Ten failures a minute are answered, then none.
#[utoipa::path(
    post, path = "/api/v1/session", tag = "session", request_body = SignIn,
    responses((status = 200, body = Me), (status = 401, body = Problem), (status = 429, body = Problem)),
)]
pub(super) async fn sign_in(
    State(shared): State<Shared>,
    Extension(from): Extension<caller::From>,
    asked: Result<Json<SignIn>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(asked) = asked?;
    if asked.name.is_empty() || asked.name.chars().count() > NAME_CHARS_MAX {
        return Err(Problem::field("name", "write a user's name"));
    }
    let found = match shared.store.user_by_name(&asked.name).await {
        Ok(found) => Some(found),
        Err(StoreError::Absent) => None,
        Err(other) => return Err(other.into()),
    };
    // Somebody may have typed the password here: only names of users are written down.
    let known = found.as_ref().map_or(UNKNOWN, |(user, _)| &user.name).to_owned();
    let tried = shared.may_try(from, &asked.name, &known).await;
    tried.inspect_err(|problem| shared.metrics.signed_in(problem.status))?;
    let hash = found.as_ref().map(|(_, hash)| hash.clone());
    let right = shared.passwords.is(asked.password, hash).await?;
    let user = found.map(|(user, _)| user).filter(|user| right && !user.disabled);
    let Some(user) = user else {
        shared.metrics.signed_in(StatusCode::UNAUTHORIZED);
        let entry = shared.entry(&known, "session.refuse", &from.to_string(), String::new())?;
        shared.store.add_entry(&entry).await?;
        return Err(Problem::unauthorized(
            "there is no user with this name and password",
        ));
    };
    shared.was_right(from, &asked.name);
    let session = secret::mint()?;
    let hash = shared.key.hash(caller::SESSION, session.expose());
    let hash = hash.ok_or_else(|| Problem::from(PasswordError::Hash))?;
    let (now, lifetime) = (shared.now(), shared.session_lifetime.as_duration());
    let expires = now.saturating_add(i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX));
    let entry = shared.entry(&user.name, "session.begin", &from.to_string(), String::new())?;
    shared
        .store
        .add_session(&hash, &user.id, now..expires, entry)
        .await?;
    shared.metrics.signed_in(StatusCode::OK);
    let me = Me {
        name: user.name,
        role: user.role,
        token: false,
    };
    with_cookie(
        &shared,
        session.expose(),
        lifetime.as_secs(),
        Json(me).into_response(),
    )
}

/// Signs out
#[utoipa::path(delete, path = "/api/v1/session", tag = "session", responses((status = 204)))]
pub(super) async fn sign_out(State(shared): State<Shared>, Extension(who): Who) -> Result<Response, Problem> {
    if let Via::Session(hash) = &who.via {
        shared.store.remove_session(hash).await?;
    }
    with_cookie(&shared, "", 0, StatusCode::NO_CONTENT.into_response())
}

/// Who is signed in
#[utoipa::path(get, path = "/api/v1/session", tag = "session", responses((status = 200, body = Me)))]
pub(super) async fn who_am_i(Extension(who): Who) -> Json<Me> {
    Json(Me {
        token: who.via == Via::Token,
        name: who.name,
        role: who.role,
    })
}

/// Changes one's own password
///
/// All sessions of this user end, this one included.
#[utoipa::path(
    put, path = "/api/v1/session/password", tag = "session", request_body = OwnPassword,
    responses((status = 204), (status = 422, body = Problem)),
)]
pub(super) async fn change_own_password(
    State(shared): State<Shared>,
    Extension(who): Who,
    Extension(from): Extension<caller::From>,
    asked: Result<Json<OwnPassword>, JsonRejection>,
) -> Result<StatusCode, Problem> {
    let Json(asked) = asked?;
    let (_, hash) = shared.store.user_by_name(&who.name).await?;
    // Who has found an open browser may not guess here either.
    shared.may_try(from, &who.name, &who.name).await?;
    if !shared.passwords.is(asked.current, Some(hash)).await? {
        return Err(Problem::field("current", "this is not the password"));
    }
    shared.was_right(from, &who.name);
    let hash = shared.passwords.hash(asked.password).await?;
    let entry = shared.entry(&who.name, "user.password", &who.name, String::new())?;
    shared.store.change_password(&who.id, &hash, entry).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl Shared {
    /// Lets somebody try a password for the account `name`, and counts it as wrong until [`Shared::was_right`]. The first that is
    /// refused in a row is written down, as `known`.
    async fn may_try(&self, from: caller::From, name: &str, known: &str) -> Result<(), Problem> {
        let begun = self.throttle().begin(from.0, name, Instant::now());
        let Err(TooMany { wait, is_first }) = begun else {
            return Ok(());
        };
        if is_first {
            let entry = self.entry(known, "session.throttle", &from.to_string(), String::new())?;
            self.store.add_entry(&entry).await?;
        }
        let text = "too many tries with a wrong password: wait, then try again";
        Err(Problem::later(
            StatusCode::TOO_MANY_REQUESTS,
            text,
            wait.as_secs() + 1,
        ))
    }

    fn was_right(&self, from: caller::From, name: &str) {
        self.throttle().succeeded(from.0, name);
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn with_cookie(
    shared: &Shared,
    value: &str,
    seconds: u64,
    mut response: Response,
) -> Result<Response, Problem> {
    let secure = if shared.secure { "; Secure" } else { "" };
    let name = caller::cookie_name(shared.secure);
    let text = format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    let mut cookie = HeaderValue::from_str(&text)
        .map_err(|_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the cookie cannot be written"))?;
    cookie.set_sensitive(true);
    response.headers_mut().insert(SET_COOKIE, cookie);
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
