//! The admin port: is it alive, is it ready, what does it do, how is it configured.
//!
//! Served by [`HttpServer`](crate::http_server::HttpServer) on an address of its own, so that the ports that clients
//! see have none of it. Roles add routes; nothing here waits for anything that a role does.

mod port;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body::Body;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use prometheus_client::registry::Registry;

use crate::http_server::Handler;
use crate::log::LogHandle;
use crate::metrics;
use crate::net::{BoxFuture, PeerAddr};
use crate::ready::Readiness;
use crate::supervise::Tasks;

pub use port::{AdminPort, AdminServer};

/// Longest body of a request: a log filter, a word for a role.
const BODY_BYTES_MAX: usize = 4096;
const TEXT: &str = "text/plain; charset=utf-8";

/// What the admin port answers with.
pub type Answer = Response<Full<Bytes>>;

/// Answers one path of a role. The body was read, and is short.
pub type Route = Arc<dyn Fn(Request<Bytes>) -> BoxFuture<'static, Answer> + Send + Sync>;

/// What the admin port shows.
pub struct Parts {
    /// What `/readyz` tells.
    pub readiness: Readiness,
    /// What `/metrics` tells; complete before the port opens.
    pub registry: Registry,
    /// What `/config` tells: [`crate::config::to_yaml`], which hides secrets.
    pub config_text: String,
    /// What `/loglevel` shows and sets.
    pub log: LogHandle,
    /// What `/debug/tasks` tells.
    pub tasks: Tasks,
    /// Further paths.
    pub routes: BTreeMap<&'static str, Route>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("routes", &self.routes.keys())
            .finish_non_exhaustive()
    }
}

/// The handler of the admin port. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Admin(Arc<Parts>);

impl Admin {
    /// Shows these parts.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Answers one request. Cancel safe: what was not answered has changed nothing.
    pub async fn answer<B>(&self, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        if let Some(route) = self.0.routes.get(path) {
            let route = Arc::clone(route);
            return match read(body).await {
                Ok(body) => route(Request::from_parts(head, body)).await,
                Err(answer) => answer,
            };
        }
        if path == "/loglevel" && head.method == Method::PUT {
            return self.set_log_level(body).await;
        }
        let Some(answer) = self.show(path) else {
            return text(StatusCode::NOT_FOUND, self.index());
        };
        if !matches!(head.method, Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n");
        }
        answer
    }

    fn show(&self, path: &str) -> Option<Answer> {
        let parts = &self.0;
        Some(match path {
            "/" => text(StatusCode::OK, self.index()),
            "/livez" => text(StatusCode::OK, "alive\n"),
            "/readyz" => self.ready(),
            "/metrics" => reply(
                StatusCode::OK,
                metrics::CONTENT_TYPE,
                metrics::encode(&parts.registry),
            ),
            "/config" => reply(StatusCode::OK, "application/yaml", parts.config_text.clone()),
            "/loglevel" => text(StatusCode::OK, format!("{}\n", parts.log.filter())),
            "/debug/tasks" => {
                let running = parts.tasks.running();
                text(
                    StatusCode::OK,
                    running
                        .iter()
                        .map(|(name, count)| format!("{name} {count}\n"))
                        .collect::<String>(),
                )
            }
            _ => return None,
        })
    }

    fn index(&self) -> String {
        let own = [
            "/livez",
            "/readyz",
            "/metrics",
            "/config",
            "/loglevel",
            "/debug/tasks",
        ];
        let paths = own.into_iter().chain(self.0.routes.keys().copied());
        paths.map(|path| format!("{path}\n")).collect()
    }

    fn ready(&self) -> Answer {
        let unmet = self.0.readiness.unmet();
        if unmet.is_empty() {
            return text(StatusCode::OK, "ready\n");
        }
        let lines: String = unmet.iter().map(|name| format!("waits for: {name}\n")).collect();
        text(StatusCode::SERVICE_UNAVAILABLE, lines)
    }

    async fn set_log_level<B>(&self, body: B) -> Answer
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let body = match read(body).await {
            Ok(body) => body,
            Err(answer) => return answer,
        };
        let filter = String::from_utf8_lossy(&body);
        match self.0.log.set(filter.trim()) {
            Ok(()) => {
                tracing::info!(filter = filter.trim(), "log filter changed");
                text(StatusCode::OK, format!("{}\n", self.0.log.filter()))
            }
            Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        }
    }
}

impl Handler<Full<Bytes>> for Admin {
    async fn answer(&self, request: Request<Incoming>, _: PeerAddr) -> Answer {
        Self::answer(self, request).await
    }
}

/// The whole body, or what to answer where it is too long or broke off.
async fn read<B>(body: B) -> Result<Bytes, Answer>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) => Err(text(
            StatusCode::BAD_REQUEST,
            format!("the body cannot be read: {error}\n"),
        )),
    }
}

/// An answer in plain text.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    reply(status, TEXT, body)
}

/// An answer of a given type.
pub fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    headers.insert(
        header::CACHE_CONTROL,
        header::HeaderValue::from_static("no-store"),
    );
    answer
}

#[cfg(test)]
mod tests;
