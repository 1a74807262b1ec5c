//! "Did you mean": the known key that is nearest to an unknown one.

/// A key as people confuse it: `rate_limit`, `RATE-LIMIT` and `rateLimit` are one.
pub(super) fn normal(key: &str) -> String {
    key.chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect()
}

/// The key nearest to `wrong`, if it is near enough to be a slip.
pub(super) fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = normal(wrong);
    // A third of the letters may differ: more than that is another word.
    let far = wrong.chars().count() / 3 + 1;
    known
        .map(|key| (distance(&wrong, &normal(key)), key))
        .filter(|(distance, _)| *distance <= far)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, key)| key)
}

/// How many letters must be added, removed or changed to make one word of another.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    // Row i holds the distances of the first i letters of `one` to every beginning of `other`.
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, letter) in one.chars().enumerate() {
        let mut next = vec![i + 1];
        for ((pair, candidate), left) in row.windows(2).zip(&other).zip(0..) {
            let [diagonal, above] = pair else { continue };
            let changed = diagonal + usize::from(letter != *candidate);
            let beside = next.get(left).copied().unwrap_or(usize::MAX - 1);
            next.push(changed.min(above + 1).min(beside + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn finds_slips_and_no_other_words() {
        let known = || ["rateLimit", "address", "tls"].into_iter();
        assert_eq!(nearest("rate_limit", known()), Some("rateLimit"));
        assert_eq!(nearest("rateLimt", known()), Some("rateLimit"));
        assert_eq!(nearest("adress", known()), Some("address"));
        assert_eq!(nearest("tsl", known()), Some("tls"));
        assert_eq!(nearest("password", known()), None);
    }

    #[test]
    fn counts_edits() {
        for (one, other, edits) in [
            ("", "abc", 3),
            ("abc", "abc", 0),
            ("kitten", "sitting", 3),
            ("ab", "ba", 2),
        ] {
            assert_eq!(distance(one, other), edits, "{one} {other}");
            assert_eq!(distance(other, one), edits, "{other} {one}");
        }
    }

    proptest! {
        #[test]
        fn is_a_distance(a in "[ab]{0,6}", b in "[ab]{0,6}", c in "[ab]{0,6}") {
            prop_assert_eq!(distance(&a, &b) == 0, a == b);
            prop_assert!(distance(&a, &c) <= distance(&a, &b) + distance(&b, &c));
        }
    }
}
