//! Who may read what: challenges, the token endpoint's grants, credentials, revocation.
//!
//! A token names the repositories that it was issued for *and* its user; the user's right is asked anew
//! at each request, so that a revocation works at once. Nothing here is a secret worth keeping.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::time::Instant;

use super::Repository;
use crate::content::mix;

/// What a repository asks of its readers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    #[default]
    Anonymous,
    /// A token from the realm. With `public`, the realm gives it to anybody.
    Bearer {
        /// Whether an anonymous token opens it.
        public: bool,
    },
    /// User name and password of an allowed user.
    Basic,
}

/// What a known user hears who is not allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Denial {
    /// 403 `DENIED`.
    #[default]
    Forbidden,
    /// 404 `NAME_UNKNOWN`, as registries do that hide what exists.
    NotFound,
}

/// A token that the realm issued, or that a test registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What goes behind `Bearer`.
    pub value: String,
    /// `None` for an anonymous one.
    pub user: Option<String>,
    /// The repositories that it opens for pulls.
    pub repositories: BTreeSet<String>,
    /// The repositories that it opens for pushes.
    pub pushes: BTreeSet<String>,
    /// It is worth nothing from then on.
    pub expires: Instant,
}

/// Users, tokens and the realm of one origin.
#[derive(Debug)]
pub(super) struct AccessBook {
    pub(super) users: BTreeMap<String, String>,
    pub(super) tokens: BTreeMap<String, Token>,
    pub(super) token_life: Duration,
    pub(super) realm: Option<String>,
    pub(super) denial: Denial,
    pub(super) ping: Access,
    issued: u64,
}

impl Default for AccessBook {
    fn default() -> Self {
        Self {
            users: BTreeMap::new(),
            tokens: BTreeMap::new(),
            token_life: Duration::from_secs(300),
            realm: None,
            denial: Denial::default(),
            ping: Access::Anonymous,
            issued: 0,
        }
    }
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// 401 with this `WWW-Authenticate`.
    Challenge(String),
    Denied(Denial),
}

/// Who asks for what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker<'a> {
    pub(super) authorization: Option<&'a str>,
    /// `scheme://authority` as the client named this origin.
    pub(super) base: &'a str,
    pub(super) name: Option<&'a str>,
    /// Whether something is to be changed.
    pub(super) writes: bool,
}

impl AccessBook {
    /// Whether the repository may be read. `None` stands for the ping.
    pub(super) fn check(&self, asker: &Asker<'_>, repository: Option<&Repository>) -> Result<(), Refusal> {
        match repository.map_or(self.ping, |repository| repository.access) {
            Access::Anonymous => Ok(()),
            Access::Basic => self.check_basic(asker, repository),
            Access::Bearer { public } => self.check_bearer(asker, repository, public),
        }
    }

    fn check_basic(&self, asker: &Asker<'_>, repository: Option<&Repository>) -> Result<(), Refusal> {
        let challenge = || Refusal::Challenge("Basic realm=\"darter-testkit\"".to_owned());
        let user = asker
            .authorization
            .and_then(|value| self.basic_user(value))
            .ok_or_else(challenge)?;
        self.check_user(&user, repository)
    }

    fn check_bearer(
        &self,
        asker: &Asker<'_>,
        repository: Option<&Repository>,
        public: bool,
    ) -> Result<(), Refusal> {
        let challenge = |error: Option<&str>| Refusal::Challenge(self.bearer_challenge(asker, error));
        let value = asker
            .authorization
            .and_then(|value| value.strip_prefix("Bearer "));
        let value = value.ok_or_else(|| challenge(None))?;
        let live = |token: &&Token| Instant::now() < token.expires;
        let token = self
            .tokens
            .get(value)
            .filter(live)
            .ok_or_else(|| challenge(Some("invalid_token")))?;
        let opens = |name: &str| match asker.writes {
            true => token.pushes.contains(name),
            false => token.repositories.contains(name),
        };
        if asker.name.is_some_and(|name| !opens(name)) {
            return Err(challenge(Some("insufficient_scope")));
        }
        match &token.user {
            _ if public => Ok(()),
            Some(user) => self.check_user(user, repository),
            None => Err(challenge(Some("insufficient_scope"))),
        }
    }

    fn check_user(&self, user: &str, repository: Option<&Repository>) -> Result<(), Refusal> {
        let allowed = repository.is_none_or(|repository| repository.readers.contains(user));
        if allowed {
            Ok(())
        } else {
            Err(Refusal::Denied(self.denial))
        }
    }

    fn bearer_challenge(&self, asker: &Asker<'_>, error: Option<&str>) -> String {
        let realm = self
            .realm
            .clone()
            .unwrap_or_else(|| format!("{}/token", asker.base));
        let scope = asker
            .name
            .map(|name| {
                let push = if asker.writes { ",push" } else { "" };
                format!(",scope=\"repository:{name}:pull{push}\"")
            })
            .unwrap_or_default();
        let error = error
            .map(|error| format!(",error=\"{error}\""))
            .unwrap_or_default();
        format!("Bearer realm=\"{realm}\",service=\"darter-testkit\"{scope}{error}")
    }

    /// The user whose name and password these are.
    pub(super) fn basic_user(&self, authorization: &str) -> Option<String> {
        let encoded = authorization.strip_prefix("Basic ")?;
        let text = String::from_utf8(BASE64_STANDARD.decode(encoded).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        (self.users.get(user)? == password).then(|| user.to_owned())
    }

    /// Issues a token for those of the scopes that the user has.
    pub(super) fn issue(
        &mut self,
        user: Option<String>,
        scopes: &[String],
        repositories: &BTreeMap<String, Repository>,
    ) -> Token {
        let asked = scopes
            .iter()
            .flat_map(|scope| scope.split(' '))
            .filter_map(|scope| Some((scope_of(scope, "pull")?, scope_of(scope, "push"))));
        let may = |name: &&str| {
            let Some(repository) = repositories.get(*name) else {
                return false;
            };
            match repository.access {
                Access::Anonymous | Access::Bearer { public: true } => true,
                _ => user
                    .as_ref()
                    .is_some_and(|user| repository.readers.contains(user)),
            }
        };
        let asked: Vec<_> = asked.filter(|(name, _)| may(name)).collect();
        let names = asked.iter().map(|(name, _)| (*name).to_owned()).collect();
        let pushes = asked.iter().filter(|_| user.is_some());
        let pushes = pushes.filter_map(|(_, push)| push.map(str::to_owned)).collect();
        self.issued += 1;
        let value = format!("issued-{}-{:016x}", self.issued, mix(self.issued));
        let token = self.register(value.clone(), user, names, self.token_life);
        let token = Token { pushes, ..token };
        self.tokens.insert(value, token.clone());
        token
    }

    pub(super) fn register(
        &mut self,
        value: String,
        user: Option<String>,
        repositories: BTreeSet<String>,
        life: Duration,
    ) -> Token {
        let token = Token {
            value,
            user,
            repositories,
            pushes: BTreeSet::new(),
            expires: Instant::now() + life,
        };
        self.tokens.insert(token.value.clone(), token.clone());
        token
    }
}

/// The repository of `repository:<name>:<actions>` if the actions have this one.
fn scope_of<'a>(scope: &'a str, wanted: &str) -> Option<&'a str> {
    let (name, actions) = scope.strip_prefix("repository:")?.rsplit_once(':')?;
    actions
        .split(',')
        .any(|action| action == wanted || action == "*")
        .then_some(name)
}
