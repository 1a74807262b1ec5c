//! The swarm comes close to the bound, and the same seed gives the same swarm.

use super::*;

const MIB: u64 = 1024 * 1024;

fn small() -> SwarmOptions {
    SwarmOptions {
        up_mbps: 100,
        down_mbps: 100,
        origin_mbps: 100,
        ..SwarmOptions::of(8, 32 * MIB)
    }
}

#[test]
fn a_small_swarm_finishes_near_the_bound_and_asks_the_origin_once() {
    let result = run(&small());
    assert_eq!(result.finished, 8, "{result:?}");
    assert!((result.origin_bytes_over_size - 1.0).abs() < 0.01, "{result:?}");
    assert!(result.time_over_bound < 1.15, "{result:?}");
    assert!(result.origin_copies_sent < 1.3, "{result:?}");
}

/// With eight nodes everybody knows everybody; here most are reached by way of others.
#[test]
fn a_swarm_larger_than_a_neighbourhood_finishes_near_the_bound() {
    let result = run(&SwarmOptions {
        nodes: 40,
        length: 160 * MIB,
        ..small()
    });
    assert_eq!(result.finished, 40, "{result:?}");
    assert!(result.time_over_bound < 1.12, "{result:?}");
}

#[test]
fn the_same_options_give_the_same_result() {
    // More nodes than neighbours, so that there is something to draw.
    let options = SwarmOptions {
        nodes: 24,
        length: 16 * MIB,
        ..small()
    };
    assert_eq!(run(&options), run(&options));
    let other = SwarmOptions {
        seed: 2,
        ..options.clone()
    };
    assert_ne!(run(&options), run(&other));
}

#[test]
fn a_single_node_is_served_by_the_seed() {
    let result = run(&SwarmOptions { nodes: 1, ..small() });
    assert_eq!(result.finished, 1, "{result:?}");
    assert!(result.time_over_bound < 1.1, "{result:?}");
}

#[test]
fn the_bound_is_the_narrowest_of_origin_download_and_all_uploads() {
    let options = SwarmOptions {
        up_mbps: 50,
        ..small()
    };
    let seconds = |mbits: f64| 32.0 * 1.048_576 * 8.0 / mbits;
    // 8 copies over the origin's 100 and eight uploads of 50 Mb/s.
    assert!((options.fluid_bound().as_secs_f64() - 8.0 * seconds(500.0)).abs() < 1e-6);
    let narrow = SwarmOptions {
        origin_mbps: 10,
        ..small()
    };
    assert!((narrow.fluid_bound().as_secs_f64() - seconds(10.0)).abs() < 1e-6);
}
