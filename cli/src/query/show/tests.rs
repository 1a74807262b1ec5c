//! What the terminal and programs are shown.

use super::*;

fn line() -> pb::TaskLine {
    pb::TaskLine {
        task: format!("sha256:{}", "0123456789abcdef".repeat(4)),
        length: Some(5 * 1024 * 1024 / 2),
        holders: 2,
        waiting: 1,
        lease_holder: "seed-1".into(),
        origin: Some(pb::Origin {
            registry: "docker.io".into(),
            repository: "library/debian".into(),
            kind: pb::ContentKind::Blob.into(),
            digest: String::new(),
        }),
    }
}

fn answer() -> pb::GetTaskResponse {
    pb::GetTaskResponse {
        task: Some(line()),
        peers: vec![
            pb::TaskPeer {
                host: "n1".into(),
                pieces: 3,
                wants: true,
                runs: vec![pb::PieceRun { first: 0, count: 3 }],
                choices: vec![pb::Choice {
                    parent: "seed-1".into(),
                    score: 0.756,
                    reasons: vec!["same rack +0.16".into(), "pieces held +0.10".into()],
                }],
            },
            pb::TaskPeer {
                host: "seed-1".into(),
                pieces: 10,
                ..pb::TaskPeer::default()
            },
        ],
        edges: vec![pb::Edge {
            from: String::new(),
            to: "seed-1".into(),
            bytes: 2048,
        }],
        left_out: 7,
    }
}

#[test]
fn tasks_are_a_table() {
    let expected = "\
TASK                    SIZE  HOLDERS  WAITING  FETCHES FROM ORIGIN  CONTENT
sha256:0123456789ab  2.5 MiB        2        1  seed-1               blob of docker.io/library/debian
";
    assert_eq!(tasks(&[line()]), expected);
    assert!(tasks(&[]).starts_with("no tasks"));
}

#[test]
fn a_task_shows_who_feeds_whom_and_why() {
    let text = task(&answer());
    for expected in [
        "content  blob of docker.io/library/debian\n",
        "fetches from origin now: seed-1\n",
        "HOST    PIECES  STATE\nn1           3  fetching\nseed-1      10  holds\n",
        "Who fed whom:\nFROM    TO        BYTES\norigin  seed-1  2.0 KiB\n",
        "\n7 more nodes and pairs of nodes have no room in one answer.\n",
        "Parents of n1, and why:\nPARENT  SCORE  REASONS\nseed-1   0.76  same rack +0.16, pieces held +0.10\n",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in:\n{text}");
    }
}

#[test]
fn hosts_say_why_they_are_not_chosen() {
    let host = pb::HostLine {
        host: "n1".into(),
        address: "10.0.0.1:4000".into(),
        role: pb::Role::Seed.into(),
        excluded: "sent wrong bytes".into(),
        ..pb::HostLine::default()
    };
    let expected = "\
HOST  ROLE  ADDRESS        LOCALITY  TASKS  SENDING  NOT CHOSEN BECAUSE
n1    seed  10.0.0.1:4000  -             0    0 B/s  sent wrong bytes
";
    assert_eq!(hosts(&[host]), expected);
}

#[test]
fn json_has_whole_names_and_plain_numbers() {
    let parsed: Value = serde_json::from_str(&task_json(&answer())).unwrap();
    assert_eq!(parsed["task"]["lengthBytes"], 2_621_440);
    assert_eq!(parsed["task"]["task"].as_str().unwrap().len(), 71);
    assert_eq!(parsed["edges"][0]["from"], "origin");
    assert_eq!(parsed["leftOut"], 7);
    assert_eq!(parsed["peers"][0]["parents"][0]["parent"], "seed-1");
    let tasks: Value = serde_json::from_str(&tasks_json(&[line()])).unwrap();
    assert_eq!(tasks[0]["origin"]["kind"], "blob");
    let hosts: Value = serde_json::from_str(&hosts_json(&[])).unwrap();
    assert_eq!(hosts, json!([]));
}

#[test]
fn sizes_are_short() {
    for (bytes, text) in [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (100 << 20, "100 MiB"),
        (u64::MAX, "15 EiB"),
    ] {
        assert_eq!(size(bytes), text);
    }
}
