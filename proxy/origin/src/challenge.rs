//! What a registry's 401 asks for: `WWW-Authenticate` by RFC 9110 section 11.6.1, with the parameters of the
//! distribution project's token specification.
//!
//! Only reading; what is done about it is `token`'s. The text comes from a stranger: whatever cannot be read without
//! doubt is left out, and nothing panics.

use std::collections::BTreeMap;

use http::HeaderValue;

/// Longer values are not looked at: none that a registry sends has more.
const VALUE_BYTES_MAX: usize = 8192;

/// A challenge to get a token (`Bearer`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// The address that gives tokens.
    pub realm: String,
    /// The name of the service that the token is for.
    pub service: Option<String>,
    /// What the token must open, several separated by spaces.
    pub scope: Option<String>,
}

/// The first complete `Bearer` challenge among these values.
pub fn bearer<'a>(values: impl IntoIterator<Item = &'a HeaderValue>) -> Option<Bearer> {
    values
        .into_iter()
        .filter(|value| value.len() <= VALUE_BYTES_MAX)
        .filter_map(|value| value.to_str().ok())
        .flat_map(challenges)
        .find_map(into_bearer)
}

fn into_bearer(mut challenge: Challenge) -> Option<Bearer> {
    let named = challenge.scheme.eq_ignore_ascii_case("bearer") && !challenge.ambiguous;
    let realm = challenge
        .parameters
        .remove("realm")
        .filter(|realm| named && !realm.is_empty())?;
    let mut filled = |name| {
        challenge
            .parameters
            .remove(name)
            .filter(|value| !value.is_empty())
    };
    Some(Bearer {
        realm,
        service: filled("service"),
        scope: filled("scope"),
    })
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Challenge {
    scheme: String,
    /// Names in lower case.
    parameters: BTreeMap<String, String>,
    /// A parameter came twice.
    ambiguous: bool,
}

/// All challenges of one value, up to the first thing that cannot be read. A `token68` reads as a scheme of its own,
/// which does no harm: nobody asks for it.
fn challenges(text: &str) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    let mut rest = Text(text);
    while let Some(name) = rest.name() {
        if !rest.take('=') {
            found.push(Challenge {
                scheme: name.to_owned(),
                ..Challenge::default()
            });
            continue;
        }
        let (value, challenge) = (rest.value(), found.last_mut());
        match (value, challenge) {
            (Some(value), Some(challenge)) => {
                let before = challenge.parameters.insert(name.to_ascii_lowercase(), value);
                challenge.ambiguous |= before.is_some();
            }
            _ => {
                found.pop();
                break;
            }
        }
    }
    found
}

/// What is left to read.
struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    /// The next token, whatever spaces and commas stand before it.
    fn name(&mut self) -> Option<&'a str> {
        self.0 = self.0.trim_start_matches([' ', '\t', ',']);
        self.token()
    }

    fn token(&mut self) -> Option<&'a str> {
        let end = self.0.find(|c: char| !is_token(c)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at_checked(end)?;
        self.0 = rest;
        (!token.is_empty()).then_some(token)
    }

    /// Whether `wanted` is next, after spaces; then it is taken.
    fn take(&mut self, wanted: char) -> bool {
        let trimmed = self.0.trim_start_matches([' ', '\t']);
        let Some(rest) = trimmed.strip_prefix(wanted) else {
            return false;
        };
        self.0 = rest;
        true
    }

    /// A token or a quoted string.
    fn value(&mut self) -> Option<String> {
        if !self.take('"') {
            self.0 = self.0.trim_start_matches([' ', '\t']);
            return self.token().map(str::to_owned);
        }
        let mut value = String::new();
        let mut chars = self.0.chars();
        loop {
            match chars.next()? {
                '"' => break,
                '\\' => value.push(chars.next()?),
                other => value.push(other),
            }
        }
        self.0 = chars.as_str();
        Some(value)
    }
}

/// `tchar` of RFC 9110, and what `token68` has beyond it but for `=`.
fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/".contains(c)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Option<Bearer> {
        bearer([&HeaderValue::from_str(text).unwrap()])
    }

    fn wanted(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Bearer> {
        Some(Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        })
    }

    #[test]
    fn what_registries_send() {
        let hub = concat!(
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io","#,
            r#"scope="repository:library/nginx:pull",error="insufficient_scope""#
        );
        assert_eq!(
            read(hub),
            wanted(
                "https://auth.docker.io/token",
                Some("registry.docker.io"),
                Some("repository:library/nginx:pull")
            )
        );
        assert_eq!(
            read(r#"bearer REALM = "r" , Service=s"#),
            wanted("r", Some("s"), None)
        );
        assert_eq!(
            read(r#"Basic realm="x", Bearer realm="r""#),
            wanted("r", None, None)
        );
        assert_eq!(
            read(r#"Negotiate YII=, Bearer realm="a\"b",scope="""#),
            None,
            "token68 padding is in doubt"
        );
        assert_eq!(
            read(r#"Negotiate YII, Bearer realm="a\"b",scope="""#),
            wanted(r#"a"b"#, None, None)
        );
    }

    #[test]
    fn what_is_in_doubt_is_no_challenge() {
        for text in [
            "",
            "Basic realm=\"x\"",
            "Bearer",
            "Bearer realm=\"\"",
            "Bearer realm=\"open",
            "Bearer realm=\"a\",realm=\"b\"",
            "Bearer service=\"s\"",
            "realm=\"r\"",
            "=,=",
            "Bearer realm=\"x\\",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        let long = format!("Bearer realm=\"{}\"", "r".repeat(VALUE_BYTES_MAX));
        assert_eq!(read(&long), None);
    }

    #[test]
    fn several_values() {
        let values = [
            HeaderValue::from_static("Basic realm=\"b\""),
            HeaderValue::from_static("Bearer realm=\"r\""),
        ];
        assert_eq!(bearer(&values), wanted("r", None, None));
    }

    proptest! {
        #[test]
        fn never_panics(text in "[ -~]{0,80}") {
            let _ = read(&text);
        }

        #[test]
        fn likely_text_never_panics(text in r#"(Bearer|Basic|realm|=|,|"|\\| |x|scope){0,20}"#) {
            let _ = read(&text);
        }

        #[test]
        fn what_is_quoted_is_read_back(
            realm in "[ -~]{1,40}", service in "[ -~]{1,20}", scope in "[ -~]{1,40}", basic: bool,
        ) {
            let quote = |text: &str| text.replace('\\', r"\\").replace('"', "\\\"");
            let before = if basic { "Basic realm=\"a, b\", " } else { "" };
            let text = format!(
                "{before}Bearer realm=\"{}\", service=\"{}\",scope=\"{}\"",
                quote(&realm), quote(&service), quote(&scope)
            );
            prop_assert_eq!(read(&text), wanted(&realm, Some(&service), Some(&scope)));
        }
    }
}
