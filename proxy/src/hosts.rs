//! containerd's `hosts.toml`, there only while this proxy serves.
//!
//! A mirror's entry that points at nobody costs a refused connection; one that points at somebody else's process costs
//! the pull. So the proxy writes the entry itself, once its own mirror has answered it, and takes it away before it
//! stops. What is written and undone is `darter-containerd-config`'s; this file decides when.
//!
//! What must hold: no entry is written before an answer that names this very node; none is left by a stop that has no
//! successor, or by a start that failed. `kill -9` leaves it: containerd then goes on at the registry at once.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use darter_containerd_config::containerd::{self, Capabilities, Options, Parts};
use darter_containerd_config::{Error, Mirror, Registry};
use darter_service::config::{Period, Problems, Validate};
use darter_service::supervise::Tasks;
use darter_service::watchdog::{Answer, Probe};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::mirror::INSTANCE;

/// How long one question to the own mirror may take, and the pause before the next.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_secs(1);

/// Section `containerd`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ContainerdConfig {
    /// Whether the proxy writes `hosts.toml` when it serves and takes it away when it stops. Default false:
    /// `darter setup containerd` writes it once.
    pub manage_hosts: bool,
    /// The registries to pull through the proxy, as images name them; empty for all.
    pub registries: Vec<String>,
    /// Whether containerd may ask the proxy which digest a tag means. Default true.
    pub resolve_tags: bool,
    /// How long containerd waits for a connection to the proxy before it goes on to the registry. Default 200ms.
    pub dial_timeout: Period,
    /// The node's file system, where it is mounted. Default `/`.
    pub root: PathBuf,
    /// Where the former files are kept. Not the directory of `darter setup`.
    pub state_dir: PathBuf,
}

impl Default for ContainerdConfig {
    fn default() -> Self {
        Self {
            manage_hosts: false,
            registries: Vec::new(),
            resolve_tags: true,
            dial_timeout: Period::from(Duration::from_millis(200)),
            root: PathBuf::from("/"),
            state_dir: PathBuf::from("/var/lib/darter/hosts"),
        }
    }
}

impl Validate for ContainerdConfig {
    fn validate(&self, problems: &mut Problems) {
        for (index, name) in self.registries.iter().enumerate() {
            if let Err(error) = name.parse::<Registry>() {
                problems.add(&format!("registries.{index}"), error.to_string());
            }
        }
        if self.dial_timeout.is_zero() {
            problems.add("dialTimeout", "must be more than 0s");
        }
        for (key, path) in [("root", &self.root), ("stateDir", &self.state_dir)] {
            if !path.is_absolute() {
                problems.add(key, "must be an absolute path");
            }
        }
    }
}

impl ContainerdConfig {
    fn options(&self, mirror: SocketAddr) -> Result<Options, Error> {
        let ip = match mirror.ip() {
            ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            ip => ip,
        };
        let mut options = Options::new(&self.root);
        options.parts = Parts::Hosts;
        options.mirror = format!("http://{}", SocketAddr::new(ip, mirror.port())).parse::<Mirror>()?;
        options.registries = self
            .registries
            .iter()
            .map(|name| name.parse())
            .collect::<Result<_, _>>()?;
        options.dial_timeout = self.dial_timeout.as_duration();
        options.capabilities = match self.resolve_tags {
            true => Capabilities::PullAndResolve,
            false => Capabilities::Pull,
        };
        Ok(options)
    }
}

/// The entries of one proxy. Clones share the state.
#[derive(Clone, Debug)]
pub(crate) struct Hosts {
    config: ContainerdConfig,
    /// Whether nothing may be written any more; held while files change.
    withdrawn: Arc<Mutex<bool>>,
}

impl Hosts {
    /// `None` if somebody else has the care of them.
    pub(crate) fn new(config: &ContainerdConfig) -> Option<Self> {
        config.manage_hosts.then(|| Self {
            config: config.clone(),
            withdrawn: Arc::new(Mutex::new(false)),
        })
    }

    /// Writes the entries as soon as the mirror at `mirror` answers as `instance`; gives up at `stop`.
    pub(crate) async fn install_when_served(
        self,
        mirror: SocketAddr,
        instance: u64,
        tasks: Tasks,
        stop: CancellationToken,
    ) {
        let probe = Probe::tcp(mirror, "/v2/");
        let mut warned = false;
        loop {
            let asked = probe.clone();
            let answer = tasks
                .blocking("self-probe", move || asked.ask(ANSWER_PATIENCE))
                .await;
            match answer {
                Ok(Ok(answer)) if names(&answer, instance) => break,
                Ok(answer) if !warned => {
                    warned = true;
                    tracing::warn!(%mirror, ?answer, "the mirror's address does not answer as this proxy: hosts.toml waits");
                }
                _ => {}
            }
            if stop
                .run_until_cancelled(tokio::time::sleep(PAUSE))
                .await
                .is_none()
            {
                return;
            }
        }
        // A thread that broke has told so itself.
        let _ = tasks
            .blocking("writing hosts.toml", move || self.install(mirror))
            .await;
    }

    /// Blocks while files change.
    fn install(&self, mirror: SocketAddr) {
        let withdrawn = self.withdrawn.lock().unwrap_or_else(PoisonError::into_inner);
        if *withdrawn {
            return;
        }
        let planned = self.config.options(mirror).and_then(|options| {
            let plan = containerd::plan(&options)?;
            plan.apply(&self.config.state_dir)?;
            Ok(plan)
        });
        match planned {
            Ok(plan) => {
                let changed: Vec<String> = plan.paths().map(|path| path.display().to_string()).collect();
                tracing::info!(?changed, "containerd asks this proxy");
                for note in plan.notes() {
                    tracing::warn!(%note, "hosts.toml");
                }
            }
            Err(error) => {
                tracing::error!(%error, "hosts.toml cannot be written: containerd does not ask this proxy")
            }
        }
    }

    /// Takes away what this proxy, or an earlier life of it, has written; from here on nothing is written any more.
    pub(crate) async fn withdraw(self, tasks: &Tasks) {
        // A thread that broke has told so itself.
        let _ = tasks
            .blocking("taking hosts.toml away", move || self.undo())
            .await;
    }

    fn undo(&self) {
        let mut withdrawn = self.withdrawn.lock().unwrap_or_else(PoisonError::into_inner);
        *withdrawn = true;
        let undone = containerd::undo(&self.config.root, &self.config.state_dir).and_then(|plan| {
            plan.apply(&self.config.state_dir)?;
            Ok(plan)
        });
        match undone {
            Ok(plan) => {
                let changed: Vec<String> = plan.paths().map(|path| path.display().to_string()).collect();
                tracing::info!(?changed, "containerd does not ask this proxy any more");
            }
            Err(error) => {
                tracing::error!(%error, "hosts.toml cannot be taken away: containerd goes on asking this proxy")
            }
        }
    }
}

/// Whether it is this node that answered, and not whoever else has its port.
fn names(answer: &Answer, instance: u64) -> bool {
    answer.header(INSTANCE).and_then(|text| text.parse().ok()) == Some(instance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_wrong_is_told() {
        let config = ContainerdConfig {
            registries: vec!["docker.io".into(), "../etc".into()],
            dial_timeout: Period::default(),
            root: "host".into(),
            state_dir: "state".into(),
            ..ContainerdConfig::default()
        };
        let mut problems = Problems::new();
        config.validate(&mut problems);
        let paths: Vec<&str> = problems.found().iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["registries.1", "dialTimeout", "root", "stateDir"]);
    }

    /// A listener that answers `/v2/` with the instance that the proxy would have.
    fn answering(instance: u64) -> SocketAddr {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 1024]).unwrap();
                let answer =
                    format!("HTTP/1.1 200 OK\r\n{INSTANCE}: {instance}\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        address
    }

    fn managed(root: &std::path::Path) -> (Hosts, PathBuf) {
        let config = ContainerdConfig {
            manage_hosts: true,
            root: root.join("node"),
            state_dir: root.join("state"),
            ..ContainerdConfig::default()
        };
        std::fs::create_dir_all(&config.root).unwrap();
        let file = config.root.join("etc/containerd/certs.d/_default/hosts.toml");
        (Hosts::new(&config).unwrap(), file)
    }

    #[tokio::test]
    async fn the_entry_is_there_from_the_first_own_answer_to_the_withdrawal() {
        let dir = tempfile::tempdir().unwrap();
        let (hosts, file) = managed(dir.path());
        let (mirror, tasks, stop) = (answering(5), Tasks::new(), CancellationToken::new());
        let install = |hosts: Hosts| hosts.install_when_served(mirror, 5, tasks.clone(), stop.clone());
        install(hosts.clone()).await;
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(&format!("[host.\"http://{mirror}\"]")), "{text}");
        hosts.clone().withdraw(&tasks).await;
        assert!(!file.exists());
        // Whoever is late does not bring it back.
        install(hosts).await;
        assert!(!file.exists());
    }

    #[tokio::test]
    async fn a_foreign_process_on_the_port_gets_no_entry() {
        let dir = tempfile::tempdir().unwrap();
        let (hosts, file) = managed(dir.path());
        let (mirror, tasks, stop) = (answering(6), Tasks::new(), CancellationToken::new());
        stop.cancel();
        hosts.install_when_served(mirror, 5, tasks, stop).await;
        assert!(!file.exists());
    }

    #[tokio::test]
    async fn what_an_earlier_life_left_is_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let (hosts, file) = managed(dir.path());
        let (mirror, tasks) = (answering(5), Tasks::new());
        hosts
            .install_when_served(mirror, 5, tasks.clone(), CancellationToken::new())
            .await;
        assert!(file.exists());
        let (again, _) = managed(dir.path());
        again.withdraw(&tasks).await;
        assert!(!file.exists());
    }
}
