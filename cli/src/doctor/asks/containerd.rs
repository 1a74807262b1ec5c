//! Whether containerd asks the mirror: `config_path`, the registry's `hosts.toml`, and whether the daemon has read them.

use std::path::Path;
use std::time::Duration;

use darter_containerd_config::containerd::{self, Inspection, Options};
use darter_containerd_config::{Mirror, Registry};

use super::super::finding::Finding;
use super::super::runtime::Kind;
use super::{Judged, Question, started};

const CHECK: &str = "hosts.toml";
/// What a wait for a dead mirror may cost each request of a pull.
const DIAL_TIMEOUT_MAX: Duration = Duration::from_secs(1);
/// What there is where Kubernetes runs: then containerd pulls for it.
const KUBERNETES: [&str; 3] = ["var/lib/kubelet", "usr/bin/kubelet", "var/lib/rancher"];

/// `docker` where a Docker daemon is there too.
pub(super) fn judge(question: &Question<'_>, docker: bool) -> Judged {
    let mut options = Options::new(question.root);
    options.mirror = question.mirror.clone();
    let seen = match containerd::inspect(&options, question.registry) {
        Ok(seen) => seen,
        Err(error) => return Judged::broken(Kind::Containerd, &error),
    };
    let names_it = seen.iter().any(|one| one.entry.is_some());
    let judged = |asks, meant, findings| Judged {
        kind: Kind::Containerd,
        asks,
        meant,
        findings,
    };
    if docker && !names_it && !pulls_itself(question.root, &seen) {
        let text = "containerd serves Docker here and pulls nothing of its own";
        return judged(false, true, vec![Finding::ok(CHECK, text)]);
    }
    let mut findings: Vec<Finding> = seen
        .iter()
        .flat_map(|one| judge_one(one, question.mirror, question.registry))
        .collect();
    findings.extend(started::check(question.root, &seen));
    let asks = seen.iter().any(|one| one.config_path && one.entry.is_some());
    judged(asks, names_it, findings)
}

/// Whether a containerd beside Docker has pulls of its own: Docker's own package turns CRI off.
fn pulls_itself(root: &Path, seen: &[Inspection]) -> bool {
    let kubernetes = KUBERNETES.iter().any(|path| root.join(path).exists());
    kubernetes || seen.iter().any(|one| one.config_path && !one.cri_disabled)
}

fn judge_one(seen: &Inspection, mirror: &Mirror, registry: &Registry) -> Vec<Finding> {
    let check = CHECK;
    let mut findings = Vec::new();
    let setup = "darter setup containerd, then restart containerd if it says so";
    if !seen.config_path {
        let text = format!(
            "{} sets no config_path: hosts.toml is not read",
            seen.config.display()
        );
        findings.push(Finding::fail(check, text, setup));
    }
    if seen.cri_disabled {
        let text = format!("{} disables the CRI plugin", seen.config.display());
        let advice = "for Kubernetes, take cri out of disabled_plugins";
        findings.push(Finding::warn(check, text, advice));
    }
    let Some(hosts) = &seen.hosts else {
        let text = format!("there is no hosts.toml for {registry}");
        findings.push(Finding::fail(check, text, setup));
        return findings;
    };
    let hosts = hosts.display();
    let Some(entry) = &seen.entry else {
        let text = format!("{hosts} does not name {mirror}");
        let advice = format!("darter setup containerd --registry {registry} --mirror {mirror}");
        findings.push(Finding::fail(check, text, advice));
        return findings;
    };
    if !entry.first {
        let advice = "put its [host] table first in the file";
        findings.push(Finding::warn(
            check,
            format!("{hosts} names another host before {mirror}"),
            advice,
        ));
    }
    let written = entry.dial_timeout.as_deref();
    match written.map(|text| (text, go_duration(text))) {
        Some((_, Some(time))) if time <= DIAL_TIMEOUT_MAX => {}
        other => {
            let waits = other.map_or("30s, its default", |(text, _)| text);
            let text =
                format!("{hosts}: containerd waits {waits} for a mirror that is dead, at each request");
            findings.push(Finding::warn(
                check,
                text,
                "set dial_timeout = \"200ms\" there, or run darter setup containerd",
            ));
        }
    }
    if findings.is_empty() {
        let text = format!("{registry} is pulled through {mirror} ({hosts})");
        findings.push(Finding::ok(check, text));
    }
    findings
}

/// Go's notation with one unit, which is what setup and people write.
fn go_duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
}

#[cfg(test)]
mod tests {
    use darter_proxy::forward::ForwardConfig;

    use super::super::super::finding::State;
    use super::super::super::testing::{node, told};
    use super::*;

    fn look(files: &[(&str, &str)], docker: bool) -> Judged {
        let root = node(files);
        let question = Question {
            root: root.path(),
            mirror: &Mirror::default(),
            forward: &ForwardConfig::default(),
            registry: &"docker.io".parse().unwrap(),
        };
        judge(&question, docker)
    }

    fn hosts(files: &[(&str, &str)]) -> Vec<Finding> {
        look(files, false).findings
    }

    const CONFIG: (&str, &str) = (
        "etc/containerd/config.toml",
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n",
    );
    const HOSTS: &str = "etc/containerd/certs.d/docker.io/hosts.toml";

    #[test]
    fn what_is_wrong_with_hosts_toml_is_told() {
        told(&hosts(&[]), State::Fail, "no config_path");
        told(&hosts(&[CONFIG]), State::Fail, "no hosts.toml for docker.io");
        told(
            &hosts(&[CONFIG, (HOSTS, "server = \"https://x\"\n")]),
            State::Fail,
            "does not name",
        );
        let ours = "[host.\"http://127.0.0.1:4001\"]\n";
        told(&hosts(&[CONFIG, (HOSTS, ours)]), State::Warn, "30s");
        let slow = format!("{ours}dial_timeout = \"5s\"\n");
        told(&hosts(&[CONFIG, (HOSTS, &slow)]), State::Warn, "waits 5s");
        let second = format!("[host.\"https://x\"]\n{ours}dial_timeout = \"200ms\"\n");
        told(
            &hosts(&[CONFIG, (HOSTS, &second)]),
            State::Warn,
            "another host before",
        );
        let good = format!("{ours}dial_timeout = \"200ms\"\n");
        told(
            &hosts(&[CONFIG, (HOSTS, &good)]),
            State::Ok,
            "docker.io is pulled through",
        );
        told(&hosts(&[CONFIG, (HOSTS, "not toml")]), State::Fail, "hosts.toml");
        let disabled = ("etc/containerd/config.toml", "disabled_plugins = [\"cri\"]\n");
        told(&hosts(&[disabled]), State::Warn, "disables the CRI plugin");
    }

    #[test]
    fn dockers_own_containerd_needs_no_mirror() {
        let judged = look(&[], true);
        told(&judged.findings, State::Ok, "serves Docker");
        assert!(!judged.asks && judged.meant);
        let kubernetes = look(&[("var/lib/kubelet/config.yaml", "")], true);
        told(&kubernetes.findings, State::Fail, "no config_path");
        told(&look(&[CONFIG], true).findings, State::Fail, "no hosts.toml");
    }

    #[test]
    fn durations_are_read() {
        assert_eq!(go_duration("200ms"), Some(Duration::from_millis(200)));
        assert_eq!(go_duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(go_duration("soon"), None);
    }
}
