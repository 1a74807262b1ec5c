//! Requests that two readers could take for different ones: the forward proxy passes on one request at most, and
//! nothing of what hides behind it.

use darter_testkit::client::{End, RawConnection};
use darter_testkit::smuggling::{CORPUS, HIDDEN};

use super::lab::Lab;

#[tokio::test]
async fn nothing_that_hides_behind_a_request_is_asked() {
    let lab = Lab::plain(|_, _, _| {}).await;
    let authority = lab.authority();
    for case in CORPUS {
        lab.origin.reset_counters();
        let target = format!("http://{authority}/v2/");
        let hidden = format!("http://{authority}{HIDDEN}");
        let text = case.text("POST", &target, &authority, &hidden);
        let (answer, end) = case.send(lab.dial().await, &text).await;
        assert!(
            !answer.contains("HTTP/1.1"),
            "{}: two answers: {answer}",
            case.name
        );
        let log = lab.origin.log();
        assert!(log.len() <= 1, "{}: {log:?}", case.name);
        assert!(
            log.iter().all(|seen| seen.path != HIDDEN),
            "{}: {log:?}",
            case.name
        );
        if case.refused {
            assert!(answer.starts_with('4'), "{}: {answer}", case.name);
            assert_eq!(end, End::Fin, "{}", case.name);
            assert!(log.is_empty(), "{}: {log:?}", case.name);
        }
    }
}

#[tokio::test]
async fn two_requests_on_one_connection_are_two_requests() {
    let lab = Lab::plain(|_, _, _| {}).await;
    let authority = lab.authority();
    let one = format!("GET http://{authority}/v2/ HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    let mut connection = RawConnection::new(lab.dial().await);
    connection.send(one.repeat(2).as_bytes()).await.unwrap();
    for _ in 0..2 {
        assert_eq!(connection.read_response(false).await.unwrap().status, 200);
    }
    assert_eq!(lab.origin.requests_total(), 2);
}
