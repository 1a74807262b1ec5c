//! Sources of credentials: what they say, and what happens when they say nothing, too much, too late or nonsense.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use tempfile::TempDir;

use super::kubelet::{matches, period};
use super::*;

/// A directory with configurations and programs.
struct Lab(TempDir);

impl Lab {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    /// A program; each run of it adds a line to `runs`.
    fn program(&self, name: &str, script: &str) -> PathBuf {
        let runs = self.0.path().join("runs");
        let text = format!("#!/bin/sh\necho x >> {}\n{script}\n", runs.display());
        let (source, program) = (self.file("source", &text, 0o600), self.0.path().join(name));
        // Copied by another process: a file that this one has open for writing, in whatever thread, cannot be run.
        let copied = std::process::Command::new("install")
            .args(["-m", "755"])
            .args([&source, &program])
            .status();
        assert!(copied.unwrap().success());
        program
    }

    fn runs(&self) -> usize {
        std::fs::read_to_string(self.0.path().join("runs")).map_or(0, |text| text.lines().count())
    }

    fn docker(&self, text: &str) -> Logins {
        let docker_config = Some(self.file("config.json", text, 0o600));
        self.logins(CredentialsConfig {
            docker_config,
            ..CredentialsConfig::default()
        })
    }

    /// One provider for `*.test`, with a script.
    fn kubelet(&self, script: &str) -> Logins {
        self.program("provider", script);
        let config = "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n\
             - name: provider\n  matchImages: ['*.test', '*.test:5000']\n  defaultCacheDuration: 1h\n\
             \x20 apiVersion: credentialprovider.kubelet.k8s.io/v1\n  args: [get]\n\
             \x20 env:\n  - name: FLAVOUR\n    value: vanilla\n";
        self.logins(CredentialsConfig {
            kubelet_config: Some(self.file("kubelet.yaml", config, 0o644)),
            kubelet_bin_dir: Some(self.0.path().to_owned()),
            ..CredentialsConfig::default()
        })
    }

    fn logins(&self, config: CredentialsConfig) -> Logins {
        Logins::new(config, "registry.test".parse().unwrap())
    }
}

/// What a provider answers.
fn answer(key: &str, life: &str, auth: &str) -> String {
    format!(
        r#"cat > /dev/null; cat <<'END'
{{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderResponse",
"cacheKeyType":"{key}","cacheDuration":"{life}","auth":{{{auth}}}}}
END"#
    )
}

fn basic(user: &str, password: &str) -> Option<Login> {
    Some(Login::basic(user, password).unwrap())
}

async fn problem(logins: &Logins) -> String {
    logins.ask("a").await.unwrap_err().to_string()
}

#[tokio::test]
async fn dockers_own_entries_in_all_their_forms() {
    let lab = Lab::new();
    let pair = STANDARD.encode("anna:se:cret");
    for (key, entry) in [
        ("registry.test", format!(r#"{{"auth":"{pair}"}}"#)),
        ("https://registry.test", format!(r#"{{"auth":"{pair}"}}"#)),
        ("https://registry.test/v1/", format!(r#"{{"auth":"{pair}"}}"#)),
        (
            "Registry.test",
            r#"{"username":"anna","password":"se:cret"}"#.to_owned(),
        ),
    ] {
        let logins = lab.docker(&format!(r#"{{"auths":{{"other.test":{{}},"{key}":{entry}}}}}"#));
        assert_eq!(logins.get("a", None).await, basic("anna", "se:cret"), "{key}");
    }
    let token = lab.docker(r#"{"auths":{"registry.test":{"registrytoken":"abc"}}}"#);
    assert_eq!(token.get("a", None).await, Some(Login::token("abc").unwrap()));
}

#[tokio::test]
async fn a_file_that_cannot_be_used_says_why_and_nothing_of_what_is_in_it() {
    let lab = Lab::new();
    for (text, expected) in [
        ("{\"auths\": canary", "line 1"),
        (
            r#"{"auths":{"other.test":{"auth":"canary"}}}"#,
            "none for this registry",
        ),
        (r#"{"auths":{"registry.test":{"auth":"canary"}}}"#, "base64"),
        (
            r#"{"auths":{"registry.test":{"identitytoken":"canary"}}}"#,
            "identity tokens",
        ),
        (
            r#"{"credHelpers":{"registry.test":"../canary"}}"#,
            "not a program's name",
        ),
        (
            r#"{"credHelpers":{"registry.test":"is-not-there"}}"#,
            "docker-credential-is-not-there: cannot be run",
        ),
    ] {
        let told = problem(&lab.docker(text)).await;
        assert!(told.contains(expected), "{told}");
        assert!(!told.contains("canary"), "{told}");
    }
    let logins = lab.docker("{}");
    lab.file("config.json", "{}", 0o644);
    assert!(problem(&logins).await.contains("chmod 600"));
}

#[tokio::test]
async fn a_provider_is_asked_in_its_own_words_and_only_when_its_answer_is_old() {
    let lab = Lab::new();
    let seen = lab.0.path().join("seen");
    let script = format!(
        "cat > {0}; echo \" $1 $FLAVOUR\" >> {0}\n{1}",
        seen.display(),
        answer(
            "Registry",
            "1h",
            r#""registry.test":{"username":"anna","password":"one"},"*.test":{"username":"x","password":"y"}"#
        )
        .replacen("cat > /dev/null; ", "", 1)
    );
    let logins = lab.kubelet(&script);
    for repository in ["a", "b", "a"] {
        assert_eq!(logins.get(repository, None).await, basic("anna", "one"));
    }
    assert_eq!(lab.runs(), 1);
    let seen = std::fs::read_to_string(seen).unwrap();
    assert!(seen.contains(r#""kind":"CredentialProviderRequest""#), "{seen}");
    assert!(
        seen.contains(r#""image":"registry.test/a""#) && seen.contains(" get vanilla"),
        "{seen}"
    );
}

#[tokio::test]
async fn what_is_for_one_image_is_asked_for_each_and_what_may_not_be_kept_each_time() {
    let lab = Lab::new();
    let auth = r#""*.test":{"username":"anna","password":"one"}"#;
    let logins = lab.kubelet(&answer("Image", "1h", auth));
    for repository in ["a", "b", "a", "b"] {
        assert_eq!(logins.get(repository, None).await, basic("anna", "one"));
    }
    assert_eq!(lab.runs(), 2);
    let logins = lab.kubelet(&answer("Global", "0", auth));
    for _ in 0..2 {
        assert_eq!(logins.get("a", None).await, basic("anna", "one"));
    }
    assert_eq!(lab.runs(), 4);
}

#[tokio::test]
async fn providers_that_fail_give_nothing_and_are_left_alone_for_a_while() {
    let lab = Lab::new();
    let wordy = "head -c 3000000 /dev/zero | tr '\\0' x";
    for (script, expected) in [
        ("echo canary; exit 3", "it failed"),
        ("kill -SEGV $$", "it failed"),
        ("echo canary", "not a CredentialProviderResponse"),
        ("echo '{\"kind\":\"canary\"}'", "not a CredentialProviderResponse"),
        (wordy, "it says more than"),
        (&answer("Registry", "soon", ""), "cacheDuration"),
        (&answer("Planet", "1h", ""), "not a CredentialProviderResponse"),
        (
            &answer("Registry", "1h", r#""other.example":{"username":"canary"}"#),
            "none for this registry",
        ),
        (
            &answer("Registry", "1h", r#""*.test":{"username":"canary:x"}"#),
            "colon",
        ),
    ] {
        let told = problem(&lab.kubelet(script)).await;
        assert!(told.contains(expected), "{script}: {told}");
        assert!(!told.contains("canary"), "{told}");
    }
    let logins = lab.kubelet("exit 1");
    let before = lab.runs();
    for _ in 0..5 {
        assert_eq!(logins.get("a", None).await, None);
    }
    assert_eq!(lab.runs(), before + 1);
}

#[tokio::test]
async fn a_program_that_hangs_is_ended() {
    let lab = Lab::new();
    let pid = lab.0.path().join("pid");
    let logins = lab.kubelet(&format!("echo $$ > {}\nexec sleep 600", pid.display()));
    let told = problem(&logins).await;
    assert!(told.contains("did not answer within"), "{told}");
    let pid = std::fs::read_to_string(pid).unwrap();
    let proc = PathBuf::from(format!("/proc/{}/comm", pid.trim()));
    // It is killed, then waited for by the runtime.
    while std::fs::read_to_string(&proc).is_ok_and(|name| name.trim() == "sleep") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn many_who_wait_run_one_program() {
    let lab = Lab::new();
    let auth = r#""*.test":{"username":"anna","password":"one"}"#;
    let logins = lab.kubelet(&format!("sleep 0.2\n{}", answer("Registry", "1h", auth)));
    let all = futures_util::future::join_all((0..20).map(|_| logins.get("a", None))).await;
    assert!(all.iter().all(|login| *login == basic("anna", "one")));
    assert_eq!(lab.runs(), 1);
}

#[tokio::test]
async fn files_are_read_again_when_what_was_in_them_is_refused() {
    let lab = Lab::new();
    let (user, password) = (
        lab.file("user", "anna\n", 0o600),
        lab.file("password", "one\n", 0o600),
    );
    let logins = lab.logins(CredentialsConfig {
        username_file: Some(user),
        password_file: Some(password),
        ..CredentialsConfig::default()
    });
    let first = logins.get("a", None).await;
    assert_eq!(first, basic("anna", "one"));
    lab.file("password", "two", 0o600);
    assert_eq!(logins.get("a", None).await, first, "kept");
    assert_eq!(logins.get("a", first.as_ref()).await, basic("anna", "two"));
    let second = logins.get("a", None).await;
    assert_eq!(
        logins.get("a", second.as_ref()).await,
        None,
        "nothing else is there"
    );
}

#[test]
fn images_are_matched_as_the_kubelet_does() {
    for (pattern, image, fits) in [
        ("registry.test", "registry.test/a", true),
        ("*.test", "registry.test/a", true),
        ("*.*.test", "registry.test/a", false),
        ("*.test", "a.registry.test/a", false),
        ("reg*.test", "registry.test/a", true),
        ("registry.test/a", "registry.test/a/b", true),
        ("registry.test/b", "registry.test/a", false),
        ("registry.test:5000", "registry.test:5000/a", true),
        ("registry.test", "registry.test:5000/a", false),
        ("registry.test:5000", "registry.test/a", false),
        ("https://registry.test/", "registry.test/a", true),
        ("*", "registry.test/a", false),
        ("r*g*r*.t?st", "registry.test/a", true),
        ("r*x*.test", "registry.test/a", false),
    ] {
        assert_eq!(matches(pattern, image), fits, "{pattern} {image}");
    }
}

#[test]
fn durations_are_read_as_go_writes_them() {
    for (text, seconds) in [
        ("0", Some(0.0)),
        ("12h0m0s", Some(43_200.0)),
        ("1.5h", Some(5400.0)),
        ("5m30s", Some(330.0)),
        ("250ms", Some(0.25)),
        ("", None),
        ("5", None),
        ("h", None),
        ("-5m", None),
        ("5 m", None),
        ("1d", None),
        ("1..5h", None),
        ("99999999999999999999h", None),
    ] {
        assert_eq!(period(text).map(|period| period.as_secs_f64()), seconds, "{text}");
    }
}

#[tokio::test]
async fn a_client_of_another_kind_gets_what_docker_has() {
    let lab = Lab::new();
    let text = r#"{ "auths": {
        "registry.test": { "auth": "dXNlcjpjYW5hcnk6d2l0aDpjb2xvbnM=" },
        "token.test": { "registrytoken": "canary" } } }"#;
    let path = lab.file("docker.json", text, 0o600);
    let ask = async |registry: &str| docker_login(&path, &registry.parse().unwrap()).await;
    let basic = ask("registry.test").await.unwrap().unwrap();
    assert_eq!(
        basic,
        DockerLogin::Basic("user".to_owned(), "canary:with:colons".to_owned())
    );
    assert!(!format!("{basic:?}").contains("canary"));
    let token = ask("token.test").await.unwrap();
    assert_eq!(token, Some(DockerLogin::Token("canary".to_owned())));
    assert_eq!(ask("other.test").await.unwrap(), None);
    let open = lab.file("open.json", text, 0o644);
    let refused = docker_login(&open, &"registry.test".parse().unwrap()).await;
    assert!(refused.unwrap_err().contains("chmod"));
}
