//! Why something was not done, and how that is said.

use thiserror::Error;

use crate::snapshotter::catalog::{Refusal, Wanted};
use crate::snapshotter::filter::FilterError;
use crate::snapshotter::images::ImageFailure;
use crate::snapshotter::reference::ReferenceError;
use crate::snapshotter::store::StoreError;

/// Why something was not done.
#[derive(Debug, Error)]
pub enum CoreError {
    /// It may not be done.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A filter is not understood.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// A Nydus image is not mounted.
    #[error(transparent)]
    Image(#[from] ImageFailure),
    /// It is not known which Nydus image it is.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// It cannot be remembered.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system refuses.
    #[error("cannot {what}: {error}")]
    System {
        /// What it refuses.
        what: &'static str,
        /// Why.
        error: std::io::Error,
    },
    /// This process ends.
    #[error("the snapshotter stops")]
    Stopping,
}

/// It was removed and made anew between two looks.
pub(super) fn replaced(wanted: &Wanted) -> Refusal {
    Refusal::State {
        name: wanted.parent.clone().unwrap_or_default(),
        reason: "was replaced meanwhile",
    }
}

pub(super) fn without_metadata(name: &str) -> Refusal {
    Refusal::Invalid(format!(
        "{name} is marked as Nydus metadata, and has no image/image.boot of RAFS 5 or 6"
    ))
}

pub(super) fn system(what: &'static str, error: std::io::Error) -> CoreError {
    CoreError::System { what, error }
}
