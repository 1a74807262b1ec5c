//! Values that a configuration file writes with a unit: durations, sizes, secrets.
//!
//! They are texts in the file (`30s`, `64MiB`) and types in the program, so that no reader has to guess a unit. A bare
//! number is refused for a [`Period`]; for a [`ByteSize`] it counts bytes, as everywhere.

mod byte_size;
mod period;
mod secret;

pub use byte_size::ByteSize;
pub use period::Period;
pub use secret::Secret;

/// Why a text is not the value that it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, got {got:?}")]
pub struct ValueError {
    expected: &'static str,
    got: String,
}

impl ValueError {
    /// `expected` says what is right, by an example.
    pub(crate) fn new(expected: &'static str, got: &str) -> Self {
        // A file pasted into a value should not fill the screen.
        Self {
            expected,
            got: got.chars().take(64).collect(),
        }
    }
}

/// Splits the leading digits off a text: the number, and the rest.
fn leading_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest))
}
