//! The benchmarks, one a subcommand. None is here yet.

use anyhow::{Result, bail};

fn main() -> Result<()> {
    bail!("no benchmark has been written yet")
}
