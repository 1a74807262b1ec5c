//! The proxy's configuration: one section a component, defined beside it.

mod check;
mod floor;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use darter_origin::RegistriesConfig;
use darter_proto::scheduler::Role;
use darter_service::config::{ByteSize, Period};
use darter_service::manager::ManagerConfig;
use darter_service::net::Address;
use darter_service::tls::TlsConfig;
use darter_service::watchdog::WatchdogConfig;
use darter_store::{RegistryQuotas, WriteBehind};
use darter_types::{HostId, Locality};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use floor::FreeFloor;

use crate::access::AccessConfig;
use crate::forward::ForwardConfig;
use crate::hosts::ContainerdConfig;
use crate::mirror::MirrorConfig;
use crate::peer::PeerConfig;
use crate::pull::PullConfig;
use crate::scheduling::SchedulingConfig;

/// What a node does for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NodeRole {
    /// Fetches for itself and shares what it has.
    #[default]
    Peer,
    /// Also fetches from registries on behalf of the cluster: a seed peer.
    Seed,
}

impl NodeRole {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Peer, Self::Seed];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Seed => "seed",
        }
    }
}

impl fmt::Display for NodeRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no role.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no role: say seed or peer")]
pub struct RoleError(String);

impl FromStr for NodeRole {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, RoleError> {
        let known = Self::ALL.into_iter().find(|role| role.name() == text);
        known.ok_or_else(|| RoleError(text.chars().take(64).collect()))
    }
}

impl From<NodeRole> for Role {
    fn from(role: NodeRole) -> Self {
        match role {
            NodeRole::Peer => Self::Peer,
            NodeRole::Seed => Self::Seed,
        }
    }
}

/// `proxy.yaml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// Version of the file's form. 1 is the only one.
    pub version: u32,
    /// The node's name in the cluster; absent = the host name. No two nodes may share one.
    pub host: Option<HostId>,
    /// Where the node stands, `idc|zone|rack`; parts at the end may be missing. Near nodes are preferred.
    pub locality: Locality,
    /// `peer`, or `seed` for a node that fetches from registries on behalf of the cluster. `PUT /role` on the admin port
    /// changes it until the next start.
    pub role: NodeRole,
    /// The registry mirror for this node's container runtime.
    pub mirror: MirrorConfig,
    /// The forward proxy, for clients that know proxies but no mirrors. Off by default.
    pub forward: ForwardConfig,
    /// How long rights to read are remembered.
    pub access: AccessConfig,
    /// Registries: their addresses, authorities, limits.
    pub origin: RegistriesConfig,
    /// Downloads.
    pub pull: PullConfig,
    /// Exchange with other nodes.
    pub peer: PeerConfig,
    /// The schedulers of the cluster.
    pub scheduler: SchedulingConfig,
    /// The manager, if there is one.
    pub manager: ManagerConfig,
    /// Whether nodes and schedulers prove who they are. A node's certificate is for its name (`host`), a scheduler's for
    /// the host of its address.
    pub tls: TlsConfig,
    /// Where pieces are kept.
    pub store: StoreConfig,
    /// Health, metrics, and what to look at when something is wrong.
    pub admin: AdminConfig,
    /// containerd's `hosts.toml`, if the proxy itself has the care of it.
    pub containerd: ContainerdConfig,
    /// When a proxy that hangs ends itself.
    pub watchdog: WatchdogConfig,
    /// What is logged.
    pub log: darter_service::log::LogConfig,
    /// Where traces go.
    pub traces: darter_service::traces::TracesConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            version: 1,
            host: None,
            locality: Locality::default(),
            role: NodeRole::Peer,
            mirror: MirrorConfig::default(),
            forward: ForwardConfig::default(),
            access: AccessConfig::default(),
            origin: RegistriesConfig::default(),
            pull: PullConfig::default(),
            peer: PeerConfig::default(),
            scheduler: SchedulingConfig::default(),
            manager: ManagerConfig::default(),
            tls: TlsConfig::default(),
            store: StoreConfig::default(),
            admin: AdminConfig::default(),
            containerd: ContainerdConfig::default(),
            watchdog: WatchdogConfig::default(),
            log: darter_service::log::LogConfig::default(),
            traces: darter_service::traces::TracesConfig::default(),
        }
    }
}

impl Config {
    /// Schedulers and managers, to find the way to.
    pub(crate) fn others(&self) -> Vec<String> {
        let schedulers = self.scheduler.addresses.iter();
        schedulers.chain(&self.manager.addresses).cloned().collect()
    }

    /// Whether there is nobody to exchange with: no scheduler, and no manager that knows any.
    pub fn is_alone(&self) -> bool {
        self.scheduler.addresses.is_empty() && self.manager.is_off()
    }
}

/// Section `store`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StoreConfig {
    /// Directory of the pieces, on a file system of its own where possible. It is made with mode 0700.
    pub dir: PathBuf,
    /// Most bytes that pieces may take. What was used longest ago makes room.
    pub quota: ByteSize,
    /// What stays free on the file system, whatever the quota says: bytes, or a share of it, such as `10%`.
    pub free_floor: FreeFloor,
    /// Most bytes that contents of one registry may take, by its name; `*` is for each of the others. What was used
    /// longest ago of that registry makes room.
    pub registry_quotas: BTreeMap<String, ByteSize>,
    /// How long one round over all pieces takes, each read back and compared with its digest; a piece that differs is
    /// dropped. Absent = never.
    pub scrub_interval: Option<Period>,
    /// Most bytes that wait in memory for a disk that is slow. What does not fit waits where it comes from.
    pub unwritten_bytes_max: ByteSize,
    /// A disk that takes fewer bytes a second than this, while as much waits for it as may, is not waited for: what the
    /// registry sends to clients of this node goes on past it and is not kept. Absent = it always is.
    pub slow_bytes_per_second: Option<ByteSize>,
}

impl StoreConfig {
    /// How far what is written may run ahead of the disk.
    pub fn write_behind(&self) -> WriteBehind {
        WriteBehind {
            bytes_max: self.unwritten_bytes_max.as_u64(),
            slow_bytes_per_second: self.slow_bytes_per_second.map(|rate| rate.as_u64()),
        }
    }

    /// The quotas as the store takes them; names that are none have been refused.
    pub fn quotas(&self) -> RegistryQuotas {
        let named = self.registry_quotas.iter();
        RegistryQuotas {
            named: named
                .filter_map(|(name, quota)| Some((name.parse().ok()?, quota.as_u64())))
                .collect(),
            others: self.registry_quotas.get(OTHERS).map(|quota| quota.as_u64()),
        }
    }
}

/// The key of what holds for each registry that has no entry of its own.
pub(crate) const OTHERS: &str = "*";

impl Default for StoreConfig {
    fn default() -> Self {
        let behind = WriteBehind::default();
        Self {
            dir: PathBuf::from("/var/lib/darter/store"),
            quota: ByteSize::gib(100),
            free_floor: FreeFloor::Bytes(ByteSize::gib(5)),
            registry_quotas: BTreeMap::new(),
            scrub_interval: Some(Period::from(Duration::from_secs(24 * 3600))),
            unwritten_bytes_max: behind.bytes_max.into(),
            slow_bytes_per_second: behind.slow_bytes_per_second.map(ByteSize::from),
        }
    }
}

/// Section `admin`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AdminConfig {
    /// Where `/livez`, `/readyz`, `/metrics`, `/config`, `/loglevel` and `/debug/tasks` are answered. It has no
    /// authentication: keep it on loopback or on a pod's address.
    pub listen: Address,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            listen: Address::Tcp("127.0.0.1:4002".to_owned()),
        }
    }
}
