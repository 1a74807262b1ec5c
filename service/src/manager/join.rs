//! One stream to one of the managers: kept, lost, found again.

use std::sync::Arc;
use std::time::Duration;

use darter_proto::WIRE_VERSION;
use darter_proto::convert::ConvertError;
use darter_proto::limits::MESSAGE_BYTES_MAX;
use darter_proto::manager::{Instance, Membership};
use darter_proto::pb::manager::v1 as pb;
use darter_proto::pb::manager::v1::roles_client::RolesClient;
use futures_util::stream;
use rand::RngExt as _;
use rand::rngs::SmallRng;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::{Request, Streaming};

use super::ManagerConfig;
use crate::backoff::Backoff;
use crate::net::{ConnectError, Connector, KeepAlive, Network};
use crate::secret_file::{self, SecretFileError};
use crate::tls::TlsConnector;

/// How long a manager may take to say where the instance belongs.
const FIRST_ANSWER: Duration = Duration::from_secs(10);
/// How the connection is watched.
const KEEP_ALIVE: KeepAlive = KeepAlive {
    connect: Duration::from_secs(3),
    every: Duration::from_secs(10),
    answer: Duration::from_secs(10),
};
/// The first pause before another try at most, and any later one.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// Messages that wait to be sent: each has all, so that one is enough, and the one after it.
const OUTGOING_MAX: usize = 2;
/// What a manager may ask for: no storm, and no silence.
const ALIVE_MIN: Duration = Duration::from_millis(100);
const ALIVE_MAX: Duration = Duration::from_secs(600);

pub(super) struct Join {
    pub(super) config: ManagerConfig,
    pub(super) network: Arc<dyn Network>,
    pub(super) tls: Option<TlsConnector>,
    pub(super) instance: watch::Receiver<Instance>,
    pub(super) heard: watch::Sender<Option<Arc<Membership>>>,
    pub(super) rng: SmallRng,
}

#[derive(Debug, Error)]
enum JoinError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{} ({})", .0.message(), .0.code())]
    Status(#[from] tonic::Status),
    #[error("manager.joinTokenFile: {0}")]
    Token(#[from] SecretFileError),
    #[error("manager.joinTokenFile: there is no token in it, of one line")]
    NoToken,
    #[error("what it says cannot be read: {0}")]
    Convert(#[from] ConvertError),
    #[error("it says nothing for {0:?}")]
    Silent(Duration),
    #[error(
        "it speaks version {0} of the protocol, this is {WIRE_VERSION}: bring both to neighbouring releases"
    )]
    Version(u32),
    #[error("it closed the stream")]
    Closed,
}

impl Join {
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
        let count = self.config.addresses.len();
        // Not all of a cluster at the same one.
        let mut at = self.rng.random_range(0..count.max(1));
        while let Some(address) = self.config.addresses.get(at).cloned() {
            let Some((error, was_up)) = stop.run_until_cancelled(self.converse(&address)).await else {
                break;
            };
            if was_up {
                backoff.reset();
            }
            tracing::warn!(
                manager = address,
                %error,
                "no stream to the manager: going on with what it told last"
            );
            at = (at + 1) % count;
            let pause = backoff.pause(&mut self.rng);
            stop.run_until_cancelled(sleep(pause)).await;
        }
        stop.cancelled().await;
    }

    /// Holds one conversation; returns how it ended and whether it ever began.
    async fn converse(&mut self, address: &str) -> (JoinError, bool) {
        let (sender, receiver) = mpsc::channel(OUTGOING_MAX);
        // Said first: the manager answers to it.
        let _ = sender.try_send(self.instance.borrow_and_update().clone().into());
        let begun = timeout(FIRST_ANSWER, self.begin(address, receiver)).await;
        let (incoming, first) = match begun {
            Ok(Ok(begun)) => begun,
            Ok(Err(error)) => return (error, false),
            Err(_) => return (JoinError::Silent(FIRST_ANSWER), false),
        };
        tracing::info!(
            manager = address,
            cluster = first.name,
            "stream to the manager is up"
        );
        (self.listen(incoming, first, &sender).await, true)
    }

    async fn begin(
        &self,
        address: &str,
        receiver: mpsc::Receiver<pb::Instance>,
    ) -> Result<(Streaming<pb::Membership>, Membership), JoinError> {
        let connector = Connector::new(Arc::clone(&self.network), self.tls.clone());
        let channel = connector.open(address, KEEP_ALIVE).await?;
        let mut client = RolesClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let outgoing = stream::unfold(receiver, |mut receiver| async move {
            let next = receiver.recv().await?;
            Some((next, receiver))
        });
        let mut request = Request::new(outgoing);
        if let Some(token) = self.token()? {
            request.metadata_mut().insert("authorization", token);
        }
        let mut incoming = client.join(request).await?.into_inner();
        let first = incoming.message().await?.ok_or(JoinError::Closed)?;
        let first = Membership::try_from(first)?;
        if first.wire_version.abs_diff(WIRE_VERSION) > 1 {
            return Err(JoinError::Version(first.wire_version));
        }
        Ok((incoming, first))
    }

    /// Read anew for each stream, so that it can be changed without a restart.
    fn token(&self) -> Result<Option<MetadataValue<tonic::metadata::Ascii>>, JoinError> {
        let Some(file) = &self.config.join_token_file else {
            return Ok(None);
        };
        let bytes = secret_file::read(file)?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| JoinError::NoToken)?
            .trim();
        if text.is_empty() {
            return Err(JoinError::NoToken);
        }
        let value = MetadataValue::try_from(format!("Bearer {text}"));
        let mut value = value.map_err(|_| JoinError::NoToken)?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    async fn listen(
        &mut self,
        mut incoming: Streaming<pb::Membership>,
        first: Membership,
        sender: &mpsc::Sender<pb::Instance>,
    ) -> JoinError {
        let mut interval = first.alive_interval.clamp(ALIVE_MIN, ALIVE_MAX);
        self.heard.send_replace(Some(Arc::new(first)));
        let mut alive = Instant::now() + interval;
        loop {
            tokio::select! {
                biased;
                message = incoming.message() => {
                    let told = match message {
                        Ok(Some(message)) => Membership::try_from(message),
                        Ok(None) => return JoinError::Closed,
                        Err(status) => return status.into(),
                    };
                    match told {
                        Ok(told) => {
                            interval = told.alive_interval.clamp(ALIVE_MIN, ALIVE_MAX);
                            self.heard.send_replace(Some(Arc::new(told)));
                        }
                        Err(error) => return error.into(),
                    }
                }
                Ok(()) = self.instance.changed() => {
                    let said = self.instance.borrow_and_update().clone();
                    alive = Instant::now() + interval;
                    if sender.send(said.into()).await.is_err() {
                        return JoinError::Closed;
                    }
                }
                () = sleep_until(alive) => {
                    alive = Instant::now() + interval;
                    let said = self.instance.borrow().clone();
                    // Full: what waits to be sent says the same.
                    let _ = sender.try_send(said.into());
                }
            }
        }
    }
}
