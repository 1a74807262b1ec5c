//! One node's stream: translates what it says, and hands on what it is told.

use std::pin::Pin;
use std::time::Duration;

use darter_proto::convert::ConvertError;
use darter_proto::pb::scheduler::v1 as pb;
use darter_proto::pb::scheduler::v1::scheduler_server::Scheduler;
use darter_proto::scheduler::{Hello, NodeMessage, Role};
use darter_service::net::ConnectInfo;
use darter_service::tls::CertificateRole;
use darter_types::HostId;
use futures_util::Stream;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::{Command, Handle, stopping};
use crate::resource::Connection;

/// How long a new connection may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

type Answer = Result<pb::SchedulerMessage, Status>;

/// The node's service.
#[derive(Clone, Debug)]
pub(super) struct Converse(pub(super) Handle);

#[tonic::async_trait]
impl Scheduler for Converse {
    type ConverseStream = Pin<Box<dyn Stream<Item = Answer> + Send>>;

    async fn converse(
        &self,
        request: Request<Streaming<pb::NodeMessage>>,
    ) -> Result<Response<Self::ConverseStream>, Status> {
        let info = request.extensions().get::<ConnectInfo>().cloned();
        let mut inbound = request.into_inner();
        let hello = tokio::time::timeout(HELLO_TIMEOUT, first_message(&mut inbound))
            .await
            .map_err(|_| Status::deadline_exceeded("no Hello came"))?
            .inspect_err(|_| {
                self.0.metrics.refused.inc();
            })?;
        let proved = Proved(info);
        proved.check(&hello).inspect_err(|_| {
            self.0.metrics.refused.inc();
        })?;
        let connection = self.0.next_connection();
        let host = hello.host.clone();
        // The goodbye has its place in the queue from the start, so that it can be said from `drop`.
        let permit = self
            .0
            .inbox
            .clone()
            .reserve_owned()
            .await
            .map_err(|_| stopping())?;
        let (sender, outbound) = mpsc::channel(self.0.messages_per_host_max);
        self.0.tell(Command::Hello(connection, hello, sender)).await?;
        let conversation = Conversation {
            handle: self.0.clone(),
            proved,
            inbound,
            outbound,
            goodbye: Goodbye {
                permit: Some(permit),
                connection,
                host,
            },
        };
        let stream = futures_util::stream::unfold(Some(conversation), next_answer);
        Ok(Response::new(Box::pin(stream)))
    }
}

/// What the connection's certificate says; nothing without TLS, where a node is what it says.
struct Proved(Option<ConnectInfo>);

impl Proved {
    /// Whether a node may be what it says: its name, the address that others are sent to, its role.
    fn check(&self, hello: &Hello) -> Result<(), Status> {
        let Some(info) = &self.0 else {
            return Err(Status::internal("the connection is not known"));
        };
        let address = hello
            .address
            .rsplit_once(':')
            .map_or(hello.address.as_str(), |(host, _)| host);
        let address = address.trim_matches(['[', ']']);
        let wrong = if !info.may_be(hello.host.as_str()) {
            format!("{}, which the node says to be", hello.host)
        } else if !info.may_be(address) {
            format!("{address}, where the node says to be reached")
        } else if hello.role == Role::Seed && !info.may_act_as(CertificateRole::Seed) {
            format!(
                "a seed, as which the node wants to act: it lacks {}",
                CertificateRole::Seed.uri()
            )
        } else {
            return Ok(());
        };
        tracing::warn!(peer = %hello.host, "a node's certificate is not for {wrong}");
        Err(Status::permission_denied(format!(
            "the certificate is not for {wrong}"
        )))
    }
}

async fn first_message(inbound: &mut Streaming<pb::NodeMessage>) -> Result<Hello, Status> {
    match inbound.message().await?.map(NodeMessage::try_from).transpose()? {
        Some(NodeMessage::Hello(hello)) => Ok(hello),
        Some(_) => Err(Status::failed_precondition("the first message must be Hello")),
        None => Err(Status::failed_precondition("the stream ended without Hello")),
    }
}

/// One node's stream.
struct Conversation {
    handle: Handle,
    proved: Proved,
    inbound: Streaming<pb::NodeMessage>,
    outbound: mpsc::Receiver<Answer>,
    goodbye: Goodbye,
}

/// Tells the owner that the stream is gone, however it ended.
struct Goodbye {
    permit: Option<mpsc::OwnedPermit<Command>>,
    connection: Connection,
    host: HostId,
}

impl Drop for Goodbye {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            permit.send(Command::Gone(self.connection, self.host.clone()));
        }
    }
}

/// The next message for the node. Meanwhile what the node says is handed on, so that one future serves both
/// directions and nothing has to be spawned.
async fn next_answer(conversation: Option<Conversation>) -> Option<(Answer, Option<Conversation>)> {
    let mut conversation = conversation?;
    loop {
        tokio::select! {
            biased;
            answer = conversation.outbound.recv() => {
                // A refusal is the last that it says.
                return match answer? {
                    Ok(message) => Some((Ok(message), Some(conversation))),
                    Err(status) => Some((Err(status), None)),
                };
            }
            said = conversation.inbound.message() => {
                // A broken stream needs no answer.
                let message = said.ok()??;
                if let Err(status) = conversation.hand_on(message).await {
                    return Some((Err(status), None));
                }
            }
        }
    }
}

impl Conversation {
    async fn hand_on(&self, message: pb::NodeMessage) -> Result<(), Status> {
        let message = match NodeMessage::try_from(message) {
            Ok(message) => message,
            // A newer release's: it must do without.
            Err(ConvertError::UnknownMessage) => return Ok(()),
            Err(error) => {
                self.handle.metrics.refused.inc();
                tracing::warn!(peer = %self.goodbye.host, %error, "node sent a message that is refused");
                return Err(error.into());
            }
        };
        if let NodeMessage::Hello(hello) = &message {
            self.proved.check(hello).inspect_err(|_| {
                self.handle.metrics.refused.inc();
            })?;
        }
        let Goodbye { connection, host, .. } = &self.goodbye;
        self.handle
            .tell(Command::Message(*connection, host.clone(), message))
            .await
    }
}
