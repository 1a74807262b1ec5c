//! One fetch of a unit at a time, however many readers want it: the first one claims it, the others wait with it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::chunk::UnitKey;
use super::error::FsError;

type Outcome = Result<Bytes, FsError>;
type Told = watch::Sender<Option<Outcome>>;

/// What is being fetched. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Flights {
    running: Arc<Mutex<HashMap<UnitKey, Flight>>>,
}

#[derive(Debug)]
struct Flight {
    told: Arc<Told>,
    /// A reader's own request is out, or about to be.
    urgent: bool,
}

/// Waits for a unit.
#[derive(Debug)]
pub(super) struct Waiting {
    told: watch::Receiver<Option<Outcome>>,
    urgent: bool,
}

/// The duty to fetch a unit. Who drops it without [`Claim::finish`] has failed.
#[derive(Debug)]
pub(super) struct Claim {
    key: UnitKey,
    flights: Flights,
    landed: bool,
    urgent: bool,
    told: Arc<Told>,
}

impl Flights {
    fn running(&self) -> MutexGuard<'_, HashMap<UnitKey, Flight>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits with the others for a unit; with the duty to fetch it, if nobody has it.
    pub(super) fn join(&self, key: UnitKey, urgent: bool) -> (Waiting, Option<Claim>) {
        let mut running = self.running();
        if let Some(flight) = running.get(&key) {
            return (flight.waiting(), None);
        }
        let flight = Flight {
            told: Arc::new(watch::Sender::new(None)),
            urgent,
        };
        let (waiting, claim) = (flight.waiting(), self.claim(key, &flight));
        running.insert(key, flight);
        (waiting, Some(claim))
    }

    /// The same for a reader who has waited for what can wait: the duty is his then as well, and who is first tells all.
    pub(super) fn overtake(&self, key: UnitKey) -> (Waiting, Option<Claim>) {
        if let Some(flight) = self.running().get_mut(&key)
            && !flight.urgent
        {
            flight.urgent = true;
            return (flight.waiting(), Some(self.claim(key, flight)));
        }
        self.join(key, true)
    }

    fn claim(&self, key: UnitKey, flight: &Flight) -> Claim {
        Claim {
            key,
            flights: self.clone(),
            landed: false,
            urgent: flight.urgent,
            told: Arc::clone(&flight.told),
        }
    }

    /// How many units are being fetched.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.running().len()
    }
}

impl Flight {
    fn waiting(&self) -> Waiting {
        Waiting {
            told: self.told.subscribe(),
            urgent: self.urgent,
        }
    }
}

impl Claim {
    /// Tells all who wait. Who comes from here on begins anew, so that a failure is told to nobody later.
    pub(super) fn finish(mut self, outcome: Outcome) {
        if self.land(outcome.is_ok()) {
            self.told.send_if_modified(|told| {
                let first = told.is_none();
                if first {
                    *told = Some(outcome);
                }
                first
            });
        }
    }

    /// Once: afterwards the unit may be another's claim. A failure of what was overtaken is no matter.
    fn land(&mut self, good: bool) -> bool {
        if std::mem::replace(&mut self.landed, true) {
            return false;
        }
        let mut running = self.flights.running();
        let own = running
            .get(&self.key)
            .filter(|flight| Arc::ptr_eq(&flight.told, &self.told));
        let overtaken = own.is_some_and(|flight| flight.urgent && !self.urgent);
        if overtaken && !good {
            return false;
        }
        if own.is_some() {
            running.remove(&self.key);
        }
        true
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.land(false);
    }
}

impl Waiting {
    /// Whether it is a reader's request that is out.
    pub(super) fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// The unit, or why there is none. Cancel safe.
    pub(super) async fn outcome(mut self) -> Outcome {
        let given_up = || FsError::Local("the fetch of a chunk was given up".into());
        match self.told.wait_for(Option::is_some).await {
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
        let (first, claim) = flights.join(KEY, true);
        let (second, none) = flights.join(KEY, true);
        assert!(none.is_none());
        claim.unwrap().finish(Ok("unit".into()));
        assert_eq!(first.outcome().await.unwrap(), "unit");
        assert_eq!(second.outcome().await.unwrap(), "unit");
        assert_eq!(flights.count(), 0);
        assert!(flights.join(KEY, true).1.is_some());
    }

    #[tokio::test]
    async fn a_fetch_that_is_given_up_fails_for_all_and_can_be_begun_anew() {
        let flights = Flights::default();
        let (waiting, claim) = flights.join(KEY, true);
        drop(claim);
        assert!(waiting.outcome().await.is_err());
        assert!(flights.join(KEY, true).1.is_some());
    }

    #[tokio::test]
    async fn a_reader_overtakes_what_can_wait_and_the_first_one_tells_all() {
        let flights = Flights::default();
        let (early, background) = flights.join(KEY, false);
        assert!(!early.is_urgent());
        let (reader, claim) = flights.overtake(KEY);
        assert!(flights.overtake(KEY).1.is_none(), "one of them is enough");
        let wrong = FsError::NotFound;
        background.unwrap().finish(Err(wrong));
        claim.unwrap().finish(Ok("unit".into()));
        assert_eq!(early.outcome().await.unwrap(), "unit");
        assert_eq!(reader.outcome().await.unwrap(), "unit");
        assert_eq!(flights.count(), 0);
        // The other way round.
        let (_, background) = flights.join(KEY, false);
        let (reader, claim) = flights.overtake(KEY);
        background.unwrap().finish(Ok("first".into()));
        assert_eq!(reader.outcome().await.unwrap(), "first");
        assert!(flights.join(KEY, true).1.is_some(), "a new one");
        claim.unwrap().finish(Ok("second".into()));
        assert_eq!(flights.count(), 0);
    }
}
