//! Tokens: kept until they expire, fetched by one on behalf of all who wait.
//!
//! Anonymous ones, and those that this node's own credentials are worth, apart from one another: a caller's own credentials
//! are never sent to a realm, and no token is ever kept for a caller.
//! In memory alone. This module decides what is kept; `exchange` does the asking.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use crate::challenge::Bearer;
use crate::error::OriginError;

/// Repositories of one registry whose tokens are kept.
const SLOTS_MAX: usize = 1024;
/// A realm that gives longer ones is asked again after this.
const LIFE_MAX: Duration = Duration::from_secs(3600);
/// By the token specification, where the realm says nothing.
const LIFE_DEFAULT: Duration = Duration::from_secs(60);
/// A token is not used in its last moments: it has to arrive first.
const MARGIN_MAX: Duration = Duration::from_secs(5);
/// How long a refusal is remembered, so that a private repository costs one request, not three.
const REFUSED_TIME: Duration = Duration::from_secs(5);
/// How long a realm is left alone that could not answer, while others wait for the same.
const FAILED_TIME: Duration = Duration::from_secs(1);

/// The tokens of one registry, by repository.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    slots: Mutex<BTreeMap<String, Arc<Slot>>>,
}

/// What is known for one repository.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    /// Held by the one who asks the realm.
    pub(crate) turn: tokio::sync::Mutex<()>,
    value: Mutex<Value>,
}

#[derive(Clone, Debug, Default)]
enum Value {
    #[default]
    Unknown,
    Token(HeaderValue, Instant),
    /// Anonymous callers get nothing here.
    Refused(Instant),
    Failed(OriginError, Instant),
}

impl Tokens {
    fn slots(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slot of a repository. Where there are too many, one goes that nobody uses.
    pub(crate) fn slot(&self, repository: &str) -> Arc<Slot> {
        let mut slots = self.slots();
        if let Some(slot) = slots.get(repository) {
            return Arc::clone(slot);
        }
        if slots.len() >= SLOTS_MAX {
            slots.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.is_live());
        }
        if slots.len() >= SLOTS_MAX {
            slots.pop_first();
        }
        Arc::clone(slots.entry(repository.to_owned()).or_default())
    }
}

impl Slot {
    fn value(&self) -> MutexGuard<'_, Value> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_live(&self) -> bool {
        match &*self.value() {
            Value::Unknown => false,
            Value::Token(_, until) | Value::Refused(until) | Value::Failed(_, until) => {
                Instant::now() < *until
            }
        }
    }

    /// The token, if there is one that still holds.
    pub(crate) fn token(&self) -> Option<HeaderValue> {
        match &*self.value() {
            Value::Token(token, until) if Instant::now() < *until => Some(token.clone()),
            _ => None,
        }
    }

    /// What is known without asking the realm, by somebody whose token `stale` was refused just now. `None`: ask.
    pub(crate) fn settled(
        &self,
        stale: Option<&HeaderValue>,
    ) -> Option<Result<Option<HeaderValue>, OriginError>> {
        if !self.is_live() {
            return None;
        }
        match &*self.value() {
            Value::Token(token, _) if Some(token) != stale => Some(Ok(Some(token.clone()))),
            Value::Unknown | Value::Token(..) => None,
            Value::Refused(_) => Some(Ok(None)),
            Value::Failed(error, _) => Some(Err(error.clone())),
        }
    }

    /// Notes what the realm said.
    pub(crate) fn settle(&self, answer: &Result<Option<Grant>, OriginError>) {
        let now = Instant::now();
        *self.value() = match answer {
            Ok(Some(grant)) => Value::Token(grant.token.clone(), now + grant.useful()),
            Ok(None) => Value::Refused(now + REFUSED_TIME),
            Err(error) => Value::Failed(error.clone(), now + FAILED_TIME),
        };
    }

    /// Notes that the registry refused what the realm gave.
    pub(crate) fn refuse(&self) {
        *self.value() = Value::Refused(Instant::now() + REFUSED_TIME);
    }
}

/// A token that a realm gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The value of `Authorization`, marked as sensitive.
    pub token: HeaderValue,
    life: Duration,
}

impl Grant {
    /// What is to be sent as it is, for as long as that is good.
    pub fn new(token: HeaderValue, life: Duration) -> Self {
        Self { token, life }
    }

    /// For how long it is sent: it has to arrive while it holds.
    pub fn useful(&self) -> Duration {
        self.life - MARGIN_MAX.min(self.life / 10)
    }
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// Reads a realm's answer.
pub fn grant(body: &[u8]) -> Option<Grant> {
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let token = answer
        .token
        .or(answer.access_token)
        .filter(|token| !token.is_empty())?;
    let mut token = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    token.set_sensitive(true);
    let life = answer
        .expires_in
        .map_or(LIFE_DEFAULT, Duration::from_secs)
        .min(LIFE_MAX);
    Some(Grant { token, life })
}

/// The address that gives the token that a challenge asks for.
pub fn address(challenge: &Bearer) -> Option<Url> {
    let mut url = Url::parse(&challenge.realm).ok()?;
    let plain = url.username().is_empty() && url.password().is_none() && url.has_host();
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = &challenge.service {
            query.append_pair("service", service);
        }
        for scope in challenge
            .scope
            .iter()
            .flat_map(|scope| scope.split(' '))
            .filter(|scope| !scope.is_empty())
        {
            query.append_pair("scope", scope);
        }
    }
    plain.then_some(url)
}

#[cfg(test)]
mod tests;
