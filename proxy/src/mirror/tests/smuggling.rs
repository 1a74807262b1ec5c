//! Requests that two readers could take for different ones: the mirror answers one at most, and never what hides in it.

use darter_service::net::{Network as _, TokioNetwork};
use darter_testkit::client::{End, RawConnection};
use darter_testkit::smuggling::{CORPUS, HIDDEN};

use super::lab::Lab;

#[tokio::test]
async fn nothing_that_hides_behind_a_request_is_asked() {
    let lab = Lab::new().await;
    let hidden = lab.target(HIDDEN);
    for case in CORPUS {
        lab.origin.reset_counters();
        let text = case.text("GET", "/v2/", &lab.running.host(), &hidden);
        let stream = TokioNetwork.connect(&lab.mirror.to_string()).await.unwrap();
        let (answer, end) = case.send(stream, &text).await;
        assert!(
            !answer.contains("HTTP/1.1"),
            "{}: two answers: {answer}",
            case.name
        );
        // No request of this method has a transfer coding.
        let coded = text.contains("Transfer-Encoding: ") && !text.starts_with("PRI");
        if case.refused_finally || coded {
            assert!(answer.starts_with('4'), "{}: {answer}", case.name);
            assert_eq!(end, End::Fin, "{}", case.name);
        }
        assert_eq!(
            lab.origin.requests_total(),
            0,
            "{}: {:?}",
            case.name,
            lab.origin.log()
        );
    }
}

#[tokio::test]
async fn a_body_that_nobody_wants_ends_the_connection_and_pipelined_requests_do_not() {
    let lab = Lab::new().await;
    let target = lab.target("/v2/a/tags/list");
    lab.origin.add_blob("a", "x");
    let one = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut connection = RawConnection::connect(lab.mirror).await.unwrap();
    connection.send(one.repeat(3).as_bytes()).await.unwrap();
    for _ in 0..3 {
        assert_eq!(connection.read_response(false).await.unwrap().status, 200);
    }
    assert_eq!(lab.origin.requests_total(), 3);
    let wordy = format!("GET {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello{one}");
    connection.send(wordy.as_bytes()).await.unwrap();
    let answer = connection.read_response(false).await.unwrap();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    assert_eq!(connection.read_to_end().await.unwrap().1, End::Fin);
    assert_eq!(lab.origin.requests_total(), 4);
}
