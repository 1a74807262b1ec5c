//! Runs a scenario over seeds, and says how to run a failing one again.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Seeds of scenarios that follow a script.
const SCRIPTED: u64 = 2;

/// Runs `body` with two fixed seeds, or with `SIM_SEED` alone.
pub fn scripted(name: &str, body: impl Fn(u64)) {
    over(name, 1..=SCRIPTED, body);
}

/// Runs `body` with the `fixed` seeds and `fresh` new ones, with `SIM_SEEDS` new ones, or with `SIM_SEED` alone.
pub fn random(name: &str, fixed: impl Iterator<Item = u64>, fresh: u64, body: impl Fn(u64)) {
    // Short ones are easier to type; the standard library's hasher is seeded by the system.
    let new = |number: u64| {
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u64(number);
        hasher.finish() % 1_000_000_000
    };
    match number_in("SIM_SEEDS") {
        Some(many) => over(name, (0..many).map(new), body),
        None => over(name, fixed.chain((0..fresh).map(new)), body),
    }
}

/// The number in an environment variable, if it is set.
fn number_in(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is a whole number")),
    )
}

#[expect(
    clippy::print_stderr,
    reason = "tests show it when they fail: it is how to run the seed again"
)]
fn over(name: &str, seeds: impl Iterator<Item = u64>, body: impl Fn(u64)) {
    let seeds: Vec<u64> = number_in("SIM_SEED").map_or_else(|| seeds.collect(), |seed| vec![seed]);
    for seed in seeds {
        eprintln!("{name}: seed {seed}");
        let _logging = crate::trace::to_stderr_if_asked();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(seed))) {
            eprintln!("failed; run it again: SIM_SEED={seed} cargo xtask sim --seed {seed} {name}");
            eprintln!("with its log: SIM_LOG=debug in front");
            resume_unwind(panic);
        }
    }
}
