//! Who was found to be allowed to read what, and until when. Kept in memory alone, bounded, and keyed by a hash
//! of the credential, so that no secret stays here.
//!
//! A grant is what one answer of a registry proves: that a caller may read one content (its root), and with it
//! what that manifest names. All of those share the grant, so that asking about the root again renews them all,
//! and a refusal ends them all.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use darter_origin::OriginError;
use darter_types::{OriginLocator, RegistryName, Repository};
use tokio::time::Instant;

use super::caller::CallerKey;
use super::config::AccessConfig;
use super::recent::Recent;

/// One positive answer of a registry.
#[derive(Debug)]
pub(super) struct Grant {
    /// What the registry was asked about.
    pub(super) root: OriginLocator,
    checked: Mutex<Option<Instant>>,
}

impl Grant {
    /// One answer about one content, which is kept by nobody else.
    pub(super) fn alone(root: OriginLocator, now: Instant) -> Arc<Self> {
        Arc::new(Self {
            root,
            checked: Mutex::new(Some(now)),
        })
    }

    fn checked(&self) -> Option<Instant> {
        *self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_checked(&self, when: Option<Instant>) {
        *self.checked.lock().unwrap_or_else(PoisonError::into_inner) = when;
    }

    fn age(&self, now: Instant) -> Option<Duration> {
        self.checked()
            .map(|checked| now.saturating_duration_since(checked))
    }
}

/// `None` stands for everybody.
type Key = (Option<CallerKey>, OriginLocator);

/// All grants, and the refusals of anonymous requests.
#[derive(Debug)]
pub(super) struct Grants {
    config: AccessConfig,
    grants: Recent<Key, Arc<Grant>>,
    refusals: Recent<(RegistryName, Repository), (Instant, Arc<OriginError>)>,
}

impl Grants {
    pub(super) fn new(config: AccessConfig) -> Self {
        Self {
            grants: Recent::new(config.grants_max),
            refusals: Recent::new(config.refusals_max),
            config,
        }
    }

    /// Grants and refusals that are kept.
    pub(super) fn kept(&self) -> [usize; 2] {
        [self.grants.len(), self.refusals.len()]
    }

    /// The grant, if it needs no new question. With `itself`, only one whose question was about this very content.
    pub(super) fn fresh(
        &mut self,
        caller: Option<CallerKey>,
        content: &OriginLocator,
        itself: bool,
        now: Instant,
    ) -> Option<Arc<Grant>> {
        let life = match caller {
            None => self.config.public_grant.as_duration(),
            Some(_) => self.config.private_grant.as_duration(),
        };
        self.younger(caller, content, itself, now, life)
    }

    /// The grant of a public content, good enough while its registry cannot be asked.
    pub(super) fn stale_public(
        &mut self,
        content: &OriginLocator,
        itself: bool,
        now: Instant,
    ) -> Option<Arc<Grant>> {
        let life = self.config.public_grant_while_unreachable.as_duration();
        self.younger(None, content, itself, now, life)
    }

    fn younger(
        &mut self,
        caller: Option<CallerKey>,
        content: &OriginLocator,
        itself: bool,
        now: Instant,
        life: Duration,
    ) -> Option<Arc<Grant>> {
        let grant = self.known(caller, content)?;
        let fits = !itself || grant.root == *content;
        (fits && grant.age(now)? < life).then_some(grant)
    }

    /// The grant, however old.
    pub(super) fn known(&mut self, caller: Option<CallerKey>, content: &OriginLocator) -> Option<Arc<Grant>> {
        self.grants.get(&(caller, content.clone())).cloned()
    }

    /// Notes that the registry said yes to this question.
    pub(super) fn allow(
        &mut self,
        caller: Option<CallerKey>,
        content: OriginLocator,
        now: Instant,
    ) -> Arc<Grant> {
        if let Some(grant) = self.known(caller, &content).filter(|grant| grant.root == content) {
            grant.set_checked(Some(now));
            return grant;
        }
        let grant = Grant::alone(content.clone(), now);
        self.grants.insert((caller, content), Arc::clone(&grant));
        grant
    }

    /// Notes that the registry said yes again to what this grant stands for, and so to all that it covers.
    pub(super) fn renew(
        &mut self,
        caller: Option<CallerKey>,
        grant: &Arc<Grant>,
        now: Instant,
    ) -> Arc<Grant> {
        grant.set_checked(Some(now));
        self.grants
            .insert((caller, grant.root.clone()), Arc::clone(grant));
        Arc::clone(grant)
    }

    /// Lets a grant cover a content that its root names.
    pub(super) fn cover(&mut self, caller: Option<CallerKey>, grant: &Arc<Grant>, content: OriginLocator) {
        let known = self.known(caller, &content);
        // An answer about the content itself says more than one about what names it, while it lives.
        let better = known.is_some_and(|known| known.root == content && known.checked() >= grant.checked());
        if !better {
            self.grants.insert((caller, content), Arc::clone(grant));
        }
    }

    /// Notes that the registry said no to this question: what it covered is no longer covered.
    pub(super) fn refuse(
        &mut self,
        caller: Option<CallerKey>,
        content: &OriginLocator,
        problem: &Arc<OriginError>,
        now: Instant,
    ) {
        if let Some(grant) = self.known(caller, content).filter(|grant| grant.root == *content) {
            grant.set_checked(None);
        }
        self.grants.remove(&(caller, content.clone()));
        if caller.is_none() && super::verdict(problem) == super::Verdict::Credential {
            self.note_refusal(&content.registry, &content.repository, problem, now);
        }
    }

    /// Notes that a repository is not open to everybody.
    pub(super) fn note_refusal(
        &mut self,
        registry: &RegistryName,
        repository: &Repository,
        problem: &Arc<OriginError>,
        now: Instant,
    ) {
        self.refusals
            .insert((registry.clone(), repository.clone()), (now, Arc::clone(problem)));
    }

    /// How the registry refused this repository to everybody a moment ago.
    pub(super) fn refusal(
        &mut self,
        registry: &RegistryName,
        repository: &Repository,
        now: Instant,
    ) -> Option<Arc<OriginError>> {
        let life = self.config.refusal.as_duration();
        let (when, problem) = self.refusals.get(&(registry.clone(), repository.clone()))?;
        (now.saturating_duration_since(*when) < life).then(|| Arc::clone(problem))
    }
}
