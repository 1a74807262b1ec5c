//! Each path of the admin port.

use super::*;
use crate::log::{LogConfig, Setup};

fn parts() -> (Parts, impl tracing::Subscriber) {
    let config = LogConfig::default();
    let (subscriber, log) = Setup {
        config: &config,
        flag: None,
        env: None,
        traces: None,
    }
    .subscriber(std::io::sink, false)
    .unwrap();
    let mut registry = Registry::default();
    crate::build_info::register(&mut registry);
    let parts = Parts {
        readiness: Readiness::new(),
        registry,
        config_text: "upload:\n  rateLimit: 1MiB\n".into(),
        log,
        tasks: Tasks::new(),
        routes: BTreeMap::new(),
    };
    (parts, subscriber)
}

async fn ask(admin: &Admin, method: Method, path: &str, body: &str) -> (StatusCode, String) {
    let request = Request::builder().method(method).uri(path);
    let answer = admin
        .answer(request.body(Full::new(Bytes::from(body.to_owned()))).unwrap())
        .await;
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn get(admin: &Admin, path: &str) -> (StatusCode, String) {
    ask(admin, Method::GET, path, "").await
}

#[tokio::test]
async fn readiness_lists_what_is_unmet() {
    let (parts, _subscriber) = parts();
    let latch = parts.readiness.latch("store recovered");
    let admin = Admin::new(parts);
    assert_eq!(get(&admin, "/livez").await.0, StatusCode::OK);
    let unmet = (
        StatusCode::SERVICE_UNAVAILABLE,
        "waits for: store recovered\n".to_owned(),
    );
    assert_eq!(get(&admin, "/readyz").await, unmet);
    latch.release();
    assert_eq!(get(&admin, "/readyz").await, (StatusCode::OK, "ready\n".into()));
}

#[tokio::test]
async fn metrics_and_configuration_are_shown() {
    let (parts, _subscriber) = parts();
    let admin = Admin::new(parts);
    assert!(get(&admin, "/metrics").await.1.contains("darter_build_info{"));
    assert_eq!(get(&admin, "/config").await.1, "upload:\n  rateLimit: 1MiB\n");
}

#[tokio::test]
async fn running_tasks_are_counted() {
    let (parts, _subscriber) = parts();
    let tasks = parts.tasks.clone();
    let admin = Admin::new(parts);
    assert_eq!(get(&admin, "/debug/tasks").await.1, "");
    tasks.spawn("pull", std::future::pending());
    tasks.spawn("pull", std::future::pending());
    assert_eq!(get(&admin, "/debug/tasks").await.1, "pull 2\n");
}

#[tokio::test]
async fn the_log_filter_is_shown_and_set() {
    let (parts, _subscriber) = parts();
    let admin = Admin::new(parts);
    assert_eq!(get(&admin, "/loglevel").await.1, "info\n");
    assert_eq!(
        ask(&admin, Method::PUT, "/loglevel", "debug\n").await,
        (StatusCode::OK, "debug\n".into())
    );
    let (status, message) = ask(&admin, Method::PUT, "/loglevel", "x=loud").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(message.contains("write a level"), "{message}");
    let long = "a".repeat(BODY_BYTES_MAX + 1);
    assert_eq!(
        ask(&admin, Method::PUT, "/loglevel", &long).await.0,
        StatusCode::BAD_REQUEST
    );
    assert_eq!(get(&admin, "/loglevel").await.1, "debug\n");
}

#[tokio::test]
async fn roles_add_routes_and_the_index_names_all() {
    let (mut parts, _subscriber) = parts();
    let route: Route = Arc::new(|request| {
        Box::pin(async move {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let body = String::from_utf8_lossy(request.body()).into_owned();
            text(StatusCode::OK, query + &body)
        })
    });
    parts.routes.insert("/debug/graph", route);
    let admin = Admin::new(parts);
    assert_eq!(
        get(&admin, "/debug/graph?task=1").await,
        (StatusCode::OK, "task=1".into())
    );
    assert_eq!(
        ask(&admin, Method::PUT, "/debug/graph?task=1", " and its body").await,
        (StatusCode::OK, "task=1 and its body".into())
    );
    let long = "a".repeat(BODY_BYTES_MAX + 1);
    assert_eq!(
        ask(&admin, Method::PUT, "/debug/graph", &long).await.0,
        StatusCode::BAD_REQUEST
    );
    for line in get(&admin, "/").await.1.lines() {
        assert_eq!(get(&admin, line).await.0, StatusCode::OK, "{line}");
    }
    assert_eq!(get(&admin, "/nothing").await.0, StatusCode::NOT_FOUND);
    assert_eq!(
        ask(&admin, Method::POST, "/config", "").await.0,
        StatusCode::METHOD_NOT_ALLOWED
    );
}

#[tokio::test]
async fn is_served_on_a_socket() {
    use crate::http_server::{Cuts, HttpServer, Limits, Plain};
    use crate::net::{Network as _, TokioNetwork};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let (parts, _subscriber) = parts();
    let tasks = parts.tasks.clone();
    let listener = TokioNetwork.bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = HttpServer {
        name: "admin",
        limits: Limits::default(),
        tasks: tasks.clone(),
        wrap: Plain,
        cuts: Cuts::default(),
    };
    let stop = tokio_util::sync::CancellationToken::new();
    tasks.spawn("admin server", server.serve(listener, Admin::new(parts), stop));
    let mut stream = TokioNetwork.connect(&address).await.unwrap();
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("alive\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn requests_that_mean_two_things_are_refused_on_its_socket() {
    use darter_testkit::client::End;
    use darter_testkit::smuggling::CORPUS;

    use crate::net::{Network, TokioNetwork};

    let (parts, _subscriber) = parts();
    let network: Arc<dyn Network> = Arc::new(TokioNetwork);
    let port = AdminPort::bind(&*network, &"127.0.0.1:0".parse().unwrap())
        .await
        .unwrap();
    let address = port.address();
    let server = port.serve(Admin::new(parts));
    for case in CORPUS {
        // What hides would be seen by its answer.
        let text = case.text("GET", "/livez", &address, "/readyz");
        let (answer, end) = case
            .send(TokioNetwork.connect(&address).await.unwrap(), &text)
            .await;
        assert!(
            !answer.contains("HTTP/1.1"),
            "{}: two answers: {answer}",
            case.name
        );
        if case.refused_finally {
            assert!(answer.starts_with('4'), "{}: {answer}", case.name);
            assert!(matches!(end, End::Fin | End::Reset), "{}: {end:?}", case.name);
        }
    }
    server.end().await;
}
