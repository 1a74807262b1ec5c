//! What Darter's roles say to each other: the `.proto` files, the code generated from them, and checked
//! conversions into the words of `darter-types`. No logic.
//!
//! Roles use the types of [`scheduler`] and [`manager`]; the generated ones ([`pb`]) stay at the edge, where tonic wants them.

pub mod convert;
pub mod limits;
pub mod manager;
pub mod ring;
pub mod scheduler;

/// Code generated from `proto/`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    unreachable_pub,
    missing_debug_implementations
)]
pub mod pb {
    /// `darter.manager.v1`
    pub mod manager {
        /// Version 1 of the protocol.
        pub mod v1 {
            tonic::include_proto!("darter.manager.v1");
        }
    }
    /// `darter.scheduler.v1`
    pub mod scheduler {
        /// Version 1 of the protocol.
        pub mod v1 {
            tonic::include_proto!("darter.scheduler.v1");
        }
    }
}

/// The paths of all methods of all services in `proto/`.
pub const METHODS: &[&str] = include!(concat!(env!("OUT_DIR"), "/methods.rs"));

/// Version of the wire protocol that this build speaks. A node and a scheduler whose versions differ by one
/// still work together; the change log says what each version added.
pub const WIRE_VERSION: u32 = 1;
