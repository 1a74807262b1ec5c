//! What requests to a registry show: nothing, the password, or a token that the password is worth.
//!
//! What must hold: the password goes to the registry, and to the realm that the registry itself names; never to a realm in
//! the clear, unless the registry is spoken to in the clear and is that realm itself. Nothing is shown before it is asked for.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use darter_origin::challenge::{self, Bearer};
use darter_origin::token::{self, Grant};
use http::{HeaderMap, HeaderValue, header};
use reqwest::{StatusCode, Url};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::transport::{ANSWER_TIME, Fault, Transport, collect, is_same_place};

/// Longest answer of a realm.
const TOKEN_BYTES_MAX: usize = 256 * 1024;
/// A password holds as long as the command runs.
const PASSWORD_TIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// What a request needs to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Right {
    Pull,
    /// Pulls as well.
    Push,
}

/// What was shown last, and for what it was got.
#[derive(Clone)]
struct Pass {
    value: HeaderValue,
    until: Instant,
    right: Right,
}

/// User and password, and what became of them.
#[derive(Default)]
pub(super) struct Login {
    password: Option<(String, String)>,
    held: Mutex<Option<Pass>>,
}

impl Login {
    pub(super) fn new(password: Option<(String, String)>) -> Self {
        Self {
            password,
            held: Mutex::new(None),
        }
    }

    /// What is known to be good enough.
    pub(super) async fn known(&self, right: Right) -> Option<HeaderValue> {
        good(&self.held.lock().await, right)
    }

    fn basic(&self) -> Option<HeaderValue> {
        let (user, password) = self.password.as_ref()?;
        let encoded = BASE64_STANDARD.encode(format!("{user}:{password}"));
        let mut value = HeaderValue::try_from(format!("Basic {encoded}")).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// Whether a refusal asks for a name and a password (RFC 7617).
fn wants_password(refusal: &HeaderMap) -> bool {
    let mut challenges = refusal.get_all(header::WWW_AUTHENTICATE).iter();
    challenges.any(|value| {
        let scheme = value.as_bytes().get(..5);
        scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"basic"))
    })
}

fn good(held: &MutexGuard<'_, Option<Pass>>, right: Right) -> Option<HeaderValue> {
    let pass = held.as_ref()?;
    let good = pass.right >= right && Instant::now() < pass.until;
    good.then(|| pass.value.clone())
}

impl Transport {
    /// What a 401 asks for, which came although `shown` was shown. None: there is nothing else to show. Whoever asks at the
    /// same time waits, and gets the same.
    pub(super) async fn log_in(
        &self,
        refusal: &HeaderMap,
        right: Right,
        shown: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, Fault> {
        let mut held = self.login.held.lock().await;
        if let Some(known) = good(&held, right).filter(|known| Some(known) != shown) {
            return Ok(Some(known));
        }
        let challenges = refusal.get_all(header::WWW_AUTHENTICATE);
        let grant = match challenge::bearer(challenges) {
            Some(challenge) => Some(self.token(challenge, right).await?),
            None if wants_password(refusal) => {
                let password = self.login.basic();
                password.map(|value| Grant::new(value, PASSWORD_TIME))
            }
            None => None,
        };
        *held = grant.map(|grant| Pass {
            until: Instant::now() + grant.useful(),
            value: grant.token,
            right,
        });
        let found = held.as_ref().map(|pass| pass.value.clone());
        Ok(found.filter(|value| Some(value) != shown))
    }

    /// A token from the realm of a challenge.
    async fn token(&self, challenge: Bearer, right: Right) -> Result<Grant, Fault> {
        let realm = self.realm(challenge, right)?;
        let mut asked = self.http.get(realm).header(header::ACCEPT, "application/json");
        if let Some(password) = self.login.basic() {
            asked = asked.header(header::AUTHORIZATION, password);
        }
        let answer = self.within(ANSWER_TIME, asked.send()).await?;
        let status = answer.status();
        if status != StatusCode::OK {
            let what = match self.login.password {
                Some(_) => "its token realm refuses the login",
                None => "its token realm wants a login",
            };
            return Err(Fault::Refused {
                status,
                said: format!("{what}; is the right one in Docker's configuration (--docker-config)?"),
            });
        }
        let body = collect(answer, TOKEN_BYTES_MAX).await?;
        token::grant(&body).ok_or_else(|| Fault::Failed("its token realm gave no token".to_owned()))
    }

    /// Where the token is had: with the right that is needed now, whatever the refused question needed.
    fn realm(&self, challenge: Bearer, right: Right) -> Result<Url, Fault> {
        let actions = match right {
            Right::Pull => "pull",
            Right::Push => "pull,push",
        };
        let own = format!("repository:{}:{actions}", self.repository);
        let scope = match challenge.scope {
            Some(scope) if scope != own => format!("{own} {scope}"),
            _ => own,
        };
        let challenge = Bearer {
            scope: Some(scope),
            ..challenge
        };
        let realm = token::address(&challenge)
            .ok_or_else(|| Fault::Failed("its token realm is no address".to_owned()))?;
        let clear = realm.scheme() != "https";
        let elsewhere = !is_same_place(&realm, &self.home);
        if clear && (self.home.scheme() == "https" || (self.login.password.is_some() && elsewhere)) {
            let place = realm.host_str().unwrap_or_default();
            return Err(Fault::Failed(format!(
                "its token realm at {place} is not https: no login is sent there"
            )));
        }
        Ok(realm)
    }
}
