//! nydusd's part towards nydus-snapshotter: one process that mounts images and is told what to do over a socket.
//!
//! `api` reads requests and writes answers, [`Daemon`] does what they ask, [`Config`] reads nydusd's configuration (somebody
//! else's format: what is not known is told and passed over), `state` and `supervisor` hand a mount to another process.
//!
//! What must hold: the process serves before anything is asked of the network; whatever comes through the socket, from
//! the supervisor or in a file, nothing panics; a mount is never shown with other numbers of files than before.

mod api;
mod config;
mod daemon;
mod images;
mod source;
mod state;
mod supervisor;

pub use api::serve;
pub use config::{Backend, Config, ConfigError, Registry, fuzz_config};
pub use daemon::{Beginning, Daemon, DaemonError, Options, State as Phase};
pub use source::{BackendSource, BackendSourceError};
pub use state::{ImageState, State, StateError, fuzz_state};
