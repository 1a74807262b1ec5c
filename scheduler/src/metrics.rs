//! What the scheduler measures of itself.

use std::time::Duration;

use darter_proto::scheduler::NodeMessage;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::schedule::{Scheduler, Tally};

/// What a decision was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(missing_docs, reason = "the names say it; `Tally` explains each")]
pub enum Decision {
    Parents,
    Lease,
    LeasePassed,
    Alone,
    Redirected,
    Parked,
    LinksRelayed,
    ChainDropped,
    HostExcluded,
    Ignored,
}

/// Label of decisions.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DecisionLabel {
    /// What was decided.
    pub result: Decision,
}

/// Label of messages.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KindLabel {
    /// Kind of the message, as the protocol names it.
    pub kind: &'static str,
}

/// All of it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    decisions: Family<DecisionLabel, Counter>,
    duration: Histogram,
    messages: Family<KindLabel, Counter>,
    hosts: Gauge,
    tasks: Gauge,
    parked: Gauge,
    leases: Gauge,
    /// Nodes that were disconnected because they were too slow.
    pub slow_nodes: Counter,
    /// Messages that were refused.
    pub refused: Counter,
}

impl Metrics {
    /// Registers everything.
    pub fn register(registry: &mut Registry) -> Self {
        // From 1 µs to about 0.5 s.
        let buckets = prometheus_client::metrics::histogram::exponential_buckets(1e-6, 2.0, 20);
        let metrics = Self {
            decisions: Family::default(),
            duration: Histogram::new(buckets),
            messages: Family::default(),
            hosts: Gauge::default(),
            tasks: Gauge::default(),
            parked: Gauge::default(),
            leases: Gauge::default(),
            slow_nodes: Counter::default(),
            refused: Counter::default(),
        };
        let r = registry.sub_registry_with_prefix("darter_scheduler");
        r.register("decisions", "What was decided", metrics.decisions.clone());
        r.register(
            "decision_duration_seconds",
            "Time to take in one event",
            metrics.duration.clone(),
        );
        r.register("messages", "Messages of nodes", metrics.messages.clone());
        r.register("hosts", "Connected hosts", metrics.hosts.clone());
        r.register("tasks", "Tasks that are known", metrics.tasks.clone());
        r.register("wants_parked", "Wants that wait", metrics.parked.clone());
        r.register("leases", "Leases that are held", metrics.leases.clone());
        r.register(
            "nodes_too_slow",
            "Nodes disconnected because their queue was full",
            metrics.slow_nodes.clone(),
        );
        r.register(
            "messages_refused",
            "Messages that broke a bound",
            metrics.refused.clone(),
        );
        metrics
    }

    /// Counts a message.
    pub fn message(&self, kind: &'static str) {
        self.messages.get_or_create(&KindLabel { kind }).inc();
    }

    /// Notes what one event did: `before` is the tally that was noted last.
    pub fn decided(&self, took: Duration, scheduler: &Scheduler, before: &mut Tally) {
        self.duration.observe(took.as_secs_f64());
        let now = *scheduler.tally();
        for (result, count) in differences(before, &now) {
            if count > 0 {
                self.decisions
                    .get_or_create(&DecisionLabel { result })
                    .inc_by(count);
            }
        }
        *before = now;
        let gauge = |gauge: &Gauge, value: usize| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        gauge(&self.hosts, scheduler.hosts_connected());
        gauge(&self.tasks, scheduler.tasks_known());
        gauge(&self.parked, scheduler.wants_parked());
        gauge(&self.leases, scheduler.leases_held());
    }
}

fn differences(a: &Tally, b: &Tally) -> [(Decision, u64); 10] {
    [
        (Decision::Parents, b.parents - a.parents),
        (Decision::Lease, b.leases - a.leases),
        (Decision::LeasePassed, b.leases_passed - a.leases_passed),
        (Decision::Alone, b.alone - a.alone),
        (Decision::Redirected, b.redirected - a.redirected),
        (Decision::Parked, b.parked - a.parked),
        (Decision::LinksRelayed, b.links_relayed - a.links_relayed),
        (Decision::ChainDropped, b.chains_dropped - a.chains_dropped),
        (Decision::HostExcluded, b.excluded - a.excluded),
        (Decision::Ignored, b.ignored - a.ignored),
    ]
}

/// Kind of a message, as a label.
pub fn kind(message: &NodeMessage) -> &'static str {
    match message {
        NodeMessage::Hello(_) => "hello",
        NodeMessage::Announce(_) => "announce",
        NodeMessage::Want(_) => "want",
        NodeMessage::Unwant(_) => "unwant",
        NodeMessage::Have(_) => "have",
        NodeMessage::Withdraw(..) => "withdraw",
        NodeMessage::Links(_) => "links",
        NodeMessage::Attested(_) => "attested",
        NodeMessage::LeaseEnded(_) => "lease_ended",
        NodeMessage::Failed(_) => "failed",
        NodeMessage::Load(_) => "load",
    }
}
