//! The manager: one place to see and steer many clusters.
//!
//! People and programs come by [`api`], each as somebody of [`auth`] who may do so much; what is to be kept lies in
//! [`store`]. Which cluster a node belongs to is decided in [`placement`], a pure function that gives its reason.
//! `console` has the pages that people see, which use the API as any program does.
//! Schedulers and nodes join at [`roles`].
//! It is never on the way of a pull: nodes and schedulers go on without it.
//!
//! Where to start: [`app`].

pub mod api;
pub mod app;
pub mod auth;
pub mod config;
mod console;
pub mod metrics;
pub mod placement;
pub mod roles;
pub mod run;
pub mod store;
