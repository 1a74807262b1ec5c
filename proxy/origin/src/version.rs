//! What a registry calls a content, so that bytes of two versions of it never follow one another.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The entity tag of the bytes that were handed out of one content. Clones share it: all that is read for one download,
/// by however many requests, is of one version.
#[derive(Clone, Debug, Default)]
pub struct Version {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    tag: Option<String>,
    begun: bool,
}

impl Version {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an answer with this tag goes on with the bytes that came before. One without a tag does not say.
    pub(crate) fn fits(&self, told: Option<&str>) -> bool {
        let state = self.state();
        let other = state
            .tag
            .as_deref()
            .zip(told)
            .is_some_and(|(known, told)| known != told);
        !(other && state.begun)
    }

    /// An answer that fits was taken; as long as no byte went out, the next one may be called otherwise.
    pub(crate) fn taken(&self, told: Option<&str>) {
        if let Some(told) = told {
            self.state().tag = Some(told.to_owned());
        }
    }

    /// Bytes went out: from here on they are of this version.
    pub(crate) fn begun(&self) {
        self.state().begun = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_tag_fits_until_a_byte_went_out() {
        let version = Version::default();
        assert!(version.fits(Some("a")));
        version.taken(Some("a"));
        assert!(version.fits(Some("b")));
        version.taken(Some("b"));
        version.clone().begun();
        assert!(version.fits(Some("b")) && version.fits(None) && !version.fits(Some("a")));
    }

    #[test]
    fn what_had_no_tag_takes_the_first_one() {
        let version = Version::default();
        version.taken(None);
        version.begun();
        assert!(version.fits(Some("a")));
        version.taken(Some("a"));
        assert!(!version.fits(Some("b")));
    }
}
