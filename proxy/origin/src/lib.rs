//! The client of registries: how contents leave their origin.

mod credentials;
mod error;

pub use credentials::Credentials;
pub use error::OriginError;
