//! SIGTERM, SIGINT and SIGUSR2: the first one asks to stop, the second one stops at once. SIGUSR2 says besides that a
//! successor takes over at once, as in an upgrade.

use std::io;
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What a process ends with that was interrupted twice: 128 + SIGINT, as shells have it.
const INTERRUPTED: i32 = 130;
const UPGRADE: &str = "SIGUSR2";

/// Signals this soon after the first are the same wish: Ctrl-C reaches a process from its terminal and again from the
/// program that started it.
const SAME_WISH: Duration = Duration::from_millis(500);

/// What the first signal asked for. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Cancelled by the first signal.
    pub stop: CancellationToken,
    /// Cancelled before `stop` when a successor takes over at once: what points at this process may stay.
    pub succeeded: CancellationToken,
}

/// The tokens that the first SIGTERM, SIGINT or SIGUSR2 cancels; a second signal, later than an echo of the first, ends
/// the process without waiting for anything.
///
/// Must be called in a runtime, once, by the program and not by a role: signals belong to the process.
///
/// # Errors
/// The system refuses to install a handler.
pub fn on_signals() -> io::Result<Stop> {
    let received = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::user_defined2())?,
    );
    let signals = stream::unfold(received, async |(mut terminate, mut interrupt, mut upgrade)| {
        let name = tokio::select! {
            biased;
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            _ = upgrade.recv() => UPGRADE,
        };
        Some((name, (terminate, interrupt, upgrade)))
    });
    let stop = Stop::default();
    let token = stop.clone();
    // It must hear the second signal while everything else is being waited for, so nobody waits for it.
    #[expect(
        clippy::disallowed_methods,
        reason = "lives as long as the process, after all supervised tasks"
    )]
    tokio::spawn(async move {
        watch(signals, &token, || std::process::exit(INTERRUPTED)).await;
    });
    Ok(stop)
}

async fn watch(signals: impl Stream<Item = &'static str>, stop: &Stop, exit: impl FnOnce()) {
    let mut signals = std::pin::pin!(signals);
    let Some(signal) = signals.next().await else {
        return;
    };
    tracing::info!(signal, "stopping");
    if signal == UPGRADE {
        stop.succeeded.cancel();
    }
    stop.stop.cancel();
    let first = Instant::now();
    while let Some(signal) = signals.next().await {
        if first.elapsed() >= SAME_WISH {
            tracing::warn!(signal, "stopping at once");
            return exit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_signal_asks_an_echo_of_it_says_nothing_and_the_second_ends() {
        asks_and_ends("SIGTERM", false).await;
        asks_and_ends("SIGUSR2", true).await;
    }

    async fn asks_and_ends(first: &'static str, succeeded: bool) {
        let (send, received) = tokio::sync::mpsc::channel(2);
        let signals = stream::unfold(received, async |mut received| {
            Some((received.recv().await?, received))
        });
        let (stop, ended) = (Stop::default(), std::cell::Cell::new(false));
        let watching = watch(signals, &stop, || ended.set(true));
        let sending = async {
            send.send(first).await.unwrap();
            stop.stop.cancelled().await;
            assert_eq!(stop.succeeded.is_cancelled(), succeeded);
            for _ in 0..3 {
                send.send("SIGINT").await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
                assert!(!ended.get(), "an echo of the first");
            }
            tokio::time::sleep(SAME_WISH).await;
            send.send("SIGTERM").await.unwrap();
        };
        tokio::join!(watching, sending);
        assert!(ended.get());
    }

    #[tokio::test]
    async fn a_real_signal_is_heard() {
        let Stop { stop, .. } = on_signals().unwrap();
        assert!(!stop.is_cancelled());
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).unwrap();
        stop.cancelled().await;
    }
}
