//! Opens what a role listens on, with an error that says what it would have been for.

use std::io;

use thiserror::Error;

use super::{Address, Listener, Network};

/// A port or a socket file that cannot be opened.
#[derive(Debug, Error)]
#[error("cannot listen on {address} for {what}: is another process there?")]
pub struct OpenError {
    address: Address,
    what: &'static str,
    source: io::Error,
}

/// Listens on `address` for `what`, and tells the address that it has got: another one, where the port was 0.
///
/// # Errors
/// Whatever the system says.
pub async fn open(
    network: &dyn Network,
    address: &Address,
    what: &'static str,
) -> Result<(Box<dyn Listener>, String), OpenError> {
    let opened = network.bind(address).await;
    let listener = opened.map_err(|source| OpenError {
        address: address.clone(),
        what,
        source,
    })?;
    let local = listener.local_addr();
    let local = local.map_or_else(|_| address.to_string(), |local| local.to_string());
    Ok((listener, local))
}
