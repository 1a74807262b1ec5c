//! Bytes that a store holds, against its quota, the quotas of registries and the file system's free bytes.
//!
//! Not the place that asks the file system: free bytes are an argument. What must hold: the sum of what was
//! reserved never passes the quota (unless the quota was lowered since), neither does that of one registry, and never
//! less than zero is held.

use std::collections::BTreeMap;
use std::sync::Mutex;

use darter_types::RegistryName;

use crate::store::Refusals;
use crate::sync::lock;

/// Most bytes that contents of one registry may take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistryQuotas {
    /// Of those that have one of their own.
    pub named: BTreeMap<RegistryName, u64>,
    /// Of each other registry; `None` = no quota.
    pub others: Option<u64>,
}

impl RegistryQuotas {
    fn of(&self, registry: &RegistryName) -> Option<u64> {
        self.named.get(registry).copied().or(self.others)
    }
}

#[derive(Debug)]
pub(crate) struct Account {
    counts: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    stored_bytes: u64,
    quota_bytes: u64,
    floor_bytes: u64,
    registry_quotas: RegistryQuotas,
    by_registry: BTreeMap<RegistryName, u64>,
    refusals: Refusals,
}

/// Bytes that must go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deficit {
    /// To be within the limits as things are.
    pub(crate) now_bytes: u64,
    /// To be within them with what is wanted besides.
    pub(crate) wanted_bytes: u64,
}

/// What stands against more bytes.
enum Limit {
    Quota,
    RegistryQuota,
    FreeFloor,
}

impl Account {
    pub(crate) fn new(quota_bytes: u64, floor_bytes: u64) -> Self {
        Self {
            counts: Mutex::new(Counts {
                stored_bytes: 0,
                quota_bytes,
                floor_bytes,
                registry_quotas: RegistryQuotas::default(),
                by_registry: BTreeMap::new(),
                refusals: Refusals::default(),
            }),
        }
    }

    pub(crate) fn set_limits(&self, quota_bytes: u64, floor_bytes: u64) {
        let mut counts = lock(&self.counts);
        counts.quota_bytes = quota_bytes;
        counts.floor_bytes = floor_bytes;
    }

    pub(crate) fn stored_bytes(&self) -> u64 {
        lock(&self.counts).stored_bytes
    }

    pub(crate) fn quota_bytes(&self) -> u64 {
        lock(&self.counts).quota_bytes
    }

    pub(crate) fn set_registry_quotas(&self, quotas: RegistryQuotas) {
        lock(&self.counts).registry_quotas = quotas;
    }

    /// How often something was refused, and why.
    pub(crate) fn refusals(&self) -> Refusals {
        lock(&self.counts).refusals
    }

    /// The file system had no room although the account said so.
    pub(crate) fn file_system_was_full(&self) {
        lock(&self.counts).refusals.file_system += 1;
    }

    /// Bytes of each registry's contents.
    pub(crate) fn by_registry(&self) -> BTreeMap<RegistryName, u64> {
        lock(&self.counts).by_registry.clone()
    }

    /// Takes `bytes` of a registry's content if they fit under the quotas and leave the floor free; false, and nothing
    /// taken, if not.
    pub(crate) fn reserve(&self, registry: Option<&RegistryName>, bytes: u64, free_bytes: u64) -> bool {
        let mut counts = lock(&self.counts);
        match counts.limit(registry, bytes, free_bytes) {
            Some(Limit::Quota) => counts.refusals.quota += 1,
            Some(Limit::RegistryQuota) => counts.refusals.registry_quota += 1,
            Some(Limit::FreeFloor) => counts.refusals.free_floor += 1,
            None => {
                counts.add(registry, bytes);
                return true;
            }
        }
        false
    }

    /// Whether [`Self::reserve`] would take `bytes`.
    pub(crate) fn fits(&self, registry: Option<&RegistryName>, bytes: u64, free_bytes: u64) -> bool {
        lock(&self.counts).limit(registry, bytes, free_bytes).is_none()
    }

    /// Takes `bytes` that are there already, whatever the limits say.
    pub(crate) fn adopt(&self, registry: Option<&RegistryName>, bytes: u64) {
        lock(&self.counts).add(registry, bytes);
    }

    pub(crate) fn release(&self, registry: Option<&RegistryName>, bytes: u64) {
        let mut counts = lock(&self.counts);
        counts.stored_bytes = counts.stored_bytes.saturating_sub(bytes);
        let Some(registry) = registry else { return };
        if let Some(held) = counts.by_registry.get_mut(registry) {
            *held = held.saturating_sub(bytes);
            if *held == 0 {
                counts.by_registry.remove(registry);
            }
        }
    }

    /// What of a registry must go so that `wanted_bytes` more of it fit; `None` if they never will.
    pub(crate) fn registry_deficit(&self, registry: &RegistryName, wanted_bytes: u64) -> Option<Deficit> {
        let counts = lock(&self.counts);
        let fits = counts
            .registry_quotas
            .of(registry)
            .is_none_or(|quota| wanted_bytes <= quota);
        fits.then(|| Deficit {
            now_bytes: counts.over_quota(registry, 0),
            wanted_bytes: counts.over_quota(registry, wanted_bytes),
        })
    }

    pub(crate) fn deficit(&self, wanted_bytes: u64, free_bytes: u64) -> Deficit {
        let counts = lock(&self.counts);
        let missing = |wanted: u64| {
            let over_quota = counts
                .stored_bytes
                .saturating_add(wanted)
                .saturating_sub(counts.quota_bytes);
            let under_floor = counts
                .floor_bytes
                .saturating_add(wanted)
                .saturating_sub(free_bytes);
            over_quota.max(under_floor)
        };
        Deficit {
            now_bytes: missing(0),
            wanted_bytes: missing(wanted_bytes),
        }
    }
}

impl Counts {
    /// The first limit that `bytes` more would pass; nothing always fits.
    fn limit(&self, registry: Option<&RegistryName>, bytes: u64, free_bytes: u64) -> Option<Limit> {
        if bytes == 0 {
            None
        } else if self.stored_bytes.saturating_add(bytes) > self.quota_bytes {
            Some(Limit::Quota)
        } else if registry.is_some_and(|registry| self.over_quota(registry, bytes) > 0) {
            Some(Limit::RegistryQuota)
        } else if free_bytes < self.floor_bytes.saturating_add(bytes) {
            Some(Limit::FreeFloor)
        } else {
            None
        }
    }

    /// By how much a registry would pass its quota with `more_bytes`.
    fn over_quota(&self, registry: &RegistryName, more_bytes: u64) -> u64 {
        let held = self.by_registry.get(registry).copied().unwrap_or_default();
        let quota = self.registry_quotas.of(registry).unwrap_or(u64::MAX);
        held.saturating_add(more_bytes).saturating_sub(quota)
    }

    fn add(&mut self, registry: Option<&RegistryName>, bytes: u64) {
        self.stored_bytes = self.stored_bytes.saturating_add(bytes);
        if let Some(registry) = registry.filter(|_| bytes > 0) {
            let held = self.by_registry.entry(registry.clone()).or_default();
            *held = held.saturating_add(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_passes_the_quota_or_eats_the_floor() {
        let account = Account::new(100, 10);
        assert!(account.reserve(None, 60, 1000));
        assert!(!account.reserve(None, 41, 1000));
        assert!(!account.reserve(None, 40, 49), "9 bytes would stay free");
        assert!(account.reserve(None, 40, 50));
        assert!(account.reserve(None, 0, 0), "nothing always fits");
        account.release(None, 150);
        assert_eq!(account.stored_bytes(), 0);
    }

    #[test]
    fn deficit_is_the_larger_of_quota_and_floor() {
        let account = Account::new(100, 10);
        account.adopt(None, 130);
        let deficit = account.deficit(5, 3);
        assert_eq!((deficit.now_bytes, deficit.wanted_bytes), (30, 35));
        let deficit = account.deficit(90, 3);
        assert_eq!(deficit.wanted_bytes, 120);
        assert_eq!(Account::new(u64::MAX, 0).deficit(5, u64::MAX).wanted_bytes, 0);
    }

    #[test]
    fn a_registry_is_held_to_its_quota_and_the_others_are_not() {
        let name = |text: &str| text.parse::<RegistryName>().unwrap();
        let (a, b, c) = (name("a.test"), name("b.test"), name("c.test"));
        let account = Account::new(1000, 10);
        account.set_registry_quotas(RegistryQuotas {
            named: [(a.clone(), 100)].into(),
            others: Some(300),
        });
        assert!(account.reserve(Some(&a), 100, 2000));
        assert!(!account.reserve(Some(&a), 1, 2000));
        assert!(account.reserve(Some(&b), 300, 2000) && !account.reserve(Some(&b), 1, 2000));
        assert!(
            account.reserve(None, 500, 2000),
            "what has no registry has no quota"
        );
        assert!(!account.reserve(Some(&c), 101, 2000), "the quota of all");
        assert!(!account.reserve(Some(&c), 100, 109), "the floor");
        let refusals = account.refusals();
        assert_eq!(
            (refusals.quota, refusals.registry_quota, refusals.free_floor),
            (1, 2, 1)
        );
        let deficit = account.registry_deficit(&a, 40).unwrap();
        assert_eq!((deficit.now_bytes, deficit.wanted_bytes), (0, 40));
        assert_eq!(account.registry_deficit(&a, 101), None, "never");
        account.release(Some(&a), 100);
        assert!(account.reserve(Some(&a), 40, 2000));
        account.adopt(Some(&a), 100);
        assert_eq!(account.registry_deficit(&a, 0).unwrap().now_bytes, 40);
        assert_eq!(account.by_registry(), [(a, 140), (b, 300)].into());
    }
}
