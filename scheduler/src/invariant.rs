//! What must hold between any two events, each rule one predicate. Tests and simulations ask [`broken`].

use crate::resource::{Named, Task, TaskKey};
use crate::schedule::Scheduler;

/// Tasks and hosts above which a whole check would be slower than all decisions together.
const CHECKED_MAX: usize = 64;

/// A rule about one task.
type Rule = fn(&Scheduler, TaskKey, &Task) -> bool;

/// The first rule that does not hold, for a scheduler small enough to be checked after each event.
pub fn broken(scheduler: &Scheduler) -> Option<String> {
    if scheduler.tasks.len() > CHECKED_MAX || scheduler.hosts.len() > CHECKED_MAX {
        return None;
    }
    let rules: [(&str, Rule); 9] = [
        ("the holder of a lease is a live peer", lease_holder_is_live),
        (
            "neighbours are live peers, not the node itself",
            neighbours_are_live_peers,
        ),
        ("edges go both ways and serve a want", edges_serve_a_want),
        ("no degree passes its cap", degrees_are_capped),
        ("the coverage is that of the live holders", coverage_is_true),
        (
            "whoever waits is served, or somebody fetches",
            nobody_waits_in_vain,
        ),
        ("peers are connected and know the task", peers_are_connected),
        ("waiting and wants agree", wants_agree),
        (
            "the pieces that are named are those of the parked wants",
            named_agree,
        ),
    ];
    for (key, task) in scheduler.tasks.iter() {
        for (rule, holds) in rules {
            if !holds(scheduler, key, task) {
                return Some(format!("{rule}: {}", task.id));
            }
        }
    }
    counts_agree(scheduler).then_some(()).map_or_else(
        || Some("leases and parked wants are counted right".to_owned()),
        |()| None,
    )
}

/// A lease is held by one connected host that is not left out and is a peer of the task.
pub fn lease_holder_is_live(scheduler: &Scheduler, _key: TaskKey, task: &Task) -> bool {
    task.lease
        .as_ref()
        .is_none_or(|lease| scheduler.hosts.is_live(lease.holder) && task.peers.contains_key(&lease.holder))
}

/// Nobody is offered itself, a stranger or a host that is not there.
pub fn neighbours_are_live_peers(scheduler: &Scheduler, _key: TaskKey, task: &Task) -> bool {
    task.graph.members().all(|host| {
        task.graph
            .neighbours(host)
            .iter()
            .all(|other| *other != host && scheduler.hosts.is_live(*other) && task.peers.contains_key(other))
    })
}

/// Neighbours are so both ways, and at least one of them wants something.
pub fn edges_serve_a_want(_scheduler: &Scheduler, _key: TaskKey, task: &Task) -> bool {
    let wants = |host| task.peers.get(&host).is_some_and(|peer| peer.want.is_some());
    task.graph.members().all(|host| {
        task.graph
            .neighbours(host)
            .iter()
            .all(|other| task.graph.are_neighbours(*other, host) && (wants(host) || wants(*other)))
    })
}

/// No peer has more than twice the parents of a node that wants.
pub fn degrees_are_capped(scheduler: &Scheduler, _key: TaskKey, task: &Task) -> bool {
    task.graph
        .members()
        .all(|host| task.graph.degree(host) <= 2 * scheduler.parents_max_ever)
}

/// The coverage counts the holdings of live hosts and no others.
pub fn coverage_is_true(scheduler: &Scheduler, _key: TaskKey, task: &Task) -> bool {
    let Some(capacity) = task.capacity() else {
        return task
            .peers
            .values()
            .all(|peer| peer.held == crate::resource::Holding::Nothing);
    };
    let mut counted = crate::resource::Coverage::default();
    for (host, peer) in &task.peers {
        if peer.counted != scheduler.hosts.is_live(*host) {
            return false;
        }
        if peer.counted {
            counted.add(&peer.held, capacity);
        }
    }
    counted.missing(capacity) == task.coverage.missing(capacity)
        && counted.full_holders() == task.coverage.full_holders()
}

/// While somebody waits: all is there, or somebody fetches, or an answer is awaited, or the grace runs.
pub fn nobody_waits_in_vain(scheduler: &Scheduler, key: TaskKey, task: &Task) -> bool {
    task.waiting.is_empty()
        || (task.is_covered() && task.is_chain_complete())
        || task.lease.is_some()
        || task.asked.is_some()
        || (task.is_on_demand() && task.lacks_first().is_empty())
        || scheduler.is_in_grace(key)
}

/// Every peer is connected, and its host knows that it is one.
pub fn peers_are_connected(scheduler: &Scheduler, key: TaskKey, task: &Task) -> bool {
    task.peers.keys().all(|host| {
        scheduler
            .hosts
            .get(*host)
            .is_some_and(|host| host.connection.is_some() && host.tasks.contains(&key))
    })
}

/// The parked wants are those of the peers that were not sent to the origin.
pub fn wants_agree(_scheduler: &Scheduler, _key: TaskKey, task: &Task) -> bool {
    let waiting = task.peers.values().filter(|peer| peer.waits()).count();
    let wants = task.peers.values().filter(|peer| peer.want.is_some()).count();
    waiting == task.waiting.len() && wants == task.wants
}

/// What wants name is counted as a look at each of them finds it.
pub fn named_agree(_scheduler: &Scheduler, _key: TaskKey, task: &Task) -> bool {
    let mut named = Named::default();
    for (host, peer) in &task.peers {
        named.set(*host, peer.named());
    }
    named == task.named
}

/// The numbers of leases and parked wants are those of the tasks.
pub fn counts_agree(scheduler: &Scheduler) -> bool {
    let leases = scheduler
        .tasks
        .iter()
        .filter(|(_, task)| task.lease.is_some())
        .count();
    let parked: usize = scheduler.tasks.iter().map(|(_, task)| task.waiting.len()).sum();
    leases == scheduler.leases && parked == scheduler.parked
}
