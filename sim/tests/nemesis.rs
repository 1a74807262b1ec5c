//! Lives of a cluster full of faults by chance ([`darter_sim::nemesis`]).

use darter_sim::nemesis::nemesis;
use darter_sim::scenario::random;

// Two tests, so that two cores are busy.

#[test]
fn nemesis_of_odd_seeds() {
    random("nemesis_of_odd_seeds", (1..=9).step_by(2), 1, nemesis);
}

#[test]
fn nemesis_of_even_seeds() {
    random("nemesis_of_even_seeds", (2..=10).step_by(2), 1, nemesis);
}
