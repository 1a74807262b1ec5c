//! How many requests run, on how many connections, and when none does.

use darter_testkit::origin::{CutBy, Fault, Match, When};
use futures_util::future::join_all;

use super::*;

#[tokio::test]
async fn one_connection_serves_one_request_after_another() {
    let bench = Bench::new().await;
    for _ in 0..5 {
        bench.origins.head(&bench.locator, &ANONYMOUS).await.unwrap();
        right(&bench.read().await.unwrap());
    }
    assert_eq!(
        (bench.origin.requests_total(), bench.origin.connections()),
        (10, 1)
    );
}

#[tokio::test]
async fn whoever_stops_reading_ends_the_connection() {
    let bench = Bench::new().await;
    let mut fetch = bench.fetch().await.unwrap();
    assert!(fetch.next().await.unwrap().is_some());
    drop(fetch);
    right(&bench.read().await.unwrap());
    assert_eq!(bench.origin.connections(), 2);
}

#[tokio::test]
async fn an_idle_connection_that_was_closed_costs_no_retry() {
    let config = RegistriesConfig {
        retries: 0,
        ..impatient()
    };
    let bench = Bench::with(plain(), config).await;
    for by in [CutBy::Fin, CutBy::Rst] {
        bench.origins.head(&bench.locator, &ANONYMOUS).await.unwrap();
        bench
            .origin
            .inject(Match::any().get(), When::First(1), Fault::HangUp(by));
        right(&bench.read().await.unwrap());
        bench.origin.heal_all();
    }
}

#[tokio::test]
async fn no_more_requests_run_than_are_allowed_and_blobs_leave_room() {
    let entry = RegistryConfig {
        connections_max: Some(4),
        ..plain()
    };
    let bench = Bench::with(entry, RegistriesConfig::default()).await;
    let slow = Fault::Delay(Duration::from_millis(30));
    bench.origin.inject(Match::any(), When::Always, slow);
    let blobs = join_all((0..12).map(|_| bench.read()));
    let heads = join_all((0..12).map(|_| bench.origins.head(&bench.locator, &ANONYMOUS)));
    let (blobs, heads) = tokio::join!(blobs, heads);
    blobs.into_iter().for_each(|bytes| right(&bytes.unwrap()));
    assert!(heads.iter().all(Result::is_ok));
    assert_eq!(bench.origin.concurrent_max(), 4);

    bench.origin.heal_all();
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(bench.fetch().await.unwrap());
    }
    let fourth = tokio::time::timeout(Duration::from_millis(200), bench.fetch()).await;
    assert!(fourth.is_err(), "a fourth blob waits");
    bench.origins.head(&bench.locator, &ANONYMOUS).await.unwrap();
    open.pop();
    right(&bench.read().await.unwrap());
}

#[tokio::test]
async fn a_short_pause_is_waited_for_by_all() {
    for code in [429, 503] {
        let bench = Bench::new().await;
        let limited = Fault::Status {
            code,
            retry_after: Some(1),
        };
        bench.origin.inject(Match::any(), When::First(1), limited);
        let first = bench.read();
        let second = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            bench.read().await
        };
        let (first, second) = tokio::join!(first, second);
        right(&first.unwrap());
        right(&second.unwrap());
        assert_eq!(bench.gets(), 3);
    }
}

#[tokio::test]
async fn a_long_pause_is_told_and_nobody_asks_meanwhile() {
    let bench = Bench::new().await;
    bench
        .origin
        .inject(Match::any(), When::First(1), Fault::too_many_requests(3600));
    for _ in 0..3 {
        let error = bench.fails().await;
        let OriginError::RateLimited { retry_after, .. } = &error else {
            panic!("{error:?}")
        };
        assert!((5..=60).contains(&retry_after.as_secs()), "{retry_after:?}");
        assert!(error.may_retry());
    }
    assert_eq!(bench.origin.requests_total(), 1);
}
