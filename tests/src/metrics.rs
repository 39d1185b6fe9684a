//! A node's Prometheus text, and differences of it.

use std::collections::HashMap;

/// One reading of `/metrics`.
#[derive(Clone, Debug, Default)]
pub struct Metrics(HashMap<String, f64>);

impl Metrics {
    /// Reads the text format; comments and lines that are no samples are passed over.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let samples = text
            .lines()
            .filter(|l| !l.starts_with('#'))
            .filter_map(|line| {
                let (name, value) = line.rsplit_once(' ')?;
                Some((name.to_owned(), value.parse().ok()?))
            });
        Self(samples.collect())
    }

    /// The sum over all samples of `name` whose labels contain each of `labels`
    /// (as `key="value"`).
    ///
    /// # Panics
    /// No sample matches: a metric that is not there is not 0.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{v}\"")).collect();
        let of_name = |key: &str| {
            key == name
                || key
                    .strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with('{'))
        };
        let mut matching = self
            .0
            .iter()
            .filter(|(key, _)| of_name(key) && wanted.iter().all(|w| key.contains(w.as_str())))
            .map(|(_, value)| *value)
            .peekable();
        assert!(
            matching.peek().is_some(),
            "no metric {name} with {labels:?}"
        );
        matching.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::Metrics;

    #[test]
    fn sums_over_labels() {
        let m = Metrics::parse(
            "# HELP a b\na{x=\"1\",w=\"0\"} 2\na{x=\"1\",w=\"1\"} 3\na{x=\"2\",w=\"0\"} 5\nab 7\n",
        );
        assert_eq!(m.sum("a", &[]), 10.0);
        assert_eq!(m.sum("a", &[("x", "1")]), 5.0);
        assert_eq!(m.sum("ab", &[]), 7.0);
    }

    #[test]
    #[should_panic(expected = "no metric")]
    fn a_missing_metric_is_not_zero() {
        let _ = Metrics::parse("a 1\n").sum("b", &[]);
    }
}
