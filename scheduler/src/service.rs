//! The scheduler on the network: one task owns the state, connections hand it what nodes say.
//!
//! [`Owner`] takes commands one at a time, lets [`Scheduler`] decide, and puts what is to be sent into each
//! node's bounded queue. It never waits for a node: one whose queue is full is disconnected, and says
//! everything again when it comes back. [`Handle`] is the other end, for the gRPC services in `converse` and
//! `query`, which only translate.

mod converse;
mod query;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use darter_proto::limits::MESSAGE_BYTES_MAX;
use darter_proto::pb::scheduler::v1 as pb;
use darter_proto::pb::scheduler::v1::query_server::QueryServer;
use darter_proto::pb::scheduler::v1::scheduler_server::SchedulerServer;
use darter_proto::scheduler::{Hello, NodeMessage, SchedulerMessage};
use darter_service::net::grpc_server;
use darter_types::{HostId, Moment, TaskId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::server::Router;
use tracing::Span;
use tracing::field::Empty;

use crate::config::Limits;
use crate::metrics::{Metrics, kind};
use crate::resource::Connection;
use crate::schedule::{Event, Outbox, Scheduler, Settings, Tally, Tuning};

/// How often time is told to the scheduler.
const TICK: Duration = Duration::from_millis(100);
/// Streams of one connection: a node has one, an operator asks one question at a time.
const STREAMS_MAX: u32 = 32;
/// What a want's span tells of its decision at most: a want changes the parents of a dozen nodes.
const DECISIONS_SHOWN_MAX: usize = 16;
/// The nodes' service, as probes name it.
pub(crate) const NAME: &str = "darter.scheduler.v1.Scheduler";

/// What goes to one node.
type ToNode = mpsc::Sender<Result<pb::SchedulerMessage, Status>>;

/// What the owner is asked.
#[derive(Debug)]
enum Command {
    Hello(Connection, Hello, ToNode),
    Message(Connection, HostId, NodeMessage),
    Gone(Connection, HostId),
    ListTasks(Option<TaskId>, usize, oneshot::Sender<pb::ListTasksResponse>),
    GetTask(TaskId, oneshot::Sender<Option<pb::GetTaskResponse>>),
    ListHosts(Option<HostId>, usize, oneshot::Sender<pb::ListHostsResponse>),
}

/// The way to the owner. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    inbox: mpsc::Sender<Command>,
    tuning: watch::Sender<Option<Tuning>>,
    connections: Arc<AtomicU64>,
    messages_per_host_max: usize,
    metrics: Metrics,
}

/// Owns the scheduler's state.
#[derive(Debug)]
pub struct Owner {
    scheduler: Scheduler,
    inbox: mpsc::Receiver<Command>,
    /// Beside the inbox, which may be full: of several the last counts.
    tuning: watch::Receiver<Option<Tuning>>,
    nodes: BTreeMap<HostId, (Connection, ToNode)>,
    metrics: Metrics,
    noted: Tally,
    started: Instant,
    outbox: Outbox,
}

/// A scheduler that starts now, and the way to it.
pub fn start(settings: Settings, limits: &Limits, metrics: Metrics) -> (Handle, Owner) {
    let (sender, inbox) = mpsc::channel(limits.messages_waiting_max);
    let (tune, tuning) = watch::channel(None);
    let handle = Handle {
        inbox: sender,
        tuning: tune,
        connections: Arc::default(),
        messages_per_host_max: limits.messages_per_host_max,
        metrics: metrics.clone(),
    };
    let owner = Owner {
        scheduler: Scheduler::new(Moment::START, settings),
        inbox,
        tuning,
        nodes: BTreeMap::new(),
        metrics,
        noted: Tally::default(),
        started: Instant::now(),
        outbox: Vec::new(),
    };
    (handle, owner)
}

impl Handle {
    /// The gRPC services.
    pub fn router(&self) -> Router {
        let scheduler = SchedulerServer::new(converse::Converse(self.clone()))
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        grpc_server(STREAMS_MAX)
            .add_service(scheduler)
            .add_service(QueryServer::new(query::Query(self.clone())))
    }

    fn next_connection(&self) -> Connection {
        Connection(self.connections.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Decides by these numbers from now on, also what waits already.
    pub(crate) fn tune(&self, tuning: Tuning) {
        self.tuning.send_replace(Some(tuning));
    }

    async fn tell(&self, command: Command) -> Result<(), Status> {
        self.inbox.send(command).await.map_err(|_| stopping())
    }
}

/// A want is a span, from when it came to what was decided at once; what is pushed later belongs to what made it possible.
fn decision(event: &Event) -> Span {
    match event {
        Event::Message(_, host, NodeMessage::Want(want)) => tracing::info_span!(
            "want",
            task = %want.task,
            registry = %want.origin.registry,
            host = %host,
            decision = Empty,
        ),
        _ => Span::none(),
    }
}

/// Who is told what.
fn decided(outbox: &Outbox) -> String {
    let told = |(host, message): &(HostId, SchedulerMessage)| {
        let what = match message {
            SchedulerMessage::Parents(parents) => format!("{} parents", parents.parents.len()),
            SchedulerMessage::SourceLease(_) => "lease".to_owned(),
            SchedulerMessage::GoAlone(_, reason) => format!("alone, {reason}"),
            SchedulerMessage::Redirect(_) => "redirect".to_owned(),
            SchedulerMessage::LeaseRevoked(..) => "lease revoked".to_owned(),
            _ => return None,
        };
        Some(format!("{host}: {what}"))
    };
    let told: Vec<String> = outbox.iter().filter_map(told).take(DECISIONS_SHOWN_MAX).collect();
    told.join("; ")
}

fn stopping() -> Status {
    Status::unavailable("the scheduler is stopping")
}

impl Owner {
    /// Runs until it is asked to stop. Connections end with it.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                // Before commands, which may come without end.
                _ = tick.tick() => self.apply(Event::Tick),
                Ok(()) = self.tuning.changed() => self.retune(),
                command = self.inbox.recv() => match command {
                    Some(command) => self.perform(command),
                    None => break,
                },
            }
        }
    }

    fn retune(&mut self) {
        let tuning = *self.tuning.borrow_and_update();
        if let Some(tuning) = tuning {
            self.scheduler.tune(tuning);
        }
    }

    fn perform(&mut self, command: Command) {
        match command {
            Command::Hello(connection, hello, to_node) => self.hello(connection, hello, to_node),
            Command::Message(connection, host, NodeMessage::Hello(hello)) => {
                if hello.host == host {
                    self.metrics.message("hello");
                    self.apply(Event::Hello(connection, hello));
                }
            }
            Command::Message(connection, host, message) => {
                self.metrics.message(kind(&message));
                self.apply(Event::Message(connection, host, message));
            }
            Command::Gone(connection, host) => {
                if self
                    .nodes
                    .get(&host)
                    .is_some_and(|(current, _)| *current == connection)
                {
                    self.nodes.remove(&host);
                }
                self.apply(Event::Disconnected(connection, host));
            }
            // Whoever asked may be gone: then nobody misses the answer.
            Command::ListTasks(after, limit, answer) => {
                let _ = answer.send(self.scheduler.list_tasks(after, limit));
            }
            Command::GetTask(task, answer) => {
                let _ = answer.send(self.scheduler.get_task(&task));
            }
            Command::ListHosts(after, limit, answer) => {
                let _ = answer.send(self.scheduler.list_hosts(after.as_ref(), limit));
            }
        }
    }

    fn hello(&mut self, connection: Connection, hello: Hello, to_node: ToNode) {
        if !self.scheduler.admits(&hello.host) {
            // The queue is new and empty.
            let _ = to_node.try_send(Err(Status::resource_exhausted("too many hosts")));
            return;
        }
        self.metrics.message("hello");
        let newer = self
            .nodes
            .get(&hello.host)
            .is_some_and(|(current, _)| *current > connection);
        if !newer {
            self.nodes.insert(hello.host.clone(), (connection, to_node));
        }
        self.apply(Event::Hello(connection, hello));
    }

    fn apply(&mut self, event: Event) {
        let before = Instant::now();
        let now = Moment::after_start(before.duration_since(self.started));
        let span = decision(&event);
        let _deciding = span.enter();
        self.scheduler.apply(now, event, &mut self.outbox);
        if !span.is_disabled() {
            span.record("decision", decided(&self.outbox));
        }
        self.metrics
            .decided(before.elapsed(), &self.scheduler, &mut self.noted);
        self.deliver(now);
    }

    /// Puts what is to be sent into the nodes' queues. A node that does not keep up is gone, which may change
    /// what others are told.
    fn deliver(&mut self, now: Moment) {
        while !self.outbox.is_empty() {
            for (host, message) in std::mem::take(&mut self.outbox) {
                let Some((connection, to_node)) = self.nodes.get(&host) else {
                    continue;
                };
                if let Err(mpsc::error::TrySendError::Full(_)) = to_node.try_send(Ok(message.into())) {
                    tracing::warn!(peer = %host, "node does not read what it is sent, disconnecting it");
                    self.metrics.slow_nodes.inc();
                    let connection = *connection;
                    self.nodes.remove(&host);
                    self.scheduler
                        .apply(now, Event::Disconnected(connection, host), &mut self.outbox);
                }
            }
        }
    }
}
