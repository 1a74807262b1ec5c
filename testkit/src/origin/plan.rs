//! The answer to a request, decided at once and without I/O: first what a correct registry would say,
//! then what the injected faults make of it.

use std::io::Write as _;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::State;
use super::body::Flow;
use super::fault::{Fault, RedirectTo};
use super::wire::Ending;
use crate::content::{self, Content};
use crate::range_model::{self, Policy, RangeRequest, Representation, Several};

/// Bodies above this are never compressed.
const GZIP_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// What a seeded extension of kept bytes is made from.
const EXTENSION_SEED: u64 = 0x00e7_7e4d;

/// What happens instead of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Instead {
    Silence,
    End(Ending),
}

/// An answer that is ready to be sent.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) content: Content,
    pub(super) slice: Range<u64>,
    pub(super) flow: Flow,
    pub(super) delay: Duration,
    pub(super) instead: Option<Instead>,
    /// The digest for which the body counts as payload.
    pub(super) digest: Option<String>,
    /// What `Content-Length` says if not the truth.
    pub(super) length: Option<u64>,
    pub(super) chunked: bool,
    ranges: bool,
}

impl Plan {
    /// 200 with this content.
    pub(super) fn content(content: Content, media_type: &str) -> Self {
        let slice = 0..content.len();
        let mut plan = Self {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            content,
            slice,
            flow: Flow::default(),
            delay: Duration::ZERO,
            instead: None,
            digest: None,
            length: None,
            chunked: false,
            ranges: false,
        };
        plan.set(header::CONTENT_TYPE, media_type);
        plan
    }

    /// An OCI error body (distribution-spec, "error codes").
    pub(super) fn error(status: StatusCode, code: &str, message: &str) -> Self {
        let body = serde_json::json!({ "errors": [{ "code": code, "message": message }] });
        let mut plan = Self::content(body.to_string().into(), "application/json");
        plan.status = status;
        plan
    }

    pub(super) fn json(value: &serde_json::Value, media_type: &str) -> Self {
        Self::content(value.to_string().into(), media_type)
    }

    /// Content with a digest: its headers, and its bytes count.
    pub(super) fn addressed(content: Content, media_type: &str, digest: &str) -> Self {
        let mut plan = Self::content(content, media_type);
        plan.set(header::ETAG, &format!("\"{digest}\""));
        plan.set(HeaderName::from_static("docker-content-digest"), digest);
        plan.digest = Some(digest.to_owned());
        plan
    }

    /// Ranges of it may be asked for.
    pub(super) fn with_ranges(mut self) -> Self {
        self.ranges = true;
        self.set(header::ACCEPT_RANGES, "bytes");
        self
    }

    pub(super) fn set(&mut self, name: HeaderName, value: &str) {
        let value = HeaderValue::from_str(value).expect("a test's header value has no control characters");
        self.headers.insert(name, value);
    }

    /// Becomes another answer, but keeps what was decided about time.
    fn become_plan(&mut self, other: Self) {
        let delay = self.delay;
        *self = Self { delay, ..other };
    }

    /// Faults that change what the resource *is*: before a range of it is taken.
    pub(super) fn change(&mut self, fault: &Fault, request: &Parts) {
        match fault {
            Fault::IgnoreRange => self.ranges = false,
            Fault::ShortBy(bytes) => {
                let content = self.content.clone();
                self.replace(resized(&content, content.len().saturating_sub(*bytes)));
            }
            Fault::LongBy(bytes) => {
                let content = self.content.clone();
                self.replace(resized(&content, content.len().saturating_add(*bytes)));
            }
            Fault::Replace { content, etag } => {
                self.replace(content.clone());
                self.set(header::ETAG, etag);
            }
            Fault::Gzip => self.compress(request),
            _ => {}
        }
    }

    fn replace(&mut self, content: Content) {
        self.slice = 0..content.len();
        self.content = content;
    }

    fn compress(&mut self, request: &Parts) {
        let accepted = text(&request.headers, &header::ACCEPT_ENCODING).is_some_and(|v| v.contains("gzip"));
        if !accepted || self.content.len() > GZIP_BYTES_MAX {
            return;
        }
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder
            .write_all(&self.content.read(0..u64::MAX))
            .expect("writing to memory cannot fail");
        self.replace(encoder.finish().expect("writing to memory cannot fail").into());
        self.set(header::CONTENT_ENCODING, "gzip");
        self.ranges = false;
    }

    /// Takes the range that is asked for, if ranges are supported here.
    pub(super) fn take_range(&mut self, request: &Parts) {
        if !self.ranges || self.status != StatusCode::OK {
            return;
        }
        let asked = RangeRequest {
            method: request.method.clone(),
            range: text(&request.headers, &header::RANGE),
            if_range: text(&request.headers, &header::IF_RANGE),
        };
        let etag = text(&self.headers, &header::ETAG);
        let has = Representation {
            length: self.content.len(),
            etag,
            last_modified: None,
        };
        let policy = Policy {
            several: Several::Whole,
            ..Policy::default()
        };
        let answer = range_model::expected(&asked, &has, policy);
        if answer.status == 416 {
            self.become_plan(Self::error(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "RANGE_INVALID",
                "past the end",
            ));
        } else {
            self.slice = answer.slice;
        }
        self.status = StatusCode::from_u16(answer.status).expect("the model gives valid codes");
        if let Some(value) = &answer.content_range {
            self.set(header::CONTENT_RANGE, value);
        }
    }

    /// Faults of the answer itself.
    pub(super) fn misbehave(
        &mut self,
        fault: &Fault,
        request: &Parts,
        state: &mut State,
        digest: Option<&str>,
    ) {
        match fault {
            Fault::Status { code, retry_after } => self.become_status(*code, *retry_after),
            Fault::Delay(delay) => self.delay += *delay,
            Fault::Silence => self.instead = Some(Instead::Silence),
            Fault::HangUp(by) => self.instead = Some(Instead::End(Ending::Cut(*by))),
            Fault::Raw(bytes) => self.instead = Some(Instead::End(Ending::Raw(bytes.clone()))),
            Fault::Drip { bytes_per_second } => self.flow.bytes_per_second = Some((*bytes_per_second).max(1)),
            Fault::Cut { at, by } => self.flow.cut = Some((*at, *by)),
            Fault::Stall { at } => self.flow.stall = Some(*at),
            Fault::WrongByte { at } => self.flow.flips.push(*at),
            Fault::NoBytes => self.slice.end = self.slice.start,
            Fault::HeadLength(length) if request.method == Method::HEAD => self.length = Some(*length),
            Fault::Redirect(to) => self.redirect(to, request, state, digest),
            Fault::Html => {
                let page = "<!doctype html><title>Sign in</title><p>Sign in to use this network.";
                self.become_plan(Self::content(page.into(), "text/html; charset=utf-8"));
            }
            Fault::Chunked => self.chunked = true,
            Fault::SetHeader(name, value) => self.set(HeaderName::from_static(name), value),
            Fault::DropHeader(name) => _ = self.headers.remove(*name),
            Fault::HeadLength(_) | Fault::IgnoreRange | Fault::Gzip => {}
            Fault::ShortBy(_) | Fault::LongBy(_) | Fault::Replace { .. } => {}
        }
    }

    fn become_status(&mut self, code: u16, retry_after: Option<u64>) {
        let status = StatusCode::from_u16(code).expect("a test's status is 100 to 999");
        let name = match code {
            401 => "UNAUTHORIZED",
            403 => "DENIED",
            404 => "BLOB_UNKNOWN",
            405 => "UNSUPPORTED",
            429 => "TOOMANYREQUESTS",
            _ => "UNKNOWN",
        };
        self.become_plan(Self::error(status, name, "injected fault"));
        if let Some(seconds) = retry_after {
            self.set(header::RETRY_AFTER, &seconds.to_string());
        }
    }

    fn redirect(&mut self, to: &RedirectTo, request: &Parts, state: &mut State, digest: Option<&str>) {
        let storage = format!("/storage/{}", digest.unwrap_or("nothing"));
        let location = match to {
            // What is already behind a redirect is served there.
            RedirectTo::SameHost | RedirectTo::Host(_) | RedirectTo::Presigned { .. }
                if request.uri.path().starts_with("/storage/") =>
            {
                return;
            }
            RedirectTo::SameHost => storage,
            RedirectTo::Host(host) => format!("{host}{storage}"),
            RedirectTo::Loop => request.uri.to_string(),
            RedirectTo::Presigned { host, valid } => {
                let host = host.as_deref().unwrap_or_default();
                format!("{host}{storage}?sig={}", state.presign(*valid))
            }
            RedirectTo::Exactly(location) => location.clone(),
        };
        self.become_plan(Self::content(Bytes::new().into(), "text/plain"));
        self.status = StatusCode::TEMPORARY_REDIRECT;
        self.set(header::LOCATION, &location);
    }

    /// Length of what leaves as a body.
    pub(super) fn body_length(&self, method: &Method) -> u64 {
        if *method == Method::HEAD {
            0
        } else {
            self.slice.end - self.slice.start
        }
    }

    /// The last headers, which depend on all the rest.
    pub(super) fn frame(&mut self) {
        if self.chunked {
            self.set(header::CONNECTION, "close");
        } else if !self.headers.contains_key(header::CONTENT_LENGTH) {
            let length = self.length.unwrap_or(self.slice.end - self.slice.start);
            self.set(header::CONTENT_LENGTH, &length.to_string());
        }
    }
}

/// The same bytes, cut or extended at the end.
fn resized(content: &Content, length: u64) -> Content {
    match content {
        Content::Generated { seed, .. } => Content::generated(*seed, length),
        Content::Bytes(bytes) => {
            let mut kept = content.read(0..length).to_vec();
            let more = length.saturating_sub(bytes.len() as u64);
            kept.extend(content::bytes_at(EXTENSION_SEED, 0, content::to_usize(more)));
            kept.into()
        }
    }
}

/// A header as text; `None` also when it is no text.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
