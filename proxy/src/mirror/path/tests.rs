//! Every way in which clients name a registry, and paths that nobody should send.

use super::*;
use proptest::prelude::*;

const HEX: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

fn ask(target: &str, headers: &[(&'static str, &str)], default: Option<&str>) -> Result<Route, RouteError> {
    let (path, query) = target
        .split_once('?')
        .map_or((target, None), |(path, query)| (path, Some(query)));
    let headers = headers
        .iter()
        .map(|(name, value)| (http::HeaderName::from_static(name), value.parse().unwrap()))
        .collect();
    let default = default.map(|text| text.parse().unwrap());
    route(path, query, &headers, default.as_ref())
}

/// `registry repository endpoint via`, or the error's kind.
fn shown(route: Result<Route, RouteError>) -> String {
    match route {
        Ok(Route::Ping) => "ping".to_owned(),
        Ok(Route::Endpoint(t)) => format!(
            "{} {} {} {:?}",
            t.registry,
            t.repository,
            t.endpoint.label(),
            t.via
        ),
        Err(error) => format!("{error:?}").split('(').next().unwrap().to_owned(),
    }
}

#[test]
fn the_ways_to_name_a_registry() {
    let table = [
        (
            format!("/v2/library/nginx/blobs/{HEX}?ns=docker.io"),
            "docker.io library/nginx blob Query",
        ),
        (
            format!("/v2/a/blobs/{HEX}?ns=127.0.0.1%3A5000"),
            "127.0.0.1:5000 a blob Query",
        ),
        (
            format!("/v2/a/blobs/{HEX}?x=1&ns=Registry-1.Docker.io"),
            "docker.io a blob Query",
        ),
        // BuildKit names it twice.
        (
            "/v2/ghcr.io/a/b/manifests/v1?ns=ghcr.io".to_owned(),
            "ghcr.io a/b manifest Query",
        ),
        // A repository may well have a dot in its first part.
        (
            "/v2/my.team/b/manifests/v1?ns=ghcr.io".to_owned(),
            "ghcr.io my.team/b manifest Query",
        ),
        (
            "/v2/docker.io/library/nginx/manifests/1.27".to_owned(),
            "docker.io library/nginx manifest FirstPart",
        ),
        (
            "/v2/localhost/a/tags/list".to_owned(),
            "localhost a tags FirstPart",
        ),
        (
            format!("/v2/r.test:5000/a/referrers/{HEX}"),
            "r.test:5000 a referrers FirstPart",
        ),
        (
            format!("/v2/r.test%3a5000/a/blobs/{HEX}"),
            "r.test:5000 a blob FirstPart",
        ),
        (
            "/docker.io/v2/library/nginx/manifests/latest".to_owned(),
            "docker.io library/nginx manifest BeforeVersion",
        ),
        (
            format!("/x/https://ghcr.io/v2/a/b/blobs/{HEX}"),
            "ghcr.io a/b blob WholeUrl",
        ),
        (
            format!("/x/http://r.test:5000/v2/a/b/blobs/{HEX}"),
            "r.test:5000 a/b blob WholeUrl",
        ),
        (
            "/v2/library/nginx/manifests/latest".to_owned(),
            "default.test library/nginx manifest Default",
        ),
        (
            "/v2/my.app/manifests/latest".to_owned(),
            "default.test my.app manifest Default",
        ),
        ("/v2/".to_owned(), "ping"),
        ("/v2".to_owned(), "ping"),
        ("/docker.io/v2/".to_owned(), "ping"),
    ];
    for (target, expected) in table {
        assert_eq!(
            shown(ask(&target, &[], Some("default.test"))),
            expected,
            "{target}"
        );
    }
}

/// podman and CRI-O: the name of an image holds no second colon.
#[test]
fn a_port_may_follow_an_underscore() {
    for (path, expected) in [
        (
            "/v2/r.test_5000/a/manifests/v1",
            "r.test:5000 a manifest FirstPart",
        ),
        (
            "/v2/localhost_5000/a/tags/list",
            "localhost:5000 a tags FirstPart",
        ),
        (
            "/v2/r.test_5000/a/manifests/v1?ns=r.test:5000",
            "r.test:5000 a manifest Query",
        ),
        (
            "/v2/my.team_x/b/manifests/v1?ns=ghcr.io",
            "ghcr.io my.team_x/b manifest Query",
        ),
    ] {
        assert_eq!(shown(ask(path, &[], None)), expected, "{path}");
    }
}

#[test]
fn a_header_names_the_registry_as_host_or_url() {
    for (name, value) in [
        ("x-darter-registry", "ghcr.io"),
        ("x-dragonfly-registry", "https://ghcr.io"),
        ("x-dragonfly-registry", "https://ghcr.io/"),
    ] {
        let route = ask("/v2/a/b/manifests/v1", &[(name, value)], None);
        assert_eq!(shown(route), "ghcr.io a/b manifest Header", "{name}: {value}");
    }
    let both = ask(
        "/v2/a/b/manifests/v1?ns=quay.io",
        &[("x-darter-registry", "ghcr.io")],
        None,
    );
    assert_eq!(shown(both), "quay.io a/b manifest Query");
}

#[test]
fn what_is_not_understood_is_refused() {
    let table = [
        ("/", "Unknown"),
        ("", "Unknown"),
        ("/v1/a", "Unknown"),
        ("/v2/_catalog", "Unknown"),
        ("/v2/a/blobs/uploads/", "Unknown"),
        ("/v2/a/b/manifests/v1", "NoRegistry"),
        ("/v2/a/manifests/v1?ns=", "Name"),
        ("/v2/a/manifests/v1?ns=a.test&ns=b.test", "Name"),
        ("/v2/a/manifests/v1?ns=a.test/b", "Encoding"),
        ("/v2/a/manifests/v1?ns=user@a.test", "Name"),
        ("/v2/../a/manifests/v1?ns=a.test", "Name"),
        ("/v2/a//b/manifests/v1?ns=a.test", "Name"),
        ("/v2/%2e%2e/a/manifests/v1?ns=a.test", "Name"),
        ("/v2/a%2fb/manifests/v1?ns=a.test", "Encoding"),
        ("/v2/a%252fb/manifests/v1?ns=a.test", "Encoding"),
        ("/v2/a%0d%0ab/manifests/v1?ns=a.test", "Encoding"),
        ("/v2/a%/manifests/v1?ns=a.test", "Encoding"),
        ("/v2/a%4/manifests/v1?ns=a.test", "Encoding"),
        ("/v2/ä/manifests/v1?ns=a.test", "Encoding"),
        ("/v2/manifests/v1?ns=a.test", "Name"),
        ("/v2/A/manifests/v1?ns=a.test", "Name"),
        ("/v2/a/manifests/-v1?ns=a.test", "Tag"),
        ("/v2/a/manifests/?ns=a.test", "Tag"),
        ("/v2/a/manifests/md5:00?ns=a.test", "Digest"),
        ("/v2/a/blobs/sha256:00?ns=a.test", "Digest"),
        ("/v2/a/blobs/latest?ns=a.test", "Digest"),
        ("/x/https://a.test", "Unknown"),
        ("/x/https://user:pw@a.test/v2/a/manifests/v1", "Name"),
    ];
    for (target, expected) in table {
        assert_eq!(shown(ask(target, &[], None)), expected, "{target}");
    }
}

#[test]
fn the_query_is_kept_without_ns() {
    let Ok(Route::Endpoint(target)) = ask(
        &format!("/v2/a/referrers/{HEX}?artifactType=x%2Fy&ns=a.test&n=5"),
        &[],
        None,
    ) else {
        panic!("refused");
    };
    assert_eq!(target.query.as_deref(), Some("artifactType=x%2Fy&n=5"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]
    #[test]
    fn arbitrary_paths_never_panic(path in ".{0,120}", bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        fuzz_path(path.as_bytes());
        fuzz_path(&bytes);
    }

    #[test]
    fn near_misses_never_panic(
        parts in prop::collection::vec(
            prop_oneof![Just("v2"), Just("a.b"), Just("x"), Just("manifests"), Just("blobs"), Just("https:"), Just(""),
                Just("tags"), Just("list"), Just("%3A"), Just(".."), Just(HEX), Just("?ns=a"), Just("&ns=")],
            0..9,
        ),
    ) {
        fuzz_path(format!("/{}", parts.join("/")).as_bytes());
    }
}

#[test]
fn what_is_accepted_reads_back() {
    darter_testkit::fuzz::check("path", fuzz_path);
}

#[test]
fn a_path_at_its_own_registry_names_no_other() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let at = |registry: &str, path: &str| content_at(registry, path);
    let found = at("Registry-1.Docker.io", &format!("/v2/a.test/b/blobs/{digest}")).unwrap();
    assert_eq!(found.registry.as_str(), "docker.io");
    assert_eq!(found.repository.to_string(), "a.test/b");
    assert_eq!(found.endpoint, Endpoint::Blob(digest.parse().unwrap()));
    assert!(at("r.test:5000", "/v2/b/manifests/latest").is_some());
    for path in [
        "/v2/",
        "/v2/b/tags/list",
        &format!("/v2/b/referrers/{digest}"),
        "/v2/b/blobs/uploads/",
        "/v2/b/blobs/sha256:00",
        "/v2/../b/manifests/latest",
        "/v2/b%2f..%2fc/manifests/latest",
        &format!("/r.test/v2/b/blobs/{digest}"),
        "/token",
    ] {
        assert_eq!(at("r.test", path), None, "{path}");
    }
    assert_eq!(at("r test", &format!("/v2/b/blobs/{digest}")), None);
}
