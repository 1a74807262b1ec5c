//! `darter snapshotter`: serves containerd's snapshots until it is told to stop.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use darter_nydus_bridge::snapshotter::images::Settings;
use darter_nydus_bridge::snapshotter::{RunParts, run as serve};
use darter_service::config::ByteSize;
use darter_service::log::{LogConfig, Setup};
use darter_service::net::Address;
use darter_service::notify::{NOTIFY_SOCKET, Notifier};
use darter_service::shutdown::on_signals;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where snapshots are kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/darter-snapshotter")]
    root: PathBuf,
    /// The socket on which containerd asks
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/run/darter-snapshotter/snapshotter.sock"
    )]
    socket: PathBuf,
    /// containerd's own socket: it is asked which image a layer belongs to, where it did not say so
    #[arg(long, value_name = "PATH", default_value = "/run/containerd/containerd.sock")]
    containerd: PathBuf,
    /// The node's mirror
    #[arg(long, value_name = "HOST:PORT|unix:/PATH", default_value = "127.0.0.1:4001")]
    mirror: Address,
    /// Most bytes of chunks that all mounts keep together
    #[arg(long, value_name = "SIZE", default_value = "4GiB")]
    cache_size: ByteSize,
    /// Open an admin port, with metrics, here
    #[arg(long, value_name = "HOST:PORT|unix:/PATH")]
    admin: Option<Address>,
    /// What is logged: a level, or levels by module
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

/// Serves until it is told to stop.
pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let env = std::env::var("DARTER_LOG").ok();
    let setup = Setup {
        config: &LogConfig::default(),
        flag: arguments.log.as_deref(),
        env: env.as_deref(),
        traces: None,
    };
    let log = setup.install()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start")?;
    let ended = runtime.block_on(async {
        let notify = std::env::var_os(NOTIFY_SOCKET);
        let notify = Notifier::new(notify.as_deref()).context("cannot tell who started this process")?;
        serve(RunParts {
            root: arguments.root,
            socket: arguments.socket,
            containerd: arguments.containerd,
            admin: arguments.admin,
            images: Settings {
                program: std::env::current_exe().context("cannot find the program of this process")?,
                mirror: arguments.mirror,
                cache_size: arguments.cache_size.to_string(),
            },
            log,
            notify,
            stop: on_signals().context("cannot listen to signals")?.stop,
        })
        .await
        .map_err(anyhow::Error::from)
    });
    // A mount that hangs may have a thread of its own, which is not waited for.
    runtime.shutdown_background();
    ended
}
