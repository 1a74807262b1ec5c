//! A unified diff of two small texts, for people to read before they agree to a change.
//!
//! It is not a patch format: text that is not UTF-8 is shown with replacement characters.

use std::fmt::Write as _;

/// Lines shown around a change.
const CONTEXT_LINES: usize = 3;
/// Above this many cells the table of common subsequences is not worth its memory; the middle is shown replaced.
const TABLE_CELLS_MAX: usize = 4_000_000;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Keep,
    Remove,
    Add,
}

type Line<'t> = (Kind, &'t str);

/// The hunks that turn `before` into `after`, without a file header.
pub(crate) fn unified(before: &str, after: &str) -> String {
    let lines = compare(&split(before), &split(after));
    let mut text = String::new();
    let mut shown = 0;
    while let Some(first) = next_change(&lines, shown) {
        let start = first.saturating_sub(CONTEXT_LINES).max(shown);
        let mut last = first;
        while let Some(next) = next_change(&lines, last + 1) {
            if next - last > 2 * CONTEXT_LINES {
                break;
            }
            last = next;
        }
        shown = (last + 1 + CONTEXT_LINES).min(lines.len());
        hunk(&mut text, &lines, start, shown);
    }
    text
}

/// Lines with their ends, so that a changed or missing line end is a difference.
fn split(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}

fn next_change(lines: &[Line<'_>], from: usize) -> Option<usize> {
    let rest = lines.get(from..)?;
    rest.iter()
        .position(|(kind, _)| *kind != Kind::Keep)
        .map(|offset| from + offset)
}

fn hunk(text: &mut String, lines: &[Line<'_>], start: usize, end: usize) {
    let count = |range: &[Line<'_>], not: Kind| range.iter().filter(|(kind, _)| *kind != not).count();
    let (above, inside) = lines.split_at(start);
    let inside = inside.get(..end - start).unwrap_or(inside);
    let range = |not: Kind| {
        let (above, inside) = (count(above, not), count(inside, not));
        // An empty range names the line before it.
        format!("{},{inside}", if inside == 0 { above } else { above + 1 })
    };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "@@ -{} +{} @@", range(Kind::Add), range(Kind::Remove));
    for (kind, line) in inside {
        text.push(match kind {
            Kind::Keep => ' ',
            Kind::Remove => '-',
            Kind::Add => '+',
        });
        text.push_str(line);
        if !line.ends_with('\n') {
            text.push_str("\n\\ No newline at end of file\n");
        }
    }
}

fn compare<'t>(before: &[&'t str], after: &[&'t str]) -> Vec<Line<'t>> {
    let head = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    let (common, before) = before.split_at(head);
    let after = after.split_at(head).1;
    let tail = before
        .iter()
        .rev()
        .zip(after.iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    let (before, common_tail) = before.split_at(before.len() - tail);
    let after = after.split_at(after.len() - tail).0;
    let mut lines: Vec<Line<'t>> = common.iter().map(|line| (Kind::Keep, *line)).collect();
    middle(&mut lines, before, after);
    lines.extend(common_tail.iter().map(|line| (Kind::Keep, *line)));
    lines
}

/// The part between the common head and tail, by the longest common subsequence.
fn middle<'t>(lines: &mut Vec<Line<'t>>, before: &[&'t str], after: &[&'t str]) {
    let width = after.len() + 1;
    let fits = (before.len() + 1).saturating_mul(width) <= TABLE_CELLS_MAX;
    let table = if fits {
        common_lengths(before, after)
    } else {
        Vec::new()
    };
    let length = |i: usize, j: usize| table.get(i * width + j).copied().unwrap_or(0);
    let (mut i, mut j) = (0, 0);
    loop {
        match (before.get(i), after.get(j)) {
            (Some(a), Some(b)) if fits && a == b => {
                lines.push((Kind::Keep, a));
                (i, j) = (i + 1, j + 1);
            }
            (Some(a), b) if b.is_none() || length(i + 1, j) >= length(i, j + 1) => {
                lines.push((Kind::Remove, a));
                i += 1;
            }
            (_, Some(b)) => {
                lines.push((Kind::Add, b));
                j += 1;
            }
            _ => return,
        }
    }
}

/// `table[i * width + j]`: how many lines `before[i..]` and `after[j..]` have in common, in order.
fn common_lengths(before: &[&str], after: &[&str]) -> Vec<u32> {
    let width = after.len() + 1;
    let mut table = vec![0_u32; (before.len() + 1) * width];
    for (i, a) in before.iter().enumerate().rev() {
        for (j, b) in after.iter().enumerate().rev() {
            let here = i * width + j;
            let at = |index: usize| table.get(index).copied().unwrap_or(0);
            let length = if a == b {
                at(here + width + 1) + 1
            } else {
                at(here + width).max(at(here + 1))
            };
            if let Some(cell) = table.get_mut(here) {
                *cell = length;
            }
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_new_file_is_all_additions() {
        assert_eq!(unified("", "a\nb\n"), "@@ -0,0 +1,2 @@\n+a\n+b\n");
        assert_eq!(unified("a\n", ""), "@@ -1,1 +0,0 @@\n-a\n");
        assert_eq!(unified("a\n", "a\n"), "");
    }

    #[test]
    fn a_change_has_three_lines_around_it() {
        let before = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
        let after = before.replace("5\n", "five\n");
        assert_eq!(
            unified(before, &after),
            "@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n"
        );
    }

    #[test]
    fn far_changes_are_two_hunks_and_a_missing_line_end_shows() {
        let before: String = (1..=20).map(|n| format!("{n}\n")).collect();
        let after = before.replacen("1\n", "one\n", 1).replace("20\n", "20");
        let text = unified(&before, &after);
        assert_eq!(text.matches("@@ -").count(), 2, "{text}");
        assert!(
            text.ends_with("-20\n+20\n\\ No newline at end of file\n"),
            "{text}"
        );
    }

    proptest! {
        #[test]
        fn the_lines_give_both_texts_back(before in "([abc]\n){0,12}[abc]?", after in "([abc]\n){0,12}[abc]?") {
            let lines = compare(&split(&before), &split(&after));
            let pick = |not: Kind| -> String { lines.iter().filter(|l| l.0 != not).map(|l| l.1).collect() };
            prop_assert_eq!(pick(Kind::Add), &before[..]);
            prop_assert_eq!(pick(Kind::Remove), &after[..]);
            prop_assert_eq!(unified(&before, &after).is_empty(), before == after);
        }
    }
}
