//! Ends of connections that take nothing: the system closes these.
//!
//! Only the system knows whether the other end still reads: a slow one drains its window long before the socket here can be
//! written to again. `TCP_USER_TIMEOUT` (RFC 5482; tcp(7)) counts the time in which nothing was acknowledged or the window stayed
//! shut.

use std::os::fd::AsFd as _;
use std::time::Duration;

use super::Stream;

/// Closes the connection once the other end has taken nothing of what waits for it for so long. Other networks than TCP have
/// no such clients: they are of tests, or of this machine.
pub fn bound(stream: &Stream, max: Duration) {
    let Some(tcp) = stream.as_tcp() else { return };
    let millis = u32::try_from(max.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(tcp.as_fd(), millis) {
        tracing::debug!(%error, "a connection has no stall timeout");
    }
}
