//! Memory for answers that are whole before their first byte is sent: manifests and lists.
//!
//! Such an answer stays in memory until the client has taken it, however slowly. What must hold: all of them together take
//! no more than `mirror.bufferBytesMax`; room is taken before bytes are, and is free again when the last of them was written
//! to the client's socket or the client is gone. Who finds no room is not waited for: 503 sends it to its next host.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::reply::{self, BodyError, Reply};

/// What room is counted in.
const UNIT: usize = 1024;
/// Most bytes that are handed to the connection at a time: it may copy them, and what it copied is not counted here.
const FRAME_BYTES_MAX: usize = 64 * 1024;

/// The room of one mirror. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Room {
    free: Arc<Semaphore>,
    used: Gauge,
    refused: Counter,
}

/// Room that is taken.
#[derive(Debug)]
struct Place {
    permit: OwnedSemaphorePermit,
    used: Gauge,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.used.dec_by(bytes_of(self.permit.num_permits()));
    }
}

fn bytes_of(units: usize) -> i64 {
    i64::try_from(units * UNIT).unwrap_or(i64::MAX)
}

/// There is no room.
#[derive(Clone, Copy, Debug)]
pub(super) struct Full;

impl Full {
    /// What the client is told.
    pub(super) fn reply(self) -> Reply {
        reply::busy("this mirror holds as many bytes for its clients as it may")
    }
}

/// Bytes that are being collected.
#[derive(Debug)]
pub(super) struct Collected {
    bytes: Vec<u8>,
    place: Place,
    room: Room,
}

impl Room {
    pub(super) fn new(bytes_max: usize, used: Gauge, refused: Counter) -> Self {
        Self {
            free: Arc::new(Semaphore::new((bytes_max / UNIT).min(Semaphore::MAX_PERMITS))),
            used,
            refused,
        }
    }

    fn take(&self, units: usize) -> Result<Place, Full> {
        let wanted = u32::try_from(units).map_err(|_| Full)?;
        let permit = Arc::clone(&self.free).try_acquire_many_owned(wanted);
        let permit = permit.map_err(|_| Full)?;
        self.used.inc_by(bytes_of(units));
        Ok(Place {
            permit,
            used: self.used.clone(),
        })
    }

    /// Begins to collect; room for so many bytes is taken at once.
    pub(super) fn collect(&self, bytes: usize) -> Result<Collected, Full> {
        let place = self
            .take(bytes.div_ceil(UNIT))
            .inspect_err(|_| _ = self.refused.inc())?;
        Ok(Collected {
            bytes: Vec::with_capacity(bytes),
            place,
            room: self.clone(),
        })
    }
}

impl Collected {
    /// Takes more bytes in, if there is room for them.
    pub(super) fn push(&mut self, part: &[u8]) -> Result<(), Full> {
        let length = self.bytes.len() + part.len();
        if length > self.bytes.capacity() {
            // As a vector grows, so that not every part is a copy of all before it; less where there is not so much.
            let grown = self.grow(length.max(2 * self.bytes.capacity()));
            let grown = grown.or_else(|_| self.grow(length));
            grown.inspect_err(|_| _ = self.room.refused.inc())?;
        }
        self.bytes.extend_from_slice(part);
        Ok(())
    }

    fn grow(&mut self, capacity: usize) -> Result<(), Full> {
        let more = capacity
            .div_ceil(UNIT)
            .saturating_sub(self.place.permit.num_permits());
        let mut more = self.room.take(more)?;
        if let Some(permit) = more.permit.split(more.permit.num_permits()) {
            self.place.permit.merge(permit);
        }
        self.bytes.reserve_exact(capacity - self.bytes.len());
        Ok(())
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes; their room is free again when the last slice of them is dropped.
    pub(super) fn freeze(self) -> Bytes {
        let Self { bytes, mut place, .. } = self;
        let bytes = bytes.into_boxed_slice();
        let spare = place
            .permit
            .num_permits()
            .saturating_sub(bytes.len().div_ceil(UNIT));
        if let Some(spare) = place.permit.split(spare) {
            place.used.dec_by(bytes_of(spare.num_permits()));
        }
        Bytes::from_owner(Kept { bytes, _place: place })
    }
}

/// Bytes and the room that they take.
struct Kept {
    bytes: Box<[u8]>,
    _place: Place,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A body of bytes that are all there, which are handed on a few at a time.
#[derive(Debug)]
pub(super) struct Whole(pub(super) Bytes);

impl Body for Whole {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.0.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.0.len().min(FRAME_BYTES_MAX);
        Poll::Ready(Some(Ok(Frame::data(self.0.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn room(kib: usize) -> Room {
        Room::new(kib * UNIT, Gauge::default(), Counter::default())
    }

    #[tokio::test]
    async fn room_is_free_when_the_last_slice_is_gone() {
        let room = room(256);
        let mut collected = room.collect(200 * UNIT).unwrap();
        collected.push(&vec![7; 200 * UNIT]).unwrap();
        assert_eq!(room.used.get(), bytes_of(200));
        assert!(room.collect(100 * UNIT).is_err());
        let mut body = Whole(collected.freeze());
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first.len(), FRAME_BYTES_MAX);
        let rest = body.collect().await.unwrap().to_bytes();
        assert_eq!(rest.len(), 200 * UNIT - FRAME_BYTES_MAX);
        drop(rest);
        assert_eq!((room.used.get(), room.refused.get()), (bytes_of(200), 1));
        drop(first);
        assert_eq!((room.used.get(), room.free.available_permits()), (0, 256));
    }

    #[test]
    fn what_grows_takes_room_as_it_grows_and_gives_back_what_it_did_not_need() {
        let room = room(100);
        let mut collected = room.collect(0).unwrap();
        for _ in 0..65 {
            collected.push(&[1; UNIT]).unwrap();
        }
        // Twice 64 is more than there is.
        assert_eq!(room.used.get(), bytes_of(65));
        assert!(collected.push(&[1; 36 * UNIT]).is_err());
        assert_eq!((collected.len(), room.refused.get()), (65 * UNIT, 1));
        drop(collected);
        assert_eq!(room.used.get(), 0);
    }
}
