//! A registry that misbehaves on demand: the pull side of distribution-spec v1.1 with faults that are
//! injected and removed while it serves.
//!
//! [`Origin`] is a cheap handle on one shared state; give it content, [`inject`](Origin::inject) faults,
//! serve it on a socket ([`spawn_on_loopback`](Origin::spawn_on_loopback)) or on anything that reads and
//! writes ([`serve_connection`](Origin::serve_connection)), then ask what it saw. Without faults it is a
//! correct registry: HEAD and GET, ranges, challenges, tokens, referrers, tags; pushes, where they are
//! taken ([`take_pushes`](Origin::take_pushes)).
//!
//! Read `endpoint` for what is right, `fault` for what can go wrong, `plan` for how the two meet. What
//! must hold: all decisions are made under one lock from the state alone, so that equal requests in equal
//! order get equal answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use tokio::time::Instant;

use crate::content::{Content, sha256_of};

mod access;
mod body;
mod endpoint;
mod fault;
mod plan;
mod push;
mod record;
mod route;
mod serve;
#[cfg(test)]
mod tests;
mod tls;
mod wire;

pub use access::{Access, Denial, Token};
pub use fault::{CutBy, Fault, FaultId, Match, RedirectTo, Target, When};
pub use record::RequestRecord;
pub use serve::RunningOrigin;
pub use tls::TlsMode;

/// A handle on one fault-injecting registry. Clones share everything.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    repositories: BTreeMap<String, Repository>,
    access: access::AccessBook,
    rules: fault::Rules,
    ledger: record::Ledger,
    presigned: BTreeMap<String, Instant>,
    referrers_supported: bool,
    pushable: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            repositories: BTreeMap::new(),
            access: access::AccessBook::default(),
            rules: fault::Rules::default(),
            ledger: record::Ledger::default(),
            presigned: BTreeMap::new(),
            referrers_supported: true,
            pushable: false,
        }
    }
}

impl State {
    /// A signature that works for so long.
    fn presign(&mut self, valid: Duration) -> String {
        let signature = format!("signature-{}", self.presigned.len());
        self.presigned.insert(signature.clone(), Instant::now() + valid);
        signature
    }

    fn repository(&mut self, name: &str) -> &mut Repository {
        self.repositories.entry(name.to_owned()).or_default()
    }
}

#[derive(Debug, Default)]
struct Repository {
    blobs: BTreeMap<String, Content>,
    manifests: BTreeMap<String, Manifest>,
    tags: BTreeMap<String, String>,
    access: Access,
    readers: BTreeSet<String>,
}

#[derive(Debug)]
struct Manifest {
    media_type: String,
    bytes: Bytes,
}

/// Counts a request as running until it is dropped.
#[derive(Debug)]
struct Running {
    origin: Origin,
    source: Option<IpAddr>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.origin.state().ledger.left(self.source);
    }
}

/// Content.
impl Origin {
    /// An empty registry without faults.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a blob to a repository (which exists from then on) and returns its digest.
    /// Content by rule ([`Content::generated`]) is hashed once, here, and never kept.
    pub fn add_blob(&self, repository: &str, content: impl Into<Content>) -> String {
        let content = content.into();
        let digest = content.digest();
        self.add_blob_as(repository, &digest, content);
        digest
    }

    /// Adds a blob under a digest that need not be its own: to lie from the start, or to save the hashing.
    pub fn add_blob_as(&self, repository: &str, digest: &str, content: impl Into<Content>) {
        self.state()
            .repository(repository)
            .blobs
            .insert(digest.to_owned(), content.into());
    }

    /// Removes a blob from one repository; whether it was there.
    pub fn remove_blob(&self, repository: &str, digest: &str) -> bool {
        self.state().repository(repository).blobs.remove(digest).is_some()
    }

    /// Adds a manifest, under a tag if one is given, and returns its digest.
    pub fn add_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: impl Into<Bytes>,
    ) -> String {
        let bytes = bytes.into();
        let digest = sha256_of(&bytes);
        let mut state = self.state();
        let repository = state.repository(repository);
        repository.manifests.insert(
            digest.clone(),
            Manifest {
                media_type: media_type.to_owned(),
                bytes,
            },
        );
        if let Some(tag) = tag {
            repository.tags.insert(tag.to_owned(), digest.clone());
        }
        digest
    }

    /// Lets a tag point to another manifest (or one that does not exist).
    pub fn move_tag(&self, repository: &str, tag: &str, digest: &str) {
        self.state()
            .repository(repository)
            .tags
            .insert(tag.to_owned(), digest.to_owned());
    }

    /// Removes a manifest from one repository; its tags then point to nothing. Whether it was there.
    pub fn remove_manifest(&self, repository: &str, digest: &str) -> bool {
        self.state()
            .repository(repository)
            .manifests
            .remove(digest)
            .is_some()
    }

    /// Removes a repository with all that it has; whether it was there.
    pub fn remove_repository(&self, repository: &str) -> bool {
        self.state().repositories.remove(repository).is_some()
    }

    /// Whether the referrers endpoint exists; else it answers 404, as old registries do.
    pub fn set_referrers_supported(&self, supported: bool) {
        self.state().referrers_supported = supported;
    }
}

/// Access.
impl Origin {
    /// What a repository asks of its readers, from the next request on.
    pub fn set_access(&self, repository: &str, access: Access) {
        self.state().repository(repository).access = access;
    }

    /// What `/v2/` asks; nothing by default.
    pub fn set_ping_access(&self, access: Access) {
        self.state().access.ping = access;
    }

    /// Makes a user known (or changes the password). Allows nothing yet.
    pub fn add_user(&self, user: &str, password: &str) {
        self.state()
            .access
            .users
            .insert(user.to_owned(), password.to_owned());
    }

    /// Lets a user read a repository.
    pub fn allow(&self, repository: &str, user: &str) {
        self.state()
            .repository(repository)
            .readers
            .insert(user.to_owned());
    }

    /// Takes a right back. It holds at once, for tokens that are out as well.
    pub fn revoke(&self, repository: &str, user: &str) {
        self.state().repository(repository).readers.remove(user);
    }

    /// Makes all tokens worthless.
    pub fn revoke_tokens(&self) {
        self.state().access.tokens.clear();
    }

    /// How long tokens live that are issued from now on; 300 s by default.
    pub fn set_token_life(&self, life: Duration) {
        self.state().access.token_life = life;
    }

    /// What users hear who are known and not allowed; 403 by default.
    pub fn set_denial(&self, denial: Denial) {
        self.state().access.denial = denial;
    }

    /// The `realm` of challenges, instead of this origin's own `/token`: to try to steal credentials.
    pub fn set_realm(&self, realm: &str) {
        self.state().access.realm = Some(realm.to_owned());
    }

    /// Registers a token of the test's own making, e.g. a canary.
    pub fn add_token(&self, value: &str, user: Option<&str>, repositories: &[&str], life: Duration) -> Token {
        let names = repositories.iter().map(|&name| name.to_owned()).collect();
        self.state()
            .access
            .register(value.to_owned(), user.map(str::to_owned), names, life)
    }

    /// Whether whoever shows this `Authorization` may read a blob of a repository at this moment. No request, no fault.
    pub fn may_read(&self, repository: &str, digest: &str, authorization: Option<&str>) -> bool {
        let state = self.state();
        let asker = access::Asker {
            authorization,
            base: "",
            name: Some(repository),
            writes: false,
        };
        state.repositories.get(repository).is_some_and(|place| {
            place.blobs.contains_key(digest) && state.access.check(&asker, Some(place)).is_ok()
        })
    }

    /// All tokens that are known: issued by the realm or registered, and not revoked.
    pub fn tokens(&self) -> Vec<Token> {
        self.state().access.tokens.values().cloned().collect()
    }
}

/// Faults.
impl Origin {
    /// Injects a fault; it acts from the next request on.
    pub fn inject(&self, what: Match, when: When, fault: Fault) -> FaultId {
        self.state().rules.inject(what, when, fault)
    }

    /// Removes a fault; whether it was there. Answers that are under way keep theirs.
    pub fn heal(&self, id: FaultId) -> bool {
        self.state().rules.remove(id)
    }

    /// Removes all faults.
    pub fn heal_all(&self) {
        self.state().rules.clear();
    }

    /// How often a fault was part of an answer; 0 once it is removed. A test that injects should look.
    pub fn fired(&self, id: FaultId) -> u64 {
        self.state().rules.fired(id)
    }

    /// How often any fault was part of an answer, those included that were removed since.
    pub fn fired_total(&self) -> u64 {
        self.state().rules.fired_total()
    }

    /// Seeds the generator behind [`When::Percent`].
    pub fn seed(&self, seed: u64) {
        self.state().rules.seed(seed);
    }
}

/// What it saw.
impl Origin {
    /// All requests, oldest first (at most the last 200 000).
    pub fn log(&self) -> Vec<RequestRecord> {
        self.state().ledger.log.iter().cloned().collect()
    }

    /// How many requests of the log fit.
    pub fn count(&self, fits: impl Fn(&RequestRecord) -> bool) -> usize {
        self.state()
            .ledger
            .log
            .iter()
            .filter(|record| fits(record))
            .count()
    }

    /// How many requests came with this method for this path.
    pub fn requests(&self, method: &Method, path: &str) -> u64 {
        self.sum(|(m, p, _)| m == method.as_str() && p == path)
    }

    /// How many requests came with this method for this digest: as blob, manifest, tag or redirected.
    pub fn requests_for(&self, method: &Method, digest: &str) -> u64 {
        self.sum(|(m, _, d)| m == method.as_str() && d.as_deref() == Some(digest))
    }

    /// How many requests came at all.
    pub fn requests_total(&self) -> u64 {
        self.sum(|_| true)
    }

    fn sum(&self, fits: impl Fn(&(String, String, Option<String>)) -> bool) -> u64 {
        self.state()
            .ledger
            .by_target
            .iter()
            .filter(|(key, _)| fits(key))
            .map(|(_, count)| count)
            .sum()
    }

    /// Bytes of blobs and manifests that were written to sockets, without heads and error bodies. What a
    /// client left unread in its socket counts; what was still in the origin's own buffer does not.
    /// Chunked answers count with their framing.
    pub fn bytes_sent(&self) -> u64 {
        self.state().ledger.sent_total
    }

    /// The same for one digest.
    pub fn bytes_sent_for(&self, digest: &str) -> u64 {
        self.state()
            .ledger
            .sent_by_digest
            .get(digest)
            .copied()
            .unwrap_or(0)
    }

    /// All values of `Authorization` that arrived in the requests of the log.
    pub fn authorizations_seen(&self) -> BTreeSet<String> {
        let state = self.state();
        state
            .ledger
            .log
            .iter()
            .filter_map(RequestRecord::authorization)
            .map(str::to_owned)
            .collect()
    }

    /// Bearer tokens that arrived in the requests of the log.
    pub fn tokens_seen(&self) -> BTreeSet<String> {
        let seen = self.authorizations_seen();
        seen.iter()
            .filter_map(|value| value.strip_prefix("Bearer "))
            .map(str::to_owned)
            .collect()
    }

    /// The most requests that were being answered at one time.
    pub fn concurrent_max(&self) -> u64 {
        self.state().ledger.running_max
    }

    /// The most requests of one client's address that were being answered at one time, since the counters were reset.
    pub fn concurrent_max_of(&self, source: IpAddr) -> u64 {
        let state = self.state();
        let counts = state.ledger.running_by_source.get(&source);
        counts.map_or(0, |counts| counts.max)
    }

    /// Bytes of a digest that were sent to one client's address, counted as [`Self::bytes_sent`].
    pub fn bytes_sent_to(&self, source: IpAddr, digest: &str) -> u64 {
        let key = (source, digest.to_owned());
        self.state().ledger.sent_by_source.get(&key).copied().unwrap_or(0)
    }

    /// Requests that are being answered now.
    pub fn concurrent(&self) -> u64 {
        self.state().ledger.running
    }

    /// Connections that were accepted (for TLS: with a finished handshake).
    pub fn connections(&self) -> u64 {
        self.state().ledger.connections
    }

    /// Forgets the log and starts all counters at zero. Content, tokens and faults stay.
    pub fn reset_counters(&self) {
        self.state().ledger.reset();
    }
}
