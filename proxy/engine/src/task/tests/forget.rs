//! A chain is taken back: what rests on it is gone for readers, what this node read itself stays, and the next chain
//! brings the rest.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::ParentFailure;

/// A content of the same length that differs in one byte of piece `at`, with its own honest chain.
pub(super) fn other_blob(at: PieceNumber) -> Blob {
    let mut other = BLOB.clone();
    let range = other.layout.piece_range(at).indices();
    other.bytes[range.start + 99] ^= 1;
    let mut hasher = PieceHasher::start(Algorithm::Sha256);
    other.states.clear();
    for piece in 0..PIECES {
        other.states.push(hasher.state().unwrap());
        hasher.update(&other.bytes[other.layout.piece_range(piece).indices()]);
    }
    other
}

pub(super) fn links_of(blob: &Blob, end: u32, trusted: bool) -> Event {
    Event::LinksCame {
        length: LENGTH,
        first: 1,
        states: blob.states[1..end as usize].to_vec(),
        trusted,
    }
}

/// The shell around a task: a store, what readers may have, what other nodes may have.
pub(super) struct Shell {
    pub(super) script: Script,
    pub(super) store: Vec<u8>,
    pub(super) released: BTreeSet<PieceNumber>,
    pub(super) shown: BTreeSet<PieceNumber>,
    states: Vec<ChainState>,
    /// Running requests to the parent, with their proofs, and the one to the origin.
    pub(super) peer: std::collections::BTreeMap<FetchId, (PieceRun, Vec<darter_types::PieceProof>)>,
    pub(super) origin: Option<(FetchId, PieceRun, ChainState)>,
    /// How often the task went over to the origin alone.
    pub(super) alone: u32,
    forgotten: Option<Vec<PieceNumber>>,
    pub(super) outcome: Option<Result<(), Failure>>,
}

impl Shell {
    fn new(seed: u64) -> Self {
        Self::with(seed, Release::Linked)
    }

    pub(super) fn with(seed: u64, release: Release) -> Self {
        let mut shell = Self {
            script: Script::with(LENGTH, |settings| {
                settings.seed = seed;
                settings.release = release;
            }),
            alone: 0,
            store: vec![0; usize::try_from(LENGTH).unwrap()],
            released: BTreeSet::new(),
            shown: BTreeSet::new(),
            states: Vec::new(),
            peer: std::collections::BTreeMap::new(),
            origin: None,
            forgotten: None,
            outcome: None,
        };
        shell.on(Event::SchedulerUp);
        shell.on(Event::LengthKnown(LENGTH));
        shell.on(read_all());
        shell
    }

    pub(super) fn on(&mut self, event: Event) {
        for action in self.script.after(1, event) {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        assert_eq!(self.outcome, None, "{action:?} after the end");
        match action {
            Action::FetchPeer {
                fetch, run, proofs, ..
            } => drop(self.peer.insert(fetch, (run, proofs))),
            Action::FetchOrigin { fetch, run, before } => {
                let run = PieceRun {
                    count: run.end().min(PIECES) - run.first,
                    ..run
                };
                assert!(self.origin.replace((fetch, run, before)).is_none());
            }
            Action::Cancel(fetch) => {
                let origin = self.origin.take_if(|(running, _, _)| *running == fetch);
                assert!(self.peer.remove(&fetch).is_some() || origin.is_some());
            }
            Action::Have { piece, .. } => drop(self.shown.insert(piece)),
            Action::Release(run) => {
                for piece in run.pieces() {
                    assert!(self.shown.contains(&piece) && self.released.insert(piece));
                }
            }
            Action::KeepStates { first, states } => {
                assert_eq!(first as usize, self.states.len() + 1);
                self.states.extend(states);
            }
            Action::Forget { runs, first, .. } => {
                let gone: Vec<_> = runs.iter().flat_map(|run| run.pieces()).collect();
                for piece in &gone {
                    assert!(self.shown.remove(piece));
                    self.released.remove(piece);
                    self.store[BLOB.layout.piece_range(*piece).indices()].fill(0);
                }
                self.states.truncate(first as usize - 1);
                self.forgotten = Some(gone);
            }
            Action::OriginOnly => self.alone += 1,
            Action::Proved => self.outcome = Some(Ok(())),
            Action::Fail(failure) => self.outcome = Some(Err(failure)),
            _ => {}
        }
    }

    /// The parent sends `piece` of `blob`, if it was asked for it.
    pub(super) fn send(&mut self, blob: &Blob, piece: PieceNumber) {
        let asked = self.peer.iter().find(|(_, (run, _))| run.contains(piece));
        let Some((fetch, (run, proofs))) = asked else {
            return;
        };
        let (fetch, proof) = (*fetch, proofs[(piece - run.first) as usize]);
        let range = BLOB.layout.piece_range(piece).indices();
        if proof.links(&blob.bytes[range.clone()]) {
            self.store[range.clone()].copy_from_slice(&blob.bytes[range]);
            self.on(Event::PieceLinked { fetch, piece });
        }
    }

    /// The origin sends the next `count` pieces of the request that it has.
    pub(super) fn read_origin(&mut self, count: u32) {
        let Some((fetch, run, before)) = self.origin else {
            return;
        };
        let start = BLOB.layout.piece_range(run.first).start;
        let mut hasher = PieceHasher::resume(before, start);
        for piece in run.pieces().take(count as usize) {
            let range = BLOB.layout.piece_range(piece).indices();
            hasher.update(&BLOB.bytes[range.clone()]);
            self.store[range.clone()].copy_from_slice(&BLOB.bytes[range]);
            let event = match hasher.state() {
                Some(state) if piece + 1 < PIECES => Event::OriginBorder { fetch, piece, state },
                _ => Event::OriginLast {
                    fetch,
                    digest: hasher.clone().digest(),
                },
            };
            self.on(event);
            if self.outcome.is_some() || self.origin.is_none_or(|(running, _, _)| running != fetch) {
                return;
            }
        }
        if run.count <= count {
            self.origin = None;
            self.on(Event::FetchEnded { fetch, failure: None });
        }
    }

    /// Everything that a reader may have is the truth's.
    fn only_truth_is_released(&self) {
        for piece in &self.released {
            let range = BLOB.layout.piece_range(*piece).indices();
            assert_eq!(self.store[range.clone()], BLOB.bytes[range], "piece {piece}");
        }
    }
}

#[derive(Clone, Debug)]
struct Plan {
    /// Piece in which the lie differs from the truth; after the last piece = no lie at all.
    lie_at: PieceNumber,
    /// Pieces that this node reads from the origin before anything else.
    own: u32,
    /// Borders of the first chain, and whether its author is one of trust.
    known: u32,
    trusted: bool,
    /// Pieces that come from the parent by that chain.
    linked: Vec<PieceNumber>,
    /// The next chain is an author's of trust, a doubtful one's, or the node is sent to the origin.
    next: Option<bool>,
    seed: u64,
}

fn some_plan() -> impl Strategy<Value = Plan> {
    (
        0..=PIECES,
        0..PIECES,
        2..=PIECES,
        any::<bool>(),
        prop::collection::vec(0..PIECES, 0..8),
        prop::option::of(any::<bool>()),
        any::<u64>(),
    )
        .prop_map(|(lie_at, own, known, trusted, linked, next, seed)| Plan {
            lie_at,
            // What the node reads itself and a lie before it conflict at once, which is another test's.
            own: own.min(lie_at),
            known,
            trusted,
            linked,
            next,
            seed,
        })
}

/// Up to the moment at which the chain is taken back.
fn before_the_end_of_trust(plan: &Plan, lie: &Blob) -> Shell {
    let mut shell = Shell::new(plan.seed);
    if plan.own > 0 {
        shell.on(Event::LeaseGranted {
            epoch: 1,
            runs: Vec::new(),
        });
        shell.read_origin(plan.own);
        shell.on(Event::LeaseRevoked { epoch: 1 });
    }
    shell.on(links_of(lie, plan.known, plan.trusted));
    shell.on(offer(&["a"]));
    shell.on(Event::ParentHas(host("a"), vec![run(0, PIECES)]));
    for piece in &plan.linked {
        shell.send(lie, *piece);
    }
    shell
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nobody_gets_what_was_dropped_and_the_task_still_ends(plan in some_plan()) {
        let lie = if plan.lie_at < PIECES { other_blob(plan.lie_at) } else { BLOB.clone() };
        let mut shell = before_the_end_of_trust(&plan, &lie);
        if shell.outcome.is_some() {
            // Without a lie all may have come already.
            prop_assert_eq!(shell.outcome, Some(Ok(())));
            return Ok(());
        }
        let (held, given) = (shell.shown.clone(), shell.released.clone());
        let reads: Vec<FetchId> = shell.peer.keys().copied().collect();
        shell.on(Event::LinksForgotten);

        let own: BTreeSet<_> = (0..plan.own).collect();
        prop_assert_eq!(&shell.shown, &own, "what the node read itself, and nothing else");
        prop_assert_eq!(&shell.released, &own);
        prop_assert_eq!(shell.states.len(), plan.own as usize);
        let gone: BTreeSet<_> = shell.forgotten.clone().unwrap().into_iter().collect();
        prop_assert_eq!(gone, held.difference(&own).copied().collect::<BTreeSet<_>>());
        // Answers to requests by the old chain that are still on their way bring nothing back.
        for fetch in reads {
            for piece in 0..PIECES {
                shell.on(Event::PieceLinked { fetch, piece });
            }
            shell.on(Event::FetchEnded { fetch, failure: Some(FetchFailure::Parent(ParentFailure::WrongBytes)) });
        }
        prop_assert_eq!(&shell.released, &own);

        match plan.next {
            Some(trusted) => shell.on(links_of(&BLOB, PIECES, trusted)),
            None => shell.on(Event::GoAlone),
        }
        let misled = given.iter().any(|piece| *piece >= plan.lie_at);
        for _ in 0..4 * PIECES {
            if shell.outcome.is_some() {
                break;
            }
            shell.only_truth_is_released();
            (0..PIECES).for_each(|piece| {
                if shell.outcome.is_none() {
                    shell.send(&BLOB, piece);
                }
            });
            if shell.outcome.is_none() {
                shell.read_origin(PIECES);
            }
        }
        if misled {
            // Readers have bytes of the lie: what follows must not be appended to them.
            prop_assert_eq!(shell.outcome, Some(Err(Failure::WrongContent)));
            prop_assert!(shell.released.iter().all(|piece| *piece < plan.lie_at));
        } else {
            prop_assert_eq!(shell.outcome, Some(Ok(())));
            prop_assert_eq!(&shell.store, &BLOB.bytes);
            prop_assert_eq!(shell.released.len(), PIECES as usize);
        }
    }
}

#[test]
fn the_scheduler_is_asked_for_the_next_chain_and_told_what_is_known() {
    let mut script = Script::new();
    let links = script.links(1, 5, true);
    script.given([Event::SchedulerUp, Event::LengthKnown(LENGTH), read_all()]);
    script.given([Event::LeaseGranted {
        epoch: 4,
        runs: Vec::new(),
    }]);
    let border = script.border(0, 0);
    script.given([border, links]);
    let forget = Action::Forget {
        runs: Vec::new(),
        claims: Vec::new(),
        first: 2,
    };
    let told = Action::Publish {
        epoch: Some(4),
        first: 1,
        states: script.state(1),
    };
    assert_eq!(script.on(Event::LinksForgotten), [forget, Action::Want, told]);
    // Its own request to the origin goes on.
    let border = script.border(0, 1);
    assert!(script.on(border).contains(&Action::Release(run(1, 1))));
}

#[test]
fn a_claim_that_is_being_checked_by_the_old_chain_is_dropped_and_others_wait_for_the_next() {
    let mut script = Script::with(LENGTH, |settings| settings.limits.checks_max = 1);
    let states = &script.blob.states[1..];
    let claimed = PieceSet::full(PIECES);
    script
        .task
        .restore(script.blob.layout, states, &claimed, &PieceSet::new(PIECES));
    script.given([read_all()]);
    let actions = script.on(Event::LinksForgotten);
    assert!(actions.contains(&Action::Forget {
        runs: Vec::new(),
        claims: vec![0],
        first: 1,
    }));
    assert_eq!(
        script.on(Event::ClaimChecked { piece: 0, good: true }),
        [],
        "by a chain that counts no more"
    );
    let links = script.links(1, 5, true);
    let checks = script.on(links);
    assert!(
        checks
            .iter()
            .any(|action| matches!(action, Action::Check { piece: 1, .. })),
        "{checks:?}"
    );
}
