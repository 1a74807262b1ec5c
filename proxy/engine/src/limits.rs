//! The numbers that bound one download. Each has a reason; an operator may change the first three.

use std::time::Duration;

/// Bounds of one task.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Requests to all parents together, while few other contents are fetched ([`crate::Task::share_requests`]). More
    /// keeps more links busy, but every piece then takes longer to arrive whole, and only whole pieces are passed on.
    pub requests_max: usize,
    /// Requests to one parent. Two hide the way there and back: one travels while the other is served.
    pub requests_per_parent_max: usize,
    /// Parents watched at the same time.
    pub parents_max: usize,
    /// Length of a run that one request asks for, in bytes; a piece longer than that goes alone.
    pub run_bytes: u64,
    /// Most bytes that one request to the origin covers while parents are alive and the node has no lease: they may
    /// bring the rest sooner.
    pub origin_run_bytes: u64,
    /// Requests to the origin for pieces out of order, at the same time.
    pub apart_requests_max: usize,
    /// Bytes ahead of a reader of ranges that are asked for out of order; the longest such request as well.
    pub apart_bytes: u64,
    /// The longest range that is asked for out of order while the whole is being fetched in order: clients that fetch a whole
    /// content by ranges ask for longer ones, and who asks for so little waits for it.
    pub apart_range_max: u64,
    /// How long a lease for single pieces is kept while no more are asked for.
    pub lease_idle: Duration,
    /// How long the scheduler's word counts that it cannot help with single pieces: longer than it takes to be told again what
    /// is wanted.
    pub alone: Duration,
    /// Pieces ahead of each reader that are asked for in order, before rarity counts.
    pub urgent_pieces: u32,
    /// How long the scheduler may take to say anything to a want, before the origin is asked without it.
    pub scheduler_answer: Duration,
    /// How long a reader waits for a byte when no parent is alive.
    pub patience_alone: Duration,
    /// How long it waits when there were parents and all of them were given up: whoever else there is, the scheduler names
    /// in a moment.
    pub patience_lost: Duration,
    /// How long a reader waits for a byte while a parent is alive: the origin may be slow for everybody. With all jitter
    /// it stays below the five seconds for which a client's stream may stand still.
    pub patience_alive: Duration,
    /// How long a reader waits for a byte while a parent has the next piece and its link does not come, though the
    /// scheduler seems to be there. (Without a scheduler: `scheduler_answer`.)
    pub patience_links: Duration,
    /// How long a link may be late before the scheduler is asked for it: one that says nothing then is not waited for,
    /// though its stream seems to be there.
    pub links_late: Duration,
    /// How long a reader waits at most for a byte while parents tell of new pieces, so that others are served, or while
    /// other pieces than the one that it needs come: on slow links a piece takes long to reach everybody, and all would fall upon the origin. With all jitter it stays
    /// below the ten seconds after which the reader is sent to the origin itself, which would help nobody else.
    pub patience_news: Duration,
    /// A piece that was asked for longer ago than this, and than three usual requests take, is asked of a second
    /// parent: if a reader waits for it at once, else when nothing else is left to ask for. Out of need, of the origin.
    pub hedge_after: Duration,
    /// How long a parent that was busy or broke off is not asked again.
    pub parent_pause: Duration,
    /// How long a parent that was unreachable, silent or lost is left out while it is still offered; doubled each
    /// time. One that sent wrong bytes does not come back.
    pub parent_return: Duration,
    /// Times in a row that a parent may lack what it told of, or not answer while its news still come, before it is
    /// given up.
    pub parent_failures_max: u32,
    /// Pieces of an earlier life that are read back and linked at the same time.
    pub checks_max: usize,
    /// How often the origin may fail without a new byte before the task fails.
    pub origin_failures_max: u32,
    /// First pause after a failure of the origin; doubled each time.
    pub origin_pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            requests_max: 8,
            requests_per_parent_max: 2,
            parents_max: 12,
            run_bytes: 512 * 1024,
            origin_run_bytes: 4 * 1024 * 1024,
            apart_requests_max: 4,
            apart_bytes: 8 * 1024 * 1024,
            apart_range_max: 2 * 1024 * 1024,
            lease_idle: Duration::from_secs(10),
            alone: Duration::from_secs(8),
            urgent_pieces: 2,
            scheduler_answer: Duration::from_millis(300),
            patience_alone: Duration::from_millis(700),
            patience_lost: Duration::from_millis(400),
            patience_alive: Duration::from_secs(4),
            patience_links: Duration::from_secs(1),
            links_late: Duration::from_millis(100),
            patience_news: Duration::from_secs(8),
            hedge_after: Duration::from_secs(1),
            parent_pause: Duration::from_millis(300),
            parent_return: Duration::from_secs(5),
            parent_failures_max: 3,
            checks_max: 4,
            origin_failures_max: 3,
            origin_pause: Duration::from_millis(200),
        }
    }
}
