//! `darter mount`: mounts an image at a directory until it is told to stop.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use darter_nydus_bridge::blob::{BlobSource, Client, Folder, Mirror, Patience};
use darter_nydus_bridge::fs::{Limits, OpenImage};
use darter_nydus_bridge::image::{self, ImageName};
use darter_nydus_bridge::mount::{Driver, Mount, Options};
use darter_service::config::ByteSize;
use darter_service::log::{LogConfig, Setup};
use darter_service::net::Address;
use darter_service::shutdown::on_signals;
use darter_service::supervise::Tasks;

/// How long fetches may go on after the mount has gone.
const GRACE: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct Arguments {
    /// The image, as in a pull: nginx, or registry.example:5000/team/app:1.2
    #[arg(required_unless_present = "blobs", conflicts_with = "blobs")]
    image: Option<ImageName>,
    /// Where
    dir: PathBuf,
    /// The node's mirror
    #[arg(long, value_name = "HOST:PORT|unix:/PATH", default_value = "127.0.0.1:4001")]
    mirror: Address,
    /// Mount these metadata instead of those that the image's manifest names
    #[arg(long, value_name = "FILE")]
    bootstrap: Option<PathBuf>,
    /// The folder with the blobs of --bootstrap, named by their hashes, instead of an image's
    #[arg(long, value_name = "DIR", requires = "bootstrap")]
    blobs: Option<PathBuf>,
    /// Who shows the tree: the kernel's EROFS is faster, FUSE is everywhere
    #[arg(long, value_enum, default_value_t)]
    driver: Driver,
    /// Where chunks are kept while the image is mounted
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Most bytes of chunks that are kept
    #[arg(long, value_name = "SIZE", default_value = "4GiB")]
    cache_size: ByteSize,
    /// What is logged: a level, or levels by module
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Leave the session of who starts it: it outlives that
    #[arg(long, hide = true)]
    own_session: bool,
}

/// Mounts, and serves until it is unmounted.
pub(crate) fn run(arguments: Arguments) -> Result<()> {
    if arguments.own_session {
        rustix::process::setsid().context("cannot begin a session")?;
    }
    let env = std::env::var("DARTER_LOG").ok();
    let setup = Setup {
        config: &LogConfig::default(),
        flag: arguments.log.as_deref(),
        env: env.as_deref(),
        traces: None,
    };
    setup.install()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start")?;
    let ended = runtime.block_on(serve(arguments));
    // A mount that others keep alive has a thread of its own, which is not waited for.
    runtime.shutdown_background();
    ended
}

async fn serve(arguments: Arguments) -> Result<()> {
    let stop = on_signals().context("cannot listen to signals")?.stop;
    let tasks = Tasks::new();
    let opening = open(&arguments, &tasks);
    let Some((image, name)) = stop.run_until_cancelled(opening).await.transpose()? else {
        return Ok(());
    };
    let options = Options {
        driver: arguments.driver,
    };
    let attaching = Mount::attach(image, &name, &arguments.dir, &options, tasks.clone());
    let Some(mounted) = stop.run_until_cancelled(attaching).await.transpose()? else {
        return Ok(());
    };
    tracing::info!(
        image = name,
        path = %arguments.dir.display(),
        driver = ?mounted.driver(),
        "mounted"
    );
    let ended = mounted.run(stop).await;
    tasks.shut_down(GRACE).await;
    Ok(ended?)
}

/// The image and its name in `/proc/mounts`.
async fn open(arguments: &Arguments, tasks: &Tasks) -> Result<(OpenImage, String)> {
    let folder = folder(arguments.cache_dir.as_deref())?;
    let limits = Limits {
        cache_bytes_max: arguments.cache_size.as_u64(),
        ..Limits::default()
    };
    let open = |bootstrap: &Path, source: Arc<dyn BlobSource>| {
        OpenImage::open(bootstrap, source, &folder, limits, tasks.clone())
    };
    match (&arguments.image, &arguments.bootstrap, &arguments.blobs) {
        (Some(image), Some(bootstrap), _) => {
            let client = Client::new(arguments.mirror.clone(), Patience::default(), tasks.clone());
            let (registry, repository) = (image.registry.clone(), image.repository.clone());
            let blobs = Mirror::new(Arc::new(client), registry, repository);
            let opened = open(bootstrap, Arc::new(blobs));
            Ok((
                opened.with_context(|| format!("cannot mount {image}"))?,
                image.to_string(),
            ))
        }
        (Some(image), None, _) => {
            let client = Client::new(arguments.mirror.clone(), Patience::default(), tasks.clone());
            let resolved = image::resolve(image, Arc::new(client), &folder, tasks).await;
            let resolved = resolved.with_context(|| format!("cannot mount {image}"))?;
            // The bootstrap stays mapped, and loses its name here.
            let opened = open(resolved.bootstrap.path(), Arc::new(resolved.mirror));
            Ok((
                opened.with_context(|| format!("cannot mount {image}"))?,
                image.to_string(),
            ))
        }
        (None, Some(bootstrap), Some(blobs)) => {
            let name = bootstrap.display().to_string();
            let opened = open(bootstrap, Arc::new(Folder::new(blobs, tasks.clone())));
            Ok((opened.with_context(|| format!("cannot mount {name}"))?, name))
        }
        _ => Err(anyhow!("name an image, or --bootstrap and --blobs")),
    }
}

/// The folder for what is fetched: nobody else's business.
fn folder(named: Option<&Path>) -> Result<PathBuf> {
    let folder = match named {
        Some(named) => named.to_owned(),
        None if rustix::process::geteuid().is_root() => PathBuf::from("/var/lib/darter/bridge"),
        None => {
            let home = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
            let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
            home.context("there is no HOME: name a folder with --cache-dir")?
                .join("darter")
        }
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    Ok(folder)
}
