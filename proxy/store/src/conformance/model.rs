//! Random calls, and what must come of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use darter_types::ByteRange;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{PIECE, Subject, facts, read_all, state, task};
use crate::{StoreError, StoredTask};

const QUOTA: u64 = 7 * PIECE;
/// Lengths of the tasks, in turn: three pieces with a short last one, two, and less than one.
const TASKS: u8 = 3;
const LENGTHS: [u64; TASKS as usize] = [2 * PIECE + 1000, 2 * PIECE, 500];

#[derive(Clone, Debug)]
enum Call {
    Open {
        task: u8,
        whole: bool,
    },
    Close(u8),
    /// Writes one half of a piece, full of one byte.
    Write {
        task: u8,
        piece: u32,
        second: bool,
        fill: u8,
    },
    Mark {
        task: u8,
        piece: u32,
    },
    Forget {
        task: u8,
        piece: u32,
    },
    States {
        task: u8,
        first: u32,
        count: u32,
    },
    ForgetStates {
        task: u8,
        first: u32,
    },
    Proved(u8),
    Remove(u8),
    MakeRoom(u64),
    Restart,
}

fn call() -> impl Strategy<Value = Call> {
    let name = || 0..TASKS;
    let piece = || 0..3u32;
    prop_oneof![
        4 => (name(), any::<bool>()).prop_map(|(task, whole)| Call::Open { task, whole }),
        2 => name().prop_map(Call::Close),
        12 => (name(), piece(), any::<bool>(), any::<u8>())
            .prop_map(|(task, piece, second, fill)| Call::Write { task, piece, second, fill }),
        8 => (name(), piece()).prop_map(|(task, piece)| Call::Mark { task, piece }),
        2 => (name(), piece()).prop_map(|(task, piece)| Call::Forget { task, piece }),
        2 => (name(), 0..4u32, 0..4u32).prop_map(|(task, first, count)| Call::States { task, first, count }),
        1 => (name(), 0..4u32).prop_map(|(task, first)| Call::ForgetStates { task, first }),
        2 => name().prop_map(Call::Proved),
        1 => name().prop_map(Call::Remove),
        1 => (0..8 * PIECE).prop_map(Call::MakeRoom),
        1 => Just(Call::Restart),
    ]
}

#[derive(Default)]
struct Task {
    whole: bool,
    /// What each half of each piece is full of, where that is known.
    halves: BTreeMap<(u32, bool), u8>,
    present: BTreeSet<u32>,
    claimed: BTreeSet<u32>,
    charged: BTreeSet<u32>,
    states: BTreeMap<u32, u32>,
    proved: bool,
    used: u64,
}

/// The store as it must be.
struct Model<S> {
    subject: S,
    tasks: BTreeMap<u8, Task>,
    handles: BTreeMap<u8, Arc<dyn StoredTask>>,
    uses: u64,
    /// The order of uses from before a restart is known to the store only roughly.
    order_known: bool,
}

fn range(task: u8, piece: u32) -> ByteRange {
    facts(LENGTHS[usize::from(task)], true).layout.piece_range(piece)
}

fn half(task: u8, piece: u32, second: bool) -> ByteRange {
    let range = range(task, piece);
    let middle = range.start + range.len() / 2;
    match second {
        true => ByteRange::new(middle, range.end),
        false => ByteRange::new(range.start, middle),
    }
}

fn has(task: u8, piece: u32) -> bool {
    !range(task, piece).is_empty()
}

impl Task {
    fn stored_bytes(&self, name: u8) -> u64 {
        match self.whole {
            true => LENGTHS[usize::from(name)],
            false => self.charged.iter().map(|piece| range(name, *piece).len()).sum(),
        }
    }

    fn forget(&mut self, piece: u32) {
        if self.present.remove(&piece) | self.claimed.remove(&piece) {
            self.proved = false;
        }
    }
}

impl<S: Subject> Model<S> {
    fn new() -> Self {
        Self {
            subject: S::make(QUOTA),
            tasks: BTreeMap::new(),
            handles: BTreeMap::new(),
            uses: 0,
            order_known: true,
        }
    }

    fn stored_bytes(&self) -> u64 {
        self.tasks
            .iter()
            .map(|(name, task)| task.stored_bytes(*name))
            .sum()
    }

    fn used(&mut self, name: u8) {
        self.uses += 1;
        if let Some(task) = self.tasks.get_mut(&name) {
            task.used = self.uses;
        }
    }

    fn apply(&mut self, call: &Call) {
        match *call {
            Call::Open { task, whole } => self.open(task, whole),
            Call::Close(name) => {
                if self.handles.remove(&name).is_some() {
                    self.used(name);
                }
            }
            Call::Write {
                task,
                piece,
                second,
                fill,
            } if has(task, piece) => self.write(task, piece, second, fill),
            Call::Mark { task, piece } => self.mark(task, piece),
            Call::Forget { task, piece } => {
                if let Some(handle) = self.handles.get(&task) {
                    handle.forget(piece);
                    self.tasks.get_mut(&task).unwrap().forget(piece);
                }
            }
            Call::States { task, first, count } => self.record_states(task, first, count),
            Call::ForgetStates { task, first } => {
                if let Some(handle) = self.handles.get(&task) {
                    handle.forget_states(first).unwrap();
                    let states = &mut self.tasks.get_mut(&task).unwrap().states;
                    states.retain(|border, _| *border < first);
                }
            }
            Call::Proved(name) => {
                if let Some(handle) = self.handles.get(&name) {
                    handle.record_proved();
                    let task = self.tasks.get_mut(&name).unwrap();
                    task.proved |= (0..3).all(|piece| !has(name, piece) || task.present.contains(&piece));
                }
            }
            Call::Remove(name) => {
                self.handles.remove(&name);
                let removed = self.subject.store().remove(task(name));
                assert_eq!(removed.is_ok(), self.tasks.remove(&name).is_some());
            }
            Call::MakeRoom(wanted_bytes) => self.make_room(wanted_bytes),
            Call::Restart => self.restart(),
            Call::Write { .. } => {}
        }
    }

    fn open(&mut self, name: u8, whole: bool) {
        self.handles.remove(&name).is_some().then(|| self.used(name));
        let length = LENGTHS[usize::from(name)];
        let wanted = if whole && !self.tasks.contains_key(&name) {
            length
        } else {
            0
        };
        let fits = self.stored_bytes() + wanted <= QUOTA || wanted == 0;
        match self.subject.store().open(task(name), &facts(length, whole)) {
            Ok(handle) => {
                assert!(fits);
                self.handles.insert(name, handle);
                self.tasks.entry(name).or_insert(Task {
                    whole,
                    ..Task::default()
                });
                self.used(name);
            }
            Err(StoreError::NoSpace { wanted_bytes }) => assert!(!fits && wanted_bytes == wanted),
            Err(error) => panic!("{error}"),
        }
    }

    fn write(&mut self, name: u8, piece: u32, second: bool, fill: u8) {
        let stored = self.stored_bytes();
        let (Some(handle), Some(task)) = (self.handles.get(&name), self.tasks.get_mut(&name)) else {
            return;
        };
        let half = half(name, piece, second);
        let present = task.present.contains(&piece);
        let charge = !task.whole && !present && !task.charged.contains(&piece);
        let fits = !charge || stored + range(name, piece).len() <= QUOTA;
        match handle.write(half.start, &vec![fill; half.indices().len()]) {
            Ok(()) => assert!(fits),
            Err(StoreError::NoSpace { .. }) => return assert!(!fits),
            Err(error) => panic!("{error}"),
        }
        if !present {
            task.charged.insert(piece);
            task.forget(piece);
            task.halves.insert((piece, second), fill);
        }
    }

    fn mark(&mut self, name: u8, piece: u32) {
        let (Some(handle), Some(task)) = (self.handles.get(&name), self.tasks.get_mut(&name)) else {
            return;
        };
        if !has(name, piece) {
            assert!(handle.mark_present(piece).is_err());
        } else if [false, true]
            .iter()
            .all(|second| task.halves.contains_key(&(piece, *second)))
        {
            handle.mark_present(piece).unwrap();
            task.claimed.remove(&piece);
            task.present.insert(piece);
        }
    }

    fn record_states(&mut self, name: u8, first: u32, count: u32) {
        let (Some(handle), Some(task)) = (self.handles.get(&name), self.tasks.get_mut(&name)) else {
            return;
        };
        self.uses += 1;
        let number = u32::try_from(self.uses).unwrap();
        handle
            .record_states(first, &vec![state(number); count as usize])
            .unwrap();
        task.states.extend(
            (first..first + count)
                .filter(|border| *border > 0 && has(name, *border))
                .map(|border| (border, number)),
        );
    }

    fn make_room(&mut self, wanted_bytes: u64) {
        let attainable: u64 = self.closed().map(|(name, task)| task.stored_bytes(name)).sum();
        let mut expected = Vec::new();
        let deficit = (self.stored_bytes() + wanted_bytes).saturating_sub(QUOTA);
        let mut closed: Vec<(u64, u8, u64)> = self
            .closed()
            .map(|(name, task)| (task.used, name, task.stored_bytes(name)))
            .collect();
        closed.sort_unstable();
        let mut freed = 0;
        for (_, name, bytes) in closed {
            if deficit <= attainable && freed < deficit {
                expected.push(task(name));
                freed += bytes;
            }
        }
        let dropped = self.subject.store().make_room(wanted_bytes);
        if self.order_known {
            assert_eq!(dropped, expected);
        }
        for gone in dropped {
            let name = *self.tasks.keys().find(|name| task(**name) == gone).unwrap();
            assert!(!self.handles.contains_key(&name), "it is open");
            self.tasks.remove(&name);
        }
        assert!(deficit > attainable || self.stored_bytes() + wanted_bytes <= QUOTA.max(wanted_bytes));
    }

    fn closed(&self) -> impl Iterator<Item = (u8, &Task)> {
        let closed = self
            .tasks
            .iter()
            .filter(|(name, _)| !self.handles.contains_key(name));
        closed.map(|(name, task)| (*name, task))
    }

    fn restart(&mut self) {
        self.handles.clear();
        self.subject.restart();
        self.order_known = false;
        for task in self.tasks.values_mut() {
            task.claimed.append(&mut task.present);
            let claimed = task.claimed.clone();
            task.halves.retain(|(piece, _), _| claimed.contains(piece));
            task.charged = claimed;
        }
    }

    fn check(&self) {
        let store = self.subject.store();
        assert_eq!(store.usage().stored_bytes, self.stored_bytes());
        let listed = store.list();
        let mut names: Vec<_> = self.tasks.keys().map(|name| task(*name)).collect();
        names.sort();
        assert_eq!(
            listed.iter().map(|summary| summary.task).collect::<Vec<_>>(),
            names
        );
        for (name, model) in &self.tasks {
            let summary = listed.iter().find(|summary| summary.task == task(*name)).unwrap();
            assert_eq!(summary.proved, model.proved);
            assert_eq!(summary.stored_bytes, model.stored_bytes(*name));
            assert!(
                summary
                    .held
                    .iter()
                    .eq(model.present.union(&model.claimed).copied())
            );
        }
        for (name, handle) in &self.handles {
            self.check_handle(*name, handle);
        }
    }

    fn check_handle(&self, name: u8, handle: &Arc<dyn StoredTask>) {
        let model = &self.tasks[&name];
        assert!(handle.present().iter().eq(model.present.iter().copied()));
        assert!(handle.claimed().iter().eq(model.claimed.iter().copied()));
        let states = (1..)
            .map_while(|border| model.states.get(&border))
            .map(|number| state(*number));
        assert!(handle.states().into_iter().eq(states));
        for ((piece, second), fill) in &model.halves {
            let bytes = read_all(handle, half(name, *piece, *second)).unwrap();
            assert!(bytes.iter().all(|byte| byte == fill), "piece {piece} of {name}");
        }
    }
}

pub(super) fn behaves_as_the_model<S: Subject>() {
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        ..Config::with_cases(96)
    });
    let run = runner.run(&prop::collection::vec(call(), 1..50), |calls| {
        let mut model = Model::<S>::new();
        for call in &calls {
            model.apply(call);
            model.check();
        }
        Ok(())
    });
    run.unwrap();
}
