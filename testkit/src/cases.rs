//! How often property tests try: for a moment in each test run, and as often as the reliability bars say when somebody
//! asks for that by `DARTER_CASES=full`, as `cargo xtask faults --full` does.

/// The environment variable that is asked.
const VARIABLE: &str = "DARTER_CASES";

/// `few`, or `full` under `DARTER_CASES=full`.
///
/// # Panics
/// If the variable has another value: nobody should take a short run for a full one.
pub fn cases(few: u32, full: u32) -> u32 {
    let asked = std::env::var_os(VARIABLE);
    choose(
        asked.as_ref().map(|asked| asked.to_string_lossy()).as_deref(),
        few,
        full,
    )
}

fn choose(asked: Option<&str>, few: u32, full: u32) -> u32 {
    match asked {
        None | Some("") => few,
        Some("full") => full,
        Some(other) => panic!("{VARIABLE} is {other:?}: say \"full\", or leave it out"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_is_said_by_one_word() {
        assert_eq!(choose(None, 3, 100), 3);
        assert_eq!(choose(Some(""), 3, 100), 3);
        assert_eq!(choose(Some("full"), 3, 100), 100);
    }

    #[test]
    #[should_panic(expected = "DARTER_CASES is \"Full\"")]
    fn another_word_is_a_mistake() {
        choose(Some("Full"), 3, 100);
    }
}
