//! Which pieces a node that reads the origin shows to which child.
//!
//! Its upload is the narrowest place of the swarm: nobody else has what it has just fetched. So each piece is shown
//! to one child first, and to all only once every piece has gone out once; the children exchange them meanwhile
//! ("super-seeding"). With one child, or when a child does not take what it was shown, the rule gives way.

use std::collections::BTreeMap;
use std::time::Duration;

use darter_types::{HostId, Moment, PieceNumber, PieceSet};

/// How long a child may leave a piece that only it was shown and take no other, before the others see it too.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long it may leave one at most, however many others it takes: on a full link a piece's turn comes late.
const PATIENCE_MAX: Duration = Duration::from_secs(8);

/// The offers of one content.
#[derive(Debug)]
pub struct Offers {
    piece_count: u32,
    children: BTreeMap<HostId, Child>,
    /// Whom a piece was shown to, and when, until it was sent.
    outstanding: BTreeMap<PieceNumber, (HostId, Moment)>,
    /// Pieces that are there.
    have: PieceSet,
    /// Pieces that went out once.
    sent: PieceSet,
    /// Pieces that everybody sees.
    open: PieceSet,
}

#[derive(Debug)]
struct Child {
    shown: PieceSet,
    outstanding: u32,
    /// When it last took a piece that it was shown.
    took: Moment,
}

impl Offers {
    /// No child and no piece yet.
    pub fn new(piece_count: u32) -> Self {
        let none = PieceSet::new(piece_count);
        Self {
            piece_count,
            children: BTreeMap::new(),
            outstanding: BTreeMap::new(),
            have: none.clone(),
            sent: none.clone(),
            open: none,
        }
    }

    /// A child listens.
    pub fn child_joined(&mut self, child: HostId, now: Moment) {
        let shown = PieceSet::new(self.piece_count);
        self.children.insert(
            child,
            Child {
                shown,
                outstanding: 0,
                took: now,
            },
        );
        self.assign_rest(now);
    }

    /// A child is gone: what only it was shown goes to another.
    pub fn child_left(&mut self, child: &HostId, now: Moment) {
        self.children.remove(child);
        self.outstanding.retain(|_, (to, _)| to != child);
        self.assign_rest(now);
    }

    /// A piece is there.
    pub fn piece_arrived(&mut self, piece: PieceNumber, now: Moment) {
        if self.have.insert(piece) {
            self.assign(piece, now);
        }
    }

    /// A piece went out whole.
    pub fn piece_sent(&mut self, piece: PieceNumber, now: Moment) {
        self.sent.insert(piece);
        if let Some((child, _)) = self.outstanding.remove(&piece)
            && let Some(child) = self.children.get_mut(&child)
        {
            child.outstanding = child.outstanding.saturating_sub(1);
            child.took = now;
        }
        if self.sent.is_full() {
            self.open = PieceSet::full(self.piece_count);
        }
    }

    /// Opens to all what a child left lying.
    pub fn tick(&mut self, now: Moment) {
        let stale: Vec<PieceNumber> = self
            .outstanding
            .iter()
            .filter(|(_, (child, since))| self.is_stale(child, *since, now))
            .map(|(piece, _)| *piece)
            .collect();
        for piece in stale {
            if let Some((child, _)) = self.outstanding.remove(&piece) {
                if let Some(child) = self.children.get_mut(&child) {
                    child.outstanding = child.outstanding.saturating_sub(1);
                }
                self.open.insert(piece);
            }
        }
    }

    fn is_stale(&self, child: &HostId, since: Moment, now: Moment) -> bool {
        let took = self.children.get(child).map_or(since, |child| child.took);
        now.since(since.max(took)) >= PATIENCE || now.since(since) >= PATIENCE_MAX
    }

    /// Whether `child` may be told of `piece`. A child that never joined sees all.
    pub fn shows(&self, child: &HostId, piece: PieceNumber) -> bool {
        self.have.contains(piece)
            && (self.open.contains(piece)
                || self.children.len() < 2
                || self
                    .children
                    .get(child)
                    .is_none_or(|child| child.shown.contains(piece)))
    }

    fn assign_rest(&mut self, now: Moment) {
        let rest: Vec<PieceNumber> = self
            .have
            .iter()
            .filter(|piece| {
                !self.sent.contains(*piece)
                    && !self.open.contains(*piece)
                    && !self.outstanding.contains_key(piece)
            })
            .collect();
        for piece in rest {
            self.assign(piece, now);
        }
    }

    /// Shows a piece to the child with the fewest that it was shown and has not taken.
    fn assign(&mut self, piece: PieceNumber, now: Moment) {
        let neediest = self
            .children
            .iter_mut()
            .min_by_key(|(_, child)| (child.outstanding, child.shown.len()));
        if let Some((host, child)) = neediest {
            child.outstanding += 1;
            child.shown.insert(piece);
            self.outstanding.insert(piece, (host.clone(), now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn host(name: &str) -> HostId {
        name.parse().unwrap()
    }

    fn seen(offers: &Offers, child: &str) -> Vec<PieceNumber> {
        (0..offers.piece_count)
            .filter(|piece| offers.shows(&host(child), *piece))
            .collect()
    }

    fn with_children(pieces: u32, names: &[&str]) -> Offers {
        let mut offers = Offers::new(pieces);
        names
            .iter()
            .for_each(|name| offers.child_joined(host(name), Moment::START));
        (0..pieces).for_each(|piece| offers.piece_arrived(piece, Moment::START));
        offers
    }

    #[test]
    fn each_piece_is_shown_once_before_any_is_shown_twice() {
        let mut offers = with_children(6, &["a", "b", "c"]);
        let mut all: Vec<_> = ["a", "b", "c"]
            .iter()
            .flat_map(|name| seen(&offers, name))
            .collect();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3, 4, 5]);
        for piece in 0..5 {
            offers.piece_sent(piece, Moment::START);
            assert_eq!(seen(&offers, "a").len(), 2);
        }
        offers.piece_sent(5, Moment::START);
        assert_eq!(seen(&offers, "a").len(), 6);
    }

    #[test]
    fn a_single_child_sees_all() {
        assert_eq!(seen(&with_children(4, &["a"]), "a").len(), 4);
    }

    #[test]
    fn what_a_child_leaves_lying_is_shown_to_all() {
        let mut offers = with_children(4, &["a", "b"]);
        offers.tick(Moment::START + Duration::from_secs(1));
        assert_eq!(seen(&offers, "a").len(), 2);
        offers.tick(Moment::START + PATIENCE);
        assert_eq!(seen(&offers, "a").len(), 4);
    }

    #[test]
    fn a_child_that_takes_others_gets_longer_but_not_for_ever() {
        let mut offers = with_children(4, &["a", "b"]);
        let mine = seen(&offers, "a");
        let busy = Moment::START + Duration::from_millis(1900);
        offers.piece_sent(mine[0], busy);
        offers.tick(Moment::START + PATIENCE);
        assert!(
            !offers.shows(&host("b"), mine[1]),
            "a takes pieces and is given time"
        );
        offers.tick(busy + PATIENCE);
        assert!(offers.shows(&host("b"), mine[1]));

        let mut offers = with_children(4, &["a", "b"]);
        let mine = seen(&offers, "a");
        offers.piece_sent(mine[0], Moment::START + PATIENCE_MAX);
        offers.tick(Moment::START + PATIENCE_MAX);
        assert!(offers.shows(&host("b"), mine[1]));
    }

    #[test]
    fn a_child_that_leaves_frees_its_pieces() {
        let mut offers = with_children(4, &["a", "b", "c"]);
        offers.child_left(&host("a"), Moment::START);
        let mut all: Vec<_> = ["b", "c"].iter().flat_map(|name| seen(&offers, name)).collect();
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2, 3]);
    }

    proptest! {
        /// Whatever happens, every piece that is there is visible to somebody, or will be after the patience.
        #[test]
        fn no_piece_is_hidden_for_ever(steps in prop::collection::vec((0u8..5, 0u32..8, 0u8..4), 0..60)) {
            let mut offers = Offers::new(8);
            let names = ["a", "b", "c", "d"];
            let mut now = Moment::START;
            for (kind, piece, who) in steps {
                let who = host(names[usize::from(who)]);
                match kind {
                    0 => offers.child_joined(who, now),
                    1 => offers.child_left(&who, now),
                    2 => offers.piece_arrived(piece, now),
                    3 => offers.piece_sent(piece, now),
                    _ => { now = now + Duration::from_millis(700); offers.tick(now) }
                }
            }
            offers.tick(now + PATIENCE_MAX);
            for piece in offers.have.iter().filter(|piece| !offers.sent.contains(*piece)) {
                prop_assert!(offers.children.keys().all(|child| offers.shows(child, piece)));
            }
        }
    }
}
