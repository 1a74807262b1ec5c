//! Puts the role together: store, secrets, the first administrator, the web port.

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::response::IntoResponse as _;
use darter_service::config::{Problems, Secret, Validate as _};
use darter_service::http_server::{HttpServer, Limits, Plain};
use darter_service::net::{Listener, Network, OpenError, PeerAddr, open};
use darter_service::supervise::{Supervisor, Tasks};
use darter_service::tls::TlsError;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::api::problem::Problem;
use crate::api::{self, Clock, Parts, Shared};
use crate::auth::Role;
use crate::auth::password::{PasswordError, Passwords};
use crate::auth::secret::{self, Key, NoRandomness};
use crate::auth::throttle::Throttle;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::roles::{self, Roles, RolesError};
use crate::store::audit::{ENTRIES_MAX, Entry};
use crate::store::clusters::Cluster;
use crate::store::users::User;
use crate::store::{Place, Store, StoreError};

/// How long connections may take to end at a stop.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(5);
/// How long one request may take in all, its body included.
const REQUEST_MAX: Duration = Duration::from_secs(30);
/// How often old lines of the audit go.
const TRIM_INTERVAL: Duration = Duration::from_secs(3600);
/// What nobody else may do with the database's file.
const OTHERS: u32 = 0o077;
/// Who did what the manager does by itself.
const MYSELF: &str = "darter";

/// Why the manager did not start or went on.
#[derive(Debug, Error)]
pub enum AppError {
    /// The configuration cannot be used.
    #[error("configuration: {0}")]
    Problems(String),
    /// The port could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The database's file cannot be made or opened.
    #[error("cannot open the database {file}")]
    File {
        /// Which.
        file: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others can read the file.
    #[error("others can read the database {0}, in which secrets are: run chmod 600 on it")]
    Exposed(String),
    /// The section `roles.tls` cannot be used. No port is open then.
    #[error("roles.tls")]
    Tls(#[from] TlsError),
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The first administrator cannot be made.
    #[error("the first administrator cannot be made")]
    Password(#[from] PasswordError),
    /// No secret can be made.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
}

impl From<RolesError> for AppError {
    fn from(error: RolesError) -> Self {
        match error {
            RolesError::Open(error) => Self::Open(error),
            RolesError::Store(error) => Self::Store(error),
        }
    }
}

/// A manager whose ports are open and which serves nobody yet.
#[derive(Debug)]
pub struct App {
    listener: Box<dyn Listener>,
    address: String,
    roles: Roles,
    shared: Shared,
    connections_max: usize,
    tasks: Tasks,
    /// The password of the administrator that was made, at the first start of all.
    pub first_password: Option<Secret>,
}

impl App {
    /// Opens the store and the port.
    ///
    /// # Errors
    /// One of them cannot be opened, or the configuration cannot be used.
    pub async fn bind(
        config: &Config,
        network: &dyn Network,
        registry: &mut Registry,
        clock: Clock,
        tasks: Tasks,
    ) -> Result<Self, AppError> {
        let mut problems = Problems::new();
        config.validate(&mut problems);
        if !problems.is_empty() {
            let lines = problems
                .found()
                .iter()
                .map(|(key, what)| format!("{key}: {what}"));
            return Err(AppError::Problems(lines.collect::<Vec<_>>().join("; ")));
        }
        // Before a port is open: there is no way from files that cannot be used to a plain connection.
        let identity = roles::identity(&config.roles, registry)?;
        let place = config.database.place();
        make_file(&place)?;
        let store = Store::open(&place).await?;
        let key = Key::new(store.secret("key", &secret::mint()?).await?);
        let shared = Shared::new(Parts {
            store,
            key,
            passwords: Passwords::new(tasks.clone()),
            metrics: Metrics::register(registry),
            clock,
            secure: config.web.is_secure(),
            trusted_proxies: config.web.trusted_proxies.clone(),
            session_lifetime: config.sign_in.session_lifetime,
            token_lifetime_max: config.sign_in.token_lifetime_max,
            throttle: Mutex::new(Throttle::default()),
            silence_max: config.roles.silence_ms(),
            changed: Arc::default(),
        });
        let (listener, address) = open(network, &config.web.listen, "the web").await?;
        let roles = Roles::bind(&config.roles, network, &shared, identity).await?;
        // Last: a password that was made is to be told, which a start that fails does not.
        let first_password = begin(&shared).await?;
        Ok(Self {
            listener,
            address,
            roles,
            shared,
            connections_max: config.web.connections_max,
            tasks,
            first_password,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where schedulers and nodes join.
    pub fn roles_address(&self) -> &str {
        &self.roles.address
    }

    /// What it keeps: to be closed when its components have ended.
    pub fn store(&self) -> Store {
        self.shared.store.clone()
    }

    /// Adds its components to a supervisor that stops with `stop`.
    pub fn add_to(self, supervisor: &mut Supervisor, stop: &CancellationToken) {
        self.roles.add_to(supervisor, stop);
        let router = api::router(self.shared.clone());
        let server = HttpServer {
            name: "web",
            limits: Limits {
                connections_max: self.connections_max,
                ..Limits::default()
            },
            tasks: self.tasks,
            wrap: Plain,
            cuts: self.shared.metrics.cuts(),
        };
        let (listener, until) = (self.listener, stop.clone());
        supervisor.add("web", async move {
            let handler = move |request: Request<Incoming>, peer: PeerAddr| {
                let router = router.clone();
                async move { answer(router, request, peer).await }
            };
            server.serve(listener, handler, until).await;
            Ok(())
        });
        let (store, until) = (self.shared.store.clone(), stop.clone());
        supervisor.add("audit", async move {
            loop {
                tokio::select! {
                    () = until.cancelled() => return Ok(()),
                    () = tokio::time::sleep(TRIM_INTERVAL) => {}
                }
                if let Err(error) = store.trim_entries(ENTRIES_MAX).await {
                    tracing::warn!(%error, "old lines of the audit stay");
                }
            }
        });
    }
}

async fn answer(router: axum::Router, request: Request<Incoming>, peer: PeerAddr) -> Response<Body> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(peer);
    let answered = tokio::time::timeout(REQUEST_MAX, router.oneshot(request)).await;
    let mut response = match answered {
        Ok(Ok(response)) => response,
        Err(_) => Problem::new(StatusCode::REQUEST_TIMEOUT, "the request took too long").into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        (
            "content-security-policy",
            "default-src 'none'; frame-ancestors 'none'",
        ),
    ] {
        headers
            .entry(name)
            .or_insert(http::HeaderValue::from_static(value));
    }
    response
}

/// Makes the database's folder and file, for this user alone: what makes sessions and tokens of hashes is in it.
fn make_file(place: &Place) -> Result<(), AppError> {
    let Place::Sqlite(file) = place else {
        return Ok(());
    };
    let failed = |source| AppError::File {
        file: file.display().to_string(),
        source,
    };
    if let Some(folder) = file.parent() {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(folder).map_err(failed)?;
    }
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let opened = options.open(file).map_err(failed)?;
    let mode = opened.metadata().map_err(failed)?.permissions().mode() & 0o7777;
    match mode & OTHERS {
        0 => Ok(()),
        _ => Err(AppError::Exposed(file.display().to_string())),
    }
}

/// What a new installation has: an administrator and a cluster for all. Of several managers that start at once one makes it.
async fn begin(shared: &Shared) -> Result<Option<Secret>, AppError> {
    let now = shared.now();
    let entry = |action: &str, object: &str| -> Result<Entry, NoRandomness> {
        Ok(Entry {
            id: secret::id(now)?,
            at: now,
            actor: MYSELF.to_owned(),
            action: action.to_owned(),
            object: object.to_owned(),
            detail: String::new(),
        })
    };
    if shared.store.clusters().await?.is_empty() {
        let cluster = Cluster {
            id: secret::id(now)?,
            name: "default".to_owned(),
            description: "For nodes that no other cluster is for".to_owned(),
            is_default: true,
            scope: Default::default(),
            created: now,
        };
        match shared
            .store
            .add_cluster(&cluster, entry("cluster.create", "default")?)
            .await
        {
            Ok(()) | Err(StoreError::Exists) => {}
            Err(other) => return Err(other.into()),
        }
    }
    if !shared.store.users().await?.is_empty() {
        return Ok(None);
    }
    let password = secret::mint()?;
    let user = User {
        id: secret::id(now)?,
        name: "admin".to_owned(),
        role: Role::Admin,
        disabled: false,
        created: now,
    };
    let hash = shared.passwords.hash(password.clone()).await?;
    match shared
        .store
        .add_user(&user, &hash, entry("user.create", "admin")?)
        .await
    {
        Ok(()) => Ok(Some(password)),
        Err(StoreError::Exists) => Ok(None),
        Err(other) => Err(other.into()),
    }
}
