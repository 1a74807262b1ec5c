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
    delay: Duration,
    lies: AtomicU64,
    failures: AtomicU64,
    requests: Mutex<Vec<ByteRange>>,
}

impl Disturbed {
    /// Serves as the folder does, after a moment.
    pub(crate) fn new(inner: Folder) -> Self {
        Self {
            inner,
            delay: Duration::from_millis(5),
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

    /// What was asked for since this was asked.
    pub(crate) fn requests(&self) -> Vec<ByteRange> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }
}

impl BlobSource for Disturbed {
    fn read<'a>(&'a self, blob: &'a Digest, range: ByteRange) -> BoxFuture<'a, Result<Bytes, BlobError>> {
        Box::pin(async move {
            self.requests.lock().unwrap().push(range);
            tokio::time::sleep(self.delay).await;
            if take(&self.failures) {
                return Err(BlobError::Silent {
                    address: "nowhere".to_owned(),
                    silence: self.delay,
                });
            }
            let bytes = self.inner.read(blob, range).await?;
            if !take(&self.lies) {
                return Ok(bytes);
            }
            let mut wrong = bytes.to_vec();
            wrong.iter_mut().step_by(997).for_each(|byte| *byte ^= 0x55);
            Ok(wrong.into())
        })
    }
}

/// Whether one was left.
fn take(left: &AtomicU64) -> bool {
    let less = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
    less.is_ok()
}
