//! The scheduler takes a chain back: two authors of it disagree, and nobody knows which of them lied.
//!
//! What this node computed itself, from the content's first byte on, is its own word and stays. All else goes: states
//! that others published, pieces that were linked by them, requests that would link by them. What readers already got is
//! compared with the next chain ([`crate::content`]): where that one differs, their streams end short.

use darter_types::{Moment, PieceNumber, PieceRun};

use super::{Apart, Task};
use crate::Action;
use crate::content::Content;

impl Task {
    pub(super) fn links_forgotten(&mut self, now: Moment, actions: &mut Vec<Action>) {
        let Some(kept) = self.content.as_ref().map(Content::own_pieces) else {
            return;
        };
        // Requests to parents carry proofs of that chain. One to the origin began at a border of it, unless it began
        // where this node's own knowledge ends.
        // One out of order needs no border.
        self.cancel(
            |fetch| fetch.host.is_some() || (fetch.run.first > kept && fetch.apart == Apart::None),
            actions,
        );
        let claims: Vec<_> = std::mem::take(&mut self.checking).into_keys().collect();
        self.walking = None;
        let Some(content) = self.content.as_mut() else {
            return;
        };
        for piece in &claims {
            content.claimed.remove(*piece);
        }
        let runs = content.forget(kept);
        self.move_readers_back(now);
        self.gate.forget_reached();
        self.last_progress = now;
        actions.push(Action::Forget {
            runs,
            claims,
            first: kept.saturating_add(1),
        });
        // Alone, it reads all of it from the origin anyway.
        if self.gate.is_scheduler_up() && !self.gate.in_need() {
            self.last_want = Some(now);
            actions.push(Action::Want);
        }
        self.publish_trusted(actions);
    }

    /// One piece that was here is not any more.
    pub(super) fn piece_lost(&mut self, now: Moment, piece: PieceNumber, actions: &mut Vec<Action>) {
        self.move_readers_back(now);
        actions.push(Action::Forget {
            runs: vec![PieceRun::one(piece)],
            claims: Vec::new(),
            first: u32::MAX,
        });
    }
}
