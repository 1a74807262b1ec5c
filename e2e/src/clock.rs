//! Waiting for a condition in real time. Nothing else in the harness reads the clock or sleeps.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a condition is looked at.
const PERIOD: Duration = Duration::from_millis(25);

/// Calls `check` until it gives a value. An error of `check`, or `limit` passing, ends the wait; the limit only
/// keeps a broken test from hanging, and is generous.
pub fn until<T>(what: &str, limit: Duration, mut check: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = now();
    loop {
        if let Some(value) = check().with_context(|| format!("while waiting for {what}"))? {
            return Ok(value);
        }
        if start.elapsed() > limit {
            bail!("waited {} s in vain for {what}", limit.as_secs());
        }
        pause(PERIOD);
    }
}

/// The real, monotonic clock: for measurements and give-up limits.
#[expect(
    clippy::disallowed_methods,
    reason = "the harness watches real processes: real time is its only clock"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// Sleeps between two looks at a condition.
#[expect(
    clippy::disallowed_methods,
    reason = "the harness has no runtime whose thread this could block"
)]
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_value_when_it_is_there() {
        let mut looks = 0;
        let value = until("three looks", Duration::from_secs(60), || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(value.unwrap(), 3);
    }

    #[test]
    fn ends_with_the_reason() {
        let vain = until::<()>("nothing", Duration::ZERO, || Ok(None)).unwrap_err();
        assert!(vain.to_string().contains("in vain for nothing"));
        let failed = until::<()>("x", Duration::from_secs(60), || bail!("broken")).unwrap_err();
        assert_eq!(format!("{failed:#}"), "while waiting for x: broken");
    }
}
