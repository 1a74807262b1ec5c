//! The scheduler: decides who fetches what from whom, and who asks the origin.
//!
//! What a node says goes through [`service`] into one [`schedule::Scheduler`], a pure state machine over the
//! hosts and tasks of [`resource`], the neighbours of [`graph`] and the scores of [`evaluator`]; what it
//! answers goes back the same way. It keeps nothing that the nodes could not tell it again: kill it at any
//! time, and start it empty.
//!
//! Where to start: [`schedule`], then [`resource`]. What must hold is in [`invariant`].

pub mod app;
pub mod config;
pub mod evaluator;
pub mod graph;
pub mod invariant;
mod managed;
pub mod metrics;
pub mod resource;
pub mod run;
pub mod scale;
pub mod schedule;
pub mod service;
pub mod view;
