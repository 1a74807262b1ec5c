//! The end-to-end harness: real binaries, real containerd and registry, in network namespaces with capped links.
//!
//! A test builds a [`lab::Lab`] (a bridge, hosts on it, a directory), serves [`image::Fixtures`] from a
//! [`registry::Registry`], gives each node a [`containerd::Containerd`] and, through [`cluster::Cluster`], a
//! Darter. It waits for conditions, never for a time to pass, and asserts bytes and contents, never durations.
//!
//! What must hold: a lab shares nothing with another one but the prepared images; everything a lab started
//! ends with it, also when the test is killed; a missing tool is installed or is an error, never a skip.

#![expect(
    clippy::print_stderr,
    reason = "tells the person who waits what is being installed, built or kept"
)]

pub mod bench;
pub mod clients;
pub mod clock;
pub mod cluster;
pub mod command;
pub mod containerd;
pub mod containers;
pub mod darter;
pub mod docker;
pub mod doctor;
pub mod faults;
pub mod host;
pub mod image;
pub mod lab;
pub mod liar;
pub mod netns;
pub mod nydus;
pub mod process;
pub mod registry;
pub mod scratch;
pub mod shape;
pub mod slow;
pub mod snapshots;
pub mod stargz;
pub mod tools;
