//! What an attempt shows to the registry: the caller's own header as it is, or a token that is fetched when a 401 asks for
//! one: nobody's, or what the node's own credentials are worth.
//!
//! What must hold: a caller's header goes to the registry alone; the node's credentials go to the registry, and to the
//! realm that the registry itself names, never there in the clear where the registry is another host or speaks TLS.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, header};
use tokio::time::timeout;

use crate::challenge;
use crate::credentials::Credentials;
use crate::dial::Target;
use crate::error::{OriginError, is_passing};
use crate::login::{Login, Logins};
use crate::token::{self, Grant, Tokens};

use super::{Answer, Ask, Exchange, Failure, shortened};

/// Bytes of a realm's answer.
const TOKEN_BYTES_MAX: usize = 256 * 1024;
/// How long credentials that are sent as they are, are sent without being looked up again.
const LOGIN_TIME: Duration = Duration::from_secs(60);

impl Exchange<'_> {
    /// Asks once, and again with a token where the registry wants one.
    pub(super) async fn attempt(&self, ask: &Ask, credentials: &Credentials) -> Result<Answer, Failure> {
        let home = &self.registry.target;
        match (credentials, &self.registry.logins) {
            (Credentials::Caller(value), _) => self.follow(ask, Some(value), home).await,
            (Credentials::Address(address), _) => {
                self.follow(ask, address.authorization.as_ref(), home).await
            }
            (Credentials::Node, Some(logins)) => {
                self.with_token(ask, &self.registry.node_tokens, Some(logins))
                    .await
            }
            (Credentials::Node | Credentials::Anonymous, _) => {
                self.with_token(ask, &self.registry.tokens, None).await
            }
        }
    }

    async fn with_token(
        &self,
        ask: &Ask,
        tokens: &Tokens,
        logins: Option<&Logins>,
    ) -> Result<Answer, Failure> {
        let home = &self.registry.target;
        let slot = ask.repository.as_ref().map(|repository| tokens.slot(repository));
        let authorization = slot.as_ref().and_then(|slot| slot.token());
        let refused = match self.follow(ask, authorization.as_ref(), home).await {
            Err(failure) if failure.challenge().is_some() => failure,
            other => return other,
        };
        let (Some(slot), Some(repository), Some(headers)) = (slot, &ask.repository, refused.challenge())
        else {
            return Err(refused);
        };
        let turn = slot.turn.lock().await;
        let token = match slot.settled(authorization.as_ref()) {
            Some(known) => known,
            None => {
                let answer = match logins {
                    Some(logins) => self.log_in(headers, logins, repository).await,
                    None => match challenge::bearer(headers.get_all(header::WWW_AUTHENTICATE)) {
                        Some(challenge) => self.fetch_token(&challenge, None).await,
                        None => return Err(refused),
                    },
                };
                slot.settle(&answer);
                answer.map(|grant| grant.map(|grant| grant.token))
            }
        };
        drop(turn);
        let Some(token) = token.map_err(|error| Failure {
            retry: error.may_retry(),
            error,
            home: false,
        })?
        else {
            return Err(refused);
        };
        let answer = self.follow(ask, Some(&token), home).await;
        if answer
            .as_ref()
            .is_err_and(|failure| failure.challenge().is_some())
        {
            slot.refuse();
            if let Some(logins) = logins {
                logins.forget().await;
            }
        }
        answer
    }

    /// What the node's own credentials are worth. `None`: there are none, or the realm refuses them, also those that were
    /// looked up anew.
    async fn log_in(
        &self,
        headers: &HeaderMap,
        logins: &Logins,
        repository: &str,
    ) -> Result<Option<Grant>, OriginError> {
        let challenge = challenge::bearer(headers.get_all(header::WWW_AUTHENTICATE));
        let mut refused = None;
        while let Some(login) = logins.get(repository, refused.as_ref()).await {
            match (&login, &challenge) {
                (Login::Token(value), _) | (Login::Basic(value), None) => {
                    return Ok(Some(Grant::new(value.clone(), LOGIN_TIME)));
                }
                (Login::Basic(value), Some(challenge)) => {
                    let grant = self.fetch_token(challenge, Some(value)).await?;
                    if grant.is_some() || refused.is_some() {
                        return Ok(grant);
                    }
                }
            }
            refused = Some(login);
        }
        Ok(None)
    }

    /// Asks a realm, on nobody's behalf or with the node's credentials. `None`: it gives nothing.
    async fn fetch_token(
        &self,
        challenge: &challenge::Bearer,
        login: Option<&HeaderValue>,
    ) -> Result<Option<Grant>, OriginError> {
        let address = token::address(challenge);
        let place = address.as_ref().and_then(Target::of);
        let (Some(realm), Some(place)) = (address, place) else {
            return Err(self.unusable(format!(
                "its token realm {:?} is no address",
                shortened(&challenge.realm)
            )));
        };
        let clear = !place.is_secure();
        if clear && (self.registry.target.is_secure() || (login.is_some() && place != self.registry.target)) {
            return Err(self.unusable("its token realm is not https"));
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let ask = Ask {
            method: Method::GET,
            url: realm,
            headers,
            repository: None,
            blob: false,
        };
        let mut answer = match self.follow(&ask, login, &place).await {
            Ok(answer) => answer,
            Err(Failure { error, .. })
                if error
                    .status()
                    .is_some_and(|status| status.is_client_error() && !is_passing(status)) =>
            {
                return Ok(None);
            }
            Err(Failure { error, .. }) => return Err(error),
        };
        let body = timeout(
            self.inner.settings.header_timeout,
            answer.body.collect(TOKEN_BYTES_MAX),
        )
        .await;
        let (body, _) = body.map_err(|_| self.silent())??;
        let grant = token::grant(&body).ok_or_else(|| self.unusable("its token realm gave no token"))?;
        Ok(Some(grant))
    }
}
