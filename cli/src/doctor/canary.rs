//! A pull by the node's own runtime, and where its bytes came from.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use darter_service::net::Address;
use tokio::process::Command;
use tokio::time::timeout;

use super::finding::Finding;
use super::runtime::Kind;
use crate::admin;

const CHECK: &str = "pull";
/// A namespace of containerd of its own, so that nothing that runs is touched.
const NAMESPACE: &str = "darter-doctor";
const PATIENCE: Duration = Duration::from_secs(300);

/// What pulls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Puller {
    /// containerd's own client
    Ctr,
    /// The Docker daemon
    Docker,
    /// podman, into a storage that is thrown away
    Podman,
    /// Any runtime of Kubernetes, as the kubelet asks it
    Crictl,
}

/// The pull to be tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Canary<'c> {
    pub(super) image: &'c str,
    pub(super) puller: Puller,
    /// Where `hosts.toml` files are, for `ctr`, which reads no configuration.
    pub(super) hosts_dir: &'c Path,
    /// The proxy's admin port.
    pub(super) proxy: &'c Address,
    /// More flags for `ctr`.
    pub(super) more: &'c [String],
}

impl Puller {
    /// What pulls as the first of these clients does that can pull by itself.
    pub(super) fn of(clients: impl IntoIterator<Item = Kind>) -> Self {
        let puller = |kind| match kind {
            Kind::Containerd => Some(Self::Ctr),
            Kind::Docker => Some(Self::Docker),
            Kind::Podman => Some(Self::Podman),
            Kind::Crio => Some(Self::Crictl),
            Kind::Buildkit | Kind::Stargz | Kind::Soci => None,
        };
        clients.into_iter().find_map(puller).unwrap_or(Self::Ctr)
    }
}

impl Canary<'_> {
    /// Pulls the image and takes it away again.
    pub(super) async fn pull(&self) -> Finding {
        let before = match served(self.proxy).await {
            Ok(before) => before,
            Err(error) => {
                let seen = format!(
                    "{} was not pulled: the metrics of the proxy are not to be had ({error:#})",
                    self.image
                );
                return Finding::fail(CHECK, seen, "start the proxy");
            }
        };
        let pulled = match self.puller {
            Puller::Ctr => self.with_ctr().await,
            Puller::Podman => self.with_podman().await,
            Puller::Docker => self.with("docker", &["image", "inspect"], &["image", "rm"]).await,
            Puller::Crictl => self.with("crictl", &["inspecti", "--quiet"], &["rmi"]).await,
        };
        let after = served(self.proxy).await.unwrap_or_default();
        judge(self.image, pulled, &before, &after)
    }

    async fn with_ctr(&self) -> Result<()> {
        let hosts_dir = self.hosts_dir.display().to_string();
        let mut words = vec!["-n", NAMESPACE, "images", "pull", "--hosts-dir", &hosts_dir];
        words.extend(self.more.iter().map(String::as_str));
        words.push(self.image);
        let pulled = run("ctr", &words).await;
        // Of the runtime's own store, only what nobody else holds goes.
        let _ = run("ctr", &["-n", NAMESPACE, "images", "rm", "--sync", self.image]).await;
        pulled
    }

    /// By a program that keeps what it pulls: an image that was there before stays.
    async fn with(&self, program: &str, look: &[&str], remove: &[&str]) -> Result<()> {
        let held = run(program, &[look, &[self.image]].concat()).await.is_ok();
        let pulled = run(program, &["pull", self.image]).await;
        if !held && pulled.is_ok() {
            let _ = run(program, &[remove, &[self.image]].concat()).await;
        }
        pulled
    }

    async fn with_podman(&self) -> Result<()> {
        let storage = Storage::new()?;
        let [root, state] = ["root", "run"].map(|name| storage.0.join(name).display().to_string());
        let words = [
            "--root",
            &root,
            "--runroot",
            &state,
            "--storage-driver",
            "vfs",
            "--cgroup-manager",
            "cgroupfs",
            "pull",
            "--quiet",
            self.image,
        ];
        run("podman", &words).await
    }
}

/// A directory that nobody else reads, gone in the end.
struct Storage(PathBuf);

impl Storage {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("darter-doctor-{}", std::process::id()));
        // It must not be there: others may write to its parent.
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("cannot create {} for podman", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn judge(image: &str, pulled: Result<()>, before: &Sources, after: &Sources) -> Finding {
    if let Err(error) = pulled {
        let advice = "the same with the proxy stopped says whether it is the registry; then see docs/operate/troubleshoot.md";
        return Finding::fail(CHECK, format!("{image}: {error:#}"), advice);
    }
    let grown = after.iter().map(|(source, bytes)| {
        let grown = bytes - before.get(source).copied().unwrap_or(0).min(*bytes);
        (source, grown)
    });
    let told: Vec<String> = grown
        .filter(|(_, bytes)| *bytes > 0)
        .map(|(source, bytes)| format!("{bytes} bytes from {source}"))
        .collect();
    match told.is_empty() {
        false => Finding::ok(
            CHECK,
            format!("{image} was pulled through the proxy: {}", told.join(", ")),
        ),
        true => Finding::warn(
            CHECK,
            format!("{image} was pulled, but no byte of it came through the proxy"),
            "the runtime had its layers already (try another image), or does not ask the proxy (see above)",
        ),
    }
}

/// Runs a program to its end; its last words are the error.
async fn run(program: &str, words: &[&str]) -> Result<()> {
    let output = Command::new(program).args(words).kill_on_drop(true).output();
    let output = timeout(PATIENCE, output)
        .await
        .with_context(|| format!("{program} did not end within {} s", PATIENCE.as_secs()))?
        .with_context(|| format!("{program} cannot be run: is it installed?"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match said.lines().last() {
        Some(last) => bail!("{last}"),
        None => bail!("{program} failed without a word"),
    }
}

/// Bytes by source.
type Sources = BTreeMap<String, u64>;

/// What the proxy has sent to clients, by where it had it from.
async fn served(proxy: &Address) -> Result<Sources> {
    Ok(sources(&admin::get(proxy, "/metrics").await?))
}

fn sources(metrics: &str) -> Sources {
    let named = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix("darter_proxy_served_bytes_total{source=\"")?;
        let (source, count) = rest.split_once("\"} ")?;
        Some((source.to_owned(), count.trim().parse().ok()?))
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::super::finding::State;
    use super::*;

    const METRICS: &str = "# TYPE x counter\ndarter_proxy_received_bytes_total{source=\"origin\"} 12\n\
        darter_proxy_served_bytes_total{source=\"cache\"} 7\ndarter_proxy_served_bytes_total{source=\"peer\"} 30\n";

    #[test]
    fn where_bytes_came_from_is_told() {
        let before = sources(METRICS);
        assert_eq!((before["peer"], before.len()), (30, 2));
        let grown = |source: &str| {
            let mut after = before.clone();
            *after.get_mut(source).unwrap() += 5;
            judge("a:1", Ok(()), &before, &after)
        };
        let told = |source: &str| {
            Finding::ok(
                CHECK,
                format!("a:1 was pulled through the proxy: 5 bytes from {source}"),
            )
        };
        assert_eq!(grown("peer"), told("peer"));
        // An image that the proxy's store has already came through it all the same.
        assert_eq!(grown("cache"), told("cache"));
        assert_eq!(judge("a:1", Ok(()), &before, &before).state, State::Warn);
        let failed = judge("a:1", Err(anyhow!("no")), &before, &before);
        assert_eq!(failed.state, State::Fail);
    }

    #[test]
    fn the_client_that_asks_pulls() {
        let first = |clients: &[Kind]| Puller::of(clients.iter().copied());
        assert_eq!(first(&[Kind::Stargz, Kind::Podman]), Puller::Podman);
        assert_eq!(first(&[Kind::Docker, Kind::Containerd]), Puller::Docker);
        assert_eq!(first(&[Kind::Crio]), Puller::Crictl);
        assert_eq!(first(&[]), Puller::Ctr);
    }

    #[test]
    fn podmans_storage_is_new_and_goes() {
        let storage = Storage::new().unwrap();
        let path = storage.0.clone();
        assert!(path.is_dir() && Storage::new().is_err());
        drop(storage);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn without_a_proxy_nothing_is_pulled() {
        let canary = Canary {
            image: "a:1",
            puller: Puller::Ctr,
            hosts_dir: Path::new("/nonexistent"),
            proxy: &Address::Tcp("127.0.0.1:1".into()),
            more: &[],
        };
        let found = canary.pull().await;
        assert_eq!(found.state, State::Fail);
        assert!(found.seen.contains("was not pulled"), "{found:?}");
    }
}
