//! The per-node proxy: a registry mirror whose blobs come piece by piece from other nodes.
//!
//! The life of a pull is told in `ARCHITECTURE.md`. In this crate: [`mirror`] speaks to clients, [`access`]
//! asks whether a caller may read, [`pull`] runs one download for all who want a content, `darter_origin` speaks to
//! registries, [`peer`] to other nodes, [`scheduling`] to schedulers, both over [`secure`]
//! connections where certificates are configured; [`forward`] is for clients that know proxies but no mirrors; [`app`]
//! puts them together. [`hosts`] tells containerd of it, [`journal`] remembers what happened.

pub mod access;
pub mod app;
pub mod config;
pub mod forward;
pub mod hosts;
pub mod journal;
mod managed;
pub mod metrics;
pub mod mirror;
pub mod peer;
pub mod pull;
pub mod role;
pub mod run;
pub mod scheduling;
pub mod secure;
pub mod sendfile;
