//! What is connected to, and what is refused at the start.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use darter_service::net::{Address, BoxFuture, Listener, Network, Stream, TokioNetwork};
use darter_testkit::client::RawConnection;
use darter_testkit::content::Content;
use http::Method;

use super::lab::{Lab, config, intercept, start_with};
use crate::app::StartError;
use crate::forward::{HostPattern, RuleAction, RuleConfig};

/// A name that is public when it is looked at and this machine a moment later.
#[derive(Debug, Default)]
struct Flipping {
    resolved: Mutex<u32>,
    connected: Mutex<Vec<String>>,
}

impl Network for Flipping {
    fn bind<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        TokioNetwork.bind(address)
    }

    fn connect<'a>(&'a self, authority: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        self.connected.lock().unwrap().push(authority.to_owned());
        Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
    }

    fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        let mut resolved = self.resolved.lock().unwrap();
        *resolved += 1;
        let address = match *resolved % 2 {
            1 => "8.8.8.8:443",
            _ => "127.0.0.1:443",
        };
        Box::pin(async move { Ok(vec![address.parse().unwrap()]) })
    }
}

#[tokio::test]
async fn the_address_that_was_looked_at_is_connected_to() {
    let network = Arc::new(Flipping::default());
    let (node, _tasks) = start_with(config(), Arc::clone(&network) as _).await.unwrap();
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let stream = TokioNetwork
            .connect(node.forward_address.as_ref().unwrap())
            .await
            .unwrap();
        let mut connection = RawConnection::new(stream);
        let connect = b"CONNECT flips.test:443 HTTP/1.1\r\nHost: flips.test\r\n\r\n";
        connection.send(connect).await.unwrap();
        statuses.push(connection.read_response(false).await.unwrap().status);
    }
    assert_eq!(statuses, [502, 403, 502, 403]);
    assert_eq!(*network.connected.lock().unwrap(), ["8.8.8.8:443", "8.8.8.8:443"]);
}

#[tokio::test]
async fn private_hosts_are_those_that_are_written_down() {
    let lab = Lab::plain(|config, _, running| {
        config.origin.registries.clear();
        config.forward.ports.push(running.addr.port());
    })
    .await;
    assert_eq!(lab.tunnel(&lab.authority()).await.unwrap_err(), 403);
    let allowed = Lab::plain(|config, _, running| {
        config.origin.registries.clear();
        config.forward.ports.push(running.addr.port());
        config.forward.private_hosts = vec![HostPattern("127.0.0.1".into())];
    })
    .await;
    assert!(allowed.tunnel(&allowed.authority()).await.is_ok());
    let metadata = Lab::plain(|config, _, _| {
        config.forward.private_hosts = vec![HostPattern("169.254.169.254".into())];
    })
    .await;
    assert_eq!(metadata.tunnel("169.254.169.254:80").await.unwrap_err(), 403);
}

#[tokio::test]
async fn files_that_cannot_be_used_start_nothing() {
    let lab = Lab::new(intercept).await;
    let files = &lab.files;
    let good = || {
        let mut config = config();
        intercept(&mut config, files, &lab.running);
        config
    };
    let mut open = good();
    open.forward.users_file = Some(files.ca.clone());
    let mut foreign = good();
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    foreign.forward.intercept.ca_key_file = Some(files.secret("other.key", &key));
    let mut swapped = good();
    swapped.forward.intercept.ca_cert_file = Some(files.ca_key.clone());
    let mut leaf = good();
    let (own, key) = expired_authority();
    leaf.forward.intercept.ca_cert_file = Some(files.secret("old.pem", &own));
    leaf.forward.intercept.ca_key_file = Some(files.secret("old.key", &key));
    for (config, expected) in [
        (open, "chmod 600"),
        (foreign, "it is not the key of"),
        (swapped, "no certificate in PEM"),
        (leaf, "it is valid from"),
    ] {
        let problem = match start_with(config, Arc::new(TokioNetwork)).await {
            Err(problem @ StartError::Forward(_)) => problem.to_string(),
            other => panic!("{other:?}"),
        };
        assert!(problem.contains(expected), "{problem}");
        assert!(!problem.contains("PRIVATE KEY"), "{problem}");
    }
    assert!(start_with(good(), Arc::new(TokioNetwork)).await.is_ok());
}

fn expired_authority() -> (String, String) {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[tokio::test]
async fn lists_of_registries_bind_what_is_fetched_and_not_where_clients_go() {
    let lab = Lab::plain(|config, _, running| {
        config.origin.registries.clear();
        config.origin.allowed = vec!["elsewhere.test".parse().unwrap()];
        config.origin.allow_only_configured = true;
        config.forward.ports.push(running.addr.port());
        config.forward.private_hosts = vec![HostPattern("127.0.0.1".into())];
        config.forward.rules = vec![RuleConfig {
            url: "/v2/".into(),
            action: RuleAction::P2p,
            ..RuleConfig::default()
        }];
    })
    .await;
    let digest = lab.origin.add_blob("a", Content::generated(1, 1000));
    let path = format!("/v2/a/blobs/{digest}");
    // The mirror does not fetch from there.
    let mirror = lab.node.mirror_address.parse().unwrap();
    let through = format!("{path}?ns={}", lab.authority());
    let refused = darter_testkit::client::get(mirror, &through, &[]).await.unwrap();
    assert_eq!((refused.status, lab.origin.requests_total()), (403, 0));
    // The client does, through the forward proxy; nothing of it is kept.
    for _ in 0..2 {
        let request = format!(
            "GET http://{}{path} HTTP/1.1\r\nHost: elsewhere\r\n\r\n",
            lab.authority()
        );
        let answer = lab.ask(&request).await;
        assert_eq!((answer.status, answer.body_digest()), (200, digest.clone()));
    }
    assert_eq!(lab.origin.requests_for(&Method::GET, &digest), 2);
    assert!(lab.tunnel(&lab.authority()).await.is_ok());
    lab.end().await;
}
