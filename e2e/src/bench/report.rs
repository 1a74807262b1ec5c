//! What was measured, as a table or as one JSON object a line.

#![expect(
    clippy::print_stdout,
    reason = "the output of the benchmarks is their purpose"
)]

use serde::Serialize;
use serde_json::Value;

/// Which way a number should go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Better {
    Lower,
    Higher,
}

/// One number. Without a target it is there to explain the others.
#[derive(Debug, Clone, Serialize)]
struct Measured {
    bench: &'static str,
    case: String,
    metric: &'static str,
    value: f64,
    unit: &'static str,
    target: Option<f64>,
    better: Better,
    ok: bool,
}

/// The last line.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    bench: &'static str,
    ok: bool,
    machine: &'a Value,
    commit: String,
}

/// The numbers of one benchmark, printed as they come.
#[derive(Debug)]
pub(super) struct Report {
    bench: &'static str,
    json: bool,
    all: Vec<Measured>,
}

impl Report {
    pub(super) fn new(bench: &'static str, json: bool) -> Self {
        if !json {
            println!(
                "{:<16} {:<28} {:>12} {:<8} {:>10}",
                "case", "metric", "value", "unit", "target"
            );
        }
        Self {
            bench,
            json,
            all: Vec::new(),
        }
    }

    /// A number that must not be above (or below) `target`.
    pub(super) fn target(
        &mut self,
        case: &str,
        metric: &'static str,
        value: f64,
        unit: &'static str,
        better: Better,
        target: f64,
    ) {
        self.add(case, metric, value, unit, better, Some(target));
    }

    /// A number that explains others.
    pub(super) fn note(
        &mut self,
        case: &str,
        metric: &'static str,
        value: f64,
        unit: &'static str,
        better: Better,
    ) {
        self.add(case, metric, value, unit, better, None);
    }

    fn add(
        &mut self,
        case: &str,
        metric: &'static str,
        value: f64,
        unit: &'static str,
        better: Better,
        target: Option<f64>,
    ) {
        let measured = Measured {
            bench: self.bench,
            case: case.to_owned(),
            metric,
            value: rounded(value),
            unit,
            target,
            better,
            ok: is_met(value, better, target),
        };
        self.print(&measured);
        self.all.push(measured);
    }

    fn print(&self, measured: &Measured) {
        if self.json {
            print_json(measured);
            return;
        }
        let sign = match measured.better {
            Better::Lower => "<=",
            Better::Higher => ">=",
        };
        let target = measured
            .target
            .map_or_else(String::new, |target| format!("{sign} {target}"));
        let mark = if measured.ok { "" } else { "  MISSED" };
        println!(
            "{:<16} {:<28} {:>12} {:<8} {:>10}{mark}",
            measured.case, measured.metric, measured.value, measured.unit, target
        );
    }

    /// The last line. Whether every target was met.
    pub(super) fn finish(self, machine: &Value) -> bool {
        let ok = self.all.iter().all(|measured| measured.ok);
        let commit = super::machine::commit();
        if self.json {
            print_json(&Summary {
                bench: self.bench,
                ok,
                machine,
                commit,
            });
        } else {
            println!("{} at {commit}: {}", self.bench, if ok { "ok" } else { "MISSED" });
            println!("machine: {machine}");
        }
        ok
    }
}

/// One object a line, its fields in the order in which they are declared.
fn print_json(line: &impl Serialize) {
    match serde_json::to_string(line) {
        Ok(text) => println!("{text}"),
        Err(_) => unreachable!("it is made of texts and finite numbers"),
    }
}

/// A number that is no number meets nothing.
fn is_met(value: f64, better: Better, target: Option<f64>) -> bool {
    match (target, better) {
        (None, _) => value.is_finite(),
        (Some(target), Better::Lower) => value <= target,
        (Some(target), Better::Higher) => value >= target,
    }
}

/// To four significant places: the rest is noise.
fn rounded(value: f64) -> f64 {
    if value.abs() >= 1000.0 {
        return value.round();
    }
    format!("{value:.3e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_met_on_their_own_side() {
        assert!(is_met(1.25, Better::Lower, Some(1.25)));
        assert!(!is_met(1.26, Better::Lower, Some(1.25)));
        assert!(is_met(0.80, Better::Higher, Some(0.80)));
        assert!(!is_met(0.79, Better::Higher, Some(0.80)));
        assert!(!is_met(f64::NAN, Better::Lower, Some(1.0)));
        assert!(is_met(5.0, Better::Lower, None));
    }

    #[test]
    fn four_places_are_kept() {
        assert_eq!(rounded(1.234_56), 1.235);
        assert_eq!(rounded(0.012_345_6), 0.012_35);
        assert_eq!(rounded(123_456.7), 123_457.0);
        assert_eq!(rounded(0.0), 0.0);
    }

    #[test]
    fn a_line_has_exactly_the_fields_that_are_promised() {
        let measured = Measured {
            bench: "swarm",
            case: "n8-512MiB".to_owned(),
            metric: "time_over_bound",
            value: 1.13,
            unit: "ratio",
            target: Some(1.25),
            better: Better::Lower,
            ok: true,
        };
        let wanted = concat!(
            r#"{"bench":"swarm","case":"n8-512MiB","metric":"time_over_bound","value":1.13,"#,
            r#""unit":"ratio","target":1.25,"better":"lower","ok":true}"#
        );
        assert_eq!(serde_json::to_string(&measured).unwrap(), wanted);
    }
}
