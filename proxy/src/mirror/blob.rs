//! `/v2/<name>/blobs/<digest>`: any range of it, as its bytes are proved.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use darter_types::{ByteRange, ContentKind, Digest, OriginLocator, PieceLayout};
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE, RANGE};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt as _;
use tokio::time::timeout_at;

use crate::access::Permit;
use crate::pull::{PullError, PullRequest};

use super::body::{ContentBody, Part, length_of};
use super::client::Client;
use super::giveup::Opening;
use super::range::{Asked, Selection, select};
use super::reply::{self, BodyError, Code};
use super::{Answer, Ask, CONTENT_DIGEST, KnownContent, Mirror, OpenContent, Reply, refuse};

const OCTETS: &str = "application/octet-stream";
/// Says of a request, with the value `background`, that nobody waits for its answer yet. Heard from this machine alone.
const PRIORITY: HeaderName = HeaderName::from_static("x-darter-priority");
/// Says of a request, with the value `linked`, that who sent it checks what it reads, and waits for no proof of the whole. Heard from
/// this machine alone.
const RELEASE: HeaderName = HeaderName::from_static("x-darter-release");

/// What is sent: the head's own lines and the parts of the body.
struct Plan {
    status: StatusCode,
    media_type: String,
    content_range: Option<String>,
    parts: Vec<Part>,
}

impl Ask {
    /// Whether somebody waits for the answer.
    fn is_urgent(&self) -> bool {
        !self.is_of_this_machine() || self.text(PRIORITY) != Some("background")
    }

    /// Whether who asks checks what it reads.
    fn checks(&self) -> bool {
        self.is_of_this_machine() && self.text(RELEASE) == Some("linked")
    }

    fn is_of_this_machine(&self) -> bool {
        self.client.as_ref().is_some_and(Client::is_of_this_machine)
    }
}

impl Mirror {
    /// Answers GET and HEAD of a blob.
    pub(super) async fn blob(&self, ask: &Ask, digest: Digest) -> Answer {
        let content = OriginLocator {
            registry: ask.target.registry.clone(),
            repository: ask.target.repository.clone(),
            kind: ContentKind::Blob,
            digest,
        };
        let held = self.inner.contents.holds(digest.into());
        let permit = self.permit(ask, &content, held.as_ref()).await?;
        self.vouch(ask, &content, &permit, held.as_ref()).await?;
        let vouched = held.is_some();
        if let Some(length) = permit.head.as_ref().and_then(|head| head.length) {
            // The right lasts longer than this answer, and who comes by it then is told no length.
            self.inner.memory.remember_told(&content, length);
        }
        let opening = self.opening(ask, &content, held.is_some())?;
        let length = self.length(&content, &permit, held.as_ref());
        let mut open = None;
        let length = match length {
            Some(length) => length,
            None => {
                let pull = self.open(ask, &content, &permit, None, vouched)?;
                let known = self.known(ask, &*pull).await?;
                open = Some(pull);
                known.length
            }
        };
        let nothing = length == 0 && digest != Digest::of(digest.algorithm(), b"");
        if nothing || length > PieceLayout::LENGTH_MAX {
            // No byte could be held back until the proof: the client would take nothing for the whole. And nobody has as
            // many as that.
            return Err(refuse(ask.pull_error(&PullError::WrongContent)));
        }
        let plan = Plan::new(ask, digest, length)?;
        let mut reply = plan.head(digest);
        if ask.method == Method::HEAD {
            return Ok(reply);
        }
        if !ask.is_urgent() && held.is_none() {
            self.await_turn(ask).await?;
        }
        let open = match open {
            Some(open) => open,
            None => self.open(ask, &content, &permit, Some(length), vouched)?,
        };
        let standing = self.inner.access.standing(&content, &permit);
        if let (Some(client), Some(standing)) = (&ask.client, &standing) {
            client.sends_by(standing);
        }
        let running = self.inner.streams.start(digest.into());
        let body = ContentBody::new(open, plan.parts, running).by(standing);
        *reply.body_mut() = self.body(ask, body, digest, opening).await?;
        Ok(reply)
    }

    /// Waits until nobody else waits for bytes, as long as a client waits for headers: what can wait comes again.
    async fn await_turn(&self, ask: &Ask) -> Result<(), Box<Reply>> {
        let deadline = ask.arrived + self.inner.config.first_byte_deadline.as_duration();
        timeout_at(deadline, self.inner.contents.quiet())
            .await
            .map_err(|_| refuse(reply::busy("others wait for bytes; what can wait may come again")))
    }

    /// Whether this content broke off a moment ago; HEAD is not concerned.
    fn opening(&self, ask: &Ask, content: &OriginLocator, held: bool) -> Result<Opening, Box<Reply>> {
        let digest = content.digest;
        if ask.method == Method::HEAD {
            return Ok(Opening::Serve);
        }
        if held {
            self.inner.streams.works_again(digest.into());
        }
        let opening = self.inner.streams.opening(digest.into());
        if opening != Opening::Serve {
            self.inner.memory.forget_told(content);
        }
        match opening {
            Opening::Serve => Ok(Opening::Serve),
            Opening::EndAtOnce if ask.headers.contains_key(RANGE) => Ok(Opening::EndAtOnce),
            Opening::EndAtOnce | Opening::HandOver => {
                self.inner.metrics.handed_over();
                Err(refuse(hand_over()))
            }
        }
    }

    fn length(&self, content: &OriginLocator, permit: &Permit, held: Option<&KnownContent>) -> Option<u64> {
        held.map(|held| held.length)
            .or_else(|| permit.head.as_ref().and_then(|head| head.length))
            .or_else(|| self.inner.memory.length(content))
    }

    /// Opens a content on behalf of whoever holds the permit; `vouched` as in [`PullRequest::vouched`].
    pub(super) fn open(
        &self,
        ask: &Ask,
        content: &OriginLocator,
        permit: &Permit,
        length: Option<u64>,
        vouched: bool,
    ) -> Result<Arc<dyn OpenContent>, Box<Reply>> {
        self.inner
            .contents
            .open(PullRequest {
                whole: !ask.headers.contains_key(RANGE),
                urgent: ask.is_urgent(),
                checks: ask.checks(),
                ..self.pull_request(content, permit, length, vouched)
            })
            .map_err(|problem| refuse(ask.pull_error(&problem)))
    }

    /// What is asked of the pulls, on behalf of whoever holds the permit.
    pub(super) fn pull_request(
        &self,
        content: &OriginLocator,
        permit: &Permit,
        length: Option<u64>,
        vouched: bool,
    ) -> PullRequest {
        PullRequest {
            locator: content.clone(),
            length,
            media_type: permit.head.as_ref().and_then(|head| head.media_type.clone()),
            credentials: permit.credentials.clone(),
            public: permit.public,
            vouched,
            asked: permit.is_about(content),
            whole: true,
            urgent: true,
            checks: false,
        }
    }

    /// The body, unless it is known by now that there will be none.
    async fn body(
        &self,
        ask: &Ask,
        mut body: ContentBody,
        digest: Digest,
        opening: Opening,
    ) -> Result<super::ReplyBody, Box<Reply>> {
        if opening == Opening::EndAtOnce {
            return Ok(body.ended().boxed_unsync());
        }
        match poll_fn(|cx| Poll::Ready(body.early_failure(cx))).await {
            None => Ok(body.boxed_unsync()),
            Some(problem) => {
                tracing::warn!(%digest, error = %problem, "blob cannot be served, the client is handed over");
                self.inner.metrics.handed_over();
                Err(refuse(match problem {
                    BodyError::Pull(problem) => ask.pull_error(&problem),
                    _ => hand_over(),
                }))
            }
        }
    }
}

fn hand_over() -> Reply {
    reply::unavailable("this content broke off a moment ago", Duration::from_secs(1))
}

impl Plan {
    fn new(ask: &Ask, digest: Digest, length: u64) -> Result<Self, Box<Reply>> {
        let asked = Asked {
            method: &ask.method,
            range: ask.text(RANGE),
            if_range: ask.text(IF_RANGE),
        };
        // An If-Range that cannot be read matches nothing.
        let unreadable = ask.headers.contains_key(IF_RANGE) && asked.if_range.is_none();
        let asked = Asked {
            range: asked.range.filter(|_| !unreadable),
            ..asked
        };
        match select(asked, length, &etag(digest)) {
            Selection::Whole => Ok(Self::whole(length)),
            Selection::One(range) => Ok(Self::one(range, length)),
            Selection::Several(ranges) => {
                let several = Self::several(&ranges, length, digest);
                // RFC 9110 section 15.3.7.2: where the frames of the parts cost more than the rest of the content, it is
                // sent whole. No request is answered with more than the content.
                let costly = length_of(&several.parts) > length;
                Ok(if costly { Self::whole(length) } else { several })
            }
            Selection::NotSatisfiable => Err(refuse(not_satisfiable(length))),
            Selection::TooMany => Err(refuse(reply::error(
                StatusCode::BAD_REQUEST,
                Code::RangeInvalid,
                "ask for at most 16 ranges that do not overlap",
            ))),
        }
    }

    fn whole(length: u64) -> Self {
        Self {
            status: StatusCode::OK,
            media_type: OCTETS.to_owned(),
            content_range: None,
            parts: Some(ByteRange::new(0, length))
                .filter(|range| !range.is_empty())
                .map(Part::Range)
                .into_iter()
                .collect(),
        }
    }

    fn one(range: ByteRange, length: u64) -> Self {
        Self {
            status: StatusCode::PARTIAL_CONTENT,
            media_type: OCTETS.to_owned(),
            content_range: Some(content_range(range, length)),
            parts: vec![Part::Range(range)],
        }
    }

    /// RFC 9110 section 14.6. The boundary is made of the content's own digest, which no content can hold.
    fn several(ranges: &[ByteRange], length: u64, digest: Digest) -> Self {
        let boundary: String = digest.hex().chars().take(40).collect();
        let mut parts = Vec::with_capacity(2 * ranges.len() + 1);
        for range in ranges {
            let head = format!(
                "\r\n--{boundary}\r\nContent-Type: {OCTETS}\r\nContent-Range: {}\r\n\r\n",
                content_range(*range, length)
            );
            parts.push(Part::Text(head.into()));
            parts.push(Part::Range(*range));
        }
        parts.push(Part::Text(Bytes::from(format!("\r\n--{boundary}--\r\n"))));
        Self {
            status: StatusCode::PARTIAL_CONTENT,
            media_type: format!("multipart/byteranges; boundary={boundary}"),
            content_range: None,
            parts,
        }
    }

    fn head(&self, digest: Digest) -> Reply {
        let mut reply = Reply::new(reply::whole(Bytes::new()));
        *reply.status_mut() = self.status;
        reply::set_text(&mut reply, CONTENT_TYPE, &self.media_type);
        reply::set(
            &mut reply,
            CONTENT_LENGTH,
            HeaderValue::from(length_of(&self.parts)),
        );
        reply::set(&mut reply, ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        reply::set_text(&mut reply, ETAG, &etag(digest));
        reply::set_text(&mut reply, CONTENT_DIGEST, &digest.to_string());
        if let Some(range) = &self.content_range {
            reply::set_text(&mut reply, CONTENT_RANGE, range);
        }
        reply
    }
}

/// The strong entity tag of a content.
pub(super) fn etag(digest: Digest) -> String {
    format!("\"{digest}\"")
}

fn content_range(range: ByteRange, length: u64) -> String {
    format!("bytes {}-{}/{length}", range.start, range.end.saturating_sub(1))
}

fn not_satisfiable(length: u64) -> Reply {
    let message = format!("the content has {length} bytes");
    let mut reply = reply::final_error(StatusCode::RANGE_NOT_SATISFIABLE, Code::RangeInvalid, &message);
    reply::set_text(&mut reply, CONTENT_RANGE, &format!("bytes */{length}"));
    reply
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::path::{Endpoint, Target, Via};
    use darter_service::net::{Network as _, PeerAddr, TokioNetwork};
    use darter_types::Algorithm;
    use http::HeaderMap;
    use tokio::time::Instant;

    /// A connection to this machine, from what is said to be `from`.
    async fn client(from: PeerAddr) -> Client {
        let mut listener = TokioNetwork.bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (far, _near) = tokio::join!(listener.accept(), TokioNetwork.connect(&address));
        Client::of(&far.unwrap().0, from)
    }

    fn ask(client: Option<Client>, release: &'static str) -> Ask {
        let digest = Digest::of(Algorithm::Sha256, b"x");
        let mut headers = HeaderMap::new();
        headers.insert(RELEASE, HeaderValue::from_static(release));
        Ask {
            method: Method::GET,
            headers,
            target: Target {
                registry: "registry.test".parse().unwrap(),
                repository: "team/app".parse().unwrap(),
                endpoint: Endpoint::Blob(digest),
                via: Via::Query,
                query: None,
            },
            address: None,
            arrived: Instant::now(),
            client,
        }
    }

    #[tokio::test]
    async fn only_who_is_of_this_machine_is_believed_to_check_what_it_reads() {
        let ip = |text: &str| PeerAddr::Ip(text.parse().unwrap());
        for (from, is_here) in [
            (ip("127.0.0.1:4711"), true),
            (ip("[::1]:4711"), true),
            (ip("[::ffff:127.0.0.1]:4711"), true),
            (PeerAddr::Unix { uid: None }, true),
            (ip("192.0.2.7:4711"), false),
            (ip("[2001:db8::7]:4711"), false),
            (ip("[::ffff:192.0.2.7]:4711"), false),
        ] {
            let client = client(from).await;
            assert_eq!(ask(Some(client.clone()), "linked").checks(), is_here, "{from:?}");
            assert!(!ask(Some(client), "proved").checks());
        }
        assert!(!ask(None, "linked").checks(), "nobody knows where it came from");
    }
}
