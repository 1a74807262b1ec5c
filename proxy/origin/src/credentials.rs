//! On whose behalf a registry is asked.

use std::fmt;
use std::sync::Arc;

use http::HeaderValue;
use url::Url;

/// On whose behalf a registry is asked.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Nobody's: the registry's anonymous token is fetched where it wants one.
    Anonymous,
    /// This node's, as the configuration of the registry has them: whoever asks speaks for the node. Where there are none,
    /// as nobody.
    Node,
    /// A client's own `Authorization` header, sent to that registry and nowhere else.
    Caller(HeaderValue),
    /// An address of a client's own, asked instead of the path of the specification: what signs it is the right to read.
    Address(Arc<ContentAddress>),
}

/// Where one content lies, as a client was told.
#[derive(Clone, PartialEq, Eq)]
pub struct ContentAddress {
    /// With its whole query, which may sign it.
    pub url: Url,
    /// What the client shows besides.
    pub authorization: Option<HeaderValue>,
}

impl fmt::Debug for ContentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContentAddress(<redacted>)")
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Node => "Node",
            Self::Caller(_) => "Caller(<redacted>)",
            Self::Address(_) => "Address(<redacted>)",
        })
    }
}
