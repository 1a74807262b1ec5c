//! A rate in bytes a second: a token bucket that serves its callers in the order in which they came.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

/// How much may pass at once after a pause.
const BURST: Duration = Duration::from_millis(100);

/// Limits a flow. Cheap to clone; clones share the rate.
#[derive(Clone, Debug)]
pub struct Limiter {
    bucket: Option<Arc<Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    bytes_per_second: f64,
    /// When everything that was let through so far has paid for itself. Tokio's mutex is fair.
    paid_until: Mutex<Instant>,
}

impl Limiter {
    /// Lets everything pass.
    pub fn unlimited() -> Self {
        Self { bucket: None }
    }

    /// Lets `rate` bytes a second pass; a rate of 0 counts as 1.
    pub fn bytes_per_second(rate: u64) -> Self {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a rate of more than 2^53 bytes a second is no limit"
        )]
        let bytes_per_second = rate.max(1) as f64;
        Self {
            bucket: Some(Arc::new(Bucket {
                bytes_per_second,
                paid_until: Mutex::new(Instant::now()),
            })),
        }
    }

    /// Waits until `bytes` more may pass. Cancel safe: what did not pass is not counted.
    pub async fn take(&self, bytes: u64) {
        let Some(bucket) = &self.bucket else { return };
        let mut paid_until = bucket.paid_until.lock().await;
        let now = Instant::now();
        if *paid_until > now + BURST {
            sleep(*paid_until - now - BURST).await;
        }
        #[expect(
            clippy::cast_precision_loss,
            reason = "one request has far fewer than 2^53 bytes"
        )]
        let cost = Duration::from_secs_f64(bytes as f64 / bucket.bytes_per_second);
        *paid_until = (*paid_until).max(now) + cost;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn many_callers_share_one_rate() {
        let limiter = Limiter::bytes_per_second(1000);
        let started = Instant::now();
        let callers = (0..10).map(|_| {
            let limiter = limiter.clone();
            async move {
                for _ in 0..10 {
                    limiter.take(100).await;
                }
            }
        });
        futures_util::future::join_all(callers).await;
        let took = started.elapsed();
        assert!(
            took >= Duration::from_millis(9_700) && took <= Duration::from_millis(10_100),
            "{took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nothing_waits() {
        let started = Instant::now();
        Limiter::unlimited().take(u64::MAX).await;
        assert_eq!(started.elapsed(), Duration::ZERO);
    }
}
