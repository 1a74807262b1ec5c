//! The numbers that decisions depend on, and the numbers that they leave behind.

use std::time::Duration;

use crate::evaluator::Weights;

/// The numbers that decisions depend on.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// This scheduler's address as `schedulers` has it.
    pub advertise: String,
    /// All schedulers of the cluster; empty = this one alone.
    pub schedulers: Vec<String>,
    /// Names this life of the scheduler.
    pub incarnation: u64,
    /// Seed of the random generator.
    pub seed: u64,
    /// Most neighbours of a node that wants a task. Nodes that only serve have up to twice as many.
    pub parents_max: usize,
    /// How long the holder of a lease may take until the first byte.
    pub lease_first_byte: Duration,
    /// How long the holder of a lease may make no progress.
    pub lease_stall: Duration,
    /// How long after its start a scheduler gives no leases, since nodes are still announcing themselves.
    pub lease_grace: Duration,
    /// How long a host that disappointed with a task is not given its lease again.
    pub lease_pause: Duration,
    /// How long an answer to a request for a chain is waited for.
    pub links_answer: Duration,
    /// How long the chain of a task is kept that nobody wants.
    pub chain_idle: Duration,
    /// How long a host is blocked that sent or published wrong bytes.
    pub block: Duration,
    /// How long a bad host is left out, the first time; doubled each time up to `block`.
    pub trial_after: Duration,
    /// How long a host without a connection is remembered.
    pub host_forget: Duration,
    /// Most hosts that are remembered.
    pub hosts_max: usize,
    /// Most tasks.
    pub tasks_max: usize,
    /// Most peers of one task.
    pub peers_per_task_max: usize,
    /// Most parked wants.
    pub wants_parked_max: usize,
    /// What each part of a parent's score is worth.
    pub weights: Weights,
}

/// Those of them that change while the scheduler runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is what it is in `Settings`")]
pub struct Tuning {
    pub parents_max: usize,
    pub lease_first_byte: Duration,
    pub lease_stall: Duration,
    pub lease_pause: Duration,
    pub chain_idle: Duration,
    pub block: Duration,
    pub trial_after: Duration,
}

impl Settings {
    /// What is in force from now on.
    pub(crate) fn tune(&mut self, tuning: Tuning) {
        self.parents_max = tuning.parents_max;
        self.lease_first_byte = tuning.lease_first_byte;
        self.lease_stall = tuning.lease_stall;
        self.lease_pause = tuning.lease_pause;
        self.chain_idle = tuning.chain_idle;
        self.block = tuning.block;
        self.trial_after = tuning.trial_after;
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            advertise: String::new(),
            schedulers: Vec::new(),
            incarnation: 0,
            seed: 0,
            parents_max: 10,
            lease_first_byte: Duration::from_secs(10),
            lease_stall: Duration::from_secs(5),
            lease_grace: Duration::from_secs(1),
            lease_pause: Duration::from_secs(30),
            links_answer: Duration::from_secs(1),
            chain_idle: Duration::from_secs(300),
            block: Duration::from_secs(600),
            trial_after: Duration::from_secs(30),
            host_forget: Duration::from_secs(3600),
            hosts_max: 20_000,
            tasks_max: 200_000,
            peers_per_task_max: 20_000,
            wants_parked_max: 1_000_000,
            weights: Weights::default(),
        }
    }
}

/// What a scheduler did so far; every number only grows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sets of parents sent.
    pub parents: u64,
    /// Leases given.
    pub leases: u64,
    /// Leases that passed on because their holder stalled, left or failed.
    pub leases_passed: u64,
    /// Nodes told to ask the origin alone.
    pub alone: u64,
    /// Wants of tasks that another scheduler owns.
    pub redirected: u64,
    /// Wants parked.
    pub parked: u64,
    /// Messages with states relayed.
    pub links_relayed: u64,
    /// Chains dropped because authors disagreed or a content was wrong.
    pub chains_dropped: u64,
    /// Hosts left out because they were slow, out of reach or sent wrong bytes.
    pub excluded: u64,
    /// Messages without effect: out of date, of strangers, or against a bound.
    pub ignored: u64,
}
