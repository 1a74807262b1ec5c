//! Large blobs over several connections: what comes, in how many requests, and what nobody has to wait for.
//!
//! On simulated time, so that a registry which slows each connection down does so in every run alike.

use std::rc::Rc;

use darter_origin::{LargeBlobsConfig, Metrics, Reading};
use darter_service::config::ByteSize;
use darter_testkit::origin::{CutBy, Fault, FaultId, Match, When};
use tokio::time::Instant;

use super::simulated::Simulated;
use super::*;

const SEGMENT: u64 = 256 * 1024;
/// How fast one connection is where it is slow; the blob takes 7.5 s over one.
const SLOW: Fault = Fault::Drip {
    bytes_per_second: 400_000,
};

/// A registry with one blob, which a client reads on simulated sockets.
struct Lab {
    origin: Origin,
    digest: String,
    large: LargeBlobsConfig,
    connections_max: usize,
}

/// The client's side.
#[derive(Clone)]
struct Node {
    origins: Origins,
    locator: OriginLocator,
    metrics: Metrics,
}

impl Lab {
    fn new() -> Self {
        let origin = Origin::new();
        let digest = origin.add_blob(REPOSITORY, blob());
        let large = LargeBlobsConfig {
            connections_per_blob: 4,
            length_min: ByteSize::mib(1),
            segment_length: ByteSize::bytes(SEGMENT),
            read_ahead_max: ByteSize::mib(64),
        };
        Self {
            origin,
            digest,
            large,
            connections_max: 20,
        }
    }

    fn slow() -> Self {
        let lab = Self::new();
        lab.inject(When::Always, SLOW);
        lab
    }

    fn inject(&self, when: When, fault: Fault) -> FaultId {
        let what = Match::digest(&self.digest).get();
        self.origin.inject(what, when, fault)
    }

    /// Lets a client work until it is done; how long that took.
    fn run<F: Future<Output = ()> + 'static>(&self, work: impl FnOnce(Node) -> F + 'static) -> Duration {
        let mut sim = turmoil::Builder::new()
            .rng_seed(1)
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(2))
            .tcp_capacity(4096)
            .simulation_duration(Duration::from_secs(300))
            .build();
        let origin = self.origin.clone();
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
        let entry = RegistryConfig {
            connections_max: Some(self.connections_max),
            ..plain()
        };
        let config = RegistriesConfig {
            registries: [("registry".to_owned(), entry)].into(),
            allow_only_configured: true,
            large_blobs: self.large.clone(),
            ..RegistriesConfig::default()
        };
        let locator = locator("registry", ContentKind::Blob, &self.digest);
        let took = Rc::new(std::cell::Cell::new(Duration::ZERO));
        let told = Rc::clone(&took);
        sim.client("node", async move {
            let metrics = Metrics::default();
            let origins = Origins::with_metrics(
                &config,
                Arc::new(Simulated),
                1,
                metrics.clone(),
                darter_service::limit::Limiter::unlimited(),
            )?;
            let started = Instant::now();
            work(Node {
                origins,
                locator,
                metrics,
            })
            .await;
            told.set(started.elapsed());
            Ok(())
        });
        sim.run().unwrap();
        took.get()
    }

    fn gets(&self) -> u64 {
        self.origin.requests_for(&Method::GET, &self.digest)
    }

    fn sent(&self) -> u64 {
        self.origin.bytes_sent_for(&self.digest)
    }
}

impl Node {
    fn reading(&self) -> Reading {
        self.origins.read(&self.locator, 0, None, Some(LENGTH))
    }

    /// The whole blob, asking again after failures as often as need be.
    async fn read(self) {
        self.finish(self.reading()).await;
    }

    /// The same where nobody told how long it is.
    async fn read_untold(self) {
        self.finish(self.origins.read(&self.locator, 0, None, None)).await;
    }

    async fn finish(&self, mut reading: Reading) {
        let (mut all, mut failures) = (Vec::new(), 0);
        while all.len() as u64 != LENGTH {
            match reading.next(&ANONYMOUS).await {
                Ok(Some(bytes)) => all.extend_from_slice(&bytes),
                Ok(None) => break,
                Err(error) => {
                    failures += 1;
                    assert!(error.may_retry() && failures < 100, "{error:?}");
                }
            }
            assert_eq!(reading.offset(), all.len() as u64);
        }
        right(&all);
    }

    fn ahead_bytes(&self) -> u64 {
        u64::try_from(self.metrics.ahead_bytes()).unwrap()
    }
}

#[test]
fn slow_connections_are_used_side_by_side_and_each_byte_comes_once() {
    let lab = Lab::slow();
    let took = lab.run(Node::read);
    assert_eq!(lab.origin.concurrent_max(), 4);
    assert_eq!((lab.gets(), lab.sent()), (LENGTH.div_ceil(SEGMENT), LENGTH));
    assert!(lab.origin.connections() <= 4, "connections are used again");
    assert!(took < Duration::from_secs(4), "{took:?} of simulated time");
}

#[test]
fn one_connection_where_one_is_configured_or_little_is_left() {
    let mut lab = Lab::slow();
    lab.large.connections_per_blob = 1;
    let took = lab.run(Node::read);
    assert_eq!((lab.gets(), lab.sent()), (1, LENGTH));
    assert!(took > Duration::from_secs(7), "{took:?}: the registry is slow");
    let mut lab = Lab::slow();
    lab.large.length_min = ByteSize::bytes(LENGTH + 1);
    lab.run(Node::read);
    assert_eq!((lab.gets(), lab.sent()), (1, LENGTH));
}

#[test]
fn the_first_answer_tells_the_length_where_nobody_does() {
    let lab = Lab::slow();
    lab.run(Node::read_untold);
    assert_eq!((lab.origin.concurrent_max(), lab.sent()), (4, LENGTH));
    let first = ByteSize::mib(1).as_u64() / 2;
    assert_eq!(lab.gets(), 1 + (LENGTH - first).div_ceil(SEGMENT));
    let lab = Lab::slow();
    lab.inject(When::Always, Fault::IgnoreRange);
    lab.run(Node::read_untold);
    assert_eq!((lab.gets(), lab.sent()), (1, LENGTH));
    let mut lab = Lab::slow();
    lab.large.length_min = ByteSize::bytes(2 * LENGTH);
    lab.run(Node::read_untold);
    assert_eq!((lab.gets(), lab.sent()), (1, LENGTH), "what is small comes whole");
    // And where the first answer has the better part of it.
    let mut lab = Lab::slow();
    lab.large.length_min = ByteSize::bytes(LENGTH + 1);
    lab.run(Node::read_untold);
    assert_eq!((lab.gets(), lab.sent()), (2, LENGTH));
}

#[test]
fn an_empty_blob_of_unknown_length_is_empty() {
    let mut lab = Lab::new();
    lab.digest = lab.origin.add_blob(REPOSITORY, Vec::new());
    lab.run(|node| async move {
        let mut reading = node.origins.read(&node.locator, 0, None, None);
        assert_eq!(reading.open(&ANONYMOUS).await.unwrap(), 0);
        assert_eq!(reading.next(&ANONYMOUS).await.unwrap(), None);
    });
}

#[test]
fn the_first_segment_flows_alone() {
    let lab = Lab::slow();
    let origin = lab.origin.clone();
    lab.run(|node| async move {
        let mut reading = node.reading();
        let mut came = 0;
        while came < SEGMENT {
            came += reading.next(&ANONYMOUS).await.unwrap().unwrap().len() as u64;
            assert_eq!((origin.requests_total(), origin.connections()), (1, 1));
        }
        assert_eq!(came, SEGMENT);
    });
}

#[test]
fn cuts_in_all_segments_are_resumed_where_they_were() {
    for (by, every) in [(CutBy::Fin, 1), (CutBy::Fin, 3), (CutBy::Rst, 2)] {
        let lab = Lab::slow();
        let cut = lab.inject(When::Every(every), Fault::Cut { at: 99_999, by });
        lab.run(Node::read);
        assert!(lab.origin.fired(cut) > 3);
        assert_eq!(lab.sent(), LENGTH, "{by:?} {every}: a byte came twice");
    }
}

#[test]
fn a_registry_that_ignores_ranges_just_goes_on() {
    let lab = Lab::slow();
    lab.inject(When::Always, Fault::IgnoreRange);
    lab.run(Node::read);
    assert_eq!((lab.gets(), lab.sent()), (1, LENGTH));
}

#[test]
fn a_registry_that_begins_to_ignore_ranges_is_read_once_more_from_the_start() {
    let lab = Lab::slow();
    lab.inject(When::After(7), Fault::IgnoreRange);
    lab.run(Node::read);
    let sent = lab.sent();
    assert!(sent < 3 * LENGTH, "{sent} bytes");
}

#[test]
fn memory_for_what_comes_ahead_is_bounded_over_all_blobs() {
    let mut lab = Lab::slow();
    lab.large.read_ahead_max = ByteSize::bytes(2 * SEGMENT + 1);
    lab.run(|node| async move {
        let watch = async {
            let mut most = 0;
            loop {
                most = most.max(node.ahead_bytes());
                if most > 0 && node.ahead_bytes() == 0 {
                    return most;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let (most, ..) = tokio::join!(watch, node.clone().read(), node.clone().read());
        assert_eq!(most, 2 * SEGMENT);
        assert_eq!(node.ahead_bytes(), 0, "all of it is given back");
    });
    assert_eq!(lab.origin.concurrent_max(), 4, "two that are read, two ahead");
    assert_eq!(lab.sent(), 2 * LENGTH);
}

#[test]
fn what_runs_ahead_leaves_connections_to_those_who_wait() {
    let mut lab = Lab::slow();
    lab.connections_max = 8;
    lab.run(|node| async move {
        // Of the eight six are for blobs, and three of them may run ahead.
        let several = async { tokio::join!(node.clone().read(), node.clone().read()) };
        let others = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let started = Instant::now();
            let fetch = node.origins.fetch(&node.locator, 0, Some(10), &ANONYMOUS);
            assert_eq!(drain(&mut fetch.await.unwrap()).await.0, 10);
            started.elapsed()
        };
        let (_, waited) = tokio::join!(several, others);
        assert!(waited < Duration::from_millis(100), "{waited:?}");
    });
    assert_eq!(lab.origin.concurrent_max(), 6);
}

#[test]
fn a_registry_that_wants_fewer_requests_gets_fewer() {
    for fault in [Fault::too_many_requests(1), Fault::status(503)] {
        let lab = Lab::slow();
        let refused = lab.inject(When::Nth(3), fault);
        lab.run(Node::read);
        assert_eq!(lab.origin.fired(refused), 1);
        assert_eq!(lab.sent(), LENGTH);
        assert!(lab.gets() < 8, "{} requests", lab.gets());
    }
}

#[test]
fn another_length_in_the_middle_is_told_and_none_of_its_bytes_taken() {
    let lab = Lab::slow();
    let other = Fault::Replace {
        content: Content::generated(99, LENGTH + 5),
        etag: "\"other\"".to_owned(),
    };
    lab.inject(When::After(4), other);
    lab.run(|node| async move {
        let (mut reading, mut all) = (node.reading(), Vec::new());
        let error = loop {
            match reading.next(&ANONYMOUS).await {
                Ok(bytes) => all.extend_from_slice(&bytes.unwrap()),
                Err(error) => break error,
            }
        };
        is_unusable(&error, "of a content that had");
        assert!(blob().read(0..all.len() as u64) == all);
        assert_eq!(reading.open(&ANONYMOUS).await.unwrap(), LENGTH + 5);
    });
}

#[test]
fn another_entity_tag_is_never_taken_in_the_middle() {
    for times in [1, 3, 4] {
        let lab = Lab::slow();
        lab.inject(
            When::Nth(2),
            Fault::Cut {
                at: 1000,
                by: CutBy::Fin,
            },
        );
        // Of the bytes that are asked for after the cut.
        let other = Fault::SetHeader("etag", format!("\"other {times}\""));
        for nth in 0..times {
            lab.inject(When::Nth(6 + nth), other.clone());
        }
        lab.run(move |node| async move {
            let (mut reading, mut all, mut refused) = (node.reading(), Vec::new(), 0);
            let changed = loop {
                match reading.next(&ANONYMOUS).await {
                    Ok(Some(bytes)) => all.extend_from_slice(&bytes),
                    Ok(None) => break false,
                    Err(OriginError::Cut { .. }) => {}
                    Err(OriginError::Changed { .. }) => break true,
                    Err(error) => {
                        is_unusable(&error, "entity tag");
                        refused += 1;
                    }
                }
            };
            assert_eq!(all, blob().read(0..all.len() as u64), "never a byte of the other");
            assert_eq!((changed, refused), (times == 4, times.min(3)));
            if !changed {
                right(&all);
            }
        });
    }
}
