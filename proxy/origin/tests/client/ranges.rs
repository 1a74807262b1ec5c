//! Parts of a content: exactly those that were asked, or an error.

use darter_testkit::origin::{Fault, Match, When};

use super::*;

async fn part(bench: &Bench, start: u64, end: Option<u64>) -> Result<(u64, u64, Vec<u8>), OriginError> {
    let mut fetch = bench
        .origins
        .fetch(&bench.locator, start, end, &ANONYMOUS)
        .await?;
    assert_eq!(fetch.length, LENGTH);
    let (start, end) = (fetch.range.start, fetch.range.end);
    Ok((start, end, drain(&mut fetch).await.1?))
}

const PARTS: [(u64, Option<u64>); 6] = [
    (0, Some(1)),
    (1, Some(2)),
    (0, Some(LENGTH)),
    (500_000, Some(900_001)),
    (LENGTH - 1, None),
    (1_000_000, None),
];

async fn are_right(bench: &Bench) {
    for (start, end) in PARTS {
        let wanted = start..end.unwrap_or(LENGTH);
        let (first, behind, bytes) = part(bench, start, end).await.unwrap();
        assert_eq!((first, behind), (wanted.start, wanted.end));
        assert!(bytes == blob().read(wanted), "{start} {end:?}");
    }
}

#[tokio::test]
async fn parts_are_exact() {
    let bench = Bench::new().await;
    are_right(&bench).await;
    let sent = PARTS
        .iter()
        .map(|(start, end)| end.unwrap_or(LENGTH) - start)
        .sum::<u64>();
    assert_eq!(bench.origin.bytes_sent(), sent);
    let (_, end, bytes) = part(&bench, LENGTH - 10, Some(LENGTH + 10)).await.unwrap();
    assert_eq!((end, bytes.len()), (LENGTH, 10), "no more than there is");
}

#[tokio::test]
async fn a_registry_that_ignores_ranges_is_borne_near_the_start() {
    let bench = Bench::new().await;
    bench
        .origin
        .inject(Match::any(), When::Always, Fault::IgnoreRange);
    for (start, end) in PARTS {
        let wanted = start..end.unwrap_or(LENGTH);
        match part(&bench, start, end).await {
            Ok((_, _, bytes)) => assert!(start <= 1024 * 1024 && bytes == blob().read(wanted), "{start}"),
            Err(error) => {
                assert!(start > 1024 * 1024);
                is_unusable(&error, "ignores Range");
            }
        }
    }
}

#[tokio::test]
async fn ranges_that_do_not_fit_are_refused() {
    for (value, part_of_reason) in [
        ("bytes 99-199/3000000", "were asked"),
        ("bytes 101-199/3000000", "were asked"),
        ("bytes 100-200/3000000", "were asked"),
        ("bytes 100-198/3000000", "sends 100 bytes"),
        ("bytes 100-199/150", "Content-Range"),
        ("bytes 100-199/*", "Content-Range"),
        ("items 100-199/3000000", "Content-Range"),
        ("bytes 100-199/99999999999999999999", "Content-Range"),
    ] {
        let bench = Bench::new().await;
        let lie = Fault::SetHeader("content-range", value.to_owned());
        bench.origin.inject(Match::any(), When::Always, lie);
        is_unusable(&part(&bench, 100, Some(200)).await.unwrap_err(), part_of_reason);
    }
    let bench = Bench::new().await;
    bench
        .origin
        .inject(Match::any(), When::Always, Fault::DropHeader("content-range"));
    is_unusable(&part(&bench, 100, Some(200)).await.unwrap_err(), "Content-Range");
}

#[tokio::test]
async fn behind_the_end_there_is_nothing() {
    let bench = Bench::new().await;
    let error = part(&bench, LENGTH, None).await.unwrap_err();
    assert_eq!(status(&error), 416);
    is_unusable(&part(&bench, 5, Some(5)).await.unwrap_err(), "no byte");
    is_unusable(&part(&bench, 5, Some(4)).await.unwrap_err(), "no byte");
}
