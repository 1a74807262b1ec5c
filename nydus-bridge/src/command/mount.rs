//! `darter mount`: mounts an image at a directory until it is told to stop.

mod progress;

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use darter_nydus_bridge::blob::{BlobSource, Client, Folder, Mirror};
use darter_nydus_bridge::config::Config;
use darter_nydus_bridge::fs::{OpenImage, Prefetch};
use darter_nydus_bridge::image::{self, ImageName};
use darter_nydus_bridge::metrics;
use darter_nydus_bridge::mount::guardian::Legacy;
use darter_nydus_bridge::mount::{Driver, Files, Mount, Options, Shown};
use darter_service::admin::{Admin, AdminPort, AdminServer, Parts};
use darter_service::build_info;
use darter_service::config::{ByteSize, Sources, load, to_yaml};
use darter_service::log::{LogHandle, Setup};
use darter_service::net::{Address, Network, TokioNetwork};
use darter_service::ready::Readiness;
use darter_service::shutdown::on_signals;
use darter_service::supervise::Tasks;
use prometheus_client::registry::Registry;
use tokio::time::{interval, sleep};

use self::progress::Progress;
use super::guarded;

/// How long fetches may go on after the mount has gone.
const GRACE: Duration = Duration::from_millis(500);
/// When it is written down what was read first, if the mount lives as long.
const RECORD_AFTER: Duration = Duration::from_secs(30);
/// Between two looks at the cache.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// Stores of small memory that threads share.
#[cfg(target_env = "gnu")]
const ARENAS_MAX: libc::c_int = 2;

#[derive(Debug, Args)]
#[command(allow_missing_positional = true)]
pub(crate) struct Arguments {
    /// The image, as in a pull: nginx, or registry.example:5000/team/app:1.2
    #[arg(required_unless_present = "blobs", conflicts_with = "blobs")]
    image: Option<ImageName>,
    /// Where
    dir: PathBuf,
    /// The node's mirror; 127.0.0.1:4001 by default
    #[arg(long, value_name = "HOST:PORT|unix:/PATH")]
    mirror: Option<Address>,
    /// Who shows the tree: the kernel's EROFS is faster, FUSE is everywhere; auto by default
    #[arg(long, value_enum)]
    driver: Option<Driver>,
    /// Let programs write: into a folder of this machine, which goes with the mount
    #[arg(long)]
    writable: bool,
    /// The same, and the folder stays
    #[arg(long, value_name = "DIR")]
    writable_dir: Option<PathBuf>,
    /// Fetch these files first, a path a line; or "all"
    #[arg(long, value_name = "FILE-LIST|all")]
    prefetch: Option<PathBuf>,
    /// Mount these metadata instead of those that the image's manifest names
    #[arg(long, value_name = "FILE")]
    bootstrap: Option<PathBuf>,
    /// The folder with the blobs of --bootstrap, named by their hashes, instead of an image's
    #[arg(long, value_name = "DIR", requires = "bootstrap")]
    blobs: Option<PathBuf>,
    /// Where chunks are kept
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,
    /// Most bytes of chunks that are kept, of all images together; 4GiB by default
    #[arg(long, value_name = "SIZE")]
    cache_size: Option<ByteSize>,
    /// YAML file; without it the defaults apply
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one key, over the file and the environment; may be repeated
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    /// What is logged: a level, or levels by module
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Leave the session of who starts it: it outlives that
    #[arg(long, hide = true)]
    own_session: bool,
    /// This process serves, and its parent is the guardian
    #[arg(long, hide = true)]
    guarded: bool,
}

/// An image that is ready to be mounted.
struct Opened {
    image: OpenImage,
    /// Its name in `/proc/mounts`.
    name: String,
    /// What it is, whatever its name.
    key: String,
}

/// Mounts, and serves until it is unmounted.
pub(crate) fn run(arguments: Arguments) -> Result<()> {
    if arguments.own_session && !arguments.guarded {
        rustix::process::setsid().context("cannot begin a session")?;
    }
    keep_little_memory();
    let config = configuration(&arguments)?;
    let env = std::env::var("DARTER_LOG").ok();
    let setup = Setup {
        config: &config.log,
        flag: arguments.log.as_deref(),
        env: env.as_deref(),
        traces: None,
    };
    let log = setup.install()?;
    if !arguments.guarded {
        return guarded::watch(&arguments.dir);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start")?;
    let ended = runtime.block_on(serve(&arguments, &config, log));
    // A mount that others keep alive has a thread of its own, which is not waited for.
    runtime.shutdown_background();
    ended
}

/// Chunks and requests are buffers of some MiB, which many threads take and free. The C library keeps such for each thread;
/// here for a few stores together, which is as quick and takes less than half of the memory. They are not given back at once
/// (`M_MMAP_THRESHOLD`): each buffer would be new pages then, which costs more than to unpack a chunk.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the allocator's settings have no safe name")]
pub(super) fn keep_little_memory() {
    // SAFETY: both are numbers, and no other thread runs yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX) };
}

#[cfg(not(target_env = "gnu"))]
pub(super) fn keep_little_memory() {}

/// Defaults < file < environment < `--set` < the options that have names of their own.
fn configuration(arguments: &Arguments) -> Result<Config> {
    let env = std::env::vars_os();
    let mut config: Config = load(Sources {
        role: "bridge",
        file: arguments.config.as_deref(),
        env: env.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        set: &arguments.set,
    })?;
    if let Some(mirror) = &arguments.mirror {
        config.mirror = mirror.to_string();
    }
    if let Some(driver) = arguments.driver {
        config.driver = driver;
    }
    if let Some(size) = arguments.cache_size {
        config.cache.size = size;
    }
    if let Some(dir) = &arguments.cache_dir {
        config.cache.dir = Some(dir.display().to_string());
    }
    Ok(config)
}

async fn serve(arguments: &Arguments, config: &Config, log: LogHandle) -> Result<()> {
    let stop = on_signals().context("cannot listen to signals")?.stop;
    let tasks = Tasks::new();
    let mut progress = Progress::begin();
    let folder = folder(arguments.cache_dir.as_deref(), config.cache.dir.as_deref())?;
    let (line, legacy) = guarded::inherit()?;
    let opening = open(arguments, config, &folder, legacy.as_ref(), &tasks, &mut progress);
    let Some(opened) = stop.run_until_cancelled(opening).await.transpose()? else {
        return Ok(());
    };
    let prefetch = prefetch(arguments, config, &opened)?;
    let options = Options {
        driver: config.driver,
        writable: arguments.writable || arguments.writable_dir.is_some(),
        writable_dir: arguments.writable_dir.clone(),
    };
    let image = opened.image;
    let mounted = match legacy {
        Some(legacy) => {
            let files = Files::One(Shown::new(image.clone()));
            Mount::take_over(&files, &legacy.path, legacy.kept, None, tasks.clone())?
        }
        None => {
            let (name, dir) = (&opened.name, &arguments.dir);
            let attaching = Mount::attach(image.clone(), name, dir, &options, tasks.clone());
            let Some(mounted) = stop.run_until_cancelled(attaching).await.transpose()? else {
                return Ok(());
            };
            mounted
        }
    };
    let called = (opened.name.as_str(), opened.key.as_str());
    let mounted = guarded::leave(&line, mounted, &image, called)?;
    let admin = admin(config, &image, log, &tasks).await?;
    progress.mounted(&opened.name, &arguments.dir, mounted.driver());
    image.prefetch(&prefetch);
    let ended = tokio::select! {
        ended = mounted.run(stop) => ended,
        () = look_after(&image, &opened.key) => Ok(()),
    };
    write_down(&image, &opened.key);
    if let Some(admin) = admin {
        admin.end().await;
    }
    tasks.shut_down(GRACE).await;
    progress.ended(&opened.name, &image.stats());
    Ok(ended?)
}

/// What has to be done at times while the image is mounted. Does not end.
async fn look_after(image: &OpenImage, key: &str) {
    let record = async {
        sleep(RECORD_AFTER).await;
        write_down(image, key);
    };
    let tidy = async {
        let mut times = interval(TIDY_EVERY);
        loop {
            times.tick().await;
            image.tidy().await;
        }
    };
    tokio::join!(record, tidy);
}

fn write_down(image: &OpenImage, key: &str) {
    if let Err(error) = image.save_record(key) {
        tracing::info!(%error, "it is not written down what was read first");
    }
}

async fn admin(
    config: &Config,
    image: &OpenImage,
    log: LogHandle,
    tasks: &Tasks,
) -> Result<Option<AdminServer>> {
    let Some(listen) = &config.admin.listen else {
        return Ok(None);
    };
    let network: Arc<dyn Network> = Arc::new(TokioNetwork);
    let port = AdminPort::bind(&*network, &listen.parse::<Address>()?).await?;
    tracing::info!(admin = port.address(), "the admin port is open");
    let mut registry = Registry::default();
    build_info::register(&mut registry);
    log.register(&mut registry);
    metrics::register(image, &mut registry);
    Ok(Some(port.serve(Admin::new(Parts {
        readiness: Readiness::new(),
        registry,
        config_text: to_yaml(config)?,
        log,
        tasks: tasks.clone(),
        routes: std::collections::BTreeMap::new(),
    }))))
}

/// What is fetched before anybody wants it.
fn prefetch(arguments: &Arguments, config: &Config, opened: &Opened) -> Result<Prefetch> {
    let list = arguments.prefetch.as_deref();
    let all = list.is_some_and(|list| list.as_os_str() == "all");
    let paths = match list.filter(|_| !all) {
        Some(list) => Prefetch::read_list(list)
            .with_context(|| format!("cannot read the list of files {}", list.display()))?,
        None => Vec::new(),
    };
    let seen = if config.prefetch.replay {
        opened.image.load_record(&opened.key)
    } else {
        Vec::new()
    };
    Ok(Prefetch {
        seen,
        table: config.prefetch.table,
        paths,
        all: all || config.prefetch.all,
    })
}

async fn open(
    arguments: &Arguments,
    config: &Config,
    folder: &Path,
    legacy: Option<&Legacy>,
    tasks: &Tasks,
    progress: &mut Progress,
) -> Result<Opened> {
    let open = |bootstrap: &Path, source: Arc<dyn BlobSource>| {
        OpenImage::open(bootstrap, source, folder, config.limits(), tasks.clone())
    };
    let client = || -> Result<Client> {
        let mirror: Address = config.mirror.parse()?;
        Ok(Client::new(mirror, config.patience(), tasks.clone()))
    };
    if let Some(legacy) = legacy {
        // The process before found all that out.
        let source: Arc<dyn BlobSource> = match (&arguments.image, &arguments.blobs) {
            (Some(image), _) => {
                let (registry, repository) = (image.registry.clone(), image.repository.clone());
                Arc::new(Mirror::new(Arc::new(client()?), registry, repository))
            }
            (None, Some(blobs)) => Arc::new(Folder::new(blobs, tasks.clone())),
            (None, None) => return Err(anyhow!("name an image, or --bootstrap and --blobs")),
        };
        let opened = open(&guarded::path_of(&legacy.bootstrap), source);
        return Ok(Opened {
            image: opened.with_context(|| format!("cannot mount {}", legacy.name))?,
            name: legacy.name.clone(),
            key: legacy.key.clone(),
        });
    }
    match (&arguments.image, &arguments.bootstrap, &arguments.blobs) {
        (Some(image), Some(bootstrap), _) => {
            let (registry, repository) = (image.registry.clone(), image.repository.clone());
            let blobs = Mirror::new(Arc::new(client()?), registry, repository);
            let opened = open(bootstrap, Arc::new(blobs));
            let opened = opened.with_context(|| format!("cannot mount {image}"))?;
            let key = opened.bootstrap_digest()?.to_string();
            Ok(Opened {
                image: opened,
                name: image.to_string(),
                key,
            })
        }
        (Some(image), None, _) => {
            let client = client()?;
            let resolved = image::resolve(image, Arc::new(client), folder, tasks).await;
            let resolved = resolved.with_context(|| format!("cannot mount {image}"))?;
            progress.resolved(&resolved.key);
            // The bootstrap stays open in what is opened.
            let opened = open(resolved.bootstrap.path(), Arc::new(resolved.mirror));
            Ok(Opened {
                image: opened.with_context(|| format!("cannot mount {image}"))?,
                name: image.to_string(),
                key: resolved.key.to_string(),
            })
        }
        (None, Some(bootstrap), Some(blobs)) => {
            let name = bootstrap.display().to_string();
            let opened = open(bootstrap, Arc::new(Folder::new(blobs, tasks.clone())));
            let image = opened.with_context(|| format!("cannot mount {name}"))?;
            let key = image.bootstrap_digest()?.to_string();
            Ok(Opened { image, name, key })
        }
        _ => Err(anyhow!("name an image, or --bootstrap and --blobs")),
    }
}

/// The folder for what is fetched: nobody else's business.
fn folder(flag: Option<&Path>, configured: Option<&str>) -> Result<PathBuf> {
    let named = flag.map(Path::to_owned).or_else(|| configured.map(PathBuf::from));
    let folder = match named {
        Some(named) => named,
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
