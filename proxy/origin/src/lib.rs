//! The client of registries: how contents leave their origin.
//!
//! [`Origins`] is the way in. What is asked goes, file by file: `origins` (what a caller can ask) → `exchange` (retries,
//! tokens, redirects) → `registry` (connections, limits and pauses of one registry) → `dial` (the guarded address, TLS)
//! → `link` (HTTP on one connection) → `body` and `fetch` (bytes on their way back). `reading` puts the answers of many
//! requests in order: what broke is asked for again from where it broke, and large blobs come over several connections
//! (`segment`, within `budget`). `challenge`, `guard`, `headers`, `pace` and `token` decide and do no I/O. `login` has the node's
//! own credentials, where the configuration names them. `gateway` connects to other hosts on behalf of the forward proxy.
//!
//! It is not a cache and keeps no content; it does not check digests (the proof is the engine's), and it does not decide
//! whether to go on after a failure (the caller knows what it still needs).
//!
//! What must hold: certificates are always verified; a caller's credentials reach the registry that it named and nobody
//! else; nothing connects to an address that the guard did not see; time and sockets come from outside, no task is
//! spawned, and whatever is dropped stops.

mod body;
mod budget;
pub mod challenge;
mod config;
mod credentials;
mod dial;
mod error;
mod exchange;
mod fetch;
pub mod fuzz;
mod gateway;
mod guard;
mod headers;
mod link;
mod login;
mod metrics;
mod names;
mod origins;
mod pace;
mod reading;
mod registry;
mod segment;
mod tls;
pub mod token;
mod version;

pub use body::RelayBody;
pub use config::{LargeBlobsConfig, OriginConfigError, RegistriesConfig, RegistryConfig};
pub use credentials::{ContentAddress, Credentials};
pub use error::OriginError;
pub use fetch::Fetch;
pub use gateway::Destination;
pub use login::{CredentialsConfig, DockerLogin, LocalUser, Share, docker_login};
pub use metrics::Metrics;
pub use names::{AddressRange, NamePattern};
pub use origins::{Head, Origins};
pub use reading::Reading;
pub use version::Version;
