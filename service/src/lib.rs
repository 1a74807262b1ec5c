//! What every long-running role does alike.
//!
//! [`net`] is where sockets come from, [`supervise`] the only place that spawns, [`http_server`] serves, [`limit`] holds
//! back. [`config`] reads a role's configuration.

pub mod config;
pub mod http_server;
pub mod limit;
pub mod net;
pub mod supervise;
