//! Runs programs to their end and turns a failure into an error that shows what the program said.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// Lines of a program's own words that an error carries.
const LINES_SHOWN: usize = 15;

/// A command from its words: the first is the program.
pub fn command<const N: usize>(words: [&str; N]) -> Command {
    let mut words = words.into_iter();
    let mut command = Command::new(words.next().unwrap_or("false"));
    command.args(words);
    command
}

/// Runs to the end and gives standard output.
///
/// # Errors
/// When the program cannot be started or exits with anything but 0; the error ends with its last lines.
pub fn output(command: &mut Command) -> Result<String> {
    let shown = render(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start '{shown}'"))?;
    check(&shown, output)
}

/// Runs to the end, its output thrown away unless it fails.
///
/// # Errors
/// As [`output`].
pub fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// The last lines of a text, each up to 300 characters, for an error or a report.
pub fn tail(text: &str, lines: usize) -> String {
    let mut last: Vec<String> = text
        .lines()
        .rev()
        .take(lines)
        .map(|line| line.chars().take(300).collect())
        .collect();
    last.reverse();
    last.join("\n")
}

/// The command as one could type it.
pub fn render(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

fn check(shown: &str, output: Output) -> Result<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    bail!(
        "'{shown}' failed with {}:\n{}",
        output.status,
        tail(&format!("{text}{errors}"), LINES_SHOWN)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_what_the_program_wrote() {
        assert_eq!(output(&mut command(["printf", "a b"])).unwrap(), "a b");
    }

    #[test]
    fn a_failure_says_which_program_and_its_words() {
        let error = run(&mut command(["sh", "-c", "echo because >&2; exit 3"]))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("because") && error.contains("exit status: 3"),
            "{error}"
        );
        let error = run(&mut command(["/nonexistent/tool"])).unwrap_err();
        assert!(format!("{error:#}").contains("cannot start '/nonexistent/tool'"));
    }

    #[test]
    fn tail_keeps_the_end() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 5), "a");
    }
}
