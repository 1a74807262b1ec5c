//! `darter nydus convert`: makes a Nydus image of an ordinary one.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use clap::{Args, Subcommand, ValueEnum};
use darter_nydus_bridge::blob::{Client, Mirror, Patience};
use darter_nydus_bridge::convert::{
    Access, Compressor, ConvertError, Converted, Options, Place, Platform, Progress, Registry, Source, Stage,
    convert,
};
use darter_nydus_bridge::image::{ImageName, RafsVersion};
use darter_origin::{DockerLogin, docker_login};
use darter_service::config::ByteSize;
use darter_service::log::{LogConfig, Setup};
use darter_service::net::Address;
use darter_service::shutdown::on_signals;
use darter_service::supervise::Tasks;
use darter_types::{ManifestReference, RegistryName};

/// How long connections may go on after the work has ended.
const GRACE: Duration = Duration::from_millis(500);
/// How often the bars are drawn.
const PERIOD: Duration = Duration::from_millis(200);
const BAR_WIDTH: u64 = 24;
/// Bars that are drawn: more than that scrolls away.
const BARS_MAX: usize = 16;

/// Nydus images themselves.
#[derive(Debug, Subcommand)]
pub(crate) enum Nydus {
    /// Makes a Nydus image of an ordinary image, and puts it into the registry
    ///
    /// A layer is refused that has more than 2 Mi files, more than 512 MiB of names and extended attributes, or more than 16
    /// GiB unpacked that are more than a hundred times what it is packed (1 TiB in any case).
    Convert(Box<Arguments>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FsVersion {
    /// Nydus's own format, for old readers
    #[value(name = "5")]
    V5,
    /// EROFS
    #[value(name = "6")]
    V6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Compression {
    Zstd,
    Lz4,
    None,
}

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The image, as in a pull: nginx, or registry.example:5000/team/app:1.2
    image: ImageName,
    /// The new image's name [default: IMAGE with -nydus behind its tag]
    target: Option<ImageName>,
    /// The node's mirror, which the image is read through
    #[arg(long, value_name = "HOST:PORT|unix:/PATH", default_value = "127.0.0.1:4001")]
    mirror: Address,
    /// Read the image from the registry itself, with the login for it
    #[arg(long, conflicts_with = "mirror")]
    direct: bool,
    /// Version of the metadata
    #[arg(long, value_enum, default_value = "6", value_name = "VERSION")]
    fs_version: FsVersion,
    /// How chunks are compressed
    #[arg(
        long,
        value_enum,
        default_value = "zstd",
        value_name = "HOW",
        conflicts_with = "oci_ref"
    )]
    compressor: Compression,
    /// Bytes of a chunk: 4KiB to 16MiB, a power of two
    #[arg(long, value_name = "SIZE", default_value = "1MiB")]
    chunk_size: ByteSize,
    /// Copy no data: read the image's own layers (gzip alone), by an index into each
    #[arg(long)]
    oci_ref: bool,
    /// Let clients find it from the original image, as a referrer of it
    #[arg(long, conflicts_with = "index")]
    referrer: bool,
    /// Make TARGET an index of the original image and the new one
    #[arg(long)]
    index: bool,
    /// Which image of an index [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// A registry that is spoken to without TLS, as it is named in IMAGE or TARGET; may be repeated. Logins for it travel in
    /// the clear
    #[arg(long, value_name = "HOST[:PORT]")]
    plain_http: Vec<RegistryName>,
    /// An authority to believe for the registry, besides the system's (PEM)
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Where logins are [default: what Docker uses]
    #[arg(long, value_name = "FILE")]
    docker_config: Option<PathBuf>,
    /// Where layers are while they are converted: two of them with what they become
    #[arg(long, value_name = "DIR")]
    temp_dir: Option<PathBuf>,
    /// What is logged: a level, or levels by module
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    log: String,
}

impl Nydus {
    /// Does it, to its end.
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Convert(arguments) => run(&arguments),
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    let env = std::env::var("DARTER_LOG").ok();
    let setup = Setup {
        config: &LogConfig::default(),
        flag: Some(&arguments.log),
        env: env.as_deref(),
        traces: None,
    };
    setup.install()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start")?;
    let ended = runtime.block_on(work(arguments));
    // A layer that is being built is not waited for; its files have lost their names.
    runtime.shutdown_background();
    ended
}

async fn work(arguments: &Arguments) -> Result<()> {
    let stop = on_signals().context("cannot listen to signals")?.stop;
    let tasks = Tasks::new();
    let target = target(arguments)?;
    check_plain(arguments, &target)?;
    let options = options(arguments);
    let registry = Registry::new(&target, access(arguments, &target).await?)?;
    let source = source(arguments, &tasks).await?;
    let progress = Arc::new(Progress::default());
    let converting = convert(
        (&arguments.image, &source),
        (&target, &registry),
        &options,
        &progress,
        &tasks,
    );
    let shown = async {
        tokio::select! {
            done = converting => done,
            () = show(&progress) => unreachable!("it shows for ever"),
        }
    };
    let done = stop.run_until_cancelled(shown).await;
    finish(&progress);
    tasks.shut_down(GRACE).await;
    let done = done.context("interrupted")?;
    tell(&target, &done.map_err(|error| advise(error, arguments))?)
}

fn target(arguments: &Arguments) -> Result<ImageName> {
    if let Some(target) = &arguments.target {
        return Ok(target.clone());
    }
    let image = arguments.image.clone();
    match &image.reference {
        ManifestReference::Tag(tag) => Ok(ImageName {
            reference: format!("{tag}-nydus")
                .parse()
                .context("the tag is too long to add -nydus: name a TARGET")?,
            ..image
        }),
        ManifestReference::Digest(_) => Err(anyhow!("an image without a tag needs a TARGET")),
    }
}

/// A registry that is named, and is none of those that are spoken to, is a slip: the other one would be asked for TLS.
fn check_plain(arguments: &Arguments, target: &ImageName) -> Result<()> {
    let known = [&arguments.image.registry, &target.registry];
    match arguments.plain_http.iter().find(|named| !known.contains(named)) {
        Some(named) => Err(anyhow!(
            "--plain-http names {named}, but the registries are {} and {}",
            arguments.image.registry,
            target.registry
        )),
        None => Ok(()),
    }
}

fn options(arguments: &Arguments) -> Options {
    Options {
        version: match arguments.fs_version {
            FsVersion::V5 => RafsVersion::V5,
            FsVersion::V6 => RafsVersion::V6,
        },
        compressor: match arguments.compressor {
            Compression::Zstd => Compressor::Zstd,
            Compression::Lz4 => Compressor::Lz4,
            Compression::None => Compressor::None,
        },
        chunk_bytes: u32::try_from(arguments.chunk_size.as_u64()).unwrap_or(u32::MAX),
        refer: arguments.oci_ref,
        place: match (arguments.referrer, arguments.index) {
            (true, _) => Place::Referrer,
            (_, true) => Place::Index,
            _ => Place::Alone,
        },
        platform: arguments.platform.clone().unwrap_or_else(Platform::here),
        folder: arguments.temp_dir.clone().unwrap_or_else(std::env::temp_dir),
    }
}

async fn source(arguments: &Arguments, tasks: &Tasks) -> Result<Source> {
    let image = &arguments.image;
    if arguments.direct {
        let access = access(arguments, image).await?;
        return Ok(Source::Registry(Registry::new(image, access)?));
    }
    let client = Client::new(arguments.mirror.clone(), Patience::default(), tasks.clone());
    let (registry, repository) = (image.registry.clone(), image.repository.clone());
    Ok(Source::Mirror(Mirror::new(
        Arc::new(client),
        registry,
        repository,
    )))
}

async fn access(arguments: &Arguments, name: &ImageName) -> Result<Access> {
    let authority = match &arguments.ca {
        Some(path) => Some(std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?),
        None => None,
    };
    Ok(Access {
        plain: arguments.plain_http.contains(&name.registry),
        authority,
        login: login(arguments.docker_config.as_deref(), name).await?,
    })
}

/// What Docker has for the registry. No file is no login; a file that was named must be there.
async fn login(named: Option<&Path>, name: &ImageName) -> Result<Option<(String, String)>> {
    let usual = || {
        let folder = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
        let folder = folder.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".docker")))?;
        Some(folder.join("config.json")).filter(|path| path.exists())
    };
    let Some(path) = named.map(Path::to_owned).or_else(usual) else {
        return Ok(None);
    };
    let found = docker_login(&path, &name.registry).await;
    match found.map_err(|reason| anyhow!("no login for {}: {reason}", name.registry))? {
        Some(DockerLogin::Basic(user, password)) => Ok(Some((user, password))),
        Some(DockerLogin::Token(_)) => Err(anyhow!(
            "the login for {} is a token of the registry, which cannot be used here: log in with a password",
            name.registry
        )),
        None => Ok(None),
    }
}

/// An error, with what to do about it.
fn advise(error: ConvertError, arguments: &Arguments) -> anyhow::Error {
    let refused = matches!(
        &error,
        ConvertError::Blob(darter_nydus_bridge::blob::BlobError::Refused {
            status: 401 | 403,
            ..
        })
    );
    let error = anyhow!(error).context(format!("cannot convert {}", arguments.image));
    if refused && !arguments.direct {
        return error.context("the mirror knows no login of yours: try --direct");
    }
    error
}

fn tell(target: &ImageName, done: &Converted) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{target} {} ({} bytes, {} of them new)",
        done.target, done.bytes, done.pushed
    )
    .context("cannot write to standard output")
}

/// Draws the bars again and again, where somebody sees them.
async fn show(progress: &Progress) {
    let seen = std::io::stderr().is_terminal();
    let mut drawn = 0;
    loop {
        tokio::time::sleep(PERIOD).await;
        if seen {
            drawn = draw(&bars(progress), drawn);
        }
    }
}

/// The bars as they are at the end, or nothing.
fn finish(progress: &Progress) {
    if std::io::stderr().is_terminal() {
        draw(&bars(progress), progress.layers().len().min(BARS_MAX));
    }
}

/// Draws over what was drawn before; how many lines there are now.
fn draw(bars: &str, before: usize) -> usize {
    let up = if before == 0 {
        String::new()
    } else {
        format!("\x1b[{before}A")
    };
    // A closed terminal is no reason to stop.
    let _ = write!(std::io::stderr().lock(), "{up}{bars}");
    bars.lines().count()
}

fn bars(progress: &Progress) -> String {
    let layers = progress.layers();
    let mut text = String::new();
    for (number, layer) in layers.iter().enumerate().take(BARS_MAX) {
        let (stage, done, all) = layer.look();
        let (stage, done) = match stage {
            Stage::Waiting => ("waiting", 0),
            Stage::Fetching => ("fetching", done),
            Stage::Converting => ("converting", done),
            Stage::Pushing => ("pushing", done),
            Stage::Done => ("done", all),
        };
        let bar = bar(done, all);
        let mib = all.div_ceil(1 << 20);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "\x1b[Klayer {:>2}/{} [{bar}] {mib:>6} MiB {stage}",
            number + 1,
            layers.len()
        );
    }
    text
}

/// So much of it is done; of nothing everything.
fn bar(done: u64, all: u64) -> String {
    let filled = done.saturating_mul(BAR_WIDTH).checked_div(all);
    let filled = filled.unwrap_or(BAR_WIDTH);
    (0..BAR_WIDTH)
        .map(|place| if place < filled { '#' } else { '.' })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        command: Nydus,
    }

    fn parse(words: &str) -> Result<Arguments, clap::Error> {
        let words = std::iter::once("x").chain(words.split(' '));
        let Nydus::Convert(arguments) = Line::try_parse_from(words)?.command;
        Ok(*arguments)
    }

    #[test]
    fn the_new_name_is_the_old_one_with_a_mark() {
        let named = |words: &str| target(&parse(words).unwrap()).map(|name| name.to_string());
        assert_eq!(
            named("convert r.example/a:1").unwrap(),
            "r.example/a:1-nydus".to_owned()
        );
        assert_eq!(
            named("convert r.example/a:1 r.example/b:2").unwrap(),
            "r.example/b:2"
        );
        let digest = format!("convert r.example/a@sha256:{}", "ab".repeat(32));
        assert!(named(&digest).is_err());
    }

    #[test]
    fn options_are_what_was_typed() {
        let defaults = options(&parse("convert a").unwrap());
        assert_eq!(defaults.version, RafsVersion::V6);
        assert_eq!(defaults.compressor, Compressor::Zstd);
        assert_eq!((defaults.chunk_bytes, defaults.refer), (1 << 20, false));
        assert_eq!(defaults.place, Place::Alone);
        let words =
            "convert --fs-version 5 --compressor lz4 --chunk-size 256KiB --index --platform linux/arm64 a b";
        let typed = options(&parse(words).unwrap());
        assert_eq!(typed.version, RafsVersion::V5);
        assert_eq!(typed.compressor, Compressor::Lz4);
        assert_eq!((typed.chunk_bytes, typed.place), (256 << 10, Place::Index));
        assert_eq!(typed.platform.to_string(), "linux/arm64");
        for wrong in [
            "convert",
            "convert --index --referrer a",
            "convert --oci-ref --compressor lz4 a",
            "convert --direct --mirror 127.0.0.1:1 a",
            "convert --fs-version 4 a",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn only_a_registry_that_is_named_is_spoken_to_in_the_clear() {
        let typed = parse("convert --direct --plain-http local:5000 r.example/a:1 local:5000/b:2").unwrap();
        let target = target(&typed).unwrap();
        check_plain(&typed, &target).unwrap();
        let plain = async |name| access(&typed, name).await.unwrap().plain;
        assert!(plain(&target).await);
        assert!(
            !plain(&typed.image).await,
            "the other registry's login would travel in the clear"
        );
        let slip = parse("convert --plain-http local:5001 local:5000/a:1").unwrap();
        let told = check_plain(&slip, &target).unwrap_err().to_string();
        assert!(told.contains("local:5001"), "{told}");
        assert!(parse("convert --plain-http local:5000/a:1").is_err());
    }

    #[test]
    fn bars_are_as_long_as_what_is_done() {
        assert_eq!(bars(&Progress::default()), "");
        assert_eq!(bar(0, 10), ".".repeat(24));
        assert_eq!(bar(5, 10), format!("{}{}", "#".repeat(12), ".".repeat(12)));
        assert_eq!(bar(10, 10), bar(0, 0));
    }
}
