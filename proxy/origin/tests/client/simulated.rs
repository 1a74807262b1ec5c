//! On simulated sockets and time: the default patience, black holes, and the same run from the same seed.

use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;

use darter_service::net::{Address, BoxFuture, Listener, Network, Stream};
use darter_testkit::origin::{CutBy, Fault, Match, RedirectTo, When};
use tokio::time::Instant;

use super::*;

/// The sockets of the simulation.
#[derive(Debug)]
pub(super) struct Simulated;

impl Network for Simulated {
    fn bind<'a>(&'a self, _: &'a Address) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }

    fn connect<'a>(&'a self, authority: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(async move {
            let stream = turmoil::net::TcpStream::connect(authority).await?;
            Ok(Stream::Other(Box::new(stream)))
        })
    }

    fn resolve<'a>(&'a self, authority: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        let (host, port) = authority.rsplit_once(':').unwrap();
        let address = SocketAddr::new(turmoil::lookup(host), port.parse().unwrap());
        Box::pin(async move { Ok(vec![address]) })
    }
}

/// How one read ended, and after which simulated time.
type Outcome = (Duration, Result<usize, String>);

/// Reads a blob a few times from a registry with this fault, with default patience.
fn simulate(seed: u64, reads: usize, cut_off: bool, when: When, fault: Fault) -> Vec<Outcome> {
    let origin = Origin::new();
    origin.inject(Match::any(), when, fault);
    simulate_with(&origin, seed, reads, cut_off)
}

/// The same from a registry that misbehaves already.
fn simulate_with(origin: &Origin, seed: u64, reads: usize, cut_off: bool) -> Vec<Outcome> {
    let digest = origin.add_blob(REPOSITORY, blob());
    let origin = origin.clone();
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .tcp_capacity(1024)
        .simulation_duration(Duration::from_secs(300))
        .build();
    sim.host("registry", move || {
        let origin = origin.clone();
        async move {
            let listener = turmoil::net::TcpListener::bind(("0.0.0.0", 80)).await?;
            loop {
                let (stream, _) = listener.accept().await?;
                let origin = origin.clone();
                #[expect(clippy::disallowed_methods, reason = "the simulated server is the test's own")]
                tokio::spawn(async move { origin.serve_connection(stream).await });
            }
        }
    });
    let outcomes = Arc::new(Mutex::new(Vec::new()));
    let out = Arc::clone(&outcomes);
    sim.client("node", async move {
        let config = RegistriesConfig {
            registries: [("registry".to_owned(), plain())].into(),
            allow_only_configured: true,
            ..RegistriesConfig::default()
        };
        let client = Origins::new(&config, Arc::new(Simulated), seed)?;
        let locator = locator("registry", ContentKind::Blob, &digest);
        if cut_off {
            turmoil::hold("node", "registry");
        }
        for _ in 0..reads {
            let started = Instant::now();
            let read = async {
                let mut fetch = client.fetch(&locator, 0, None, &ANONYMOUS).await?;
                drain(&mut fetch).await.1
            };
            let outcome = read
                .await
                .map(|bytes| bytes.len())
                .map_err(|error| format!("{error:?}"));
            out.lock().unwrap().push((started.elapsed(), outcome));
        }
        Ok(())
    });
    sim.run().unwrap();
    std::mem::take(&mut *outcomes.lock().unwrap())
}

#[test]
fn one_seed_is_one_run() {
    let run = |seed| simulate(seed, 4, false, When::Every(2), Fault::HangUp(CutBy::Fin));
    let first = run(3);
    assert!(
        first.iter().all(|(_, outcome)| *outcome == Ok(3_000_000)),
        "{first:?}"
    );
    assert_eq!(first, run(3));
    assert_ne!(first, run(4), "the pauses are random");
}

#[test]
fn a_registry_that_is_silent_is_given_up_after_the_configured_time() {
    let ended = |fault| simulate(1, 1, false, When::Always, fault).remove(0);
    let (elapsed, outcome) = ended(Fault::Silence);
    assert!(outcome.unwrap_err().starts_with("Silent"));
    assert_eq!(elapsed.as_secs(), 30);
    let (elapsed, outcome) = ended(Fault::Stall { at: 1000 });
    assert!(outcome.unwrap_err().starts_with("Silent"));
    assert_eq!(elapsed.as_secs(), 4);
}

#[test]
fn redirects_without_an_end_are_given_up_within_a_second_and_six_requests() {
    let path = format!("/v2/{REPOSITORY}/blobs/{}", blob().digest());
    let hop = |from: String, to: String| (Match::path(&from), RedirectTo::Exactly(to));
    let circle = vec![(Match::any(), RedirectTo::Loop)];
    let two = vec![
        hop(path.clone(), "/other".to_owned()),
        hop("/other".to_owned(), path.clone()),
    ];
    let mut long = vec![hop(path.clone(), "/hop/1".to_owned())];
    long.extend((1..20).map(|at| hop(format!("/hop/{at}"), format!("/hop/{}", at + 1))));
    // Another scheme, host or port each time is a circle none the less.
    let spelled = vec![
        hop(path.clone(), "http://registry:80/x".to_owned()),
        hop("/x".to_owned(), "//registry/y".to_owned()),
        hop("/y".to_owned(), format!("http://registry{path}")),
    ];
    let secure = vec![(
        Match::any(),
        RedirectTo::Exactly(format!("https://registry:80{path}")),
    )];
    for (what, hops) in [
        ("to itself", circle),
        ("of two", two),
        ("of twenty", long),
        ("in many spellings", spelled),
        ("to a scheme that is not spoken there", secure),
    ] {
        let origin = Origin::new();
        for (from, to) in hops {
            origin.inject(from, When::Always, Fault::Redirect(to));
        }
        let (elapsed, outcome) = simulate_with(&origin, 1, 1, false).remove(0);
        assert!(outcome.is_err(), "{what}");
        assert!(elapsed <= Duration::from_secs(1), "{what}: {elapsed:?}");
        let asked = origin.requests_total();
        assert!(asked <= 6, "{what}: {asked} requests");
    }
}

#[test]
fn a_black_hole_is_given_up_after_the_connect_timeout() {
    let (elapsed, outcome) = simulate(1, 1, true, When::Always, Fault::Silence).remove(0);
    assert!(outcome.unwrap_err().starts_with("Unreachable"));
    assert_eq!(elapsed.as_secs(), 5);
}

#[test]
fn a_pause_is_kept_to_the_second() {
    let limited = Fault::too_many_requests(30);
    let outcomes = simulate(1, 2, false, When::First(1), limited);
    assert!(
        outcomes
            .iter()
            .all(|(_, outcome)| matches!(outcome, Err(error) if error.starts_with("RateLimited")))
    );
    let limited = Fault::too_many_requests(4);
    let (elapsed, outcome) = simulate(1, 1, false, When::First(1), limited).remove(0);
    assert_eq!((elapsed.as_secs(), outcome), (4, Ok(3_000_000)));
}
