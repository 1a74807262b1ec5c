//! A request that is passed on to its host, and the answer as it comes: one connection a request.
//!
//! What must hold: what belongs to one connection alone is not passed on (RFC 9110 section 7.6.1), least of all what
//! this proxy was shown as a credential; the body is framed anew, so that both sides mean the same bytes by it.

use darter_origin::{Destination, OriginError};
use http::header::{
    CONNECTION, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE, VIA,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use crate::mirror::BodyError;
use crate::mirror::reply::{self, Code, Reply};

use super::Forward;
use super::rules::Site;
use super::traffic::Counted;

/// What one connection is about, besides what its `Connection` header names.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];
/// Bytes of a head.
const HEAD_BYTES_MAX: usize = 64 * 1024;

impl Forward {
    /// Passes a request on.
    pub(super) async fn pass_on(
        &self,
        site: &Site,
        private: bool,
        mut parts: Parts,
        body: Incoming,
    ) -> Reply {
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let (Ok(uri), Ok(host)) = (path.parse::<Uri>(), HeaderValue::try_from(site.authority())) else {
            return reply::error(
                StatusCode::BAD_REQUEST,
                Code::Unsupported,
                "the address does not parse",
            );
        };
        strip(&mut parts.headers);
        parts.headers.remove(EXPECT);
        parts.headers.insert(HOST, host);
        parts.headers.append(VIA, HeaderValue::from_static("1.1 darter"));
        let bare = body.is_end_stream();
        let mut request = Request::new(body);
        *request.method_mut() = parts.method;
        *request.uri_mut() = uri;
        *request.headers_mut() = parts.headers;
        let exchange = self.exchange(site, private, request);
        let answered = if bare {
            // An upload is answered when it is through, however long that takes; anything else soon.
            match timeout(self.inner.header_timeout, exchange).await {
                Ok(answered) => answered,
                Err(_) => return unreachable(StatusCode::GATEWAY_TIMEOUT, site, "it does not answer"),
            }
        } else {
            exchange.await
        };
        match answered {
            Ok(reply) => reply,
            Err(problem) => problem,
        }
    }

    async fn exchange(&self, site: &Site, private: bool, request: Request<Incoming>) -> Result<Reply, Reply> {
        let to = destination(site, private);
        let stream = self
            .inner
            .origins
            .connect(&to)
            .await
            .map_err(|problem| refusal(&problem))?;
        let (stream, watch) = Counted::new(stream, self.inner.metrics.clone());
        let broken = |error: hyper::Error| unreachable(StatusCode::BAD_GATEWAY, site, &error.to_string());
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        let idle = self.inner.config.idle_timeout.as_duration();
        let idle_ends = self.inner.metrics.idle_ends.clone();
        self.inner.tasks.spawn("forwarded request", async move {
            tokio::select! {
                biased;
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%error, "the connection of a forwarded request ended");
                },
                () = watch.silence(idle) => {
                    idle_ends.inc();
                    tracing::debug!("a forwarded request was silent for too long");
                }
            }
        });
        let answer = sender.send_request(request).await.map_err(broken)?;
        let (mut head, body) = answer.into_parts();
        if head.status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            // Only this proxy may ask for what is for proxies.
            return Err(unreachable(StatusCode::BAD_GATEWAY, site, "it answered 407"));
        }
        strip(&mut head.headers);
        head.headers.append(VIA, HeaderValue::from_static("1.1 darter"));
        let mut reply = Reply::new(body.map_err(BodyError::from).boxed_unsync());
        *reply.status_mut() = head.status;
        *reply.headers_mut() = head.headers;
        Ok(reply)
    }
}

/// Where a site's connection goes.
pub(super) fn destination(site: &Site, private: bool) -> Destination {
    Destination {
        host: site.host.clone(),
        port: site.port,
        secure: site.secure,
        private,
    }
}

/// Takes away what is about one connection.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// The answer where there is no connection.
pub(super) fn refusal(problem: &OriginError) -> Reply {
    let (status, code) = match problem {
        OriginError::NotAllowed { .. } => (StatusCode::FORBIDDEN, Code::Denied),
        _ => (StatusCode::BAD_GATEWAY, Code::Unavailable),
    };
    reply::error(status, code, &problem.to_string())
}

fn unreachable(status: StatusCode, site: &Site, reason: &str) -> Reply {
    let message = format!("{} cannot be asked: {reason}", site.authority());
    reply::error(status, Code::Unavailable, &message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_about_one_connection_is_not_passed_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, X-Secret"),
            ("connection", "close"),
            ("x-secret", "canary"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic canary"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("transfer-encoding", "chunked"),
            ("authorization", "Bearer mine"),
            ("accept", "a"),
            ("accept", "b"),
        ] {
            let name: HeaderName = name.parse().unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        strip(&mut headers);
        let mut left: Vec<&str> = headers.iter().map(|(name, _)| name.as_str()).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "accept", "authorization"]);
    }
}
