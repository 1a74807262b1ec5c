//! May this caller read this content? The registry answers, once a minute for a caller and once an hour for
//! everybody; between its answers, grants do.
//!
//! Bytes are shared by digest, the right to read them is not: a digest alone is no permission. First the registry
//! is asked anonymously, for what it gives to anybody; only if it refuses, with the caller's own credential. One
//! answer about a manifest covers what that manifest names. What must hold: private content is never served
//! without a yes that is at most a minute old, and credentials go to their own registry alone.
//!
//! Not here: how registries are spoken to (`darter_origin`), and which content was fetched from which registry
//! (the caller of [`Access::check`] says so by [`Proof`]).

mod caller;
mod config;
mod flight;
mod grants;
mod origins;
mod recent;
mod standing;
mod subject;
#[cfg(test)]
mod tests;
mod upstream;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use darter_origin::{ContentAddress, Credentials, OriginError};
use darter_types::{OriginLocator, RegistryName};
use http::StatusCode;
use tokio::time::Instant;

use crate::mirror::client::Client;

use caller::{Caller, CallerKey, Who, credentials};
use flight::Flights;
use grants::{Grant, Grants, Yes};
use subject::Subject;

pub use caller::Asker;
pub(crate) use caller::keyed_hash;
pub use config::AccessConfig;
pub(crate) use recent::Recent;
pub(crate) use standing::Standing;
pub use upstream::{ContentHead, HeadResult, Relayed, TagQuery, Upstream};

/// What proof a content needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// A manifest that names it is enough: its bytes come from that repository, or anybody may have them.
    Named,
    /// The registry must be asked about this very content: the bytes here came from another registry, or in confidence
    /// from another repository, so a manifest that merely names the digest proves nothing.
    Itself,
}

/// A right to read.
#[derive(Clone, Debug)]
pub struct Permit {
    /// On whose behalf the content may be fetched.
    pub credentials: Credentials,
    /// Whether the registry gives it to anybody.
    pub public: bool,
    /// What the registry said of the content, if it was asked now.
    pub head: Option<ContentHead>,
    /// The registry could not be asked; this is an earlier answer.
    pub stale: bool,
    caller: Option<CallerKey>,
    grant: Arc<Grant>,
}

/// How a registry's refusal is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It wants (other) credentials.
    Credential,
    /// It does not have it, or says so.
    Absent,
    /// This node may not ask it.
    Forbidden,
    /// It did not say.
    CannotTell,
}

/// What a failure of a registry says about a right to read.
pub(crate) fn verdict(problem: &OriginError) -> Verdict {
    match problem {
        OriginError::Status { status, .. } => match *status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Verdict::Credential,
            StatusCode::NOT_FOUND => Verdict::Absent,
            _ => Verdict::CannotTell,
        },
        OriginError::NotAllowed { .. } => Verdict::Forbidden,
        _ => Verdict::CannotTell,
    }
}

type FlightKey = (Option<CallerKey>, String, Vec<Vec<u8>>);

/// The grants of one node. Clones share them.
#[derive(Clone, Debug)]
pub struct Access {
    inner: Arc<Inner>,
}

struct Inner {
    upstream: Arc<dyn Upstream>,
    hash_key: [u8; 32],
    config: AccessConfig,
    grants: Mutex<Grants>,
    flights: Flights<FlightKey, HeadResult>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the key nor what it hashed belongs into a log.
        f.debug_struct("Access")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Access {
    /// Starts without any grant. `hash_key` is random, and kept nowhere else.
    pub fn new(upstream: Arc<dyn Upstream>, config: AccessConfig, hash_key: [u8; 32]) -> Self {
        Self {
            inner: Arc::new(Inner {
                upstream,
                hash_key,
                grants: Mutex::new(Grants::new(config.clone())),
                config,
                flights: Flights::default(),
            }),
        }
    }

    /// Grants and refusals that are kept.
    pub(crate) fn kept(&self) -> [usize; 2] {
        self.grants().kept()
    }

    /// Its configuration.
    pub fn config(&self) -> &AccessConfig {
        &self.inner.config
    }

    fn grants(&self) -> MutexGuard<'_, Grants> {
        self.inner.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody may read this content. Safe to drop; others who wait for the same
    /// answer get it.
    ///
    /// # Errors
    /// The registry's own refusal, to be relayed; or why it cannot be asked.
    pub async fn check<'a>(
        &self,
        content: &OriginLocator,
        asker: impl Into<Asker<'a>>,
        proof: Proof,
    ) -> Result<Permit, Arc<OriginError>> {
        let asker = asker.into();
        if let Some(permit) = self.granted(content, asker, proof) {
            return Ok(permit);
        }
        let who = self.who(&content.registry, asker);
        let subject = Subject::Content(content.clone());
        let problem = match self.ask_as_anybody(&subject, proof).await {
            Ok(permit) => return Ok(permit),
            Err(problem) => problem,
        };
        if verdict(&problem) == Verdict::CannotTell
            && let Some(permit) = self.usable_while_unreachable(content, asker, proof)
        {
            return Ok(permit);
        }
        self.ask_as_caller(&subject, who, proof, problem).await
    }

    /// Whether this address of a caller's own gives the right to read a content. It is asked each time: what signs an address
    /// runs out, and who else has another one has shown nothing.
    ///
    /// # Errors
    /// As [`Access::check`].
    pub(crate) async fn check_address(
        &self,
        content: &OriginLocator,
        address: &Arc<ContentAddress>,
    ) -> Result<Permit, Arc<OriginError>> {
        let credentials = Credentials::Address(Arc::clone(address));
        let asked = Instant::now();
        let head = self.inner.upstream.head(content.clone(), credentials.clone());
        let head = head.await?;
        let key = CallerKey::address(&self.inner.hash_key, address.url.as_str());
        let yes = Yes {
            caller: Some(key),
            asked,
            token_left: None,
        };
        Ok(Permit {
            credentials,
            public: false,
            head: Some(head),
            stale: false,
            caller: Some(key),
            grant: self.grants().alone(yes, content.clone()),
        })
    }

    /// What a tag points to now, and the right to read that.
    ///
    /// # Errors
    /// As [`Access::check`].
    pub async fn resolve<'a>(
        &self,
        tag: TagQuery,
        asker: impl Into<Asker<'a>>,
    ) -> Result<Permit, Arc<OriginError>> {
        let who = self.who(&tag.registry, asker.into());
        let subject = Subject::Tag(tag);
        match self.ask_as_anybody(&subject, Proof::Itself).await {
            Ok(permit) => Ok(permit),
            Err(problem) => self.ask_as_caller(&subject, who, Proof::Itself, problem).await,
        }
    }

    /// The right to read this content, if that needs no question.
    pub fn granted<'a>(
        &self,
        content: &OriginLocator,
        asker: impl Into<Asker<'a>>,
        proof: Proof,
    ) -> Option<Permit> {
        let now = Instant::now();
        let itself = proof == Proof::Itself;
        if let Some(grant) = self.grants().fresh(None, content, itself, now) {
            return Some(Permit::new(None, grant, None));
        }
        let who = self.who(&content.registry, asker.into())?;
        let key = self.key(who);
        let grant = self.grants().fresh(Some(key), content, itself, now)?;
        Some(Permit::new(Some((key, who)), grant, None))
    }

    /// The right to read this content by what was said before, for the time in which its registry cannot be asked.
    pub fn usable_while_unreachable<'a>(
        &self,
        content: &OriginLocator,
        asker: impl Into<Asker<'a>>,
        proof: Proof,
    ) -> Option<Permit> {
        let granted = self.granted(content, asker, proof);
        granted.or_else(|| {
            let grant = self
                .grants()
                .stale_public(content, proof == Proof::Itself, Instant::now())?;
            Some(Permit::new(None, grant, None).stale())
        })
    }

    /// Lets a permit cover what its manifest names.
    pub fn cover(&self, permit: &Permit, children: impl IntoIterator<Item = OriginLocator>) {
        let mut grants = self.grants();
        for child in children {
            grants.cover(permit.caller, &permit.grant, child);
        }
    }

    /// A number that nobody outside this process can foresee, the same for equal texts.
    pub(crate) fn secret_number(&self, text: &[u8]) -> u64 {
        caller::keyed_hash(&self.inner.hash_key, text)
            .iter()
            .take(8)
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }

    /// With which credentials a registry is asked for somebody.
    pub(crate) fn credentials(&self, registry: &RegistryName, asker: Asker<'_>) -> Credentials {
        self.who(registry, asker)
            .map_or(Credentials::Anonymous, Who::credentials)
    }

    /// Who asks, beyond anybody.
    fn who<'a>(&self, registry: &RegistryName, asker: Asker<'a>) -> Option<Who<'a>> {
        let user = || asker.client.and_then(Client::user);
        let node = || self.inner.upstream.lends(registry, &user).then_some(Who::Node);
        // Whoever shows something of his own is asked for by that alone.
        asker.authorization.map(Who::Caller).or_else(node)
    }

    fn key(&self, who: Who<'_>) -> CallerKey {
        match who {
            Who::Caller(authorization) => CallerKey::of(&self.inner.hash_key, authorization),
            Who::Node => CallerKey::node(&self.inner.hash_key),
        }
    }

    async fn ask_as_anybody(&self, subject: &Subject, proof: Proof) -> Result<Permit, Arc<OriginError>> {
        let (registry, repository) = subject.place();
        let known = self.grants().refusal(registry, repository, Instant::now());
        match known {
            Some(problem) => Err(problem),
            None => self.ask(subject, None, proof).await,
        }
    }

    /// Asks with the caller's credential after everybody was refused by `problem`.
    async fn ask_as_caller(
        &self,
        subject: &Subject,
        who: Option<Who<'_>>,
        proof: Proof,
        problem: Arc<OriginError>,
    ) -> Result<Permit, Arc<OriginError>> {
        let Some(who) = who else {
            return Err(problem);
        };
        let hopeless = match verdict(&problem) {
            Verdict::Credential | Verdict::Absent => false,
            Verdict::Forbidden => true,
            // It answered, if only nonsense: with credentials it may do better.
            Verdict::CannotTell => {
                !matches!(*problem, OriginError::Status { status, .. } if status.is_client_error())
            }
        };
        if hopeless {
            return Err(problem);
        }
        self.ask(subject, Some((self.key(who), who)), proof).await
    }

    async fn ask(
        &self,
        subject: &Subject,
        caller: Caller<'_>,
        proof: Proof,
    ) -> Result<Permit, Arc<OriginError>> {
        if let Subject::Content(content) = subject
            && proof == Proof::Named
            && let Some(permit) = self.renew(content, caller).await?
        {
            return Ok(permit);
        }
        // An answer is as old as its question.
        let yes = yes(caller, Instant::now());
        match self.question(subject, caller).await {
            Ok(head) => {
                let content = subject.content(&head);
                let grant = self.grants().allow(yes, content);
                Ok(Permit::new(caller, grant, Some(head)))
            }
            Err(problem) => {
                self.note_refusal(subject, yes.caller, &problem, Instant::now());
                Err(problem)
            }
        }
    }

    /// Asks again about the manifest that named this content; `None` if the content itself has to be asked for.
    async fn renew(
        &self,
        content: &OriginLocator,
        caller: Caller<'_>,
    ) -> Result<Option<Permit>, Arc<OriginError>> {
        let key = caller.map(|(key, _)| key);
        let named_by = self
            .grants()
            .known(key, content)
            .filter(|grant| grant.root != *content);
        let Some(grant) = named_by else {
            return Ok(None);
        };
        let root = Subject::Content(grant.root.clone());
        let yes = yes(caller, Instant::now());
        match self.question(&root, caller).await {
            Ok(_) => {
                let renewed = self.grants().renew(yes, &grant);
                Ok(Some(Permit::new(caller, renewed, None)))
            }
            Err(problem) if verdict(&problem) == Verdict::CannotTell => Err(problem),
            Err(problem) => {
                self.note_refusal(&root, key, &problem, Instant::now());
                Ok(None)
            }
        }
    }

    fn note_refusal(
        &self,
        subject: &Subject,
        caller: Option<CallerKey>,
        problem: &Arc<OriginError>,
        now: Instant,
    ) {
        let verdict = verdict(problem);
        if verdict == Verdict::CannotTell {
            return;
        }
        let mut grants = self.grants();
        match subject {
            Subject::Content(content) => grants.refuse(caller, content, problem, now),
            Subject::Tag(tag) if caller.is_none() && verdict == Verdict::Credential => {
                grants.note_refusal(&tag.registry, &tag.repository, problem, now);
            }
            Subject::Tag(_) => {}
        }
    }

    async fn question(&self, subject: &Subject, caller: Caller<'_>) -> HeadResult {
        let credentials = credentials(caller);
        let upstream = &self.inner.upstream;
        let key = (caller.map(|(key, _)| key), subject.path(), subject.accept());
        self.inner
            .flights
            .join(key, || match subject.clone() {
                Subject::Content(content) => upstream.head(content, credentials),
                Subject::Tag(tag) => upstream.resolve(tag, credentials),
            })
            .await
    }
}

/// What a yes to this caller is worth.
fn yes(caller: Caller<'_>, asked: Instant) -> Yes {
    let token_left = caller.and_then(|(_, who)| match who {
        Who::Caller(authorization) => caller::token_left(authorization),
        Who::Node => None,
    });
    Yes {
        caller: caller.map(|(key, _)| key),
        asked,
        token_left,
    }
}

impl Permit {
    /// Who the registry was asked for.
    fn asked_for(&self) -> Caller<'_> {
        let who = match &self.credentials {
            Credentials::Anonymous | Credentials::Address(_) => return None,
            Credentials::Node => Who::Node,
            Credentials::Caller(authorization) => Who::Caller(authorization),
        };
        self.caller.map(|key| (key, who))
    }

    fn new(caller: Caller<'_>, grant: Arc<Grant>, head: Option<ContentHead>) -> Self {
        Self {
            credentials: credentials(caller),
            public: caller.is_none(),
            head,
            stale: false,
            caller: caller.map(|(key, _)| key),
            grant,
        }
    }

    /// Whether the registry was asked about this very content, not about a manifest that names it.
    pub fn is_about(&self, content: &OriginLocator) -> bool {
        self.grant.root == *content
    }

    fn stale(mut self) -> Self {
        self.stale = true;
        self
    }
}
