//! What people and programs ask for, under `/api/v1`: JSON over HTTP, described at `/api/v1/openapi.json`.
//!
//! What must hold: a route is added with its [`Policy`] or not at all ([`Routes::add`] is the only way), the description is made
//! of the handlers themselves, and an error says what was wrong and what to do ([`problem`]).

pub mod audit;
pub mod caller;
pub mod clusters;
pub mod configuration;
pub mod join_tokens;
pub mod members;
pub mod problem;
pub mod session;
pub mod tokens;
pub mod users;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use axum::{Json, Router, middleware};
use darter_service::config::{Period, Secret};
use ipnet::IpNet;
use tokio::sync::Notify;
use utoipa::OpenApi as _;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{OpenApi, Response};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};
use utoipa_axum::routes;

use crate::auth::password::{PasswordError, Passwords};
use crate::auth::secret::{self, Key};
use crate::auth::throttle::Throttle;
use crate::auth::{Policy, Principal, Role};
use crate::console;
use crate::metrics::Metrics;
use crate::store::audit::Entry;
use crate::store::{Millis, Store};
use problem::Problem;

/// Longest body of a request, in bytes.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// Reads the wall clock, in milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> Millis + Send + Sync>;

/// What handlers work with. Cheap to clone.
#[derive(Clone)]
pub struct Shared(Arc<Parts>);

/// What [`Shared`] is made of.
#[expect(
    missing_debug_implementations,
    reason = "a clock has nothing to show, and the rest is secret"
)]
#[expect(missing_docs, reason = "each field is what its type says")]
pub struct Parts {
    pub store: Store,
    pub key: Key,
    pub passwords: Passwords,
    pub metrics: Metrics,
    pub clock: Clock,
    /// Whether browsers come by https alone.
    pub secure: bool,
    pub trusted_proxies: Vec<IpNet>,
    pub session_lifetime: Period,
    pub token_lifetime_max: Period,
    pub throttle: Mutex<Throttle>,
    /// How long an instance may be silent and still count, in milliseconds.
    pub silence_max: Millis,
    /// Wakes whoever tells instances what changed.
    pub changed: Arc<Notify>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl std::ops::Deref for Shared {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Shared {
    /// Puts it together.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// The time.
    pub fn now(&self) -> Millis {
        (self.clock)()
    }

    /// A new token, made now, whose secret begins with `prefix`; `purpose` is that of its hash.
    fn mint(&self, prefix: &str, purpose: &str) -> Result<Minted, Problem> {
        let secret = Secret::new(format!("{prefix}{}", secret::mint()?.expose()));
        let hash = self.key.hash(purpose, secret.expose());
        let created = self.now();
        Ok(Minted {
            id: secret::id(created)?,
            hash: hash.ok_or_else(|| Problem::from(PasswordError::Hash))?,
            secret,
            created,
        })
    }

    /// A line of the audit: `who` did `action` to `object`.
    fn entry(&self, who: &str, action: &str, object: &str, detail: String) -> Result<Entry, Problem> {
        let at = self.now();
        Ok(Entry {
            id: secret::id(at)?,
            at,
            actor: who.to_owned(),
            action: action.to_owned(),
            object: object.to_owned(),
            detail,
        })
    }
}

/// What is made for a new token.
struct Minted {
    id: String,
    secret: Secret,
    hash: String,
    created: Millis,
}

/// When something ends that was made at `created`.
fn end(created: Millis, lifetime: Duration) -> Millis {
    created.saturating_add(i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX))
}

#[derive(utoipa::OpenApi)]
#[openapi(info(
    title = "Darter manager",
    description = "Clusters of Darter: who is in them, what they are told, and who may change it.",
    license(name = "Apache-2.0"),
))]
struct Document;

/// Routes, each with who may use it.
struct Routes {
    router: OpenApiRouter<Shared>,
    shared: Shared,
}

impl Routes {
    fn add(mut self, policy: Policy, routes: UtoipaMethodRouter<Shared>) -> Self {
        let (schemas, mut paths, handlers) = routes;
        for item in paths.paths.values_mut() {
            let all = [
                &mut item.get,
                &mut item.put,
                &mut item.post,
                &mut item.delete,
                &mut item.patch,
            ];
            all.into_iter()
                .flatten()
                .for_each(|operation| describe(policy, operation));
        }
        let guard = middleware::from_fn_with_state((self.shared.clone(), policy), caller::guard);
        self.router = self.router.routes((schemas, paths, handlers.layer(guard)));
        self
    }
}

/// Says in the description who may, and what others are answered.
fn describe(policy: Policy, operation: &mut Operation) {
    let needs = match policy {
        Policy::Open => return,
        Policy::AtLeast(role) => format!("Needs the role {role}."),
        Policy::Session => "Needs a browser's session: a token is not enough.".to_owned(),
    };
    let said = operation.description.take().unwrap_or_default();
    operation.description = Some(format!("{said}\n\n{needs}").trim().to_owned());
    let none: [&str; 0] = [];
    let mut ways = vec![SecurityRequirement::new("session", none)];
    if policy != Policy::Session {
        ways.push(SecurityRequirement::new("token", none));
    }
    operation.security = Some(ways);
    let responses = &mut operation.responses.responses;
    for (status, what) in [("401", "Nobody is signed in."), ("403", "They may not.")] {
        responses.insert(status.to_owned(), Response::new(what).into());
    }
}

fn routes(shared: Shared) -> Routes {
    let document = Document::openapi();
    let (viewer, operator, admin) = (
        Policy::AtLeast(Role::Viewer),
        Policy::AtLeast(Role::Operator),
        Policy::AtLeast(Role::Admin),
    );
    Routes {
        router: OpenApiRouter::with_openapi(document),
        shared,
    }
    .add(Policy::Open, routes!(session::sign_in))
    .add(Policy::Session, routes!(session::sign_out))
    .add(viewer, routes!(session::who_am_i))
    .add(Policy::Session, routes!(session::change_own_password))
    .add(admin, routes!(users::list))
    .add(admin, routes!(users::create))
    .add(admin, routes!(users::change))
    .add(admin, routes!(users::remove))
    .add(admin, routes!(users::change_password))
    .add(viewer, routes!(tokens::list))
    .add(Policy::Session, routes!(tokens::create))
    .add(viewer, routes!(tokens::remove))
    .add(viewer, routes!(clusters::list))
    .add(viewer, routes!(clusters::get))
    .add(operator, routes!(clusters::create))
    .add(operator, routes!(clusters::change))
    .add(operator, routes!(clusters::remove))
    .add(viewer, routes!(clusters::place))
    .add(viewer, routes!(members::list))
    .add(operator, routes!(join_tokens::list))
    .add(operator, routes!(join_tokens::create))
    .add(operator, routes!(join_tokens::remove))
    .add(viewer, routes!(configuration::get))
    .add(operator, routes!(configuration::change))
    .add(viewer, routes!(configuration::history))
    .add(viewer, routes!(configuration::diff))
    .add(operator, routes!(configuration::roll_back))
    .add(admin, routes!(audit::list))
}

fn finish(routes: Routes) -> (Router<Shared>, OpenApi) {
    let (router, mut document) = routes.router.split_for_parts();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(
        "session",
        SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new(caller::COOKIE))),
    );
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    components.add_security_scheme("token", SecurityScheme::Http(bearer));
    (router, document)
}

/// Everything under `/api/v1`, and the console, whose pages use it as any program does.
pub fn router(shared: Shared) -> Router {
    let (router, document) = finish(routes(shared.clone()));
    let served = Json(document);
    router
        .route("/api/v1/openapi.json", get(move || async move { served.clone() }))
        .merge(console::router())
        .fallback(async || Problem::not_found("there is no such page"))
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(shared)
}

/// Somebody who may, as their policy has found.
type Who = axum::Extension<Principal>;
