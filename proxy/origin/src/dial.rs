//! From an address to a connection: resolve, look at what came out, connect to just that, TLS.
//!
//! What must hold: the address that the guard saw is the address that is connected to.

use std::error::Error;
use std::future::ready;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use darter_service::net::{Network, Stream};
use http::Uri;
use http::uri::InvalidUri;
use hyper_rustls::HttpsConnector;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::time::{Instant, timeout};
use tower::service_fn;
use tower_service::Service as _;
use url::{Host, Url};

use crate::guard::{Nearness, Purpose};
use crate::names::AddressRange;

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;

/// Who is spoken to: connections to one target are interchangeable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    secure: bool,
    host: Host<String>,
    port: u16,
}

impl Target {
    /// The target of an `http` or `https` address.
    pub(crate) fn of(url: &Url) -> Option<Self> {
        let secure = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        Some(Self {
            secure,
            host: url.host()?.to_owned(),
            port: url.port_or_known_default()?,
        })
    }

    /// Whether it is spoken to over TLS.
    pub(crate) fn is_secure(&self) -> bool {
        self.secure
    }

    /// The value of `Host`.
    pub(crate) fn host_header(&self) -> String {
        let default = if self.secure { 443 } else { 80 };
        if self.port == default {
            self.host.to_string()
        } else {
            self.authority()
        }
    }

    fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum DialError {
    /// All its addresses are forbidden; which, and why.
    Forbidden(String),
    /// It will not do better soon.
    Final(String),
    /// It may do better in a moment.
    Passing(String),
}

impl DialError {
    /// As requests are counted that it ended.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Forbidden(_) => "forbidden",
            Self::Final(_) | Self::Passing(_) => "unreachable",
        }
    }
}

/// Makes connections.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    network: Arc<dyn Network>,
    timeout: Duration,
    /// Never connected to.
    denied: Vec<AddressRange>,
}

impl Dialer {
    pub(crate) fn new(network: Arc<dyn Network>, timeout: Duration, denied: &[AddressRange]) -> Self {
        Self {
            network,
            timeout,
            denied: denied.to_owned(),
        }
    }

    fn denies(&self, address: IpAddr) -> bool {
        self.denied.iter().any(|range| range.contains(address))
    }

    /// A connection, with TLS where the target wants it, and how near its address is.
    pub(crate) async fn connect(
        &self,
        target: &Target,
        purpose: Purpose,
        tls: &Arc<ClientConfig>,
    ) -> Result<(Stream, Nearness), DialError> {
        let dialing = async {
            let addresses = self.addresses(target, purpose).await?;
            let (stream, nearness) = self.first(&addresses).await?;
            if !target.secure {
                return Ok((stream, nearness));
            }
            Ok((secure(target, stream, tls).await?, nearness))
        };
        let late = || {
            DialError::Final(format!(
                "no connection to {} within {:?}",
                target.authority(),
                self.timeout
            ))
        };
        timeout(self.timeout, dialing).await.map_err(|_| late())?
    }

    /// The addresses that may be connected to.
    async fn addresses(&self, target: &Target, purpose: Purpose) -> Result<Vec<SocketAddr>, DialError> {
        let authority = target.authority();
        let all = match target.host {
            Host::Ipv4(address) => vec![SocketAddr::from((address, target.port))],
            Host::Ipv6(address) => vec![SocketAddr::from((address, target.port))],
            Host::Domain(_) => {
                let lost =
                    |error: io::Error| DialError::Passing(format!("{authority} cannot be resolved: {error}"));
                self.network.resolve(&authority).await.map_err(lost)?
            }
        };
        let mut allowed = all.clone();
        allowed.retain(|address| purpose.allows(address.ip()) && !self.denies(address.ip()));
        allowed.truncate(ADDRESSES_MAX);
        match (allowed.is_empty(), all.first()) {
            (false, _) => Ok(allowed),
            (true, None) => Err(DialError::Passing(format!("{authority} has no address"))),
            (true, Some(address)) if self.denies(address.ip()) => Err(DialError::Forbidden(format!(
                "{authority} has the address {}, which is in `deniedRanges`",
                address.ip()
            ))),
            (true, Some(address)) => Err(DialError::Forbidden(forbidden(&authority, address.ip(), purpose))),
        }
    }

    /// Connects to the first address that answers; none may use up the time of those behind it.
    async fn first(&self, addresses: &[SocketAddr]) -> Result<(Stream, Nearness), DialError> {
        let deadline = Instant::now() + self.timeout;
        let (mut problem, mut silent) = (String::new(), Vec::new());
        for (tried, address) in addresses.iter().enumerate() {
            let left = u32::try_from(addresses.len() - tried).unwrap_or(1);
            let share = deadline.saturating_duration_since(Instant::now()) / left;
            match timeout(share, self.network.connect(&address.to_string())).await {
                Ok(Ok(stream)) => return Ok((stream, Nearness::of(address.ip()))),
                Ok(Err(error)) => problem = format!("{address}: {error}"),
                Err(_) => silent.push(format!("{address}: no answer within {share:?}")),
            }
        }
        // Who does not answer would be waited for as long again.
        match silent.pop() {
            Some(silence) => Err(DialError::Final(silence)),
            None => Err(DialError::Passing(problem)),
        }
    }
}

/// TLS over a connection to the address that was chosen, for the name that was asked for.
async fn secure(target: &Target, stream: Stream, tls: &Arc<ClientConfig>) -> Result<Stream, DialError> {
    let mut stream = Some(TokioIo::new(stream));
    let chosen =
        service_fn(move |_: Uri| ready(stream.take().ok_or(io::Error::from(io::ErrorKind::NotConnected))));
    let uri = format!("https://{}", target.authority());
    let uri: Uri = uri
        .parse()
        .map_err(|error: InvalidUri| DialError::Final(error.to_string()))?;
    let secured = HttpsConnector::from((chosen, Arc::clone(tls)))
        .call(uri)
        .await
        .map_err(|error| tls_error(&*error))?;
    Ok(Stream::Other(Box::new(TokioIo::new(secured))))
}

fn forbidden(authority: &str, address: IpAddr, purpose: Purpose) -> String {
    let stands = match Nearness::of(address) {
        Nearness::Public => "public",
        Nearness::Private => "private",
        Nearness::Loopback => "this machine's own",
        Nearness::Forbidden => "link-local or reserved",
    };
    match purpose {
        Purpose::SentBy(_) => format!("it sent us to {authority}, whose address {address} is {stands}"),
        Purpose::Named | Purpose::Configured => format!(
            "{authority} has the address {address}, which is {stands}; give the registry an entry below \
             `registries` if that is right"
        ),
    }
}

/// The TLS library's own error, under however many that wrap it.
fn rustls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(io) = error.downcast_ref::<io::Error>() {
        return io.get_ref().and_then(|inner| rustls_error(inner));
    }
    error
        .downcast_ref()
        .or_else(|| error.source().and_then(rustls_error))
}

/// A certificate that is refused once is refused again; a handshake that broke is not.
fn tls_error(error: &(dyn Error + 'static)) -> DialError {
    let inner = rustls_error(error);
    match inner {
        Some(rustls::Error::InvalidCertificate(reason)) => DialError::Final(format!(
            "its certificate is refused: {reason}; if its authority is your own, name it as the registry's caFile"
        )),
        Some(other) => DialError::Final(format!("TLS failed: {other}")),
        None => DialError::Passing(format!("the TLS handshake broke: {error}")),
    }
}
