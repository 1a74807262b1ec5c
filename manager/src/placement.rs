//! Which cluster a node belongs to, and why.
//!
//! What must hold: it depends on the node and the clusters alone, never on their order; what says more goes before what
//! says less: an address, then a host name, an idc, a location, and the default last. The longest fit of a kind wins.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use regex::Regex;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Longest pattern for host names, in bytes, and the memory that a compiled one may take.
const PATTERN_BYTES_MAX: usize = 512;
const PATTERN_MEMORY_MAX: usize = 256 * 1024;
/// Entries of one kind.
const ENTRIES_MAX: usize = 1024;

/// Which nodes a cluster is for. One without any is for those that are told to use it, or is the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct Scope {
    /// Networks, such as `10.1.0.0/16`.
    #[schema(value_type = Vec<String>)]
    pub cidrs: Vec<IpNet>,
    /// Regular expressions that fit whole host names.
    pub hostnames: Vec<String>,
    /// Data centres, as nodes write them.
    pub idcs: Vec<String>,
    /// Places from wide to narrow, such as `europe|berlin`: one is for all places in it.
    pub locations: Vec<String>,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is what its name says")]
pub struct About {
    pub address: IpAddr,
    pub hostname: String,
    pub idc: String,
    pub location: String,
}

/// Why a cluster was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The node's address lies in this network.
    Cidr(IpNet),
    /// The node's name fits this pattern.
    Hostname(String),
    /// The node is in this data centre.
    Idc(String),
    /// The node is at this place.
    Location(String),
    /// Nothing fits, and the cluster is the default.
    Default,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cidr(cidr) => write!(f, "its address is in {cidr}"),
            Self::Hostname(pattern) => write!(f, "its host name fits {pattern}"),
            Self::Idc(idc) => write!(f, "its idc is {idc}"),
            Self::Location(location) => write!(f, "its location is in {location}"),
            Self::Default => f.write_str("no cluster is for it, and this one is the default"),
        }
    }
}

/// Clusters to choose from, with their patterns ready: those of all nodes' names are made once and not for each node.
#[derive(Debug, Default)]
pub struct Places(Vec<Place>);

#[derive(Debug)]
struct Place {
    name: String,
    is_default: bool,
    scope: Scope,
    /// Those of the scope's host names, in their order; `None` for one that a later release took.
    patterns: Vec<Option<Regex>>,
}

impl Places {
    /// Of clusters by name, whether it is the default, and scope.
    pub fn new<'a>(clusters: impl Iterator<Item = (&'a str, bool, &'a Scope)>) -> Self {
        let place = |(name, is_default, scope): (&str, bool, &Scope)| Place {
            name: name.to_owned(),
            is_default,
            scope: scope.clone(),
            patterns: scope.hostnames.iter().map(|name| compile(name).ok()).collect(),
        };
        Self(clusters.map(place).collect())
    }

    /// The cluster for a node, as its place among those given, with the reason. `None`: nothing fits, and there is no default.
    pub fn find(&self, about: &About) -> Option<(usize, Reason)> {
        let fits = self.0.iter().enumerate().filter_map(|(at, cluster)| {
            let default = cluster.is_default.then_some(((0, 0), Reason::Default));
            let (rank, reason) = cluster.fit(about).or(default)?;
            Some((rank, &cluster.name, at, reason))
        });
        let best = fits.max_by(|one, other| one.0.cmp(&other.0).then_with(|| other.1.cmp(one.1)));
        best.map(|(_, _, at, reason)| (at, reason))
    }
}

impl Scope {
    /// What is wrong with it: the entry, and why. Empty if it can be used.
    pub fn problems(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        for (place, count) in [
            ("cidrs", self.cidrs.len()),
            ("hostnames", self.hostnames.len()),
            ("idcs", self.idcs.len()),
            ("locations", self.locations.len()),
        ] {
            if count > ENTRIES_MAX {
                problems.push((place.to_owned(), format!("write at most {ENTRIES_MAX}")));
            }
        }
        for (at, pattern) in self.hostnames.iter().enumerate() {
            if let Err(what) = compile(pattern) {
                problems.push((format!("hostnames[{at}]"), what));
            }
        }
        for (place, entries) in [("idcs", &self.idcs), ("locations", &self.locations)] {
            for (at, entry) in entries.iter().enumerate() {
                if entry.trim().is_empty() {
                    problems.push((format!("{place}[{at}]"), "write a name".to_owned()));
                }
            }
        }
        problems
    }
}

impl Place {
    /// The best of its entries that fits, and how well: more is better.
    fn fit(&self, about: &About) -> Option<(Rank, Reason)> {
        let scope = &self.scope;
        let cidrs = scope.cidrs.iter().filter(|cidr| cidr.contains(&about.address));
        let cidrs = cidrs.map(|cidr| ((4, usize::from(cidr.prefix_len())), Reason::Cidr(*cidr)));
        let names = scope.hostnames.iter().zip(&self.patterns).filter(|(_, pattern)| {
            let pattern = pattern.as_ref();
            pattern.is_some_and(|pattern| pattern.is_match(&about.hostname))
        });
        let names = names.map(|(pattern, _)| ((3, pattern.len()), Reason::Hostname(pattern.clone())));
        let idcs = scope
            .idcs
            .iter()
            .filter(|idc| idc.eq_ignore_ascii_case(&about.idc));
        let idcs = idcs.map(|idc| ((2, 0), Reason::Idc(idc.clone())));
        let places = scope.locations.iter().filter_map(|place| {
            let depth = depth_within(place, &about.location)?;
            Some(((1, depth), Reason::Location(place.clone())))
        });
        let all = cidrs.chain(names).chain(idcs).chain(places);
        all.max_by(|(one, reason), (other, another)| {
            // Of two that fit alike, the same one whatever their order.
            one.cmp(other)
                .then_with(|| another.to_string().cmp(&reason.to_string()))
        })
    }
}

/// The kind of an entry, then how much it says.
type Rank = (u8, usize);

/// How many of its parts `place` shares with the beginning of `location`, if it is all of them.
fn depth_within(place: &str, location: &str) -> Option<usize> {
    let mut within = location.split('|').map(str::trim);
    let mut depth = 0;
    for part in place.split('|').map(str::trim) {
        if !within.next()?.eq_ignore_ascii_case(part) {
            return None;
        }
        depth += 1;
    }
    Some(depth)
}

fn compile(pattern: &str) -> Result<Regex, String> {
    if pattern.is_empty() || pattern.len() > PATTERN_BYTES_MAX {
        return Err(format!("write a pattern of 1 to {PATTERN_BYTES_MAX} bytes"));
    }
    let whole = format!("^(?:{pattern})$");
    let built = regex::RegexBuilder::new(&whole)
        .case_insensitive(true)
        .size_limit(PATTERN_MEMORY_MAX)
        .build();
    built.map_err(|error| format!("it is no regular expression: {error}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scope(cidrs: &[&str], hostnames: &[&str], idcs: &[&str], locations: &[&str]) -> Scope {
        let texts = |all: &[&str]| all.iter().map(|&text| text.to_owned()).collect();
        Scope {
            cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
            hostnames: texts(hostnames),
            idcs: texts(idcs),
            locations: texts(locations),
        }
    }

    fn about(address: &str, hostname: &str, idc: &str, location: &str) -> About {
        About {
            address: address.parse().unwrap(),
            hostname: hostname.to_owned(),
            idc: idc.to_owned(),
            location: location.to_owned(),
        }
    }

    fn chosen(clusters: &[(&str, bool, Scope)], about: &About) -> Option<(String, String)> {
        let places = Places::new(
            clusters
                .iter()
                .map(|(name, is_default, scope)| (*name, *is_default, scope)),
        );
        let (at, reason) = places.find(about)?;
        Some((clusters[at].0.to_owned(), reason.to_string()))
    }

    #[test]
    fn what_says_more_goes_first_and_the_reason_is_given() {
        let clusters = [
            ("default", true, Scope::default()),
            ("wide", false, scope(&["10.0.0.0/8"], &[], &[], &["europe"])),
            (
                "narrow",
                false,
                scope(&["10.1.0.0/16"], &[], &[], &["europe|berlin"]),
            ),
            ("named", false, scope(&[], &["gpu-[0-9]+"], &["b1"], &[])),
        ];
        for (node, name, reason) in [
            (
                about("10.1.2.3", "gpu-1", "b1", "europe|berlin|r1"),
                "narrow",
                "its address is in 10.1.0.0/16",
            ),
            (
                about("10.2.2.3", "gpu-1", "b1", ""),
                "wide",
                "its address is in 10.0.0.0/8",
            ),
            (
                about("192.0.2.1", "GPU-17", "b1", "europe"),
                "named",
                "its host name fits gpu-[0-9]+",
            ),
            (
                about("192.0.2.1", "my-gpu-17", "B1", "europe"),
                "named",
                "its idc is b1",
            ),
            (
                about("192.0.2.1", "a", "", "Europe | Berlin"),
                "narrow",
                "its location is in europe|berlin",
            ),
            (
                about("192.0.2.1", "a", "", "europe|paris"),
                "wide",
                "its location is in europe",
            ),
            (
                about("2001:db8::1", "a", "", "european"),
                "default",
                "no cluster is for it, and this one is the default",
            ),
        ] {
            assert_eq!(
                chosen(&clusters, &node),
                Some((name.to_owned(), reason.to_owned())),
                "{node:?}"
            );
        }
        assert_eq!(chosen(&clusters[1..], &about("192.0.2.1", "a", "", "asia")), None);
    }

    #[test]
    fn what_cannot_be_used_is_said() {
        let bad = scope(
            &[],
            &["gpu-[", "", &"x".repeat(513), "(a{1000}){1000}"],
            &[" "],
            &[""],
        );
        let places: Vec<String> = bad.problems().into_iter().map(|(place, _)| place).collect();
        let expected = [
            "hostnames[0]",
            "hostnames[1]",
            "hostnames[2]",
            "hostnames[3]",
            "idcs[0]",
            "locations[0]",
        ];
        assert_eq!(places, expected);
        assert_eq!(scope(&["10.0.0.0/8"], &["a.*"], &["b"], &["c|d"]).problems(), []);
    }

    proptest! {
        #[test]
        fn the_order_of_clusters_and_entries_does_not_matter(
            octets in any::<[u8; 4]>(),
            nets in proptest::collection::vec((any::<[u8; 4]>(), 0..=32_u8), 1..8),
            turn in 0..8_usize,
        ) {
            let net = |(octets, length): &([u8; 4], u8)| -> IpNet {
                IpNet::new(IpAddr::from(*octets), *length).unwrap().trunc()
            };
            let mut clusters: Vec<(String, Scope)> = nets
                .chunks(2)
                .enumerate()
                .map(|(at, nets)| {
                    let cidrs = nets.iter().map(net).collect();
                    (format!("cluster-{at}"), Scope { cidrs, ..Scope::default() })
                })
                .collect();
            let node = About { address: octets.into(), hostname: String::new(), idc: String::new(), location: String::new() };
            let look = |clusters: &[(String, Scope)]| {
                let all = Places::new(clusters.iter().map(|(name, scope)| (name.as_str(), false, scope)));
                all.find(&node).map(|(at, reason)| (clusters[at].0.clone(), reason))
            };
            let first = look(&clusters);
            let count = clusters.len();
            clusters.rotate_left(turn % count);
            clusters.iter_mut().for_each(|(_, scope)| scope.cidrs.reverse());
            prop_assert_eq!(&look(&clusters), &first);
            if let Some((_, Reason::Cidr(found))) = first {
                let longest = nets.iter().map(net).filter(|net| net.contains(&node.address)).map(|net| net.prefix_len());
                prop_assert_eq!(Some(found.prefix_len()), longest.max());
            }
        }
    }
}
