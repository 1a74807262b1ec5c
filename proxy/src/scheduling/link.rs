//! One stream to one scheduler: kept, lost, found again.

use std::sync::Arc;
use std::time::Duration;

use darter_engine::Event;
use darter_proto::convert::ConvertError;
use darter_proto::limits::{HELD_MAX, MESSAGE_BYTES_MAX, RUNS_MAX};
use darter_proto::pb::scheduler::v1 as pb;
use darter_proto::pb::scheduler::v1::scheduler_client::SchedulerClient;
use darter_proto::scheduler::{Held, Hello, NodeMessage, SchedulerMessage, Welcome};
use darter_proto::{WIRE_VERSION, ring};
use darter_service::net::{ConnectError, Connector, KeepAlive};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, interval_at, sleep, timeout};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::{LinkParts, OUTGOING_MAX, Scheduling};

/// How long a scheduler may take to welcome a node.
const WELCOME: Duration = Duration::from_secs(3);
/// How the connection is watched.
const KEEP_ALIVE: KeepAlive = KeepAlive {
    connect: WELCOME,
    every: Duration::from_secs(3),
    answer: Duration::from_secs(3),
};
/// Largest pause between two tries, as a multiple of the first.
const PAUSE_FACTOR_MAX: u32 = 20;

pub(super) struct Link {
    scheduling: Scheduling,
    address: String,
    parts: LinkParts,
    rng: SmallRng,
    incarnation: Option<u64>,
    /// Tells of changes of the ring.
    rings: watch::Receiver<u64>,
}

#[derive(Debug, Error)]
enum LinkError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{0}")]
    Status(#[from] tonic::Status),
    #[error("no welcome within {0:?}")]
    NoWelcome(Duration),
    #[error(
        "it speaks version {0} of the protocol, this node {WIRE_VERSION}: bring both to neighbouring releases"
    )]
    Version(u32),
    #[error("it closed the stream")]
    Closed,
}

impl Link {
    pub(super) fn new(scheduling: Scheduling, address: String, parts: LinkParts) -> Self {
        let seed = address
            .bytes()
            .fold(parts.seed, |sum, byte| sum.rotate_left(5) ^ u64::from(byte));
        Self {
            rings: scheduling.inner.rings.subscribe(),
            scheduling,
            address,
            parts,
            rng: SmallRng::seed_from_u64(seed),
            incarnation: None,
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut failures = 0u32;
        while !stop.is_cancelled() {
            let was_up = match stop.run_until_cancelled(self.converse()).await {
                None => break,
                Some((error, was_up)) => {
                    tracing::warn!(scheduler = self.address, %error, "no stream to the scheduler");
                    was_up
                }
            };
            self.went_down();
            failures = if was_up { 0 } else { failures + 1 };
            let first: Duration = self.scheduling.inner.config.reconnect_pause.into();
            let most = first * 2u32.saturating_pow(failures).min(PAUSE_FACTOR_MAX);
            let pause = most.mul_f64(self.rng.random_range(0.5..1.0));
            stop.run_until_cancelled(sleep(pause)).await;
        }
        self.went_down();
    }

    fn went_down(&self) {
        if self.scheduling.state().up.remove(&self.address).is_some() {
            self.parts
                .pulls
                .broadcast(&Event::SchedulerDown, |task| self.owns(task));
        }
    }

    fn owns(&self, task: darter_types::TaskId) -> bool {
        ring::owner(&self.scheduling.state().ring, task) == Some(self.address.as_str())
    }

    /// Holds one conversation; returns how it ended and whether it ever began.
    async fn converse(&mut self) -> (LinkError, bool) {
        let (sender, receiver) = mpsc::channel(OUTGOING_MAX);
        match self.begin(&sender, receiver).await {
            Ok(incoming) => (self.listen(incoming, sender).await, true),
            Err(error) => (error, false),
        }
    }

    async fn begin(
        &mut self,
        sender: &mpsc::Sender<NodeMessage>,
        receiver: mpsc::Receiver<NodeMessage>,
    ) -> Result<Streaming<pb::SchedulerMessage>, LinkError> {
        let connector = Connector::new(Arc::clone(&self.parts.network), self.parts.tls.clone());
        let channel = connector.open(&self.address, KEEP_ALIVE).await?;
        let mut client = SchedulerClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        // Said first, before anything that pulls may want to say.
        let hello = self.hello();
        let _ = sender.try_send(NodeMessage::Hello(hello));
        let outgoing = ReceiverStream::new(receiver).map(pb::NodeMessage::from);
        let talk = async {
            let mut incoming = client.converse(outgoing).await?.into_inner();
            let first = incoming.message().await?.ok_or(LinkError::Closed)?;
            Ok::<_, LinkError>((incoming, first))
        };
        let (incoming, first) = timeout(WELCOME, talk)
            .await
            .map_err(|_| LinkError::NoWelcome(WELCOME))??;
        match SchedulerMessage::try_from(first).map_err(tonic::Status::from)? {
            SchedulerMessage::Welcome(welcome) => self.welcomed(&welcome, sender).await?,
            _ => return Err(LinkError::Closed),
        }
        Ok(incoming)
    }

    /// Who the node is at this moment; a later change of its role is heard by [`Self::listen`].
    fn hello(&mut self) -> Hello {
        Hello {
            role: (*self.parts.role.borrow_and_update()).into(),
            ..self.parts.hello.clone()
        }
    }

    async fn welcomed(
        &mut self,
        welcome: &Welcome,
        sender: &mpsc::Sender<NodeMessage>,
    ) -> Result<(), LinkError> {
        if welcome.wire_version.abs_diff(WIRE_VERSION) > 1 {
            return Err(LinkError::Version(welcome.wire_version));
        }
        let forgot = self
            .incarnation
            .replace(welcome.incarnation)
            .is_some_and(|was| was != welcome.incarnation);
        tracing::info!(scheduler = self.address, forgot, "stream to the scheduler is up");
        self.scheduling
            .ring_told(&self.address, &welcome.schedulers, &self.parts);
        // A change from here on is heard of by `listen`.
        self.rings.borrow_and_update();
        for batch in self.holdings() {
            // The stream is being read: this waits for room, not for ever.
            let _ = sender.send(NodeMessage::Announce(batch)).await;
        }
        self.scheduling
            .state()
            .up
            .insert(self.address.clone(), sender.clone());
        self.parts
            .pulls
            .broadcast(&Event::SchedulerUp, |task| self.owns(task));
        Ok(())
    }

    /// What the node holds of the tasks that this scheduler owns, in messages that it accepts.
    fn holdings(&self) -> Vec<Vec<Held>> {
        let mut batches = Vec::new();
        let mut batch = Vec::new();
        let mut runs_in_batch = 0;
        for (task, facts, held) in self.parts.pulls.holdings() {
            if !self.owns(task) {
                continue;
            }
            let runs: Vec<_> = held.runs().take(RUNS_MAX).collect();
            if batch.len() >= HELD_MAX || runs_in_batch + runs.len() > RUNS_MAX {
                batches.push(std::mem::take(&mut batch));
                runs_in_batch = 0;
            }
            runs_in_batch += runs.len();
            let (length, states_known) = (facts.layout.length(), self.parts.pulls.states_known(task));
            batch.push(Held {
                task,
                length,
                runs,
                origin: facts.origin,
                states_known,
            });
        }
        batches.extend((!batch.is_empty()).then_some(batch));
        batches
    }

    async fn listen(
        &mut self,
        mut incoming: Streaming<pb::SchedulerMessage>,
        sender: mpsc::Sender<NodeMessage>,
    ) -> LinkError {
        let every: Duration = self.scheduling.inner.config.load_interval.into();
        let mut loads = interval_at(Instant::now() + every, every);
        loop {
            tokio::select! {
                biased;
                message = incoming.message() => match message {
                    Ok(Some(message)) => match SchedulerMessage::try_from(message) {
                        Ok(message) => self.dispatch(message),
                        Err(ConvertError::UnknownMessage) => tracing::debug!("a newer scheduler said something else"),
                        Err(error) => return LinkError::Status(error.into()),
                    },
                    Ok(None) => return LinkError::Closed,
                    Err(status) => return LinkError::Status(status),
                },
                Ok(()) = self.parts.role.changed() => {
                    // Not one of those messages that may be dropped. The stream is being read: this waits for room.
                    let hello = self.hello();
                    let _ = sender.send(NodeMessage::Hello(hello)).await;
                }
                Ok(()) = self.rings.changed() => self.take_over(&sender).await,
                _ = loads.tick() => {
                    let _ = sender.try_send(NodeMessage::Load(self.parts.load.load()));
                }
            }
        }
    }

    /// The ring has changed: what this scheduler owns now it may never have heard of.
    async fn take_over(&self, sender: &mpsc::Sender<NodeMessage>) {
        for batch in self.holdings() {
            let _ = sender.send(NodeMessage::Announce(batch)).await;
        }
        self.parts
            .pulls
            .broadcast(&Event::SchedulerUp, |task| self.owns(task));
    }

    fn dispatch(&mut self, message: SchedulerMessage) {
        if let SchedulerMessage::Welcome(welcome) = &message {
            return self
                .scheduling
                .ring_told(&self.address, &welcome.schedulers, &self.parts);
        }
        if let SchedulerMessage::Redirect(redirect) = &message {
            self.scheduling
                .ring_told(&self.address, &redirect.schedulers, &self.parts);
        }
        super::dispatch::dispatch(&self.scheduling, &self.parts.pulls, message);
    }
}
