//! The node's role, which may change while it runs: a peer steps in as a seed, a seed steps down.
//!
//! A role is a word to the schedulers and nothing else: what the node holds, fetches and serves stays as it is. Streams
//! to schedulers hear of a change and say it ([`CurrentRole::subscribe`]); one that comes up later says the role of that
//! time. A restart begins with the configuration's again.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use darter_service::admin::{Answer, Route, text};
use http::{Method, Request, StatusCode, header};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::config::NodeRole;

/// Where the admin port shows and changes it.
pub const PATH: &str = "/role";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    role: &'static str,
}

/// The role that the node has at the moment. Clones share it.
#[derive(Clone, Debug)]
pub struct CurrentRole {
    role: watch::Sender<NodeRole>,
    gauge: Family<Label, Gauge>,
    /// One change at a time, so that the metric tells the last one.
    changing: Arc<Mutex<()>>,
}

impl CurrentRole {
    /// Begins with `role`; registers its metric, named below `darter_proxy`.
    pub fn register(role: NodeRole, registry: &mut Registry) -> Self {
        let gauge = Family::default();
        let help = "The role that the node has at the moment: 1 for it, 0 for the other";
        registry.register("role", help, gauge.clone());
        let current = Self {
            role: watch::Sender::new(role),
            gauge,
            changing: Arc::default(),
        };
        current.show(role);
        current
    }

    /// The role.
    pub fn get(&self) -> NodeRole {
        *self.role.borrow()
    }

    /// Changes it, and tells all schedulers; false if it was that before.
    pub fn set(&self, role: NodeRole) -> bool {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = self
            .role
            .send_if_modified(|current| std::mem::replace(current, role) != role);
        if changed {
            self.show(role);
            tracing::info!(%role, "the node has another role until the next start");
        }
        changed
    }

    /// Hears of changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<NodeRole> {
        self.role.subscribe()
    }

    fn show(&self, current: NodeRole) {
        for role in NodeRole::ALL {
            let label = Label { role: role.name() };
            self.gauge.get_or_create(&label).set(i64::from(role == current));
        }
    }

    /// `GET` tells it, `PUT` with `seed` or `peer` changes it.
    pub fn route(&self) -> Route {
        let current = self.clone();
        Arc::new(move |request| {
            let answer = current.answer(&request);
            Box::pin(async move { answer })
        })
    }

    fn answer(&self, request: &Request<Bytes>) -> Answer {
        match *request.method() {
            Method::GET | Method::HEAD => self.tell(),
            Method::PUT => match String::from_utf8_lossy(request.body()).trim().parse() {
                Ok(role) => {
                    self.set(role);
                    self.tell()
                }
                Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
            },
            _ => {
                let mut answer = text(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "GET tells the role, PUT changes it\n",
                );
                let allowed = header::HeaderValue::from_static("GET, HEAD, PUT");
                answer.headers_mut().insert(header::ALLOW, allowed);
                answer
            }
        }
    }

    fn tell(&self) -> Answer {
        text(StatusCode::OK, format!("{}\n", self.get()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use prometheus_client::encoding::text::encode;

    async fn ask(route: &Route, method: Method, body: &'static str) -> (StatusCode, String) {
        let request = Request::builder().method(method).uri(PATH);
        let answer = route(request.body(Bytes::from(body)).unwrap()).await;
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    fn shown(registry: &Registry) -> Vec<String> {
        let mut text = String::new();
        encode(&mut text, registry).unwrap();
        let mut lines: Vec<String> = text
            .lines()
            .filter(|line| line.starts_with("role{"))
            .map(ToOwned::to_owned)
            .collect();
        lines.sort();
        lines
    }

    #[tokio::test]
    async fn is_shown_and_changed_on_the_admin_port() {
        let mut registry = Registry::default();
        let role = CurrentRole::register(NodeRole::Peer, &mut registry);
        let (route, mut heard) = (role.route(), role.subscribe());
        let ok = |word: &str| (StatusCode::OK, format!("{word}\n"));
        assert_eq!(ask(&route, Method::GET, "").await, ok("peer"));
        assert_eq!(
            shown(&registry),
            ["role{role=\"peer\"} 1", "role{role=\"seed\"} 0"]
        );

        assert_eq!(ask(&route, Method::PUT, "seed\n").await, ok("seed"));
        assert_eq!(role.get(), NodeRole::Seed);
        assert!(heard.has_changed().unwrap());
        assert_eq!(*heard.borrow_and_update(), NodeRole::Seed);
        assert_eq!(
            shown(&registry),
            ["role{role=\"peer\"} 0", "role{role=\"seed\"} 1"]
        );

        assert_eq!(ask(&route, Method::PUT, "seed").await, ok("seed"));
        assert!(!heard.has_changed().unwrap(), "nothing to tell schedulers");
    }

    #[tokio::test]
    async fn a_word_that_is_no_role_changes_nothing() {
        let role = CurrentRole::register(NodeRole::Seed, &mut Registry::default());
        let route = role.route();
        for wrong in ["", "Seed", "leader", "seed peer", "{\"role\":\"peer\"}"] {
            let (status, said) = ask(&route, Method::PUT, wrong).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong:?}");
            assert!(said.contains("say seed or peer"), "{said}");
        }
        assert_eq!(
            ask(&route, Method::DELETE, "").await.0,
            StatusCode::METHOD_NOT_ALLOWED
        );
        assert_eq!(role.get(), NodeRole::Seed);
    }
}
