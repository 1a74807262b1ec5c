//! One fetch of a unit at a time, however many readers want it: the first one claims it, the others wait with it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::chunk::UnitKey;
use super::error::FsError;

type Outcome = Result<Bytes, FsError>;

/// What is being fetched. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Flights {
    running: Arc<Mutex<HashMap<UnitKey, watch::Receiver<Option<Outcome>>>>>,
}

/// Waits for a unit.
#[derive(Debug)]
pub(super) struct Waiting(watch::Receiver<Option<Outcome>>);

/// The duty to fetch a unit. Who drops it without [`Claim::finish`] has failed.
#[derive(Debug)]
pub(super) struct Claim {
    key: UnitKey,
    flights: Flights,
    landed: bool,
    sender: watch::Sender<Option<Outcome>>,
}

impl Flights {
    fn running(&self) -> MutexGuard<'_, HashMap<UnitKey, watch::Receiver<Option<Outcome>>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits with the others for a unit; with the duty to fetch it, if nobody has it.
    pub(super) fn join(&self, key: UnitKey) -> (Waiting, Option<Claim>) {
        let mut running = self.running();
        if let Some(receiver) = running.get(&key) {
            return (Waiting(receiver.clone()), None);
        }
        let (sender, receiver) = watch::channel(None);
        running.insert(key, receiver.clone());
        let claim = Claim {
            key,
            flights: self.clone(),
            landed: false,
            sender,
        };
        (Waiting(receiver), Some(claim))
    }

    /// How many units are being fetched.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.running().len()
    }
}

impl Claim {
    /// Tells all who wait. Who comes from here on begins anew, so that a failure is told to nobody later.
    pub(super) fn finish(mut self, outcome: Outcome) {
        self.land();
        self.sender.send_replace(Some(outcome));
    }

    /// Once: afterwards the unit may be another's claim.
    fn land(&mut self) {
        if !self.landed {
            self.landed = true;
            self.flights.running().remove(&self.key);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.land();
    }
}

impl Waiting {
    /// The unit, or why there is none. Cancel safe.
    pub(super) async fn outcome(mut self) -> Outcome {
        let given_up = || FsError::Local("the fetch of a chunk was given up".into());
        match self.0.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(given_up())),
            Err(_) => Err(given_up()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: UnitKey = UnitKey {
        blob: 0,
        start: 7,
        digest: None,
    };

    #[tokio::test]
    async fn all_who_wait_get_what_the_first_one_fetched() {
        let flights = Flights::default();
        let (first, claim) = flights.join(KEY);
        let (second, none) = flights.join(KEY);
        assert!(none.is_none());
        claim.unwrap().finish(Ok("unit".into()));
        assert_eq!(first.outcome().await.unwrap(), "unit");
        assert_eq!(second.outcome().await.unwrap(), "unit");
        assert_eq!(flights.count(), 0);
        assert!(flights.join(KEY).1.is_some());
    }

    #[tokio::test]
    async fn a_fetch_that_is_given_up_fails_for_all_and_can_be_begun_anew() {
        let flights = Flights::default();
        let (waiting, claim) = flights.join(KEY);
        drop(claim);
        assert!(waiting.outcome().await.is_err());
        assert!(flights.join(KEY).1.is_some());
    }
}
