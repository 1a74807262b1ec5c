//! One instance's stream: who it is, where it belongs, and what it is told until it goes.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use darter_proto::WIRE_VERSION;
use darter_proto::manager::{Instance, MemberRole, Membership};
use darter_proto::pb::manager::v1 as pb;
use darter_proto::pb::manager::v1::roles_server;
use darter_service::net::{ConnectInfo, PeerAddr};
use darter_service::tls::CertificateRole;
use futures_util::Stream;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::directory::{Placed, Snapshot, View};
use crate::api::Shared;
use crate::auth::secret;
use crate::config::RolesConfig;
use crate::placement::About;
use crate::store::clusters::Cluster;
use crate::store::join_tokens::JoinToken;
use crate::store::{Millis, StoreError, instances};

/// How long a new stream may take to say who it is.
const FIRST_MESSAGE: Duration = Duration::from_secs(10);
/// How long it may take to read a cluster that was made a moment ago, for an instance that comes at once.
const READ_WITHIN: Duration = Duration::from_secs(2);
/// An instance says that it is alive so often in the time that it may be silent.
const ALIVE_PER_SILENCE: u32 = 3;
/// Messages that wait for one instance: each has all.
const OUTGOING_MAX: usize = 1;

type Answer = Result<pb::Membership, Status>;

/// The service.
#[derive(Clone, Debug)]
pub(super) struct Joins {
    shared: Shared,
    view: View,
    plain: bool,
    silence_max: Duration,
    stop: CancellationToken,
}

/// With what somebody came.
#[derive(Clone, Debug)]
enum Shown {
    Certificate,
    /// A join token, and the hash by which the database knows it.
    Token(JoinToken, String),
}

impl Joins {
    pub(super) fn new(shared: Shared, view: View, config: &RolesConfig, stop: CancellationToken) -> Self {
        Self {
            shared,
            view,
            plain: config.plain,
            silence_max: config.silence_max.as_duration(),
            stop,
        }
    }

    /// Whether whoever connected may join: by a certificate, or by a token that nobody could listen to.
    async fn admit(&self, info: &ConnectInfo, authorization: Option<&str>) -> Result<Shown, Status> {
        let token = authorization.and_then(|value| value.strip_prefix("Bearer "));
        if info.identity.is_some() && token.is_none() {
            return Ok(Shown::Certificate);
        }
        let is_here = info.peer.is_some_and(|peer| match peer {
            PeerAddr::Ip(address) => address.ip().to_canonical().is_loopback(),
            _ => true,
        });
        if info.identity.is_none() && !is_here && !self.plain {
            return Err(Status::failed_precondition(
                "the connection is not encrypted: set roles.tls of the manager and tls of whoever joins, or roles.plain on \
                 a network that you trust",
            ));
        }
        let Some(token) = token else {
            return Err(Status::unauthenticated(
                "show a join token, or a certificate: set manager.joinTokenFile or the section tls",
            ));
        };
        let hash = self
            .shared
            .key
            .hash(secret::JOIN, token)
            .ok_or_else(no_such_token)?;
        let found = self.find_token(&hash).await?;
        Ok(Shown::Token(found, hash))
    }

    /// As the database has it now.
    async fn find_token(&self, hash: &str) -> Result<JoinToken, Status> {
        let found = self.shared.store.join_token(hash, self.shared.now()).await;
        found.map_err(|error| match error {
            StoreError::Absent => no_such_token(),
            _ => no_database(),
        })
    }
}

#[tonic::async_trait]
impl roles_server::Roles for Joins {
    type JoinStream = Pin<Box<dyn Stream<Item = Answer> + Send>>;

    async fn join(
        &self,
        request: Request<Streaming<pb::Instance>>,
    ) -> Result<Response<Self::JoinStream>, Status> {
        let begun = self.begin(request).await;
        if let Err(status) = &begun {
            tracing::warn!(reason = status.message(), "somebody did not join");
            self.shared.metrics.join_refused();
        }
        begun
    }
}

impl Joins {
    async fn begin(
        &self,
        request: Request<Streaming<pb::Instance>>,
    ) -> Result<Response<<Self as roles_server::Roles>::JoinStream>, Status> {
        let info = request.extensions().get::<ConnectInfo>().cloned();
        let info = info.ok_or_else(|| Status::internal("the connection is not known"))?;
        let authorization = request.metadata().get("authorization");
        let authorization = authorization.and_then(|value| value.to_str().ok());
        let shown = self.admit(&info, authorization).await?;
        let mut inbound = request.into_inner();
        let first = timeout(FIRST_MESSAGE, next(&mut inbound))
            .await
            .map_err(|_| Status::deadline_exceeded("nothing was said"))??;
        let mut member = Stay {
            joins: self.clone(),
            shown,
            stream: self.view.next_stream(),
            info,
            instance: first,
            placed: Placed::default(),
            told: None,
            kept: None,
            heard: self.shared.now(),
        };
        member.check()?;
        member.claim().await?;
        let (sender, outbound) = mpsc::channel(OUTGOING_MAX);
        let stay = async move {
            if let Err(status) = member.stay(inbound, &sender).await {
                let _ = sender.try_send(Err(status));
            }
        };
        // It runs inside the answer, and so ends with the connection.
        Ok(Response::new(Box::pin(Conversation {
            stay: Some(Box::pin(stay)),
            outbound,
        })))
    }
}

/// The answer's stream: what drives the stay, and what it sends.
struct Conversation {
    stay: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    outbound: mpsc::Receiver<Answer>,
}

impl Stream for Conversation {
    type Item = Answer;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Answer>> {
        if let Some(stay) = &mut self.stay
            && stay.as_mut().poll(cx).is_ready()
        {
            self.stay = None;
        }
        self.outbound.poll_recv(cx)
    }
}

async fn next(inbound: &mut Streaming<pb::Instance>) -> Result<Instance, Status> {
    match inbound.message().await? {
        Some(message) => Ok(Instance::try_from(message)?),
        None => Err(Status::cancelled("the stream ended")),
    }
}

/// What an instance was told last; what is long belongs to the snapshot.
#[derive(PartialEq, Eq)]
struct Told {
    cluster: String,
    name: String,
    reason: String,
    schedulers: Arc<[String]>,
    configuration: Option<Arc<(u64, String)>>,
}

impl Told {
    fn membership(&self, alive_interval: Duration) -> Membership {
        Membership {
            wire_version: WIRE_VERSION,
            cluster: self.cluster.clone(),
            name: self.name.clone(),
            reason: self.reason.clone(),
            schedulers: self.schedulers.to_vec(),
            configuration: self.configuration.as_deref().cloned(),
            alive_interval,
        }
    }
}

/// An instance for as long as its stream lasts.
struct Stay {
    joins: Joins,
    shown: Shown,
    /// Names this stream among those of the manager.
    stream: u64,
    info: ConnectInfo,
    instance: Instance,
    placed: Placed,
    told: Option<Told>,
    kept: Option<instances::Instance>,
    heard: Millis,
}

impl Stay {
    /// Whether the instance may be what it says.
    fn check(&self) -> Result<(), Status> {
        let instance = &self.instance;
        if instance.wire_version.abs_diff(WIRE_VERSION) > 1 {
            return Err(Status::failed_precondition(format!(
                "it speaks version {} of the protocol, the manager {WIRE_VERSION}: bring both to neighbouring releases",
                instance.wire_version
            )));
        }
        // Who shows a token as well is bound to its certificate all the same; without one anybody is what it says.
        let info = &self.info;
        let needs = match instance.role {
            MemberRole::Peer => CertificateRole::Peer,
            MemberRole::Seed => CertificateRole::Seed,
            MemberRole::Scheduler => CertificateRole::Scheduler,
        };
        // A scheduler is known by its address, a node by its name.
        let name = match instance.role {
            MemberRole::Scheduler => host_of(&instance.address),
            MemberRole::Peer | MemberRole::Seed => instance.host.as_str(),
        };
        if !info.may_be(name) || !info.may_be(host_of(&instance.address)) {
            return Err(Status::permission_denied(format!(
                "the certificate is not for {name} at {}, which it says to be",
                instance.address
            )));
        }
        if needs != CertificateRole::Peer && !info.may_act_as(needs) {
            return Err(Status::permission_denied(format!(
                "the certificate is not for a {needs}: it lacks {}",
                needs.uri()
            )));
        }
        Ok(())
    }

    /// A token of one cluster takes nobody from another: whose stream is up stays what it is.
    async fn claim(&self) -> Result<(), Status> {
        let Shown::Token(token, _) = &self.shown else {
            return Ok(());
        };
        if token.cluster.is_empty() {
            return Ok(());
        }
        let (shared, id) = (&self.joins.shared, id(&self.instance));
        let since = shared.now().saturating_sub(shared.silence_max);
        let found = shared.store.is_elsewhere(&id, &token.cluster, since).await;
        if found.map_err(|_| no_database())? {
            return Err(Status::permission_denied(format!(
                "{id} is a member of another cluster than that of the join token, {}: end it there first",
                token.name
            )));
        }
        Ok(())
    }

    async fn stay(
        &mut self,
        mut inbound: Streaming<pb::Instance>,
        sender: &mpsc::Sender<Answer>,
    ) -> Result<(), Status> {
        let mut snapshots = self.joins.view.snapshot.clone();
        let mut silent = Instant::now() + self.joins.silence_max;
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        if self.place(&snapshot).is_err() {
            self.joins.view.read_soon();
            // Nothing new: then it is true that there is no cluster for it.
            let _ = timeout(READ_WITHIN, snapshots.changed()).await;
        }
        loop {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            self.check_token(&snapshot).await?;
            if let Some(news) = self.settle(&snapshot)? {
                sender.send(Ok(news.into())).await.map_err(|_| gone())?;
            }
            self.wait(&mut inbound, &mut snapshots, &mut silent).await?;
        }
    }

    /// Until there is something to settle. The instance may be silent until `silent`, whatever else happens.
    async fn wait(
        &mut self,
        inbound: &mut Streaming<pb::Instance>,
        snapshots: &mut watch::Receiver<Arc<Snapshot>>,
        silent: &mut Instant,
    ) -> Result<(), Status> {
        let stop = self.joins.stop.clone();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Status::unavailable("the manager is stopping")),
                changed = snapshots.changed() => return changed.map_err(|_| gone()),
                // What was read of a message stays in the stream when another branch is taken.
                said = next(inbound) => {
                    *silent = Instant::now() + self.joins.silence_max;
                    if self.hear(said?)? {
                        return Ok(());
                    }
                }
                () = sleep_until(*silent) => {
                    return Err(Status::deadline_exceeded("it was silent for too long"));
                }
            }
        }
    }

    /// Whether what the instance says is new, or nobody counts as it any more.
    fn hear(&mut self, said: Instance) -> Result<bool, Status> {
        let id = id(&said);
        if id != self::id(&self.instance) {
            return Err(Status::invalid_argument(
                "an instance has one name for as long as its stream lasts",
            ));
        }
        self.heard = self.joins.shared.now();
        let is_without = self.joins.view.is_without(&id);
        if is_without {
            self.kept = None;
        }
        let is_new = said != self.instance;
        self.instance = said;
        self.check()?;
        Ok(is_new || is_without)
    }

    /// Whether the token that opened the stream is still good.
    async fn check_token(&self, snapshot: &Snapshot) -> Result<(), Status> {
        let Shown::Token(token, hash) = &self.shown else {
            return Ok(());
        };
        if !snapshot.tokens.contains(&token.id) {
            // Over, or made so lately that it was not read yet: the database knows.
            self.joins.find_token(hash).await?;
        }
        Ok(())
    }

    /// Keeps what the instance is now, if that is new, and gives what it is to be told, if that is.
    fn settle(&mut self, snapshot: &Snapshot) -> Result<Option<Membership>, Status> {
        let (cluster, reason) = self.place(snapshot)?;
        let told = Told {
            cluster: cluster.id.clone(),
            name: cluster.name.clone(),
            reason: reason.clone(),
            schedulers: snapshot.schedulers.get(&cluster.id).cloned().unwrap_or_default(),
            configuration: snapshot.configurations.get(&cluster.id).cloned(),
        };
        let kept = self.row(&cluster.id, reason);
        let is_new = self.kept.as_ref().is_none_or(|before| {
            let same = instances::Instance {
                joined: before.joined,
                seen: before.seen,
                ..kept.clone()
            };
            *before != same
        });
        if is_new {
            self.joins.view.put(kept.clone(), self.stream);
            self.kept = Some(kept);
        }
        if self.told.as_ref() == Some(&told) {
            return Ok(None);
        }
        let news = told.membership(self.joins.silence_max / ALIVE_PER_SILENCE);
        self.told = Some(told);
        Ok(Some(news))
    }

    fn place<'s>(&mut self, snapshot: &'s Snapshot) -> Result<(&'s Cluster, String), Status> {
        let clusters = &snapshot.clusters;
        if let Shown::Token(token, _) = &self.shown
            && !token.cluster.is_empty()
        {
            let found = clusters.all.iter().find(|cluster| cluster.id == token.cluster);
            let found = found.ok_or_else(|| Status::not_found("the join token's cluster is not there"))?;
            return Ok((found, format!("its join token, {}, is for it", token.name)));
        }
        let none = || Status::not_found("no cluster is for this instance, and none is the default");
        let about = self.about();
        let (at, reason) = self.placed.find(clusters, about).ok_or_else(none)?;
        let cluster = clusters.all.get(at).ok_or_else(none)?;
        Ok((cluster, reason))
    }

    /// By the address that it gives, if that is one, else by the one that it comes from.
    fn about(&self) -> About {
        let given = host_of(&self.instance.address).parse::<IpAddr>().ok();
        let from = match self.info.peer {
            Some(PeerAddr::Ip(address)) => Some(address.ip()),
            _ => None,
        };
        let address = given.or(from).unwrap_or(IpAddr::from([127, 0, 0, 1]));
        About {
            address: address.to_canonical(),
            hostname: self.instance.host.as_str().to_owned(),
            idc: self.instance.idc.clone(),
            location: self.instance.location.clone(),
        }
    }

    fn row(&self, cluster: &str, reason: String) -> instances::Instance {
        let instance = &self.instance;
        let signed = |version: u64| i64::try_from(version).unwrap_or(i64::MAX);
        let (refused, refused_reason) = instance.refused.clone().unwrap_or_default();
        instances::Instance {
            id: id(instance),
            cluster: cluster.to_owned(),
            reason,
            role: instance.role.as_str().to_owned(),
            host: instance.host.as_str().to_owned(),
            address: instance.address.clone(),
            idc: instance.idc.clone(),
            location: instance.location.clone(),
            build: instance.build.clone(),
            state: instance.state.as_str().to_owned(),
            running: signed(instance.running),
            refused: signed(refused),
            refused_reason,
            manager: self.joins.view.life.clone(),
            joined: self.heard,
            seen: self.heard,
        }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        if let Some(kept) = &self.kept {
            self.joins.view.part(&kept.id, self.stream, self.heard);
        }
    }
}

fn id(instance: &Instance) -> String {
    match instance.role {
        MemberRole::Scheduler => format!("scheduler:{}", instance.address),
        MemberRole::Peer | MemberRole::Seed => format!("proxy:{}", instance.host),
    }
}

/// The host of `host:port`; an IPv6 address without its brackets.
fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_matches(['[', ']'])
}

fn no_such_token() -> Status {
    Status::unauthenticated("the join token is none of this manager, has ended or was removed")
}

fn no_database() -> Status {
    Status::unavailable("the manager's database does not answer")
}

fn gone() -> Status {
    Status::cancelled("the instance is gone")
}
