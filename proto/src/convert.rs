//! Between the generated types and the checked ones.
//!
//! Towards the network: `From`, which cannot fail. From the network: `TryFrom`, which refuses whatever breaks
//! a bound of [`crate::limits`] before it keeps anything of it. An enum value that this release does not know
//! becomes the mildest one where a newer release may have added it, and is refused where guessing would do
//! harm; what is mapped is said at each place.

mod manager;
mod node;
mod scheduler;
#[cfg(test)]
mod tests;
mod words;

pub use manager::{fuzz_instance, fuzz_membership};
use prost::Message as _;
use thiserror::Error;

use crate::pb::scheduler::v1 as pb;
use crate::scheduler::{NodeMessage, SchedulerMessage};

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

/// The body of a fuzz target: any bytes as what a node says. What is taken must read back as the same.
///
/// # Panics
/// If it does not.
pub fn fuzz_node_message(data: &[u8]) {
    let Some(message) = pb::NodeMessage::decode(data).ok().and_then(taken) else {
        return;
    };
    let message: NodeMessage = message;
    let again = pb::NodeMessage::decode(&*pb::NodeMessage::from(message.clone()).encode_to_vec());
    let again: Option<NodeMessage> = again.ok().and_then(taken);
    assert!(
        is_same(again.as_ref(), &message),
        "{message:?} reads back as {again:?}"
    );
}

/// The body of a fuzz target: any bytes as what a scheduler says. What is taken must read back as the same.
///
/// # Panics
/// If it does not.
pub fn fuzz_scheduler_message(data: &[u8]) {
    let Some(message) = pb::SchedulerMessage::decode(data).ok().and_then(taken) else {
        return;
    };
    let message: SchedulerMessage = message;
    let again = pb::SchedulerMessage::decode(&*pb::SchedulerMessage::from(message.clone()).encode_to_vec());
    let again: Option<SchedulerMessage> = again.ok().and_then(taken);
    assert!(
        is_same(again.as_ref(), &message),
        "{message:?} reads back as {again:?}"
    );
}

fn taken<M, T: TryFrom<M>>(message: M) -> Option<T> {
    T::try_from(message).ok()
}

/// By what is shown of them: a number that is none differs from itself.
fn is_same<T: std::fmt::Debug>(again: Option<&T>, message: &T) -> bool {
    again.is_some_and(|again| format!("{again:?}") == format!("{message:?}"))
}
