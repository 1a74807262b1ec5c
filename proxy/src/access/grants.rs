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
    answer: Mutex<Option<Answer>>,
}

/// When the registry was asked, and until when its yes counts without another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Answer {
    asked: Instant,
    until: Instant,
}

impl Grant {
    fn answer(&self) -> Option<Answer> {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_answer(&self, answer: Option<Answer>) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    /// Until when it counts; `None` once the registry said no.
    pub(super) fn until(&self) -> Option<Instant> {
        self.answer().map(|answer| answer.until)
    }

    fn age(&self, now: Instant) -> Option<Duration> {
        self.answer()
            .map(|answer| now.saturating_duration_since(answer.asked))
    }
}

/// A yes of the registry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Yes {
    /// Who may read; `None` stands for everybody.
    pub(super) caller: Option<CallerKey>,
    /// When the registry was asked.
    pub(super) asked: Instant,
    /// How long the caller's token was good then, where that is known.
    pub(super) token_left: Option<Duration>,
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
        let grant = self.fitting(caller, content, itself)?;
        (now < grant.until()?).then_some(grant)
    }

    /// The grant of a public content, good enough while its registry cannot be asked.
    pub(super) fn stale_public(
        &mut self,
        content: &OriginLocator,
        itself: bool,
        now: Instant,
    ) -> Option<Arc<Grant>> {
        let life = self.config.public_grant_while_unreachable.as_duration();
        let grant = self.fitting(None, content, itself)?;
        (grant.age(now)? < life).then_some(grant)
    }

    fn fitting(
        &mut self,
        caller: Option<CallerKey>,
        content: &OriginLocator,
        itself: bool,
    ) -> Option<Arc<Grant>> {
        let grant = self.known(caller, content);
        grant.filter(|grant| !itself || grant.root == *content)
    }

    fn answer(&self, yes: Yes) -> Answer {
        let life = match yes.caller {
            None => self.config.public_grant.as_duration(),
            Some(_) => self.config.private_grant.as_duration(),
        };
        Answer {
            asked: yes.asked,
            until: yes.asked + yes.token_left.map_or(life, |left| life.min(left)),
        }
    }

    /// The grant, however old.
    pub(super) fn known(&mut self, caller: Option<CallerKey>, content: &OriginLocator) -> Option<Arc<Grant>> {
        self.grants.get(&(caller, content.clone())).cloned()
    }

    /// One answer about one content, which is kept by nobody else.
    pub(super) fn alone(&self, yes: Yes, root: OriginLocator) -> Arc<Grant> {
        Arc::new(Grant {
            root,
            answer: Mutex::new(Some(self.answer(yes))),
        })
    }

    /// Notes that the registry said yes to this question.
    pub(super) fn allow(&mut self, yes: Yes, content: OriginLocator) -> Arc<Grant> {
        let answer = Some(self.answer(yes));
        if let Some(grant) = self.fitting(yes.caller, &content, true) {
            grant.set_answer(answer);
            return grant;
        }
        let grant = self.alone(yes, content.clone());
        self.grants.insert((yes.caller, content), Arc::clone(&grant));
        grant
    }

    /// Notes that the registry said yes again to what this grant stands for, and so to all that it covers.
    pub(super) fn renew(&mut self, yes: Yes, grant: &Arc<Grant>) -> Arc<Grant> {
        grant.set_answer(Some(self.answer(yes)));
        self.grants
            .insert((yes.caller, grant.root.clone()), Arc::clone(grant));
        Arc::clone(grant)
    }

    /// Lets a grant cover a content that its root names.
    pub(super) fn cover(&mut self, caller: Option<CallerKey>, grant: &Arc<Grant>, content: OriginLocator) {
        let known = self.known(caller, &content);
        // An answer about the content itself says more than one about what names it, while it lives.
        let better = known.is_some_and(|known| known.root == content && known.answer() >= grant.answer());
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
            grant.set_answer(None);
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
