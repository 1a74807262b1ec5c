//! What a task asks its shell to do.

use darter_types::{ChainState, Digest, HostId, PieceNumber, PieceProof, PieceRun};

use crate::{FetchId, ParentFailure};

/// Why a task gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The origin refuses every caller that there is.
    Refused,
    /// The origin does not have it.
    Absent,
    /// Bytes and digest do not agree: nothing of it may stay in the store.
    WrongContent,
    /// Neither the origin nor a parent gives the bytes.
    Unavailable,
    /// The store cannot take the bytes: read past it.
    Store,
}

/// What the shell shall do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Tell the scheduler what is wanted and held.
    Want,
    /// Tell it which pieces are waited for. What is held it knows.
    WantPieces,
    /// Listen to what a parent has.
    Watch {
        /// The parent.
        host: HostId,
        /// Where it is.
        address: String,
    },
    /// Stop listening to a parent.
    Unwatch(HostId),
    /// Ask a parent for a run of pieces; check each by its proof, write it, report it.
    FetchPeer {
        /// Names the request.
        fetch: FetchId,
        /// The parent.
        host: HostId,
        /// Where it is.
        address: String,
        /// What to ask for.
        run: PieceRun,
        /// One for each piece of the run.
        proofs: Vec<PieceProof>,
    },
    /// Read a run from the origin, hash it from `before`, write it, report each border.
    FetchOrigin {
        /// Names the request.
        fetch: FetchId,
        /// What to read.
        run: PieceRun,
        /// The state at its first border.
        before: ChainState,
    },
    /// Read a run from the origin out of order: hash each piece alone, write it, report it.
    FetchApart {
        /// Names the request.
        fetch: FetchId,
        /// What to read.
        run: PieceRun,
    },
    /// A request to the origin needs to read no farther than before this piece.
    Shorten {
        /// The request.
        fetch: FetchId,
        /// The first piece that is not needed.
        end: PieceNumber,
    },
    /// Stop a request; its end need not be reported.
    Cancel(FetchId),
    /// Link a piece again that the store claims to have.
    Check {
        /// The piece.
        piece: PieceNumber,
        /// Its proof.
        proof: PieceProof,
    },
    /// Hash a piece that is here from the state before it, and report the state behind it.
    Walk {
        /// The piece; never the last one.
        piece: PieceNumber,
        /// The state before it.
        before: ChainState,
    },
    /// A piece is here, but attested only: keep what attests it, tell whoever asks. Readers of ranges may have it (by
    /// [`crate::Release::Proved`], those who check what they read), readers of the whole may not. Once it is linked, [`Action::Have`] follows.
    HaveApart {
        /// The piece.
        piece: PieceNumber,
        /// Its SHA-256.
        sum: Digest,
        /// Which parent it came from; `None` = the origin, or it was here before.
        from: Option<HostId>,
    },
    /// Tell the scheduler what a piece is that this node read from the origin out of order, or that was asked for by name.
    Attest {
        /// The lease under which it is told.
        epoch: u64,
        /// The piece.
        piece: PieceNumber,
        /// Its SHA-256.
        sum: Digest,
    },
    /// Tell the scheduler what a piece is that this node read from the origin in order: by the SHA-256 of its stored bytes, if
    /// they still link.
    AttestStored {
        /// The lease under which it is told.
        epoch: u64,
        /// The piece.
        piece: PieceNumber,
        /// The states around it.
        proof: PieceProof,
    },
    /// The content is cut and this many bytes long: make room for it.
    Prepare {
        /// Its length in bytes.
        length: u64,
    },
    /// A piece is linked: mark it present and tell whoever asks.
    Have {
        /// The piece.
        piece: PieceNumber,
        /// Which parent it came from; `None` = the origin, or it was here before.
        from: Option<HostId>,
        /// [`Action::HaveApart`] said of it before that it is here.
        was_apart: bool,
    },
    /// Readers may have these pieces.
    Release(PieceRun),
    /// Readers of ranges, by [`crate::Release::Proved`] those who check what they read, may have this piece, though the whole is
    /// not proved.
    ReleaseToRanges(PieceNumber),
    /// Readers may have the bytes of the piece that is just arriving, up to here.
    ReleaseBytes {
        /// Offset behind the last byte.
        offset: u64,
    },
    /// Bytes came from the origin that readers may not have yet: those who wait for them wait for something.
    BytesCame,
    /// A chain of others was wrong, and nothing of it was given away: nothing that others say of this content is believed any
    /// more, and the task fetches it from the origin alone. [`Action::Forget`] follows.
    OriginOnly,
    /// States of the chain that an author of trust vouched for, or that belong to a content which is about to be
    /// [`Action::Proved`]: keep them, for a later [`crate::Task::restore`] trusts them. They join those kept before.
    KeepStates {
        /// Border of the first.
        first: u32,
        /// The states.
        states: Vec<ChainState>,
    },
    /// These pieces, and the kept states from a border on, rest on a chain that counts no more: take them from readers,
    /// from other nodes and from the store, before anything else is done.
    Forget {
        /// The pieces that were present.
        runs: Vec<PieceRun>,
        /// Claimed pieces whose link was being checked by that chain.
        claims: Vec<PieceNumber>,
        /// Border of the first state that goes.
        first: u32,
    },
    /// Publish states that this node computed from the origin.
    Publish {
        /// The lease under which it did; `None` = on its own.
        epoch: Option<u64>,
        /// Border of the first.
        first: u32,
        /// The states.
        states: Vec<ChainState>,
    },
    /// Tell the scheduler that a parent failed.
    Blame {
        /// The parent.
        host: HostId,
        /// How.
        failure: ParentFailure,
        /// The piece that was asked for.
        piece: PieceNumber,
    },
    /// The lease is over: `None` = all was fetched.
    EndLease {
        /// Which.
        epoch: u64,
        /// Why.
        failure: Option<Failure>,
    },
    /// Every piece is linked: the digest is proved. The task is done.
    Proved,
    /// The task gives up.
    Fail(Failure),
}
