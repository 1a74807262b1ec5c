//! Runs the bodies of the fuzz targets in the unit tests: what `cargo xtask fuzz` explores for long and with coverage, every
//! test run repeats for a moment on the stable compiler.
//!
//! A body takes any bytes and panics if what it promises does not hold. It gets each seed of its target as it is
//! (`fuzz/seeds/<target>/`, where inputs that once broke something stay), then seeds with mistakes in them, which reach deeper
//! than noise does, and noise.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestRunner};

/// Numbers and words on which readers trip.
const WORDS: [&str; 22] = [
    "0",
    "-1",
    "+1",
    "4294967295",
    "4294967296",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999",
    "0x10",
    "../",
    "..%2f",
    "%00",
    "%",
    "\0",
    "\r\n",
    "\"",
    "\\",
    "=,",
    "[[[[",
    "{\"a\":",
    "\u{fffd}\u{202e}",
];
/// Longest input, in bytes: more than any head of a message.
const INPUT_BYTES_MAX: usize = 16 * 1024;

/// One mistake.
#[derive(Clone, Debug)]
enum Edit {
    /// Another byte.
    Set(Index, u8),
    /// Bytes are missing.
    Cut(Index, Index),
    /// Bytes are there so many times more.
    Repeat(Index, Index, usize),
    /// One of [`WORDS`] stands there as well.
    Word(Index, Index),
    /// From here on it is another seed.
    Splice(Index, Index, Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(place, byte)| Edit::Set(place, byte)),
        (at(), at()).prop_map(|(from, to)| Edit::Cut(from, to)),
        (at(), at(), 1usize..40).prop_map(|(from, to, times)| Edit::Repeat(from, to, times)),
        (at(), at()).prop_map(|(place, word)| Edit::Word(place, word)),
        (at(), at(), at()).prop_map(|(place, seed, from)| Edit::Splice(place, seed, from)),
    ]
}

impl Edit {
    fn apply(&self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let place = |index: &Index, input: &[u8]| index.index(input.len() + 1);
        let span = |from: &Index, to: &Index, input: &[u8]| {
            let (a, b) = (place(from, input), place(to, input));
            a.min(b)..a.max(b)
        };
        match self {
            Self::Set(at, byte) if !input.is_empty() => {
                let at = at.index(input.len());
                input.splice(at..=at, [*byte]);
            }
            Self::Set(_, byte) => input.push(*byte),
            Self::Cut(from, to) => drop(input.drain(span(from, to, input))),
            Self::Repeat(from, to, times) => {
                let span = span(from, to, input);
                let end = span.end;
                let more = input.get(span).unwrap_or_default().repeat(*times);
                input.splice(end..end, more);
            }
            Self::Word(at, word) => {
                let at = place(at, input);
                input.splice(at..at, word.get(&WORDS).bytes());
            }
            Self::Splice(at, seed, from) => {
                let seed = seed.get(seeds);
                input.truncate(place(at, input));
                input.extend(seed.iter().skip(place(from, seed)));
            }
        }
        input.truncate(INPUT_BYTES_MAX);
    }
}

fn folder(target: &str) -> PathBuf {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    seeds.join(target)
}

/// The seeds of a target, ordered by name.
///
/// # Panics
/// If there are none: the target would be tested by noise alone.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = folder(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let read = |path: PathBuf| fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let seeds: Vec<Vec<u8>> = paths.into_iter().map(read).collect();
    assert!(!seeds.is_empty(), "{} is empty", folder.display());
    seeds
}

/// Inputs that are made from seeds: in each test run, and by `DARTER_CASES=full` (bar 4: a million frames).
const CASES: u32 = 1024;
const CASES_FULL: u32 = 1_000_000;

/// Runs the body of `target` on its seeds, on a thousand mutations of them (or a million: [`crate::cases`]), and on noise. A
/// failure shows the smallest input that was found: put it into the folder of seeds with the repair.
///
/// # Panics
/// If the body does.
pub fn check(target: &str, body: impl Fn(&[u8])) {
    let seeds = seeds(target);
    seeds.iter().for_each(|seed| body(seed));
    let mistakes = (any::<Index>(), prop::collection::vec(edit(), 1..8));
    let changed = mistakes.prop_map(|(seed, edits)| {
        let mut input = seed.get(&seeds).clone();
        edits.iter().for_each(|edit| edit.apply(&mut input, &seeds));
        input
    });
    let noise = prop::collection::vec(any::<u8>(), 0..512);
    let mut runner = TestRunner::new(Config {
        cases: crate::cases(CASES, CASES_FULL),
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = runner.run(&prop_oneof![7 => changed, 1 => noise], |input| {
        body(&input);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{target}: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn a_body_sees_its_seeds_mistakes_and_noise() {
        let (whole, near, far) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let all = seeds("range");
        check("range", |input| {
            let count = if all.iter().any(|seed| seed == input) {
                &whole
            } else if input.windows(5).any(|part| part == b"bytes") {
                &near
            } else {
                &far
            };
            count.fetch_add(1, Ordering::Relaxed);
            assert!(input.len() <= INPUT_BYTES_MAX);
        });
        let seen = [whole, near, far].map(AtomicUsize::into_inner);
        assert!(seen[0] >= all.len() && seen[1] > 100 && seen[2] > 50, "{seen:?}");
    }

    #[test]
    #[should_panic(expected = "range: ")]
    fn what_a_body_does_not_bear_is_found() {
        check("range", |input| {
            assert!(!input.windows(3).any(|part| part == b"999"), "found");
        });
    }
}
