//! On whose behalf a registry is asked.

use std::fmt;

use http::HeaderValue;

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
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Node => "Node",
            Self::Caller(_) => "Caller(<redacted>)",
        })
    }
}
