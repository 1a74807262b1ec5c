//! Points the clients of registries (container runtimes, builders, snapshotters) at a Darter proxy, shows what that would change, and takes it back.
//!
//! This is the library behind `darter setup`. Each client is a module with two functions: one reads the
//! files that are there and answers a [`Plan`], the other answers the plan that undoes an earlier one.
//! Nothing is written before [`Plan::apply`], so a dry run is a plan that is only rendered.
//!
//! What it is not: it starts, stops and asks no program. When a runtime must be restarted, the plan says so
//! in a [`Note`] and the caller decides.
//!
//! What must hold:
//! - every path lies under the `root` that the caller gives, symbolic links included;
//! - a second apply with the same options is an empty plan;
//! - an undo gives back the exact bytes, and never overwrites what somebody else wrote since;
//! - what the user had in a file stays there: other hosts, comments, layout.
//!
//! Start reading at [`containerd::plan`].

pub mod buildkit;
pub mod containerd;
pub mod containers;
pub mod docker;
pub mod lazy;
pub mod nydus;

mod backup;
mod diff;
mod document;
mod error;
mod hosts;
mod plan;
mod registry;
mod rooted;
mod runtime;

pub use error::Error;
pub use plan::{Note, Plan};
pub use registry::{Mirror, Registry};
pub use runtime::Runtime;
