//! Whatever comes in whatever order, from parents that lie and schedulers that contradict themselves: no panic, no
//! broken invariant, nothing released twice or taken back.

use proptest::prelude::*;

use super::*;
use crate::ParentFailure;

const HOSTS: [&str; 4] = ["a", "b", "c", "d"];

fn some_run() -> impl Strategy<Value = PieceRun> {
    (0..PIECES + 2, prop_oneof![0..PIECES + 1, Just(u32::MAX)]).prop_map(|(first, count)| run(first, count))
}

fn some_runs() -> impl Strategy<Value = Vec<PieceRun>> {
    prop::collection::vec(some_run(), 0..3)
}

fn some_host() -> impl Strategy<Value = HostId> {
    prop::sample::select(HOSTS.to_vec()).prop_map(host)
}

fn some_failure() -> impl Strategy<Value = ParentFailure> {
    prop::sample::select(vec![
        ParentFailure::Busy,
        ParentFailure::Missing,
        ParentFailure::Silent,
        ParentFailure::Unreachable,
        ParentFailure::WrongBytes,
    ])
}

fn some_end() -> impl Strategy<Value = Option<FetchFailure>> {
    prop_oneof![
        4 => Just(None),
        4 => some_failure().prop_map(|failure| Some(FetchFailure::Parent(failure))),
        2 => Just(Some(FetchFailure::Origin(OriginFailure::Transient))),
        1 => Just(Some(FetchFailure::Origin(OriginFailure::Exhausted))),
        1 => Just(Some(FetchFailure::Origin(OriginFailure::Refused))),
    ]
}

fn some_links() -> impl Strategy<Value = Event> {
    let lengths = prop_oneof![8 => Just(LENGTH), 1 => Just(0), 1 => Just(u64::MAX)];
    (
        lengths,
        0..PIECES + 1,
        0..PIECES,
        any::<bool>(),
        prop::bool::weighted(0.05),
    )
        .prop_map(|(length, first, count, trusted, lie)| {
            let right = &BLOB.states;
            let states = right.iter().skip(first as usize).take(count as usize).copied();
            let states = states.map(|state| if lie { right[1] } else { state }).collect();
            Event::LinksCame {
                length,
                first,
                states,
                trusted,
            }
        })
}

fn some_event() -> impl Strategy<Value = Event> {
    let fetch = (0..12u64).prop_map(FetchId).boxed();
    let reader = (0..3u64).prop_map(ReaderId).boxed();
    let offset = prop_oneof![0..LENGTH, Just(u64::MAX)].boxed();
    prop_oneof![
        (reader.clone(), offset.clone(), offset.clone()).prop_map(|(reader, a, b)| Event::ReaderOpened {
            reader,
            range: ByteRange::new(a.min(b), a.max(b)),
            checks: a % 2 == 0,
        }),
        (reader.clone(), offset.clone()).prop_map(|(reader, offset)| Event::ReaderMoved { reader, offset }),
        reader.prop_map(|reader| Event::ReaderClosed { reader }),
        prop_oneof![Just(LENGTH), Just(1), Just(u64::MAX)].prop_map(Event::LengthKnown),
        Just(Event::SchedulerUp),
        Just(Event::SchedulerDown),
        prop::sample::subsequence(HOSTS.to_vec(), 0..=4).prop_map(|names| offer(&names)),
        some_host().prop_map(Event::ParentAlive),
        (some_host(), some_runs()).prop_map(|(host, runs)| Event::ParentHas(host, runs)),
        (some_host(), some_failure()).prop_map(|(host, failure)| Event::ParentLost(host, failure)),
        some_links(),
        (0..3u64, some_runs()).prop_map(|(epoch, runs)| Event::LeaseGranted { epoch, runs }),
        (0..3u64).prop_map(|epoch| Event::LeaseRevoked { epoch }),
        (0..3u64, some_runs()).prop_map(|(epoch, runs)| Event::PiecesAsked { epoch, runs }),
        (0..PIECES + 1, prop::bool::weighted(0.1)).prop_map(|(piece, lie)| {
            let length = LENGTH;
            let sums = vec![(piece, if lie { BLOB.digest } else { BLOB.sum(piece) })];
            Event::AttestationsCame { length, sums }
        }),
        (fetch.clone(), 0..PIECES + 1).prop_map(|(fetch, piece)| Event::OriginPiece {
            fetch,
            piece,
            sum: BLOB.sum(piece)
        }),
        (0..PIECES, prop::bool::weighted(0.8)).prop_map(|(piece, read)| {
            let after = BLOB.states.get(piece as usize + 1).copied().filter(|_| read);
            Event::Walked { piece, after }
        }),
        Just(Event::GoAlone),
        Just(Event::LinksForgotten),
        (fetch.clone(), 0..PIECES + 1).prop_map(|(fetch, piece)| Event::PieceLinked { fetch, piece }),
        (fetch.clone(), 0..PIECES).prop_map(|(fetch, piece)| {
            let states = &BLOB.states;
            let state = states.get(piece as usize + 1).copied().unwrap_or(states[0]);
            Event::OriginBorder { fetch, piece, state }
        }),
        fetch.clone().prop_map(|fetch| Event::OriginLast {
            fetch,
            digest: BLOB.digest
        }),
        (fetch.clone(), offset).prop_map(|(fetch, offset)| Event::OriginBytes { fetch, offset }),
        (fetch, some_end()).prop_map(|(fetch, failure)| Event::FetchEnded { fetch, failure }),
        (0..PIECES + 1, any::<bool>()).prop_map(|(piece, good)| Event::ClaimChecked { piece, good }),
        Just(Event::Tick),
    ]
}

/// What must hold of the actions, whatever the events.
#[derive(Default)]
struct Watchman {
    released: std::collections::BTreeSet<PieceNumber>,
    running: std::collections::BTreeSet<FetchId>,
    kept: u32,
    release: Release,
    /// Bytes of an arriving piece were released.
    early: bool,
    over: bool,
}

impl Watchman {
    fn see(&mut self, action: &Action) {
        assert!(!self.over, "{action:?} after the end");
        match action {
            Action::Release(run) => {
                assert!(run.count > 0);
                run.pieces()
                    .for_each(|piece| assert!(self.released.insert(piece)));
            }
            Action::FetchPeer {
                fetch, run, proofs, ..
            } => {
                assert!(run.count > 0 && proofs.len() == run.count as usize);
                assert!(self.running.insert(*fetch));
            }
            Action::FetchOrigin { fetch, run, .. } => {
                assert!(run.count > 0);
                assert!(self.running.insert(*fetch));
            }
            Action::FetchApart { fetch, run } => {
                assert!(run.count > 0);
                assert!(self.running.insert(*fetch));
            }
            Action::Shorten { fetch, .. } => assert!(self.running.contains(fetch)),
            Action::HaveApart { piece, .. } => {
                assert!(!self.released.contains(piece), "linked before, apart again");
            }
            Action::Cancel(fetch) => assert!(self.running.remove(fetch), "cancelled what does not run"),
            Action::KeepStates { first, states } => {
                assert_eq!(*first, self.kept + 1, "states are kept without a gap");
                self.kept += u32::try_from(states.len()).unwrap();
            }
            Action::Forget { runs, first, .. } => {
                self.kept = self.kept.min(first - 1);
                for piece in runs.iter().flat_map(|run| run.pieces()) {
                    self.released.remove(&piece);
                }
            }
            Action::ReleaseBytes { .. } => self.early = true,
            Action::Proved | Action::Fail(_) => {
                assert!(
                    self.release == Release::Linked || !self.early,
                    "bytes before the proof"
                );
                assert!(
                    *action == Action::Proved || self.release == Release::Linked || self.released.is_empty()
                );
                self.over = true;
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(darter_testkit::cases(400, 100_000)))]

    #[test]
    fn any_order_of_events_keeps_the_invariants(
        whole in any::<bool>(),
        background in any::<bool>(),
        release in some_rule(),
        seed in any::<u64>(),
        events in prop::collection::vec((some_event(), 0..900u64), 0..120),
    ) {
        let mut script = Script::with(LENGTH, |settings| {
            *settings = Settings { whole, background, release, seed, ..settings.clone() };
        });
        let mut watchman = Watchman { release, ..Watchman::default() };
        for (event, ms) in events {
            if let Event::FetchEnded { fetch, .. } = &event {
                watchman.running.remove(fetch);
            }
            for action in script.after(ms, event) {
                watchman.see(&action);
            }
        }
        prop_assert_eq!(watchman.over, script.task.is_over());
    }
}
