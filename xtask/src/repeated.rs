//! Tests of single processes that try a reliability bar: a few times in each test run, as often as the bar says in
//! `cargo xtask faults --full`. How often stands in the test (`darter_testkit::cases`).

/// What the tests ask ([`Test::arguments`] says which).
pub(crate) const VARIABLE: &str = "DARTER_CASES";

/// One test and the bars that it tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Test {
    bars: &'static [&'static str],
    package: &'static str,
    /// `None` for the unit tests, else one of the package's test programs.
    program: Option<&'static str>,
    name: &'static str,
}

const fn unit(bars: &'static [&'static str], package: &'static str, name: &'static str) -> Test {
    Test {
        bars,
        package,
        program: None,
        name,
    }
}

const fn bridge(bars: &'static [&'static str], name: &'static str) -> Test {
    Test {
        bars,
        package: "darter-nydus-bridge",
        program: Some("bridge"),
        name,
    }
}

/// All of them.
const TESTS: &[Test] = &[
    unit(
        &["4"],
        "darter-proxy",
        "peer::news::tests::likely_bytes_never_panic",
    ),
    unit(
        &["4"],
        "darter-proxy",
        "peer::server::tests::what_is_taken_is_what_was_asked",
    ),
    unit(
        &["4"],
        "darter-proto",
        "convert::tests::likely_bytes_of_nodes_read_back",
    ),
    unit(
        &["4"],
        "darter-proto",
        "convert::tests::likely_bytes_of_schedulers_read_back",
    ),
    unit(
        &["8"],
        "darter-types",
        "task::tests::unequal_tuples_have_unequal_names",
    ),
    unit(
        &["8"],
        "darter-proxy",
        "access::tests::unequal_questions_have_unequal_keys",
    ),
    unit(
        &["11"],
        "darter-proxy",
        "mirror::range::tests::agrees_with_the_model",
    ),
    unit(
        &["11"],
        "darter-proxy",
        "mirror::tests::ranges::any_request_gets_the_one_right_answer_cold_and_warm",
    ),
    unit(
        &["13"],
        "darter-proxy",
        "mirror::tests::rights::cached_private_content_is_refused_as_if_it_were_not_cached",
    ),
    unit(
        &["14"],
        "darter-proxy",
        "mirror::tests::rights::a_token_for_another_repository_opens_nothing",
    ),
    unit(
        &["18"],
        "darter-proxy",
        "mirror::tests::times::a_pull_of_twelve_layers_asks_once_for_anybody_and_once_for_the_caller_and_reads_nothing",
    ),
    unit(
        &["27"],
        "darter-proxy",
        "forward::users::tests::how_much_of_a_password_was_right_does_not_show_in_time",
    ),
    Test {
        bars: &["46"],
        package: "darter-proxy",
        program: Some("flood"),
        name: "a_flood_of_digests_leaves_the_hot_set_alone",
    },
    unit(
        &["64"],
        "darter-store",
        "disk::tests::kill::every_claimed_piece_is_right_after_kill_9",
    ),
    Test {
        bars: &["45"],
        package: "darter",
        program: Some("process"),
        name: "flood::bad_requests_fill_no_log",
    },
    unit(
        &["66"],
        "darter-store",
        "disk::tests::damage::whatever_happens_to_one_file_the_store_opens_and_claims_nothing_wrong",
    ),
    unit(
        &["71"],
        "darter-engine",
        "task::tests::chaos::any_order_of_events_keeps_the_invariants",
    ),
    unit(
        &["71"],
        "darter-scheduler",
        "schedule::tests::random::any_order_of_events_keeps_the_invariants",
    ),
    unit(
        &["71"],
        "darter-scheduler",
        "graph::tests::edges_stay_symmetric_and_degrees_capped",
    ),
    bridge(&["77"], "guarded::a_killed_worker_is_an_error_to_nobody"),
    bridge(&["77"], "nydusd::after_a_crash_the_next_process_goes_on"),
    bridge(
        &["82"],
        "nydusd::an_upgrade_under_load_with_a_long_state_loses_nothing",
    ),
];

/// Bars that the table of faults tries as well.
const IN_THE_TABLE: [&str; 4] = ["4", "46", "64", "66"];

impl Test {
    /// What `cargo test` is told.
    pub(crate) fn arguments(&self) -> Vec<&'static str> {
        let mut arguments = vec!["--package", self.package];
        match self.program {
            None => arguments.push("--lib"),
            Some(program) => arguments.extend(["--test", program]),
        }
        arguments.extend(["--", "--exact", self.name]);
        arguments
    }
}

/// What `faults --full` is to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full {
    pub(crate) tests: Vec<Test>,
    /// The arguments of the table of faults; `None` when only bars were asked for that are not in it.
    pub(crate) rest: Option<Vec<String>>,
}

/// Divides what was asked for by `--only` among the tests here and the table of faults.
pub(crate) fn split(arguments: &[String]) -> Full {
    let Some(at) = arguments.iter().position(|word| word.starts_with("--only")) else {
        return Full {
            tests: TESTS.to_vec(),
            rest: Some(arguments.to_vec()),
        };
    };
    // `--only 4,8` or `--only=4,8`
    let (before, from) = arguments.split_at(at);
    let (list, after) = match from {
        [word, after @ ..] if word.contains('=') => (word.split_once('=').map(|(_, list)| list), after),
        [_, list, after @ ..] => (Some(list.as_str()), after),
        _ => (None, &[][..]),
    };
    let wanted: Vec<&str> = list.unwrap_or_default().split(',').collect();
    let has = |test: &&Test| test.bars.iter().any(|bar| wanted.contains(bar));
    let tests: Vec<Test> = TESTS.iter().filter(has).copied().collect();
    let here = |bar: &&&str| tests.iter().any(|test| test.bars.contains(*bar));
    let others = wanted
        .iter()
        .filter(|bar| !here(bar) || IN_THE_TABLE.contains(*bar));
    let others: Vec<&str> = others.copied().collect();
    let rest = (!others.is_empty()).then(|| {
        let only = ["--only".to_owned(), others.join(",")];
        before.iter().chain(&only).chain(after).cloned().collect()
    });
    Full { tests, rest }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn bars_are_divided_among_tests_and_the_table() {
        let asked = |text: &str| {
            let full = split(&words(text));
            (full.tests.len(), full.rest.map(|rest| rest.join(" ")))
        };
        assert_eq!(asked("--full"), (TESTS.len(), Some("--full".to_owned())));
        assert_eq!(asked("--full --only 8"), (2, None));
        assert_eq!(asked("--only=8,11 --full"), (4, None));
        assert_eq!(
            asked("--full --only 4 --json"),
            (4, Some("--full --only 4 --json".to_owned()))
        );
        assert_eq!(
            asked("--full --only 8,48"),
            (2, Some("--full --only 48".to_owned()))
        );
        assert_eq!(
            asked("--full --only 99"),
            (0, Some("--full --only 99".to_owned()))
        );
    }

    /// All Rust files below a folder.
    fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.ends_with("target") {
                sources(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }

    /// A name that matches nothing would pass.
    #[test]
    fn every_test_is_there_and_asks_how_often() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut files = Vec::new();
        for folder in ["types", "proto", "proxy", "scheduler", "cli", "nydus-bridge"] {
            sources(&root.join(folder), &mut files);
        }
        for test in TESTS {
            let whole_program = (test.program.unwrap_or_default(), test.name);
            let (module, name) = test.name.rsplit_once("::").unwrap_or(whole_program);
            let declared = format!("fn {name}(");
            let has = |path: &&PathBuf| {
                let text = std::fs::read_to_string(path).unwrap();
                let asks = text.contains("cases(") || text.contains("fuzz::check(");
                text.contains(&declared) && asks
            };
            let found: Vec<&PathBuf> = files.iter().filter(has).collect();
            let path = module.trim_end_matches("::tests").replace("::", "/");
            assert!(
                found.iter().any(|file| file.to_string_lossy().contains(&path)),
                "{test:?}: {found:?}"
            );
        }
    }
}
