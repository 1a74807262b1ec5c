//! What can go wrong at an origin, where and when: rules that a test injects and removes at run time.
//!
//! A rule is a [`Match`], a [`When`] and a [`Fault`]. All rules that fit a request act on its answer
//! together, in the order of their injection. This module only decides; `plan` applies.

use std::time::Duration;

use bytes::Bytes;
use http::Method;

use crate::content::{Content, mix};

/// How a connection ends before its answer is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutBy {
    /// Orderly, as a server that dies in user space does: everything sent arrives, then the end.
    Fin,
    /// By a reset. What the client has not read yet may be lost with it. On an I/O object without
    /// resets (simulated or in-memory sockets) the connection is dropped.
    Rst,
}

/// Where a redirect points. Hosts are written as `scheme://authority`, without a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedirectTo {
    /// `/storage/<digest>` on the host that was asked.
    SameHost,
    /// `<host>/storage/<digest>`: another origin that has the blob, or another name of this one.
    Host(String),
    /// The very address that was asked, for ever.
    Loop,
    /// A signed `/storage/<digest>?sig=…` that stops working after `valid`, and that refuses
    /// requests with an `Authorization` header (as S3 does). `host` must lead to this same origin.
    Presigned {
        /// `None` means the host that was asked.
        host: Option<String>,
        /// How long a signature works, from the redirect on.
        valid: Duration,
    },
    /// Exactly this `Location`.
    Exactly(String),
}

/// One way to misbehave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This status with an OCI error body, and `Retry-After` in seconds if given.
    Status {
        /// The status code, e.g. 429.
        code: u16,
        /// Seconds for `Retry-After`.
        retry_after: Option<u64>,
    },
    /// Wait before the headers.
    Delay(Duration),
    /// Never answer; the connection stays open until the client leaves.
    Silence,
    /// End the connection without an answer.
    HangUp(CutBy),
    /// Send the body at this rate, in small steps. 0 counts as 1.
    Drip {
        /// Bytes each second.
        bytes_per_second: u64,
    },
    /// End the connection when `at` bytes of this answer's body are sent. Longer bodies only.
    Cut {
        /// Body bytes of this answer that are sent before.
        at: u64,
        /// How.
        by: CutBy,
    },
    /// Stop sending when `at` bytes of this answer's body are sent; the connection stays open.
    Stall {
        /// Body bytes of this answer that are sent before.
        at: u64,
    },
    /// Flip all bits of the byte at this offset of the *blob*, whatever range is asked.
    WrongByte {
        /// Offset in the blob.
        at: u64,
    },
    /// The blob lacks its last bytes. `Content-Length` fits what is sent: a properly framed short body.
    ShortBy(u64),
    /// The blob has so many bytes more at its end. `Content-Length` fits what is sent.
    LongBy(u64),
    /// 200 (or 206) with `Content-Length: 0`.
    NoBytes,
    /// HEAD says this length. GET is not touched.
    HeadLength(u64),
    /// Answer 200 with everything, as if `Range` were not there.
    IgnoreRange,
    /// The content is another one, with another `ETag`, under the same digest.
    Replace {
        /// What is served instead.
        content: Content,
        /// The entity tag with its quotes.
        etag: String,
    },
    /// 307 to somewhere.
    Redirect(RedirectTo),
    /// 200 with `text/html`, as captive portals do.
    Html,
    /// `Content-Encoding: gzip` if the client accepts it. Bodies of at most 64 MiB; others are left alone.
    Gzip,
    /// No `Content-Length`: chunked, and the connection closes after it.
    Chunked,
    /// A header with this value (name in lower case), instead of the true one.
    SetHeader(&'static str, String),
    /// Without this header (name in lower case).
    DropHeader(&'static str),
    /// Exactly these bytes instead of an answer, then the end by FIN. Not counted as payload.
    Raw(Bytes),
}

impl Fault {
    /// This status, without `Retry-After`.
    pub fn status(code: u16) -> Self {
        Self::Status {
            code,
            retry_after: None,
        }
    }

    /// 429 with `Retry-After` in seconds.
    pub fn too_many_requests(retry_after: u64) -> Self {
        Self::Status {
            code: 429,
            retry_after: Some(retry_after),
        }
    }
}

/// What a request aims at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Every request.
    Any,
    /// The content with this digest: as a blob, as a manifest (by tag as well), behind a redirect.
    Digest(String),
    /// Exactly this path, without the query.
    Path(String),
    /// Everything of this repository.
    Repository(String),
    /// All blobs, behind redirects as well.
    Blobs,
    /// All manifests.
    Manifests,
    /// The token endpoint.
    Token,
}

/// Which requests a rule looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// What they aim at.
    pub target: Target,
    /// `None` means GET and HEAD.
    pub method: Option<Method>,
    /// Also the requests that access control refuses. Without it, the 401 that carries a challenge is
    /// neither touched nor counted by the rule.
    pub before_access: bool,
}

impl Match {
    /// Every request with this target.
    pub fn target(target: Target) -> Self {
        Self {
            target,
            method: None,
            before_access: false,
        }
    }

    /// Every request.
    pub fn any() -> Self {
        Self::target(Target::Any)
    }

    /// Requests for the content with this digest.
    pub fn digest(digest: &str) -> Self {
        Self::target(Target::Digest(digest.to_owned()))
    }

    /// Requests for this path.
    pub fn path(path: &str) -> Self {
        Self::target(Target::Path(path.to_owned()))
    }

    /// Only HEAD.
    #[must_use]
    pub fn head(self) -> Self {
        Self {
            method: Some(Method::HEAD),
            ..self
        }
    }

    /// Only GET.
    #[must_use]
    pub fn get(self) -> Self {
        Self {
            method: Some(Method::GET),
            ..self
        }
    }

    /// Also requests that access control refuses.
    #[must_use]
    pub fn before_access(self) -> Self {
        Self {
            before_access: true,
            ..self
        }
    }

    pub(super) fn fits(&self, request: &Seen<'_>) -> bool {
        let target = match &self.target {
            Target::Any => true,
            Target::Digest(digest) => request.digest == Some(digest),
            Target::Path(path) => request.path == path,
            Target::Repository(name) => request.repository == Some(name),
            Target::Blobs => request.kind == Kind::Blob,
            Target::Manifests => request.kind == Kind::Manifest,
            Target::Token => request.kind == Kind::Token,
        };
        let method = self.method.as_ref().is_none_or(|method| method == request.method);
        target && method && (self.before_access || !request.refused)
    }
}

/// What a rule can know of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) repository: Option<&'a str>,
    pub(super) digest: Option<&'a str>,
    pub(super) kind: Kind,
    pub(super) refused: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Blob,
    Manifest,
    Token,
    Other,
}

/// Which of the matching requests misbehave. Requests are counted from 1, by each rule for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// All.
    Always,
    /// The nth.
    Nth(u64),
    /// The first n.
    First(u64),
    /// All after the first n.
    After(u64),
    /// Every nth: n, 2n, 3n …
    Every(u64),
    /// So many in a hundred, picked by the origin's seeded generator.
    Percent(u8),
}

/// Names an injected rule, to remove it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FaultId(u64);

#[derive(Debug)]
struct Rule {
    id: FaultId,
    what: Match,
    when: When,
    fault: Fault,
    matched: u64,
    fired: u64,
}

/// The injected rules.
#[derive(Debug, Default)]
pub(super) struct Rules {
    rules: Vec<Rule>,
    next: u64,
    random: u64,
    fired: u64,
}

impl Rules {
    pub(super) fn inject(&mut self, what: Match, when: When, fault: Fault) -> FaultId {
        let id = FaultId(self.next);
        self.next += 1;
        self.rules.push(Rule {
            id,
            what,
            when,
            fault,
            matched: 0,
            fired: 0,
        });
        id
    }

    pub(super) fn remove(&mut self, id: FaultId) -> bool {
        let before = self.rules.len();
        self.rules.retain(|rule| rule.id != id);
        self.rules.len() < before
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    pub(super) fn seed(&mut self, seed: u64) {
        self.random = seed;
    }

    pub(super) fn fired(&self, id: FaultId) -> u64 {
        self.rules
            .iter()
            .find(|rule| rule.id == id)
            .map_or(0, |rule| rule.fired)
    }

    /// How often any fault was part of an answer, removed ones as well.
    pub(super) fn fired_total(&self) -> u64 {
        self.fired
    }

    /// The faults that act on this request, in the order of their injection.
    pub(super) fn select(&mut self, request: &Seen<'_>) -> Vec<Fault> {
        let mut faults = Vec::new();
        for rule in self.rules.iter_mut().filter(|rule| rule.what.fits(request)) {
            rule.matched += 1;
            let fires = match rule.when {
                When::Always => true,
                When::Nth(n) => rule.matched == n,
                When::First(n) => rule.matched <= n,
                When::After(n) => rule.matched > n,
                When::Every(n) => rule.matched.is_multiple_of(n.max(1)),
                When::Percent(percent) => {
                    self.random = self.random.wrapping_add(1);
                    mix(self.random) % 100 < u64::from(percent)
                }
            };
            if fires {
                rule.fired += 1;
                self.fired += 1;
                faults.push(rule.fault.clone());
            }
        }
        faults
    }
}
