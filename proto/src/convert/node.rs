//! What nodes say.

use super::ConvertError;
use super::words::{
    address, length, list, malformed, measure, optional_host, origin, origin_to, parsed, piece_number,
    required_origin, runs, runs_to, states, states_to, sums, sums_to, task, text,
};
use crate::limits::{HELD_MAX, SOURCES_MAX};
use crate::pb::scheduler::v1 as pb;
use crate::pb::scheduler::v1::node_message::Message as Pb;
use crate::scheduler::{
    Attested, Failed, FailureReason, Have, Held, Hello, LeaseEnded, LeaseOutcome, Links, Load, NodeMessage,
    PieceCost, Role, Urgency, Want,
};

impl TryFrom<pb::NodeMessage> for NodeMessage {
    type Error = ConvertError;

    fn try_from(message: pb::NodeMessage) -> Result<Self, ConvertError> {
        Ok(match message.message.ok_or(ConvertError::UnknownMessage)? {
            Pb::Hello(hello) => Self::Hello(hello.try_into()?),
            Pb::Announce(announce) => {
                Self::Announce(list("announce.held", announce.held, HELD_MAX, Held::try_from)?)
            }
            Pb::Want(want) => Self::Want(want.try_into()?),
            Pb::Unwant(unwant) => Self::Unwant(task(&unwant.task)?),
            Pb::Have(have) => Self::Have(have.try_into()?),
            Pb::Withdraw(withdraw) => {
                Self::Withdraw(task(&withdraw.task)?, runs("withdraw.runs", withdraw.runs)?)
            }
            Pb::Links(links) => Self::Links(links.try_into()?),
            Pb::Attested(attested) => Self::Attested(Attested {
                task: task(&attested.task)?,
                epoch: attested.epoch,
                length: length(attested.length)?,
                sums: sums("attested.sums", attested.sums)?,
            }),
            Pb::LeaseEnded(ended) => Self::LeaseEnded(ended.try_into()?),
            Pb::Failed(failed) => Self::Failed(failed.try_into()?),
            Pb::Load(load) => Self::Load(load.try_into()?),
        })
    }
}

impl From<NodeMessage> for pb::NodeMessage {
    fn from(message: NodeMessage) -> Self {
        let message = match message {
            NodeMessage::Hello(hello) => Pb::Hello(hello.into()),
            NodeMessage::Announce(held) => Pb::Announce(pb::Announce {
                held: held.into_iter().map(Into::into).collect(),
            }),
            NodeMessage::Want(want) => Pb::Want(want.into()),
            NodeMessage::Unwant(task) => Pb::Unwant(pb::Unwant {
                task: task.to_string(),
            }),
            NodeMessage::Have(have) => Pb::Have(have.into()),
            NodeMessage::Withdraw(task, runs) => Pb::Withdraw(pb::Withdraw {
                task: task.to_string(),
                runs: runs_to(runs),
            }),
            NodeMessage::Links(links) => Pb::Links(links.into()),
            NodeMessage::Attested(attested) => Pb::Attested(pb::Attested {
                task: attested.task.to_string(),
                epoch: attested.epoch,
                length: attested.length,
                sums: sums_to(attested.sums),
            }),
            NodeMessage::LeaseEnded(ended) => Pb::LeaseEnded(ended.into()),
            NodeMessage::Failed(failed) => Pb::Failed(failed.into()),
            NodeMessage::Load(load) => Pb::Load(load.into()),
        };
        Self {
            message: Some(message),
        }
    }
}

impl TryFrom<pb::Hello> for Hello {
    type Error = ConvertError;

    fn try_from(hello: pb::Hello) -> Result<Self, ConvertError> {
        // A role of a newer release is taken as the one that nobody trusts.
        let role = match hello.role() {
            pb::Role::Seed => Role::Seed,
            pb::Role::Peer | pb::Role::Unspecified => Role::Peer,
        };
        Ok(Self {
            wire_version: hello.wire_version,
            host: parsed("hello.host", &hello.host)?,
            address: address("hello.address", hello.address)?,
            locality: parsed("hello.locality", &hello.locality)?,
            role,
            upload_bytes_per_second_max: (hello.upload_bytes_per_second_max > 0)
                .then_some(hello.upload_bytes_per_second_max),
            build: text("hello.build", hello.build)?,
        })
    }
}

impl From<Hello> for pb::Hello {
    fn from(hello: Hello) -> Self {
        Self {
            wire_version: hello.wire_version,
            host: hello.host.into(),
            address: hello.address,
            locality: hello.locality.into(),
            role: role_to(hello.role).into(),
            upload_bytes_per_second_max: hello.upload_bytes_per_second_max.unwrap_or(0),
            build: hello.build,
        }
    }
}

fn role_to(role: Role) -> pb::Role {
    match role {
        Role::Peer => pb::Role::Peer,
        Role::Seed => pb::Role::Seed,
    }
}

impl TryFrom<pb::Held> for Held {
    type Error = ConvertError;

    fn try_from(held: pb::Held) -> Result<Self, ConvertError> {
        Ok(Self {
            task: task(&held.task)?,
            length: length(held.length)?,
            runs: runs("held.runs", held.runs)?,
            origin: held.origin.map(origin).transpose()?,
            states_known: piece_number("held.states_known", held.states_known)?,
        })
    }
}

impl From<Held> for pb::Held {
    fn from(held: Held) -> Self {
        Self {
            task: held.task.to_string(),
            length: held.length,
            runs: runs_to(held.runs),
            origin: held.origin.map(origin_to),
            states_known: held.states_known,
        }
    }
}

impl TryFrom<pb::Want> for Want {
    type Error = ConvertError;

    fn try_from(want: pb::Want) -> Result<Self, ConvertError> {
        // An urgency of a newer release is taken as the one that keeps nobody waiting.
        let urgency = match want.urgency() {
            pb::Urgency::Background => Urgency::Background,
            pb::Urgency::Reader | pb::Urgency::Unspecified => Urgency::Reader,
        };
        Ok(Self {
            task: task(&want.task)?,
            origin: required_origin(want.origin)?,
            length: want.length.map(length).transpose()?,
            held: runs("want.held", want.held)?,
            states_known: piece_number("want.states_known", want.states_known)?,
            public: want.public,
            urgency,
            lease_epoch: (want.lease_epoch > 0).then_some(want.lease_epoch),
            first: runs("want.first", want.first)?,
            on_demand: want.on_demand,
        })
    }
}

impl From<Want> for pb::Want {
    fn from(want: Want) -> Self {
        let urgency = match want.urgency {
            Urgency::Background => pb::Urgency::Background,
            Urgency::Reader => pb::Urgency::Reader,
        };
        Self {
            task: want.task.to_string(),
            origin: Some(origin_to(want.origin)),
            length: want.length,
            held: runs_to(want.held),
            states_known: want.states_known,
            public: want.public,
            urgency: urgency.into(),
            lease_epoch: want.lease_epoch.unwrap_or(0),
            first: runs_to(want.first),
            on_demand: want.on_demand,
        }
    }
}

impl TryFrom<pb::Have> for Have {
    type Error = ConvertError;

    fn try_from(have: pb::Have) -> Result<Self, ConvertError> {
        Ok(Self {
            task: task(&have.task)?,
            length: length(have.length)?,
            runs: runs("have.runs", have.runs)?,
            fed: list("have.fed", have.fed, SOURCES_MAX, |fed| {
                Ok((optional_host("have.fed.parent", &fed.parent)?, fed.bytes))
            })?,
        })
    }
}

impl From<Have> for pb::Have {
    fn from(have: Have) -> Self {
        let fed = |(parent, bytes): (Option<darter_types::HostId>, u64)| pb::Fed {
            parent: parent.map(String::from).unwrap_or_default(),
            bytes,
        };
        Self {
            task: have.task.to_string(),
            length: have.length,
            runs: runs_to(have.runs),
            fed: have.fed.into_iter().map(fed).collect(),
        }
    }
}

impl TryFrom<pb::Links> for Links {
    type Error = ConvertError;

    fn try_from(links: pb::Links) -> Result<Self, ConvertError> {
        let task = task(&links.task)?;
        Ok(Self {
            task,
            epoch: links.epoch,
            length: length(links.length)?,
            first_border: piece_number("links.first_border", links.first_border)?,
            states: states(&task, links.first_border, &links.states)?,
            proved: links.proved,
        })
    }
}

impl From<Links> for pb::Links {
    fn from(links: Links) -> Self {
        Self {
            task: links.task.to_string(),
            epoch: links.epoch,
            length: links.length,
            first_border: links.first_border,
            states: states_to(links.states),
            proved: links.proved,
        }
    }
}

impl TryFrom<pb::LeaseEnded> for LeaseEnded {
    type Error = ConvertError;

    fn try_from(ended: pb::LeaseEnded) -> Result<Self, ConvertError> {
        // An outcome of a newer release is taken as a plain failure: the lease passes on.
        let outcome = match ended.outcome() {
            pb::LeaseOutcome::Done => LeaseOutcome::Done,
            pb::LeaseOutcome::Refused => LeaseOutcome::Refused,
            pb::LeaseOutcome::Absent => LeaseOutcome::Absent,
            pb::LeaseOutcome::WrongContent => LeaseOutcome::WrongContent,
            pb::LeaseOutcome::Changed => LeaseOutcome::Changed,
            pb::LeaseOutcome::Failed | pb::LeaseOutcome::Unspecified => LeaseOutcome::Failed,
        };
        let status = match u16::try_from(ended.status) {
            Ok(0) => None,
            Ok(status @ 100..=599) => Some(status),
            _ => {
                return Err(malformed(
                    "lease_ended.status",
                    format!("{} is no HTTP status", ended.status),
                ));
            }
        };
        Ok(Self {
            task: task(&ended.task)?,
            epoch: ended.epoch,
            outcome,
            status,
        })
    }
}

impl From<LeaseEnded> for pb::LeaseEnded {
    fn from(ended: LeaseEnded) -> Self {
        let outcome = match ended.outcome {
            LeaseOutcome::Done => pb::LeaseOutcome::Done,
            LeaseOutcome::Refused => pb::LeaseOutcome::Refused,
            LeaseOutcome::Absent => pb::LeaseOutcome::Absent,
            LeaseOutcome::Failed => pb::LeaseOutcome::Failed,
            LeaseOutcome::WrongContent => pb::LeaseOutcome::WrongContent,
            LeaseOutcome::Changed => pb::LeaseOutcome::Changed,
        };
        Self {
            task: ended.task.to_string(),
            epoch: ended.epoch,
            outcome: outcome.into(),
            status: u32::from(ended.status.unwrap_or(0)),
        }
    }
}

impl TryFrom<pb::Failed> for Failed {
    type Error = ConvertError;

    fn try_from(failed: pb::Failed) -> Result<Self, ConvertError> {
        // A reason of a newer release is taken as the mildest: nobody is blamed on a word not understood.
        let reason = match failed.reason() {
            pb::FailureReason::Unreachable => FailureReason::Unreachable,
            pb::FailureReason::Silent => FailureReason::Silent,
            pb::FailureReason::WrongBytes => FailureReason::WrongBytes,
            pb::FailureReason::Missing => FailureReason::Missing,
            pb::FailureReason::Refused | pb::FailureReason::Unspecified => FailureReason::Refused,
        };
        Ok(Self {
            task: task(&failed.task)?,
            parent: parsed("failed.parent", &failed.parent)?,
            reason,
            piece: piece_number("failed.piece", failed.piece)?,
        })
    }
}

impl From<Failed> for pb::Failed {
    fn from(failed: Failed) -> Self {
        let reason = match failed.reason {
            FailureReason::Unreachable => pb::FailureReason::Unreachable,
            FailureReason::Silent => pb::FailureReason::Silent,
            FailureReason::WrongBytes => pb::FailureReason::WrongBytes,
            FailureReason::Missing => pb::FailureReason::Missing,
            FailureReason::Refused => pb::FailureReason::Refused,
        };
        Self {
            task: failed.task.to_string(),
            parent: failed.parent.into(),
            reason: reason.into(),
            piece: failed.piece,
        }
    }
}

impl TryFrom<pb::Load> for Load {
    type Error = ConvertError;

    fn try_from(load: pb::Load) -> Result<Self, ConvertError> {
        Ok(Self {
            upload_bytes_per_second: load.upload_bytes_per_second,
            uploads_running: load.uploads_running,
            uploads_waiting: load.uploads_waiting,
            store_free_bytes: load.store_free_bytes,
            costs: list("load.costs", load.costs, SOURCES_MAX, |cost| {
                Ok(PieceCost {
                    parent: parsed("load.costs.parent", &cost.parent)?,
                    nanos_per_byte: measure("load.costs.nanos_per_byte", cost.nanos_per_byte)?,
                    pieces: cost.pieces,
                })
            })?,
        })
    }
}

impl From<Load> for pb::Load {
    fn from(load: Load) -> Self {
        let cost = |cost: PieceCost| pb::PieceCost {
            parent: cost.parent.into(),
            nanos_per_byte: cost.nanos_per_byte,
            pieces: cost.pieces,
        };
        Self {
            upload_bytes_per_second: load.upload_bytes_per_second,
            uploads_running: load.uploads_running,
            uploads_waiting: load.uploads_waiting,
            store_free_bytes: load.store_free_bytes,
            costs: load.costs.into_iter().map(cost).collect(),
        }
    }
}
