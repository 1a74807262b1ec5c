//! Configurations as nydus-snapshotter writes them, and others.

use super::*;

const FIRST: &str = r#"{"device":{"id":"/12","backend":{"type":"registry","config":{"host":"index.docker.io",
"repo":"library/nginx","scheme":"https","auth":"dXNlcjpwYXNz","skip_verify":false,"timeout":5,"connect_timeout":5,
"retry_limit":2,"proxy":{"url":"http://127.0.0.1:4001/","fallback":true,"ping_url":"http://127.0.0.1:4003/healthy",
"check_interval":5,"use_http":true}}},"cache":{"type":"blobcache","compressed":false,"config":{"work_dir":"/var/cache"}}},
"mode":"direct","digest_validate":false,"iostats_files":false,"enable_xattr":true,"fs_prefetch":{"enable":true,
"threads_count":8,"merging_size":1048576},"id_mapping":[0,0,1],"warmup":1}"#;

fn registry_of(config: Config) -> Registry {
    match config.backend {
        Backend::Registry(registry) => registry,
        Backend::Folder(folder) => panic!("{folder:?}"),
    }
}

#[test]
fn the_first_form_is_read() {
    let config = Config::parse(FIRST.as_bytes()).unwrap();
    assert!(config.unknown.is_empty(), "{:?}", config.unknown);
    assert_eq!(config.id.as_deref(), Some("/12"));
    assert_eq!(config.work_dir.as_deref(), Some("/var/cache".as_ref()));
    let registry = registry_of(config);
    assert_eq!(registry.host.to_string(), "docker.io");
    assert_eq!(registry.repository.to_string(), "library/nginx");
    assert_eq!(registry.mirror, Some("127.0.0.1:4001".parse().unwrap()));
    assert_eq!(registry.authorization.unwrap(), "Basic dXNlcjpwYXNz");
}

#[test]
fn the_second_form_is_read() {
    let second = r#"{"version":2,"id":"x","backend":{"type":"registry","registry":{"host":"r.example:5000","repo":"a/b",
        "registry_token":"t"}},"cache":{"type":"filecache","filecache":{"work_dir":"/w"}},"rafs":{"mode":"direct"}}"#;
    let config = Config::parse(second.as_bytes()).unwrap();
    assert_eq!(config.work_dir.as_deref(), Some("/w".as_ref()));
    let registry = registry_of(config);
    assert_eq!(
        (registry.host.to_string(), registry.mirror),
        ("r.example:5000".to_owned(), None)
    );
    assert_eq!(registry.authorization.unwrap(), "Bearer t");
    let folder = r#"{"version":2,"backend":{"type":"localfs","localfs":{"dir":"/blobs"}}}"#;
    let config = Config::parse(folder.as_bytes()).unwrap();
    assert_eq!(config.backend, Backend::Folder("/blobs".into()));
}

#[test]
fn keys_that_nobody_knows_are_named_and_passed_over() {
    let text = FIRST
        .replace("\"mode\"", "\"new\":1,\"mode\"")
        .replace("\"scheme\"", "\"newer\":{},\"scheme\"");
    let config = Config::parse(text.as_bytes()).unwrap();
    assert_eq!(config.unknown, ["new", "backend.registry.newer"]);
}

#[test]
fn what_is_missing_is_said() {
    for (text, said) in [
        ("", "cannot be read"),
        ("[]", "outermost"),
        ("{}", "backend"),
        (r#"{"backend":{"type":"oss","config":{}}}"#, "\"oss\""),
        (r#"{"backend":{"type":"registry","config":{"repo":"a"}}}"#, "host"),
        (
            r#"{"backend":{"type":"registry","config":{"host":"h","repo":"../a"}}}"#,
            "repo",
        ),
        (
            r#"{"backend":{"type":"registry","config":{"host":"h","repo":"a","auth":"\n"}}}"#,
            "auth",
        ),
        (r#"{"backend":{"type":"localfs","config":{"dir":""}}}"#, "dir"),
    ] {
        let error = Config::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
    let long = vec![b' '; CONFIG_BYTES_MAX + 1];
    assert!(matches!(Config::parse(&long), Err(ConfigError::TooLong)));
}

#[test]
fn only_a_proxy_of_this_machine_is_the_mirror() {
    for (url, mirror) in [
        ("http://127.0.0.1:4001", Some("127.0.0.1:4001")),
        ("http://localhost:65001/", Some("localhost:65001")),
        ("http://[::1]:4001", Some("[::1]:4001")),
        ("unix:///run/darter.sock", Some("unix:/run/darter.sock")),
        ("http://proxy.example:3128", None),
        ("https://127.0.0.1:4001", None),
        ("http://127.0.0.1", None),
        ("ftp://x y", None),
        ("unix:x", None),
    ] {
        let config = format!(
            r#"{{"backend":{{"type":"registry","config":{{"host":"h","repo":"a","proxy":{{"url":"{url}"}}}}}}}}"#
        );
        let registry = registry_of(Config::parse(config.as_bytes()).unwrap());
        assert_eq!(
            registry.mirror,
            mirror.map(|mirror| mirror.parse().unwrap()),
            "{url}"
        );
    }
}

#[test]
fn any_bytes_are_read_or_refused() {
    darter_testkit::fuzz::check("nydusd_config", fuzz_config);
}
