//! What each message of a scheduler means for the node's pulls.

use darter_engine::{Event, ParentOffer};
use darter_origin::Credentials;
use darter_proto::limits::STATES_MAX;
use darter_proto::scheduler::{
    Have, KnownLinks, LeaseEnded, LeaseOutcome, Links, NodeMessage, Parents, SchedulerMessage, SourceLease,
};
use darter_types::{PieceRun, TaskId};

use super::Scheduling;
use crate::pull::{PullRequest, Pulls};

pub(super) fn dispatch(scheduling: &Scheduling, pulls: &Pulls, message: SchedulerMessage) {
    match message {
        SchedulerMessage::Welcome(_) => {}
        SchedulerMessage::Parents(parents) => offer(pulls, parents),
        SchedulerMessage::SourceLease(lease) => take_lease(scheduling, pulls, lease),
        SchedulerMessage::LeaseRevoked(task, epoch) => {
            pulls.lease_revoked(task, epoch);
        }
        SchedulerMessage::Links(links) => learn(pulls, links),
        SchedulerMessage::Attestations(task, length, sums) => {
            pulls.deliver(task, Event::AttestationsCame { length, sums });
        }
        SchedulerMessage::GoAlone(task, reason) => {
            tracing::debug!(%task, reason, "the scheduler cannot help");
            pulls.deliver(task, Event::GoAlone);
        }
        SchedulerMessage::SendLinks(task, first) => send_links(scheduling, pulls, task, first),
        SchedulerMessage::Drop(task) => pulls.remove(task),
        // What is whole was proved by its digest: no chain can take that back.
        SchedulerMessage::ForgetLinks(task) => {
            tracing::warn!(%task, "authors of its chain disagree: what rests on it is fetched again");
            pulls.deliver(task, Event::LinksForgotten);
        }
        // The ring was taken over before: the want now finds its owner.
        SchedulerMessage::Redirect(redirect) => {
            pulls.deliver(redirect.task, Event::SchedulerUp);
        }
    }
}

fn offer(pulls: &Pulls, parents: Parents) {
    let task = parents.task;
    if let Some(length) = parents.length {
        pulls.deliver(task, Event::LengthKnown(length));
    }
    let offers = parents.parents.into_iter();
    let offers = offers
        .map(|parent| ParentOffer {
            host: parent.host,
            address: parent.address,
        })
        .collect();
    pulls.deliver(task, Event::ParentsOffered(offers));
}

fn learn(pulls: &Pulls, links: KnownLinks) {
    let KnownLinks {
        task,
        length,
        first_border,
        states,
        trusted,
    } = links;
    pulls.deliver(
        task,
        Event::LinksCame {
            length,
            first: first_border,
            states,
            trusted,
        },
    );
}

fn take_lease(scheduling: &Scheduling, pulls: &Pulls, lease: SourceLease) {
    let SourceLease {
        task,
        origin,
        epoch,
        length,
        runs,
        first,
        on_demand,
    } = lease;
    if let Some(facts) = pulls.holds(task) {
        // It is all here, which the scheduler did not know.
        let all = PieceRun {
            first: 0,
            count: facts.layout.piece_count(),
        };
        let have = Have {
            task,
            length: facts.layout.length(),
            runs: vec![all],
            fed: Vec::new(),
        };
        scheduling.send(task, NodeMessage::Have(have));
        send_links(scheduling, pulls, task, 1);
        return end_lease(scheduling, task, epoch, LeaseOutcome::Done);
    }
    let request = PullRequest {
        locator: origin,
        length,
        media_type: None,
        credentials: Credentials::Anonymous,
        // Leases for what not everybody may read are for pulls that run. One that has ended meanwhile must not come back
        // as what anybody may have.
        public: !pulls.shares_private(),
        vouched: false,
        asked: false,
        whole: !on_demand,
        urgent: false,
        checks: false,
    };
    let granted = (!on_demand).then_some(Event::LeaseGranted { epoch, runs });
    let first = (on_demand || !first.is_empty()).then_some(&*first);
    if let Err(error) = pulls.lease(request, epoch, granted, first) {
        tracing::warn!(%task, %error, "a lease could not be taken");
        end_lease(scheduling, task, epoch, LeaseOutcome::Failed);
    }
}

fn end_lease(scheduling: &Scheduling, task: TaskId, epoch: u64, outcome: LeaseOutcome) {
    scheduling.send(
        task,
        NodeMessage::LeaseEnded(LeaseEnded {
            task,
            epoch,
            outcome,
            status: None,
        }),
    );
}

/// Tells the chain that this node kept, so that a scheduler which forgot it can tell others.
fn send_links(scheduling: &Scheduling, pulls: &Pulls, task: TaskId, first: u32) {
    let Some((length, states, proved)) = pulls.chain(task) else {
        return;
    };
    // `states` begins at border 1.
    let skip = usize::try_from(first.max(1) - 1).unwrap_or(usize::MAX);
    let mut first_border = first.max(1);
    let news = states.get(skip..).unwrap_or_default();
    // Whoever knows no more says that too: it may hold all, read out of order, and is not to be waited for.
    let nothing = news.is_empty().then_some(news);
    for part in news.chunks(STATES_MAX).chain(nothing) {
        let links = Links {
            task,
            epoch: 0,
            length,
            first_border,
            states: part.to_vec(),
            proved,
        };
        first_border += u32::try_from(part.len()).unwrap_or(u32::MAX);
        scheduling.send(task, NodeMessage::Links(links));
    }
}
