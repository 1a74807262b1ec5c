//! Which pieces a node that reads the origin shows to which child.
//!
//! Its upload is the narrowest place of the swarm: nobody else has what it has just fetched. So each piece is shown
//! to one child first, and to all only once every piece has gone out once; the children exchange them meanwhile
//! ("super-seeding"). With one child, or when a child does not take what it was shown, the rule gives way.
//!
//! When a child does not take a piece is told by what it takes instead rather than by time: where the upload is full, a piece's
//! turn comes late for every child, and to show all pieces to all would have each of them sent many times over it, later still.

use std::collections::BTreeMap;
use std::time::Duration;

use darter_types::{HostId, Moment, PieceNumber, PieceSet};

/// How long a child may take nothing before the others see what it was shown. Of spare time.
const PATIENCE: Duration = Duration::from_secs(4);
/// How much spare time one look at the uploads can tell of. Looks come when a child has heard nothing for a while, so
/// there may have been none for long, and one idle moment says nothing of all that time.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// The same of any time: over a full upload the pieces of several contents come seldom.
const PATIENCE_FULL: Duration = Duration::from_secs(60);
/// How many others a child may take first, for each that lay before it when it was shown one: it takes them in any order.
const PASSED_OVER_MAX: u32 = 6;
/// And so many in any case.
const PASSED_OVER_MIN: u32 = 16;

/// The offers of one content.
#[derive(Debug)]
pub struct Offers {
    piece_count: u32,
    children: BTreeMap<HostId, Child>,
    /// Whom a piece was shown to, and when, until it was sent.
    outstanding: BTreeMap<PieceNumber, Shown>,
    /// Pieces that are there.
    have: PieceSet,
    /// Pieces that went out once.
    sent: PieceSet,
    /// Pieces that everybody sees.
    open: PieceSet,
    /// Time that passed with uploads to spare.
    spare: Duration,
    ticked: Moment,
}

#[derive(Debug)]
struct Shown {
    child: HostId,
    since: Moment,
    /// Spare time at `since`.
    spare: Duration,
    /// Pieces that the child will have taken when this one counts as left.
    left_at: u32,
}

#[derive(Debug)]
struct Child {
    shown: PieceSet,
    outstanding: u32,
    /// Pieces that it took.
    taken: u32,
    /// When it last took one, and the spare time then.
    took: (Moment, Duration),
}

impl Offers {
    /// No child and no piece yet.
    pub fn new(piece_count: u32, now: Moment) -> Self {
        let none = PieceSet::new(piece_count);
        Self {
            piece_count,
            children: BTreeMap::new(),
            outstanding: BTreeMap::new(),
            have: none.clone(),
            sent: none.clone(),
            open: none,
            spare: Duration::ZERO,
            ticked: now,
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
                taken: 0,
                took: (now, self.spare),
            },
        );
        self.assign_rest(now);
    }

    /// A child is gone: what only it was shown goes to another.
    pub fn child_left(&mut self, child: &HostId, now: Moment) {
        self.children.remove(child);
        self.outstanding.retain(|_, shown| shown.child != *child);
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
        if let Some(shown) = self.outstanding.remove(&piece)
            && let Some(child) = self.children.get_mut(&shown.child)
        {
            child.outstanding = child.outstanding.saturating_sub(1);
            child.taken += 1;
            child.took = (now, self.spare);
        }
        if self.sent.is_full() {
            self.open = PieceSet::full(self.piece_count);
        }
    }

    /// Opens to all what a child left lying; gives how many pieces. `busy` says that no upload is to spare just now.
    pub fn tick(&mut self, now: Moment, busy: bool) -> usize {
        let passed = now.since(self.ticked);
        self.ticked = now;
        if !busy {
            self.spare += passed.min(LOOK_MAX);
        }
        let stale: Vec<PieceNumber> = self
            .outstanding
            .iter()
            .filter(|(_, shown)| self.is_stale(shown, now))
            .map(|(piece, _)| *piece)
            .collect();
        for piece in &stale {
            if let Some(shown) = self.outstanding.remove(piece) {
                if let Some(child) = self.children.get_mut(&shown.child) {
                    child.outstanding = child.outstanding.saturating_sub(1);
                }
                self.open.insert(*piece);
            }
        }
        stale.len()
    }

    fn is_stale(&self, shown: &Shown, now: Moment) -> bool {
        let Some(child) = self.children.get(&shown.child) else {
            return true;
        };
        let (took, spare) = child.took;
        let idle = now.since(shown.since.max(took));
        let idle_spare = idle.min(self.spare - shown.spare.max(spare));
        child.taken >= shown.left_at || idle_spare >= PATIENCE || idle >= PATIENCE_FULL
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
            let before = child.outstanding.saturating_mul(PASSED_OVER_MAX);
            let left_at = child.taken.saturating_add(before).saturating_add(PASSED_OVER_MIN);
            child.outstanding += 1;
            child.shown.insert(piece);
            let shown = Shown {
                child: host.clone(),
                since: now,
                spare: self.spare,
                left_at,
            };
            self.outstanding.insert(piece, shown);
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
        let mut offers = Offers::new(pieces, Moment::START);
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
        for half_second in 1..8 {
            offers.tick(Moment::START + Duration::from_millis(500 * half_second), false);
            assert_eq!(seen(&offers, "a").len(), 2);
        }
        offers.tick(Moment::START + PATIENCE, false);
        assert_eq!(seen(&offers, "a").len(), 4);
    }

    #[test]
    fn one_idle_moment_after_a_long_time_says_nothing_of_that_time() {
        let mut offers = with_children(8, &["a", "b"]);
        let mine = seen(&offers, "a");
        let later = Moment::START + Duration::from_secs(20);
        offers.piece_sent(mine[0], later);
        offers.tick(later, false);
        assert_eq!(seen(&offers, "b").len(), 4, "a took a piece just now");
        offers.tick(later + Duration::from_secs(1), false);
        assert_eq!(seen(&offers, "b").len(), 4, "and a second ago");
    }

    #[test]
    fn a_child_that_takes_others_gets_longer_but_not_for_ever() {
        let mut offers = with_children(4, &["a", "b"]);
        let mine = seen(&offers, "a");
        let busy = Moment::START + Duration::from_millis(1900);
        offers.tick(busy, false);
        offers.piece_sent(mine[0], busy);
        offers.tick(Moment::START + PATIENCE, false);
        assert!(
            !offers.shows(&host("b"), mine[1]),
            "a takes pieces and is given time"
        );
        offers.tick(busy + PATIENCE, false);
        offers.tick(busy + PATIENCE + LOOK_MAX, false);
        assert!(offers.shows(&host("b"), mine[1]));

        // One child takes piece after piece, and never its first.
        let mut offers = with_children(200, &["a", "b"]);
        let mine = seen(&offers, "a");
        let (left, taken) = mine.split_first().unwrap();
        for (count, piece) in taken.iter().enumerate() {
            offers.tick(Moment::START, true);
            let hidden = u32::try_from(count).unwrap() < PASSED_OVER_MIN;
            assert_eq!(!offers.shows(&host("b"), *left), hidden, "{count} were taken");
            offers.piece_sent(*piece, Moment::START);
        }
    }

    #[test]
    fn while_the_upload_is_full_nothing_is_left_lying() {
        let mut offers = with_children(4, &["a", "b"]);
        for second in 1..60 {
            offers.tick(Moment::START + Duration::from_secs(second), true);
            assert_eq!(seen(&offers, "a").len(), 2, "after {second} s");
        }
        offers.tick(Moment::START + PATIENCE_FULL, true);
        assert_eq!(seen(&offers, "a").len(), 4, "but not for ever");
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
            let mut offers = Offers::new(8, Moment::START);
            let names = ["a", "b", "c", "d"];
            let mut now = Moment::START;
            for (kind, piece, who) in steps {
                let who = host(names[usize::from(who)]);
                match kind {
                    0 => offers.child_joined(who, now),
                    1 => offers.child_left(&who, now),
                    2 => offers.piece_arrived(piece, now),
                    3 => offers.piece_sent(piece, now),
                    _ => { now = now + Duration::from_millis(700); let _ = offers.tick(now, piece % 2 == 0); }
                }
            }
            offers.tick(now + PATIENCE_FULL, true);
            for piece in offers.have.iter().filter(|piece| !offers.sent.contains(*piece)) {
                prop_assert!(offers.children.keys().all(|child| offers.shows(child, piece)));
            }
        }
    }
}
