//! Merging into an existing `hosts.toml`: ours comes first, everybody else's stays.

use super::*;
use proptest::prelude::*;
use toml_edit::DocumentMut;

const OURS: &str = "http://127.0.0.1:4001";

fn host() -> Host {
    Host::new(
        Runtime::Containerd,
        &Mirror::default(),
        Capabilities::PullAndResolve,
        Duration::from_millis(200),
    )
    .unwrap()
}

fn merged(text: &str) -> Result<String, Error> {
    merge(Path::new("/hosts.toml"), text.as_bytes(), &host())
}

/// containerd's order, found as it does: by the headers, in the order of the text.
fn order(text: &str) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    for line in text
        .lines()
        .map(str::trim_start)
        .filter(|line| line.starts_with("[host."))
    {
        let key = line.split('"').nth(1).unwrap().to_owned();
        if !order.contains(&key) {
            order.push(key);
        }
    }
    order
}

#[test]
fn durations_are_written_as_go_reads_them() {
    assert_eq!(go_duration(Duration::from_millis(200)).as_deref(), Some("200ms"));
    assert_eq!(go_duration(Duration::from_secs(3)).as_deref(), Some("3s"));
    assert_eq!(go_duration(Duration::from_micros(10)), None);
}

#[test]
fn a_right_file_is_not_touched() {
    let text =
        format!("[host.\"{OURS}\"]\n  dial_timeout='200ms'\n  capabilities = ['resolve','pull']\n[host.a]\n");
    assert_eq!(merged(&text).unwrap(), text);
}

#[test]
fn a_comment_at_the_head_stays_with_its_host() {
    let text = "# about a\n[host.\"https://a\"]\n";
    let expected = format!(
        "{}[host.\"{OURS}\"]\ncapabilities = [\"pull\", \"resolve\"]\ndial_timeout = \"200ms\"\n\n{text}",
        Runtime::Containerd.comment()
    );
    assert_eq!(merged(text).unwrap(), expected);
}

#[test]
fn a_host_known_by_its_header_only_is_completed_and_moved() {
    let text = format!("[host.\"https://a\"]\n\n[host.\"{OURS}\".header]\nx = \"1\"\n");
    let after = merged(&text).unwrap();
    assert_eq!(order(&after), [OURS, "https://a"], "{after}");
    let document: DocumentMut = after.parse().unwrap();
    assert_eq!(document["host"][OURS]["header"]["x"].as_str(), Some("1"));
    assert_eq!(document["host"][OURS]["dial_timeout"].as_str(), Some("200ms"));
}

#[test]
fn two_spellings_of_the_mirror_become_one() {
    let text = format!("[host.\"{OURS}/v2\"]\n[host.\"https://a\"]\n[host.\"{OURS}\"]\n");
    assert_eq!(
        order(&merged(&text).unwrap()),
        [&format!("{OURS}/v2"), "https://a"]
    );
}

#[test]
fn hosts_that_containerd_would_skip_are_refused() {
    for text in [
        "host = 1",
        "host = {\"https://a\" = {}}",
        "[host]\n\"https://a\" = {capabilities = [\"pull\"]}",
        "host.\"https://a\".capabilities = [\"pull\"]",
        "[host]\n\"https://a\".capabilities = [\"pull\"]",
        "[[host]]\n",
    ] {
        let error = merged(text).unwrap_err();
        assert!(matches!(error, Error::WrongType { .. }), "{text}: {error}");
    }
}

#[test]
fn an_invalid_file_is_named_with_its_line() {
    let error = merged("server = \"https://a\"\n[host.\"https://a\"\n")
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("/hosts.toml:2: invalid TOML: "), "{error}");
}

/// One host as a user may write it.
#[derive(Debug, Clone)]
struct Written {
    key: String,
    comment: bool,
    indent: &'static str,
    body: Vec<&'static str>,
    header: bool,
}

fn written(key: impl Strategy<Value = String>) -> impl Strategy<Value = Written> {
    let line = prop::sample::select(vec![
        "capabilities = [\"pull\", \"resolve\"] # both",
        "ca = ['/etc/ssl/a.pem',\n  '/etc/ssl/b.pem']",
        "skip_verify = true",
        "dial_timeout = '3s'",
        "override_path=false",
        "client = [[\"a.cert\", \"a.key\"]]",
    ]);
    let indent = prop::sample::select(vec!["", "  ", "\t"]);
    (
        key,
        any::<bool>(),
        indent,
        prop::collection::btree_set(line, 0..4),
        any::<bool>(),
    )
        .prop_map(|(key, comment, indent, body, header)| Written {
            key,
            comment,
            indent,
            body: body.into_iter().collect(),
            header,
        })
}

fn write(hosts: &[Written], server: Option<&str>, root_header: bool, end: &str) -> String {
    let mut text = server
        .map(|server| format!("server = \"{server}\" # origin\n\n"))
        .unwrap_or_default();
    if root_header {
        text += "[header]\nx-root = \"1\"\n\n";
    }
    for host in hosts {
        let Written {
            key,
            comment,
            indent,
            body,
            header,
        } = host;
        text += if *comment { "# a word on the next\n" } else { "" };
        text += &format!("{indent}[host.\"{key}\"]\n");
        for line in body {
            text += &format!("{indent}{line}\n");
        }
        if *header {
            text += &format!("\n{indent}[host.\"{key}\".header]\n{indent}x-a = [\"1\"]\n");
        }
    }
    text.replace('\n', end)
}

fn model() -> impl Strategy<Value = String> {
    let others = prop::collection::btree_map("[a-z]{1,4}", written(Just(String::new())), 0..5);
    let ours = prop::option::of(written(prop::sample::select(vec![
        OURS.to_owned(),
        format!("{OURS}/"),
    ])));
    let server = prop::option::of(Just("https://registry.example"));
    let end = prop::sample::select(vec!["\n", "\r\n"]);
    (
        others,
        ours,
        any::<prop::sample::Index>(),
        server,
        any::<bool>(),
        end,
    )
        .prop_map(|(others, ours, at, server, root_header, end)| {
            let name = |(key, host): (String, Written)| Written {
                key: format!("https://{key}.example"),
                ..host
            };
            let mut hosts: Vec<Written> = others.into_iter().map(name).collect();
            if let Some(ours) = ours {
                hosts.insert(at.index(hosts.len() + 1), ours);
            }
            write(&hosts, server, root_header, end)
        })
}

/// Everything but our host, as one comparable text.
fn rest(text: &str) -> String {
    let mut document: DocumentMut = text.parse().unwrap();
    if let Some(hosts) = document.get_mut("host").and_then(Item::as_table_mut) {
        hosts.remove(OURS);
        hosts.remove(&format!("{OURS}/"));
    }
    let lines = document.to_string().replace("\r\n", "\n");
    lines
        .lines()
        .filter(|line| !line.trim().is_empty() && *line != "[host]")
        .collect::<Vec<_>>()
        .join("\n")
}

proptest! {
    #[test]
    fn the_proxy_comes_first_and_the_rest_stays(before in model()) {
        let after = merged(&before).unwrap();
        let keys = order(&after);
        prop_assert!(keys[0].trim_end_matches('/') == OURS, "{after}");
        let others = |text: &str| order(text).into_iter().filter(|key| !key.starts_with(OURS)).collect::<Vec<_>>();
        prop_assert_eq!(others(&before), others(&after));
        prop_assert_eq!(rest(&before), rest(&after));
        let document: DocumentMut = after.parse().unwrap();
        let table = document["host"][keys[0].as_str()].as_table().unwrap();
        prop_assert_eq!(table["dial_timeout"].as_str(), Some("200ms"));
        let capabilities: Vec<_> = table["capabilities"].as_array().unwrap().iter().map(|v| v.as_str()).collect();
        prop_assert_eq!(capabilities, [Some("pull"), Some("resolve")]);
        prop_assert_eq!(merged(&after).unwrap(), after.clone(), "a second merge changes nothing");
    }

    #[test]
    fn any_bytes_are_merged_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = merge(Path::new("/hosts.toml"), &bytes, &host());
    }

    #[test]
    fn any_pieces_of_toml_are_merged_or_refused(pieces in prop::collection::vec(prop::sample::select(vec![
        "[", "]", "host", ".", "\"http://127.0.0.1:4001\"", "\"https://a\"", "=", "{", "}", "\n", "[[", "]]", "#", "'",
        "server", "capabilities", "1", "\"x\"", ",", " ", "[host.\"https://a\"]\n", "\r", "\u{feff}", "header", "true",
    ]), 0..24)) {
        if let Ok(after) = merged(&pieces.concat()) {
            prop_assert!(after.parse::<DocumentMut>().is_ok(), "{after}");
            prop_assert_eq!(merged(&after).unwrap(), after.clone());
        }
    }
}

#[test]
fn whatever_is_there_is_merged_once() {
    darter_testkit::fuzz::check("hosts_toml", fuzz_hosts);
}
