//! `darter umount`: takes an image away; the process that serves it ends by that.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use darter_nydus_bridge::mount;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where it is mounted
    dir: PathBuf,
    /// Take it out of sight at once, and leave it to the processes that use it
    #[arg(long)]
    lazy: bool,
}

/// Unmounts.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    Ok(mount::umount(&arguments.dir, arguments.lazy)?)
}
