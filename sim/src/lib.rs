//! The cluster in one thread: the real proxy, scheduler and origin client on simulated sockets and simulated time.
//!
//! Nothing of the code under test is replaced by a feature: sockets, store, time and randomness are what it is given. A
//! [`World`] is built from a seed, [`faults`] happen to it, [`oracle`] says what must be true all the same; the
//! same seed gives the same run. `swarm` is another thing: a fluid model of many nodes around the real engine.
//!
//! Scenarios are in `tests/`, one file each. Where to start: `tests/cold_pull.rs`, then [`world`].

pub mod client;
mod fate;
pub mod faults;
pub mod nemesis;
pub mod network;
pub mod node;
pub mod oracle;
mod panics;
pub mod scenario;
pub mod swarm;
pub mod trace;
pub mod world;

pub use client::{Outcome, Pull};
pub use world::{Blob, Shape, World};
