//! Who reads a content, and how far each has come: what the driver tells the engine.
//!
//! Readers write here, the driver compares with what it told the engine before. Nothing is sent, so nothing can be
//! lost or queue up when many readers come and go (containerd opens twenty ranges of one layer).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use darter_engine::{Event, ReaderId};
use darter_types::ByteRange;
use tokio::sync::Notify;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    range: ByteRange,
    offset: u64,
    manner: Manner,
}

/// How a content is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Manner {
    /// It cannot wait.
    pub(crate) urgent: bool,
    /// Who reads checks it.
    pub(crate) checks: bool,
}

/// Where the numbers of readers begin that can wait: along the chain the engine goes by them, and serves these last.
const BACKGROUND: u64 = 1 << 63;

/// The readers of one pull.
#[derive(Debug, Default)]
pub(crate) struct Readers {
    state: Mutex<State>,
    /// Rung when somebody came or went.
    pub(crate) changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    positions: BTreeMap<ReaderId, Position>,
}

impl Readers {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signs a reader in; dropping the result signs it out. One that is not urgent counts for nothing where others wait.
    pub(crate) fn register(self: &Arc<Self>, range: ByteRange, manner: Manner) -> Registration {
        let mut state = self.lock();
        let id = ReaderId(if manner.urgent {
            state.next
        } else {
            BACKGROUND | state.next
        });
        state.next += 1;
        state.positions.insert(
            id,
            Position {
                range,
                offset: range.start,
                manner,
            },
        );
        self.changed.notify_one();
        Registration {
            id,
            readers: Arc::clone(self),
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.lock().positions.len()
    }

    /// How many of them cannot wait.
    pub(crate) fn urgent(&self) -> usize {
        let state = self.lock();
        state
            .positions
            .values()
            .filter(|position| position.manner.urgent)
            .count()
    }
}

/// One reader's entry.
#[derive(Debug)]
pub(crate) struct Registration {
    id: ReaderId,
    readers: Arc<Readers>,
}

impl Registration {
    pub(crate) fn moved(&self, offset: u64) {
        if let Some(position) = self.readers.lock().positions.get_mut(&self.id) {
            position.offset = offset;
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.readers.lock().positions.remove(&self.id);
        self.readers.changed.notify_one();
    }
}

/// What the engine was told of the readers so far.
#[derive(Debug, Default)]
pub(crate) struct Told(BTreeMap<ReaderId, Position>);

impl Told {
    /// The events that bring the engine up to date.
    pub(crate) fn update(&mut self, readers: &Readers) -> Vec<Event> {
        let now = readers.lock().positions.clone();
        let mut events = Vec::new();
        for reader in self.0.keys().filter(|reader| !now.contains_key(reader)) {
            events.push(Event::ReaderClosed { reader: *reader });
        }
        for (reader, position) in &now {
            match self.0.get(reader) {
                None => events.push(Event::ReaderOpened {
                    reader: *reader,
                    range: position.range,
                    checks: position.manner.checks,
                }),
                Some(before) if before.offset != position.offset => {
                    events.push(Event::ReaderMoved {
                        reader: *reader,
                        offset: position.offset,
                    });
                }
                Some(_) => {}
            }
        }
        self.0 = now;
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URGENT: Manner = Manner {
        urgent: true,
        checks: false,
    };
    const CAN_WAIT: Manner = Manner {
        urgent: false,
        checks: true,
    };

    #[test]
    fn tells_the_engine_each_change_once() {
        let readers = Arc::new(Readers::default());
        let mut told = Told::default();
        let range = ByteRange::new(5, 10);
        let one = readers.register(range, URGENT);
        let reader = ReaderId(0);
        let checks = false;
        assert_eq!(
            told.update(&readers),
            [Event::ReaderOpened {
                reader,
                range,
                checks
            }]
        );
        assert_eq!(told.update(&readers), []);
        one.moved(7);
        one.moved(8);
        assert_eq!(told.update(&readers), [Event::ReaderMoved { reader, offset: 8 }]);
        drop(one);
        assert_eq!(readers.count(), 0);
        assert_eq!(told.update(&readers), [Event::ReaderClosed { reader }]);
    }

    #[test]
    fn who_can_wait_comes_last_and_is_not_urgent() {
        let readers = Arc::new(Readers::default());
        let range = ByteRange::new(5, 10);
        let can_wait = readers.register(range, CAN_WAIT);
        assert_eq!((readers.count(), readers.urgent()), (1, 0));
        let cannot = readers.register(range, URGENT);
        assert_eq!((readers.count(), readers.urgent()), (2, 1));
        assert!(cannot.id < can_wait.id, "though it came later");
    }
}
