//! The subcommands: each has a file with its arguments and what it does.

pub(crate) mod convert;
mod guarded;
pub(crate) mod mount;
pub(crate) mod nydusd;
pub(crate) mod snapshotter;
pub(crate) mod umount;

use anyhow::Result;
use clap::Subcommand;

/// What is to be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Mounts a Nydus image at a directory until Ctrl-C; files are fetched when they are read
    Mount(Box<mount::Arguments>),
    /// Serves containerd's snapshots: Nydus images are mounted lazily, others as with overlayfs
    Snapshotter(Box<snapshotter::Arguments>),
    /// Unmounts an image
    Umount(umount::Arguments),
    /// Nydus images themselves
    #[command(subcommand)]
    Nydus(convert::Nydus),
    /// Serves nydus-snapshotter in nydusd's place
    Nydusd(nydusd::Arguments),
}

impl Command {
    /// Does it, to its end.
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Mount(arguments) => mount::run(*arguments),
            Self::Snapshotter(arguments) => snapshotter::run(*arguments),
            Self::Umount(arguments) => umount::run(&arguments),
            Self::Nydus(nydus) => nydus.run(),
            Self::Nydusd(arguments) => nydusd::run(arguments),
        }
    }
}
