//! One content's download as a pure state machine: [`Event`] in, [`Action`]s out.
//!
//! The [`Task`] knows which pieces are here, which are under way, which parent has what, which reader waits
//! where and whether the origin may be asked. It does no I/O, reads no clock and draws randomness only from the
//! generator that it was given, so the same events give the same actions. The shell (`proxy/src/pull`) performs
//! what it asks for.
//!
//! Start reading at [`Task::apply`]. `picker` says which piece is asked from whom, `gate` when the origin is
//! asked, [`Offers`] which pieces a holder of an origin lease shows to which child, `invariant` what must hold
//! after every event.

mod action;
mod content;
mod event;
mod gate;
mod invariant;
mod limits;
mod offers;
mod parents;
mod picker;
mod task;

pub use action::{Action, Failure};
pub use event::{Event, FetchFailure, FetchId, OriginFailure, ParentFailure, ParentOffer, ReaderId};
pub use limits::Limits;
pub use offers::Offers;
pub use task::{Release, Settings, Task};
