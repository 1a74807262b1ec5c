//! One task in a small world of its own: an origin, parents of which some lie, fall silent or die, and a scheduler
//! that helps, lies or is not there. Bytes and proofs are real, time is not.
//!
//! What must hold: the task ends within a bound of virtual time, every byte that it released is right, and it fails
//! only where nobody could have given the bytes.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::ParentFailure;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Manner {
    Honest,
    /// Flips a bit in each piece.
    Liar,
    /// Tells of pieces and never sends them.
    Silent,
    /// Sends so many pieces, then is gone.
    Dies(u32),
    /// Does not have what it tells of.
    Empty,
    Busy,
    /// No connection, no answer.
    BlackHole,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Help {
    /// Not reachable.
    None,
    /// Takes the want and says nothing.
    Silence,
    /// Names parents and sends a chain.
    Parents { trusted: bool },
    /// The same, with a chain that is a lie from this border on; perhaps by an author of trust.
    Lies { border: u32, trusted: bool },
    /// Names parents, and gives the lease after this many ms.
    Lease { ms: u64 },
    /// Names parents, then dies after this many ms; the chain never comes.
    Dies { ms: u64 },
}

#[derive(Clone, Debug)]
struct Plan {
    parents: Vec<Manner>,
    help: Help,
    /// The origin breaks off this many times, at this offset of the run.
    cuts: u32,
    cut_at: u64,
    origin_works: bool,
    release: Release,
    seed: u64,
}

enum Happening {
    Event(Event),
    /// A piece of a request to a parent arrives.
    Piece {
        fetch: FetchId,
        at: usize,
        piece: PieceNumber,
        proof: darter_types::PieceProof,
    },
}

struct World {
    script: Script,
    plan: Plan,
    agenda: BTreeMap<(Moment, u64), Happening>,
    next: u64,
    running: std::collections::BTreeSet<FetchId>,
    store: Vec<u8>,
    released: Vec<PieceRun>,
    released_bytes: u64,
    outcome: Option<Result<(), Failure>>,
}

const LATENCY: u64 = 5;
const SILENCE: u64 = 2000;

impl World {
    fn new(plan: Plan) -> Self {
        let script = Script::with(LENGTH, |settings| {
            settings.seed = plan.seed;
            settings.release = plan.release;
            settings.limits.run_bytes = 512 * KIB;
        });
        let store = vec![0; script.blob.bytes.len()];
        Self {
            script,
            plan,
            agenda: BTreeMap::new(),
            next: 0,
            running: std::collections::BTreeSet::new(),
            store,
            released: Vec::new(),
            released_bytes: 0,
            outcome: None,
        }
    }

    fn later(&mut self, ms: u64, happening: Happening) {
        self.agenda.insert(
            (self.script.now + Duration::from_millis(ms), self.next),
            happening,
        );
        self.next += 1;
    }

    fn tell(&mut self, ms: u64, event: Event) {
        self.later(ms, Happening::Event(event));
    }

    /// Runs to the end; the time it took.
    fn run(&mut self) -> Duration {
        let up = if self.plan.help == Help::None {
            Event::SchedulerDown
        } else {
            Event::SchedulerUp
        };
        self.tell(0, up);
        self.tell(1, read_all());
        self.tell(50, Event::Tick);
        while self.outcome.is_none() {
            let ((now, _), happening) = self.agenda.pop_first().expect("there is always a next tick");
            self.script.now = now;
            assert!(
                now.since(Moment::START) < Duration::from_secs(120),
                "never ends: {:?}",
                self.plan
            );
            match happening {
                Happening::Event(event) => {
                    if event == Event::Tick {
                        self.tell(50, Event::Tick);
                    }
                    self.apply(event);
                }
                Happening::Piece {
                    fetch,
                    at,
                    piece,
                    proof,
                } => self.piece(fetch, at, piece, &proof),
            }
        }
        self.script.now.since(Moment::START)
    }

    fn apply(&mut self, event: Event) {
        if let Event::FetchEnded { fetch, .. } = &event {
            self.running.remove(fetch);
        }
        if let Event::OriginBytes { fetch, offset } = &event
            && self.running.contains(fetch)
        {
            // The shell writes before it tells.
            let end = usize::try_from(*offset).unwrap();
            let start = end.saturating_sub(256 * 1024);
            self.store[start..end].copy_from_slice(&self.script.blob.bytes[start..end]);
        }
        for action in self.script.on(event) {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Want => self.help(),
            Action::Watch { host, .. } => {
                let at = index(&host);
                if self.plan.parents[at] != Manner::BlackHole {
                    self.tell(LATENCY, Event::ParentHas(host, vec![run(0, PIECES)]));
                }
            }
            Action::FetchPeer {
                fetch,
                host,
                run,
                proofs,
                ..
            } => self.send_run(fetch, index(&host), run, &proofs),
            Action::FetchOrigin { fetch, run, before } => self.read_origin(fetch, run, before),
            Action::Cancel(fetch) => drop(self.running.remove(&fetch)),
            Action::Release(run) => {
                let waits = self.plan.release == Release::Proved;
                assert!(
                    !waits || self.script.task.is_over(),
                    "before the proof: {:?}",
                    self.plan
                );
                let bytes = self.script.blob.layout.run_range(run).indices();
                assert_eq!(
                    self.store[bytes.clone()],
                    self.script.blob.bytes[bytes],
                    "{:?}",
                    self.plan
                );
                assert!(!self.released.contains(&run));
                self.released.push(run);
            }
            Action::ReleaseBytes { offset } => self.released_bytes = self.released_bytes.max(offset),
            Action::Proved => self.outcome = Some(Ok(())),
            Action::Fail(failure) => self.outcome = Some(Err(failure)),
            _ => {}
        }
    }

    fn help(&mut self) {
        let names: Vec<String> = (0..self.plan.parents.len()).map(|at| format!("p{at}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        match self.plan.help {
            Help::None | Help::Silence => return,
            Help::Parents { trusted } => {
                for border in 1..PIECES {
                    let links = self.script.links(border, border + 1, trusted);
                    self.tell(LATENCY * u64::from(border), links);
                }
            }
            Help::Lies { border, trusted } => {
                let mut states = self.script.blob.states[1..].to_vec();
                states
                    .iter_mut()
                    .skip(border as usize - 1)
                    .for_each(|state| *state = self.script.blob.states[0]);
                self.tell(
                    LATENCY,
                    Event::LinksCame {
                        length: LENGTH,
                        first: 1,
                        states,
                        trusted,
                    },
                );
            }
            Help::Lease { ms } => self.tell(
                ms,
                Event::LeaseGranted {
                    epoch: 1,
                    runs: Vec::new(),
                },
            ),
            Help::Dies { ms } => self.tell(ms, Event::SchedulerDown),
        }
        self.tell(LATENCY, offer(&names));
    }

    fn send_run(&mut self, fetch: FetchId, at: usize, run: PieceRun, proofs: &[darter_types::PieceProof]) {
        self.running.insert(fetch);
        let fails = |failure| Event::FetchEnded {
            fetch,
            failure: Some(FetchFailure::Parent(failure)),
        };
        match self.plan.parents[at] {
            Manner::Silent | Manner::BlackHole => self.tell(SILENCE, fails(ParentFailure::Silent)),
            Manner::Empty => self.tell(LATENCY, fails(ParentFailure::Missing)),
            Manner::Busy => self.tell(LATENCY, fails(ParentFailure::Busy)),
            Manner::Honest | Manner::Liar | Manner::Dies(_) => {
                for ((piece, proof), place) in run.pieces().zip(proofs).zip(1..) {
                    self.later(
                        LATENCY * place,
                        Happening::Piece {
                            fetch,
                            at,
                            piece,
                            proof: *proof,
                        },
                    );
                }
                self.tell(LATENCY * (u64::from(run.count) + 1), ended(fetch.0));
            }
        }
    }

    fn piece(&mut self, fetch: FetchId, at: usize, piece: PieceNumber, proof: &darter_types::PieceProof) {
        if !self.running.contains(&fetch) {
            return;
        }
        let indices = self.script.blob.layout.piece_range(piece).indices();
        let mut bytes = self.script.blob.bytes[indices.clone()].to_vec();
        match &mut self.plan.parents[at] {
            Manner::Dies(0) => {
                let failure = Some(FetchFailure::Parent(ParentFailure::Unreachable));
                return self.apply(Event::FetchEnded { fetch, failure });
            }
            Manner::Dies(left) => *left -= 1,
            Manner::Liar => bytes[17] ^= 1,
            _ => {}
        }
        if proof.links(&bytes) {
            self.store[indices].copy_from_slice(&bytes);
            self.apply(Event::PieceLinked { fetch, piece });
        } else {
            let failure = Some(FetchFailure::Parent(ParentFailure::WrongBytes));
            self.apply(Event::FetchEnded { fetch, failure });
        }
    }

    fn read_origin(&mut self, fetch: FetchId, run: PieceRun, before: ChainState) {
        self.running.insert(fetch);
        let broken = transient(fetch);
        if !self.plan.origin_works {
            return self.tell(LATENCY, broken);
        }
        let layout = self.script.blob.layout;
        self.tell(LATENCY, Event::LengthKnown(LENGTH));
        let start = layout.piece_range(run.first).start;
        let mut hasher = PieceHasher::resume(before, start);
        let cut = (self.plan.cuts > 0).then(|| start + self.plan.cut_at);
        self.plan.cuts = self.plan.cuts.saturating_sub(1);
        for (piece, place) in run.pieces().take_while(|piece| *piece < PIECES).zip(1..) {
            let range = layout.piece_range(piece);
            if cut.is_some_and(|cut| cut < range.end) {
                return self.tell(LATENCY * (place + 1), broken);
            }
            hasher.update(&self.script.blob.bytes[range.indices()]);
            self.tell(
                LATENCY * (place + 1),
                Event::OriginBytes {
                    fetch,
                    offset: range.end,
                },
            );
            let event = match hasher.state() {
                Some(state) if piece < layout.last_piece() => Event::OriginBorder { fetch, piece, state },
                _ => Event::OriginLast {
                    fetch,
                    digest: hasher.clone().digest(),
                },
            };
            self.tell(LATENCY * (place + 1), event);
        }
        self.tell(LATENCY * (u64::from(PIECES) + 2), ended(fetch.0));
    }
}

fn index(host: &HostId) -> usize {
    host.to_string().trim_start_matches('p').parse().unwrap()
}

fn some_manner() -> impl Strategy<Value = Manner> {
    prop_oneof![
        3 => Just(Manner::Honest),
        1 => Just(Manner::Liar),
        1 => Just(Manner::Silent),
        1 => (0..6u32).prop_map(Manner::Dies),
        1 => Just(Manner::Empty),
        1 => Just(Manner::Busy),
        1 => Just(Manner::BlackHole),
    ]
}

fn some_help() -> impl Strategy<Value = Help> {
    prop_oneof![
        Just(Help::None),
        Just(Help::Silence),
        any::<bool>().prop_map(|trusted| Help::Parents { trusted }),
        (1..PIECES, any::<bool>()).prop_map(|(border, trusted)| Help::Lies { border, trusted }),
        (0..3000u64).prop_map(|ms| Help::Lease { ms }),
        (0..3000u64).prop_map(|ms| Help::Dies { ms }),
    ]
}

fn some_plan() -> impl Strategy<Value = Plan> {
    let parents = prop::collection::vec(some_manner(), 0..6);
    (
        parents,
        some_help(),
        0..3u32,
        0..LENGTH,
        prop::bool::weighted(0.8),
        some_rule(),
        any::<u64>(),
    )
        .prop_map(
            |(parents, help, cuts, cut_at, origin_works, release, seed)| Plan {
                parents,
                help,
                cuts,
                cut_at,
                origin_works,
                release,
                seed,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn ends_in_time_with_the_right_bytes(plan in some_plan()) {
        let mut world = World::new(plan.clone());
        let took = world.run();
        match world.outcome {
            Some(Ok(())) => {
                prop_assert_eq!(&world.store, &world.script.blob.bytes);
                let released: u32 = world.released.iter().map(|run| run.count).sum();
                prop_assert_eq!(released, PIECES);
            }
            Some(Err(Failure::WrongContent)) => {
                prop_assert!(matches!(plan.help, Help::Lies { .. }), "{:?}", plan);
                prop_assert_eq!(plan.release, Release::Linked, "nothing wrong was given away: {:?}", plan);
            }
            Some(Err(Failure::Unavailable)) => prop_assert!(!plan.origin_works, "{:?}", plan),
            other => prop_assert!(false, "{:?}: {:?}", other, plan),
        }
        let last = match plan.release {
            Release::Linked => world.script.blob.layout.piece_range(PIECES - 1).start,
            Release::Proved => 0,
        };
        prop_assert!(world.released_bytes <= last);
        let usual = !matches!(world.outcome, Some(Err(_)));
        prop_assert!(!usual || took < Duration::from_secs(30), "{:?}: {:?}", took, plan);
    }
}

fn plan(parents: &[Manner], help: Help) -> Plan {
    Plan {
        parents: parents.to_vec(),
        help,
        cuts: 0,
        cut_at: 0,
        origin_works: true,
        release: Release::Linked,
        seed: 1,
    }
}

#[test]
fn liars_alone_cost_less_than_two_seconds() {
    let mut world = World::new(plan(&[Manner::Liar; 4], Help::Parents { trusted: true }));
    assert!(world.run() < Duration::from_secs(2));
    assert_eq!(world.outcome, Some(Ok(())));
}

#[test]
fn one_honest_parent_among_bad_ones_is_enough() {
    let parents = [
        Manner::Liar,
        Manner::Silent,
        Manner::Dies(1),
        Manner::Empty,
        Manner::Busy,
        Manner::Honest,
    ];
    let mut world = World::new(Plan {
        origin_works: false,
        ..plan(&parents, Help::Parents { trusted: true })
    });
    world.run();
    assert_eq!(world.outcome, Some(Ok(())));
}
