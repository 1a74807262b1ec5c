//! Sizes and module docs of Rust files.
//!
//! Clippy limits a function's code lines; this limits what one must scroll through, comments included, and
//! the length of a file without its tests.

/// A file longer than this holds more than one idea.
const FILE_LINES_MAX: usize = 500;
/// Lines from a function's signature to its closing brace.
const FUNCTION_LINES_MAX: usize = 80;
/// How rustls is told to take any certificate for the right one. Whatever needs that shares one place, which says so.
const UNVERIFIED: &str = ".dangerous()";

/// Lengths of what was seen, for the summary.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    files: Vec<usize>,
    functions: Vec<usize>,
    lines_of_tests: usize,
    /// Files that accept a server whose certificate proves nothing.
    unverified: Vec<String>,
}

/// One function: where it starts and how many lines it has.
#[derive(Debug, PartialEq, Eq)]
struct Function<'a> {
    name: &'a str,
    line: usize,
    length: usize,
}

/// Adds the problems of one file and remembers its sizes.
pub(super) fn check(path: &str, text: &str, sizes: &mut Sizes, problems: &mut Vec<String>) {
    if !has_module_doc(text) {
        problems.push(format!(
            "{path}:1: no module doc (`//!`): say what the file is and what must hold"
        ));
    }
    let lines = text.lines().count();
    let code = without_tests(text);
    // Where the rule itself stands is no use of it.
    if code.contains(UNVERIFIED) && path != "xtask/src/tidy/rust.rs" {
        sizes.unverified.push(path.to_owned());
    }
    if is_test(path) {
        sizes.lines_of_tests += lines;
        return;
    }
    let code_lines = code.lines().count();
    sizes.lines_of_tests += lines - code_lines;
    sizes.files.push(code_lines);
    if code_lines > FILE_LINES_MAX {
        problems.push(format!(
            "{path}: {code_lines} lines without tests, the limit is {FILE_LINES_MAX}"
        ));
    }
    for function in functions(code) {
        sizes.functions.push(function.length);
        if function.length > FUNCTION_LINES_MAX {
            let Function { name, line, length } = function;
            problems.push(format!(
                "{path}:{line}: fn {name} has {length} lines, the limit is {FUNCTION_LINES_MAX}"
            ));
        }
    }
}

impl Sizes {
    /// A problem where servers without a proof are accepted in more than one file.
    pub(super) fn unverified(&self, problems: &mut Vec<String>) {
        if let [_, _, ..] = self.unverified.as_slice() {
            let files = self.unverified.join(", ");
            problems.push(format!("{files}: `{UNVERIFIED}` belongs into one file at most"));
        }
    }

    /// One line: medians and ninetieth percentiles.
    pub(super) fn summary(mut self) -> String {
        self.files.sort_unstable();
        self.functions.sort_unstable();
        let total: usize = self.files.iter().sum();
        format!(
            "{total} lines in {} files (median {}, p90 {}), {} functions (median {}, p90 {}), {} lines of tests",
            self.files.len(),
            quantile(&self.files, 50),
            quantile(&self.files, 90),
            self.functions.len(),
            quantile(&self.functions, 50),
            quantile(&self.functions, 90),
            self.lines_of_tests,
        )
    }
}

fn quantile(sorted: &[usize], percent: usize) -> usize {
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * percent / 100).copied().unwrap_or(0)
}

fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs")
        || path.contains("/tests/")
        || path.starts_with("e2e/")
        || path.starts_with("sim/")
}

/// Attributes of the crate may stand before the doc, and nothing else.
fn has_module_doc(text: &str) -> bool {
    let first = text
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with("#!["));
    first.is_some_and(|line| line.starts_with("//!"))
}

/// The file up to its inline test module.
fn without_tests(text: &str) -> &str {
    text.find("\n#[cfg(test)]\nmod tests {")
        .map_or(text, |at| text.get(..at).unwrap_or(text))
}

/// Functions by their indentation: rustfmt puts the closing brace below the signature's first column.
fn functions(code: &str) -> Vec<Function<'_>> {
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent: String = line.chars().take_while(|c| *c == ' ').collect();
        let end = format!("{indent}}}");
        let rest = lines.iter().skip(index);
        let length = match line.ends_with(['}', ';']) {
            true => 1,
            false => rest.take_while(|line| **line != end).count() + 1,
        };
        found.push(Function {
            name,
            line: index + 1,
            length,
        });
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    loop {
        match words.next()? {
            "fn" => return words.next()?.split(['(', '<']).next(),
            "pub" | "async" | "const" | "unsafe" | "extern" | "\"C\"" => {}
            word if word.starts_with("pub(") => {}
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let mut problems = Vec::new();
        check(path, text, &mut Sizes::default(), &mut problems);
        problems
    }

    #[test]
    fn functions_are_measured_by_indentation() {
        let code =
            "pub(crate) async fn a<T>(\n    x: T,\n) {\n    b();\n}\nimpl X {\n    fn c(&self) {}\n}\n";
        let expected = [
            Function {
                name: "a",
                line: 1,
                length: 5,
            },
            Function {
                name: "c",
                line: 7,
                length: 1,
            },
        ];
        assert_eq!(functions(code), expected);
    }

    #[test]
    fn a_file_needs_a_module_doc() {
        assert!(found("a.rs", "#![allow(x)]\n\n//! What it is.\nfn a() {}\n").is_empty());
        assert_eq!(found("a.rs", "use x;\n//! Late.\n").len(), 1);
    }

    #[test]
    fn long_files_and_functions_are_told() {
        let long_function = format!(
            "//! Doc.\nfn a() {{\n{}}}\n",
            "    b();\n".repeat(FUNCTION_LINES_MAX)
        );
        assert!(
            found("a.rs", &long_function)
                .iter()
                .any(|p| p.contains("fn a has 82 lines"))
        );
        let long_file = format!("//! Doc.\n{}", "const A: u8 = 0;\n".repeat(FILE_LINES_MAX));
        assert_eq!(found("a.rs", &long_file).len(), 1);
        assert!(found("a/tests.rs", &long_file).is_empty(), "tests may be long");
    }

    #[test]
    fn certificates_are_left_unverified_in_one_place_at_most() {
        let (mut sizes, mut problems) = (Sizes::default(), Vec::new());
        let text = format!("//! Doc.\nconst A: B = c{UNVERIFIED};\n");
        check("a.rs", &text, &mut sizes, &mut problems);
        check("c.rs", "//! Doc.\nconst A: u8 = 0;\n", &mut sizes, &mut problems);
        sizes.unverified(&mut problems);
        assert_eq!(problems, Vec::<String>::new());
        check("b/tests/c.rs", &text, &mut sizes, &mut problems);
        sizes.unverified(&mut problems);
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("a.rs, b/tests/c.rs: "), "{problems:?}");
    }

    #[test]
    fn inline_tests_do_not_count() {
        let text = format!(
            "//! Doc.\nfn a() {{}}\n\n#[cfg(test)]\nmod tests {{\n{}}}\n",
            "// x\n".repeat(600)
        );
        assert!(found("a.rs", &text).is_empty());
    }
}
