//! containerd's filters, as far as it sends any to a snapshotter: `labels."a.b"==c,parent=="d"`, conditions that must all hold.
//!
//! Fields are `name`, `parent`, `kind` and `labels.<key>`; `==`, `!=`, or a field alone, which must be there. Anything else is refused
//! rather than understood wrongly.

use thiserror::Error;

use super::catalog::{Kind, Snapshot};

/// Conditions in a filter, and filters in a request.
const CONDITIONS_MAX: usize = 64;

/// A filter that is not understood.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the filter {0:?} is not understood")]
pub struct FilterError(String);

/// Filters, of which one must fit; none fits all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters(Vec<Vec<Condition>>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Condition {
    field: Vec<String>,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    There,
    Equal(String),
    Unequal(String),
}

impl Filters {
    /// Reads filters.
    ///
    /// # Errors
    /// One of them is not understood.
    pub fn parse(filters: &[String]) -> Result<Self, FilterError> {
        if filters.len() > CONDITIONS_MAX {
            return Err(FilterError(format!("{} filters", filters.len())));
        }
        let parse =
            |text: &String| conditions(text).ok_or_else(|| FilterError(text.chars().take(256).collect()));
        filters.iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// Whether one of them fits a snapshot.
    pub fn fit(&self, name: &str, snapshot: &Snapshot) -> bool {
        self.0.is_empty()
            || self
                .0
                .iter()
                .any(|all| all.iter().all(|one| one.fits(name, snapshot)))
    }
}

impl Condition {
    fn fits(&self, name: &str, snapshot: &Snapshot) -> bool {
        let value = match self
            .field
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>()
            .as_slice()
        {
            ["name"] => Some(name),
            ["parent"] => Some(snapshot.parent.as_deref().unwrap_or_default()),
            ["kind"] => Some(match snapshot.kind {
                Kind::View => "view",
                Kind::Active => "active",
                Kind::Committed => "committed",
            }),
            ["labels", key @ ..] => snapshot.labels.get(&key.join(".")).map(String::as_str),
            _ => None,
        };
        match &self.test {
            Test::There => value.is_some_and(|value| !value.is_empty()),
            Test::Equal(wanted) => value == Some(wanted),
            Test::Unequal(other) => value != Some(other),
        }
    }
}

/// All of a filter.
fn conditions(text: &str) -> Option<Vec<Condition>> {
    let (mut rest, mut found) = (text, Vec::new());
    while !rest.is_empty() {
        let (field, behind) = field(rest)?;
        let (test, behind) = test(behind)?;
        found.push(Condition { field, test });
        rest = match behind.strip_prefix(',') {
            Some(more) if !more.is_empty() => more,
            None if behind.is_empty() => behind,
            _ => return None,
        };
        if found.len() > CONDITIONS_MAX {
            return None;
        }
    }
    Some(found)
}

fn field(text: &str) -> Option<(Vec<String>, &str)> {
    let (mut rest, mut parts) = (text, Vec::new());
    loop {
        let (part, behind) = match rest.starts_with('"') {
            true => quoted(rest)?,
            false => {
                let end = rest
                    .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
                    .unwrap_or(rest.len());
                let (part, behind) = rest.split_at_checked(end)?;
                (part.to_owned(), behind)
            }
        };
        if part.is_empty() || parts.len() > CONDITIONS_MAX {
            return None;
        }
        parts.push(part);
        match behind.strip_prefix('.') {
            Some(more) => rest = more,
            None => return Some((parts, behind)),
        }
    }
}

fn test(text: &str) -> Option<(Test, &str)> {
    let (test, rest): (fn(String) -> Test, _) = match (text.strip_prefix("=="), text.strip_prefix("!=")) {
        (Some(rest), _) => (Test::Equal, rest),
        (_, Some(rest)) => (Test::Unequal, rest),
        _ => return Some((Test::There, text)),
    };
    let (value, rest) = match rest.starts_with('"') {
        true => quoted(rest)?,
        false => {
            let (value, rest) = rest.split_at_checked(rest.find(',').unwrap_or(rest.len()))?;
            (value.to_owned(), rest)
        }
    };
    Some((test(value), rest))
}

/// A text in quotes, with Go's short escapes of quotes and backslashes.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut chars = text.strip_prefix('"')?.chars();
    let mut value = String::new();
    loop {
        match chars.next()? {
            '"' => return Some((value, chars.as_str())),
            '\\' => match chars.next()? {
                escaped @ ('"' | '\\') => value.push(escaped),
                _ => return None,
            },
            plain => value.push(plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::super::catalog::{Role, Usage};
    use super::*;

    fn snapshot() -> Snapshot {
        Snapshot {
            id: 1,
            kind: Kind::Committed,
            parent: Some("ns/1/a b".to_owned()),
            labels: [("containerd.io/snapshot.ref".to_owned(), "sha256:12".to_owned())].into(),
            created: SystemTime::UNIX_EPOCH,
            updated: SystemTime::UNIX_EPOCH,
            usage: Usage::default(),
            role: Role::Files,
        }
    }

    #[test]
    fn containerds_own_filters_are_understood() {
        for (filter, fits) in [
            (
                r#"labels."containerd.io/snapshot.ref"==sha256:12,parent=="ns/1/a b""#,
                true,
            ),
            (
                r#"labels."containerd.io/snapshot.ref"==sha256:12,parent=="ns/1/a""#,
                false,
            ),
            (
                r#"labels."containerd.io/snapshot.ref"==sha256:13,parent=="ns/1/a b""#,
                false,
            ),
            (r#"labels."containerd.io/snapshot.ref""#, true),
            ("labels.other", false),
            ("kind==committed", true),
            ("kind!=committed", false),
            ("name==n", true),
            (r#"name=="n\"""#, false),
            ("", true),
        ] {
            let filters = Filters::parse(&[filter.to_owned()]).unwrap();
            assert_eq!(filters.fit("n", &snapshot()), fits, "{filter}");
        }
        assert!(Filters::default().fit("n", &snapshot()));
        let either = ["name==x".to_owned(), "name==n".to_owned()];
        assert!(Filters::parse(&either).unwrap().fit("n", &snapshot()));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for filter in [
            "name~=n",
            "name==n,",
            "name=",
            ".name",
            "\"name",
            "name==\"\\x\"",
            ",",
            "a b",
        ] {
            assert!(Filters::parse(&[filter.to_owned()]).is_err(), "{filter}");
        }
        assert!(Filters::parse(&vec![String::new(); 65]).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-z.,=!\"\\\\]{0,24}") {
            let _ = Filters::parse(&[text]);
        }

        #[test]
        fn a_quoted_text_comes_back(value in ".{0,40}") {
            let escaped = value.replace('\\', "\\\\").replace('"', "\\\"");
            let text = format!("\"{escaped}\"rest");
            prop_assert_eq!(quoted(&text), Some((value, "rest")));
        }
    }
}
