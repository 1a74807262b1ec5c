//! Metrics as text: for scrapes, and for the reference in the documentation.
//!
//! A component registers its metrics in a registry that is handed to it; there is no global one. Names are
//! `darter_<role>_<noun>_<unit>`, labels come from closed sets.

use prometheus_client::registry::Registry;

/// What `/metrics` answers with.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One metric, as its reference shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Described {
    /// The name as it is queried: a counter's ends in `_total`.
    pub name: String,
    /// `counter`, `gauge`, `histogram`, `info`.
    pub kind: String,
    /// What it says.
    pub help: String,
}

/// All metrics in the OpenMetrics text format.
pub fn encode(registry: &Registry) -> String {
    let mut text = String::new();
    if let Err(error) = prometheus_client::encoding::text::encode(&mut text, registry) {
        // Only a collector that refuses to write can bring this about.
        tracing::warn!(%error, "metrics could not be encoded");
    }
    text
}

/// All metrics in what [`encode`] made, by name. A family that has no member yet is not in it: components create the members
/// of their closed label sets at start, so that a rate is seen from its first event on.
pub fn reference(text: &str) -> Vec<Described> {
    let mut described: Vec<Described> = Vec::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            // The encoder ends each help with a full stop of its own.
            let help = help.strip_suffix('.').unwrap_or(help).to_owned();
            described.push(Described {
                name: name.to_owned(),
                kind: String::new(),
                help,
            });
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
            && let Some(last) = described.last_mut().filter(|last| last.name == name)
        {
            kind.clone_into(&mut last.kind);
            match kind {
                "counter" => last.name.push_str("_total"),
                "info" => last.name.push_str("_info"),
                _ => {}
            }
        }
    }
    described.sort();
    described
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::family::Family;
    use prometheus_client::metrics::gauge::Gauge;

    #[test]
    fn the_reference_has_names_as_they_are_queried() {
        let mut registry = Registry::default();
        let pulls = Counter::<u64>::default();
        registry.register("darter_proxy_pulls", "Pulls that ended", pulls.clone());
        registry.register(
            "darter_proxy_store_bytes",
            "Bytes on disk",
            Gauge::<i64>::default(),
        );
        let family = Family::<Vec<(&str, &str)>, Counter>::default();
        drop(family.get_or_create(&vec![("code", "200")]));
        registry.register("darter_proxy_answers", "Answers", family);
        pulls.inc_by(3);
        let text = encode(&registry);
        assert!(text.contains("darter_proxy_pulls_total 3\n"));
        let rows: Vec<String> = reference(&text)
            .into_iter()
            .map(|row| format!("{} {} {}", row.name, row.kind, row.help))
            .collect();
        assert_eq!(
            rows,
            [
                "darter_proxy_answers_total counter Answers",
                "darter_proxy_pulls_total counter Pulls that ended",
                "darter_proxy_store_bytes gauge Bytes on disk",
            ]
        );
    }
}
