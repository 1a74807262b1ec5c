//! Names of registries: those that may become a directory, and those that may not.

use super::*;
use proptest::prelude::*;

#[test]
fn names_that_an_image_can_have_are_taken() {
    for name in [
        "docker.io",
        "ghcr.io",
        "registry:5000",
        "10.0.0.1:5000",
        "[::1]:5000",
        "[fd00::1]",
        "a-b.c",
    ] {
        assert_eq!(name.parse::<Registry>().unwrap().to_string(), name);
    }
    assert_eq!("_default".parse::<Registry>().unwrap(), Registry::Default);
}

#[test]
fn names_that_leave_the_directory_are_refused() {
    let bad = [
        "",
        ".",
        "..",
        "../etc",
        "a/b",
        "/etc",
        "a\\b",
        "https://ghcr.io",
        "ghcr.io/",
        "a..b",
        "a:",
        "a:0",
        "a:65536",
        "a:1:2",
        "a:+1",
        "-a",
        "a-",
        "a b",
        "a\0b",
        "a\nb",
        "[..]",
        "[::1]x",
        "[::1",
        "_default/..",
        "%2e%2e",
    ];
    for name in bad {
        assert!(name.parse::<Registry>().is_err(), "{name:?} was taken");
    }
    let error = "../x".parse::<Registry>().unwrap_err().to_string();
    assert_eq!(
        error,
        "`../x` is no registry: a name has no path; write it as in an image's name, like `ghcr.io` or `registry:5000`"
    );
}

#[test]
fn origins_are_where_containerd_would_go() {
    let origin = |name: &str| name.parse::<Registry>().unwrap().origin();
    assert_eq!(
        origin("docker.io").as_deref(),
        Some("https://registry-1.docker.io")
    );
    assert_eq!(
        origin("r.example:5000").as_deref(),
        Some("https://r.example:5000")
    );
    for local in ["_default", "localhost:5000", "127.0.0.1:5000", "[::1]:5000"] {
        assert_eq!(origin(local), None, "{local}");
    }
}

#[test]
fn directories_come_in_containerd_s_order() {
    let directories = |name: &str| name.parse::<Registry>().unwrap().directories();
    assert_eq!(directories("ghcr.io"), ["ghcr.io"]);
    assert_eq!(directories("r:5000"), ["r_5000_", "r:5000"]);
}

#[test]
fn a_mirror_is_recognised_in_its_spellings() {
    let mirror: Mirror = "http://127.0.0.1:4001/".parse().unwrap();
    assert_eq!(mirror, Mirror::default());
    for key in [
        "http://127.0.0.1:4001",
        "http://127.0.0.1:4001/",
        "http://127.0.0.1:4001/v2",
    ] {
        assert!(mirror.is_host_key(key), "{key}");
    }
    for key in [
        "https://127.0.0.1:4001",
        "127.0.0.1:4001",
        "http://127.0.0.1:4002",
        "http://127.0.0.1:4001/x",
        "[",
    ] {
        assert!(!mirror.is_host_key(key), "{key}");
    }
}

#[test]
fn mirrors_that_containerd_would_misread_are_refused() {
    for url in [
        "",
        "127.0.0.1:4001",
        "ftp://a",
        "http://u:p@a",
        "http://a?b",
        "http://a#b",
        "unix:///run/x",
    ] {
        assert!(url.parse::<Mirror>().is_err(), "{url:?} was taken");
    }
}

proptest! {
    #[test]
    fn whatever_is_taken_is_one_path_component(name in "[a-z0-9./:\\[\\]_-]{0,12}") {
        if let Ok(registry) = name.parse::<Registry>() {
            for directory in registry.directories() {
                let mut components = std::path::Path::new(&directory).components();
                prop_assert!(matches!(components.next(), Some(std::path::Component::Normal(_))));
                prop_assert!(components.next().is_none());
            }
        }
    }
}
