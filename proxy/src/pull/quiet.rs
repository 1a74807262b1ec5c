//! Whether readers of this node wait for bytes: what can wait lets them go first.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::changes::Changing;

/// How many readers that cannot wait have no bytes. All clones are one.
#[derive(Clone, Debug, Default)]
pub(super) struct Quiet(Arc<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    readers: AtomicUsize,
    changing: Changing,
}

/// A reader waits as long as this lives.
#[derive(Debug)]
pub(super) struct Waits(Quiet);

impl Quiet {
    /// A reader that cannot wait has no bytes.
    pub(super) fn disturb(&self) -> Waits {
        self.0.readers.fetch_add(1, Ordering::AcqRel);
        Waits(self.clone())
    }

    /// Whether nobody waits.
    fn is_quiet(&self) -> bool {
        self.0.readers.load(Ordering::Acquire) == 0
    }

    /// Waits until it is quiet. Cancel safe.
    pub(super) async fn settles(&self) {
        let mut changes = self.0.changing.watch();
        loop {
            changes.mark_seen();
            if self.is_quiet() {
                return;
            }
            changes.changed().await;
        }
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        let Waiting { readers, changing } = &*self.0.0;
        if readers.fetch_sub(1, Ordering::AcqRel) == 1 {
            changing.changed();
        }
    }
}
