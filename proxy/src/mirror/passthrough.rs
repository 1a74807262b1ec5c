//! Referrers and tag lists: the registry's own answers, a 404 included.
//!
//! An empty list is never invented: a client that asks for signatures would take it for "not signed". The answers
//! are short, so they are read whole and sent with their length. An answer to HEAD has the length that the registry says.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, LINK};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use http_body_util::BodyExt as _;

use crate::access::Relayed;

use super::path::{Target, Via};
use super::reply::{self, Code};
use super::room::Whole;
use super::{Answer, Ask, Mirror, Reply, ReplyBody, refuse};

/// Longest list that is passed on, in bytes.
const LIST_BYTES_MAX: usize = 8 * 1024 * 1024;
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

impl Mirror {
    /// Answers from the registry alone, with the caller's own credential.
    pub(super) async fn pass_through(&self, ask: &Ask) -> Answer {
        let target = &ask.target;
        let query = target
            .query
            .as_ref()
            .map(|query| format!("?{query}"))
            .unwrap_or_default();
        let request = Relayed {
            registry: target.registry.clone(),
            method: ask.method.clone(),
            path_and_query: format!("/v2/{}/{}{query}", target.repository, target.endpoint),
            headers: ask
                .headers
                .get_all(ACCEPT)
                .iter()
                .map(|line| (ACCEPT, line.clone()))
                .collect(),
            credentials: self.inner.access.credentials(&target.registry, ask.asker()),
        };
        let patience = self.inner.config.slow_origin_deadline.as_duration();
        let relay = async {
            let answer = self.inner.upstream.relay(request).await?;
            Ok(self.passed_on(ask, answer).await)
        };
        match self.in_time(ask, &target.registry, patience, relay).await {
            Ok(answer) => answer,
            Err(problem) => Err(refuse(ask.origin_error(&problem))),
        }
    }

    async fn passed_on(&self, ask: &Ask, answer: Response<ReplyBody>) -> Answer {
        let target = &ask.target;
        let (parts, body) = answer.into_parts();
        usable(target, parts.status)?;
        let mut reply = if ask.method == Method::HEAD {
            told(parts.status, parts.headers.get(CONTENT_LENGTH))
        } else {
            let body = self.collected(body).await?;
            let length = HeaderValue::from(body.len());
            let mut reply = told(parts.status, Some(&length));
            *reply.body_mut() = Whole(body).boxed_unsync();
            reply
        };
        copy(&parts.headers, &mut reply);
        for link in parts.headers.get_all(LINK) {
            if let Some(link) = link.to_str().ok().and_then(|link| own_link(target, link)) {
                reply.headers_mut().append(LINK, link);
            }
        }
        Ok(reply)
    }

    async fn collected(&self, mut body: ReplyBody) -> Result<Bytes, Box<Reply>> {
        let full = |full: super::room::Full| refuse(full.reply());
        let mut bytes = self.inner.room.collect(0).map_err(full)?;
        while let Some(frame) = body.frame().await {
            let part = frame.ok().map(|frame| frame.into_data().unwrap_or_default());
            let part = part.filter(|part| bytes.len() + part.len() <= LIST_BYTES_MAX);
            let part = part
                .ok_or_else(|| refuse(unusable("the registry's list broke off or is longer than 8 MiB")))?;
            bytes.push(&part).map_err(full)?;
        }
        Ok(bytes.freeze())
    }
}

/// Whether an answer is one that can be passed on.
fn usable(target: &Target, status: StatusCode) -> Result<(), Box<Reply>> {
    if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
        let message = format!("the registry {} answered {status}", target.registry);
        return Err(refuse(reply::unavailable(&message, Duration::from_secs(1))));
    }
    if status.is_redirection() || status.is_informational() {
        return Err(refuse(unusable(
            "the registry answered in a way that cannot be passed on",
        )));
    }
    Ok(())
}

/// An answer without a body yet, of the length that is told.
fn told(status: StatusCode, length: Option<&HeaderValue>) -> Reply {
    let mut reply = reply::bytes(status, "application/json", "");
    match length {
        Some(length) => reply::set(&mut reply, CONTENT_LENGTH, length.clone()),
        None => drop(reply.headers_mut().remove(CONTENT_LENGTH)),
    }
    reply
}

fn unusable(message: &str) -> Reply {
    reply::error(StatusCode::BAD_GATEWAY, Code::Unavailable, message)
}

fn copy(from: &HeaderMap, to: &mut Reply) {
    use http::header::WWW_AUTHENTICATE;
    if let Some(media_type) = from.get(CONTENT_TYPE) {
        reply::set(to, CONTENT_TYPE, media_type.clone());
    }
    for name in [FILTERS_APPLIED, WWW_AUTHENTICATE] {
        for value in from.get_all(&name) {
            to.headers_mut().append(name.clone(), value.clone());
        }
    }
}

/// A link to the next page, as this client has to ask for it here: it names the registry as the client did.
fn own_link(target: &Target, link: &str) -> Option<HeaderValue> {
    let (address, relation) = link.strip_prefix('<')?.split_once('>')?;
    let path = match address.split_once("://") {
        Some((_, rest)) => rest.find('/').and_then(|slash| rest.get(slash..))?,
        None => address,
    };
    let behind = path.strip_prefix("/v2/")?;
    let registry = &target.registry;
    let own = match target.via {
        Via::Query if path.contains('?') => format!("{path}&ns={registry}"),
        Via::Query => format!("{path}?ns={registry}"),
        Via::FirstPart => format!("/v2/{registry}/{behind}"),
        Via::BeforeVersion => format!("/{registry}{path}"),
        Via::WholeUrl => format!("/mirror/https://{registry}{path}"),
        Via::Header | Via::Default => path.to_owned(),
    };
    HeaderValue::from_str(&format!("<{own}>{relation}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::path::Endpoint;

    #[test]
    fn links_lead_back_to_this_mirror() {
        let link = |via, link: &str| {
            let target = Target {
                registry: "r.test:5000".parse().unwrap(),
                repository: "a".parse().unwrap(),
                endpoint: Endpoint::Tags,
                via,
                query: None,
            };
            own_link(&target, link).map(|value| value.to_str().unwrap().to_owned())
        };
        let next = "</v2/a/tags/list?n=2&last=x>; rel=\"next\"";
        for (via, expected) in [
            (
                Via::Query,
                "</v2/a/tags/list?n=2&last=x&ns=r.test:5000>; rel=\"next\"",
            ),
            (
                Via::FirstPart,
                "</v2/r.test:5000/a/tags/list?n=2&last=x>; rel=\"next\"",
            ),
            (
                Via::BeforeVersion,
                "</r.test:5000/v2/a/tags/list?n=2&last=x>; rel=\"next\"",
            ),
            (Via::Default, next),
        ] {
            assert_eq!(link(via, next).as_deref(), Some(expected));
        }
        let absolute = link(
            Via::Header,
            "<https://r.test:5000/v2/a/tags/list?n=2>; rel=\"next\"",
        );
        assert_eq!(absolute.as_deref(), Some("</v2/a/tags/list?n=2>; rel=\"next\""));
        assert_eq!(link(Via::Header, "<https://evil.test/x>; rel=\"next\""), None);
        assert_eq!(link(Via::Header, "nonsense"), None);
    }
}
