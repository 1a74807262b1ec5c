//! Meshes: what must hold, and how well they spread.

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

use super::*;

const CAP: usize = 10;

fn joined(count: u32, seed: u64) -> Graph {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut graph = Graph::default();
    for new in 0..count {
        // A bounded sample, as the scheduler takes it.
        let candidates: BTreeSet<HostKey> = (0..24.min(new))
            .map(|n| HostKey(if new <= 24 { n } else { rng.random_range(0..new) }))
            .collect();
        let candidates: Vec<HostKey> = candidates.into_iter().collect();
        graph.join(HostKey(new), &candidates, |_| CAP, &mut rng, &mut Changed::new());
    }
    graph
}

/// Steps from host 0 to the farthest, or nothing if some are out of reach.
fn depth(graph: &Graph, count: usize) -> Option<usize> {
    let mut seen = BTreeSet::from([HostKey(0)]);
    let mut edge = vec![HostKey(0)];
    let mut steps = 0;
    while seen.len() < count {
        edge = edge
            .iter()
            .flat_map(|host| graph.neighbours(*host))
            .copied()
            .filter(|host| seen.insert(*host))
            .collect();
        if edge.is_empty() {
            return None;
        }
        steps += 1;
    }
    Some(steps)
}

fn check(graph: &Graph, cap: usize) {
    for host in graph.members() {
        assert!(graph.degree(host) <= cap, "{host:?}");
        for other in graph.neighbours(host) {
            assert_ne!(*other, host);
            assert!(graph.are_neighbours(*other, host), "{host:?} {other:?}");
        }
    }
}

#[test]
fn few_peers_make_a_full_mesh() {
    for count in 2..=11 {
        let graph = joined(count, 1);
        assert!((0..count).all(|host| graph.degree(HostKey(host)) == count as usize - 1));
    }
}

#[test]
fn many_peers_stay_close_to_each_other_whoever_came_first() {
    let graph = joined(1_000, 7);
    check(&graph, CAP);
    assert!((0..1_000).all(|host| graph.degree(HostKey(host)) >= CAP - 2));
    assert!(depth(&graph, 1_000).unwrap() <= 6);
}

#[test]
fn bytes_add_up_by_source() {
    let mut graph = Graph::default();
    graph.fed(None, HostKey(1), 5);
    graph.fed(Some(HostKey(2)), HostKey(1), 7);
    graph.fed(None, HostKey(1), 5);
    let edges: Vec<_> = graph.edges().collect();
    assert_eq!(edges, [(None, HostKey(1), 10), (Some(HostKey(2)), HostKey(1), 7)]);
    for source in 10..200 {
        graph.fed(Some(HostKey(source)), HostKey(1), 1);
    }
    assert_eq!(graph.edges().count(), SOURCES_MAX);
    assert_eq!(graph.edges().map(|(_, _, bytes)| bytes).sum::<u64>(), 207);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(darter_testkit::cases(256, 100_000)))]
    #[test]
    fn edges_stay_symmetric_and_degrees_capped(steps in prop::collection::vec((0u32..30, 0u8..4, 0u32..30), 0..200), seed in any::<u64>()) {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut graph = Graph::default();
        let mut members = BTreeSet::new();
        for (host, step, other) in steps {
            let mut changed = Changed::new();
            let before: BTreeMap<_, _> = members.iter().map(|host| (*host, graph.neighbours(*host).to_vec())).collect();
            let host = HostKey(host);
            match step {
                0 | 1 => {
                    let candidates: Vec<HostKey> = members.iter().copied().filter(|member| *member != host).collect();
                    graph.join(host, &candidates, |_| 4, &mut rng, &mut changed);
                    members.insert(host);
                }
                2 => {
                    graph.remove(host, &mut changed);
                    members.remove(&host);
                    prop_assert_eq!(graph.degree(host), 0);
                }
                _ => graph.disconnect(host, HostKey(other), &mut changed),
            }
            check(&graph, 4);
            for (host, neighbours) in before {
                if members.contains(&host) && graph.neighbours(host) != neighbours {
                    prop_assert!(changed.contains(&host));
                }
            }
        }
    }
}
