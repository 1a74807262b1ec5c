//! SIGTERM and SIGINT: the first one asks to stop, the second one stops at once.

use std::io;

use futures_util::stream::{self, Stream, StreamExt as _};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What a process ends with that was interrupted twice: 128 + SIGINT, as shells have it.
const INTERRUPTED: i32 = 130;

/// A token that the first SIGTERM or SIGINT cancels; a second signal ends the process without waiting for anything.
///
/// Must be called in a runtime, once, by the program and not by a role: signals belong to the process.
///
/// # Errors
/// The system refuses to install a handler.
pub fn on_signals() -> io::Result<CancellationToken> {
    let received = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let signals = stream::unfold(received, async |(mut terminate, mut interrupt)| {
        let name = tokio::select! {
            biased;
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        Some((name, (terminate, interrupt)))
    });
    let stop = CancellationToken::new();
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

async fn watch(signals: impl Stream<Item = &'static str>, stop: &CancellationToken, exit: impl FnOnce()) {
    let mut signals = std::pin::pin!(signals);
    let signal = signals.next().await;
    tracing::info!(signal, "stopping");
    stop.cancel();
    let signal = signals.next().await;
    tracing::warn!(signal, "stopping at once");
    exit();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_signal_asks_and_the_second_ends() {
        let (send, received) = tokio::sync::mpsc::channel(2);
        let signals = stream::unfold(received, async |mut received| {
            Some((received.recv().await?, received))
        });
        let (stop, ended) = (CancellationToken::new(), std::cell::Cell::new(false));
        let watching = watch(signals, &stop, || ended.set(true));
        let sending = async {
            send.send("SIGTERM").await.unwrap();
            stop.cancelled().await;
            assert!(!ended.get());
            send.send("SIGTERM").await.unwrap();
        };
        tokio::join!(watching, sending);
        assert!(ended.get());
    }

    #[tokio::test]
    async fn a_real_signal_is_heard() {
        let stop = on_signals().unwrap();
        assert!(!stop.is_cancelled());
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).unwrap();
        stop.cancelled().await;
    }
}
