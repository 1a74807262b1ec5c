//! What every long-running role does alike.
//!
//! [`net`] is where sockets come from, [`supervise`] the only place that spawns, [`http_server`] serves, [`limit`] and
//! [`backoff`] hold back. [`config`] reads a role's configuration, [`log`], [`traces`] and [`metrics`] tell what it
//! does, [`ready`] and [`admin`] whether it can; [`shutdown`] listens to signals, [`tls`] knows certificates,
//! [`secret_file`] reads what nobody else may. [`watchdog`] ends a role that hangs, [`guardian`] a whole process that does;
//! [`notify`] is what they hear; [`role`] is the life of a process that has all of this.

pub mod admin;
pub mod backoff;
pub mod build_info;
pub mod config;
pub mod guardian;
pub mod http_server;
pub mod limit;
pub mod log;
pub mod manager;
pub mod metrics;
pub mod net;
pub mod notify;
pub mod ready;
pub mod role;
pub mod secret_file;
pub mod shutdown;
pub mod supervise;
pub mod tls;
pub mod trace_context;
pub mod traces;
pub mod watchdog;
