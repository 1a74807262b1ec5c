//! What only the store on disk promises: files, mappings, restarts, damage.

mod behind;
mod damage;
mod kill;
mod many;

use super::record::Files;
use super::*;
use crate::conformance::{self, PIECE, PIECE_BYTES, Subject, bytes_of, facts, put, read_piece, task};
use darter_types::ByteRange;
use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use tempfile::TempDir;

fn open(dir: &Path, quota_bytes: u64) -> (DiskStore, Recovery) {
    let options = DiskOptions {
        dir: dir.to_owned(),
        quota_bytes,
        free_floor_bytes: 0,
    };
    for _ in 0..10_000 {
        match DiskStore::open(options.clone()) {
            // A process that another test has just begun holds all files of this one until it runs its own program.
            Err(OpenError::Locked { .. }) => std::thread::park_timeout(std::time::Duration::from_millis(1)),
            opened => return opened.unwrap(),
        }
    }
    panic!("{} stays locked", options.dir.display());
}

/// A disk that takes what it is given, or one that is always behind.
struct OnDisk<const SLOW: bool> {
    store: Option<DiskStore>,
    quota_bytes: u64,
    dir: TempDir,
}

impl<const SLOW: bool> OnDisk<SLOW> {
    fn open(dir: &Path, quota_bytes: u64) -> (DiskStore, Recovery) {
        match SLOW {
            true => behind::open_slow(dir, quota_bytes),
            false => open(dir, quota_bytes),
        }
    }
}

impl<const SLOW: bool> Subject for OnDisk<SLOW> {
    fn make(quota_bytes: u64) -> Self {
        let dir = TempDir::new().unwrap();
        let store = Some(Self::open(dir.path(), quota_bytes).0);
        Self {
            store,
            quota_bytes,
            dir,
        }
    }

    fn store(&self) -> &dyn PieceStore {
        self.store.as_ref().unwrap()
    }

    fn restart(&mut self) {
        self.store = None;
        let (store, recovery) = Self::open(self.dir.path(), self.quota_bytes);
        assert_eq!(
            recovery.named,
            [],
            "nothing that an orderly store leaves is dropped"
        );
        self.store = Some(store);
    }
}

#[test]
fn conforms() {
    conformance::run::<OnDisk<false>>();
}

fn data_file(store: &DiskStore, number: u8) -> PathBuf {
    store.shared.root.task_dir(task(number)).join("data")
}

#[test]
fn reads_are_slices_of_one_mapping_that_the_registry_knows() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open(dir.path(), u64::MAX);
    let mappings = store.mappings();
    let stored = store.open(task(1), &facts(4 * PIECE, true)).unwrap();
    assert_eq!(mappings.count(), 0);
    let early = stored.read(ByteRange::new(PIECE, PIECE + 10)).unwrap();
    put(&stored, 1);
    assert_eq!(
        early,
        bytes_of(stored.facts().layout, 1)[..10],
        "what is mapped shows what is written"
    );
    let other = store.find(task(1)).unwrap();
    let slice = other.read(ByteRange::new(PIECE + 7, 2 * PIECE)).unwrap();
    assert_eq!(mappings.count(), 1);
    let found = mappings.find(&slice).unwrap();
    assert_eq!(found.offset, PIECE + 7);
    let mut bytes = vec![0; slice.len()];
    found.file.read_exact_at(&mut bytes, found.offset).unwrap();
    assert_eq!(slice, bytes);
    drop((stored, other, early));
    assert!(mappings.find(&slice).is_some(), "a slice outlives handles");
    store.remove(task(1)).unwrap();
    drop(store);
    assert_eq!(slice, bytes);
    drop(slice);
    assert_eq!(mappings.count(), 0);
}

#[test]
fn a_file_that_is_cut_short_behind_its_mapping_is_not_touched() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open(dir.path(), u64::MAX);
    let stored = store.open(task(1), &facts(2 * PIECE, true)).unwrap();
    put(&stored, 1);
    let part = ByteRange::new(PIECE, PIECE + 10);
    assert_eq!(stored.read(part).unwrap().len(), 10);
    let data = File::options().write(true).open(data_file(&store, 1)).unwrap();
    data.set_len(PIECE).unwrap();
    assert!(matches!(stored.read(part), Err(StoreError::Io { .. })));
}

#[test]
fn a_file_that_could_not_be_sent_is_given_away_no_more_while_it_is_open() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open(dir.path(), u64::MAX);
    let stored = store.open(task(1), &facts(2 * PIECE, true)).unwrap();
    put(&stored, 1);
    let part = ByteRange::new(PIECE, PIECE + 10);
    let sent = stored.read(part).unwrap();
    store.mappings().find(&sent).unwrap().give_up();
    assert!(matches!(stored.read(part), Err(StoreError::Io { .. })));
}

#[test]
fn claimed_pieces_are_read_without_a_mapping_one_at_a_time() {
    let dir = TempDir::new().unwrap();
    put(
        &open(dir.path(), u64::MAX)
            .0
            .open(task(1), &facts(3 * PIECE, true))
            .unwrap(),
        1,
    );
    let (store, _) = open(dir.path(), u64::MAX);
    let stored = store.find(task(1)).unwrap();
    let copy = stored.read(ByteRange::new(PIECE + 5, 3 * PIECE)).unwrap();
    assert_eq!(copy, bytes_of(stored.facts().layout, 1)[5..]);
    assert_eq!(store.mappings().count(), 0);
    assert_eq!(
        stored.read(ByteRange::new(0, 3 * PIECE)).unwrap().len() as u64,
        PIECE
    );
    stored.mark_present(1).unwrap();
    let slice = stored.read(ByteRange::new(0, 3 * PIECE)).unwrap();
    assert_eq!(slice.len() as u64, 3 * PIECE);
    assert!(store.mappings().find(&slice).is_some());
}

#[test]
fn files_are_open_only_while_somebody_has_the_task_open() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open(dir.path(), u64::MAX);
    for number in 0..20 {
        let stored = store.open(task(number), &facts(PIECE, true)).unwrap();
        put(&stored, 0);
        stored.read(ByteRange::new(0, 1)).unwrap();
    }
    assert_eq!(store.mappings().count(), 0);
    let open_files = std::fs::read_dir("/proc/self/fd").unwrap();
    let ours = open_files.filter_map(|fd| std::fs::read_link(fd.unwrap().path()).ok());
    assert_eq!(
        ours.filter(|path| path.starts_with(dir.path().join("tasks")))
            .count(),
        0
    );
}

#[test]
fn whole_files_are_allocated_and_lazy_ones_sparse() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open(dir.path(), u64::MAX);
    let length = 8 * PIECE + 1;
    let _whole = store.open(task(1), &facts(length, true)).unwrap();
    let lazy = store.open(task(2), &facts(length, false)).unwrap();
    put(&lazy, 3);
    let metadata = |number| std::fs::metadata(data_file(&store, number)).unwrap();
    assert_eq!((metadata(1).len(), metadata(2).len()), (length, length));
    assert!(metadata(1).blocks() * 512 >= length);
    assert!(metadata(2).blocks() * 512 < 2 * PIECE);
}

#[test]
fn dropped_tasks_leave_nothing_behind() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open(dir.path(), 4 * PIECE);
    for number in 0..4 {
        put(&store.open(task(number), &facts(PIECE, true)).unwrap(), 0);
    }
    store.remove(task(0)).unwrap();
    assert_eq!(store.make_room(4 * PIECE).len(), 3);
    let files = |path: PathBuf| std::fs::read_dir(path).unwrap().count();
    assert_eq!(files(dir.path().join("trash")), 0);
    for prefix in std::fs::read_dir(dir.path().join("tasks")).unwrap() {
        assert_eq!(files(prefix.unwrap().path()), 0);
    }
}

#[test]
fn blocks_of_pieces_that_were_never_linked_are_given_back() {
    let dir = TempDir::new().unwrap();
    {
        let (store, _) = open(dir.path(), u64::MAX);
        let stored = store.open(task(1), &facts(16 * PIECE, false)).unwrap();
        put(&stored, 5);
        stored.write(8 * PIECE, &vec![1; 8 * PIECE_BYTES]).unwrap();
        assert_eq!(store.usage().stored_bytes, 9 * PIECE);
    }
    let (store, recovery) = open(dir.path(), u64::MAX);
    assert_eq!(recovery.stored_bytes, PIECE);
    assert!(std::fs::metadata(data_file(&store, 1)).unwrap().blocks() * 512 < 2 * PIECE);
    let stored = store.find(task(1)).unwrap();
    assert_eq!(
        read_piece(&stored, 5).unwrap(),
        bytes_of(stored.facts().layout, 5)
    );
}

#[test]
fn the_order_of_last_uses_survives_a_restart() {
    let dir = TempDir::new().unwrap();
    {
        let (store, _) = open(dir.path(), u64::MAX);
        for number in 0..3 {
            put(&store.open(task(number), &facts(PIECE, true)).unwrap(), 0);
        }
        let stamp = |number: u8, seconds| {
            let index = File::options()
                .write(true)
                .open(data_file(&store, number).with_file_name("index"))
                .unwrap();
            index
                .set_modified(std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds))
                .unwrap();
        };
        stamp(0, 3000);
        stamp(1, 1000);
        stamp(2, 2000);
        drop(store.find(task(1)));
    }
    let (store, _) = open(dir.path(), 2 * PIECE);
    assert_eq!(
        store.usage().stored_bytes,
        3 * PIECE,
        "a lowered quota drops nothing by itself"
    );
    assert_eq!(store.make_room(0), [task(2)]);
    store.set_limits(PIECE, 0);
    assert_eq!(store.make_room(0), [task(0)]);
}

/// A clock that was wrong when contents were used last, and a start whenever: the order may be another, nothing goes by itself.
#[test]
fn times_that_cannot_be_take_nothing_away() {
    use std::time::{Duration, SystemTime};
    let dir = TempDir::new().unwrap();
    let year = Duration::from_secs(365 * 24 * 3600);
    let long_ago = SystemTime::UNIX_EPOCH;
    let stamps = [
        long_ago.checked_sub(year).unwrap(),
        long_ago,
        long_ago + Duration::from_secs(1),
        long_ago + 300 * year,
        long_ago + 400 * year,
    ];
    {
        let (store, _) = open(dir.path(), u64::MAX);
        for (number, stamp) in (0..).zip(stamps) {
            put(&store.open(task(number), &facts(PIECE, true)).unwrap(), 0);
            let index = data_file(&store, number).with_file_name("index");
            let index = File::options().write(true).open(index).unwrap();
            index.set_modified(stamp).unwrap();
        }
    }
    let (store, recovery) = open(dir.path(), u64::MAX);
    assert_eq!((recovery.tasks, recovery.dropped), (5, 0));
    assert_eq!(store.make_room(0), []);
    store.set_limits(3 * PIECE, 0);
    assert_eq!(store.make_room(0), [task(0), task(1)], "oldest first");
}

#[test]
fn the_floor_of_free_space_binds() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open(dir.path(), u64::MAX);
    put(&store.open(task(1), &facts(PIECE, true)).unwrap(), 0);
    let lazy = store.open(task(2), &facts(PIECE, false)).unwrap();
    store.set_limits(u64::MAX, u64::MAX);
    assert!(matches!(lazy.write(0, &[1]), Err(StoreError::NoSpace { .. })));
    assert!(matches!(
        store.open(task(3), &facts(1, true)),
        Err(StoreError::NoSpace { .. })
    ));
    assert_eq!(store.make_room(0), [task(1)], "all that can go goes");
    store.set_limits(u64::MAX, 0);
    put(&lazy, 0);
}

fn of_registry(name: &str, length: u64) -> ContentFacts {
    let origin = darter_types::OriginLocator {
        registry: name.parse().unwrap(),
        repository: "a".parse().unwrap(),
        kind: darter_types::ContentKind::Blob,
        digest: task(0).digest().unwrap(),
    };
    ContentFacts {
        origin: Some(origin),
        ..facts(length, true)
    }
}

#[test]
fn a_registry_makes_room_among_its_own_contents_alone() {
    let dir = TempDir::new().unwrap();
    let quotas = RegistryQuotas {
        named: [("a.test".parse().unwrap(), 2 * PIECE)].into(),
        others: None,
    };
    let (ours, theirs) = (of_registry("a.test", PIECE), of_registry("b.test", PIECE));
    {
        let (store, _) = open(dir.path(), u64::MAX);
        store.open(task(9), &theirs).unwrap();
        store.open(task(1), &ours).unwrap();
    }
    // What was there before the start counts as well.
    let (store, _) = open(dir.path(), u64::MAX);
    store.set_registry_quotas(quotas);
    let open = store.open(task(2), &ours).unwrap();
    assert!(matches!(
        store.open(task(3), &ours),
        Err(StoreError::NoSpace { wanted_bytes: PIECE })
    ));
    store.open(task(8), &theirs).unwrap();
    let make_room = |bytes| store.make_room_for(ours.registry(), bytes);
    assert_eq!(make_room(PIECE), [task(1)], "the oldest of its own");
    let third = store.open(task(3), &ours).unwrap();
    assert_eq!(make_room(PIECE), [], "both are open");
    drop((open, third));
    assert_eq!(make_room(3 * PIECE), [], "it never fits");
    assert_eq!(store.usage().refusals.registry_quota, 1);
    let held = [
        ("a.test".parse().unwrap(), 2 * PIECE),
        ("b.test".parse().unwrap(), 2 * PIECE),
    ];
    assert_eq!(store.by_registry(), held.into());
}

/// A handle on `number` whose data file is another one.
fn with_data(store: &DiskStore, number: u8, data: File) -> Arc<dyn StoredTask> {
    let record = lock(&store.shared.tasks).get(&task(number)).unwrap().clone();
    let files = record.files(&store.shared).unwrap();
    let broken = Files {
        data: Arc::new(data),
        index: files.index.try_clone().unwrap(),
        shape: files.shape,
        path: files.path.clone(),
        map: Mutex::default(),
        unreadable: Default::default(),
        states: Mutex::default(),
        sums: Mutex::default(),
        unsynced_bytes: AtomicU64::new(0),
        ahead: Default::default(),
    };
    store.shared.begin(&record);
    Arc::new(DiskTask::new(
        store.shared.clone(),
        record,
        Arc::new(broken),
        true,
    ))
}

#[test]
fn a_write_that_fails_says_why_and_leaves_the_piece_absent() {
    let dir = TempDir::new().unwrap();
    put(
        &open(dir.path(), u64::MAX)
            .0
            .open(task(1), &facts(2 * PIECE, true))
            .unwrap(),
        0,
    );
    let (store, _) = open(dir.path(), u64::MAX);
    let full = with_data(&store, 1, File::options().write(true).open("/dev/full").unwrap());
    assert!(matches!(
        full.write(0, &[1; 9]),
        Err(StoreError::NoSpace { wanted_bytes: 9 })
    ));
    assert!(full.claimed().is_empty(), "its bytes are anything now");
    let read_only = with_data(&store, 1, File::open(data_file(&store, 1)).unwrap());
    let error = read_only.write(PIECE, &[1]).unwrap_err();
    assert!(matches!(error, StoreError::Io { action: "write", .. }));
    assert!(read_only.present().is_empty());
}

#[test]
fn a_content_that_cannot_be_made_durable_is_dropped() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open(dir.path(), u64::MAX);
    let stored = store.open(task(1), &facts(PIECE, true)).unwrap();
    put(&stored, 0);
    with_data(&store, 1, File::options().write(true).open("/dev/full").unwrap()).record_proved();
    drop(store);
    assert!(
        stored.present().is_empty(),
        "the system may have lost any of its pages"
    );
    drop(stored);
    let (store, recovery) = open(dir.path(), u64::MAX);
    assert_eq!((recovery.tasks, recovery.dropped), (0, 0));
    assert_eq!(store.usage().stored_bytes, 0);
}

#[test]
fn a_task_whose_files_were_changed_behind_the_store_is_made_anew() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open(dir.path(), u64::MAX);
    let harms: [fn(&Path); 4] = [
        |data| std::fs::remove_dir_all(data.parent().unwrap()).unwrap(),
        |data| {
            File::options()
                .write(true)
                .open(data)
                .unwrap()
                .set_len(7)
                .unwrap()
        },
        |data| std::fs::remove_file(data.with_file_name("index")).unwrap(),
        |data| std::fs::write(data.with_file_name("index"), [0; 600]).unwrap(),
    ];
    for harm in harms {
        for find in [true, false] {
            put(&store.open(task(1), &facts(PIECE, true)).unwrap(), 0);
            harm(&data_file(&store, 1));
            if find {
                assert!(store.find(task(1)).is_none());
                assert_eq!((store.usage().stored_bytes, store.usage().tasks), (0, 0));
            } else {
                let stored = store.open(task(1), &facts(PIECE, true)).unwrap();
                assert!(stored.present().is_empty());
                put(&stored, 0);
                assert_eq!(store.usage().stored_bytes, PIECE);
            }
        }
    }
}

#[test]
fn refusals_of_the_system_are_told_apart() {
    let told = |errno: rustix::io::Errno| write::refused("write", Path::new("x"), 7, errno.into());
    for errno in [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT] {
        assert!(matches!(told(errno), StoreError::NoSpace { wanted_bytes: 7 }));
    }
    assert_eq!(told(rustix::io::Errno::IO).to_string(), "store: write x");
}

#[test]
fn a_header_that_is_too_long_is_refused_and_leaves_nothing() {
    let dir = TempDir::new().unwrap();
    let (store, _) = open(dir.path(), u64::MAX);
    let mut long = facts(PIECE, true);
    long.media_type = Some("x".repeat(1 << 20));
    assert!(store.open(task(1), &long).is_err());
    assert_eq!(
        store.usage(),
        Usage {
            free_bytes: store.usage().free_bytes,
            quota_bytes: u64::MAX,
            ..Usage::default()
        }
    );
    let header_of_two_blocks = ContentFacts {
        media_type: Some("x".repeat(9000)),
        ..facts(PIECE, true)
    };
    put(&store.open(task(1), &header_of_two_blocks).unwrap(), 0);
    drop(store);
    let (store, _) = open(dir.path(), u64::MAX);
    assert_eq!(store.list()[0].facts, header_of_two_blocks);
    assert_eq!(store.list()[0].held.len(), 1);
}

#[test]
fn looking_after_a_content_is_no_use_of_it() {
    let dir = TempDir::new().unwrap();
    {
        let (store, _) = open(dir.path(), u64::MAX);
        for number in 0..3 {
            put(&store.open(task(number), &facts(PIECE, true)).unwrap(), 0);
        }
        let stamped = |number| {
            let index = data_file(&store, number).with_file_name("index");
            index.metadata().unwrap().modified().unwrap()
        };
        let before = [0, 1, 2].map(stamped);
        for number in [0, 1, 2] {
            let stored = store.inspect(task(number)).unwrap();
            assert_eq!(
                stored.read_back(ByteRange::new(0, PIECE)).unwrap(),
                bytes_of(stored.facts().layout, 0)
            );
            assert_eq!(store.mappings().count(), 0);
        }
        assert_eq!([0, 1, 2].map(stamped), before);
        store.set_limits(2 * PIECE, 0);
        drop(store.inspect(task(0)));
        assert_eq!(store.make_room(0), [task(0)], "the oldest still");
    }
}
