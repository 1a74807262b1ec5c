//! What happens to a request, by the address that it is for. Pure: the address is a text, nothing is connected to.

use darter_service::config::Problems;
use darter_types::Digest;
use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};
use url::{Position, Url};

use super::naming;

/// Bytes that a compiled expression may take.
const EXPRESSION_BYTES_MAX: usize = 1024 * 1024;
/// Rules that are looked at, one after the other, for each request.
const RULES_MAX: usize = 256;

/// One rule, as it is written down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct RuleConfig {
    /// A regular expression, looked for anywhere in `https://host/path?query` (the port where it is not the scheme's own).
    /// A tunnel that is not looked into counts as `https://host/`.
    pub url: String,
    /// What happens then.
    pub action: Action,
    /// The scheme, host and port that are asked instead, such as `https://mirror.example:5000`. The path, and what the
    /// client sends along, stay as they are. Not for tunnels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Parameters of the query that do not say which content is meant, such as those that sign an address. They are sent to
    /// the host as they are. Only where `url` names a digest, by a group `digest` (`sha256:…`) or `hex`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ignore_query: Vec<String>,
}

/// What happens to a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Contents that are named by a digest, at a path of the distribution specification or where the rule's expression finds it,
    /// are shared between nodes; all else is passed on.
    P2p,
    /// Passed on to the host itself.
    #[default]
    Direct,
    /// Refused with 403.
    Block,
}

/// The rules, ready for use.
#[derive(Debug, Default)]
pub(super) struct Rules(Vec<Rule>);

/// One rule.
#[derive(Debug)]
pub(super) struct Rule {
    url: Regex,
    pub(super) action: Action,
    pub(super) to: Option<Site>,
    pub(super) ignore_query: Vec<String>,
}

impl Rule {
    /// The digest that the rule finds in an address.
    pub(super) fn digest_in(&self, url: &str) -> Option<Digest> {
        naming::digest_in(&self.url, url)
    }
}

/// A scheme, a host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Site {
    pub(super) secure: bool,
    /// In lower case; IPv6 addresses in brackets.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Site {
    /// The site of an address, which may hold nothing that a site has not.
    pub(super) fn of(url: &Url) -> Option<Self> {
        let secure = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let plain = url.username().is_empty() && url.password().is_none();
        Some(Self {
            secure,
            host: url.host_str().filter(|_| plain)?.to_owned(),
            port: url.port_or_known_default()?,
        })
    }

    /// The site that `host:port` means, as CONNECT and `Host` write it.
    pub(super) fn of_authority(authority: &str, secure: bool) -> Option<Self> {
        let scheme = if secure { "https" } else { "http" };
        let url = Url::parse(&format!("{scheme}://{authority}/")).ok()?;
        (url[Position::BeforePath..] == *"/").then(|| Self::of(&url))?
    }

    /// `host`, and the port where it is not the scheme's own.
    pub(super) fn authority(&self) -> String {
        let default = if self.secure { 443 } else { 80 };
        if self.port == default {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The name that an image has where this site is its registry.
    pub(super) fn registry(&self) -> String {
        match self.port {
            // Clients that are told to speak http to their proxy name a registry so.
            80 | 443 => self.host.clone(),
            port => format!("{}:{port}", self.host),
        }
    }

    /// The address of a path (with its query) there.
    pub(super) fn url(&self, path_and_query: &str) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}{path_and_query}", self.authority())
    }
}

impl Rules {
    /// Compiles them.
    ///
    /// # Errors
    /// The first one that is wrong; [`check`] tells all.
    pub(super) fn new(rules: &[RuleConfig]) -> Result<Self, String> {
        let compiled = rules.iter().map(|rule| {
            Ok(Rule {
                url: expression(&rule.url)?,
                action: rule.action,
                to: rule.to.as_deref().map(site).transpose()?,
                ignore_query: rule.ignore_query.clone(),
            })
        });
        compiled.collect::<Result<_, String>>().map(Self)
    }

    /// The first rule for an address.
    pub(super) fn find(&self, url: &str) -> Option<&Rule> {
        self.0.iter().find(|rule| rule.url.is_match(url))
    }
}

/// Adds what is wrong with each.
pub(super) fn check(rules: &[RuleConfig], problems: &mut Problems) {
    if rules.len() > RULES_MAX {
        problems.add("rules", format!("must be at most {RULES_MAX}"));
    }
    for (index, rule) in rules.iter().enumerate() {
        let at = |key: &str| format!("rules.{index}.{key}");
        if rule.url.is_empty() {
            problems.add(
                &at("url"),
                "is missing: write a regular expression, such as ^https://a\\.example/",
            );
        } else if let Err(problem) = expression(&rule.url) {
            problems.add(&at("url"), problem);
        }
        if let Some(Err(problem)) = rule.to.as_deref().map(site) {
            problems.add(&at("to"), problem);
        }
        if rule.to.is_some() && rule.action == Action::Block {
            problems.add(&at("to"), "means nothing where the action is block; remove one");
        }
        check_naming(rule, &at, problems);
    }
}

/// What is wrong with how a rule finds digests.
fn check_naming(rule: &RuleConfig, at: &dyn Fn(&str) -> String, problems: &mut Problems) {
    let groups = expression(&rule.url).map_or([false; 2], |url| naming::names_digest(&url));
    let names = groups.contains(&true);
    if groups == [true; 2] {
        problems.add(&at("url"), "has both groups, digest and hex; remove one");
    }
    if names && rule.action != Action::P2p {
        let what = "names a digest, which means nothing but where the action is p2p";
        problems.add(&at("url"), what);
    }
    if !names && !rule.ignore_query.is_empty() {
        let what = "means nothing where no digest is known: let url find it by a group, (?<digest>sha256:[0-9a-f]{64}) or \
                    (?<hex>[0-9a-f]{64})";
        problems.add(&at("ignoreQuery"), what);
    }
    let bad = |name: &&String| name.is_empty() || name.contains(['&', '=', '?', '#', ' ']);
    if let Some(name) = rule.ignore_query.iter().find(bad) {
        problems.add(
            &at("ignoreQuery"),
            format!("{name:?} is not the name of a parameter, as an address has it before the ="),
        );
    }
}

fn expression(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(text)
        .size_limit(EXPRESSION_BYTES_MAX)
        .build()
        .map_err(|problem| format!("is not a regular expression: {problem}"))
}

fn site(text: &str) -> Result<Site, String> {
    let wrong = || format!("{text:?} is not https://host:port or http://host:port");
    let url = Url::parse(text).map_err(|_| wrong())?;
    let bare = matches!(&url[Position::BeforePath..], "" | "/");
    Site::of(&url).filter(|_| bare).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(url: &str, action: Action, to: Option<&str>) -> RuleConfig {
        RuleConfig {
            url: url.to_owned(),
            action,
            to: to.map(str::to_owned),
            ignore_query: Vec::new(),
        }
    }

    #[test]
    fn the_first_rule_that_matches_counts() {
        let rules = [
            rule(r"^https://a\.test/private/", Action::Block, None),
            rule(r"^https://a\.test/", Action::P2p, Some("https://b.test:5000")),
            rule("", Action::Direct, None),
        ];
        let rules = Rules::new(&rules).unwrap();
        let found = |url: &str| rules.find(url).map(|rule| rule.action);
        assert_eq!(found("https://a.test/private/x"), Some(Action::Block));
        assert_eq!(found("https://a.test/x?y=1"), Some(Action::P2p));
        assert_eq!(found("https://axtest/"), Some(Action::Direct));
        let to = rules.find("https://a.test/x").unwrap().to.clone().unwrap();
        assert_eq!(to.url("/x?y=1"), "https://b.test:5000/x?y=1");
    }

    #[test]
    fn all_that_is_wrong_is_told() {
        let wrong = [
            rule("", Action::Direct, None),
            rule("[", Action::Direct, None),
            rule("x", Action::Direct, Some("b.test")),
            rule("x", Action::Direct, Some("https://u:p@b.test/")),
            rule("x", Action::Direct, Some("https://b.test/path")),
            rule("x", Action::Block, Some("https://b.test")),
            rule("(a{1000}){1000}", Action::Direct, None),
        ];
        let mut problems = Problems::new();
        check(&wrong, &mut problems);
        let keys: Vec<_> = problems.found().iter().map(|(key, _)| key.as_str()).collect();
        let expected = [
            "rules.0.url",
            "rules.1.url",
            "rules.2.to",
            "rules.3.to",
            "rules.4.to",
            "rules.5.to",
            "rules.6.url",
        ];
        assert_eq!(keys, expected);
    }

    #[test]
    fn digests_and_what_is_ignored_must_make_sense() {
        let naming = |url: &str, action: Action, ignored: &[&str]| RuleConfig {
            ignore_query: ignored.iter().map(|name| (*name).to_owned()).collect(),
            ..rule(url, action, None)
        };
        let wrong = [
            naming("(?<digest>a)(?<hex>b)", Action::P2p, &[]),
            naming("(?<hex>b)", Action::Direct, &[]),
            naming("x", Action::P2p, &["sig"]),
            naming("(?<hex>b)", Action::P2p, &["sig", "a=b"]),
            naming("(?<hex>b)", Action::P2p, &[""]),
        ];
        let mut problems = Problems::new();
        check(&wrong, &mut problems);
        let keys: Vec<_> = problems.found().iter().map(|(key, _)| key.as_str()).collect();
        let expected = [
            "rules.0.url",
            "rules.1.url",
            "rules.2.ignoreQuery",
            "rules.3.ignoreQuery",
            "rules.4.ignoreQuery",
        ];
        assert_eq!(keys, expected);
        let mut problems = Problems::new();
        check(&[naming("(?<hex>b)", Action::P2p, &["sig"])], &mut problems);
        assert!(problems.found().is_empty());
    }

    #[test]
    fn sites_have_one_form() {
        let of = |text: &str| Site::of_authority(text, true);
        assert_eq!(of("A.Test:443").unwrap().authority(), "a.test");
        assert_eq!(of("a.test:5000").unwrap().authority(), "a.test:5000");
        assert_eq!(of("[::1]:443").unwrap().authority(), "[::1]");
        // Addresses in disguise are seen as what they are.
        assert_eq!(of("2130706433:443").unwrap().host, "127.0.0.1");
        for wrong in [
            "",
            ":443",
            "a.test:99999",
            "u@a.test:443",
            "a.test/x:443",
            "a.test?x",
            "a b",
        ] {
            assert_eq!(of(wrong), None, "{wrong:?}");
        }
    }
}
