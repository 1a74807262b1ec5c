//! What somebody at a terminal is told: how far a mount is, and at its end where its bytes came from. Elsewhere the log has it.

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

use darter_nydus_bridge::fs::Stats;
use darter_nydus_bridge::mount::Driver;
use darter_service::config::ByteSize;
use darter_types::Digest;
use tokio::time::Instant;

/// The steps of a mount.
#[derive(Debug)]
pub(super) struct Progress {
    begun: Instant,
    terminal: bool,
}

impl Progress {
    /// The mount begins.
    pub(super) fn begin() -> Self {
        Self {
            begun: Instant::now(),
            terminal: std::io::stderr().is_terminal(),
        }
    }

    fn took(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    #[expect(
        clippy::print_stderr,
        reason = "for a person; what the program gives is the mount"
    )]
    fn say(&self, line: &str) {
        if self.terminal {
            eprintln!("{line}");
        }
    }

    /// It is known what the image is, and its metadata are here.
    pub(super) fn resolved(&mut self, key: &Digest) {
        tracing::debug!(bootstrap = %key, took = ?self.took(), "the image is found");
        self.say(&format!("found, with its metadata, after {:?}", self.took()));
    }

    /// It can be used.
    pub(super) fn mounted(&mut self, name: &str, dir: &Path, driver: Driver) {
        let took = self.took();
        tracing::info!(image = name, path = %dir.display(), ?driver, ?took, "mounted");
        let driver = if driver == Driver::Erofs { "EROFS" } else { "FUSE" };
        let dir = dir.display();
        self.say(&format!(
            "mounted at {dir} by {driver} after {took:?}; Ctrl-C or `darter umount {dir}` ends it"
        ));
    }

    /// It is gone.
    pub(super) fn ended(&mut self, name: &str, stats: &Stats) {
        tracing::info!(
            image = name,
            read = stats.read,
            fetched = stats.fetched,
            prefetched = stats.background,
            requests = stats.requests,
            amplification_percent = stats.amplification(),
            "unmounted"
        );
        self.say(&summary(stats));
    }
}

/// One line.
fn summary(stats: &Stats) -> String {
    let size = |bytes| short(ByteSize::bytes(bytes));
    let amplification = stats.amplification().map(|percent| {
        let (whole, part) = (percent / 100, percent % 100);
        format!(", {whole}.{part:02} times what was wanted")
    });
    format!(
        "unmounted: read {}, fetched {} by {} requests ({} in the background){}",
        size(stats.read),
        size(stats.fetched),
        stats.requests,
        size(stats.background),
        amplification.unwrap_or_default(),
    )
}

/// A size as people say it.
fn short(size: ByteSize) -> String {
    let bytes = size.as_u64();
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_says_where_the_bytes_came_from() {
        let stats = Stats {
            read: 3 << 20,
            wanted: 1 << 20,
            fetched: 5 << 19,
            background: 1 << 19,
            requests: 4,
            ..Stats::default()
        };
        assert_eq!(
            summary(&stats),
            "unmounted: read 3.0 MiB, fetched 2.5 MiB by 4 requests (512.0 KiB in the background), \
             2.00 times what was wanted"
        );
        assert!(summary(&Stats::default()).ends_with("(0 bytes in the background)"));
    }
}
