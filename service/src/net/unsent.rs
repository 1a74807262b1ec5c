//! Bytes that wait in a socket: few, so that what is being sent is known here.
//!
//! The system takes megabytes from a writer at once and sends them later, as fast as the link allows. Whoever counts what it is
//! sending then counts nothing while the link is full, and cannot send what has become more urgent.
//! `TCP_NOTSENT_LOWAT` (tcp(7)) has the socket take more only when less than so much is waiting; what is on its way
//! does not count, so that a fast link stays full.

use super::Stream;

/// Lets at most about `max` bytes wait in the connection's socket. Other networks than TCP have no such queue.
pub fn bound(stream: &Stream, max: u32) {
    let Some(tcp) = stream.as_tcp() else { return };
    if let Err(error) = socket2::SockRef::from(tcp).set_tcp_notsent_lowat(max) {
        tracing::debug!(%error, "a connection's unsent bytes are not bounded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Address, Network as _, TokioNetwork};
    use std::time::Duration;
    use tokio::io::AsyncWriteExt as _;

    /// Bytes that a socket takes whose other end reads nothing.
    async fn taken(max: Option<u32>) -> usize {
        let any: Address = "127.0.0.1:0".parse().unwrap();
        let mut listener = TokioNetwork.bind(&any).await.unwrap();
        let local = listener.local_addr().unwrap().to_string();
        let (server, client) = tokio::join!(listener.accept(), TokioNetwork.connect(&local));
        let (mut server, _client) = (server.unwrap().0, client.unwrap());
        max.into_iter().for_each(|max| bound(&server, max));
        let mut taken = 0;
        let block = [0; 16 * 1024];
        while let Ok(wrote) = tokio::time::timeout(Duration::from_millis(300), server.write(&block)).await {
            taken += wrote.unwrap();
        }
        taken
    }

    #[tokio::test]
    async fn what_waits_is_bounded() {
        let (free, bounded) = (taken(None).await, taken(Some(64 * 1024)).await);
        assert!(bounded * 2 < free, "{bounded} of {free} bytes");
    }
}
