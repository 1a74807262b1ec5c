//! Sections that are accepted, and every problem of those that are not.

use darter_service::config::ByteSize;

use super::*;

fn config(entries: &[(&str, RegistryConfig)]) -> RegistriesConfig {
    let registries = entries
        .iter()
        .map(|(name, entry)| ((*name).to_owned(), entry.clone()))
        .collect();
    RegistriesConfig {
        registries,
        ..RegistriesConfig::default()
    }
}

fn at(endpoint: &str) -> RegistryConfig {
    RegistryConfig {
        endpoint: Some(endpoint.to_owned()),
        ..RegistryConfig::default()
    }
}

fn endpoint(config: &RegistriesConfig, name: &str) -> Result<String, String> {
    let settings = Settings::new(config).unwrap();
    settings
        .registry(&name.parse().unwrap())
        .map(|registry| registry.endpoint.to_string())
}

#[test]
fn registries_stand_where_their_names_say() {
    let none = RegistriesConfig::default();
    assert_eq!(
        endpoint(&none, "docker.io").unwrap(),
        "https://registry-1.docker.io/"
    );
    assert_eq!(endpoint(&none, "quay.io").unwrap(), "https://quay.io/");
    assert_eq!(
        endpoint(&none, "10.0.0.1:5000").unwrap(),
        "https://10.0.0.1:5000/"
    );
    assert_eq!(endpoint(&none, "[::1]:5000").unwrap(), "https://[::1]:5000/");
    let plain = RegistryConfig {
        plain_http: true,
        ..RegistryConfig::default()
    };
    let some = config(&[
        ("a.test", at("https://b.test/mirror")),
        ("c.test:5000", plain),
        ("d.test", at("http://e")),
    ]);
    assert_eq!(endpoint(&some, "a.test").unwrap(), "https://b.test/mirror");
    assert_eq!(endpoint(&some, "c.test:5000").unwrap(), "http://c.test:5000/");
    assert_eq!(endpoint(&some, "d.test").unwrap(), "http://e/");
}

#[test]
fn the_star_gives_what_an_entry_lacks() {
    let ca = |name: &str, max| RegistryConfig {
        ca_file: Some(name.into()),
        connections_max: max,
        ..RegistryConfig::default()
    };
    let settings = Settings::new(&config(&[
        ("*", ca("all.pem", Some(7))),
        ("a.test", ca("own.pem", None)),
    ]))
    .unwrap();
    let registry = |name: &str| settings.registry(&name.parse().unwrap()).unwrap();
    let (own, other) = (registry("a.test"), registry("b.test"));
    assert_eq!(
        (own.ca_key.as_deref(), own.connections_max, own.configured),
        (Some("a.test"), 7, true)
    );
    assert_eq!(
        (other.ca_key.as_deref(), other.connections_max, other.configured),
        (Some("*"), 7, false)
    );
}

#[test]
fn only_what_is_configured_where_that_is_set() {
    let only = RegistriesConfig {
        allow_only_configured: true,
        ..config(&[("a.test", RegistryConfig::default())])
    };
    assert!(endpoint(&only, "a.test").is_ok());
    assert!(
        endpoint(&only, "b.test")
            .unwrap_err()
            .contains("allowOnlyConfigured")
    );
}

#[test]
fn every_problem_is_told_with_its_path() {
    let both = RegistryConfig {
        plain_http: true,
        ..at("https://x")
    };
    let zero = RegistryConfig {
        connections_max: Some(0),
        ..RegistryConfig::default()
    };
    let wrong = RegistriesConfig {
        connect_timeout: Period::from(Duration::ZERO),
        retries: 11,
        ..config(&[
            ("*", at("https://x")),
            ("BAD/name", RegistryConfig::default()),
            ("a.test", at("ftp://x")),
            ("b.test", at("https://user:secret@x")),
            ("c.test", both),
            ("d.test", at("nonsense")),
            ("e.test", zero),
        ])
    };
    let problems = wrong.problems("origin");
    for part in [
        "origin.connectTimeout",
        "origin.retries",
        "origin.registries[\"*\"]",
        "origin.registries[\"BAD/name\"]",
        "origin.registries[\"a.test\"].endpoint",
        "origin.registries[\"b.test\"].endpoint",
        "origin.registries[\"c.test\"].endpoint",
        "origin.registries[\"d.test\"].endpoint",
        "origin.registries[\"e.test\"].connectionsMax",
    ] {
        assert!(
            problems.iter().any(|problem| problem.starts_with(part)),
            "{part}: {problems:#?}"
        );
    }
    assert_eq!(problems.len(), 9, "{problems:#?}");
    assert!(!problems.concat().contains("secret"));
    assert!(matches!(Settings::new(&wrong), Err(OriginConfigError::Invalid(found)) if found == problems));
}

#[test]
fn it_is_written_in_camel_case_and_unknown_keys_are_refused() {
    let text = r#"{"registries":{"a":{"plainHttp":true,"connectionsMax":3}},"allowOnlyConfigured":true,"silenceTimeout":"3s"}"#;
    let read: RegistriesConfig = serde_json::from_str(text).unwrap();
    assert_eq!(Duration::from(read.silence_timeout), Duration::from_secs(3));
    assert_eq!(read.registries["a"].connections_max, Some(3));
    assert_eq!(
        serde_json::from_str::<RegistriesConfig>(&serde_json::to_string(&read).unwrap()).unwrap(),
        read
    );
    for wrong in [
        r#"{"insecureSkipVerify":true}"#,
        r#"{"registries":{"a":{"insecureSkipVerify":true}}}"#,
    ] {
        assert!(serde_json::from_str::<RegistriesConfig>(wrong).is_err());
    }
}

#[test]
fn large_blobs_need_segments_that_fit_what_they_are_cut_from() {
    let problems = |large: LargeBlobsConfig| {
        let config = RegistriesConfig {
            large_blobs: large,
            ..RegistriesConfig::default()
        };
        config.problems("origin")
    };
    assert!(problems(LargeBlobsConfig::default()).is_empty());
    let wrong = problems(LargeBlobsConfig {
        connections_per_blob: 0,
        length_min: ByteSize::bytes(1),
        segment_length: ByteSize::bytes(2),
        read_ahead_max: ByteSize::bytes(1),
    });
    let paths: Vec<_> = wrong
        .iter()
        .filter_map(|problem| problem.split(':').next())
        .collect();
    let expected = ["connectionsPerBlob", "segmentLength", "lengthMin", "readAheadMax"];
    assert_eq!(paths, expected.map(|key| format!("origin.largeBlobs.{key}")));
}

#[test]
fn those_that_are_allowed_are_asked_and_no_others() {
    let registry = |config: &RegistriesConfig, name: &str| {
        let settings = Settings::new(config).unwrap();
        settings.registry(&name.parse().unwrap()).map(|_| ())
    };
    let mut some = config(&[("a.test", RegistryConfig::default())]);
    some.allowed = vec!["docker.io".parse().unwrap(), "*.corp.test".parse().unwrap()];
    for only_configured in [false, true] {
        some.allow_only_configured = only_configured;
        for name in ["a.test", "docker.io", "x.corp.test"] {
            assert_eq!(registry(&some, name), Ok(()), "{name}");
        }
        for name in ["quay.io", "corp.test", "docker.io.evil.test"] {
            let reason = registry(&some, name).unwrap_err();
            assert!(reason.contains("`allowed`"), "{reason}");
        }
    }
    some.allowed.clear();
    assert!(
        registry(&some, "docker.io")
            .unwrap_err()
            .contains("allowOnlyConfigured")
    );
}

#[test]
fn rates_are_a_registrys_own_or_those_of_the_star() {
    let rate = |kib| RegistryConfig {
        bytes_per_second_max: Some(ByteSize::kib(kib)),
        ..RegistryConfig::default()
    };
    let some = config(&[
        ("*", rate(100)),
        ("a.test", rate(200)),
        ("b.test", RegistryConfig::default()),
    ]);
    let settings = Settings::new(&some).unwrap();
    let of = |name: &str| {
        settings
            .registry(&name.parse().unwrap())
            .unwrap()
            .bytes_per_second_max
    };
    assert_eq!(
        ["a.test", "b.test", "c.test"].map(of),
        [200, 100, 100].map(|kib| Some(ByteSize::kib(kib)))
    );
    let mut slow = config(&[("a.test", rate(1))]);
    slow.bytes_per_second_max = Some(ByteSize::kib(1));
    let problems = slow.problems("origin");
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].starts_with("origin.bytesPerSecondMax: must be at least 64"));
}
