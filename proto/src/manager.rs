//! What schedulers and nodes say to a manager, and what it tells them, in checked types.

use std::fmt;
use std::time::Duration;

use darter_types::HostId;

/// What an instance does for its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberRole {
    /// A node that fetches for itself and shares what it has.
    Peer,
    /// A node that also fetches from registries on behalf of the cluster.
    Seed,
    /// It tells nodes who has what.
    Scheduler,
}

impl MemberRole {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Seed => "seed",
            Self::Scheduler => "scheduler",
        }
    }
}

impl fmt::Display for MemberRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How an instance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is not reached yet.
    Starting,
    /// It does its work.
    Serving,
}

impl State {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
        }
    }
}

/// An instance, all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Version of the wire protocol that it speaks.
    pub wire_version: u32,
    /// What it does for its cluster.
    pub role: MemberRole,
    /// Its host name.
    pub host: HostId,
    /// Where its cluster reaches it, `host:port`.
    pub address: String,
    /// Its data centre; may be empty.
    pub idc: String,
    /// Its place, from wide to narrow; may be empty.
    pub location: String,
    /// Its release, for people.
    pub build: String,
    /// How it is.
    pub state: State,
    /// Version of the cluster's configuration that it runs; 0 for its own file alone.
    pub running: u64,
    /// The version that it does not run because it cannot, and why.
    pub refused: Option<(u64, String)>,
}

/// Where an instance belongs and what it is to know there, all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Version of the wire protocol that the manager speaks.
    pub wire_version: u32,
    /// The cluster's id.
    pub cluster: String,
    /// The cluster's name.
    pub name: String,
    /// Why the instance is in it, for people.
    pub reason: String,
    /// The cluster's schedulers that live, `host:port`, sorted.
    pub schedulers: Vec<String>,
    /// The cluster's configuration: its version, and a document as JSON.
    pub configuration: Option<(u64, String)>,
    /// How often the instance is to say that it is alive; at least a millisecond.
    pub alive_interval: Duration,
}
