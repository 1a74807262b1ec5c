//! The order of the sources, and all problems at once with their paths.

use super::*;
use crate::config::{ByteSize, Period, Problems, Secret};
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct Config {
    name: String,
    peers_max: u16,
    lazy: bool,
    upload: Upload,
    tls: Option<Tls>,
    registries: BTreeMap<String, Registry>,
    schedulers: Vec<String>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct Upload {
    rate_limit: ByteSize,
    silence_max: Period,
    password: Secret,
}

impl Default for Upload {
    fn default() -> Self {
        Self {
            rate_limit: ByteSize::mib(10),
            silence_max: Period::secs(2),
            password: Secret::default(),
        }
    }
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Tls {
    cert_file: String,
    #[serde(default)]
    key_file: String,
}

#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct Registry {
    insecure: bool,
    requests_max: u32,
}

impl Validate for Config {
    fn free_form() -> &'static [&'static str] {
        &["registries"]
    }

    fn validate(&self, problems: &mut Problems) {
        problems.within("upload", |problems| {
            if self.upload.rate_limit < ByteSize::mib(1) {
                problems.add("rateLimit", "must be 1MiB at least");
            }
        });
        if self.lazy && self.schedulers.is_empty() {
            problems.add("schedulers", "lazy needs one at least");
        }
    }
}

struct Case {
    dir: tempfile::TempDir,
    env: Vec<(String, String)>,
    set: Vec<String>,
    file: bool,
}

fn given(yaml: &str) -> Case {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("proxy.yaml"), yaml).unwrap();
    Case {
        dir,
        env: Vec::new(),
        set: Vec::new(),
        file: true,
    }
}

impl Case {
    fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    fn set(mut self, setting: &str) -> Self {
        self.set.push(setting.into());
        self
    }

    fn load(self) -> Result<Config, ConfigError> {
        let path = self.dir.path().join("proxy.yaml");
        let file = self.file.then_some(path.as_path());
        load(Sources {
            role: "proxy",
            file,
            env: self.env.into_iter(),
            set: &self.set,
        })
    }

    fn good(self) -> Config {
        self.load().unwrap_or_else(|error| panic!("{error}"))
    }

    /// The lines of the error, with the folder left out.
    fn bad(self) -> Vec<String> {
        let folder = format!("{}/", self.dir.path().display());
        let error = self.load().expect_err("was accepted");
        error
            .to_string()
            .lines()
            .map(|line| line.replace(&folder, ""))
            .collect()
    }
}

#[test]
fn nothing_given_is_the_defaults() {
    assert_eq!(given("").good(), Config::default());
    assert_eq!(
        given("# all is commented out\nupload:\n  # rateLimit: 1MiB\nregistries:\n").good(),
        Config::default()
    );
    let no_file = Case {
        file: false,
        ..given("")
    };
    assert_eq!(no_file.good(), Config::default());
}

#[test]
fn later_places_win() {
    let case = || given("upload: {rateLimit: 20MiB, silenceMax: 5s}\nname: file\npeersMax: 3\n");
    assert_eq!(case().good().upload.rate_limit, ByteSize::mib(20));
    let case = || case().env("DARTER_PROXY__UPLOAD__RATE_LIMIT", "30MiB");
    assert_eq!(case().good().upload.rate_limit, ByteSize::mib(30));
    let config = case().set("upload.rateLimit=40MiB").good();
    assert_eq!(config.upload.rate_limit, ByteSize::mib(40));
    // What the later ones say nothing of stays.
    assert_eq!(
        (config.upload.silence_max, config.name.as_str(), config.peers_max),
        (Period::secs(5), "file", 3)
    );
}

#[test]
fn unquoted_texts_become_what_the_key_needs() {
    let config = given("")
        .env("DARTER_PROXY__NAME", "0123")
        .env("DARTER_PROXY__PEERS_MAX", "12")
        .env("DARTER_PROXY__lazy", "true")
        .env("DARTER_PROXY__UPLOAD__PASSWORD", "4711 # no comment")
        .env("DARTER_PROXY__SCHEDULERS", "[a:1, b:2]")
        .set("upload.rateLimit=2097152")
        .good();
    assert_eq!(
        (config.name.as_str(), config.peers_max, config.lazy),
        ("0123", 12, true)
    );
    assert_eq!(config.upload.password.expose(), "4711 # no comment");
    assert_eq!(config.schedulers, ["a:1", "b:2"]);
    assert_eq!(config.upload.rate_limit, ByteSize::mib(2));
}

#[test]
fn other_variables_are_not_looked_at() {
    let config = given("")
        .env("DARTER_PROXY_PORT_4000_TCP", "x")
        .env("DARTER_LOG", "debug")
        .env("DARTER_SCHEDULER__X", "1");
    assert_eq!(config.good(), Config::default());
}

#[test]
fn free_maps_take_any_key_and_variables_find_them() {
    let case = || given("registries:\n  docker.io: {requestsMax: 4}\n  ghcr.io:\n");
    let config = case()
        .env("DARTER_PROXY__REGISTRIES__DOCKER_IO__INSECURE", "true")
        .good();
    assert_eq!(
        config.registries["docker.io"],
        Registry {
            insecure: true,
            requests_max: 4
        }
    );
    assert_eq!(config.registries["ghcr.io"], Registry::default());
    let config = case().set("registries.\"quay.io\".requestsMax=7").good();
    assert_eq!(config.registries["quay.io"].requests_max, 7);
    assert_eq!(
        case()
            .env("DARTER_PROXY__REGISTRIES__QUAY_IO__INSECURE", "true")
            .bad(),
        [
            "DARTER_PROXY__REGISTRIES__QUAY_IO__INSECURE: registries has no entry QUAY_IO: \
          add it to the file, then a variable can change it"
        ]
    );
}

#[test]
fn absent_sections_can_be_given_by_any_place() {
    let config = given("")
        .env("DARTER_PROXY__TLS__CERT_FILE", "a")
        .set("tls.keyFile=b")
        .good();
    assert_eq!(
        config.tls,
        Some(Tls {
            cert_file: "a".into(),
            key_file: "b".into()
        })
    );
    assert_eq!(
        given("tls: {certFiel: a}").bad(),
        ["proxy.yaml: tls.certFiel: unknown key \"certFiel\"; did you mean \"certFile\"?"]
    );
    assert_eq!(
        given("tls: {keyFile: b}").bad(),
        ["proxy.yaml: tls: missing field `certFile`"]
    );
}

#[test]
fn all_problems_are_reported_at_once() {
    let yaml = "
upload:
  rateLimit: fast
  silenceMax: 30
  speed: 3
  password: 4711
peersMax: 70000
lazzy: true
registries:
  docker.io: {insecure: maybe, requestsMax: many, requests_max: 1}
schedulers: [a, 5]
lazy: true
";
    assert_eq!(
        given(yaml)
            .env("DARTER_PROXY__UPLAOD__RATE_LIMIT", "1")
            .set("name")
            .set("upload.rate=1")
            .bad(),
        [
            "proxy.yaml: lazzy: unknown key \"lazzy\"; did you mean \"lazy\"?",
            "proxy.yaml: peersMax: expected a whole number from 0 to 65535, got 70000",
            "proxy.yaml: registries.\"docker.io\".insecure: expected true or false, got \"maybe\"",
            "proxy.yaml: registries.\"docker.io\".requestsMax: expected a whole number from 0 to 4294967295, got \"many\"",
            "proxy.yaml: registries.\"docker.io\".requests_max: unknown key \"requests_max\"; did you mean \"requestsMax\"?",
            "proxy.yaml: schedulers.1: expected a text, got 5",
            "proxy.yaml: upload.password: expected a text, got something else: write the secret in quotes",
            "proxy.yaml: upload.rateLimit: expected a size such as 64MiB, got \"fast\"",
            "proxy.yaml: upload.silenceMax: expected a duration such as 30s, 500ms or 1m30s, \
             got the number 30 without a unit",
            "proxy.yaml: upload.speed: unknown key \"speed\"; known here: password, rateLimit, silenceMax",
            "DARTER_PROXY__UPLAOD__RATE_LIMIT: unknown key \"UPLAOD\"; did you mean \"upload\"?",
            "--set: expected section.key=value, got \"name\"",
            "--set: upload.rate: unknown key \"rate\"; known here: password, rateLimit, silenceMax",
        ]
    );
}

#[test]
fn rules_name_where_the_value_came_from() {
    assert_eq!(
        given("lazy: true").set("upload.rateLimit=1KiB").bad(),
        [
            "--set: upload.rateLimit: must be 1MiB at least",
            "schedulers: lazy needs one at least"
        ]
    );
}

#[test]
fn sections_must_be_sections() {
    assert_eq!(
        given("upload: 5\nregistries: [docker.io]").bad(),
        [
            "proxy.yaml: registries: expected a section with keys of its own, got [\"docker.io\"]",
            "proxy.yaml: upload: expected a section with keys of its own, got 5",
        ]
    );
    assert_eq!(
        given("- a").bad(),
        ["proxy.yaml: expected a section with keys of its own, got [\"a\"]"]
    );
}

#[test]
fn what_is_not_yaml_says_where() {
    let lines = given("upload: {\n").bad();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(
        lines[0].starts_with("proxy.yaml: this is not YAML: ") && lines[0].contains("line"),
        "{lines:?}"
    );
    let lines = given("name: a\nname: b\n").bad();
    assert!(lines[0].contains("duplicate"), "{lines:?}");
    let missing = given("");
    std::fs::remove_file(missing.dir.path().join("proxy.yaml")).unwrap();
    assert!(missing.bad()[0].starts_with("proxy.yaml: the file cannot be read: "));
}

#[test]
fn yaml_that_is_written_hides_secrets_and_can_be_read() {
    let mut config = Config {
        name: "a: b".into(),
        ..Config::default()
    };
    let text = to_yaml(&config).unwrap();
    assert_eq!(given(&text).good(), config);
    config.upload.password = Secret::new("hunter2");
    let text = to_yaml(&config).unwrap();
    assert!(text.contains("<redacted>") && !text.contains("hunter2"), "{text}");
}

#[test]
fn settings_are_split_at_dots_outside_quotes() {
    let split = |text| split_setting(text).map(|(path, value)| (path.join("/"), value));
    assert_eq!(split("a.b=c=d"), Some(("a/b".into(), "c=d")));
    assert_eq!(split("a.\"b.c\".d="), Some(("a/b.c/d".into(), "")));
    for bad in ["", "a", "=b", "a.=b", "a..b=c", "\"a=b", "\"a\"b=c"] {
        assert_eq!(split(bad), None, "{bad}");
    }
}

proptest! {
    #[test]
    fn no_file_makes_it_panic(yaml in "[a-z:{}\\[\\],\\- \n\"&*!0-9]{0,80}", setting in ".{0,30}") {
        let _ = given(&yaml).set(&setting).load();
    }
}
