//! Whether a containerd that runs has read its configuration: it does so only at its start.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use darter_containerd_config::containerd::Inspection;

use super::super::finding::Finding;

/// What a containerd reads that was not told otherwise.
const CONFIG: &str = "/etc/containerd/config.toml";
/// The kernel tells times of processes in hundredths of a second, whatever its own clock does.
const TICKS_PER_SECOND: u64 = 100;
/// The kernel tells its own start in whole seconds.
const SLACK: Duration = Duration::from_secs(2);
/// Where in `/proc/PID/stat`, behind the name, the time of the start stands.
const START_FIELD: usize = 19;

/// A containerd that runs.
struct Daemon {
    config: PathBuf,
    started: SystemTime,
}

/// A warning for each configuration that is younger than the daemon that has it.
pub(super) fn check(root: &Path, seen: &[Inspection]) -> Vec<Finding> {
    let daemons = running(root);
    let late = |one: &&Inspection| {
        let changed = one.changed.filter(|_| one.config_path);
        daemons
            .iter()
            .filter(|daemon| daemon.config == one.config)
            .any(|daemon| changed.is_some_and(|changed| changed > daemon.started + SLACK))
    };
    seen.iter()
        .filter(late)
        .map(|one| {
            let text = format!(
                "{} was changed after containerd had started, which reads it only then",
                one.config.display()
            );
            let advice = "systemctl restart containerd, if config_path was not set before; containers go on";
            Finding::warn("hosts.toml", text, advice)
        })
        .collect()
}

fn running(root: &Path) -> Vec<Daemon> {
    let proc = root.join("proc");
    let stat = std::fs::read_to_string(proc.join("stat")).unwrap_or_default();
    let booted = stat.lines().find_map(|line| line.strip_prefix("btime "));
    let Some(booted) = booted.and_then(|text| text.trim().parse().ok()) else {
        return Vec::new();
    };
    let booted = UNIX_EPOCH + Duration::from_secs(booted);
    let processes = std::fs::read_dir(&proc).into_iter().flatten().flatten();
    processes
        .filter_map(|process| daemon(&process.path(), booted))
        .collect()
}

/// Nothing where the process is another program, or ends meanwhile.
fn daemon(process: &Path, booted: SystemTime) -> Option<Daemon> {
    let read = |name: &str| std::fs::read_to_string(process.join(name)).ok();
    if read("comm")?.trim() != "containerd" {
        return None;
    }
    let stat = read("stat")?;
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: u64 = fields.split_whitespace().nth(START_FIELD)?.parse().ok()?;
    Some(Daemon {
        config: config(&read("cmdline")?),
        started: booted + Duration::from_secs(ticks / TICKS_PER_SECOND),
    })
}

/// The file that a command line names: `-c FILE`, `--config FILE`, `--config=FILE`.
fn config(cmdline: &str) -> PathBuf {
    let mut words = cmdline.split('\0');
    while let Some(word) = words.next() {
        let named = match word {
            "-c" | "-config" | "--config" => words.next(),
            _ => ["-c=", "-config=", "--config="]
                .iter()
                .find_map(|flag| word.strip_prefix(flag)),
        };
        if let Some(named) = named {
            return PathBuf::from(named);
        }
    }
    PathBuf::from(CONFIG)
}

#[cfg(test)]
mod tests {
    use darter_containerd_config::containerd::{Options, inspect};

    use super::super::super::finding::State;
    use super::super::super::testing::{node, told};
    use super::*;

    const SET: &str = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n";

    /// A containerd that started so many seconds after the kernel, which started in 1970 or long from now.
    fn found(booted: &str, cmdline: &str, config: &str) -> Vec<Finding> {
        let root = node(&[
            ("etc/containerd/config.toml", config),
            ("proc/stat", &format!("cpu 1 2\nbtime {booted}\n")),
            ("proc/7/comm", "containerd\n"),
            (
                "proc/7/stat",
                "7 (containerd (x) y) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 500 20\n",
            ),
            ("proc/7/cmdline", cmdline),
            ("proc/self/comm", "sh\n"),
        ]);
        let seen = inspect(&Options::new(root.path()), &"docker.io".parse().unwrap()).unwrap();
        check(root.path(), &seen)
    }

    #[test]
    fn a_daemon_older_than_its_configuration_is_told() {
        let usual = "/usr/bin/containerd\0";
        told(
            &found("1000", usual, SET),
            State::Warn,
            "was changed after containerd",
        );
        assert_eq!(found("9999999999", usual, SET), []);
        assert_eq!(found("1000", usual, "version = 2\n"), []);
    }

    #[test]
    fn a_daemon_with_another_file_is_none_of_it() {
        for other in [
            "containerd\0--config\0/run/x.toml\0",
            "containerd\0-c=/run/x.toml\0",
        ] {
            assert_eq!(found("1000", other, SET), [], "{other}");
        }
        let same = "containerd\0--config\0/etc/containerd/config.toml\0--log-level\0warn\0";
        assert_eq!(found("1000", same, SET).len(), 1);
    }

    #[test]
    fn where_nothing_runs_nothing_is_said() {
        assert!(running(node(&[]).path()).is_empty());
    }
}
