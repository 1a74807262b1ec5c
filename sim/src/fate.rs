//! The end of a simulated process: its connections first, in order, then everything else at once.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;

use tokio_util::sync::CancellationToken;

use crate::network::TurmoilNetwork;

/// Tells one life of a host that it is about to be killed.
#[derive(Clone, Debug, Default)]
pub struct Fate {
    killed: CancellationToken,
}

impl Fate {
    /// Waits for `life`. If the host is killed before, its connections end and this never returns.
    pub async fn or<T>(&self, network: &TurmoilNetwork, life: impl Future<Output = T>) -> T {
        // It lives on, without a connection, until the host crashes: dropped here it would say goodbye.
        let mut life = pin!(life);
        tokio::select! {
            biased;
            () = self.killed.cancelled() => network.sever(),
            output = &mut life => return output,
        }
        std::future::pending().await
    }
}

/// The fates of all hosts that can be killed.
#[derive(Debug, Default)]
pub(crate) struct Fates(BTreeMap<String, Fate>);

impl Fates {
    /// A new life of a host.
    pub(crate) fn begin(&mut self, host: &str) -> Fate {
        let fate = Fate::default();
        self.0.insert(host.to_owned(), fate.clone());
        fate
    }

    /// Ends a life.
    pub(crate) fn kill(&self, host: &str) {
        if let Some(fate) = self.0.get(host) {
            fate.killed.cancel();
        }
    }
}
