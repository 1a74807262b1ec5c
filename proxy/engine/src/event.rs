//! What happens to a task.

use darter_types::{ByteRange, ChainState, Digest, HostId, PieceNumber, PieceRun};

/// Names one reader of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReaderId(pub u64);

/// Names one request that the task asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FetchId(pub u64);

/// A node that may be fetched from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentOffer {
    /// Its name.
    pub host: HostId,
    /// Where its pieces are reached, `host:port`.
    pub address: String,
}

/// What was wrong with a parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParentFailure {
    /// No connection could be made, or it broke.
    Unreachable,
    /// It stopped sending.
    Silent,
    /// A piece did not link: never asked again.
    WrongBytes,
    /// It does not have what it offered.
    Missing,
    /// It refused for now.
    Busy,
}

/// What was wrong with the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginFailure {
    /// It refuses every credential that the task has (401, 403).
    Refused,
    /// It does not have the content (404).
    Absent,
    /// Its bytes are not those of the digest, or contradict an earlier answer.
    WrongContent,
    /// It, or the way to it, failed; trying again may help.
    Transient,
    /// It was asked as often as it may be and gave nothing: who waits is sent elsewhere rather than kept waiting.
    Exhausted,
}

/// Why a request ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchFailure {
    /// A request to a parent.
    Parent(ParentFailure),
    /// A request to the origin.
    Origin(OriginFailure),
    /// The store could not take the bytes.
    Store,
}

/// What happens to a task.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Somebody reads `range`.
    ReaderOpened {
        /// The reader.
        reader: ReaderId,
        /// What it will read, in order.
        range: ByteRange,
        /// It checks what it reads, so that a part may be given to it before the whole is proved, whatever
        /// [`crate::Release`] says.
        checks: bool,
    },
    /// A reader took everything before `offset`.
    ReaderMoved {
        /// The reader.
        reader: ReaderId,
        /// Offset of the next byte that it needs.
        offset: u64,
    },
    /// A reader is done or gone.
    ReaderClosed {
        /// The reader.
        reader: ReaderId,
    },
    /// The length of the content became known from a source that may be believed (a manifest, the origin).
    LengthKnown(u64),
    /// A scheduler looks after the task.
    SchedulerUp,
    /// No scheduler can be reached.
    SchedulerDown,
    /// The scheduler's choice of parents; replaces the one before.
    ParentsOffered(Vec<ParentOffer>),
    /// A parent answered and will tell what it has.
    ParentAlive(HostId),
    /// A parent has these pieces (as well).
    ParentHas(HostId, Vec<PieceRun>),
    /// A parent is gone.
    ParentLost(HostId, ParentFailure),
    /// States of the chain came.
    LinksCame {
        /// Length of the content, in bytes, that they belong to.
        length: u64,
        /// Border of the first state.
        first: u32,
        /// The states.
        states: Vec<ChainState>,
        /// Whether their author is one of trust.
        trusted: bool,
    },
    /// Authors of the chain disagree: what others said of it counts no more, nor do pieces that rest on it.
    LinksForgotten,
    /// The node may and shall fetch from the origin for the cluster.
    LeaseGranted {
        /// Names the lease.
        epoch: u64,
        /// What to fetch; empty = all that is missing.
        runs: Vec<PieceRun>,
    },
    /// Under this lease, these pieces come first; where the node has no lease of that name, it is one for them alone.
    PiecesAsked {
        /// Names the lease.
        epoch: u64,
        /// What somebody waits for.
        runs: Vec<PieceRun>,
    },
    /// Attestations came, from an author of trust.
    AttestationsCame {
        /// Length of the content, in bytes, that they belong to.
        length: u64,
        /// The pieces and their SHA-256.
        sums: Vec<(PieceNumber, Digest)>,
    },
    /// The lease is over.
    LeaseRevoked {
        /// Names the lease.
        epoch: u64,
    },
    /// The scheduler cannot help.
    GoAlone,
    /// A piece came from a parent, was linked and written.
    PieceLinked {
        /// The request.
        fetch: FetchId,
        /// The piece.
        piece: PieceNumber,
    },
    /// A piece, but not the last, came whole from the origin and was written.
    OriginBorder {
        /// The request.
        fetch: FetchId,
        /// The piece.
        piece: PieceNumber,
        /// The state behind it.
        state: ChainState,
    },
    /// The last piece came from the origin.
    OriginLast {
        /// The request.
        fetch: FetchId,
        /// The digest at which the chain arrived.
        digest: Digest,
    },
    /// The origin's bytes are written up to `offset`.
    OriginBytes {
        /// The request.
        fetch: FetchId,
        /// Offset behind the last byte.
        offset: u64,
    },
    /// A piece came whole from the origin out of order and was written.
    OriginPiece {
        /// The request.
        fetch: FetchId,
        /// The piece.
        piece: PieceNumber,
        /// Its SHA-256.
        sum: Digest,
    },
    /// A piece was hashed from the state before it.
    Walked {
        /// The piece.
        piece: PieceNumber,
        /// The state behind it; `None` if it cannot be read.
        after: Option<ChainState>,
    },
    /// A request is over; what did not come is missing again.
    FetchEnded {
        /// The request.
        fetch: FetchId,
        /// Why, if not because it was answered whole.
        failure: Option<FetchFailure>,
    },
    /// A piece that the store claimed, or that was attested, was checked.
    ClaimChecked {
        /// The piece.
        piece: PieceNumber,
        /// Whether it fits its proof.
        good: bool,
    },
    /// Time passed.
    Tick,
}
