//! The forward proxy: absolute addresses and CONNECT on one port, for clients that are given `HTTPS_PROXY`.
//!
//! Start at [`Forward::serve`]. A CONNECT becomes a tunnel that is passed on unread, unless its host is one whose TLS ends
//! here ([`intercept`]). What is then read, and what comes with an absolute address, goes by [`rules`] and by what it is:
//! blobs and manifests, and what a rule finds by its digest ([`naming`]), are answered as the mirror answers them, all else is
//! passed on ([`relay`]). Nothing is cached here.
//!
//! What must hold: it reaches no address that the guard of `darter_origin` refuses; what a client shows to this proxy
//! leaves it never; a content that the mirror cannot give is asked of its host, so that no pull fails because of us.

mod config;
mod intercept;
mod metrics;
mod naming;
mod relay;
mod rules;
mod server;
#[cfg(test)]
mod tests;
mod traffic;
mod users;

use std::sync::Arc;
use std::time::Duration;

use darter_origin::Origins;
use darter_service::http_server::hygiene;
use darter_service::supervise::Tasks;
use darter_types::{Digest, RegistryName};
use http::header::{HOST, PROXY_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use thiserror::Error;
use tokio::sync::Semaphore;

use crate::mirror::Mirror;
use crate::mirror::path;
use crate::mirror::reply::{self, Code, Reply};

use intercept::Interceptor;
use metrics::Way;
use rules::{Action, Rule, Rules, Site};
use server::{Connected, Pending};
use users::Users;

pub use config::{ForwardConfig, HostPattern, InterceptConfig};
pub use intercept::InterceptError;
pub use metrics::ForwardMetrics;
pub use rules::{Action as RuleAction, RuleConfig};
pub use users::UsersError;

/// Why there is no forward proxy.
#[derive(Debug, Error)]
pub enum ForwardError {
    /// The users cannot be read.
    #[error("forward.usersFile: {0}")]
    Users(#[from] UsersError),
    /// The authority cannot be used.
    #[error("forward.intercept: {0}")]
    Intercept(#[from] InterceptError),
    /// A rule cannot be used.
    #[error("forward.rules: {0}")]
    Rules(String),
}

/// What a forward proxy is made of.
#[derive(Debug)]
#[expect(missing_docs, reason = "each field is what its type says")]
pub struct ForwardParts {
    pub config: ForwardConfig,
    pub mirror: Mirror,
    pub origins: Origins,
    pub tasks: Tasks,
    pub metrics: ForwardMetrics,
    /// How long a host may take to answer a request without a body.
    pub header_timeout: Duration,
    /// Random, and kept nowhere else.
    pub hash_key: [u8; 32],
}

/// The forward proxy of one node. Clones share everything.
#[derive(Clone, Debug)]
pub struct Forward {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: ForwardConfig,
    mirror: Mirror,
    origins: Origins,
    users: Option<Users>,
    interceptor: Option<Interceptor>,
    rules: Rules,
    tunnels: Arc<Semaphore>,
    tasks: Tasks,
    metrics: ForwardMetrics,
    header_timeout: Duration,
}

impl Forward {
    /// Reads the files that the configuration names; no port is open yet.
    ///
    /// # Errors
    /// A file that cannot be used: there is no way from it to a proxy that asks nobody.
    pub fn new(parts: ForwardParts) -> Result<Self, ForwardError> {
        let config = parts.config;
        let users = config.users_file.as_deref();
        Ok(Self {
            inner: Arc::new(Inner {
                users: users.map(|path| Users::read(path, parts.hash_key)).transpose()?,
                interceptor: Interceptor::load(&config.intercept)?,
                rules: Rules::new(&config.rules).map_err(ForwardError::Rules)?,
                tunnels: Arc::new(Semaphore::new(config.tunnels_max.min(Semaphore::MAX_PERMITS))),
                mirror: parts.mirror,
                origins: parts.origins,
                tasks: parts.tasks,
                metrics: parts.metrics,
                header_timeout: parts.header_timeout,
                config,
            }),
        })
    }

    /// Answers a request of a client's own connection; a tunnel is left in `pending`.
    async fn answer(&self, request: Request<Incoming>, pending: &Pending) -> Reply {
        let wordy = !request.body().is_end_stream();
        let (parts, body) = request.into_parts();
        let refused = match self.admit(&parts) {
            Err(refused) => *refused,
            Ok(()) if parts.method == Method::CONNECT => match self.connect(&parts).await {
                Ok((way, connected)) => {
                    pending.set(connected);
                    self.inner.metrics.answered(way, StatusCode::OK);
                    return Reply::new(reply::whole(""));
                }
                Err(refused) => *refused,
            },
            Ok(()) => match self.site(&parts) {
                Ok(site) => return self.dispatch(site, false, parts, body).await,
                Err(refused) => *refused,
            },
        };
        self.inner.metrics.answered(Way::Refused, refused.status());
        // A body that nobody wanted is not waited for.
        if wordy {
            reply::close_after(refused)
        } else {
            refused
        }
    }

    /// Answers a request from inside a tunnel to `site` that is looked into.
    async fn answer_inside(&self, site: &Site, request: Request<Incoming>) -> Reply {
        let (parts, body) = request.into_parts();
        let refused = match hygiene::check(&parts) {
            Err(problem) => bad_request(problem),
            Ok(()) if names(&parts, site) => {
                return self.dispatch(site.clone(), true, parts, body).await;
            }
            Ok(()) => reply::error(
                StatusCode::MISDIRECTED_REQUEST,
                Code::Unsupported,
                "this tunnel leads to another host",
            ),
        };
        self.inner.metrics.answered(Way::Refused, refused.status());
        reply::close_after(refused)
    }

    /// Whether a request is one that this proxy answers at all, to this client.
    fn admit(&self, parts: &Parts) -> Result<(), Box<Reply>> {
        hygiene::check(parts).map_err(|problem| Box::new(reply::close_after(bad_request(problem))))?;
        match &self.inner.users {
            Some(users) if !users.know(&parts.headers) => Err(Box::new(unknown_user())),
            _ => Ok(()),
        }
    }

    /// The site that a request with an absolute address is for.
    fn site(&self, parts: &Parts) -> Result<Site, Box<Reply>> {
        let named = parts.uri.authority().zip(parts.uri.scheme_str());
        let Some((authority, scheme)) = named else {
            let problem = "this is a forward proxy: it is given to clients as HTTP_PROXY and HTTPS_PROXY";
            return Err(Box::new(bad_request(problem)));
        };
        let site = match scheme {
            "https" => Site::of_authority(authority.as_str(), true),
            "http" => Site::of_authority(authority.as_str(), false),
            _ => None,
        };
        let Some(site) = site else {
            return Err(Box::new(bad_request(
                "the address is not one of a host by http or https",
            )));
        };
        self.allow_port(&site)?;
        Ok(site)
    }

    fn allow_port(&self, site: &Site) -> Result<(), Box<Reply>> {
        if self.inner.config.ports.contains(&site.port) || self.is_registry(site) {
            return Ok(());
        }
        let message = format!("port {} is not one of forward.ports", site.port);
        Err(Box::new(reply::error(
            StatusCode::FORBIDDEN,
            Code::Denied,
            &message,
        )))
    }

    /// Whether a site is a registry with an entry of its own.
    fn is_registry(&self, site: &Site) -> bool {
        let name = site.registry().parse::<RegistryName>();
        name.is_ok_and(|name| self.inner.origins.is_configured(&name))
    }

    fn may_be_private(&self, site: &Site) -> bool {
        let hosts = &self.inner.config.private_hosts;
        hosts.iter().any(|pattern| pattern.matches(&site.host))
    }

    fn is_intercepted(&self, site: &Site) -> bool {
        let hosts = &self.inner.config.intercept.hosts;
        hosts.iter().any(|pattern| pattern.matches(&site.host))
    }

    /// Prepares a tunnel.
    async fn connect(&self, parts: &Parts) -> Result<(Way, Connected), Box<Reply>> {
        let authority = parts
            .uri
            .authority()
            .filter(|authority| authority.port().is_some());
        let site = authority.and_then(|authority| Site::of_authority(authority.as_str(), true));
        let Some(site) = site else {
            return Err(Box::new(bad_request("CONNECT wants host:port")));
        };
        self.allow_port(&site)?;
        let rule = self.inner.rules.find(&site.url("/"));
        if rule.is_some_and(|rule| rule.action == Action::Block) {
            return Err(Box::new(blocked()));
        }
        let Ok(slot) = Arc::clone(&self.inner.tunnels).try_acquire_owned() else {
            return Err(Box::new(reply::busy("as many tunnels are open as may be")));
        };
        if let Some(interceptor) = self
            .inner
            .interceptor
            .as_ref()
            .filter(|_| self.is_intercepted(&site))
        {
            let new = &self.inner.metrics.certificates_made;
            let tls = interceptor.server(&site.host, new).map_err(|problem| {
                tracing::warn!(host = site.host, error = %problem, "no certificate can be made for an intercepted host");
                Box::new(reply::unavailable("no certificate can be made", Duration::from_secs(1)))
            })?;
            return Ok((Way::Intercept, Connected::Inside { site, tls, slot }));
        }
        // The tunnel's own TLS is between the client and the host.
        let mut to = relay::destination(&site, self.may_be_private(&site));
        to.secure = false;
        let stream = self.inner.origins.connect(&to).await;
        let stream = stream.map_err(|problem| Box::new(relay::refusal(&problem)))?;
        Ok((Way::Tunnel, Connected::Blind { stream, slot }))
    }

    /// Answers a request that is admitted: by its rule, else by what it is for.
    async fn dispatch(&self, site: Site, inside: bool, parts: Parts, body: Incoming) -> Reply {
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let url = site.url(path);
        let rule = self.inner.rules.find(&url);
        let action = match rule {
            Some(rule) => rule.action,
            None if inside || self.is_registry(&site) || self.is_intercepted(&site) => Action::P2p,
            None => Action::Direct,
        };
        if action == Action::Block {
            self.inner.metrics.answered(Way::Refused, StatusCode::FORBIDDEN);
            return reply::close_after(blocked());
        }
        // Where a rule sends requests is the operator's word.
        let (site, private) = match rule.and_then(|rule| rule.to.clone()) {
            Some(to) => (to, true),
            None => {
                let private = self.may_be_private(&site);
                (site, private)
            }
        };
        if action == Action::P2p
            && let Some(reply) = self.share(&site, rule, &url, &parts, &body).await
        {
            self.inner.metrics.answered(Way::Shared, reply.status());
            return reply;
        }
        let reply = self.pass_on(&site, private, parts, body).await;
        self.inner.metrics.answered(Way::Direct, reply.status());
        reply
    }

    /// The mirror's answer, for what the mirror serves, if it has one.
    async fn share(
        &self,
        site: &Site,
        rule: Option<&Rule>,
        url: &str,
        parts: &Parts,
        body: &Incoming,
    ) -> Option<Reply> {
        let reading = parts.method == Method::GET || parts.method == Method::HEAD;
        if !reading || !body.is_end_stream() {
            return None;
        }
        if let Some((rule, digest)) = rule.and_then(|rule| Some((rule, rule.digest_in(url)?))) {
            return self.share_address(site, rule, digest, parts).await;
        }
        let target = path::content_at(&site.registry(), parts.uri.path())?;
        let reply = self.inner.mirror.answer_content(parts.clone(), target).await;
        // The client has no other host to go to than the one that it asked.
        (!reply::is_own_refusal(&reply)).then_some(reply)
    }

    /// The content of a digest that a rule found. Whatever else than the content there is to say, its host says itself: that a
    /// signature has run out, or what HEAD is worth to an address that is signed for GET.
    async fn share_address(&self, site: &Site, rule: &Rule, digest: Digest, parts: &Parts) -> Option<Reply> {
        if parts.method != Method::GET {
            return None;
        }
        let (target, address) = naming::content(site, parts, digest, &rule.ignore_query)?;
        let mirror = &self.inner.mirror;
        let reply = mirror.answer_address(parts.clone(), target, address).await;
        reply.status().is_success().then_some(reply)
    }
}

/// Whether a request inside a tunnel is for the tunnel's host, wherever it says so.
fn names(parts: &Parts, site: &Site) -> bool {
    let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    let same = |authority: &str| Site::of_authority(authority, true).as_ref() == Some(site);
    host.is_none_or(same)
        && parts
            .uri
            .authority()
            .is_none_or(|authority| same(authority.as_str()))
}

fn bad_request(problem: &str) -> Reply {
    reply::error(StatusCode::BAD_REQUEST, Code::Unsupported, problem)
}

fn blocked() -> Reply {
    let message = "a rule of this node's proxy forbids this address";
    reply::error(StatusCode::FORBIDDEN, Code::Denied, message)
}

fn unknown_user() -> Reply {
    let message = "this proxy wants to know who you are: user and password belong into the proxy's address";
    let status = StatusCode::PROXY_AUTHENTICATION_REQUIRED;
    let mut reply = reply::error(status, Code::Unauthorized, message);
    let challenge = HeaderValue::from_static("Basic realm=\"darter\", charset=\"UTF-8\"");
    reply::set(&mut reply, PROXY_AUTHENTICATE, challenge);
    reply
}
