//! The scheduler's protocol in checked types: what `proto/darter/scheduler/v1/scheduler.proto` says, after
//! every name was parsed and every list was bounded. The fields mean what they mean there.

use darter_types::{ChainState, Digest, HostId, Locality, OriginLocator, PieceNumber, PieceRun, TaskId};

/// What a node says.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeMessage {
    /// Who it is.
    Hello(Hello),
    /// What it holds.
    Announce(Vec<Held>),
    /// It wants a content.
    Want(Want),
    /// It does not want it any more.
    Unwant(TaskId),
    /// It got pieces.
    Have(Have),
    /// It lost pieces; no runs = all of the task.
    Withdraw(TaskId, Vec<PieceRun>),
    /// States of a chain.
    Links(Links),
    /// What pieces are that were read out of order.
    Attested(Attested),
    /// A lease is over.
    LeaseEnded(LeaseEnded),
    /// A parent failed it.
    Failed(Failed),
    /// What it is doing.
    Load(Load),
}

/// Whether a node fetches from origins on behalf of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// An ordinary node.
    Peer,
    /// A seed peer: an author of trust.
    Seed,
}

/// Who a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Version of the wire protocol that it speaks.
    pub wire_version: u32,
    /// Its name.
    pub host: HostId,
    /// Where its pieces are reached, `host:port`.
    pub address: String,
    /// Where it stands.
    pub locality: Locality,
    /// Its role at the moment.
    pub role: Role,
    /// Most bytes a second that it sends to others; `None` = no limit of its own.
    pub upload_bytes_per_second_max: Option<u64>,
    /// Its release, for people.
    pub build: String,
}

/// A content that a node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The content.
    pub task: TaskId,
    /// Its length in bytes.
    pub length: u64,
    /// The pieces that are there.
    pub runs: Vec<PieceRun>,
    /// Where it came from.
    pub origin: Option<OriginLocator>,
    /// Borders whose states the node has, the first included.
    pub states_known: u32,
}

/// How much a want matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Nobody waits for it now.
    Background,
    /// A reader waits.
    Reader,
}

/// A content that a node wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// The content.
    pub task: TaskId,
    /// Where it may be fetched.
    pub origin: OriginLocator,
    /// Its length in bytes where that is known.
    pub length: Option<u64>,
    /// Pieces that the node has.
    pub held: Vec<PieceRun>,
    /// Borders of the chain that it knows, the first included.
    pub states_known: u32,
    /// Whether the origin gives the content to anybody.
    pub public: bool,
    /// Whether a reader waits.
    pub urgency: Urgency,
    /// Lease that it holds for the task already.
    pub lease_epoch: Option<u64>,
    /// Pieces that a reader waits for, wherever the chain is.
    pub first: Vec<PieceRun>,
    /// Nothing else is wanted.
    pub on_demand: bool,
}

/// New pieces of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Have {
    /// The content.
    pub task: TaskId,
    /// Its length in bytes.
    pub length: u64,
    /// The new pieces.
    pub runs: Vec<PieceRun>,
    /// Bytes by source since the last report; `None` = the origin.
    pub fed: Vec<(Option<HostId>, u64)>,
}

/// States of a chain from their author.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Links {
    /// The content.
    pub task: TaskId,
    /// The lease under which they were computed; 0 = from a holder, without one.
    pub epoch: u64,
    /// Length of the content in bytes.
    pub length: u64,
    /// Border of the first state.
    pub first_border: u32,
    /// States of `first_border`, `first_border + 1`, ….
    pub states: Vec<ChainState>,
    /// The author proved the whole against the digest.
    pub proved: bool,
}

/// What pieces are that the holder of a lease read from the origin out of order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    /// The content.
    pub task: TaskId,
    /// The lease.
    pub epoch: u64,
    /// Length of the content in bytes.
    pub length: u64,
    /// The pieces and their SHA-256.
    pub sums: Vec<(PieceNumber, Digest)>,
}

/// How a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeaseOutcome {
    /// All was fetched.
    Done,
    /// The origin refused this caller (401, 403).
    Refused,
    /// The origin does not have it (404).
    Absent,
    /// The origin or the way to it failed.
    Failed,
    /// The content is not what its digest says.
    WrongContent,
    /// The origin changed the content while it was read: what was published of it counts no more.
    Changed,
}

/// The end of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseEnded {
    /// The content.
    pub task: TaskId,
    /// Which lease; 0 = none: what this node read contradicts the chain that others published (`WrongContent`).
    pub epoch: u64,
    /// How it ended.
    pub outcome: LeaseOutcome,
    /// HTTP status of the origin where there was one.
    pub status: Option<u16>,
}

/// What was wrong with a parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FailureReason {
    /// No connection could be made.
    Unreachable,
    /// It stopped sending.
    Silent,
    /// A piece did not link.
    WrongBytes,
    /// It does not have what it offered.
    Missing,
    /// It refused for now (busy).
    Refused,
}

/// A failed parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The content.
    pub task: TaskId,
    /// The parent.
    pub parent: HostId,
    /// What was wrong.
    pub reason: FailureReason,
    /// The piece that was asked for.
    pub piece: PieceNumber,
}

/// What a node is doing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// Bytes a second that it sends to other nodes.
    pub upload_bytes_per_second: u64,
    /// Piece requests that it is answering.
    pub uploads_running: u32,
    /// Piece requests that wait.
    pub uploads_waiting: u32,
    /// Bytes that its store can still take.
    pub store_free_bytes: u64,
    /// What pieces of each parent cost lately.
    pub costs: Vec<PieceCost>,
}

/// What pieces of one parent cost lately.
#[derive(Clone, Debug, PartialEq)]
pub struct PieceCost {
    /// The parent.
    pub parent: HostId,
    /// Mean time a byte in nanoseconds; finite and not negative.
    pub nanos_per_byte: f64,
    /// Pieces in the mean.
    pub pieces: u32,
}

/// What a scheduler says.
#[derive(Clone, Debug, PartialEq)]
pub enum SchedulerMessage {
    /// The first answer.
    Welcome(Welcome),
    /// Parents for a task; replaces those that were sent before.
    Parents(Parents),
    /// Fetch from the origin.
    SourceLease(SourceLease),
    /// Stop fetching from the origin under this epoch.
    LeaseRevoked(TaskId, u64),
    /// States of a chain.
    Links(KnownLinks),
    /// What pieces are, by authors of trust: the content, its length in bytes, the pieces and their SHA-256.
    Attestations(TaskId, u64, Vec<(PieceNumber, Digest)>),
    /// Ask the origin yourself; the text says why.
    GoAlone(TaskId, String),
    /// Delete the content.
    Drop(TaskId),
    /// Another scheduler owns the task.
    Redirect(Redirect),
    /// Send `Links` with epoch 0 from this border on.
    SendLinks(TaskId, u32),
    /// Authors disagree: forget the states that were relayed, and pieces that rest on them alone.
    ForgetLinks(TaskId),
}

/// The first answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Version of the wire protocol that the scheduler speaks.
    pub wire_version: u32,
    /// All schedulers of the cluster, sorted.
    pub schedulers: Vec<String>,
    /// Names this life of the scheduler.
    pub incarnation: u64,
}

/// Parents for a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Parents {
    /// The content.
    pub task: TaskId,
    /// Its length in bytes where that is known.
    pub length: Option<u64>,
    /// Best first.
    pub parents: Vec<Parent>,
}

/// A node to fetch from.
#[derive(Clone, Debug, PartialEq)]
pub struct Parent {
    /// Its name.
    pub host: HostId,
    /// Where its pieces are reached, `host:port`.
    pub address: String,
    /// Whether it is a seed peer.
    pub seed: bool,
    /// How good it looked; higher is better.
    pub score: f64,
}

/// The right and duty to fetch from the origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceLease {
    /// The content.
    pub task: TaskId,
    /// Where it is.
    pub origin: OriginLocator,
    /// Names this lease.
    pub epoch: u64,
    /// Length in bytes where somebody knows it.
    pub length: Option<u64>,
    /// Pieces to fetch; empty = all that the node lacks.
    pub runs: Vec<PieceRun>,
    /// Pieces that somebody waits for, to be read first and out of order.
    pub first: Vec<PieceRun>,
    /// Nothing but `first` is to be fetched; under an epoch that is held already, besides what it is for.
    pub on_demand: bool,
}

/// States of a chain, as the scheduler relays them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownLinks {
    /// The content.
    pub task: TaskId,
    /// Its length in bytes.
    pub length: u64,
    /// Border of the first state.
    pub first_border: u32,
    /// States of `first_border`, `first_border + 1`, ….
    pub states: Vec<ChainState>,
    /// Whether their author is one of trust.
    pub trusted: bool,
}

/// Where a task is looked after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The content.
    pub task: TaskId,
    /// The scheduler that owns it.
    pub scheduler: String,
    /// The whole ring.
    pub schedulers: Vec<String>,
}
