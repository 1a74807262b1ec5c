//! `kill -9` of a process that writes, at any moment.
//!
//! The test starts its own program again, as the victim, and tells it so by a variable of its environment.

use super::*;
use darter_types::ChainState;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

const VICTIM: &str = "DARTER_STORE_VICTIM";
const TASKS: u8 = 6;

fn length(number: u8) -> u64 {
    u64::from(number) * PIECE + u64::from(number) * 1000
}

fn state(border: u32) -> ChainState {
    ChainState::Sha512([u64::from(border); 8])
}

/// Writes, marks, forgets and drops for ever, and says so line by line.
fn be_victim(dir: &Path, seed: u32) {
    let (store, _) = open(dir, 12 * PIECE);
    if seed.is_multiple_of(2) {
        store.shared.stalls.be_slow();
    }
    let mut random = seed.wrapping_mul(2_654_435_761).max(1);
    loop {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        let number = u8::try_from(random % u32::from(TASKS)).unwrap();
        step(&store, number, random >> 8);
        println!("step");
        std::io::stdout().flush().unwrap();
    }
}

fn step(store: &DiskStore, number: u8, random: u32) {
    let stored = match store.open(task(number), &facts(length(number), random.is_multiple_of(2))) {
        Ok(stored) => stored,
        Err(_) => {
            store.make_room(length(number));
            return;
        }
    };
    let layout = stored.facts().layout;
    let piece = (random >> 4) % layout.piece_count();
    match random >> 16 & 15 {
        0 => store.remove(task(number)).unwrap(),
        1 => stored.forget(piece),
        2 => stored
            .record_states(piece, &[state(piece), state(piece + 1)])
            .unwrap(),
        3 => drop(stored.write(layout.piece_range(piece).start, b"half a piece, perhaps")),
        _ => {
            let written = stored.write(layout.piece_range(piece).start, &bytes_of(layout, piece));
            if written.is_ok() {
                stored.mark_present(piece).unwrap();
            }
            stored.record_proved();
        }
    }
}

fn start_victim(dir: &Path, seed: usize) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "disk::tests::kill::every_claimed_piece_is_right_after_kill_9",
            "--nocapture",
        ])
        .env(VICTIM, format!("{seed} {}", dir.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Kills the victim some steps after it began, wherever it is by then.
fn kill_after(mut victim: Child, steps: usize) {
    let lines = BufReader::new(victim.stdout.take().unwrap()).lines();
    let mut seen = lines.map(Result::unwrap).filter(|line| line.ends_with("step"));
    let last = seen.by_ref().take(steps).count();
    assert_eq!(last, steps, "the victim died by itself");
    victim.kill().unwrap();
    victim.wait().unwrap();
}

fn check(dir: &Path) -> u64 {
    let (store, recovery) = open(dir, 12 * PIECE);
    let mut stored_bytes = 0;
    for summary in store.list() {
        let stored = store.find(summary.task).unwrap();
        let layout = summary.facts.layout;
        for piece in summary.held.iter() {
            assert_eq!(read_piece(&stored, piece).unwrap(), bytes_of(layout, piece));
        }
        assert!(
            stored
                .states()
                .into_iter()
                .zip(1..)
                .all(|(found, border)| found == state(border))
        );
        assert!(!summary.proved || summary.held.is_full());
        stored_bytes += summary.stored_bytes;
    }
    assert_eq!(store.usage().stored_bytes, stored_bytes);
    many::no_orphans(&store, dir);
    recovery.claimed_pieces
}

#[test]
fn every_claimed_piece_is_right_after_kill_9() {
    if let Ok(victim) = std::env::var(VICTIM) {
        let (seed, dir) = victim.split_once(' ').unwrap();
        be_victim(Path::new(dir), seed.parse().unwrap());
    }
    let dir = TempDir::new().unwrap();
    let mut claimed = 0;
    for round in 0..darter_testkit::cases(50, 1000) as usize {
        kill_after(start_victim(dir.path(), round + 1), 1 + round * 7 % 41);
        claimed += check(dir.path());
    }
    assert!(claimed > 100, "the victims wrote something: {claimed}");
}
