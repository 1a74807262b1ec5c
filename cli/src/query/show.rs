//! The scheduler's answers as tables, and as JSON. The JSON has one object a line of the table, with whole names and
//! plain numbers, so that programs need not parse units.

use std::fmt::Write as _;

use darter_proto::pb::scheduler::v1 as pb;
use serde_json::{Value, json};

use crate::table::Table;

/// Letters of a digest that a table shows: enough to tell contents apart.
const DIGEST_SHOWN: usize = 12;

/// `darter scheduler tasks`
pub(super) fn tasks(lines: &[pb::TaskLine]) -> String {
    if lines.is_empty() {
        return "no tasks: nothing was pulled yet\n".to_owned();
    }
    let mut table = Table::new(&[
        "TASK",
        ">SIZE",
        ">HOLDERS",
        ">WAITING",
        "FETCHES FROM ORIGIN",
        "CONTENT",
    ]);
    for line in lines {
        table.row([
            short(&line.task),
            length(line.length),
            line.holders.to_string(),
            line.waiting.to_string(),
            line.lease_holder.clone(),
            origin(line.origin.as_ref()),
        ]);
    }
    table.to_string()
}

/// `darter scheduler task`
pub(super) fn task(answer: &pb::GetTaskResponse) -> String {
    let mut text = String::new();
    if let Some(line) = &answer.task {
        let holder = if line.lease_holder.is_empty() {
            "nobody"
        } else {
            &line.lease_holder
        };
        let _ = writeln!(
            text,
            "task     {}\ncontent  {}",
            line.task,
            origin(line.origin.as_ref())
        );
        let _ = writeln!(
            text,
            "size     {}\nfetches from origin now: {holder}\n",
            length(line.length)
        );
    }
    text += &peers(&answer.peers);
    if !answer.edges.is_empty() {
        text += "\nWho fed whom:\n";
        text += &edges(&answer.edges);
    }
    if answer.left_out > 0 {
        let _ = writeln!(
            text,
            "\n{} more nodes and pairs of nodes have no room in one answer.",
            answer.left_out
        );
    }
    let choosing = answer.peers.iter().filter(|peer| !peer.choices.is_empty());
    for peer in choosing {
        let _ = writeln!(text, "\nParents of {}, and why:", peer.host);
        let mut table = Table::new(&["PARENT", ">SCORE", "REASONS"]);
        for choice in &peer.choices {
            let score = format!("{:.2}", choice.score);
            table.row([choice.parent.clone(), score, choice.reasons.join(", ")]);
        }
        text += &table.to_string();
    }
    text
}

fn peers(peers: &[pb::TaskPeer]) -> String {
    let mut table = Table::new(&["HOST", ">PIECES", "STATE"]);
    for peer in peers {
        let state = if peer.wants { "fetching" } else { "holds" };
        table.row([peer.host.clone(), peer.pieces.to_string(), state.to_owned()]);
    }
    table.to_string()
}

fn edges(edges: &[pb::Edge]) -> String {
    let mut table = Table::new(&["FROM", "TO", ">BYTES"]);
    for edge in edges {
        table.row([from(edge).to_owned(), edge.to.clone(), size(edge.bytes)]);
    }
    table.to_string()
}

/// `darter scheduler hosts`
pub(super) fn hosts(lines: &[pb::HostLine]) -> String {
    if lines.is_empty() {
        return "no hosts: does `scheduler.addresses` of the proxies name this scheduler?\n".to_owned();
    }
    let mut table = Table::new(&[
        "HOST",
        "ROLE",
        "ADDRESS",
        "LOCALITY",
        ">TASKS",
        ">SENDING",
        "NOT CHOSEN BECAUSE",
    ]);
    for line in lines {
        table.row([
            line.host.clone(),
            role(line).to_owned(),
            line.address.clone(),
            line.locality.clone(),
            line.tasks.to_string(),
            format!("{}/s", size(line.upload_bytes_per_second)),
            line.excluded.clone(),
        ]);
    }
    table.to_string()
}

/// `darter scheduler tasks --json`
pub(super) fn tasks_json(lines: &[pb::TaskLine]) -> String {
    pretty(&lines.iter().map(task_value).collect())
}

/// `darter scheduler task --json`
pub(super) fn task_json(answer: &pb::GetTaskResponse) -> String {
    let choice = |choice: &pb::Choice| json!({"parent": choice.parent, "score": choice.score, "reasons": choice.reasons});
    let run = |run: &pb::PieceRun| json!({"first": run.first, "count": run.count});
    let peer = |peer: &pb::TaskPeer| {
        json!({
            "host": peer.host,
            "pieces": peer.pieces,
            "wants": peer.wants,
            "runs": peer.runs.iter().map(run).collect::<Value>(),
            "parents": peer.choices.iter().map(choice).collect::<Value>(),
        })
    };
    let edge = |edge: &pb::Edge| json!({"from": from(edge), "to": edge.to, "bytes": edge.bytes});
    pretty(&json!({
        "task": answer.task.as_ref().map(task_value),
        "peers": answer.peers.iter().map(peer).collect::<Value>(),
        "edges": answer.edges.iter().map(edge).collect::<Value>(),
        "leftOut": answer.left_out,
    }))
}

/// `darter scheduler hosts --json`
pub(super) fn hosts_json(lines: &[pb::HostLine]) -> String {
    let host = |line: &pb::HostLine| {
        json!({
            "host": line.host,
            "role": role(line),
            "address": line.address,
            "locality": line.locality,
            "tasks": line.tasks,
            "uploadBytesPerSecond": line.upload_bytes_per_second,
            "excluded": line.excluded,
        })
    };
    pretty(&lines.iter().map(host).collect())
}

fn task_value(line: &pb::TaskLine) -> Value {
    let origin = |origin: &pb::Origin| {
        json!({
            "registry": origin.registry,
            "repository": origin.repository,
            "kind": kind(origin),
            "digest": origin.digest,
        })
    };
    json!({
        "task": line.task,
        "lengthBytes": line.length,
        "holders": line.holders,
        "waiting": line.waiting,
        "leaseHolder": line.lease_holder,
        "origin": line.origin.as_ref().map(origin),
    })
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn from(edge: &pb::Edge) -> &str {
    if edge.from.is_empty() {
        "origin"
    } else {
        &edge.from
    }
}

fn role(line: &pb::HostLine) -> &'static str {
    match line.role() {
        pb::Role::Seed => "seed",
        pb::Role::Peer | pb::Role::Unspecified => "peer",
    }
}

fn kind(origin: &pb::Origin) -> &'static str {
    match origin.kind() {
        pb::ContentKind::Manifest => "manifest",
        pb::ContentKind::Blob | pb::ContentKind::Unspecified => "blob",
    }
}

fn origin(origin: Option<&pb::Origin>) -> String {
    origin.map_or_else(String::new, |origin| {
        format!("{} of {}/{}", kind(origin), origin.registry, origin.repository)
    })
}

fn length(length: Option<u64>) -> String {
    length.map_or_else(String::new, size)
}

/// Bytes with the unit that makes them short.
fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut shown = (bytes, 0, "B");
    for unit in units {
        if shown.0 < 1024 {
            break;
        }
        shown = (shown.0 / 1024, shown.0 % 1024 * 10 / 1024, unit);
    }
    match shown {
        (whole, _, "B") => format!("{whole} B"),
        (whole, tenth, unit) if whole < 10 => format!("{whole}.{tenth} {unit}"),
        (whole, _, unit) => format!("{whole} {unit}"),
    }
}

fn short(task: &str) -> String {
    match task.split_once(':') {
        Some((name, hex)) => format!("{name}:{}", hex.get(..DIGEST_SHOWN).unwrap_or(hex)),
        None => task.to_owned(),
    }
}

#[cfg(test)]
mod tests;
