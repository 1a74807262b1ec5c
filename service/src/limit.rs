//! Rates in bytes a second: a token bucket that serves its callers in the order in which they came, and several of them
//! in a row for those whose bytes count more than once (to this registry, of this node).
//!
//! Time is tokio's, so that a simulation sees the same waits in every run.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::config::ByteSize;

/// How much may pass at once after a pause.
const BURST: Duration = Duration::from_millis(100);

/// How long a change of the rate may go unnoticed by who waits.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Limits a flow. Cheap to clone; clones share the rate.
#[derive(Clone, Debug)]
pub struct Limiter {
    bucket: Option<Arc<Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    /// 0 lets everything pass.
    bytes_per_second: AtomicU64,
    /// Held by who waits next. Tokio's mutex is fair.
    turn: tokio::sync::Mutex<()>,
    /// When everything that was let through so far has paid for itself.
    paid_until: Mutex<Instant>,
    /// Bytes that had to wait.
    delayed_bytes: Counter,
}

impl Default for Limiter {
    fn default() -> Self {
        Self::unlimited()
    }
}

impl Limiter {
    /// Lets everything pass.
    pub fn unlimited() -> Self {
        Self { bucket: None }
    }

    /// Lets `rate` bytes a second pass; a rate of 0 counts as 1.
    pub fn bytes_per_second(rate: u64) -> Self {
        Self::counted(rate, Counter::default())
    }

    /// Lets `rate` bytes a second pass, everything without one. `delayed_bytes` tells how much had to wait: it stays 0 where
    /// the limit never binds.
    pub fn of(rate: Option<ByteSize>, delayed_bytes: &Counter) -> Self {
        rate.map_or_else(Self::unlimited, |rate| {
            Self::counted(rate.as_u64(), delayed_bytes.clone())
        })
    }

    /// As [`Self::of`], with a rate that [`Self::set`] changes, also to none and from none.
    pub fn adjustable(rate: Option<ByteSize>, delayed_bytes: &Counter) -> Self {
        let limiter = Self::counted(1, delayed_bytes.clone());
        limiter.set(rate);
        limiter
    }

    /// Lets `rate` bytes a second pass from now on, everything without one; what passed before is paid for by then, and those who
    /// wait for it see that within a second. Nothing, if it was not made to be changed.
    pub fn set(&self, rate: Option<ByteSize>) {
        if let Some(bucket) = &self.bucket {
            let rate = rate.map_or(0, |rate| rate.as_u64().max(1));
            bucket.bytes_per_second.store(rate, Ordering::Relaxed);
            bucket.slower_than(Instant::now() + BURST);
        }
    }

    fn counted(rate: u64, delayed_bytes: Counter) -> Self {
        Self {
            bucket: Some(Arc::new(Bucket {
                bytes_per_second: AtomicU64::new(rate.max(1)),
                turn: tokio::sync::Mutex::default(),
                paid_until: Mutex::new(Instant::now()),
                delayed_bytes,
            })),
        }
    }

    /// Whether everything passes at once.
    pub fn is_unlimited(&self) -> bool {
        self.limiting().is_none()
    }

    /// Whether nobody else holds a clone.
    pub fn is_alone(&self) -> bool {
        self.bucket
            .as_ref()
            .is_none_or(|bucket| Arc::strong_count(bucket) == 1)
    }

    /// Waits until `bytes` more may pass. Cancel safe: what did not pass is not counted.
    pub async fn take(&self, bytes: u64) {
        let Some(bucket) = self.limiting() else { return };
        let _turn = bucket.turn.lock().await;
        let mut waited = false;
        while let Some(until) = bucket.busy_until() {
            if !std::mem::replace(&mut waited, true) {
                bucket.delayed_bytes.inc_by(bytes);
            }
            sleep_until(until.min(Instant::now() + LOOK_AGAIN)).await;
        }
        bucket.charge(bytes);
    }

    /// The bucket, if there is a rate: most have none, and then nothing is locked.
    fn limiting(&self) -> Option<&Bucket> {
        self.bucket.as_deref().filter(|bucket| bucket.rate() > 0)
    }

    /// Counts `bytes` that have passed; gives the time at which more may.
    fn charge(&self, bytes: u64) -> Option<Instant> {
        let bucket = self.limiting()?;
        bucket.charge(bytes);
        let until = bucket.busy_until()?;
        bucket.delayed_bytes.inc_by(bytes);
        Some(until)
    }
}

impl Bucket {
    fn paid_until(&self) -> MutexGuard<'_, Instant> {
        self.paid_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rate(&self) -> u64 {
        self.bytes_per_second.load(Ordering::Relaxed)
    }

    /// Debts of another rate do not hold back longer than `until`.
    fn slower_than(&self, until: Instant) {
        let mut paid_until = self.paid_until();
        *paid_until = (*paid_until).min(until);
    }

    /// When the next may pass, if not now.
    fn busy_until(&self) -> Option<Instant> {
        let paid_until = *self.paid_until();
        (paid_until > Instant::now() + BURST).then(|| paid_until - BURST)
    }

    fn charge(&self, bytes: u64) {
        let rate = match self.rate() {
            0 => return,
            rate => rate,
        };
        #[expect(
            clippy::cast_precision_loss,
            reason = "one request has far fewer than 2^53 bytes, and a rate of more is no limit"
        )]
        let cost = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let mut paid_until = self.paid_until();
        *paid_until = (*paid_until).max(Instant::now()) + cost;
    }
}

/// Several limits in a row, for bytes that come in: those that came are paid for before more are asked for. What a limit
/// holds back then waits at the sender.
#[derive(Debug, Default)]
pub struct Pacer {
    limits: Vec<Limiter>,
    paying: Option<Paying>,
}

/// What came waits to be paid for.
#[derive(Debug)]
struct Paying {
    until: Instant,
    /// Until then, or until it is time to look again.
    sleep: Pin<Box<Sleep>>,
}

impl Paying {
    fn new(until: Instant) -> Self {
        let sleep = sleep_until(until.min(Instant::now() + LOOK_AGAIN));
        Self {
            until,
            sleep: Box::pin(sleep),
        }
    }
}

impl Pacer {
    /// All of these limits count.
    pub fn new(limits: impl IntoIterator<Item = Limiter>) -> Self {
        // One that may be given a rate later counts from then on.
        let limits = limits.into_iter().filter(|limit| limit.bucket.is_some());
        Self {
            limits: limits.collect(),
            paying: None,
        }
    }

    /// So many bytes came. They count from now on, whether or not more are asked for.
    pub fn came(&mut self, bytes: u64) {
        let until = self.limits.iter().filter_map(|limit| limit.charge(bytes)).max();
        if let Some(until) = until {
            self.paying = Some(Paying::new(until));
        }
    }

    /// Ready when more may be asked for.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(paying) = &mut self.paying {
            ready!(paying.sleep.as_mut().poll(cx));
            let until = paying.until;
            // A rate that was changed may ask for less; what others pay for meanwhile is not this one's debt.
            let busy = self
                .limits
                .iter()
                .filter_map(|limit| limit.limiting()?.busy_until());
            let left = busy.max().map(|busy| busy.min(until));
            self.paying = left.filter(|until| *until > Instant::now()).map(Paying::new);
        }
        Poll::Ready(())
    }

    /// Waits until more may be asked for.
    pub async fn ready(&mut self) {
        std::future::poll_fn(|cx| self.poll_ready(cx)).await;
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

    #[tokio::test(start_paused = true)]
    async fn a_rate_changes_under_those_who_use_it() {
        let limiter = Limiter::adjustable(None, &Counter::default());
        let mut pacer = Pacer::new([limiter.clone()]);
        let took = async |pacer: &mut Pacer| {
            let started = Instant::now();
            for _ in 0..100 {
                pacer.came(1000);
                pacer.ready().await;
                limiter.take(1000).await;
            }
            started.elapsed()
        };
        assert!(limiter.is_unlimited());
        assert_eq!(took(&mut pacer).await, Duration::ZERO);
        limiter.set(Some(ByteSize::bytes(100_000)));
        assert!(!limiter.is_unlimited());
        let slow = took(&mut pacer).await;
        assert!(
            slow > Duration::from_millis(1_700) && slow < Duration::from_millis(2_100),
            "{slow:?}"
        );
        // A debt of an hour at the rate that was.
        limiter.take(360_000_000).await;
        limiter.set(Some(ByteSize::bytes(200_000)));
        let faster = took(&mut pacer).await;
        assert!(
            faster > Duration::from_millis(700) && faster < Duration::from_millis(1_100),
            "{faster:?}"
        );
        limiter.set(None);
        assert!(took(&mut pacer).await <= BURST);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_at_a_rate_does_not_wait_for_it_once_it_is_changed() {
        const LONG: u64 = 100_000;
        for rate in [None, Some(ByteSize::mib(1))] {
            let limiter = Limiter::adjustable(Some(ByteSize::bytes(1)), &Counter::default());
            limiter.take(LONG).await;
            let mut pacer = Pacer::new([limiter.clone()]);
            pacer.came(LONG);
            let waiting = async {
                tokio::join!(limiter.take(1), pacer.ready());
            };
            let changed = async {
                tokio::time::sleep(Duration::from_secs(10)).await;
                limiter.set(rate);
            };
            let both = async { tokio::join!(waiting, changed) };
            let ended = tokio::time::timeout(Duration::from_secs(60), both).await;
            assert!(ended.is_ok(), "{rate:?}: waits for a debt of a day");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_narrowest_of_several_limits_binds_and_tells() {
        let (narrow, wide) = (Counter::default(), Counter::default());
        let mut pacer = Pacer::new([
            Limiter::of(Some(ByteSize::kib(100)), &wide),
            Limiter::unlimited(),
            Limiter::of(Some(ByteSize::kib(10)), &narrow),
        ]);
        let started = Instant::now();
        for _ in 0..100 {
            pacer.came(1024);
            pacer.ready().await;
        }
        let took = started.elapsed();
        assert!(
            took >= Duration::from_millis(9_700) && took <= Duration::from_millis(10_100),
            "{took:?}"
        );
        assert!(narrow.get() > 90 * 1024 && wide.get() == 0, "{narrow:?} {wide:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_flow_alone_has_what_another_does_not_use() {
        let shared = Limiter::bytes_per_second(1000);
        let flow = |bytes: u64| {
            let mut pacer = Pacer::new([shared.clone()]);
            async move {
                let started = Instant::now();
                for _ in 0..bytes / 100 {
                    pacer.came(100);
                    pacer.ready().await;
                }
                started.elapsed()
            }
        };
        let (short, long) = tokio::join!(flow(1000), flow(5000));
        assert!(short < Duration::from_millis(2_200), "{short:?}");
        assert!(long < Duration::from_millis(6_100), "{long:?}");
    }
}
