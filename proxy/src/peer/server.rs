//! The answering side: pieces that are linked, and the news of which those are.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use darter_service::limit::Limiter;
use darter_service::net::PeerAddr;
use darter_service::tls::PeerIdentity;
use darter_service::trace_context;
use darter_types::{ByteRange, HostId, PieceSet, TaskId};
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::Instrument as _;
use tracing::field::Empty;

use super::news::write_have;
use super::rates::Rates;
use super::upload::Upload;
use super::{
    ASKED_HEADER, HOST_HEADER, INLINE_BYTES_MAX, INLINE_HEADER, ON_DEMAND_QUERY, PeerConfig, REGISTRY_HEADER,
    REPOSITORY_HEADER,
};
use crate::metrics::PeerMetrics;
use crate::pull::{Availability, Leave, PullError, Pulls, Right};

/// Body of an answer.
pub(super) type PeerBody = http_body_util::combinators::UnsyncBoxBody<Bytes, PullError>;

/// How long a request waits for its turn before it is refused with 503.
const QUEUE: Duration = Duration::from_secs(1);
/// How often a node says that it lives.
const PING: Duration = Duration::from_millis(500);
/// How long a node that asks for news of an unknown content waits for it to begin here.
const UNKNOWN: Duration = Duration::from_secs(5);
/// Contents whose news are remembered beside their streams.
const SERVING_MAX: usize = 4096;

/// Answers other nodes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PeerServer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pulls: Pulls,
    uploads: Arc<Semaphore>,
    uploads_max: usize,
    rates: Rates,
    metrics: Arc<PeerMetrics>,
    /// Contents with listeners: their news outlive the pull that made them.
    serving: Mutex<BTreeMap<TaskId, Weak<Availability>>>,
}

/// What another node asks about a content: the end of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Bytes of it.
    Pieces,
    /// Which pieces there are, and which come.
    Have,
}

impl Route {
    /// All that there are.
    pub const ALL: [Self; 2] = [Self::Pieces, Self::Have];

    /// As the path has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pieces => "pieces",
            Self::Have => "have",
        }
    }

    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|route| route.name() == name)
    }
}

impl PeerServer {
    /// Serves what `pulls` fetches and has stored.
    pub fn new(config: &PeerConfig, pulls: Pulls, metrics: Arc<PeerMetrics>) -> Self {
        let all = Limiter::adjustable(config.upload_bytes_per_second_max, &metrics.delayed("all"));
        let rates = Rates::new(
            all,
            config.upload_bytes_per_second_max_per_node,
            metrics.delayed("node"),
        );
        let uploads_max = config.uploads_max.max(1);
        let uploads = Arc::new(Semaphore::new(uploads_max));
        Self {
            inner: Arc::new(Inner {
                pulls,
                uploads,
                uploads_max,
                rates,
                metrics,
                serving: Mutex::default(),
            }),
        }
    }

    /// The rate of all that is sent, which may be changed.
    pub(crate) fn upload_rate(&self) -> Limiter {
        self.inner.rates.all()
    }

    /// Answers one request of a node.
    pub async fn answer<B>(&self, request: Request<B>, node: PeerAddr) -> Response<PeerBody> {
        if !is_honest(&request) {
            return plain(StatusCode::FORBIDDEN);
        }
        let parts = parse_path(request.uri().path());
        let parts = parts.and_then(|(task, what)| Some((task, Route::of(what)?)));
        let answer = match (request.method(), parts) {
            (&Method::GET, Some((task, Route::Pieces))) => {
                let span = tracing::info_span!("pieces", %task, status = Empty);
                trace_context::adopt(&span, request.headers());
                let answer = self.pieces(task, request.headers(), node);
                let answer = answer.instrument(span.clone()).await;
                let status = answer.as_ref().map_or_else(|status| *status, Response::status);
                span.record("status", status.as_u16());
                answer
            }
            (&Method::GET, Some((task, Route::Have))) => {
                let on_demand = ON_DEMAND_QUERY.strip_prefix('?') == request.uri().query();
                self.have(task, request.headers(), on_demand)
            }
            (&Method::GET, _) => Err(StatusCode::NOT_FOUND),
            _ => Err(StatusCode::METHOD_NOT_ALLOWED),
        };
        answer.unwrap_or_else(plain)
    }

    fn find(&self, task: TaskId) -> Option<Arc<Availability>> {
        let mut serving = self.inner.serving.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = serving.get(&task).and_then(Weak::upgrade) {
            return Some(found);
        }
        let found = self.inner.pulls.find(task)?;
        if serving.len() >= SERVING_MAX {
            serving.retain(|_, weak| weak.strong_count() > 0);
        }
        if serving.len() < SERVING_MAX {
            serving.insert(task, Arc::downgrade(&found));
        }
        Some(found)
    }

    /// Whether so many pieces are being sent that the way out is likely to be full.
    fn is_busy(&self) -> bool {
        let Inner {
            uploads, uploads_max, ..
        } = &*self.inner;
        uploads.available_permits() * 4 <= *uploads_max * 3
    }

    // === pieces ===

    async fn pieces(
        &self,
        task: TaskId,
        headers: &HeaderMap,
        node: PeerAddr,
    ) -> Result<Response<PeerBody>, StatusCode> {
        if self.inner.pulls.may_leave(task, right(headers).as_ref()) != Leave::Yes {
            return Err(StatusCode::NOT_FOUND);
        }
        let availability = self.find(task).ok_or(StatusCode::NOT_FOUND)?;
        let (stored, layout) = availability.stored().ok_or(StatusCode::NOT_FOUND)?;
        let range = match headers.get(header::RANGE) {
            None => ByteRange::new(0, layout.length()),
            Some(value) => value
                .to_str()
                .ok()
                .and_then(parse_range)
                .ok_or(StatusCode::BAD_REQUEST)?,
        };
        if range.end > layout.length() {
            return Err(StatusCode::RANGE_NOT_SATISFIABLE);
        }
        let run = layout.pieces_of(range);
        if !availability.has(run) {
            return Err(StatusCode::NOT_FOUND);
        }
        let turn = timeout(QUEUE, Arc::clone(&self.inner.uploads).acquire_owned()).await;
        let Some(turn) = turn.ok().and_then(Result::ok) else {
            self.inner.metrics.upload_refused();
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        };
        self.inner.metrics.upload_began();
        let upload = Upload {
            stored,
            availability,
            layout,
            range,
            offset: range.start,
            rates: self.inner.rates.of(node),
            metrics: Arc::clone(&self.inner.metrics),
            _turn: turn,
        };
        Response::builder()
            .status(StatusCode::PARTIAL_CONTENT)
            .header(header::CONTENT_LENGTH, range.len())
            .header(
                header::CONTENT_RANGE,
                format!(
                    "bytes {}-{}/{}",
                    range.start,
                    range.end.saturating_sub(1),
                    layout.length()
                ),
            )
            .body(upload.into_body())
            .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)
    }

    // === news ===

    fn have(
        &self,
        task: TaskId,
        headers: &HeaderMap,
        on_demand: bool,
    ) -> Result<Response<PeerBody>, StatusCode> {
        let right = right(headers);
        if self.inner.pulls.may_leave(task, right.as_ref()) == Leave::Refused {
            return Err(StatusCode::NOT_FOUND);
        }
        let text = |name| {
            headers
                .get(name)
                .and_then(|value: &http::HeaderValue| value.to_str().ok())
        };
        let child = text(HOST_HEADER).and_then(|host| host.parse::<HostId>().ok());
        let inline = text(INLINE_HEADER)
            .and_then(|bytes| bytes.parse().ok())
            .unwrap_or(0);
        let story = Story {
            server: self.clone(),
            task,
            child,
            right,
            inline_max: INLINE_BYTES_MAX.min(inline),
            on_demand,
            told: None,
            withdrawals: 0,
            listening: None,
            asked: Instant::now(),
            over: false,
        };
        let lines = stream::unfold(story, |mut story| async move {
            let bytes = story.next().await?;
            Some((Ok(Frame::data(bytes)), story))
        });
        Ok(Response::new(StreamBody::new(lines).boxed_unsync()))
    }
}

/// Whether a node that says who it is has proved that. Without certificates nobody proves anything.
fn is_honest<B>(request: &Request<B>) -> bool {
    let said = request.headers().get(HOST_HEADER);
    let (Some(said), Some(proved)) = (said, request.extensions().get::<Arc<PeerIdentity>>()) else {
        return true;
    };
    said.to_str().is_ok_and(|said| proved.may_be(said))
}

/// By which right a content is asked for. Nodes of releases before this one do not say all of it: they get what anybody may
/// have.
fn right(headers: &HeaderMap) -> Option<Right> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    Some(Right {
        registry: text(REGISTRY_HEADER)?.parse().ok()?,
        repository: text(REPOSITORY_HEADER)?.parse().ok()?,
        asked: headers.contains_key(ASKED_HEADER),
    })
}

fn plain(status: StatusCode) -> Response<PeerBody> {
    let text = format!("{status}\n");
    let body = Full::from(text)
        .map_err(|never: Infallible| match never {})
        .boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

/// `/v1/tasks/<task>/<what>`
fn parse_path(path: &str) -> Option<(TaskId, &str)> {
    let (task, what) = path.strip_prefix("/v1/tasks/")?.split_once('/')?;
    Some((task.parse().ok()?, what))
}

/// One bounded range, as a child asks for it: `bytes=<first>-<last>`.
fn parse_range(text: &str) -> Option<ByteRange> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let digits = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| text.parse::<u64>().ok())?
    };
    let (first, last) = (digits(first)?, digits(last)?);
    (first <= last).then(|| ByteRange::new(first, last.saturating_add(1)))
}

/// The body of a fuzz target: a path, and behind a space the value of `Range`.
///
/// # Panics
/// If a task is read that has another name, or a range that has no bytes.
pub fn fuzz_request(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (path, range) = text.split_once(' ').unwrap_or((&text, ""));
    if let Some((task, what)) = parse_path(path) {
        assert_eq!(format!("/v1/tasks/{task}/{what}"), path, "another name");
    }
    if let Some(range) = parse_range(range) {
        assert!(!range.is_empty(), "{text:?} is read as {range}");
    }
}

/// The body of one answer with news.
struct Story {
    server: PeerServer,
    task: TaskId,
    child: Option<HostId>,
    right: Option<Right>,
    inline_max: u64,
    /// The child waits for single pieces.
    on_demand: bool,
    /// Pieces that the child was told of.
    told: Option<PieceSet>,
    /// How often some of them had been taken back then.
    withdrawals: u32,
    listening: Option<Arc<Availability>>,
    asked: Instant,
    over: bool,
}

impl Story {
    /// The next lines; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        let Some(availability) = self.listening.clone() else {
            return self.wait_for_content().await;
        };
        let failed = || availability.outcome().is_some_and(|outcome| outcome.is_err());
        let found = found_before_ping(&availability, || match self.news(&availability) {
            Some(lines) => Some(Some(lines)),
            None => failed().then_some(None),
        });
        match found.await {
            Some(lines) => lines,
            None => {
                let left = availability.offers_tick(self.server.is_busy());
                if left > 0 {
                    tracing::debug!(task = %self.task, pieces = left, "shows all children what one left lying");
                }
                let lines = self.news(&availability);
                Some(lines.unwrap_or_else(|| Bytes::from_static(b"ping\n")))
            }
        }
    }

    /// The content may be about to begin here: the child was sent ahead of the lease. One that does not go to the child is
    /// waited for as well, so that nobody hears that it is here.
    async fn wait_for_content(&mut self) -> Option<Bytes> {
        let mut arrivals = self.server.inner.pulls.arrivals();
        arrivals.mark_seen();
        let leave = self.server.inner.pulls.may_leave(self.task, self.right.as_ref());
        if leave == Leave::Elsewhere {
            self.over = true;
            return Some(Bytes::from_static(b"elsewhere\n"));
        }
        if leave == Leave::Yes
            && let Some(availability) = self.server.find(self.task)
        {
            if let Some(child) = &self.child {
                availability.child_joined(child, self.on_demand);
            }
            self.listening = Some(availability);
            return Some(Bytes::from_static(b"ping\n"));
        }
        if self.asked.elapsed() >= UNKNOWN {
            return None;
        }
        // Either way there is something to look at again, and the child hears that this node lives.
        let _ = timeout(PING, arrivals.changed()).await;
        Some(Bytes::from_static(b"ping\n"))
    }

    /// A small content as a whole.
    fn inline(availability: &Availability, length: u64) -> Option<Bytes> {
        let (stored, _) = availability.stored()?;
        let content = stored.read(ByteRange::new(0, length)).ok()?;
        (content.len() as u64 == length).then_some(content)
    }

    /// What the child was not told yet.
    fn news(&mut self, availability: &Availability) -> Option<Bytes> {
        let (present, length) = availability.visible_to(self.child.as_ref())?;
        let mut lines = String::new();
        let first = self.told.is_none();
        let told = self.told.get_or_insert_with(|| PieceSet::new(present.capacity()));
        let mut new = PieceSet::new(present.capacity());
        let withdrawals = availability.withdrawals();
        if std::mem::replace(&mut self.withdrawals, withdrawals) != withdrawals {
            // What was taken back is told again when it comes again.
            told.retain_all(&present);
        }
        for piece in present.iter().filter(|piece| !told.contains(*piece)) {
            new.insert(piece);
        }
        told.insert_all(&new);
        let complete = told.is_full();
        if first {
            lines = format!("length {length}\n");
        }
        let mut bytes = Vec::new();
        if complete
            && length > 0
            && length <= self.inline_max
            && let Some(content) = Self::inline(availability, length)
        {
            bytes.extend(format!("{lines}inline {length}\n").into_bytes());
            bytes.extend(&content);
            self.server.inner.metrics.sent(content.len());
            lines = String::new();
        }
        lines.push_str(&write_have(new.runs()));
        if complete {
            lines.push_str("end\n");
            self.over = true;
        }
        bytes.extend(lines.into_bytes());
        (!bytes.is_empty()).then(|| bytes.into())
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        if let (Some(availability), Some(child)) = (&self.listening, &self.child) {
            availability.child_left(child, self.on_demand);
        }
    }
}

/// What `look` finds, as soon as it finds something; `None` when a ping is due, however much changes meanwhile that is not
/// for this child: of what a source fetches, others are shown the most.
async fn found_before_ping<T>(availability: &Availability, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let ping = Instant::now() + PING;
    loop {
        let mut changes = availability.watch();
        changes.mark_seen();
        if let Some(found) = look() {
            return Some(found);
        }
        timeout_at(ping, changes.changed()).await.ok()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_is_shown_nothing_while_much_happens_hears_that_the_node_lives() {
        let availability = Arc::new(Availability::new());
        let (child, other): (HostId, HostId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let busy = Arc::clone(&availability);
        let changes = async {
            loop {
                busy.child_joined(&other, false);
                tokio::time::sleep(PING / 5).await;
            }
        };
        let began = Instant::now();
        let look = || availability.visible_to(Some(&child));
        tokio::select! {
            () = changes => unreachable!("changes never end"),
            found = found_before_ping(&availability, look) => assert!(found.is_none()),
        }
        assert_eq!(began.elapsed(), PING);
    }

    #[test]
    fn what_is_taken_is_what_was_asked() {
        darter_testkit::fuzz::check("peer_request", fuzz_request);
    }

    #[test]
    fn takes_one_bounded_range_only() {
        assert_eq!(parse_range("bytes=0-9"), Some(ByteRange::new(0, 10)));
        for bad in [
            "",
            "bytes=",
            "bytes=5-",
            "bytes=-5",
            "bytes=9-5",
            "bytes=0-1,3-4",
            "bytes=+1-2",
            "items=0-1",
        ] {
            assert_eq!(parse_range(bad), None, "{bad:?}");
        }
        assert_eq!(
            parse_range(&format!("bytes=0-{}", u64::MAX)),
            Some(ByteRange::new(0, u64::MAX))
        );
    }

    #[test]
    fn takes_tasks_by_their_name_only() {
        let task = TaskId::of_url("x", "", "", "");
        assert_eq!(
            parse_path(&format!("/v1/tasks/{task}/have")),
            Some((task, "have"))
        );
        for bad in [
            "/",
            "/v1/tasks//have",
            "/v1/tasks/../have",
            "/v1/tasks/sha256:00/have",
            "/v1/tasks/x",
        ] {
            assert!(parse_path(bad).is_none(), "{bad}");
        }
    }
}
