//! What schedulers say.

use super::ConvertError;
use super::words::{
    address, length, list, malformed, origin_to, parsed, piece_number, required_origin, runs, runs_to,
    states, states_to, sums, sums_to, task, text,
};
use crate::limits::{PARENTS_MAX, SCHEDULERS_MAX};
use crate::pb::scheduler::v1 as pb;
use crate::pb::scheduler::v1::scheduler_message::Message as Pb;
use crate::scheduler::{KnownLinks, Parent, Parents, Redirect, SchedulerMessage, SourceLease, Welcome};

impl TryFrom<pb::SchedulerMessage> for SchedulerMessage {
    type Error = ConvertError;

    fn try_from(message: pb::SchedulerMessage) -> Result<Self, ConvertError> {
        Ok(match message.message.ok_or(ConvertError::UnknownMessage)? {
            Pb::Welcome(welcome) => Self::Welcome(welcome.try_into()?),
            Pb::Parents(parents) => Self::Parents(parents.try_into()?),
            Pb::SourceLease(lease) => Self::SourceLease(lease.try_into()?),
            Pb::LeaseRevoked(revoked) => Self::LeaseRevoked(task(&revoked.task)?, revoked.epoch),
            Pb::Links(links) => Self::Links(links.try_into()?),
            Pb::Attestations(known) => Self::Attestations(
                task(&known.task)?,
                length(known.length)?,
                sums("attestations.sums", known.sums)?,
            ),
            Pb::GoAlone(alone) => Self::GoAlone(task(&alone.task)?, text("go_alone.reason", alone.reason)?),
            Pb::Drop(drop) => Self::Drop(task(&drop.task)?),
            Pb::Redirect(redirect) => Self::Redirect(redirect.try_into()?),
            Pb::SendLinks(send) => Self::SendLinks(
                task(&send.task)?,
                piece_number("send_links.first_border", send.first_border)?,
            ),
            Pb::ForgetLinks(forget) => Self::ForgetLinks(task(&forget.task)?),
        })
    }
}

impl From<SchedulerMessage> for pb::SchedulerMessage {
    fn from(message: SchedulerMessage) -> Self {
        let message = match message {
            SchedulerMessage::Welcome(welcome) => Pb::Welcome(welcome.into()),
            SchedulerMessage::Parents(parents) => Pb::Parents(parents.into()),
            SchedulerMessage::SourceLease(lease) => Pb::SourceLease(lease.into()),
            SchedulerMessage::LeaseRevoked(task, epoch) => Pb::LeaseRevoked(pb::LeaseRevoked {
                task: task.to_string(),
                epoch,
            }),
            SchedulerMessage::Links(links) => Pb::Links(links.into()),
            SchedulerMessage::Attestations(task, length, sums) => Pb::Attestations(pb::Attestations {
                task: task.to_string(),
                length,
                sums: sums_to(sums),
            }),
            SchedulerMessage::GoAlone(task, reason) => Pb::GoAlone(pb::GoAlone {
                task: task.to_string(),
                reason,
            }),
            SchedulerMessage::Drop(task) => Pb::Drop(pb::Drop {
                task: task.to_string(),
            }),
            SchedulerMessage::Redirect(redirect) => Pb::Redirect(redirect.into()),
            SchedulerMessage::SendLinks(task, first_border) => Pb::SendLinks(pb::SendLinks {
                task: task.to_string(),
                first_border,
            }),
            SchedulerMessage::ForgetLinks(task) => Pb::ForgetLinks(pb::ForgetLinks {
                task: task.to_string(),
            }),
        };
        Self {
            message: Some(message),
        }
    }
}

fn schedulers(field: &'static str, names: Vec<String>) -> Result<Vec<String>, ConvertError> {
    list(field, names, SCHEDULERS_MAX, |name| address(field, name))
}

impl TryFrom<pb::Welcome> for Welcome {
    type Error = ConvertError;

    fn try_from(welcome: pb::Welcome) -> Result<Self, ConvertError> {
        Ok(Self {
            wire_version: welcome.wire_version,
            schedulers: schedulers("welcome.schedulers", welcome.schedulers)?,
            incarnation: welcome.incarnation,
        })
    }
}

impl From<Welcome> for pb::Welcome {
    fn from(welcome: Welcome) -> Self {
        Self {
            wire_version: welcome.wire_version,
            schedulers: welcome.schedulers,
            incarnation: welcome.incarnation,
        }
    }
}

impl TryFrom<pb::Parents> for Parents {
    type Error = ConvertError;

    fn try_from(parents: pb::Parents) -> Result<Self, ConvertError> {
        Ok(Self {
            task: task(&parents.task)?,
            length: parents.length.map(length).transpose()?,
            parents: list("parents", parents.parents, PARENTS_MAX, Parent::try_from)?,
        })
    }
}

impl From<Parents> for pb::Parents {
    fn from(parents: Parents) -> Self {
        Self {
            task: parents.task.to_string(),
            length: parents.length,
            parents: parents.parents.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::Parent> for Parent {
    type Error = ConvertError;

    fn try_from(parent: pb::Parent) -> Result<Self, ConvertError> {
        if !parent.score.is_finite() {
            return Err(malformed("parents.score", "not a finite number"));
        }
        Ok(Self {
            host: parsed("parents.host", &parent.host)?,
            address: address("parents.address", parent.address)?,
            seed: parent.seed,
            score: parent.score,
        })
    }
}

impl From<Parent> for pb::Parent {
    fn from(parent: Parent) -> Self {
        Self {
            host: parent.host.into(),
            address: parent.address,
            seed: parent.seed,
            score: parent.score,
        }
    }
}

impl TryFrom<pb::SourceLease> for SourceLease {
    type Error = ConvertError;

    fn try_from(lease: pb::SourceLease) -> Result<Self, ConvertError> {
        Ok(Self {
            task: task(&lease.task)?,
            origin: required_origin(lease.origin)?,
            epoch: lease.epoch,
            length: lease.length.map(length).transpose()?,
            runs: runs("source_lease.runs", lease.runs)?,
            first: runs("source_lease.first", lease.first)?,
            on_demand: lease.on_demand,
        })
    }
}

impl From<SourceLease> for pb::SourceLease {
    fn from(lease: SourceLease) -> Self {
        Self {
            task: lease.task.to_string(),
            origin: Some(origin_to(lease.origin)),
            epoch: lease.epoch,
            length: lease.length,
            runs: runs_to(lease.runs),
            first: runs_to(lease.first),
            on_demand: lease.on_demand,
        }
    }
}

impl TryFrom<pb::KnownLinks> for KnownLinks {
    type Error = ConvertError;

    fn try_from(links: pb::KnownLinks) -> Result<Self, ConvertError> {
        let task = task(&links.task)?;
        Ok(Self {
            task,
            length: length(links.length)?,
            first_border: piece_number("links.first_border", links.first_border)?,
            states: states(&task, links.first_border, &links.states)?,
            trusted: links.trusted,
        })
    }
}

impl From<KnownLinks> for pb::KnownLinks {
    fn from(links: KnownLinks) -> Self {
        Self {
            task: links.task.to_string(),
            length: links.length,
            first_border: links.first_border,
            states: states_to(links.states),
            trusted: links.trusted,
        }
    }
}

impl TryFrom<pb::Redirect> for Redirect {
    type Error = ConvertError;

    fn try_from(redirect: pb::Redirect) -> Result<Self, ConvertError> {
        Ok(Self {
            task: task(&redirect.task)?,
            scheduler: address("redirect.scheduler", redirect.scheduler)?,
            schedulers: schedulers("redirect.schedulers", redirect.schedulers)?,
        })
    }
}

impl From<Redirect> for pb::Redirect {
    fn from(redirect: Redirect) -> Self {
        Self {
            task: redirect.task.to_string(),
            scheduler: redirect.scheduler,
            schedulers: redirect.schedulers,
        }
    }
}
