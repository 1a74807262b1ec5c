//! What a scheduler or node has to do with the manager.
//!
//! [`start`] joins: it keeps one stream to one of the managers, tells what the instance is and runs, and hears where it belongs,
//! which schedulers live, and what to do. All that it heard is saved ([`saved`]) and is what the next start begins with.
//!
//! What must hold: a manager that is dead or away changes nothing; what it tells is applied whole or refused whole, and it hears
//! which; a join token goes out encrypted, to this machine, or where the operator allowed otherwise.

pub mod document;
mod follow;
mod join;
pub mod saved;
mod section;

use std::path::PathBuf;
use std::sync::Arc;

use darter_proto::manager::{Instance, MemberRole, Membership};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::net::Network;
use crate::supervise::Tasks;
use crate::tls::TlsConnector;

pub use follow::Member;
pub use section::ManagerConfig;

/// What joining takes.
#[derive(Debug)]
#[expect(missing_docs, reason = "each field is what its type says")]
pub struct JoinParts {
    pub config: ManagerConfig,
    pub network: Arc<dyn Network>,
    /// Without it, streams are plain.
    pub tls: Option<TlsConnector>,
    pub tasks: Tasks,
    pub stop: CancellationToken,
    /// Who the instance is.
    pub instance: Instance,
    /// What an earlier life saved.
    pub saved: Option<Membership>,
    /// Seed of the jitter.
    pub seed: u64,
}

/// What an instance says of itself, to be changed while it runs. Clones share it.
#[derive(Clone, Debug)]
pub struct Said(watch::Sender<Instance>);

impl Said {
    /// It has another role.
    pub fn role(&self, role: MemberRole) {
        self.0
            .send_if_modified(|said| std::mem::replace(&mut said.role, role) != role);
    }

    fn running(&self, running: u64, refused: Option<(u64, String)>) {
        self.0.send_if_modified(|said| {
            let changed = (said.running, &said.refused) != (running, &refused);
            (said.running, said.refused) = (running, refused);
            changed
        });
    }
}

/// The file in which an instance of this role saves what it heard; `None` without a manager.
pub fn file(config: &ManagerConfig, role: &str) -> Option<PathBuf> {
    let file = || config.dir.join(format!("membership-{role}.json"));
    (!config.addresses.is_empty()).then(file)
}

/// Applies what was saved, if anything, and keeps a stream to a manager until `parts.stop`; `member` is told what comes.
pub fn start(parts: JoinParts, member: Arc<dyn Member>) -> Said {
    let (said, instance) = watch::channel(parts.instance);
    let (heard, membership) = watch::channel(parts.saved.map(Arc::new));
    let said = Said(said);
    let mut follow = follow::Follow::new(said.clone(), member);
    follow.begin(membership.borrow().clone());
    let role = match instance.borrow().role {
        MemberRole::Scheduler => "scheduler",
        MemberRole::Peer | MemberRole::Seed => "proxy",
    };
    let file = file(&parts.config, role);
    let (tasks, stop) = (parts.tasks.clone(), parts.stop.clone());
    let keep = follow.run(membership, file, tasks.clone(), stop.clone());
    tasks.spawn_component("membership", stop.clone(), keep);
    let join = join::Join {
        config: parts.config,
        network: parts.network,
        tls: parts.tls,
        instance,
        heard,
        rng: SmallRng::seed_from_u64(parts.seed),
    };
    tasks.spawn_component("stream to a manager", stop.clone(), join.run(stop));
    said
}
