//! The other nodes: schedulers that answer and know this node, peers that can be reached from here.

use std::collections::BTreeMap;
use std::time::Duration;

use darter_proto::pb::scheduler::v1 as pb;
use darter_proxy::config::Config;
use darter_service::net::{Network as _, TokioNetwork};
use futures_util::future::join_all;
use tokio::time::timeout;

use super::finding::Finding;
use crate::query::client::Client;

/// Longer than a scheduler may take to answer, with its connection.
const SCHEDULER_PATIENCE: Duration = Duration::from_secs(8);
const PEER_PATIENCE: Duration = Duration::from_secs(3);
/// Peers that are tried; a sample shows a closed port as well as all do.
const PEERS_MAX: usize = 8;

/// Asks every scheduler for its hosts, then tries some of them.
pub(super) async fn check(config: &Config, host: &str) -> Vec<Finding> {
    let addresses = &config.scheduler.addresses;
    if addresses.is_empty() {
        let seen = "none is configured: this node fetches everything from registries itself";
        return vec![Finding::warn("scheduler", seen, "set scheduler.addresses")];
    }
    let answers = join_all(addresses.iter().map(|address| ask(address, config))).await;
    let mut findings = Vec::new();
    let mut peers = BTreeMap::new();
    for (address, answer) in addresses.iter().zip(answers) {
        let hosts = answer.as_deref().unwrap_or_default();
        peers.extend(hosts.iter().map(|line| (line.host.clone(), line.address.clone())));
        findings.push(scheduler(address, answer.as_deref(), host));
    }
    peers.remove(host);
    findings.extend(reach(&peers).await);
    findings
}

async fn ask(address: &str, config: &Config) -> Result<Vec<pb::HostLine>, String> {
    let work = async {
        let mut client = Client::connect(address, &config.tls).await?;
        client.hosts().await
    };
    match timeout(SCHEDULER_PATIENCE, work).await {
        Ok(Ok(hosts)) => Ok(hosts),
        Ok(Err(error)) => Err(error.root_cause().to_string()),
        Err(_) => Err(format!("no answer within {} s", SCHEDULER_PATIENCE.as_secs())),
    }
}

fn scheduler(address: &str, answer: Result<&[pb::HostLine], &String>, host: &str) -> Finding {
    let check = "scheduler";
    let hosts = match answer {
        Ok(hosts) => hosts,
        Err(error) => {
            return Finding::fail(
                check,
                format!("{address} does not answer: {error}"),
                "start it, open its port to nodes, or correct scheduler.addresses; pulls go on without it",
            );
        }
    };
    match hosts.iter().find(|line| line.host == host) {
        Some(line) if line.excluded.is_empty() => {
            let seen = format!(
                "{address} knows this node as {host} at {} and {} others",
                line.address,
                hosts.len() - 1
            );
            Finding::ok(check, seen)
        }
        Some(line) => Finding::warn(
            check,
            format!(
                "{address} gives nobody to this node at present: {}",
                line.excluded
            ),
            "see `darter scheduler hosts`; it is tried again by itself",
        ),
        None => Finding::fail(
            check,
            format!("{address} does not know a node {host}"),
            "is the proxy running, with this configuration? its log has `stream to the scheduler is up` when it works",
        ),
    }
}

async fn reach(peers: &BTreeMap<String, String>) -> Option<Finding> {
    let check = "peers";
    let tries = peers.iter().take(PEERS_MAX).map(|(name, address)| async move {
        let connected = timeout(PEER_PATIENCE, TokioNetwork.connect(address)).await;
        match connected {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(format!("{name} at {address}: {error}")),
            Err(_) => Some(format!("{name} at {address}: no answer")),
        }
    });
    let tried = peers.len().min(PEERS_MAX);
    let lost: Vec<String> = join_all(tries).await.into_iter().flatten().collect();
    match (tried, lost.is_empty()) {
        (0, _) => None,
        (_, true) => Some(Finding::ok(
            check,
            format!("{tried} of {} other nodes tried, all reached", peers.len()),
        )),
        _ => Some(Finding::warn(
            check,
            format!(
                "{} of {tried} tried are not reached: {}",
                lost.len(),
                lost.join("; ")
            ),
            "open their port for other nodes (4000), and check peer.advertise there",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    fn line(host: &str, excluded: &str) -> pb::HostLine {
        pb::HostLine {
            host: host.into(),
            address: "10.0.0.7:4000".into(),
            excluded: excluded.into(),
            ..pb::HostLine::default()
        }
    }

    #[test]
    fn what_a_scheduler_says_is_judged() {
        let hosts = [line("a", ""), line("b", "slow")];
        let judge = |host| scheduler("s:8002", Ok(&hosts), host).state;
        assert_eq!(judge("a"), State::Ok);
        assert_eq!(judge("b"), State::Warn);
        assert_eq!(judge("c"), State::Fail);
        let error = "refused".to_owned();
        let silent = scheduler("s:8002", Err(&error), "a");
        assert_eq!(silent.state, State::Fail);
        assert!(silent.seen.contains("s:8002 does not answer: refused"));
    }

    #[tokio::test]
    async fn peers_are_tried() {
        let open = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let open = open
            .local_addr()
            .map(|address| (open, address.to_string()))
            .unwrap();
        let closed = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let peers = BTreeMap::from([("a".to_owned(), open.1.clone())]);
        assert_eq!(reach(&peers).await.unwrap().state, State::Ok);
        let peers = BTreeMap::from([("a".to_owned(), open.1), ("b".to_owned(), closed.to_string())]);
        let found = reach(&peers).await.unwrap();
        assert_eq!(found.state, State::Warn);
        assert!(
            found.seen.starts_with("1 of 2 tried are not reached: b at"),
            "{found:?}"
        );
        assert_eq!(reach(&BTreeMap::new()).await, None);
    }

    #[tokio::test]
    async fn a_node_alone_is_told_so_and_a_dead_scheduler_as_well() {
        let mut config = Config::default();
        assert_eq!(check(&config, "a").await[0].state, State::Warn);
        let closed = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        config.scheduler.addresses = vec![closed.to_string()];
        assert_eq!(check(&config, "a").await[0].state, State::Fail);
    }
}
