//! `darter nydusd`: takes nydusd's command line, for nydus-snapshotter to start it in nydusd's place. This program does the
//! same when it is called `nydusd`, through a link.
//!
//! What must hold: options that nydusd has are taken, also where nothing is made of them.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use darter_nydus_bridge::fs::{Limits, Prefetch};
use darter_nydus_bridge::mount::is_mounted;
use darter_nydus_bridge::nydusd::{BackendSource, Beginning, Daemon, Options, serve};
use darter_service::build_info;
use darter_service::config::ByteSize;
use darter_service::log::{LogConfig, Setup};
use darter_service::net::Address;
use darter_service::shutdown::on_signals;
use darter_service::supervise::Tasks;
use rustix::process::{Resource, Rlimit};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

/// The name under which this program is nydusd.
const NAME: &str = "nydusd";
/// How long fetches may go on after the mount has gone.
const GRACE: Duration = Duration::from_millis(500);
/// Between two looks at the cache folders.
const TIDY_EVERY: Duration = Duration::from_secs(60);

/// nydusd's commands.
#[derive(Debug, Args)]
#[command(
    disable_version_flag = true,
    args_conflicts_with_subcommands = true,
    arg_required_else_help = true
)]
pub(crate) struct Arguments {
    /// Shows which build this is, as nydusd does
    #[arg(short = 'V', long)]
    version: bool,
    #[command(subcommand)]
    mode: Option<Mode>,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Mounts images through FUSE, as nydus-snapshotter says
    Fuse(Box<Fuse>),
    /// Not supported: nydusd's mode for fscache
    #[command(disable_help_flag = true)]
    Singleton(Singleton),
}

#[derive(Debug, Args)]
struct Singleton {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _any: Vec<OsString>,
}

#[derive(Debug, Args)]
struct Fuse {
    /// Where images are shown
    #[arg(long, short = 'M', value_name = "DIR")]
    mountpoint: PathBuf,
    /// The socket of the API
    #[arg(long, short = 'A', value_name = "SOCKET")]
    apisock: PathBuf,
    /// The image's metadata; without it images come and go through the API
    #[arg(long, short = 'B', value_name = "FILE", requires = "config")]
    bootstrap: Option<PathBuf>,
    /// The image's configuration, in nydusd's form
    #[arg(long, short = 'C', value_name = "FILE")]
    config: Option<PathBuf>,
    /// This process's name
    #[arg(long)]
    id: Option<String>,
    /// Who keeps the mount when this process dies
    #[arg(long, value_name = "SOCKET")]
    supervisor: Option<PathBuf>,
    /// Wait to take the mount over from another process
    #[arg(long)]
    upgrade: bool,
    /// Threads that take requests from the kernel
    #[arg(long, short = 'T', value_name = "N")]
    thread_num: Option<usize>,
    /// What is logged: trace, debug, info, warn or error
    #[arg(long, short = 'l', value_name = "LEVEL", default_value = "info")]
    log_level: String,
    /// Where it is logged, instead of standard error
    #[arg(long, short = 'L', value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// A log file that is longer at the start is put aside
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    log_rotation_size: u64,
    /// Most open files; 0 leaves it as it is
    #[arg(long, value_name = "N")]
    rlimit_nofile: Option<u64>,
    /// none, resend or flush; what the process before did not answer is always asked for again
    #[arg(long, value_name = "POLICY")]
    failover_policy: Option<String>,
    /// Fetch the image's files and directories that this file names first, a path a line
    #[arg(long, value_name = "FILE", requires = "bootstrap")]
    prefetch_files: Option<PathBuf>,
    /// Where the image's credential is asked for: /path/of/a.sock/api/v1/daemons/ID/backend
    #[arg(long, value_name = "SOCKET/PATH", requires = "bootstrap")]
    backend_source: Option<BackendSource>,
    /// The node's mirror, where the configuration names no proxy
    #[arg(
        long,
        value_name = "HOST:PORT|unix:/PATH",
        env = "DARTER_MIRROR",
        default_value = "127.0.0.1:4001"
    )]
    mirror: Address,
    /// Where chunks are kept, where the configuration does not say
    #[arg(long, value_name = "DIR", default_value = "/var/lib/darter/bridge")]
    cache_dir: PathBuf,
    /// Most bytes of chunks that are kept in one folder, of all images together
    #[arg(long, value_name = "SIZE", env = "DARTER_CACHE_SIZE", default_value = "4GiB")]
    cache_size: ByteSize,
}

/// The arguments, with the command in front if this program was started as nydusd.
pub(crate) fn arguments(given: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut given: Vec<OsString> = given.collect();
    let called = given.first().map(Path::new).and_then(Path::file_name);
    if called.is_some_and(|called| called == NAME) {
        given.insert(1, NAME.into());
    }
    given
}

/// Does what is asked, to its end.
pub(crate) fn run(arguments: Arguments) -> Result<()> {
    match arguments.mode {
        _ if arguments.version => {
            version();
            Ok(())
        }
        Some(Mode::Fuse(fuse)) => start(*fuse),
        Some(Mode::Singleton(_)) => bail!(
            "nydusd's mode singleton, for fscache, is not supported: set fs_driver = \"fusedev\" in nydus-snapshotter's \
             configuration"
        ),
        None => bail!("say what to do: fuse"),
    }
}

/// The snapshotter looks for the line with the commit: another one than a running process has means an upgrade.
#[expect(clippy::print_stdout, reason = "it is asked for")]
fn version() {
    println!("Version: \t{}", build_info::VERSION);
    println!("Git Commit: \t{}", build_info::COMMIT);
}

fn start(fuse: Fuse) -> Result<()> {
    super::mount::keep_little_memory();
    let setup = Setup {
        config: &LogConfig::default(),
        flag: Some(&fuse.log_level),
        env: None,
        traces: None,
    };
    match &fuse.log_file {
        None => drop(setup.install()?),
        Some(path) => {
            let file = log_file(path, fuse.log_rotation_size);
            let file = file.with_context(|| format!("cannot log to {}", path.display()))?;
            let (subscriber, _) = setup.subscriber(Arc::new(file), false)?;
            tracing::subscriber::set_global_default(subscriber)?;
        }
    }
    raise_files(fuse.rlimit_nofile);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start")?;
    let ended = runtime.block_on(go(&fuse));
    // A mount that others keep alive has a thread of its own, which is not waited for.
    runtime.shutdown_background();
    if let Err(error) = &ended {
        tracing::error!(error = format!("{error:#}"), "nydusd ends");
    }
    ended
}

async fn go(fuse: &Fuse) -> Result<()> {
    let stop = on_signals().context("cannot listen to signals")?.stop;
    let tasks = Tasks::new();
    let beginning = beginning(fuse)?;
    let prefetch = match &fuse.prefetch_files {
        Some(list) => Prefetch::read_list(list)
            .with_context(|| format!("cannot read the list of files {}", list.display()))?,
        None => Vec::new(),
    };
    let options = Options {
        id: fuse.id.clone(),
        mountpoint: fuse.mountpoint.clone(),
        supervisor: fuse.supervisor.clone(),
        mirror: fuse.mirror.clone(),
        threads: fuse.thread_num,
        folder: fuse.cache_dir.clone(),
        limits: Limits {
            cache_bytes_max: fuse.cache_size.as_u64(),
            ..Limits::default()
        },
        tidy_every: TIDY_EVERY,
        prefetch,
        backend_source: fuse.backend_source.clone(),
    };
    let daemon = Daemon::new(options, tasks.clone(), stop.clone());
    daemon.begin(beginning).await?;
    let listener =
        listen(&fuse.apisock).with_context(|| format!("cannot listen at {}", fuse.apisock.display()))?;
    tracing::info!(state = daemon.state().name(), mountpoint = %fuse.mountpoint.display(), "nydusd listens");
    let closing = CancellationToken::new();
    let serving = serve(listener, daemon.clone(), tasks.clone(), closing.clone());
    tasks.spawn("nydusd's socket", serving);
    let ended = daemon.ended().await;
    closing.cancel();
    // Another process may have taken the place; then this one has nothing to remove.
    let _ = fs::remove_file(&fuse.apisock);
    if !daemon.left().is_cancelled() {
        tasks.shut_down(GRACE).await;
    }
    Ok(ended?)
}

/// What the process begins with. One that was started in place of a dead one, whose mount somebody keeps, finds the mount
/// and a socket where nobody listens.
fn beginning(fuse: &Fuse) -> Result<Beginning> {
    let succeeds = fuse.upgrade
        || (fuse.supervisor.is_some() && is_stale(&fuse.apisock) && is_mounted(&fuse.mountpoint)?);
    if succeeds {
        return Ok(Beginning::Successor);
    }
    match (&fuse.bootstrap, &fuse.config) {
        (Some(bootstrap), Some(config)) => {
            let text = fs::read_to_string(config);
            Ok(Beginning::Image {
                bootstrap: bootstrap.clone(),
                config: text.with_context(|| format!("cannot read {}", config.display()))?,
            })
        }
        _ => Ok(Beginning::Shared),
    }
}

/// There is a socket, and nobody listens.
fn is_stale(socket: &Path) -> bool {
    let there = fs::symlink_metadata(socket).is_ok_and(|found| found.file_type().is_socket());
    there && UnixStream::connect(socket).is_err()
}

fn listen(socket: &Path) -> std::io::Result<UnixListener> {
    if is_stale(socket) {
        fs::remove_file(socket)?;
    }
    let listener = UnixListener::bind(socket)?;
    // It mounts for whoever may write to it.
    fs::set_permissions(socket, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The file to log to; one that is too long is put aside.
fn log_file(path: &Path, rotation_mib: u64) -> std::io::Result<File> {
    let long = fs::metadata(path).is_ok_and(|found| found.len() > rotation_mib.saturating_mul(1 << 20));
    if rotation_mib > 0 && long {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".1");
        fs::rename(path, aside)?;
    }
    File::options().append(true).create(true).open(path)
}

/// As many open files as are asked for; as many as are allowed, if nothing is. It is no reason not to run.
fn raise_files(asked: Option<u64>) {
    let found = rustix::process::getrlimit(Resource::Nofile);
    let wanted = match asked {
        Some(0) => return,
        Some(asked) => Rlimit {
            current: Some(asked),
            maximum: found.maximum.map(|maximum| maximum.max(asked)),
        },
        None => Rlimit {
            current: found.maximum,
            maximum: found.maximum,
        },
    };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, wanted) {
        tracing::warn!(%error, "the number of open files stays as it is");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_program_is_a_command() {
        let through = |words: &[&str]| -> Vec<OsString> { arguments(words.iter().map(OsString::from)) };
        assert_eq!(
            through(&["/usr/bin/nydusd", "-V"]),
            ["/usr/bin/nydusd", "nydusd", "-V"]
        );
        assert_eq!(through(&["darter-bridge", "mount"]), ["darter-bridge", "mount"]);
        assert!(through(&[]).is_empty());
    }
}
