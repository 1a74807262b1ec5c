//! Between the generated types and the checked ones.
//!
//! Towards the network: `From`, which cannot fail. From the network: `TryFrom`, which refuses whatever breaks
//! a bound of [`crate::limits`] before it keeps anything of it. An enum value that this release does not know
//! becomes the mildest one where a newer release may have added it, and is refused where guessing would do
//! harm; what is mapped is said at each place.

mod node;
mod scheduler;
#[cfg(test)]
mod tests;
mod words;

use thiserror::Error;

/// Why a message was refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConvertError {
    /// The message has a kind that this release does not know: ignore it, a newer release sent it.
    #[error("the message has no kind that this release knows; ignore it or upgrade")]
    UnknownMessage,
    /// A part that must be there is not.
    #[error("{field} is missing")]
    Missing {
        /// Which part.
        field: &'static str,
    },
    /// A name, number or text does not have its form.
    #[error("{field}: {what}")]
    Malformed {
        /// Which part.
        field: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// A list, text or number is larger than its bound.
    #[error("{field} has {found}, more than {bound}")]
    TooMuch {
        /// Which part.
        field: &'static str,
        /// What came.
        found: u64,
        /// The most that is taken.
        bound: u64,
    },
}

impl From<ConvertError> for tonic::Status {
    fn from(error: ConvertError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}
