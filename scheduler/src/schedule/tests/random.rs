//! Events in any order: the invariants hold after each (the world asserts them), and once nodes are quiet
//! nobody waits without being served, fetched for, or sent to the origin.

use proptest::prelude::*;

use super::*;

const PIECES: u64 = 6;
const HOSTS: [&str; 7] = ["seed-1", "seed-2", "a", "b", "c", "d", "e"];

#[derive(Clone, Debug)]
enum Step {
    Connect(usize),
    Disconnect(usize),
    Want {
        host: usize,
        task: u32,
        public: bool,
        adopt: Option<u64>,
        length: Option<u64>,
    },
    Unwant(usize, u32),
    Have {
        host: usize,
        task: u32,
        first: u32,
        count: u32,
        pieces: u64,
    },
    Withdraw(usize, u32, Option<u32>),
    Announce {
        host: usize,
        task: u32,
        count: u32,
        states: u32,
    },
    Links {
        host: usize,
        task: u32,
        current: bool,
        first: u32,
        count: u8,
        salt: u8,
        proved: bool,
    },
    Ended {
        host: usize,
        task: u32,
        current: bool,
        outcome: LeaseOutcome,
    },
    Failed {
        host: usize,
        task: u32,
        parent: usize,
        reason: FailureReason,
    },
    Load {
        host: usize,
        parent: usize,
        cost: f64,
    },
    Role(usize, bool),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let host = || 0..HOSTS.len();
    let task = || 0u32..3;
    let outcome = prop_oneof![
        3 => Just(LeaseOutcome::Done),
        1 => Just(LeaseOutcome::Refused),
        1 => Just(LeaseOutcome::Absent),
        1 => Just(LeaseOutcome::Failed),
        1 => Just(LeaseOutcome::WrongContent),
        1 => Just(LeaseOutcome::Changed),
    ];
    let reason = prop_oneof![
        Just(FailureReason::Unreachable),
        Just(FailureReason::Silent),
        Just(FailureReason::WrongBytes),
        Just(FailureReason::Missing),
        Just(FailureReason::Refused),
    ];
    let pieces = || prop_oneof![9 => Just(PIECES), 1 => Just(PIECES + 1)];
    prop_oneof![
        3 => host().prop_map(Step::Connect),
        2 => host().prop_map(Step::Disconnect),
        6 => (host(), task(), prop::bool::weighted(0.7), prop::option::weighted(0.1, 1u64..9), prop::option::of(pieces()))
            .prop_map(|(host, task, public, adopt, length)| Step::Want { host, task, public, adopt, length }),
        2 => (host(), task()).prop_map(|(host, task)| Step::Unwant(host, task)),
        6 => (host(), task(), 0u32..6, 1u32..7, pieces())
            .prop_map(|(host, task, first, count, pieces)| Step::Have { host, task, first, count, pieces }),
        1 => (host(), task(), prop::option::of(0u32..6)).prop_map(|(h, t, p)| Step::Withdraw(h, t, p)),
        2 => (host(), task(), 1u32..7, 1u32..7).prop_map(|(host, task, count, states)| Step::Announce { host, task, count, states }),
        6 => (host(), task(), any::<bool>(), 0u32..6, 0u8..6, prop_oneof![9 => Just(0u8), 1 => Just(50u8)], any::<bool>())
            .prop_map(|(host, task, current, first, count, salt, proved)| Step::Links { host, task, current, first, count, salt, proved }),
        2 => (host(), task(), prop::bool::weighted(0.8), outcome)
            .prop_map(|(host, task, current, outcome)| Step::Ended { host, task, current, outcome }),
        3 => (host(), task(), host(), reason).prop_map(|(host, task, parent, reason)| Step::Failed { host, task, parent, reason }),
        1 => (host(), host(), 0.0..100.0).prop_map(|(host, parent, cost)| Step::Load { host, parent, cost }),
        1 => (host(), any::<bool>()).prop_map(|(host, seed)| Step::Role(host, seed)),
        3 => (0u64..8_000).prop_map(Step::Pass),
    ]
}

#[expect(clippy::too_many_lines, reason = "a table of steps")]
fn perform(world: &mut World, step: Step) {
    let connected = |world: &World, host: usize| world.by_host.contains_key(HOSTS[host]);
    let (host, message) = match step {
        Step::Connect(host) => return world.connect(HOSTS[host]),
        Step::Disconnect(host) if connected(world, host) => return world.disconnect(HOSTS[host]),
        Step::Disconnect(_) => return,
        Step::Pass(millis) => return world.pass(Duration::from_millis(millis)),
        Step::Role(host, seed) => {
            if let Some(connection) = world.by_host.get(HOSTS[host]).copied() {
                let role = if seed { Role::Seed } else { Role::Peer };
                world.apply(Event::Hello(connection, hello(HOSTS[host], role)));
            }
            return;
        }
        Step::Want {
            host,
            task: n,
            public,
            adopt,
            length,
        } => {
            let want = Want {
                public,
                lease_epoch: adopt,
                length: length.map(|pieces| pieces * PIECE),
                ..want(task(n))
            };
            (host, NodeMessage::Want(want))
        }
        Step::Unwant(host, n) => (host, NodeMessage::Unwant(task(n))),
        Step::Have {
            host,
            task: n,
            first,
            count,
            pieces,
        } => (host, have(task(n), pieces, &[run(first, count)])),
        Step::Withdraw(host, n, piece) => {
            let runs = piece.map(PieceRun::one).into_iter().collect();
            (host, NodeMessage::Withdraw(task(n), runs))
        }
        Step::Announce {
            host,
            task: n,
            count,
            states,
        } => (host, held(task(n), PIECES, &[run(0, count)], states)),
        Step::Links {
            host,
            task: n,
            current,
            first,
            count,
            salt,
            proved,
        } => {
            let epoch = world
                .lease(task(n))
                .filter(|_| current)
                .map_or(0, |(_, epoch)| epoch);
            let first_state = u8::try_from(first).unwrap();
            let message = Links {
                task: task(n),
                epoch,
                length: PIECES * PIECE,
                first_border: first,
                states: (first_state..first_state + count)
                    .map(|border| {
                        if border == 0 {
                            ChainState::initial(Algorithm::Sha256)
                        } else {
                            state(border + salt)
                        }
                    })
                    .collect(),
                proved,
            };
            (host, NodeMessage::Links(message))
        }
        Step::Ended {
            host,
            task: n,
            current,
            outcome,
        } => {
            let epoch = world
                .lease(task(n))
                .filter(|_| current)
                .map_or(0, |(_, epoch)| epoch);
            (host, ended(task(n), epoch, outcome))
        }
        Step::Failed {
            host,
            task: n,
            parent,
            reason,
        } => (host, failed(task(n), HOSTS[parent], reason)),
        Step::Load { host, parent, cost } => {
            let cost = PieceCost {
                parent: id(HOSTS[parent]),
                nanos_per_byte: cost,
                pieces: 1,
            };
            (
                host,
                NodeMessage::Load(Load {
                    costs: vec![cost],
                    ..Load::default()
                }),
            )
        }
    };
    if connected(world, host) {
        world.say(HOSTS[host], message);
    }
}

/// What was sent is for somebody who is connected and makes sense for it.
fn check_sent(world: &World) {
    for (to, message) in &world.sent {
        if let SchedulerMessage::Parents(parents) = message {
            assert!(
                parents.parents.iter().all(|parent| parent.host != *to),
                "{to} is its own parent"
            );
            assert!(parents.parents.len() <= darter_proto::limits::PARENTS_MAX);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(darter_testkit::cases(512, 100_000)))]
    #[test]
    fn any_order_of_events_keeps_the_invariants(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new(Settings::default());
        for step in steps {
            perform(&mut world, step);
            check_sent(&world);
            world.sent.clear();
        }
        // Nobody says anything any more: leases stall one after another until nobody is left to fetch.
        world.pass(Duration::from_secs(400));
        for (_, task) in world.scheduler.tasks.iter() {
            let served = task.is_covered() && task.is_chain_complete();
            prop_assert!(task.lease.is_none() && task.asked.is_none());
            prop_assert!(task.waiting.is_empty() || served, "{} waits", task.id);
        }
    }

    #[test]
    fn the_same_events_make_the_same_decisions(steps in prop::collection::vec(step(), 1..40)) {
        let record = |steps: Vec<Step>| {
            let mut world = World::new(Settings::default());
            steps.into_iter().for_each(|step| perform(&mut world, step));
            world.sent
        };
        prop_assert_eq!(record(steps.clone()), record(steps));
    }
}
