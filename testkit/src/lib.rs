//! What Darter's tests share: a registry that misbehaves on demand, images to put into it, a client
//! that sees every byte, and a model of HTTP ranges to compare with.
//!
//! Start at [`origin::Origin`]. A test adds content, injects faults, points the code under test at the
//! origin and then asserts on what the origin *saw* (requests, credentials, bytes), never on a time.
//!
//! It is not a registry to deploy, and no program depends on it. What must hold: the same calls give
//! the same bytes in every run, and a fault that was injected really happens (this crate tests that).
#![expect(
    clippy::disallowed_methods,
    reason = "test servers and clients own real loopback sockets; no role depends on this crate"
)]

pub mod authority;
mod cases;
pub mod client;
pub mod content;
pub mod fuzz;
pub mod image;
pub mod origin;
pub mod puller;
pub mod range_model;
pub mod smuggling;
pub mod stranger;

pub use cases::cases;
