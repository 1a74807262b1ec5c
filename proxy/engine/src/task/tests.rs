//! Each rule of a task as a script: these events, exactly these actions.

mod apart;
mod chaos;
mod forget;
mod parents;
mod proved;
mod trust;
mod world;

use std::sync::LazyLock;
use std::time::Duration;

use darter_types::{
    Algorithm, ByteRange, ChainState, Digest, HostId, Moment, PieceHasher, PieceLayout, PieceNumber,
    PieceRun, PieceSet,
};

use proptest::prelude::*;

use super::{Release, Settings, Task};
use crate::{Action, Event, Failure, FetchFailure, FetchId, Limits, OriginFailure, ParentOffer, ReaderId};

const KIB: u64 = 1024;
/// Five pieces of 256 KiB, the last one short.
const LENGTH: u64 = 1100 * KIB;
const PIECES: u32 = 5;
const READER: ReaderId = ReaderId(7);

/// A content and its chain.
#[derive(Clone)]
struct Blob {
    bytes: Vec<u8>,
    digest: Digest,
    layout: PieceLayout,
    /// Borders 0 to 4.
    states: Vec<ChainState>,
}

impl Blob {
    /// What attests a piece; anything for one that there is not.
    fn sum(&self, piece: PieceNumber) -> Digest {
        let range = self.layout.piece_range(piece).indices();
        Digest::of(Algorithm::Sha256, self.bytes.get(range).unwrap_or_default())
    }
}

fn blob(length: u64) -> Blob {
    let bytes: Vec<u8> = (0..length)
        .map(|at| u8::try_from((at * 31 + at / 251) % 256).unwrap())
        .collect();
    let layout = PieceLayout::of(length).unwrap();
    let mut hasher = PieceHasher::start(Algorithm::Sha256);
    let mut states = Vec::new();
    for piece in 0..layout.piece_count() {
        states.push(hasher.state().unwrap());
        hasher.update(&bytes[layout.piece_range(piece).indices()]);
    }
    let digest = hasher.digest();
    Blob {
        bytes,
        digest,
        layout,
        states,
    }
}

/// The content of most scripts, made once.
static BLOB: LazyLock<Blob> = LazyLock::new(|| blob(LENGTH));

fn host(name: &str) -> HostId {
    name.parse().unwrap()
}

fn offer(names: &[&str]) -> Event {
    let parent = |name: &&str| ParentOffer {
        host: host(name),
        address: format!("{name}:4000"),
    };
    Event::ParentsOffered(names.iter().map(parent).collect())
}

fn some_rule() -> impl Strategy<Value = Release> {
    prop::sample::select(vec![Release::Linked, Release::Proved])
}

fn run(first: PieceNumber, count: u32) -> PieceRun {
    PieceRun { first, count }
}

fn read_all() -> Event {
    Event::ReaderOpened {
        reader: READER,
        range: ByteRange::new(0, u64::MAX),
        checks: false,
    }
}

fn transient(fetch: FetchId) -> Event {
    Event::FetchEnded {
        fetch,
        failure: Some(FetchFailure::Origin(OriginFailure::Transient)),
    }
}

/// A task under script.
struct Script {
    blob: Blob,
    task: Task,
    now: Moment,
}

impl Script {
    fn with(length: u64, change: impl FnOnce(&mut Settings)) -> Self {
        let blob = if length == LENGTH {
            BLOB.clone()
        } else {
            blob(length)
        };
        let mut settings = Settings {
            digest: blob.digest,
            whole: true,
            background: false,
            release: Release::Linked,
            // So that one request covers all pieces but the last.
            limits: Limits {
                run_bytes: 1024 * KIB,
                ..Limits::default()
            },
            seed: 3,
        };
        change(&mut settings);
        let task = Task::new(settings, Moment::START);
        Self {
            blob,
            task,
            now: Moment::START,
        }
    }

    fn new() -> Self {
        Self::with(LENGTH, |_| ())
    }

    fn on(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.task.apply(self.now, event, &mut actions);
        assert_eq!(self.task.broken_invariant(), None);
        actions
    }

    /// Applies events whose actions do not matter here.
    fn given(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.on(event);
        }
    }

    fn after(&mut self, ms: u64, event: Event) -> Vec<Action> {
        self.now = self.now + Duration::from_millis(ms);
        self.on(event)
    }

    /// Borders `first..end` of the right chain.
    fn links(&self, first: u32, end: u32, trusted: bool) -> Event {
        let states = self.blob.states[first as usize..end as usize].to_vec();
        Event::LinksCame {
            length: self.blob.layout.length(),
            first,
            states,
            trusted,
        }
    }

    fn border(&self, fetch: u64, piece: PieceNumber) -> Event {
        let state = self.blob.states[piece as usize + 1];
        Event::OriginBorder {
            fetch: FetchId(fetch),
            piece,
            state,
        }
    }

    /// A piece that came out of order.
    fn piece(&self, fetch: u64, piece: PieceNumber) -> Event {
        Event::OriginPiece {
            fetch: FetchId(fetch),
            piece,
            sum: self.blob.sum(piece),
        }
    }

    fn last(&self, fetch: u64) -> Event {
        Event::OriginLast {
            fetch: FetchId(fetch),
            digest: self.blob.digest,
        }
    }

    /// The request to the origin that the task shall make.
    fn origin_request(&self, fetch: u64, run: PieceRun) -> Action {
        let before = self.blob.states[run.first as usize];
        Action::FetchOrigin {
            fetch: FetchId(fetch),
            run,
            before,
        }
    }

    fn state(&self, border: u32) -> Vec<ChainState> {
        vec![self.blob.states[border as usize]]
    }
}

fn linked(fetch: u64, piece: PieceNumber) -> Event {
    Event::PieceLinked {
        fetch: FetchId(fetch),
        piece,
    }
}

fn ended(fetch: u64) -> Event {
    Event::FetchEnded {
        fetch: FetchId(fetch),
        failure: None,
    }
}

/// The requests to parents among `actions`: which, from whom, what.
fn asked(actions: &[Action]) -> Vec<(u64, String, PieceRun)> {
    let request = |action: &Action| match action {
        Action::FetchPeer {
            fetch,
            host,
            run,
            proofs,
            ..
        } => {
            assert_eq!(proofs.len(), run.count as usize);
            Some((fetch.0, host.to_string(), *run))
        }
        _ => None,
    };
    actions.iter().filter_map(request).collect()
}

fn asks_origin(actions: &[Action]) -> bool {
    actions
        .iter()
        .any(|action| matches!(action, Action::FetchOrigin { .. }))
}

#[test]
fn without_a_scheduler_the_origin_is_asked_at_once() {
    let mut script = Script::new();
    let whole = script.origin_request(0, run(0, PieceLayout::PIECES_MAX));
    assert_eq!(script.on(read_all()), [whole]);
    assert_eq!(
        script.on(Event::LengthKnown(LENGTH)),
        [Action::Prepare { length: LENGTH }]
    );
}

#[test]
fn nobody_reads_and_nothing_is_asked() {
    let mut script = Script::new();
    assert_eq!(
        script.on(Event::LengthKnown(LENGTH)),
        [Action::Prepare { length: LENGTH }]
    );
    assert_eq!(script.after(99_000, Event::Tick), []);
}

#[test]
fn a_lease_is_fetched_though_nobody_reads_and_ends_with_the_proof() {
    let mut script = Script::new();
    assert_eq!(script.on(Event::SchedulerUp), [Action::Want]);
    script.given([Event::LengthKnown(LENGTH)]);
    let granted = script.on(Event::LeaseGranted {
        epoch: 9,
        runs: Vec::new(),
    });
    assert_eq!(granted, [script.origin_request(0, run(0, PIECES))]);
    for piece in 0..PIECES - 1 {
        let expected = [
            Action::Publish {
                epoch: Some(9),
                first: piece + 1,
                states: script.state(piece + 1),
            },
            Action::KeepStates {
                first: piece + 1,
                states: script.state(piece + 1),
            },
            Action::Have {
                piece,
                from: None,
                was_apart: false,
            },
            Action::Release(PieceRun::one(piece)),
        ];
        let event = script.border(0, piece);
        assert_eq!(script.on(event), expected);
    }
    let expected = [
        Action::Have {
            piece: 4,
            from: None,
            was_apart: false,
        },
        Action::Release(PieceRun::one(4)),
        Action::EndLease {
            epoch: 9,
            failure: None,
        },
        Action::Proved,
    ];
    let event = script.last(0);
    assert_eq!(script.on(event), expected);
    assert!(script.task.is_over());
    assert_eq!(script.on(read_all()), []);
}

#[test]
fn bytes_of_the_origin_go_out_as_they_come_but_those_of_the_last_piece() {
    let mut script = Script::new();
    script.given([read_all(), Event::LengthKnown(LENGTH)]);
    let bytes = |offset| Event::OriginBytes {
        fetch: FetchId(0),
        offset,
    };
    assert_eq!(script.on(bytes(1000)), [Action::ReleaseBytes { offset: 1000 }]);
    assert_eq!(
        script.on(bytes(LENGTH - 1)),
        [Action::ReleaseBytes { offset: 1024 * KIB }]
    );
}

#[test]
fn a_silent_scheduler_is_waited_for_300_ms() {
    let mut script = Script::new();
    script.given([Event::SchedulerUp, read_all()]);
    assert_eq!(script.after(299, Event::Tick), []);
    assert!(asks_origin(&script.after(1, Event::Tick)));
}

#[test]
fn a_lease_that_comes_while_alone_publishes_what_was_computed() {
    let mut script = Script::new();
    script.given([read_all(), Event::LengthKnown(LENGTH)]);
    let borders = [script.border(0, 0), script.border(0, 1)];
    script.given(borders);
    assert_eq!(script.on(Event::SchedulerUp), [Action::Want]);
    let states = script.blob.states.clone();
    let whole = |end: usize| Action::Publish {
        epoch: Some(1),
        first: 1,
        states: states[1..end].to_vec(),
    };
    let (first, again) = (whole(3), whole(4));
    assert_eq!(
        script.on(Event::LeaseGranted {
            epoch: 1,
            runs: Vec::new()
        }),
        [first]
    );
    let event = script.border(0, 2);
    let actions = script.on(event);
    assert_eq!(
        actions[0],
        Action::Publish {
            epoch: Some(1),
            first: 3,
            states: script.state(3)
        }
    );
    // A scheduler that comes back may have forgotten all.
    assert_eq!(script.on(Event::SchedulerUp), [Action::Want, again]);
}

#[test]
fn a_lease_of_runs_starts_at_a_known_border_and_ends_when_covered() {
    let mut script = Script::new();
    let links = script.links(1, 3, true);
    script.given([Event::SchedulerUp, links]);
    // Piece 3 lies beyond the known borders 0..3: the way there leads over piece 2.
    let granted = script.on(Event::LeaseGranted {
        epoch: 4,
        runs: vec![run(3, 1)],
    });
    let states = script.state(1).into_iter().chain(script.state(2)).collect();
    let told = Action::Publish {
        epoch: Some(4),
        first: 1,
        states,
    };
    assert_eq!(granted, [told, script.origin_request(0, run(2, 2))]);
    let borders = [script.border(0, 2), script.border(0, 3)];
    script.given(borders);
    assert_eq!(
        script.on(ended(0)),
        [Action::EndLease {
            epoch: 4,
            failure: None
        }]
    );
}

#[test]
fn a_revoked_lease_stops_the_request() {
    let mut script = Script::new();
    script.given([Event::SchedulerUp, Event::LengthKnown(LENGTH)]);
    script.given([Event::LeaseGranted {
        epoch: 4,
        runs: Vec::new(),
    }]);
    assert_eq!(script.on(Event::LeaseRevoked { epoch: 3 }), []);
    assert_eq!(
        script.on(Event::LeaseRevoked { epoch: 4 }),
        [Action::Cancel(FetchId(0))]
    );
}

#[test]
fn readers_of_ranges_get_what_they_read_and_nothing_else() {
    let mut script = Script::with(LENGTH, |settings| settings.whole = false);
    script.given([Event::LengthKnown(LENGTH)]);
    let range = ByteRange::new(300 * KIB, 301 * KIB);
    let opened = script.on(Event::ReaderOpened {
        reader: READER,
        range,
        checks: false,
    });
    let fetch = FetchId(0);
    assert_eq!(
        opened,
        [Action::FetchApart {
            fetch,
            run: run(1, 1)
        }]
    );
    let came = script.piece(0, 1);
    let sum = script.blob.sum(1);
    let from = None;
    assert_eq!(script.on(came), [Action::HaveApart { piece: 1, sum, from }]);
    assert_eq!(script.on(ended(0)), []);
    assert_eq!(script.on(Event::ReaderClosed { reader: READER }), []);
}

#[test]
fn a_reader_of_a_range_is_not_comforted_by_what_others_get() {
    let mut script = Script::with(LENGTH, |settings| settings.whole = false);
    let links = script.links(1, 5, true);
    script.given([Event::SchedulerUp, offer(&["a"]), links]);
    script.given([Event::ParentHas(host("a"), vec![run(0, 1)])]);
    let read = |reader, from: u64| {
        let range = ByteRange::new(from, from + 1);
        Event::ReaderOpened {
            reader: ReaderId(reader),
            range,
            checks: false,
        }
    };
    assert_eq!(asked(&script.on(read(0, 0))), [(0, "a".into(), run(0, 1))]);
    script.given([read(1, 900 * KIB)]);
    assert!(!asks_origin(&script.after(3000, linked(0, 0))));
    assert_eq!(
        script.after(2800, Event::Tick),
        [script.origin_request(1, run(3, 1))]
    );
}

#[test]
fn an_origin_read_for_nobody_stops() {
    let mut script = Script::new();
    script.given([read_all(), Event::LengthKnown(LENGTH)]);
    assert_eq!(
        script.on(Event::ReaderClosed { reader: READER }),
        [Action::Cancel(FetchId(0))]
    );
    assert_eq!(script.on(read_all()), [script.origin_request(1, run(0, PIECES))]);
}

#[test]
fn an_origin_that_always_breaks_off_fails_the_task() {
    let mut script = Script::new();
    script.given([read_all(), Event::LengthKnown(LENGTH)]);
    for attempt in 0..3 {
        // The same bytes every time are no progress.
        script.given([Event::OriginBytes {
            fetch: FetchId(attempt),
            offset: 1000,
        }]);
        assert_eq!(script.on(transient(FetchId(attempt))), []);
        assert!(asks_origin(&script.after(1000, Event::Tick)));
    }
    assert_eq!(
        script.on(transient(FetchId(3))),
        [Action::Fail(Failure::Unavailable)]
    );
}

#[test]
fn an_origin_that_was_asked_often_enough_fails_the_task_at_once() {
    let mut script = Script::new();
    script.given([read_all(), Event::LengthKnown(LENGTH)]);
    let exhausted = Event::FetchEnded {
        fetch: FetchId(0),
        failure: Some(FetchFailure::Origin(OriginFailure::Exhausted)),
    };
    assert_eq!(script.on(exhausted), [Action::Fail(Failure::Unavailable)]);
}

#[test]
fn with_a_parent_alive_the_origin_is_given_up_once_and_then_the_task() {
    let mut script = Script::new();
    script.given([
        Event::SchedulerUp,
        Event::LengthKnown(LENGTH),
        offer(&["a"]),
        Event::ParentAlive(host("a")),
    ]);
    script.given([read_all()]);
    let mut outcomes = Vec::new();
    for _ in 0..600 {
        for action in script.after(50, Event::Tick) {
            if let Action::FetchOrigin { fetch, .. } = action {
                outcomes.extend(script.on(transient(fetch)));
            }
        }
    }
    assert_eq!(outcomes, [Action::Want, Action::Fail(Failure::Unavailable)]);
}

#[test]
fn an_empty_content_is_proved_by_its_digest() {
    let mut script = Script::with(0, |_| ());
    script.given([read_all(), Event::LengthKnown(0)]);
    let event = script.last(0);
    let actions = script.on(event);
    assert_eq!(
        actions.first(),
        Some(&Action::Have {
            piece: 0,
            from: None,
            was_apart: false
        })
    );
    assert_eq!(actions.last(), Some(&Action::Proved));
}

#[test]
fn an_answer_of_another_request_or_piece_changes_nothing() {
    let mut script = Script::new();
    script.given([read_all(), Event::LengthKnown(LENGTH)]);
    let events = [script.border(8, 0), linked(0, 0), script.last(8), ended(8)];
    for event in events {
        assert_eq!(script.on(event), []);
    }
    assert!(script.task.present().is_some_and(PieceSet::is_empty));
}
