//! Configuration: defaults, a YAML file, the environment, and what the command line sets, in this order.
//!
//! A role's own sections live with the components that they configure; this module holds the types of their values
//! and the loader. Nothing is ignored: an unknown key is a problem, and all problems are reported at once.

mod assembly;
mod load;
mod problems;
mod suggest;
mod values;

pub use load::{Sources, from_value, fuzz_config, load, to_yaml};
pub use problems::{ConfigError, Problem, Problems, Validate};
pub use values::{ByteSize, Period, Secret, ValueError};
