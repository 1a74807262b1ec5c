//! The Helm chart, rendered by the real helm: what comes out is what is written down, is of Kubernetes' own schemas, and has
//! configurations that the real roles accept.
//!
//! `DARTER_BLESS=1` writes the golden files and the README anew: read the diff. helm and the schemas are installed by
//! `cargo xtask test` into `target/tools`.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on fails the test"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// The value sets, each with a golden file. Together they change every value.
const SETS: [&str; 7] = [
    "default",
    "mtls",
    "manager-postgres",
    "snapshotter",
    "named",
    "elsewhere",
    "alone",
];
/// The oldest release that the chart says it is for, and the newest whose schemas there are.
const KUBERNETES: [&str; 2] = ["1.25", "1.37"];
/// Values whose content is the operator's: they are given on as they are.
const OPAQUE: [&str; 4] = ["resources", "nodeSelector", "updateStrategy", "proxyVolume"];
/// What a pod is told of itself, as Kubernetes would.
const FIELDS: [(&str, &str); 2] = [("spec.nodeName", "node-1"), ("status.podIP", "10.0.0.7")];

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/darter")
}

/// `target/tools`, beside the folder of this build's profile.
fn tools() -> PathBuf {
    let binary = Path::new(env!("CARGO_BIN_EXE_darter"));
    binary.ancestors().nth(2).unwrap().join("tools")
}

fn helm(arguments: &[&str]) -> Output {
    let installed = tools().join("bin/helm");
    let program = if installed.is_file() {
        installed
    } else {
        PathBuf::from("helm")
    };
    let output = Command::new(program)
        .args(arguments)
        .env("HELM_CONFIG_HOME", tools().join("helm"))
        .output();
    output.expect("helm: `cargo xtask test` installs it")
}

fn text(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

/// The file of a set.
fn values(set: &str) -> String {
    chart()
        .join(format!("tests/values/{set}.yaml"))
        .display()
        .to_string()
}

/// `helm template` of a set, with more arguments.
fn template(set: &str, more: &[&str]) -> Output {
    let (chart, values) = (chart().display().to_string(), values(set));
    let fixed = [
        "template",
        "darter",
        &chart,
        "--namespace=images",
        "--values",
        &values,
    ];
    helm(&[&fixed[..], more].concat())
}

fn rendered(set: &str) -> String {
    let output = template(set, &[]);
    let (out, error) = text(&output);
    assert!(output.status.success(), "{set}: {error}");
    out
}

/// The objects of a set.
fn objects(set: &str) -> Vec<Value> {
    let all = rendered(set);
    let documents = all.split("\n---\n").map(|one| one.trim_start_matches("---\n"));
    let objects = documents.map(|one| {
        serde_saphyr::from_str::<Value>(one).unwrap_or_else(|error| panic!("{set}: {error}\n{one}"))
    });
    objects.filter(|object| !object.is_null()).collect()
}

fn kind(object: &Value) -> &str {
    object["kind"].as_str().unwrap()
}

/// What a file of the repository must be; written anew if that is asked for.
fn is_golden(path: &Path, now: &str) {
    if std::env::var_os("DARTER_BLESS").is_some() {
        std::fs::write(path, now).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    let first = written
        .lines()
        .zip(now.lines())
        .position(|(one, other)| one != other);
    let at = first.unwrap_or(written.lines().count().min(now.lines().count()));
    assert!(
        written == now,
        "{} is not what it is made from, from line {} on; DARTER_BLESS=1 writes it anew",
        path.display(),
        at + 1
    );
}

#[test]
fn helm_finds_nothing_wrong() {
    for set in SETS {
        let output = helm(&[
            "lint",
            "--strict",
            &chart().display().to_string(),
            "--values",
            &values(set),
        ]);
        let (out, error) = text(&output);
        assert!(output.status.success(), "{set}: {out}{error}");
    }
}

#[test]
fn each_set_renders_as_written_down() {
    for set in SETS {
        is_golden(&chart().join(format!("tests/golden/{set}.yaml")), &rendered(set));
    }
}

#[test]
fn kubernetes_schemas_are_met() {
    let dir = tempfile::tempdir().unwrap();
    for set in SETS {
        // Those of cert-manager and of the Prometheus operator are no part of Kubernetes.
        let own = objects(set).into_iter().filter(|object| {
            let api = object["apiVersion"].as_str().unwrap();
            !api.starts_with("cert-manager.io/") && !api.starts_with("monitoring.coreos.com/")
        });
        let documents: Vec<String> = own.map(|object| object.to_string()).collect();
        let file = dir.path().join(format!("{set}.yaml"));
        std::fs::write(&file, documents.join("\n---\n")).unwrap();
        for version in KUBERNETES {
            let output = Command::new("python3")
                .args(["-m", "kubernetes_validate", "--strict", "--quiet", "-k", version])
                .arg(&file)
                .env("PYTHONPATH", tools().join("python"))
                .output();
            let output = output.expect("python3: `cargo xtask test` installs what is needed");
            let (out, error) = text(&output);
            assert!(
                !error.contains("No module named"),
                "kubernetes_validate: `cargo xtask test` installs it: {error}"
            );
            assert!(output.status.success(), "{set} at {version}: {out}{error}");
        }
    }
}

/// Nobody is promised a release whose schemas the objects were never held against.
#[test]
fn older_kubernetes_is_refused() {
    let [oldest, _] = KUBERNETES;
    assert_eq!(read("Chart.yaml")["kubeVersion"], format!(">={oldest}.0-0"));
    assert!(template("default", &["--kube-version", oldest]).status.success());
    let output = template("default", &["--kube-version", "1.24.17"]);
    let (_, error) = text(&output);
    assert!(error.contains("kubeVersion"), "{error}");
}

/// Paths of all values, as JSON pointers.
fn leaves(value: &Value, path: &str, all: &mut Vec<String>) {
    let opaque = OPAQUE.iter().any(|key| path.ends_with(&format!("/{key}")));
    match value.as_object().filter(|object| !object.is_empty() && !opaque) {
        Some(object) => {
            for (key, inner) in object {
                leaves(inner, &format!("{path}/{key}"), all);
            }
        }
        None => all.push(path.to_owned()),
    }
}

/// A value that no template reads would be silence, and one that no set changes is in no golden file.
#[test]
fn every_value_changes_what_is_rendered() {
    let mut all = Vec::new();
    leaves(&read("values.yaml"), "", &mut all);
    assert!(all.len() > 100, "{all:?}");
    let sets = SETS.map(|set| (set, read(&format!("tests/values/{set}.yaml")), rendered(set)));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("values.yaml");
    let chart = chart().display().to_string();
    for leaf in all {
        let counts = sets.iter().any(|(_, set, with)| {
            let mut set = set.clone();
            let (above, key) = leaf.rsplit_once('/').unwrap();
            let section = set.pointer_mut(above).and_then(Value::as_object_mut);
            if section.and_then(|section| section.remove(key)).is_none() {
                return false;
            }
            std::fs::write(&file, set.to_string()).unwrap();
            let values = file.display().to_string();
            let without = helm(&[
                "template",
                "darter",
                &chart,
                "--namespace=images",
                "--values",
                &values,
            ]);
            // What is refused without it is read as well.
            text(&without).0 != *with
        });
        assert!(counts, "no set has {leaf}, or it changes nothing");
    }
}

/// A file of the chart.
fn read(file: &str) -> Value {
    serde_saphyr::from_str(&std::fs::read_to_string(chart().join(file)).unwrap()).unwrap()
}

/// The object of a kind and a name.
fn object<'a>(objects: &'a [Value], of: &str, name: &str) -> &'a Value {
    let mut found = objects
        .iter()
        .filter(|object| kind(object) == of && object["metadata"]["name"] == name);
    found.next().unwrap_or_else(|| panic!("no {of} {name}"))
}

/// The configuration in the ConfigMap of a role.
fn configuration(objects: &[Value], map: &str) -> Value {
    let data = object(objects, "ConfigMap", map)["data"].as_object().unwrap();
    let text = data.values().next().unwrap().as_str().unwrap();
    serde_saphyr::from_str(text).unwrap()
}

/// All join the manager of the chart where it really is, with what it wants to see, as soon as there is such a thing.
#[test]
fn roles_join_the_manager() {
    for (set, joins) in [("mtls", true), ("snapshotter", true), ("manager-postgres", false)] {
        let objects = objects(set);
        let (host, port) = ("darter-manager.images.svc.cluster.local", 65003);
        let service = object(&objects, "Service", "darter-manager");
        let ports = service.pointer("/spec/ports").unwrap().as_array().unwrap();
        assert!(ports.iter().any(|one| one["port"] == port), "{set}: {ports:?}");
        let policy = object(&objects, "NetworkPolicy", "darter-manager");
        let rules = policy.pointer("/spec/ingress").unwrap().as_array().unwrap();
        assert!(rules.iter().any(|rule| rule["ports"][0]["port"] == port), "{set}");
        let manager = configuration(&objects, "darter-manager");
        assert_eq!(manager["roles"]["listen"], format!("0.0.0.0:{port}"), "{set}");
        for (role, of) in [
            ("proxy", "DaemonSet"),
            ("seed", "StatefulSet"),
            ("scheduler", "StatefulSet"),
        ] {
            let told = configuration(&objects, &format!("darter-{role}"));
            if !joins {
                assert!(told.get("manager").is_none(), "{set} {role}");
                continue;
            }
            assert_eq!(
                told["manager"]["addresses"],
                serde_json::json!([format!("{host}:{port}")])
            );
            let pod = pod(object(&objects, of, &format!("darter-{role}"))).unwrap();
            let mounts = pod["containers"][0]["volumeMounts"].to_string();
            let kept = told["manager"]["dir"].as_str().unwrap();
            assert!(mounts.contains(&format!("\"mountPath\":\"{kept}\"")), "{mounts}");
            if set == "mtls" {
                assert!(manager["roles"]["tls"]["certFile"].is_string());
                let certificate = object(&objects, "Certificate", "darter-manager");
                let names = certificate["spec"]["dnsNames"].to_string();
                assert!(names.contains(&format!("\"{host}\"")), "{names}");
                continue;
            }
            assert_eq!(told["manager"]["joinTokenFile"], "/etc/darter/join/token");
            assert!(mounts.contains("\"mountPath\":\"/etc/darter/join\""), "{mounts}");
            assert!(
                pod["volumes"]
                    .to_string()
                    .contains("\"secretName\":\"darter-join\"")
            );
        }
    }
}

/// Who is elsewhere gets no certificate and is not scraped here.
#[test]
fn nothing_is_made_for_schedulers_elsewhere() {
    let elsewhere = "--set=scheduler.addresses={scheduler.example:8002}";
    let output = template("mtls", &[elsewhere]);
    let (out, error) = text(&output);
    assert!(output.status.success(), "{error}");
    assert!(!out.contains("name: darter-scheduler"), "{out}");
    assert!(rendered("mtls").contains("name: darter-scheduler"));
}

/// What is wrong is refused before anything is installed, with the place.
#[test]
fn wrong_values_are_refused() {
    let cases = [
        ("proxy.hostNetwrok=true", "hostNetwrok"),
        ("seed.replicas=two", "/seed/replicas"),
        ("proxy.ports.mirror=70000", "/proxy/ports/mirror"),
        ("proxy.containerd.mode=always", "/proxy/containerd/mode"),
        ("proxy.store.quota=much", "/proxy/store/quota"),
        ("proxy.store.hostPath=var/lib", "/proxy/store/hostPath"),
        ("image.digest=sha256:1", "/image/digest"),
        ("networkPolicy.nodeCIDRs={10.0.0.1}", "/networkPolicy/nodeCIDRs"),
        ("tls.enabled=true", "Secret: name the Secret"),
        (
            "tls.enabled=true,tls.certManager.enabled=true",
            "tls.certManager.issuerRef.name",
        ),
        ("manager.enabled=true,manager.replicas=2", "need Postgres"),
        (
            "manager.enabled=true,manager.config.database.url=postgres://a:b@c/d",
            "existingSecret",
        ),
        ("manager.addresses={m:65003}", "manager.join.existingSecret"),
        (
            "manager.enabled=true,manager.join.existingSecret=join",
            "manager.join.plain",
        ),
        (
            "tls.enabled=true,tls.schedulerSecret=a,tls.seedSecret=b,manager.enabled=true",
            "tls.managerSecret",
        ),
    ];
    for (set, place) in cases {
        let output = template("default", &["--set", set]);
        let (_, error) = text(&output);
        assert!(!output.status.success(), "{set} was taken");
        assert!(error.contains(place), "{set}: {error}");
    }
}

/// The pod templates of an object.
fn pod(object: &Value) -> Option<&Value> {
    object.pointer("/spec/template/spec")
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    let of = |key: &str| pod[key].as_array().into_iter().flatten();
    of("initContainers").chain(of("containers"))
}

/// The environment of a container of `pod`, as the kubelet would make it.
fn environment(container: &Value, pod: &str) -> Vec<(String, String)> {
    let mut made: Vec<(String, String)> = Vec::new();
    for entry in container["env"].as_array().into_iter().flatten() {
        let name = entry["name"].as_str().unwrap().to_owned();
        let value = if let Some(field) = entry.pointer("/valueFrom/fieldRef/fieldPath") {
            let mut known = FIELDS.into_iter().chain([("metadata.name", pod)]);
            let known = known.find(|(path, _)| field == path);
            known.unwrap_or_else(|| panic!("{field}")).1.to_owned()
        } else if entry.pointer("/valueFrom/secretKeyRef").is_some() {
            "postgres://darter:secret@db/darter".to_owned()
        } else {
            let mut value = entry["value"].as_str().unwrap().to_owned();
            for (name, before) in &made {
                value = value.replace(&format!("$({name})"), before);
            }
            value
        };
        assert!(!value.contains("$("), "{name}={value} names what is not there");
        made.push((name, value));
    }
    made
}

/// Each `--config` of each container, as its ConfigMap has it, with the container's environment, is one that the role can use.
#[test]
fn the_roles_accept_their_configurations() {
    let mut checked = BTreeMap::<String, usize>::new();
    let dir = tempfile::tempdir().unwrap();
    for set in SETS {
        let objects = objects(set);
        let maps = objects.iter().filter(|object| kind(object) == "ConfigMap");
        let maps: BTreeMap<&str, &Value> = maps
            .map(|map| (map.pointer("/metadata/name").unwrap().as_str().unwrap(), map))
            .collect();
        for object in &objects {
            let Some(pod) = pod(object) else { continue };
            let name = object["metadata"]["name"].as_str().unwrap();
            let volumes = pod["volumes"].as_array().unwrap();
            let map = volumes
                .iter()
                .find_map(|volume| volume.pointer("/configMap/name")?.as_str());
            for container in containers(pod) {
                let arguments: Vec<&str> = container["args"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|word| word.as_str().unwrap())
                    .collect();
                let [role, "run", config] = arguments[..] else {
                    continue;
                };
                let file = config.strip_prefix("--config=/etc/darter/").unwrap();
                let text = maps[map.unwrap()]["data"][file].as_str().unwrap();
                let path = dir.path().join(file);
                std::fs::write(&path, text).unwrap();
                let output = Command::new(env!("CARGO_BIN_EXE_darter"))
                    .args([role, "check-config", "--config"])
                    .arg(&path)
                    .envs(environment(container, &format!("{name}-0")))
                    .output()
                    .unwrap();
                let error = String::from_utf8_lossy(&output.stderr);
                assert!(output.status.success(), "{set} {role}: {error}\n{text}");
                *checked
                    .entry(container["name"].as_str().unwrap().to_owned())
                    .or_default() += 1;
            }
        }
    }
    let expected = [("manager", 4), ("proxy", 6), ("scheduler", 5), ("seed", 6)];
    assert!(
        checked
            .iter()
            .map(|(role, count)| (role.as_str(), *count))
            .eq(expected),
        "{checked:?}"
    );
}

/// Arguments that are no role's configuration, for the programs that take them.
#[test]
fn setup_is_asked_for_what_it_understands() {
    let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let etc = root.path().join("etc/containerd");
    std::fs::create_dir_all(&etc).unwrap();
    let before = "version = 2\n";
    std::fs::write(etc.join("config.toml"), before).unwrap();
    let run = |set: &str, more: &[&str]| {
        let output = template(set, more);
        let all = text(&output).0;
        let daemon_set = all
            .split("\n---\n")
            .map(|one| serde_saphyr::from_str::<Value>(one).unwrap())
            .find(|object| object["kind"] == "DaemonSet" && object["metadata"]["name"] == "darter-proxy")
            .unwrap();
        let setup = daemon_set
            .pointer("/spec/template/spec/initContainers/0/args")
            .unwrap();
        let arguments = setup.as_array().unwrap().iter().map(|word| {
            let word = word.as_str().unwrap();
            word.replace("=/host", &format!("={}", root.path().display()))
                .replace("=/var/lib/darter", &format!("={}", state.path().display()))
        });
        let output = Command::new(env!("CARGO_BIN_EXE_darter"))
            .args(arguments)
            .output()
            .unwrap();
        let (out, error) = text(&output);
        assert!(output.status.success(), "{set}: {out}{error}");
        std::fs::read_to_string(etc.join("config.toml")).unwrap()
    };
    let after = run("snapshotter", &[]);
    assert!(after.contains("config_path"), "{after}");
    assert!(
        after.contains("/run/darter-snapshotter/snapshotter.sock"),
        "{after}"
    );
    assert_eq!(
        run("default", &["--set", "proxy.containerd.mode=undo"]),
        before,
        "undo gives back what was there"
    );
}

/// Nothing is more than it must be: privileges, writable roots, tokens, memory without a bound, passwords.
#[test]
fn pods_have_no_more_than_they_need() {
    for set in SETS {
        for object in objects(set) {
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            if kind(&object) == "ConfigMap" {
                let text = object["data"].to_string().to_lowercase();
                for word in ["password:", "postgres://", "private key"] {
                    assert!(!text.contains(word), "{set} {name} has {word}");
                }
            }
            let Some(pod) = pod(&object) else { continue };
            assert_eq!(pod["automountServiceAccountToken"], false, "{set} {name}");
            for container in containers(pod) {
                let place = format!("{set} {name} {}", container["name"]);
                let security = &container["securityContext"];
                assert_eq!(security["readOnlyRootFilesystem"], true, "{place}");
                assert!(container.pointer("/resources/limits/memory").is_some(), "{place}");
                let privileged = security["privileged"] == true;
                assert_eq!(privileged, name.ends_with("-snapshotter"), "{place}");
                if privileged {
                    continue;
                }
                assert_eq!(security["allowPrivilegeEscalation"], false, "{place}");
                assert_eq!(
                    security.pointer("/capabilities/drop/0").unwrap(),
                    "ALL",
                    "{place}"
                );
                let root = pod.pointer("/securityContext/runAsUser").unwrap() == 0;
                // Files of containerd and folders of the node are root's.
                assert_eq!(root, name.ends_with("-proxy"), "{place}");
                if container["name"] != "setup" {
                    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
                        assert!(container.get(probe).is_some(), "{place} has no {probe}");
                    }
                }
            }
        }
    }
}

/// A release of the program is a release of the chart.
#[test]
fn the_chart_has_the_version_of_the_program() {
    let chart = read("Chart.yaml");
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}

/// The part of the README above the table.
const HEAD: &str = "\
# The chart `darter`

Made from `values.yaml`; a test compares them (`DARTER_BLESS=1` writes this anew). How to install, change and remove it is in
[docs/operate/kubernetes.md](../../docs/operate/kubernetes.md).

| Value | Default | What it is |
|---|---|---|
";

/// A row for each key that is no section, with the comments (`# --`) above it.
fn rows(values: &str) -> String {
    let (mut rows, mut path, mut comment) = (String::new(), Vec::<(usize, String)>::new(), String::new());
    for line in values.lines() {
        let trimmed = line.trim_start();
        let depth = line.len() - trimmed.len();
        if let Some(more) = trimmed.strip_prefix("# -- ") {
            more.clone_into(&mut comment);
            continue;
        }
        let Some((key, value)) = trimmed.split_once(':').filter(|_| !trimmed.starts_with('#')) else {
            continue;
        };
        path.retain(|(above, _)| *above < depth);
        path.push((depth, key.to_owned()));
        let value = value.trim();
        if !value.is_empty() {
            let names: Vec<&str> = path.iter().map(|(_, name)| name.as_str()).collect();
            let comment = comment.replace('|', "\\|");
            let cells = format!("| `{}` | `{value}` | {comment} |", names.join("."));
            rows.push_str(&cells.replace("|  |", "| |"));
            rows.push('\n');
        }
        comment.clear();
    }
    rows
}

#[test]
fn the_readme_has_every_value() {
    let values = std::fs::read_to_string(chart().join("values.yaml")).unwrap();
    is_golden(&chart().join("README.md"), &format!("{HEAD}{}", rows(&values)));
}
