//! What a check found, and how it is shown: one line a finding, what to do below it.

use serde::Serialize;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// As it should be.
    Ok,
    /// It works, but not as well, or not for long.
    Warn,
    /// Pulls do not go through this proxy, or not between nodes.
    Fail,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What was looked at.
    pub(crate) check: &'static str,
    /// How bad it is.
    pub(crate) state: State,
    /// What was seen.
    pub(crate) seen: String,
    /// What to do about it.
    #[serde(rename = "do", skip_serializing_if = "Option::is_none")]
    pub(crate) advice: Option<String>,
}

impl Finding {
    /// Nothing to do.
    pub(crate) fn ok(check: &'static str, seen: impl Into<String>) -> Self {
        Self {
            check,
            state: State::Ok,
            seen: seen.into(),
            advice: None,
        }
    }

    /// Something to do some day.
    pub(crate) fn warn(check: &'static str, seen: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            state: State::Warn,
            advice: Some(advice.into()),
            ..Self::ok(check, seen)
        }
    }

    /// Something to do now.
    pub(crate) fn fail(check: &'static str, seen: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            state: State::Fail,
            ..Self::warn(check, seen, advice)
        }
    }
}

/// Whether nothing failed.
pub(crate) fn healthy(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.state != State::Fail)
}

/// For people; with colour for terminals.
pub(crate) fn text(findings: &[Finding], colour: bool) -> String {
    let mut text = String::new();
    for finding in findings {
        let (word, code) = match finding.state {
            State::Ok => ("ok  ", 32),
            State::Warn => ("warn", 33),
            State::Fail => ("FAIL", 31),
        };
        let word = match colour {
            true => format!("\x1b[{code}m{word}\x1b[0m"),
            false => word.to_owned(),
        };
        text += &format!("{word}  {:<12}  {}\n", finding.check, finding.seen);
        if let Some(advice) = &finding.advice {
            text += &format!("{:20}-> {advice}\n", "");
        }
    }
    let count = |state| findings.iter().filter(|finding| finding.state == state).count();
    let (warned, failed) = (count(State::Warn), count(State::Fail));
    text + &format!(
        "{} checks, {warned} warnings, {failed} failures\n",
        findings.len()
    )
}

/// For programs: `healthy`, and each finding.
pub(crate) fn json(findings: &[Finding]) -> String {
    let all = serde_json::json!({ "healthy": healthy(findings), "findings": findings });
    format!("{all:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> [Finding; 3] {
        [
            Finding::ok("mirror", "answers at 127.0.0.1:4001"),
            Finding::warn("store", "2 GiB free", "make room"),
            Finding::fail("scheduler", "10.0.0.5:8002 does not answer", "start it"),
        ]
    }

    #[test]
    fn a_line_each_and_what_to_do() {
        let expected = "\
ok    mirror        answers at 127.0.0.1:4001
warn  store         2 GiB free
                    -> make room
FAIL  scheduler     10.0.0.5:8002 does not answer
                    -> start it
3 checks, 1 warnings, 1 failures
";
        assert_eq!(text(&findings(), false), expected);
        assert!(text(&findings(), true).contains("\x1b[31mFAIL\x1b[0m"));
    }

    #[test]
    fn programs_read_the_same() {
        let value: serde_json::Value = serde_json::from_str(&json(&findings())).unwrap();
        assert_eq!(value["healthy"], false);
        assert_eq!(value["findings"][1]["do"], "make room");
        assert_eq!(value["findings"][0].get("do"), None);
        assert!(healthy(&findings()[..2]));
    }
}
