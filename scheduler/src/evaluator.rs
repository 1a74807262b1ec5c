//! Which peers are the best parents for a node, and why: pure, from facts to a ranked list with reasons.
//!
//! The order is total: equal scores are ordered by name, so the same facts give the same list everywhere.

pub mod history;
pub mod score;

pub use score::{Facts, Nearness, Ranked, Weights, rank};
