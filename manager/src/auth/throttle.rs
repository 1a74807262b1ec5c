//! Slows down who guesses passwords: so many failures a minute for an account from an address, and for an address in all.
//!
//! Pure: time is an argument. What must hold: a right password from elsewhere is not kept out by somebody who guesses, and
//! what is remembered is bounded.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// Failures of an account from an address in [`WINDOW`].
pub const ACCOUNT_MAX: usize = 10;
/// Failures from an address in [`WINDOW`], whatever the accounts.
pub const ADDRESS_MAX: usize = 50;
/// How long a failure counts.
pub const WINDOW: Duration = Duration::from_secs(60);
/// Addresses, and accounts of addresses, that are remembered; who is not remembered for lack of room must wait.
const KEYS_MAX: usize = 65_536;
/// Between two looks at all of them, which cost time while there is no room.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Whose failures are counted: an account from an address, or an address.
type Key = (IpAddr, Option<String>);

/// Failures of one key, oldest first.
#[derive(Debug, Default)]
struct Failures {
    times: VecDeque<Instant>,
    /// Whether somebody was refused since there was room.
    refused: bool,
}

/// There were too many failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany {
    /// How long to wait.
    pub wait: Duration,
    /// Whether this is the first refusal since a try was let through: worth a line of the audit, which those after it are not.
    pub is_first: bool,
}

/// Remembers failures.
#[derive(Debug, Default)]
pub struct Throttle {
    failures: BTreeMap<Key, Failures>,
    looked: Option<Instant>,
}

impl Throttle {
    /// Counts a try as failed until [`Throttle::succeeded`], so that many at once are no way around it.
    ///
    /// # Errors
    /// There were too many.
    pub fn begin(&mut self, address: IpAddr, account: &str, now: Instant) -> Result<(), TooMany> {
        let keys = keys(address, account);
        let mut refusal: Option<TooMany> = None;
        for (key, most) in &keys {
            let Some(failures) = self.failures.get_mut(key) else {
                continue;
            };
            failures.forget(now);
            let first = failures.times.len().checked_sub(*most);
            if let Some(first) = first.and_then(|at| failures.times.get(at)) {
                let wait = (*first + WINDOW).saturating_duration_since(now);
                let is_first = !std::mem::replace(&mut failures.refused, true);
                let before = refusal.unwrap_or(TooMany { wait, is_first });
                refusal = Some(TooMany {
                    wait: wait.max(before.wait),
                    is_first: is_first && before.is_first,
                });
            }
        }
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        if !self.has_room(keys.len(), now) {
            let (wait, is_first) = (WINDOW, false);
            return Err(TooMany { wait, is_first });
        }
        for (key, _) in keys {
            let failures = self.failures.entry(key).or_default();
            failures.times.push_back(now);
            failures.refused = false;
        }
        Ok(())
    }

    /// Whether so many more can be remembered, once those that have passed are forgotten.
    fn has_room(&mut self, more: usize, now: Instant) -> bool {
        let looked = |at: Instant| now.saturating_duration_since(at) < LOOK_INTERVAL;
        if self.failures.len() + more > KEYS_MAX && !self.looked.is_some_and(looked) {
            self.looked = Some(now);
            self.failures.retain(|_, failures| {
                failures.forget(now);
                !failures.times.is_empty()
            });
        }
        self.failures.len() + more <= KEYS_MAX
    }

    /// Takes back what [`Throttle::begin`] counted, and forgives the account's other failures from there.
    pub fn succeeded(&mut self, address: IpAddr, account: &str) {
        let [(own, _), (all, _)] = keys(address, account);
        self.failures.remove(&own);
        if let Some(failures) = self.failures.get_mut(&all) {
            failures.times.pop_back();
        }
    }
}

impl Failures {
    fn forget(&mut self, now: Instant) {
        let passed = |time: &Instant| now.saturating_duration_since(*time) >= WINDOW;
        while self.times.front().is_some_and(passed) {
            self.times.pop_front();
        }
    }
}

fn keys(address: IpAddr, account: &str) -> [(Key, usize); 2] {
    // A host has a whole /64 of IPv6, and an IPv4 address may come in two forms.
    let address = match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address => address,
    };
    let account = account.to_lowercase();
    [
        ((address, Some(account)), ACCOUNT_MAX),
        ((address, None), ADDRESS_MAX),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "192.0.2.1";

    fn at(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn ten_a_minute_for_an_account_and_fifty_for_an_address() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        let passed = |throttle: &mut Throttle, tries: usize, now, name: &dyn Fn(usize) -> String| {
            (0..tries)
                .filter(|&at_| throttle.begin(at(HERE), &name(at_), now).is_ok())
                .count()
        };
        assert_eq!(passed(&mut throttle, 1000, start, &|_| "admin".into()), 10);
        assert_eq!(
            passed(&mut throttle, 10, start, &|_| "ADMIN".into()),
            0,
            "case is no way around"
        );
        assert_eq!(
            throttle
                .begin(at(HERE), "admin", start + WINDOW / 4)
                .unwrap_err()
                .wait,
            WINDOW * 3 / 4
        );
        assert!(
            throttle.begin(at("192.0.2.2"), "admin", start).is_ok(),
            "elsewhere nobody guessed"
        );
        assert_eq!(passed(&mut throttle, 1000, start, &|at| format!("user-{at}")), 40);
        assert_eq!(
            passed(&mut throttle, 1000, start + WINDOW, &|_| "admin".into()),
            10
        );
    }

    #[tokio::test(start_paused = true)]
    async fn one_refusal_of_a_row_is_the_first() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        let firsts = |throttle: &mut Throttle, now| {
            let tries = (0..100).filter_map(|_| throttle.begin(at(HERE), "admin", now).err());
            tries.filter(|refusal| refusal.is_first).count()
        };
        assert_eq!(firsts(&mut throttle, start), 1);
        assert_eq!(firsts(&mut throttle, start + WINDOW / 2), 0);
        assert_eq!(firsts(&mut throttle, start + WINDOW), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn success_forgives_the_account_and_not_the_address() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        for _ in 0..100 {
            throttle.begin(at(HERE), "a", now).unwrap();
            throttle.succeeded(at(HERE), "a");
        }
        (0..ACCOUNT_MAX).for_each(|_| throttle.begin(at(HERE), "b", now).unwrap());
        assert!(throttle.begin(at(HERE), "b", now).is_err());
        assert!(throttle.begin(at(HERE), "a", now).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_of_one_host_are_one() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        for host in 0..ACCOUNT_MAX {
            throttle
                .begin(at(&format!("2001:db8::{host:x}")), "a", now)
                .unwrap();
        }
        assert!(throttle.begin(at("2001:db8::ffff"), "a", now).is_err());
        assert!(throttle.begin(at("2001:db8:0:1::1"), "a", now).is_ok());
        (0..ACCOUNT_MAX).for_each(|_| throttle.begin(at(HERE), "a", now).unwrap());
        assert!(throttle.begin(at("::ffff:192.0.2.1"), "a", now).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        let mut kept = 0;
        for host in 0..70_000_u32 {
            kept += usize::from(throttle.begin(IpAddr::V4(host.into()), "a", now).is_ok());
        }
        assert_eq!((kept, throttle.failures.len()), (KEYS_MAX / 2, KEYS_MAX));
        assert!(throttle.begin(at(HERE), "a", now + WINDOW).is_ok());
    }
}
