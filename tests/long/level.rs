//! When a series levels out: the rule, and proof that one that leaks breaks it.

/// How much a series may still grow over the last two thirds of its time.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// Of its level.
    pub share: f64,
    /// Or by so much, where that is more: of few, one more is a large share.
    pub absolute: f64,
}

/// What became of a series in the last two thirds of its time.
#[derive(Debug, Clone, Copy)]
pub struct Trend {
    /// The median.
    pub level: f64,
    /// By how much it grew, or fell.
    pub drift: f64,
}

const WINDOWS: usize = 8;

/// The first third is for what fills at the beginning. The rest is cut into windows; the median of each hides its spikes.
/// The median of the slopes between all pairs of them (Theil and Sen), over the whole time, is the drift.
///
/// # Panics
/// When there are too few values for windows.
pub fn trend(series: &[f64]) -> Trend {
    let settled = &series[series.len() / 3..];
    let length = settled.len() / WINDOWS;
    let windows: Vec<f64> = settled.chunks_exact(length).take(WINDOWS).map(median).collect();
    let slopes: Vec<f64> = (0..WINDOWS)
        .flat_map(|i| (i + 1..WINDOWS).map(move |j| (i, j)))
        .map(|(i, j)| (windows[j] - windows[i]) / (j - i) as f64)
        .collect();
    Trend { level: median(settled), drift: median(&slopes) * WINDOWS as f64 }
}

impl Bound {
    /// By how much a series of that level may grow.
    pub fn of(self, level: f64) -> f64 {
        self.absolute.max(self.share * level)
    }

    /// The same with so many times the room.
    pub fn times(self, slack: f64) -> Bound {
        Bound { share: self.share * slack, absolute: self.absolute * slack }
    }

    pub fn holds(self, trend: Trend) -> bool {
        trend.drift <= self.of(trend.level)
    }
}

pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    }
}

const BOUND: Bound = Bound { share: 0.02, absolute: 1.0 };

/// Twenty minutes, a value a second, around 30 with a noise of ±2.
fn noisy(shape: impl Fn(f64) -> f64) -> Vec<f64> {
    let noise = |n: usize| ((n * 7919) % 41) as f64 / 10.0 - 2.0;
    (0..1200).map(|second| 30.0 + noise(second) + shape(second as f64)).collect()
}

#[test]
fn what_stays_where_it_is_passes() {
    type Shape = fn(f64) -> f64;
    let rows: [(&str, Shape); 6] = [
        ("noise alone", |_| 0.0),
        ("what fills at first", |t| 20.0 * (1.0 - (-t / 100.0).exp())),
        ("a step in the first third", |t| if t > 350.0 { 10.0 } else { 0.0 }),
        ("a spike every minute", |t| if t % 60.0 < 5.0 { 40.0 } else { 0.0 }),
        ("a saw", |t| t % 40.0 / 10.0),
        ("what falls", |t| -t / 100.0),
    ];
    for (name, shape) in rows {
        let trend = trend(&noisy(shape));
        assert!(BOUND.holds(trend), "{name}: {trend:?}");
    }
}

#[test]
fn what_leaks_is_found() {
    type Shape = fn(f64) -> f64;
    let rows: [(&str, Shape); 5] = [
        ("a hundred bytes in a second, in units of 64 KiB", |t| t * 0.0016),
        ("the same in steps", |t| (t / 60.0).floor() * 0.1),
        ("the same below a saw and spikes", |t| t * 0.0016 + t % 40.0 / 10.0 + if t % 60.0 < 5.0 { 40.0 } else { 0.0 }),
        ("a step when it should long be level", |t| if t > 800.0 { 2.0 } else { 0.0 }),
        ("ever slower, and never level", |t| 3.0 * (1.0 + t / 60.0).ln()),
    ];
    for (name, shape) in rows {
        let trend = trend(&noisy(shape));
        assert!(!BOUND.holds(trend), "{name}: {trend:?}");
    }
}

#[test]
fn a_leak_is_measured() {
    let trend = trend(&noisy(|t| t / 100.0));
    assert!((trend.drift - 8.0).abs() < 0.3, "8 in the last 800 s: {trend:?}");
}
