//! The node's own credentials for a registry, for callers that bring none: from files, docker's configuration or the
//! kubelet's credential providers.
//!
//! What must hold: nothing is read unless the configuration names the source *and* says that callers share it; one
//! program runs at a time for a registry, for a bounded time, with a bounded answer; what comes out of it is kept in
//! memory alone, and no text of an error holds a part of it.

mod config;
mod docker;
mod helper;
mod kubelet;
#[cfg(test)]
mod tests;
mod users;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use darter_service::secret_file;
use darter_types::RegistryName;
use http::HeaderValue;
use thiserror::Error;
use tokio::sync::Mutex;
use tokio::time::Instant;

pub use config::{CredentialsConfig, Share};
pub use users::LocalUser;

/// How long files, and helpers that do not say, are believed before they are read again.
const KEPT_TIME: Duration = Duration::from_secs(60);
/// How long a source is left alone that gave nothing.
const FAILED_TIME: Duration = Duration::from_secs(10);
/// Repositories of which credentials are kept, where each has its own.
const KEPT_MAX: usize = 256;

/// What a registry is shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Login {
    /// User and password, for the registry or for its token realm.
    Basic(HeaderValue),
    /// A token of the registry itself.
    Token(HeaderValue),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(<redacted>)")
    }
}

impl Login {
    fn basic(user: &str, password: &str) -> Result<Self, LoginError> {
        if user.contains(':') {
            return Err(LoginError::Answer("the user's name has a colon in it".to_owned()));
        }
        header(&format!(
            "Basic {}",
            STANDARD.encode(format!("{user}:{password}"))
        ))
        .map(Self::Basic)
    }

    /// What it was made of.
    fn plain(&self) -> Result<DockerLogin, LoginError> {
        let unreadable = || LoginError::Answer("they are not text".to_owned());
        let (Self::Basic(value) | Self::Token(value)) = self;
        let text = value.to_str().map_err(|_| unreadable())?;
        if let Some(token) = text.strip_prefix("Bearer ") {
            return Ok(DockerLogin::Token(token.to_owned()));
        }
        let pair = text
            .strip_prefix("Basic ")
            .and_then(|pair| STANDARD.decode(pair).ok());
        let pair = pair.and_then(|pair| String::from_utf8(pair).ok());
        let (user, password) = pair
            .as_deref()
            .and_then(|pair| pair.split_once(':'))
            .ok_or_else(unreadable)?;
        Ok(DockerLogin::Basic(user.to_owned(), password.to_owned()))
    }

    fn token(token: &str) -> Result<Self, LoginError> {
        header(&format!("Bearer {token}")).map(Self::Token)
    }
}

fn header(text: &str) -> Result<HeaderValue, LoginError> {
    let wrong = |_| LoginError::Answer("it cannot be sent in a header".to_owned());
    let mut value = HeaderValue::try_from(text).map_err(wrong)?;
    value.set_sensitive(true);
    Ok(value)
}

/// What Docker's configuration has for a registry, for a client of another kind.
#[derive(Clone, PartialEq, Eq)]
pub enum DockerLogin {
    /// User and password.
    Basic(String, String),
    /// A token of the registry itself.
    Token(String),
}

impl fmt::Debug for DockerLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DockerLogin(<redacted>)")
    }
}

/// Looks a registry up in a configuration file of Docker, and asks the program that it names. None where it has nothing for
/// this registry.
///
/// # Errors
/// Why the file or the program gives nothing; no part of a credential is ever in it.
pub async fn docker_login(path: &Path, registry: &RegistryName) -> Result<Option<DockerLogin>, String> {
    match docker::ask(path, registry).await {
        Ok(given) => given.login.plain().map(Some).map_err(|error| error.to_string()),
        Err(LoginError::Absent(_)) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// Why there are no credentials. No part of one is ever in it.
#[derive(Debug, Error)]
pub(crate) enum LoginError {
    /// A file with a secret cannot be used.
    #[error(transparent)]
    File(#[from] secret_file::SecretFileError),
    /// A file does not hold what it should.
    #[error("{path}: {reason}")]
    Form { path: String, reason: String },
    /// A program could not be run, failed, took too long or said too much.
    #[error("{program}: {reason}")]
    Program { program: String, reason: String },
    /// What was given cannot be used.
    #[error("the credentials cannot be used: {0}")]
    Answer(String),
    /// There are none for this registry.
    #[error("there are none for this registry in {0}")]
    Absent(String),
}

/// Credentials and how far they reach.
#[derive(Clone, Debug)]
struct Given {
    login: Login,
    /// How long they may be kept.
    life: Duration,
    /// Whether they are for one repository alone.
    narrow: bool,
}

/// What is known of one registry.
#[derive(Debug, Default)]
struct State {
    /// By repository; under `None` what holds for all.
    kept: BTreeMap<Option<String>, (Login, Instant)>,
    failed_until: Option<Instant>,
    /// When credentials that still counted as good were looked up anew because a registry refused them.
    renewed: Option<Instant>,
}

/// The node's credentials for one registry.
#[derive(Debug)]
pub(crate) struct Logins {
    config: CredentialsConfig,
    registry: RegistryName,
    /// Held while a source is asked: one asks for all who wait.
    state: Mutex<State>,
}

impl Logins {
    pub(crate) fn new(config: CredentialsConfig, registry: RegistryName) -> Self {
        Self {
            config,
            registry,
            state: Mutex::default(),
        }
    }

    /// The credentials for a repository, other than `refused`, which the registry did not take. Logs why there are none.
    /// Safe to drop: a program that runs is ended.
    pub(crate) async fn get(&self, repository: &str, refused: Option<&Login>) -> Option<Login> {
        let now = Instant::now();
        let mut state = self.state.lock().await;
        match state.fresh(repository, now) {
            Some(login) if Some(&login) != refused => return Some(login),
            Some(_) if !state.may_renew(now) => return None,
            _ => {}
        }
        if state.failed_until.is_some_and(|until| now < until) {
            return None;
        }
        match self.ask(repository).await {
            Ok(given) => {
                state.keep(repository, &given, Instant::now());
                if Some(&given.login) == refused {
                    tracing::warn!(registry = %self.registry, "the registry refuses this node's credentials");
                    return None;
                }
                Some(given.login)
            }
            Err(problem) => {
                state.failed_until = Some(Instant::now() + FAILED_TIME);
                tracing::warn!(registry = %self.registry, %problem, "this node has no credentials for the registry");
                None
            }
        }
    }

    /// Looks everything up anew from now on: the registry did not take what was kept.
    pub(crate) async fn forget(&self) {
        let mut state = self.state.lock().await;
        if state.may_renew(Instant::now()) {
            state.kept.clear();
        }
    }

    async fn ask(&self, repository: &str) -> Result<Given, LoginError> {
        let config = &self.config;
        if let Some(path) = &config.docker_config {
            return docker::ask(path, &self.registry).await;
        }
        if let (Some(path), Some(dir)) = (&config.kubelet_config, &config.kubelet_bin_dir) {
            return kubelet::ask(path, dir, &self.registry, repository).await;
        }
        match (&config.username_file, &config.password_file) {
            (Some(user), Some(password)) => Ok(Given {
                login: Login::basic(&text(user)?, &text(password)?)?,
                life: KEPT_TIME,
                narrow: false,
            }),
            _ => Err(LoginError::Absent("the configuration".to_owned())),
        }
    }
}

impl State {
    /// Whether what is kept may be looked up anew: a registry that refuses all that it is shown, as for a repository that
    /// this node may not read, must not make us run a program for each request.
    fn may_renew(&mut self, now: Instant) -> bool {
        let may = self.renewed.is_none_or(|when| now >= when + FAILED_TIME);
        if may {
            self.renewed = Some(now);
        }
        may
    }

    fn fresh(&self, repository: &str, now: Instant) -> Option<Login> {
        [Some(repository.to_owned()), None]
            .iter()
            .filter_map(|key| self.kept.get(key))
            .find(|(_, until)| now < *until)
            .map(|(login, _)| login.clone())
    }

    fn keep(&mut self, repository: &str, given: &Given, now: Instant) {
        if self.kept.len() >= KEPT_MAX {
            self.kept.retain(|_, (_, until)| now < *until);
        }
        if self.kept.len() >= KEPT_MAX {
            self.kept.pop_last();
        }
        let key = given.narrow.then(|| repository.to_owned());
        self.failed_until = None;
        self.kept.insert(key, (given.login.clone(), now + given.life));
    }
}

/// The text of a file with a secret, without the line end that editors add.
fn text(path: &Path) -> Result<String, LoginError> {
    let form = |reason: &str| LoginError::Form {
        path: path.display().to_string(),
        reason: reason.to_owned(),
    };
    let bytes = secret_file::read(path)?;
    let text = String::from_utf8(bytes).map_err(|_| form("it is not text"))?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() {
        return Err(form("it is empty"));
    }
    Ok(text.to_owned())
}
