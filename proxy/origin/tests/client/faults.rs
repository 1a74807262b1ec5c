//! Each fault of a registry is the right error, and costs as many requests as it should.

use darter_testkit::origin::{CutBy, Fault, Match, When};

use super::*;

async fn with(when: When, fault: Fault) -> Bench {
    let bench = Bench::new().await;
    bench.origin.inject(Match::digest(&bench.digest), when, fault);
    bench
}

#[tokio::test]
async fn refusals_are_told_as_they_are_and_not_repeated() {
    for (code, credential, absent) in [
        (401, true, false),
        (403, true, false),
        (404, false, true),
        (400, false, false),
        (451, false, false),
    ] {
        let bench = with(When::Always, Fault::status(code)).await;
        let error = bench.fails().await;
        assert_eq!(
            (status(&error), error.is_credential(), error.is_absent()),
            (code, credential, absent)
        );
        assert!(!error.may_retry());
        assert!(matches!(&error, OriginError::Status { body, .. } if body.starts_with(b"{\"errors\"")));
        assert_eq!(bench.gets(), 1, "{code}");
    }
}

#[tokio::test]
async fn passing_errors_are_repeated_a_bounded_number_of_times() {
    for code in [408, 500, 502, 503, 504] {
        let bench = with(When::First(2), Fault::status(code)).await;
        right(&bench.read().await.unwrap());
        assert_eq!(bench.gets(), 3, "{code}");
        let bench = with(When::Always, Fault::status(code)).await;
        let error = bench.fails().await;
        assert_eq!((status(&error), error.may_retry()), (code, true));
        assert_eq!(bench.gets(), 4, "{code}");
    }
}

#[tokio::test]
async fn no_retries_where_none_are_configured() {
    let config = RegistriesConfig {
        retries: 0,
        ..impatient()
    };
    let bench = Bench::with(plain(), config).await;
    bench
        .origin
        .inject(Match::any(), When::Always, Fault::status(500));
    assert_eq!((status(&bench.fails().await), bench.gets()), (500, 1));
}

#[tokio::test]
async fn a_connection_that_ends_before_the_answer_is_tried_again() {
    for by in [CutBy::Fin, CutBy::Rst] {
        let bench = with(When::First(3), Fault::HangUp(by)).await;
        right(&bench.read().await.unwrap());
        let bench = with(When::Always, Fault::HangUp(by)).await;
        let error = bench.fails().await;
        assert!(matches!(error, OriginError::Unreachable { .. }), "{error:?}");
        assert!(error.may_retry());
        assert_eq!(bench.gets(), 4);
    }
}

#[tokio::test]
async fn silence_is_found_out_before_and_in_the_body() {
    let bench = with(When::Always, Fault::Silence).await;
    assert!(matches!(bench.fails().await, OriginError::Silent { .. }));
    assert_eq!(bench.gets(), 1, "who is silent once is not waited for again");
    let bench = with(When::Always, Fault::Stall { at: 100_000 }).await;
    let (got, end) = drain(&mut bench.fetch().await.unwrap()).await;
    assert_eq!(got, 100_000);
    assert!(matches!(end, Err(OriginError::Silent { .. })), "{end:?}");
}

#[tokio::test]
async fn slowness_is_no_silence() {
    let bench = with(When::Always, Fault::Delay(Duration::from_millis(50))).await;
    let digest = bench.origin.add_blob(REPOSITORY, Content::generated(3, 20_000));
    let drip = Fault::Drip {
        bytes_per_second: 40_000,
    };
    bench.origin.inject(Match::digest(&digest), When::Always, drip);
    let locator = locator(bench.registry().as_str(), ContentKind::Blob, &digest);
    let mut fetch = bench.origins.fetch(&locator, 0, None, &ANONYMOUS).await.unwrap();
    assert_eq!(drain(&mut fetch).await.1.unwrap().len(), 20_000);
    right(&bench.read().await.unwrap());
}

#[tokio::test]
async fn a_cut_tells_how_much_came_and_is_not_repeated() {
    for at in [1, 70_000, LENGTH - 1] {
        let bench = with(When::Always, Fault::Cut { at, by: CutBy::Fin }).await;
        let (got, end) = drain(&mut bench.fetch().await.unwrap()).await;
        assert_eq!(got as u64, at);
        assert!(
            matches!(&end, Err(OriginError::Cut { received, .. }) if *received == at),
            "{end:?}"
        );
        assert!(end.unwrap_err().may_retry());
        assert_eq!(bench.gets(), 1);
    }
    let cut = Fault::Cut {
        at: 70_000,
        by: CutBy::Rst,
    };
    let bench = with(When::Always, cut).await;
    let (got, end) = drain(&mut bench.fetch().await.unwrap()).await;
    assert!(
        got <= 70_000 && matches!(end, Err(OriginError::Cut { .. })),
        "{end:?}"
    );
}

#[tokio::test]
async fn other_lengths_are_told_as_the_registry_tells_them() {
    for (fault, length) in [
        (Fault::ShortBy(5), LENGTH - 5),
        (Fault::LongBy(5), LENGTH + 5),
        (Fault::NoBytes, 0),
    ] {
        let bench = with(When::Always, fault).await;
        let mut fetch = bench.fetch().await.unwrap();
        assert_eq!(fetch.length, length);
        assert_eq!(drain(&mut fetch).await.1.unwrap().len() as u64, length);
    }
    let bench = with(When::Always, Fault::HeadLength(9)).await;
    let head = bench.origins.head(&bench.locator, &ANONYMOUS).await.unwrap();
    assert_eq!(head.length, Some(9));
}

#[tokio::test]
async fn answers_that_cannot_be_used() {
    let raw = |text: &'static str| Fault::Raw(bytes::Bytes::from_static(text.as_bytes()));
    for (fault, part) in [
        (
            Fault::SetHeader("content-encoding", "gzip".to_owned()),
            "Content-Encoding",
        ),
        (Fault::status(204), "204"),
        (raw("SSH-2.0-OpenSSH_9.2\r\n\r\n"), "HTTP/1.1"),
        (
            raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
            "HTTP/1.1",
        ),
        (
            raw("HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello"),
            "HTTP/1.1",
        ),
        (
            raw("HTTP/1.1 307 Elsewhere\r\nContent-Length: 0\r\n\r\n"),
            "where to",
        ),
    ] {
        let bench = with(When::Always, fault).await;
        is_unusable(&bench.fails().await, part);
        assert_eq!(bench.gets(), 1, "{part}");
    }
}

#[tokio::test]
async fn an_endless_head_is_not_read_for_ever() {
    let raw = format!("HTTP/1.1 200 OK\r\nX-Long: {}", "x".repeat(2 * 1024 * 1024));
    let bench = with(When::Always, Fault::Raw(raw.into())).await;
    is_unusable(&bench.fails().await, "HTTP/1.1");
}

#[tokio::test]
async fn a_registry_that_nobody_answers_for_is_unreachable() {
    let bench = Bench::new().await;
    bench.running.stop().await;
    let error = bench.origins.head(&bench.locator, &ANONYMOUS).await.unwrap_err();
    assert!(matches!(error, OriginError::Unreachable { .. }), "{error:?}");
    assert!(error.may_retry() && error.status().is_none());
}
