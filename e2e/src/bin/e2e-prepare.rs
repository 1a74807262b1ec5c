//! Installs the tools and builds the images of the end-to-end tests, where one can watch it: a test's own
//! output is hidden until it fails.

use anyhow::Result;
use darter_e2e::image::{self, Set};
use darter_e2e::{lab, stargz, tools};

fn main() -> Result<()> {
    tools::ensure_ready()?;
    lab::remove_kept();
    image::prepare(Set::Small)?;
    image::prepare(Set::Lazy)?;
    stargz::binary()?;
    Ok(())
}
