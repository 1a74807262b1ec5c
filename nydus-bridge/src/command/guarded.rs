//! `darter mount` as two processes: this program as the guardian of the mount, and again as the worker that serves it.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::exit;

use anyhow::{Context as _, Result, anyhow};
use darter_nydus_bridge::fs::OpenImage;
use darter_nydus_bridge::mount::Mount;
use darter_nydus_bridge::mount::guardian::{self, Guardian, Legacy, Line};

/// Makes a process the worker.
const FLAG: &str = "--guarded";

/// Runs this program as the worker, again and again if need be. Ends this process as the last worker ended.
pub(super) fn watch(dir: &Path) -> Result<()> {
    let mut arguments = std::env::args_os();
    let name = arguments
        .next()
        .unwrap_or_else(|| OsString::from("darter-bridge"));
    let command = arguments.next().context("there is no command")?;
    let guardian = Guardian {
        // Whatever was installed meanwhile: what is at hand understands what the worker before left.
        program: "/proc/self/exe".into(),
        name,
        arguments: [command, FLAG.into()].into_iter().chain(arguments).collect(),
        path: guardian::place(dir)?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")?;
    let status = runtime
        .block_on(guardian.run())
        .context("cannot start a process")?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => exit(code),
        None => Err(anyhow!("the process that served the mount died: {status}")),
    }
}

/// The line to the guardian, and what the worker before left.
pub(super) fn inherit() -> Result<(Line, Option<Legacy>)> {
    let line = Line::of_this_process()?;
    let legacy = line.legacy().context("cannot hear the guardian")?;
    Ok((line, legacy))
}

/// Leaves the mount to the worker after this one, if there is to be one. Old kernels cannot do that. What is mounted over the
/// image for programs to write is the kernel's own business, and stays with it.
pub(super) fn leave(
    line: &Line,
    mounted: Mount,
    image: &OpenImage,
    (name, key): (&str, &str),
) -> Result<Mount> {
    let legacy = Legacy::of(&mounted, image, name, key)?;
    if !legacy.kept.agreed.can_resend() {
        tracing::info!("the mount ends with its process: to outlive it needs Linux 6.9");
        return Ok(mounted);
    }
    line.leave(&legacy).context("cannot tell the guardian")?;
    Ok(mounted.left_on_failure())
}

/// A path to a file that is open here, whatever became of its name.
pub(super) fn path_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}
