//! What an operator sees: tasks, who feeds whom, why a parent was chosen, hosts. Read only.

use darter_proto::limits::MESSAGE_BYTES_MAX;
use darter_proto::pb::scheduler::v1 as pb;
use darter_types::{ContentKind, HostId, PieceRun, TaskId};
use prost::Message;

use crate::resource::{Host, HostKey, Peer, Task, TaskKey};
use crate::schedule::Scheduler;

/// Most lines in one answer.
pub const LINES_MAX: usize = 1_000;
/// Most edges in one answer.
pub const EDGES_MAX: usize = 10_000;
/// Most bytes of peers and edges in one answer: with the rest of it they stay below what a client of gRPC takes by default.
const TASK_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 64 * 1024;
/// Of those, most bytes of peers, so that there is room for edges.
const PEERS_BYTES_MAX: usize = TASK_BYTES_MAX / 4 * 3;
/// What a part of a message costs besides its own bytes: its tag and its length.
const PART_BYTES: usize = 8;

impl Scheduler {
    /// Tasks by name, after `after`, [`LINES_MAX`] or `limit` of them at most; a limit of 0 is none.
    pub fn list_tasks(&self, after: Option<TaskId>, limit: usize) -> pb::ListTasksResponse {
        pb::ListTasksResponse {
            tasks: self
                .tasks
                .after(after)
                .take(lines_max(limit))
                .map(|task| self.task_line(task))
                .collect(),
        }
    }

    /// One task with its peers and edges; `None` if there is no such task.
    pub fn get_task(&self, id: &TaskId) -> Option<pb::GetTaskResponse> {
        let key = self.tasks.key(id)?;
        let task = self.tasks.get(key)?;
        let peers = task.peers.iter().take(LINES_MAX);
        let peers = peers.map(|(host, peer)| self.task_peer(key, task, *host, peer));
        let (peers, used) = fitting(peers, PEERS_BYTES_MAX);
        let edges = task.graph.edges().take(EDGES_MAX);
        let edges = edges.map(|(from, to, bytes)| pb::Edge {
            from: from.map(|key| self.name(key)).unwrap_or_default(),
            to: self.name(to),
            bytes,
        });
        let (edges, _) = fitting(edges, TASK_BYTES_MAX - used);
        let all = task.peers.len() + task.graph.edges().count();
        Some(pb::GetTaskResponse {
            task: Some(self.task_line(task)),
            left_out: count(all - peers.len() - edges.len()),
            peers,
            edges,
        })
    }

    /// Hosts that are remembered, by name, after `after`, [`LINES_MAX`] or `limit` of them at most; a limit of 0 is none.
    pub fn list_hosts(&self, after: Option<&HostId>, limit: usize) -> pb::ListHostsResponse {
        let all = self.hosts.iter().map(|(_, host)| host);
        let rest = all.filter(|host| after.is_none_or(|after| host.id() > after));
        let lines = rest.clone().take(lines_max(limit)).map(host_line);
        let (hosts, _) = fitting(lines, TASK_BYTES_MAX);
        let truncated = rest.count() > hosts.len();
        pb::ListHostsResponse { hosts, truncated }
    }

    fn name(&self, key: HostKey) -> String {
        self.hosts
            .get(key)
            .map(|host| host.id().to_string())
            .unwrap_or_default()
    }

    fn task_line(&self, task: &Task) -> pb::TaskLine {
        let holders = task
            .peers
            .values()
            .filter(|peer| peer.held != crate::resource::Holding::Nothing);
        pb::TaskLine {
            task: task.id.to_string(),
            length: task.length,
            holders: count(holders.count()),
            waiting: count(task.waiting.len()),
            lease_holder: task
                .lease
                .as_ref()
                .map(|lease| self.name(lease.holder))
                .unwrap_or_default(),
            origin: task.origin.as_ref().map(|origin| pb::Origin {
                registry: origin.registry.to_string(),
                repository: origin.repository.to_string(),
                kind: match origin.kind {
                    ContentKind::Blob => pb::ContentKind::Blob,
                    ContentKind::Manifest => pb::ContentKind::Manifest,
                }
                .into(),
                digest: origin.digest.to_string(),
            }),
        }
    }

    fn task_peer(&self, key: TaskKey, task: &Task, host: HostKey, peer: &Peer) -> pb::TaskPeer {
        let capacity = task.capacity().unwrap_or(0);
        let run = |run: PieceRun| pb::PieceRun {
            first: run.first,
            count: run.count,
        };
        let neighbours = task.graph.neighbours(host);
        let choices = self.rank(key, host, neighbours).into_iter().filter_map(|ranked| {
            Some(pb::Choice {
                parent: self.name(*neighbours.get(ranked.index)?),
                score: ranked.score,
                reasons: ranked.reasons(),
            })
        });
        pb::TaskPeer {
            host: self.name(host),
            pieces: peer.held.count(capacity),
            wants: peer.want.is_some(),
            runs: peer.held.runs(capacity).into_iter().map(run).collect(),
            choices: if peer.want.is_some() {
                choices.collect()
            } else {
                Vec::new()
            },
        }
    }
}

/// Most lines of one answer where `limit` are asked for.
fn lines_max(limit: usize) -> usize {
    match limit {
        0 => LINES_MAX,
        limit => limit.min(LINES_MAX),
    }
}

/// As many of the parts of an answer as there is room for, in their order, and the bytes that they take.
fn fitting<M: Message>(parts: impl Iterator<Item = M>, room: usize) -> (Vec<M>, usize) {
    let mut used = 0;
    let fits = |part: &M| {
        used += part.encoded_len() + PART_BYTES;
        used <= room
    };
    let fitting = parts.take_while(fits).collect();
    (fitting, used.min(room))
}

fn host_line(host: &Host) -> pb::HostLine {
    let role = if host.is_seed() {
        pb::Role::Seed
    } else {
        pb::Role::Peer
    };
    let excluded = match (&host.excluded, host.connection) {
        (Some(exclusion), _) => exclusion.why,
        (None, None) => "not connected",
        (None, Some(_)) => "",
    };
    pb::HostLine {
        host: host.id().to_string(),
        address: host.hello.address.clone(),
        locality: host.hello.locality.to_string(),
        role: role.into(),
        tasks: count(host.tasks.len()),
        upload_bytes_per_second: host.load.upload_bytes_per_second,
        excluded: excluded.to_owned(),
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
