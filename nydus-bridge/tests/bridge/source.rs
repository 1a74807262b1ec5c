//! Sources of blobs that count, lie or fail.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use darter_nydus_bridge::blob::{BlobError, BlobSource, Folder};
use darter_service::net::BoxFuture;
use darter_types::{ByteRange, Digest};

/// A folder of blobs that can be watched and disturbed.
#[derive(Debug)]
pub(crate) struct Disturbed {
    inner: Folder,
    delay: Mutex<Duration>,
    /// Whether each request could wait, in the order of their beginnings.
    order: Mutex<Vec<bool>>,
    /// Readers' requests that are out.
    readers: AtomicU64,
    /// Requests that could wait and began while readers' were out.
    beside: AtomicU64,
    lies: AtomicU64,
    failures: AtomicU64,
    requests: Mutex<Vec<ByteRange>>,
}

impl Disturbed {
    /// Serves as the folder does, after a moment.
    pub(crate) fn new(inner: Folder) -> Self {
        Self {
            inner,
            delay: Mutex::new(Duration::from_millis(5)),
            order: Mutex::default(),
            readers: AtomicU64::new(0),
            beside: AtomicU64::new(0),
            lies: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            requests: Mutex::default(),
        }
    }

    /// The next answers have wrong bytes, here and there.
    pub(crate) fn lie(&self, times: u64) {
        self.lies.store(times, Ordering::SeqCst);
    }

    /// The next requests fail.
    pub(crate) fn fail(&self, times: u64) {
        self.failures.store(times, Ordering::SeqCst);
    }

    /// Answers come after so long.
    pub(crate) fn slow(&self, delay: Duration) {
        *self.delay.lock().unwrap() = delay;
    }

    /// Whether each request could wait.
    pub(crate) fn order(&self) -> Vec<bool> {
        self.order.lock().unwrap().clone()
    }

    /// How many requests could wait.
    pub(crate) fn background(&self) -> usize {
        self.order().into_iter().filter(|background| *background).count()
    }

    /// How many of them were made while a reader waited.
    pub(crate) fn background_beside_readers(&self) -> u64 {
        self.beside.load(Ordering::SeqCst)
    }

    /// What was asked for since this was asked.
    pub(crate) fn requests(&self) -> Vec<ByteRange> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }
}

impl BlobSource for Disturbed {
    fn read<'a>(&'a self, blob: &'a Digest, range: ByteRange) -> BoxFuture<'a, Result<Bytes, BlobError>> {
        Box::pin(async move {
            self.order.lock().unwrap().push(false);
            self.readers.fetch_add(1, Ordering::SeqCst);
            let answer = self.answer(blob, range).await;
            self.readers.fetch_sub(1, Ordering::SeqCst);
            answer
        })
    }

    fn read_in_background<'a>(
        &'a self,
        blob: &'a Digest,
        range: ByteRange,
    ) -> BoxFuture<'a, Result<Bytes, BlobError>> {
        Box::pin(async move {
            self.order.lock().unwrap().push(true);
            if self.readers.load(Ordering::SeqCst) > 0 {
                self.beside.fetch_add(1, Ordering::SeqCst);
            }
            self.answer(blob, range).await
        })
    }
}

impl Disturbed {
    async fn answer(&self, blob: &Digest, range: ByteRange) -> Result<Bytes, BlobError> {
        self.requests.lock().unwrap().push(range);
        let delay = *self.delay.lock().unwrap();
        tokio::time::sleep(delay).await;
        if take(&self.failures) {
            return Err(BlobError::Silent {
                address: "nowhere".to_owned(),
                silence: delay,
            });
        }
        let bytes = self.inner.read(blob, range).await?;
        if !take(&self.lies) {
            return Ok(bytes);
        }
        let mut wrong = bytes.to_vec();
        wrong.iter_mut().step_by(997).for_each(|byte| *byte ^= 0x55);
        Ok(wrong.into())
    }
}

/// Whether one was left.
fn take(left: &AtomicU64) -> bool {
    let less = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
    less.is_ok()
}
