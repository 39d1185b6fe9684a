//! Spread: what pairs of connections allow to say.

/// Resamples of a bootstrap.
const RESAMPLES: usize = 2000;

/// Steele's splitmix64: the bootstrap's indices, the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// A value and the interval in which it lies with a stated confidence.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Estimate {
    /// Of the sample itself.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// `statistic` over `items`, with the percentile bootstrap's interval of this
/// `confidence` (Efron).
///
/// # Panics
/// There are no items.
pub fn bootstrap<T: Copy>(
    items: &[T],
    confidence: f64,
    statistic: impl Fn(&[T]) -> f64,
) -> Estimate {
    assert!(!items.is_empty(), "nothing was measured");
    let mut random = Random(items.len() as u64);
    let mut values: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let sample: Vec<T> = (0..items.len())
                .map(|_| items[random.below(items.len())])
                .collect();
            statistic(&sample)
        })
        .collect();
    values.sort_by(f64::total_cmp);
    let tail = (1.0 - confidence) / 2.0;
    Estimate {
        value: statistic(items),
        low: quantile(&values, tail),
        high: quantile(&values, 1.0 - tail),
    }
}

/// A quantile of sorted values, the nearest rank.
///
/// # Panics
/// There are no values.
#[must_use]
pub fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = (share * sorted.len() as f64).ceil() as usize;
    sorted[at.clamp(1, sorted.len()) - 1]
}

/// Lower quartile, median, upper quartile.
#[must_use]
pub fn quartiles(values: impl IntoIterator<Item = f64>) -> [f64; 3] {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    [0.25, 0.5, 0.75].map(|share| quantile(&sorted, share))
}

/// The mean.
#[must_use]
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_holds_the_mean_as_often_as_it_says() {
        let mut random = Random(7);
        let held = (0..400)
            .filter(|_| {
                let items: Vec<f64> = (0..50).map(|_| random.below(1001) as f64).collect();
                let e = bootstrap(&items, 0.95, mean);
                assert!(e.low <= e.value && e.value <= e.high);
                e.low <= 500.0 && 500.0 <= e.high
            })
            .count();
        assert!((360..=395).contains(&held), "{held} of 400");
    }

    #[test]
    fn quartiles_are_ranks() {
        assert_eq!(quartiles([4.0, 1.0, 3.0, 2.0]), [1.0, 2.0, 3.0]);
        assert_eq!(quantile(&[1.0, 2.0], 1.0), 2.0);
        assert_eq!(quantile(&[1.0, 2.0], 0.0), 1.0);
    }
}
