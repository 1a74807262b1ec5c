//! Whether it is worth waiting for a registry.

use darter_types::RegistryName;
use tokio::time::Instant;

use super::Origins;

impl Origins {
    /// Whether a registry was reached since then, by whichever request: an answer may be on its way. One that takes no
    /// connection does not answer.
    pub fn is_answering(&self, registry: &RegistryName, since: Instant) -> bool {
        let registries = self.inner.registries();
        registries
            .get(registry)
            .is_some_and(|registry| registry.is_answering(since))
    }
}
