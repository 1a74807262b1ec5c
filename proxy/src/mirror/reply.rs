//! Answers: their bodies, the error body of the distribution specification, and which failure gets which status.
//!
//! Every answer carries `Content-Length`; none is ever chunked, for a chunked body that breaks off looks complete
//! to some clients. Back-pressure is always 503: containerd repeats a 429 five times without a pause.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use darter_origin::OriginError;
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use serde_json::json;
use thiserror::Error;

use crate::pull::PullError;

use super::path::RouteError;

/// The body of an answer.
pub type ReplyBody = UnsyncBoxBody<Bytes, BodyError>;
/// An answer.
pub type Reply = Response<ReplyBody>;

/// Why a body ends before its `Content-Length`: the connection then ends with it.
#[derive(Debug, Error)]
pub enum BodyError {
    /// The content did not come.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// The registry broke off what was relayed from it.
    #[error(transparent)]
    Origin(#[from] OriginError),
    /// What was passed on from another host broke off.
    #[error("what was passed on broke off")]
    Relayed(#[from] hyper::Error),
    /// The content ended early.
    #[error("the content ended {missing} bytes early")]
    Short {
        /// Bytes of the promised length that are missing.
        missing: u64,
    },
    /// The registry does not say any more that this client may read it.
    #[error("the right to read it is over")]
    Refused,
    /// Other ranges of the same content were given up a moment ago.
    #[error("the content was given up")]
    GivenUp,
}

/// The error codes of the distribution specification that a mirror uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// The registry does not have this blob.
    BlobUnknown,
    /// The digest does not parse.
    DigestInvalid,
    /// The registry does not have this manifest.
    ManifestUnknown,
    /// The manifest is not one that may be served.
    ManifestInvalid,
    /// The repository's name does not parse.
    NameInvalid,
    /// No such repository or endpoint.
    NameUnknown,
    /// The range cannot be served.
    RangeInvalid,
    /// Not for mirrors.
    Unsupported,
    /// Not readable by this caller.
    Denied,
    /// Credentials are wanted.
    Unauthorized,
    /// Come back later. containers/image tries its next mirror on this code.
    TooManyRequests,
    /// The registry, or this proxy, cannot answer at the moment.
    Unavailable,
}

impl Code {
    fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::RangeInvalid => "RANGE_INVALID",
            Self::Unsupported => "UNSUPPORTED",
            Self::Denied => "DENIED",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unavailable => "UNAVAILABLE",
        }
    }
}

/// A body that is whole already.
pub fn whole(bytes: impl Into<Bytes>) -> ReplyBody {
    Full::new(bytes.into())
        .map_err(|never: Infallible| match never {})
        .boxed_unsync()
}

/// An answer with these bytes.
pub fn bytes(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let body = body.into();
    let length = body.len();
    let mut reply = Response::new(whole(body));
    *reply.status_mut() = status;
    set(&mut reply, CONTENT_TYPE, HeaderValue::from_static(media_type));
    set(&mut reply, CONTENT_LENGTH, HeaderValue::from(length));
    reply
}

/// Marks an answer with which this node refuses in its own name. Whoever has another way to what was asked takes that.
#[derive(Clone, Copy, Debug)]
struct Own;

/// Whether this node refuses in its own name: what was asked may be had elsewhere.
pub(crate) fn is_own_refusal(reply: &Reply) -> bool {
    reply.extensions().get::<Own>().is_some()
}

/// A refusal of this node's own, with the body that the distribution specification gives it.
pub fn error(status: StatusCode, code: Code, message: &str) -> Reply {
    let mut reply = final_error(status, code, message);
    reply.extensions_mut().insert(Own);
    reply
}

/// An error that is true wherever one asks: what the registry says, or what follows from the content.
pub(super) fn final_error(status: StatusCode, code: Code, message: &str) -> Reply {
    let body = json!({ "errors": [{ "code": code.as_str(), "message": message, "detail": null }] });
    bytes(status, "application/json", body.to_string())
}

/// 503: the client goes on to its next host at once; those that wait instead learn for how long.
pub fn unavailable(message: &str, retry_after: Duration) -> Reply {
    let mut reply = error(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, message);
    set_retry_after(&mut reply, retry_after);
    reply
}

/// 503 because this node has enough to do. The code makes containers/image try its next mirror.
pub fn busy(message: &str) -> Reply {
    let mut reply = error(StatusCode::SERVICE_UNAVAILABLE, Code::TooManyRequests, message);
    set_retry_after(&mut reply, Duration::from_secs(1));
    reply
}

/// 405 for everything that would write.
pub fn read_only() -> Reply {
    let message = "this is a mirror: push to the registry itself";
    let mut reply = error(StatusCode::METHOD_NOT_ALLOWED, Code::Unsupported, message);
    set(&mut reply, ALLOW, HeaderValue::from_static("GET, HEAD"));
    reply
}

/// The answer to a path that is not served.
pub fn route_error(problem: &RouteError) -> Reply {
    let (status, code) = match problem {
        RouteError::Unknown | RouteError::NoRegistry => (StatusCode::NOT_FOUND, Code::NameUnknown),
        RouteError::Encoding | RouteError::Name(_) => (StatusCode::BAD_REQUEST, Code::NameInvalid),
        RouteError::Digest(_) => (StatusCode::BAD_REQUEST, Code::DigestInvalid),
        RouteError::Tag(_) => (StatusCode::BAD_REQUEST, Code::ManifestInvalid),
    };
    error(status, code, &problem.to_string())
}

/// The answer to a pull that cannot start.
pub fn pull_error(problem: &PullError, absent: Code) -> Reply {
    match problem {
        PullError::Origin(problem) => origin_error(problem, absent),
        PullError::WrongContent => bad_gateway(&problem.to_string()),
        PullError::Busy { .. } | PullError::Elsewhere => busy(&problem.to_string()),
        PullError::Range { .. } | PullError::Store(_) | PullError::Stalled(_) | PullError::Stopping => {
            unavailable(&problem.to_string(), Duration::from_secs(1))
        }
    }
}

/// The answer to a registry's failure: its own words where they are about this caller or this content, 503
/// where it cannot answer, 502 where its answer makes no sense. `absent` is the code of a 404 without words, as the
/// answer to HEAD is.
pub fn origin_error(problem: &OriginError, absent: Code) -> Reply {
    match problem {
        OriginError::Status {
            status,
            headers,
            body,
            ..
        } if matches!(
            *status,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND
        ) =>
        {
            relayed_refusal(*status, headers, body, absent)
        }
        OriginError::Status { status, .. } if status.is_client_error() && !is_patience(*status) => {
            bad_gateway(&problem.to_string())
        }
        OriginError::RateLimited { retry_after, .. } => unavailable(&problem.to_string(), *retry_after),
        OriginError::Unusable { .. } => bad_gateway(&problem.to_string()),
        OriginError::NotAllowed { .. } => error(StatusCode::FORBIDDEN, Code::Denied, &problem.to_string()),
        OriginError::Status { .. }
        | OriginError::Unreachable { .. }
        | OriginError::Cut { .. }
        | OriginError::Changed { .. }
        | OriginError::Silent { .. } => unavailable(&problem.to_string(), Duration::from_secs(1)),
    }
}

fn is_patience(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::REQUEST_TIMEOUT
}

fn bad_gateway(message: &str) -> Reply {
    error(StatusCode::BAD_GATEWAY, Code::Unavailable, message)
}

/// A 401, 403 or 404 of the registry, with its own challenge and body.
fn relayed_refusal(status: StatusCode, headers: &HeaderMap, body: &Bytes, absent: Code) -> Reply {
    let mut reply = if body.is_empty() {
        let code = match status {
            StatusCode::UNAUTHORIZED => Code::Unauthorized,
            StatusCode::FORBIDDEN => Code::Denied,
            _ => absent,
        };
        final_error(status, code, "the registry says no more than this")
    } else {
        bytes(status, "application/json", body.clone())
    };
    if let Some(media_type) = headers.get(CONTENT_TYPE).filter(|_| !body.is_empty()) {
        set(&mut reply, CONTENT_TYPE, media_type.clone());
    }
    for challenge in headers.get_all(WWW_AUTHENTICATE) {
        reply.headers_mut().append(WWW_AUTHENTICATE, challenge.clone());
    }
    reply
}

/// Takes the body away, as an answer to HEAD has none. The headers keep telling its length.
pub fn without_body(reply: Reply) -> Reply {
    reply.map(|_| whole(Bytes::new()))
}

/// Makes the connection end after this answer.
pub fn close_after(mut reply: Reply) -> Reply {
    set(&mut reply, CONNECTION, HeaderValue::from_static("close"));
    reply
}

/// Sets one header to one value.
pub fn set(reply: &mut Reply, name: HeaderName, value: HeaderValue) {
    reply.headers_mut().insert(name, value);
}

/// Sets one header to a text; a text that no header may hold is left out.
pub fn set_text(reply: &mut Reply, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        set(reply, name, value);
    }
}

fn set_retry_after(reply: &mut Reply, wait: Duration) {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    set(reply, RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    set(reply, CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16) -> OriginError {
        OriginError::Status {
            registry: "r.test".to_owned(),
            status: StatusCode::from_u16(code).unwrap(),
            headers: [(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"x\""))]
                .into_iter()
                .collect(),
            body: Bytes::from_static(b"{}"),
        }
    }

    async fn text(reply: Reply) -> String {
        let bytes = reply.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn errors_have_the_body_of_the_specification() {
        let reply = error(StatusCode::NOT_FOUND, Code::BlobUnknown, "not \"here\"");
        assert_eq!(reply.headers().get(CONTENT_TYPE).unwrap(), "application/json");
        let length = reply.headers().get(CONTENT_LENGTH).unwrap().clone();
        let body = text(reply).await;
        assert_eq!(length, body.len().to_string());
        assert_eq!(
            body,
            r#"{"errors":[{"code":"BLOB_UNKNOWN","detail":null,"message":"not \"here\""}]}"#
        );
    }

    #[test]
    fn only_refusals_pass_through() {
        for (from, to) in [
            (401, 401),
            (403, 403),
            (404, 404),
            (400, 502),
            (416, 502),
            (408, 503),
            (429, 503),
            (500, 503),
            (502, 503),
            (503, 503),
            (301, 503),
        ] {
            let reply = origin_error(&status(from), Code::BlobUnknown);
            assert_eq!(reply.status().as_u16(), to, "from {from}");
            let challenged = reply.headers().contains_key(WWW_AUTHENTICATE);
            assert_eq!(challenged, (401..=404).contains(&from), "from {from}");
            assert_eq!(
                is_own_refusal(&reply),
                !(401..=404).contains(&from),
                "from {from}"
            );
        }
    }

    #[test]
    fn what_this_node_may_not_ask_is_its_own_refusal_and_what_a_registry_denies_is_not() {
        let registry = "r.test".to_owned();
        let reason = "it is not among `allowed`".to_owned();
        let refused = origin_error(&OriginError::NotAllowed { registry, reason }, Code::BlobUnknown);
        assert_eq!(refused.status(), StatusCode::FORBIDDEN);
        assert!(is_own_refusal(&refused) && is_own_refusal(&without_body(refused)));
        let denied = OriginError::Status {
            registry: "r.test".to_owned(),
            status: StatusCode::FORBIDDEN,
            headers: HeaderMap::new(),
            body: Bytes::new(),
        };
        assert!(!is_own_refusal(&origin_error(&denied, Code::BlobUnknown)));
    }

    #[test]
    fn a_registry_that_limits_us_makes_us_unavailable() {
        let limited = OriginError::RateLimited {
            registry: "r.test".to_owned(),
            retry_after: Duration::from_millis(1500),
        };
        let reply = origin_error(&limited, Code::BlobUnknown);
        assert_eq!(reply.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(reply.headers().get(RETRY_AFTER).unwrap(), "2");
    }
}
