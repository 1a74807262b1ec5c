//! Whether Docker asks the proxy: its mirrors, the `hosts.toml` of the containerd image store, or the forward proxy.

use darter_containerd_config::docker::{self, Inspection, Options};

use super::super::finding::Finding;
use super::super::runtime::Kind;
use super::{Judged, Question};

const CHECK: &str = "docker";
/// Where Docker looks for Docker Hub.
const DOCKER_HUB: &str = "registry-1.docker.io";

pub(super) fn judge(question: &Question<'_>) -> Judged {
    let options = Options {
        mirror: question.mirror.clone(),
        ..Options::new(question.root)
    };
    let seen = match docker::inspect(&options, question.registry) {
        Ok(seen) => seen,
        Err(error) => return Judged::broken(Kind::Docker, &error),
    };
    let found = by_mirror(question, &seen).or_else(|| by_forward_proxy(question, &seen));
    match found {
        Some(finding) => Judged {
            kind: Kind::Docker,
            asks: true,
            meant: true,
            findings: vec![finding],
        },
        None => Judged::not_set_up(Kind::Docker, question, advice(question)),
    }
}

fn is_hub(question: &Question<'_>) -> bool {
    question.registry.to_string() == "docker.io"
}

fn by_mirror(question: &Question<'_>, seen: &Inspection) -> Option<Finding> {
    let (mirror, registry) = (question.mirror, question.registry);
    let of_daemon = seen.mirror.filter(|_| is_hub(question));
    let first = of_daemon.or_else(|| seen.hosts.as_ref().map(|entry| entry.first))?;
    Some(match first {
        true => Finding::ok(CHECK, format!("{registry} is pulled through {mirror}")),
        false => Finding::warn(
            CHECK,
            format!("another mirror of {registry} stands before {mirror}"),
            "darter setup docker puts it first; then systemctl reload docker",
        ),
    })
}

fn by_forward_proxy(question: &Question<'_>, seen: &Inspection) -> Option<Finding> {
    let listen = question.forward.listen?.to_string();
    let proxy = seen.proxy.as_deref()?.trim_end_matches('/');
    // A user and a password may stand before the address: they are not to be shown.
    if proxy.rsplit(['/', '@']).next() != Some(listen.as_str()) {
        return None;
    }
    let name = question.registry.to_string();
    let host = match is_hub(question) {
        true => DOCKER_HUB,
        false => name.rsplit_once(':').map_or(name.as_str(), |(host, _)| host),
    };
    let hosts = &question.forward.intercept.hosts;
    Some(match hosts.iter().any(|pattern| pattern.matches(host)) {
        true => Finding::ok(CHECK, format!("{name} is pulled through the forward proxy")),
        false => Finding::warn(
            CHECK,
            format!("{name} is pulled through the forward proxy unread: nothing of it is shared"),
            format!(
                "name {host} in forward.intercept.hosts, then darter setup docker --proxy http://{listen} --ca …"
            ),
        ),
    })
}

fn advice(question: &Question<'_>) -> String {
    let (mirror, registry) = (question.mirror, question.registry);
    match is_hub(question) {
        true => format!("darter setup docker --mirror {mirror}, then systemctl reload docker"),
        false => format!(
            "with the containerd image store: darter setup docker --registry {registry} --mirror {mirror}; \
             with the classic one, which knows mirrors for Docker Hub alone: --proxy, see docs/operate/docker.md"
        ),
    }
}

#[cfg(test)]
mod tests {
    use darter_containerd_config::Mirror;
    use darter_proxy::forward::ForwardConfig;

    use super::super::super::finding::State;
    use super::super::super::testing::{node, told};
    use super::*;

    const DAEMON: &str = "etc/docker/daemon.json";

    fn look(files: &[(&str, &str)], registry: &str) -> Judged {
        let root = node(files);
        let forward = serde_json::json!({
            "listen": "127.0.0.1:4003",
            "intercept": { "hosts": ["registry.example"] },
        });
        let forward: ForwardConfig = serde_json::from_value(forward).unwrap();
        judge(&Question {
            root: root.path(),
            mirror: &Mirror::default(),
            forward: &forward,
            registry: &registry.parse().unwrap(),
        })
    }

    #[test]
    fn mirrors_count_for_docker_hub() {
        let ours = (DAEMON, "{\"registry-mirrors\": [\"http://127.0.0.1:4001\"]}");
        told(
            &look(&[ours], "docker.io").findings,
            State::Ok,
            "docker.io is pulled",
        );
        let behind = "{\"registry-mirrors\": [\"https://m\", \"http://127.0.0.1:4001\"]}";
        let behind = look(&[(DAEMON, behind)], "docker.io");
        told(&behind.findings, State::Warn, "stands before");
        told(&look(&[ours], "ghcr.io").findings, State::Fail, "does not ask");
        told(&look(&[], "docker.io").findings, State::Fail, "does not ask");
        told(
            &look(&[(DAEMON, "{")], "docker.io").findings,
            State::Fail,
            "daemon.json",
        );
    }

    #[test]
    fn the_forward_proxy_counts_and_shares_what_it_reads() {
        let unit = "etc/systemd/system/docker.service.d/90-darter-proxy.conf";
        let ours = "[Service]\nEnvironment=\"HTTPS_PROXY=http://me:secret@127.0.0.1:4003\"\n";
        let read = look(&[(unit, ours)], "registry.example:5000");
        told(&read.findings, State::Ok, "through the forward proxy");
        let unread = look(&[(unit, ours)], "ghcr.io");
        told(&unread.findings, State::Warn, "nothing of it is shared");
        assert!(unread.asks && !format!("{:?}", unread.findings).contains("secret"));
        let other = "[Service]\nEnvironment=\"HTTPS_PROXY=http://10.0.0.1:3128\"\n";
        assert!(!look(&[(unit, other)], "ghcr.io").asks);
    }
}
