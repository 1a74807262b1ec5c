//! Accepting that goes on: a failed accept is waited out, and said now and then.
//!
//! A process that ran out of file descriptors fails at every accept until some are closed: without a pause that takes a
//! core, and with a line of the log for each it fills the disk.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::{Listener, PeerAddr, Stream};

/// Pause after a failed accept: only time heals a lack of file descriptors.
const PAUSE: Duration = Duration::from_millis(50);
/// How often the log says that accepts fail.
const SAY_EVERY: Duration = Duration::from_secs(30);

/// A listener that is accepted from until its owner is done.
#[derive(Debug)]
pub struct Acceptor {
    listener: Box<dyn Listener>,
    name: &'static str,
    paused_until: Option<Instant>,
    failures: Seldom,
}

impl Acceptor {
    /// Accepts from `listener`; `name` says in the log what connects there.
    pub fn new(name: &'static str, listener: Box<dyn Listener>) -> Self {
        Self {
            listener,
            name,
            paused_until: None,
            failures: Seldom::default(),
        }
    }

    /// The next connection. Cancel safe, and a pause that was begun is kept.
    pub async fn accept(&mut self) -> (Stream, PeerAddr) {
        loop {
            if let Some(until) = self.paused_until {
                sleep_until(until).await;
                self.paused_until = None;
            }
            match self.listener.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => self.failed(&error),
            }
        }
    }

    fn failed(&mut self, error: &io::Error) {
        let now = Instant::now();
        self.paused_until = Some(now + PAUSE);
        if let Some(unsaid) = self.failures.note(now) {
            tracing::warn!(
                server = self.name, %error, unsaid,
                "connections cannot be accepted at the moment; are there enough file descriptors (ulimit -n)?"
            );
        }
    }
}

/// What happens often and is said seldom.
#[derive(Debug, Default)]
pub(crate) struct Seldom {
    said: Option<Instant>,
    unsaid: u64,
}

impl Seldom {
    /// Notes that it happened; `Some` if it shall be said, with how often it was not said before.
    pub(crate) fn note(&mut self, now: Instant) -> Option<u64> {
        if self.said.is_some_and(|said| now - said < SAY_EVERY) {
            self.unsaid += 1;
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::BoxFuture;
    use std::net::SocketAddr;

    /// Fails so often, then gives one connection and waits.
    #[derive(Debug)]
    struct Failing {
        left: u32,
        connection: Option<tokio::io::DuplexStream>,
    }

    impl Listener for Failing {
        fn accept(&mut self) -> BoxFuture<'_, io::Result<(Stream, PeerAddr)>> {
            Box::pin(async {
                if self.left > 0 {
                    self.left -= 1;
                    // EMFILE: what a process without a free descriptor hears.
                    return Err(io::Error::from_raw_os_error(24));
                }
                match self.connection.take() {
                    Some(connection) => {
                        let peer = PeerAddr::Unix { uid: None };
                        Ok((Stream::Other(Box::new(connection)), peer))
                    }
                    None => std::future::pending().await,
                }
            })
        }

        fn local_addr(&self) -> io::Result<SocketAddr> {
            Err(io::Error::other("nowhere"))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ten_thousand_failures_do_not_end_it_nor_make_it_spin() {
        let (one, _other) = tokio::io::duplex(16);
        let mut acceptor = Acceptor::new(
            "test",
            Box::new(Failing {
                left: 10_000,
                connection: Some(one),
            }),
        );
        let began = Instant::now();
        acceptor.accept().await;
        assert!(began.elapsed() >= PAUSE * 10_000, "it pauses after each");
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_accept_keeps_its_pause() {
        let mut acceptor = Acceptor::new(
            "test",
            Box::new(Failing {
                left: u32::MAX,
                connection: None,
            }),
        );
        for _ in 0..100 {
            let short = tokio::time::timeout(Duration::from_millis(1), acceptor.accept());
            assert!(short.await.is_err());
        }
        // A few tries in that time, not one for each call.
        assert!(acceptor.failures.unsaid < 10, "{}", acceptor.failures.unsaid);
    }

    #[tokio::test(start_paused = true)]
    async fn what_happens_often_is_said_seldom() {
        let mut seldom = Seldom::default();
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert_eq!(seldom.note(at(0)), Some(0));
        let said = (1..600).filter_map(|tick| seldom.note(at(tick * 50))).count();
        assert_eq!(said, 0);
        assert_eq!(seldom.note(at(30_000)), Some(599));
        assert_eq!(seldom.note(at(30_050)), None);
    }
}
