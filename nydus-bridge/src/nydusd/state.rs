//! What a process tells the one that goes on with its mount. Opaque to whoever keeps it meanwhile. Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::mount::{Agreed, IMAGES_MAX};

/// Changes whenever another process could not go on with what this one writes.
const FORMAT: u32 = 1;
/// Longest state: configurations of [`IMAGES_MAX`] images, with their certificates.
pub(super) const STATE_BYTES_MAX: usize = 256 << 20;

/// Why there is nothing to go on with.
#[derive(Debug, Error)]
pub enum StateError {
    /// It is no JSON, or not in the form.
    #[error("the state of the process before cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// Another program wrote it.
    #[error(
        "the state of the process before has the format {0}, not {FORMAT}: this program cannot go on with it"
    )]
    Format(u32),
    /// It contradicts itself.
    #[error("the state of the process before makes no sense: {0}")]
    Wrong(&'static str),
}

/// A mount and what it shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Which form this is.
    pub format: u32,
    /// What was agreed with the kernel.
    pub agreed: Agreed,
    /// Where the mount is.
    pub mountpoint: PathBuf,
    /// Whether images are directories in it; else there is one, and it is the whole.
    pub shared: bool,
    /// The highest instance that was ever used.
    pub last_instance: u16,
    /// The images.
    pub images: Vec<ImageState>,
}

/// An image of a mount.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageState {
    /// `/`, or its directory in the mount: `/12`.
    pub mountpoint: String,
    /// Its number in those of its files.
    pub instance: u16,
    /// The file with its metadata.
    pub bootstrap: PathBuf,
    /// Its configuration, as it was given.
    pub config: String,
    /// A credential that came after the configuration.
    pub auth: Option<String>,
    /// When it was mounted, in seconds since 1970.
    pub mounted: u64,
}

/// Without its secrets.
impl fmt::Debug for ImageState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageState")
            .field("mountpoint", &self.mountpoint)
            .field("instance", &self.instance)
            .field("bootstrap", &self.bootstrap)
            .finish_non_exhaustive()
    }
}

impl State {
    /// In the form of today.
    pub fn new(agreed: Agreed, mountpoint: PathBuf, shared: bool) -> Self {
        Self {
            format: FORMAT,
            agreed,
            mountpoint,
            shared,
            last_instance: 0,
            images: Vec::new(),
        }
    }

    /// Reads what [`Self::write`] wrote.
    ///
    /// # Errors
    /// It is something else.
    pub fn parse(bytes: &[u8]) -> Result<Self, StateError> {
        #[derive(Deserialize)]
        struct Form {
            format: u32,
        }
        let Form { format } = serde_json::from_slice(bytes)?;
        if format != FORMAT {
            return Err(StateError::Format(format));
        }
        let state: Self = serde_json::from_slice(bytes)?;
        let names: BTreeSet<_> = state.images.iter().map(|image| &image.mountpoint).collect();
        let instances: BTreeSet<_> = state.images.iter().map(|image| image.instance).collect();
        let count = state.images.len();
        if count > IMAGES_MAX || names.len() < count {
            return Err(StateError::Wrong("its images"));
        }
        if state.shared && (instances.len() < count || instances.contains(&0)) {
            return Err(StateError::Wrong("the numbers of its images"));
        }
        if !state.shared && count != 1 {
            return Err(StateError::Wrong("there is not one image"));
        }
        if !state.mountpoint.is_absolute() {
            return Err(StateError::Wrong("the place of the mount"));
        }
        Ok(state)
    }

    /// As bytes.
    pub fn write(&self) -> Vec<u8> {
        // It is made of texts and numbers, which can be written.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Any bytes: read, or refused; and what is read is written so that it is read again.
pub fn fuzz_state(data: &[u8]) {
    if let Ok(state) = State::parse(data) {
        let again = State::parse(&state.write());
        assert!(again.is_ok_and(|again| again == state), "{state:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(images: u16) -> State {
        let mut state = State::new(Agreed { capabilities: 7 }, "/mnt".into(), true);
        state.images = (1..=images)
            .map(|instance| ImageState {
                mountpoint: format!("/{instance}"),
                instance,
                bootstrap: "/b".into(),
                config: "{}".into(),
                auth: None,
                mounted: 1,
            })
            .collect();
        state.last_instance = images;
        state
    }

    #[test]
    fn what_is_written_is_read() {
        for state in [shared(0), shared(1), shared(3000)] {
            assert_eq!(State::parse(&state.write()).unwrap(), state);
        }
    }

    #[test]
    fn secrets_are_in_no_log() {
        let mut state = shared(1);
        state.images[0].auth = Some("c2VjcmV0".into());
        state.images[0].config = "c2VjcmV0".into();
        assert!(!format!("{state:?}").contains("c2VjcmV0"));
    }

    #[test]
    fn contradictions_are_refused() {
        let mut other = shared(1);
        other.format = 2;
        assert!(matches!(State::parse(&other.write()), Err(StateError::Format(2))));
        let spoil: [fn(&mut State); 5] = [
            |state| state.shared = false,
            |state| state.images[1].mountpoint = "/1".into(),
            |state| state.images[1].instance = 1,
            |state| state.images[1].instance = 0,
            |state| state.mountpoint = "mnt".into(),
        ];
        for spoil in spoil {
            let mut state = shared(2);
            spoil(&mut state);
            assert!(
                matches!(State::parse(&state.write()), Err(StateError::Wrong(_))),
                "{state:?}"
            );
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused() {
        darter_testkit::fuzz::check("nydusd_state", fuzz_state);
    }
}
