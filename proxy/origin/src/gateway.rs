//! Connections to hosts that a client of the forward proxy names: by the same guard and the same authorities as registries.
//!
//! What this node fetches by itself (`allowed`, `allowOnlyConfigured`) is not asked here: where clients go is the matter of the
//! forward proxy's own rules, and an entry of the configuration says no more than how its host is reached.
//!
//! What must hold: the address that the guard saw is the one that is connected to; a host that nobody wrote down is
//! reached at public addresses only, and no host but a configured registry at a link-local one.

use darter_service::net::Stream;
use darter_types::RegistryName;
use url::Url;

use crate::dial::{DialError, Target};
use crate::error::OriginError;
use crate::guard::{Nearness, Purpose};
use crate::origins::Origins;

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// A name or an address; IPv6 ones in brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether TLS is spoken, with the certificate verified for `host`.
    pub secure: bool,
    /// Whether an operator said that it may have a private address.
    pub private: bool,
}

impl Destination {
    /// `host:port`, for messages.
    fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl Origins {
    /// Whether a registry has an entry of its own in the configuration.
    pub fn is_configured(&self, registry: &RegistryName) -> bool {
        let known = self.inner.settings.registry(registry);
        known.is_ok_and(|settings| settings.configured)
    }

    /// Whether this node has credentials of its own for a registry, to be used on behalf of a client that brings none. Who
    /// of this machine's users that is, `user` tells; it is asked only where it matters.
    pub fn lends(&self, registry: &RegistryName, user: impl FnOnce() -> Option<u32>) -> bool {
        let known = self.inner.settings.lent_to(registry);
        known.is_some_and(|users| user().is_some_and(|user| users.contains(&user)))
    }

    /// A connection to any host. It counts against no registry's limit: the caller bounds how many there are. Safe to
    /// drop.
    ///
    /// # Errors
    /// [`NotAllowed`](OriginError::NotAllowed) for an address that the guard refuses, else
    /// [`Unreachable`](OriginError::Unreachable).
    pub async fn connect(&self, to: &Destination) -> Result<Stream, OriginError> {
        let scheme = if to.secure { "https" } else { "http" };
        let target = Url::parse(&format!("{scheme}://{}/", to.authority()))
            .ok()
            .and_then(|url| Target::of(&url));
        let Some(target) = target else {
            return Err(OriginError::NotAllowed {
                registry: to.authority(),
                reason: "it is not the name or the address of a host".to_owned(),
            });
        };
        let settings = registry_of(to).and_then(|name| self.inner.settings.reached(&name).ok());
        let purpose = match &settings {
            Some(settings) if settings.configured => Purpose::Configured,
            _ if to.private => Purpose::SentBy(Nearness::Loopback),
            _ => Purpose::Named,
        };
        let tls = self.inner.tls_of(settings.as_ref());
        let dialed = self.inner.dialer.connect(&target, purpose, &tls).await;
        let (stream, _) = dialed.map_err(|error| failure(to, error))?;
        Ok(stream)
    }
}

/// The name under which a host would stand in the configuration.
fn registry_of(to: &Destination) -> Option<RegistryName> {
    let default = if to.secure { 443 } else { 80 };
    let named = if to.port == default || to.port == 443 {
        to.host.clone()
    } else {
        to.authority()
    };
    named.to_ascii_lowercase().parse().ok()
}

fn failure(to: &Destination, error: DialError) -> OriginError {
    let registry = to.authority();
    match error {
        DialError::Forbidden(reason) => OriginError::NotAllowed { registry, reason },
        DialError::Final(reason) | DialError::Passing(reason) => {
            OriginError::Unreachable { registry, reason }
        }
    }
}
