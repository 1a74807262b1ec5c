//! The score of one parent, part by part.

use darter_types::HostId;

/// How near two nodes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nearness {
    /// Nothing in common, or nothing known.
    Apart,
    /// The same data centre.
    Idc,
    /// The same zone.
    Zone,
    /// The same rack.
    Rack,
    /// The same machine.
    Host,
}

impl Nearness {
    fn value(self) -> f64 {
        match self {
            Self::Apart => 0.0,
            Self::Idc => 0.4,
            Self::Zone => 0.6,
            Self::Rack => 0.8,
            Self::Host => 1.0,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Apart => "elsewhere",
            Self::Idc => "same data centre",
            Self::Zone => "same zone",
            Self::Rack => "same rack",
            Self::Host => "same host",
        }
    }

    /// From the levels of their localities that are alike.
    pub fn of_shared_levels(levels: usize) -> Self {
        match levels {
            0 => Self::Apart,
            1 => Self::Idc,
            2 => Self::Zone,
            _ => Self::Rack,
        }
    }
}

/// What is known of one candidate, seen from the node that asks.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// Its name.
    pub name: &'a HostId,
    /// Share of its upload capacity that is free, 0 to 1, as it measured it.
    pub upload_free: f64,
    /// Bytes a second measured between the two localities, where somebody measured.
    pub throughput: Option<f64>,
    /// How near it is.
    pub nearness: Nearness,
    /// Share of the content that it holds, 0 to 1.
    pub held: f64,
    /// Share of requests to it that went well, 0 to 1.
    pub success: f64,
    /// It was excluded lately and has to show that it is well again.
    pub on_trial: bool,
    /// It is slow against its own history, and only chosen because nobody else holds all.
    pub slow: bool,
}

/// What each part of a score is worth; they need not add up to one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// Free upload capacity.
    pub upload_free: f64,
    /// Measured throughput against the best candidate's.
    pub throughput: f64,
    /// Nearness.
    pub nearness: f64,
    /// Share of the content held.
    pub held: f64,
    /// Past success.
    pub success: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            upload_free: 0.3,
            throughput: 0.2,
            nearness: 0.2,
            held: 0.2,
            success: 0.1,
        }
    }
}

/// Taken off the score of a node on trial.
const TRIAL: f64 = -0.1;
/// Taken off the score of a slow node: behind all others.
const SLOW: f64 = -1.0;

/// One candidate with its score.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// Which of the candidates.
    pub index: usize,
    /// Its score; higher is better.
    pub score: f64,
    /// The parts that it is made of, with what they stand for; see [`Ranked::reasons`].
    pub parts: Vec<(&'static str, f64)>,
}

impl Ranked {
    /// One line for each part, for people.
    pub fn reasons(&self) -> Vec<String> {
        self.parts
            .iter()
            .map(|(what, value)| format!("{what} {value:+.2}"))
            .collect()
    }
}

/// Ranks candidates, best first.
pub fn rank(weights: &Weights, candidates: &[Facts<'_>]) -> Vec<Ranked> {
    let best = candidates
        .iter()
        .filter_map(|facts| facts.throughput)
        .fold(0.0, f64::max);
    let mut ranked: Vec<Ranked> = candidates
        .iter()
        .enumerate()
        .map(|(index, facts)| score(weights, index, facts, best))
        .collect();
    let name = |ranked: &Ranked| candidates.get(ranked.index).map(|facts| facts.name);
    ranked.sort_by(|a, b| {
        b.score
            .total_cmp(&a.score)
            .then_with(|| name(a).cmp(&name(b)))
            .then(a.index.cmp(&b.index))
    });
    ranked
}

fn score(weights: &Weights, index: usize, facts: &Facts<'_>, best: f64) -> Ranked {
    // What nobody has measured counts as middling, so that it gets measured.
    let throughput = match facts.throughput {
        Some(measured) if best > 0.0 => ("measured throughput", (measured / best).clamp(0.0, 1.0)),
        _ => ("throughput not measured", 0.5),
    };
    let mut parts = vec![
        ("free upload", weights.upload_free * share(facts.upload_free)),
        (throughput.0, weights.throughput * throughput.1),
        (facts.nearness.as_str(), weights.nearness * facts.nearness.value()),
        ("pieces held", weights.held * share(facts.held)),
        ("past success", weights.success * share(facts.success)),
    ];
    if facts.on_trial {
        parts.push(("on trial", TRIAL));
    }
    if facts.slow {
        parts.push(("slow against its history", SLOW));
    }
    Ranked {
        index,
        score: parts.iter().map(|(_, value)| value).sum(),
        parts,
    }
}

/// A number as a share; what is not one counts as none.
fn share(value: f64) -> f64 {
    if value.is_nan() {
        0.0
    } else {
        value.clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn facts(name: &HostId) -> Facts<'_> {
        Facts {
            name,
            upload_free: 0.5,
            throughput: None,
            nearness: Nearness::Apart,
            held: 0.5,
            success: 0.5,
            on_trial: false,
            slow: false,
        }
    }

    fn order(candidates: &[Facts<'_>]) -> Vec<String> {
        rank(&Weights::default(), candidates)
            .iter()
            .map(|ranked| candidates[ranked.index].name.to_string())
            .collect()
    }

    #[test]
    fn each_part_moves_a_candidate_up() {
        let (a, b): (HostId, HostId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let better: [fn(&mut Facts<'_>); 5] = [
            |facts| facts.upload_free = 0.9,
            |facts| facts.nearness = Nearness::Idc,
            |facts| facts.held = 1.0,
            |facts| facts.success = 1.0,
            |facts| facts.throughput = Some(1e9),
        ];
        assert_eq!(order(&[facts(&b), facts(&a)]), ["a", "b"], "ties go by name");
        for improve in better {
            let mut good = facts(&b);
            improve(&mut good);
            assert_eq!(order(&[facts(&a), good]), ["b", "a"]);
        }
        for worsen in [(|facts| facts.slow = true) as fn(&mut Facts<'_>), |facts| {
            facts.on_trial = true
        }] {
            let mut bad = facts(&a);
            worsen(&mut bad);
            assert_eq!(order(&[bad, facts(&b)]), ["b", "a"]);
        }
    }

    #[test]
    fn nearer_is_better_level_by_level() {
        let name: HostId = "a".parse().unwrap();
        let scores: Vec<f64> = [
            Nearness::Apart,
            Nearness::Idc,
            Nearness::Zone,
            Nearness::Rack,
            Nearness::Host,
        ]
        .into_iter()
        .map(|nearness| {
            rank(
                &Weights::default(),
                &[Facts {
                    nearness,
                    ..facts(&name)
                }],
            )[0]
            .score
        })
        .collect();
        assert!(scores.is_sorted_by(|a, b| a < b), "{scores:?}");
    }

    #[test]
    fn a_choice_says_why() {
        let name: HostId = "a".parse().unwrap();
        let near = Facts {
            nearness: Nearness::Rack,
            ..facts(&name)
        };
        let reasons = rank(&Weights::default(), &[near])[0].reasons();
        assert_eq!(
            reasons,
            [
                "free upload +0.15",
                "throughput not measured +0.10",
                "same rack +0.16",
                "pieces held +0.10",
                "past success +0.05"
            ]
        );
    }

    fn number() -> impl Strategy<Value = f64> {
        prop_oneof![0.0..1.0, Just(f64::NAN), Just(f64::INFINITY), -1e9..1e9]
    }

    proptest! {
        #[test]
        fn the_order_is_total_and_does_not_depend_on_the_order_of_candidates(
            rows in prop::collection::vec((number(), prop::option::of(0.0..1e10), 0usize..4, number(), number(), any::<bool>()), 1..20),
        ) {
            let names: Vec<HostId> = (0..rows.len()).map(|n| format!("host-{n}").parse().unwrap()).collect();
            let candidates: Vec<Facts<'_>> = names.iter().zip(&rows).map(|(name, row)| Facts {
                name,
                upload_free: row.0,
                throughput: row.1,
                nearness: Nearness::of_shared_levels(row.2),
                held: row.3,
                success: row.4,
                on_trial: row.5,
                slow: false,
            }).collect();
            let mut reversed = candidates.clone();
            reversed.reverse();
            let once = order(&candidates);
            prop_assert_eq!(&once, &order(&reversed));
            let unique: std::collections::BTreeSet<_> = once.iter().collect();
            prop_assert_eq!(unique.len(), candidates.len());
        }
    }
}
