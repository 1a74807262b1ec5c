//! Where names lead: the address that was checked is the one that is connected to.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;

use darter_service::net::{Address, BoxFuture, Listener, Network, Stream};
use darter_testkit::origin::{Access, Fault, Match, RedirectTo, When};

use super::*;

/// Names of the test's own making, whose addresses change with each look. Connections are real, to one place.
#[derive(Debug, Default)]
struct Names {
    answers: Mutex<BTreeMap<String, VecDeque<SocketAddr>>>,
    connected: Mutex<Vec<String>>,
    /// Where all connections end, whatever address was dialled.
    leads_to: Option<SocketAddr>,
}

impl Names {
    fn leading_to(leads_to: Option<SocketAddr>) -> Arc<Self> {
        Arc::new(Self {
            leads_to,
            ..Self::default()
        })
    }

    fn set(&self, authority: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        self.answers
            .lock()
            .unwrap()
            .insert(authority.to_owned(), addresses);
    }

    fn connected(&self) -> Vec<String> {
        self.connected.lock().unwrap().clone()
    }
}

impl Network for Names {
    fn bind<'a>(&'a self, address: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        TokioNetwork.bind(address)
    }

    fn connect<'a>(&'a self, authority: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(async move {
            self.connected.lock().unwrap().push(authority.to_owned());
            let Some(address) = self.leads_to else {
                return Err(io::ErrorKind::ConnectionRefused.into());
            };
            TokioNetwork.connect(&address.to_string()).await
        })
    }

    fn resolve<'a>(&'a self, authority: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        let mut answers = self.answers.lock().unwrap();
        let address = answers.get_mut(authority).and_then(VecDeque::pop_front);
        Box::pin(async move {
            address
                .map(|address| vec![address])
                .ok_or(io::ErrorKind::NotFound.into())
        })
    }
}

fn client(network: &Arc<Names>, configured: &[&str]) -> Origins {
    let entry = |name: &&str| ((*name).to_owned(), plain());
    let config = RegistriesConfig {
        registries: configured.iter().map(entry).collect(),
        retries: 0,
        ..impatient()
    };
    Origins::new(&config, Arc::clone(network) as Arc<dyn Network>, 1).unwrap()
}

fn thing(registry: &str) -> OriginLocator {
    let digest = format!("sha256:{}", "0".repeat(64));
    locator(registry, ContentKind::Blob, &digest)
}

#[tokio::test]
async fn a_stranger_cannot_send_us_into_our_own_network() {
    let network = Names::leading_to(None);
    let client = client(&network, &[]);
    for address in [
        "127.0.0.1:443",
        "10.1.2.3:443",
        "192.168.0.1:443",
        "169.254.169.254:443",
        "100.100.100.200:443",
        "0.0.0.0:443",
        "[::1]:443",
        "[fe80::1]:443",
        "[fd00:ec2::254]:443",
        "[::ffff:169.254.169.254]:443",
        "[::ffff:127.0.0.1]:443",
        "[64:ff9b::a9fe:a9fe]:443",
    ] {
        network.set("evil.test:443", &[address]);
        let error = client.head(&thing("evil.test"), &ANONYMOUS).await.unwrap_err();
        assert!(
            matches!(error, OriginError::NotAllowed { .. }),
            "{address}: {error:?}"
        );
    }
    for name in [
        "127.0.0.1",
        "2130706433",
        "0x7f.1",
        "[::1]",
        "169.254.169.254",
        "[::ffff:7f00:1]",
    ] {
        let error = client.head(&thing(name), &ANONYMOUS).await.unwrap_err();
        assert!(
            matches!(error, OriginError::NotAllowed { .. }),
            "{name}: {error:?}"
        );
    }
    assert_eq!(network.connected(), Vec::<String>::new());
}

#[tokio::test]
async fn the_address_that_was_checked_is_the_one_that_is_dialled() {
    let network = Names::leading_to(None);
    let client = client(&network, &[]);
    network.set("evil.test:443", &["203.0.113.7:443", "127.0.0.1:443"]);
    let error = client.head(&thing("evil.test"), &ANONYMOUS).await.unwrap_err();
    assert!(matches!(error, OriginError::Unreachable { .. }), "{error:?}");
    assert_eq!(network.connected(), ["203.0.113.7:443"]);
    let error = client.head(&thing("evil.test"), &ANONYMOUS).await.unwrap_err();
    assert!(matches!(error, OriginError::NotAllowed { .. }), "{error:?}");
    assert_eq!(network.connected().len(), 1);
}

/// A registry at a public address, as far as the client can see.
async fn public() -> (Origin, RunningOrigin, Arc<Names>, Origins) {
    let origin = Origin::new();
    let running = origin.spawn_on_loopback().await.unwrap();
    let network = Names::leading_to(Some(running.addr));
    network.set("reg.test:80", &["203.0.113.7:80"; 4]);
    let client = client(&network, &["reg.test"]);
    (origin, running, network, client)
}

#[tokio::test]
async fn a_public_registry_sends_us_nowhere_private() {
    for (name, address) in [
        ("inside.test", "10.0.0.1:80"),
        ("inside.test", "127.0.0.1:80"),
        ("inside.test", "169.254.169.254:80"),
        ("127.0.0.1", ""),
        ("2130706433", ""),
        ("169.254.169.254", ""),
        ("[::ffff:169.254.169.254]", ""),
    ] {
        let (origin, _running, network, client) = public().await;
        if !address.is_empty() {
            network.set("inside.test:80", &[address; 4]);
        }
        let id = origin.inject(
            Match::any(),
            When::Always,
            Fault::Redirect(RedirectTo::Host(format!("http://{name}"))),
        );
        let error = client.head(&thing("reg.test"), &ANONYMOUS).await.unwrap_err();
        assert!(
            matches!(&error, OriginError::NotAllowed { reason, .. } if reason.contains("sent us")),
            "{error:?}"
        );
        assert!(origin.heal(id));
        origin.set_access(REPOSITORY, Access::Bearer { public: true });
        origin.set_realm(&format!("http://{name}/token"));
        let error = client.head(&thing("reg.test"), &ANONYMOUS).await.unwrap_err();
        assert!(matches!(&error, OriginError::NotAllowed { .. }), "{error:?}");
        assert_eq!(origin.requests(&Method::GET, "/token"), 0);
        assert!(
            network
                .connected()
                .iter()
                .all(|address| address == "203.0.113.7:80")
        );
    }
}

#[tokio::test]
async fn a_registry_of_ones_own_network_may_send_us_there_but_not_to_metadata() {
    let bench = Bench::new().await;
    let to = Fault::Redirect(RedirectTo::Host("http://169.254.169.254".to_owned()));
    bench.origin.inject(Match::any(), When::Always, to);
    let error = bench.fails().await;
    assert!(matches!(error, OriginError::NotAllowed { .. }), "{error:?}");
}

#[tokio::test]
async fn only_configured_registries_are_asked_where_that_is_set() {
    let network = Names::leading_to(None);
    let config = RegistriesConfig {
        allow_only_configured: true,
        ..impatient()
    };
    let client = Origins::new(&config, network.clone(), 1).unwrap();
    let error = client.head(&thing("docker.io"), &ANONYMOUS).await.unwrap_err();
    assert!(
        matches!(&error, OriginError::NotAllowed { reason, .. } if reason.contains("allowOnlyConfigured"))
    );
}

#[tokio::test]
async fn denied_ranges_are_never_connected_to_not_even_for_a_registry_with_an_entry() {
    let network = Names::leading_to(None);
    let config = RegistriesConfig {
        registries: [("reg.test".to_owned(), plain())].into(),
        denied_ranges: vec!["10.0.0.0/8".parse().unwrap(), "203.0.113.7".parse().unwrap()],
        retries: 0,
        ..impatient()
    };
    let mut metrics = prometheus_client::registry::Registry::default();
    let counted = darter_origin::Metrics::register(&mut metrics);
    let unlimited = darter_service::limit::Limiter::unlimited();
    let client = Origins::with_metrics(&config, network.clone(), 1, counted, unlimited).unwrap();
    for address in ["10.1.2.3:80", "203.0.113.7:80", "[::ffff:10.1.2.3]:80"] {
        network.set("reg.test:80", &[address]);
        let error = client.head(&thing("reg.test"), &ANONYMOUS).await.unwrap_err();
        assert!(
            matches!(&error, OriginError::NotAllowed { reason, .. } if reason.contains("deniedRanges")),
            "{address}: {error:?}"
        );
    }
    assert_eq!(network.connected(), Vec::<String>::new());
    network.set("reg.test:80", &["192.168.0.1:80"]);
    client.head(&thing("reg.test"), &ANONYMOUS).await.unwrap_err();
    assert_eq!(
        network.connected(),
        ["192.168.0.1:80"],
        "the others are as they were"
    );
    let text = darter_service::metrics::encode(&metrics);
    let line = "origin_requests_total{registry=\"reg.test\",code=\"forbidden\"} 3\n";
    assert!(text.contains(line), "{text}");
}

#[tokio::test]
async fn a_registry_that_is_not_allowed_is_neither_asked_nor_looked_up() {
    let network = Names::leading_to(None);
    let config = RegistriesConfig {
        allowed: vec!["*.corp.test".parse().unwrap()],
        ..impatient()
    };
    let mut metrics = prometheus_client::registry::Registry::default();
    let counted = darter_origin::Metrics::register(&mut metrics);
    let unlimited = darter_service::limit::Limiter::unlimited();
    let client = Origins::with_metrics(&config, network.clone(), 1, counted, unlimited).unwrap();
    network.set("evil.test:443", &["203.0.113.7:443"]);
    let error = client.head(&thing("evil.test"), &ANONYMOUS).await.unwrap_err();
    assert!(
        matches!(&error, OriginError::NotAllowed { reason, .. } if reason.contains("`allowed`")),
        "{error:?}"
    );
    network.set("reg.corp.test:443", &["203.0.113.8:443"; 8]);
    let error = client
        .head(&thing("reg.corp.test"), &ANONYMOUS)
        .await
        .unwrap_err();
    assert!(matches!(error, OriginError::Unreachable { .. }), "{error:?}");
    assert!(
        network
            .connected()
            .iter()
            .all(|address| address == "203.0.113.8:443")
    );
    let text = darter_service::metrics::encode(&metrics);
    let line = "origin_requests_total{registry=\"other\",code=\"notAllowed\"} 1\n";
    assert!(text.contains(line), "{text}");
}
