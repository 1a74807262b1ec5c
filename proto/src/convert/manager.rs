//! What schedulers, nodes and managers say to each other.

use std::time::Duration;

use prost::Message as _;

use super::words::{address, at_most, list, malformed, parsed, text};
use super::{ConvertError, is_same, taken};
use crate::limits::{DOCUMENT_BYTES_MAX, SCHEDULERS_MAX};
use crate::manager::{Instance, MemberRole, Membership, State};
use crate::pb::manager::v1 as pb;

/// A version: stored as a signed number of 64 bits.
fn version(field: &'static str, version: u64) -> Result<u64, ConvertError> {
    match i64::try_from(version) {
        Ok(_) => Ok(version),
        Err(_) => Err(malformed(field, "no version is as large")),
    }
}

impl TryFrom<pb::Instance> for Instance {
    type Error = ConvertError;

    fn try_from(told: pb::Instance) -> Result<Self, ConvertError> {
        // A guess would make a scheduler of what is none, or the other way round.
        let role = match told.role() {
            pb::Role::Peer => MemberRole::Peer,
            pb::Role::Seed => MemberRole::Seed,
            pb::Role::Scheduler => MemberRole::Scheduler,
            pb::Role::Unspecified => {
                return Err(malformed("instance.role", format!("unknown role {}", told.role)));
            }
        };
        let state = match told.state() {
            pb::State::Serving => State::Serving,
            // One that a newer release added is not handed out.
            pb::State::Starting | pb::State::Unspecified => State::Starting,
        };
        let refused = |refused: pb::Refused| {
            let reason = text("instance.refused.reason", refused.reason)?;
            Ok((version("instance.refused.version", refused.version)?, reason))
        };
        Ok(Self {
            wire_version: told.wire_version,
            role,
            host: parsed("instance.host", &told.host)?,
            address: address("instance.address", told.address)?,
            idc: text("instance.idc", told.idc)?,
            location: text("instance.location", told.location)?,
            build: text("instance.build", told.build)?,
            state,
            running: version("instance.running", told.running)?,
            refused: told.refused.map(refused).transpose()?,
        })
    }
}

impl From<Instance> for pb::Instance {
    fn from(instance: Instance) -> Self {
        let role = match instance.role {
            MemberRole::Peer => pb::Role::Peer,
            MemberRole::Seed => pb::Role::Seed,
            MemberRole::Scheduler => pb::Role::Scheduler,
        };
        let state = match instance.state {
            State::Starting => pb::State::Starting,
            State::Serving => pb::State::Serving,
        };
        Self {
            wire_version: instance.wire_version,
            role: role.into(),
            host: instance.host.into(),
            address: instance.address,
            idc: instance.idc,
            location: instance.location,
            build: instance.build,
            state: state.into(),
            running: instance.running,
            refused: instance
                .refused
                .map(|(version, reason)| pb::Refused { version, reason }),
        }
    }
}

impl TryFrom<pb::Membership> for Membership {
    type Error = ConvertError;

    fn try_from(told: pb::Membership) -> Result<Self, ConvertError> {
        if told.alive_interval_ms == 0 {
            return Err(malformed("membership.alive_interval_ms", "must be above zero"));
        }
        let schedulers = list(
            "membership.schedulers",
            told.schedulers,
            SCHEDULERS_MAX,
            |scheduler| address("membership.schedulers", scheduler),
        );
        let configuration = |told: pb::Configuration| {
            let field = "membership.configuration.document";
            at_most(field, told.document.len(), DOCUMENT_BYTES_MAX)?;
            let version = version("membership.configuration.version", told.version)?;
            Ok((version, told.document))
        };
        Ok(Self {
            wire_version: told.wire_version,
            cluster: text("membership.cluster", told.cluster)?,
            name: text("membership.name", told.name)?,
            reason: text("membership.reason", told.reason)?,
            schedulers: schedulers?,
            configuration: told.configuration.map(configuration).transpose()?,
            alive_interval: Duration::from_millis(told.alive_interval_ms.into()),
        })
    }
}

impl From<Membership> for pb::Membership {
    fn from(membership: Membership) -> Self {
        let interval = membership.alive_interval.as_millis();
        Self {
            wire_version: membership.wire_version,
            cluster: membership.cluster,
            name: membership.name,
            reason: membership.reason,
            schedulers: membership.schedulers,
            configuration: membership
                .configuration
                .map(|(version, document)| pb::Configuration { version, document }),
            alive_interval_ms: u32::try_from(interval).unwrap_or(u32::MAX),
        }
    }
}

/// The body of a fuzz target: any bytes as what an instance says. What is taken must read back as the same.
///
/// # Panics
/// If it does not.
pub fn fuzz_instance(data: &[u8]) {
    let Some(instance) = pb::Instance::decode(data).ok().and_then(taken) else {
        return;
    };
    let instance: Instance = instance;
    let again = pb::Instance::decode(&*pb::Instance::from(instance.clone()).encode_to_vec());
    let again: Option<Instance> = again.ok().and_then(taken);
    assert!(
        is_same(again.as_ref(), &instance),
        "{instance:?} reads back as {again:?}"
    );
}

/// The body of a fuzz target: any bytes as what a manager says. What is taken must read back as the same.
///
/// # Panics
/// If it does not.
pub fn fuzz_membership(data: &[u8]) {
    let Some(membership) = pb::Membership::decode(data).ok().and_then(taken) else {
        return;
    };
    let membership: Membership = membership;
    let again = pb::Membership::decode(&*pb::Membership::from(membership.clone()).encode_to_vec());
    let again: Option<Membership> = again.ok().and_then(taken);
    assert!(
        is_same(again.as_ref(), &membership),
        "{membership:?} reads back as {again:?}"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance() -> Instance {
        Instance {
            wire_version: 1,
            role: MemberRole::Seed,
            host: "node1".parse().unwrap(),
            address: "10.0.0.1:4001".to_owned(),
            idc: "eu".to_owned(),
            location: "eu|berlin".to_owned(),
            build: "1.0".to_owned(),
            state: State::Serving,
            running: 3,
            refused: Some((4, "too new".to_owned())),
        }
    }

    fn membership() -> Membership {
        Membership {
            wire_version: 1,
            cluster: "1".to_owned(),
            name: "default".to_owned(),
            reason: "it is the default".to_owned(),
            schedulers: vec!["10.0.0.2:8002".to_owned()],
            configuration: Some((4, "{}".to_owned())),
            alive_interval: Duration::from_secs(10),
        }
    }

    #[test]
    fn what_is_sent_arrives() {
        fuzz_instance(&pb::Instance::from(instance()).encode_to_vec());
        fuzz_membership(&pb::Membership::from(membership()).encode_to_vec());
        assert_eq!(Instance::try_from(pb::Instance::from(instance())), Ok(instance()));
        assert_eq!(
            Membership::try_from(pb::Membership::from(membership())),
            Ok(membership())
        );
    }

    #[test]
    fn what_breaks_a_bound_is_refused() {
        let broken: [fn(&mut pb::Instance); 6] = [
            |told| told.role = 9,
            |told| told.host = "no host/".to_owned(),
            |told| told.address = "10.0.0.1".to_owned(),
            |told| told.idc = "x".repeat(1025),
            |told| told.running = u64::MAX,
            |told| told.location = "a\nb".to_owned(),
        ];
        for (at, breaks) in broken.into_iter().enumerate() {
            let mut told = pb::Instance::from(instance());
            breaks(&mut told);
            assert!(Instance::try_from(told).is_err(), "{at}");
        }
        let broken: [fn(&mut pb::Membership); 4] = [
            |told| told.alive_interval_ms = 0,
            |told| told.schedulers = vec!["a:1".to_owned(); SCHEDULERS_MAX + 1],
            |told| told.schedulers = vec!["nowhere".to_owned()],
            |told| {
                let document = " ".repeat(DOCUMENT_BYTES_MAX + 1);
                told.configuration = Some(pb::Configuration { version: 1, document });
            },
        ];
        for (at, breaks) in broken.into_iter().enumerate() {
            let mut told = pb::Membership::from(membership());
            breaks(&mut told);
            assert!(Membership::try_from(told).is_err(), "{at}");
        }
    }

    #[test]
    fn a_state_that_is_not_known_is_not_serving() {
        let mut told = pb::Instance::from(instance());
        told.state = 77;
        assert_eq!(Instance::try_from(told).unwrap().state, State::Starting);
    }

    #[test]
    fn any_bytes_are_taken_or_refused() {
        darter_testkit::fuzz::check("instance", fuzz_instance);
        darter_testkit::fuzz::check("membership", fuzz_membership);
    }
}
