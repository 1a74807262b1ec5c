//! How fast pieces leave: over all, and to each other node.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use darter_service::config::ByteSize;
use darter_service::limit::Limiter;
use darter_service::net::PeerAddr;
use prometheus_client::metrics::counter::Counter;

/// Nodes whose rates are remembered; those that are sent nothing at the moment make room.
const NODES_MAX: usize = 4096;

/// The rates of what is sent.
#[derive(Debug)]
pub(super) struct Rates {
    all: Limiter,
    node_max: Option<ByteSize>,
    node_delayed: Counter,
    nodes: Mutex<BTreeMap<IpAddr, Limiter>>,
}

impl Rates {
    pub(super) fn new(all: Limiter, node_max: Option<ByteSize>, node_delayed: Counter) -> Self {
        Self {
            all,
            node_max,
            node_delayed,
            nodes: Mutex::default(),
        }
    }

    /// That of all nodes together.
    pub(super) fn all(&self) -> Limiter {
        self.all.clone()
    }

    /// What one answer to a node must pass, one after the other. A node is who has its address: a name could be anybody's.
    pub(super) fn of(&self, node: PeerAddr) -> [Limiter; 2] {
        [self.node(node), self.all.clone()]
    }

    fn node(&self, node: PeerAddr) -> Limiter {
        let (PeerAddr::Ip(address), Some(_)) = (node, self.node_max) else {
            return Limiter::unlimited();
        };
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if nodes.len() >= NODES_MAX {
            nodes.retain(|_, limiter| !limiter.is_alone());
        }
        let fresh = || Limiter::of(self.node_max, &self.node_delayed);
        if nodes.len() >= NODES_MAX {
            return fresh();
        }
        nodes
            .entry(address.ip().to_canonical())
            .or_insert_with(fresh)
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::Instant;

    fn node(text: &str) -> PeerAddr {
        PeerAddr::Ip(text.parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn each_node_has_a_rate_of_its_own_below_that_of_all() {
        let (all, one) = (Counter::default(), Counter::default());
        let rates = Rates::new(
            Limiter::of(Some(ByteSize::bytes(1500)), &all),
            Some(ByteSize::bytes(1000)),
            one.clone(),
        );
        let send = |to: &'static str, bytes: u64| {
            let limits = rates.of(node(to));
            async move {
                for _ in 0..bytes / 100 {
                    for limit in &limits {
                        limit.take(100).await;
                    }
                }
            }
        };
        let started = Instant::now();
        // Two connections of one node share its rate.
        tokio::join!(send("10.0.0.1:1", 2500), send("10.0.0.1:2", 2500));
        let took = started.elapsed();
        assert!(
            took > Duration::from_millis(4_700) && took < Duration::from_millis(5_100),
            "{took:?}"
        );
        assert!(one.get() > 0 && all.get() == 0);
        let started = Instant::now();
        tokio::join!(send("10.0.0.2:1", 3000), send("10.0.0.3:1", 3000));
        let took = started.elapsed();
        assert!(
            took > Duration::from_millis(3_700) && took < Duration::from_millis(4_200),
            "{took:?}"
        );
        assert!(all.get() > 0);
    }

    #[test]
    fn nodes_that_are_gone_make_room() {
        let rates = Rates::new(Limiter::unlimited(), Some(ByteSize::mib(1)), Counter::default());
        let busy = rates.of(node("10.9.9.9:1"));
        for number in 0..2 * u32::try_from(NODES_MAX).unwrap() {
            let address = IpAddr::from(number.to_be_bytes());
            drop(rates.of(PeerAddr::Ip((address, 1).into())));
            assert!(rates.nodes.lock().unwrap().len() <= NODES_MAX);
        }
        assert!(
            rates
                .nodes
                .lock()
                .unwrap()
                .contains_key(&"10.9.9.9".parse().unwrap())
        );
        drop(busy);
    }
}
