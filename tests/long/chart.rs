//! Draws a run: panels of lines above one axis of time, and what happened when. In: values. Out: an SVG by itself.

use std::fmt::Write;

use crate::level::median;

/// Distinct for those who see fewer colours, too (Okabe and Ito).
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#aa4499"];
const WIDTH: f64 = 960.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const PANEL: f64 = 120.0;
/// Between two panels, for the title of the lower one.
const GAP: f64 = 34.0;
const ROW: f64 = 16.0;
/// Values of a line: as many as can be told apart.
const POINTS: usize = 300;

pub struct Panel {
    pub title: &'static str,
    pub lines: Vec<Line>,
}

pub struct Line {
    pub name: &'static str,
    /// One for each time.
    pub values: Vec<f64>,
}

/// A row of what happened.
pub struct Row {
    pub name: &'static str,
    /// From when to when, in seconds.
    pub spans: Vec<(f64, f64)>,
}

/// `times` in seconds from the beginning; `marks`: words at a time, with a line through all panels.
pub fn draw(title: &str, times: &[f64], panels: &[Panel], rows: &[Row], marks: &[(f64, &str)]) -> String {
    let end = times.last().copied().unwrap_or(1.0).max(1.0);
    let top = 62.0;
    let panels_top = top + rows.len() as f64 * ROW + GAP;
    let bottom = panels_top + panels.len() as f64 * (PANEL + GAP) - GAP;
    let mut chart = Chart { svg: String::new(), end };
    let height = bottom + 46.0;
    chart.put(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\" fill=\"#333\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>"
    ));
    chart.put(format_args!("<text x=\"{LEFT}\" y=\"24\" font-size=\"15\" font-weight=\"bold\">{title}</text>"));
    for (at, words) in marks {
        let x = chart.x(*at);
        chart.put(format_args!("<path d=\"M{x:.1} 48V{bottom}\" stroke=\"#999\" stroke-dasharray=\"3 3\"/>"));
        chart.put(format_args!("<text x=\"{x:.1}\" y=\"44\" text-anchor=\"middle\" fill=\"#666\">{words}</text>"));
    }
    for (index, row) in rows.iter().enumerate() {
        chart.row(row, top + index as f64 * ROW);
    }
    for (index, panel) in panels.iter().enumerate() {
        chart.panel(panel, times, panels_top + index as f64 * (PANEL + GAP));
    }
    chart.time_axis(bottom);
    chart.svg.push_str("</svg>\n");
    chart.svg
}

struct Chart {
    svg: String,
    /// Of the time, in seconds.
    end: f64,
}

impl Chart {
    fn put(&mut self, element: std::fmt::Arguments<'_>) {
        writeln!(self.svg, "{element}").expect("a String takes everything");
    }

    fn x(&self, seconds: f64) -> f64 {
        LEFT + seconds / self.end * (WIDTH - LEFT - RIGHT)
    }

    fn row(&mut self, row: &Row, y: f64) {
        let middle = y + ROW / 2.0 + 4.0;
        self.put(format_args!("<text x=\"{:.1}\" y=\"{middle}\" text-anchor=\"end\">{}</text>", LEFT - 8.0, row.name));
        let mut path = String::new();
        for (from, to) in &row.spans {
            let (from, to) = (self.x(*from), self.x(*to));
            // Wide enough to be seen.
            write!(path, "M{from:.1} {}h{:.1}", y + ROW / 2.0, (to - from).max(1.5))
                .expect("a String takes everything");
        }
        self.put(format_args!("<path d=\"{path}\" stroke=\"#555\" stroke-width=\"9\"/>"));
    }

    fn panel(&mut self, panel: &Panel, times: &[f64], y: f64) {
        self.put(format_args!(
            "<text x=\"{LEFT}\" y=\"{:.1}\" font-size=\"12\" font-weight=\"bold\">{}</text>",
            y - 8.0,
            panel.title
        ));
        let lines: Vec<_> = panel.lines.iter().map(|line| thinned(times, &line.values)).collect();
        let largest = lines.iter().flatten().map(|(_, value)| *value).fold(0.0, f64::max);
        let step = step(largest);
        let top = step * (largest / step).ceil().max(1.0);
        let of = |value: f64| y + PANEL * (1.0 - value / top);
        let mut grid = 0.0;
        while grid <= top + step / 2.0 {
            let (at, right) = (of(grid), WIDTH - RIGHT);
            self.put(format_args!("<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#e3e3e3\"/>"));
            self.put(format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{grid}</text>",
                LEFT - 8.0,
                at + 4.0
            ));
            grid += step;
        }
        let mut legend = WIDTH - RIGHT;
        for ((line, points), colour) in panel.lines.iter().zip(&lines).zip(COLOURS).rev() {
            let points: Vec<_> =
                points.iter().map(|(time, value)| format!("{:.1},{:.1}", self.x(*time), of(*value))).collect();
            self.put(format_args!(
                "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.4\" points=\"{}\"/>",
                points.join(" ")
            ));
            // The only line has the panel's name.
            if panel.lines.len() > 1 {
                let name = line.name;
                let at = y - 8.0;
                self.put(format_args!(
                    "<text x=\"{legend}\" y=\"{at}\" text-anchor=\"end\" fill=\"{colour}\">{name}</text>"
                ));
                legend -= 6.2 * line.name.len() as f64 + 18.0;
            }
        }
    }

    fn time_axis(&mut self, y: f64) {
        // In minutes where there are some.
        let (unit, name) = if self.end > 180.0 { (60.0, "minutes") } else { (1.0, "seconds") };
        let step = step(self.end / unit);
        let mut at = 0.0;
        while at * unit <= self.end {
            let x = self.x(at * unit);
            self.put(format_args!("<path d=\"M{x:.1} {y}v5\" stroke=\"#333\"/>"));
            self.put(format_args!("<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{at}</text>", y + 18.0));
            at += step;
        }
        let middle = f64::midpoint(LEFT, WIDTH - RIGHT);
        self.put(format_args!("<text x=\"{middle}\" y=\"{:.1}\" text-anchor=\"middle\">{name}</text>", y + 36.0));
    }
}

/// So that four to eight of them, round ones, make the largest.
fn step(largest: f64) -> f64 {
    let wanted = (largest / 4.0).max(1.0);
    let power = 10_f64.powf(wanted.log10().floor());
    [5.0, 2.0, 1.0].map(|factor| factor * power).into_iter().find(|step| *step <= wanted).unwrap_or(power)
}

/// Medians of neighbours, at the middle of their time.
fn thinned(times: &[f64], values: &[f64]) -> Vec<(f64, f64)> {
    let length = times.len().div_ceil(POINTS).max(1);
    times.chunks(length).zip(values.chunks(length)).map(|(times, values)| (median(times), median(values))).collect()
}

#[test]
fn a_chart_shows_every_line_and_is_small() {
    let times: Vec<f64> = (0..1260).map(f64::from).collect();
    let values = |factor: f64| times.iter().map(|time| (time * 0.01).sin().abs() * factor).collect();
    let line = |name, factor| Line { name, values: values(factor) };
    let panels = [
        Panel { title: "Memory", lines: vec![line("memory", 30.0)] },
        Panel { title: "Entries", lines: vec![line("rates", 3.0), line("sticky", 700.0)] },
    ];
    let rows = [Row { name: "reload", spans: (0..240).map(|n| (5.0 * f64::from(n), 5.0 * f64::from(n))).collect() }];
    let svg = draw("A run", &times, &panels, &rows, &[(1200.0, "all leave")]);
    assert_eq!(svg.matches("<polyline").count(), 3);
    for words in ["Memory", "sticky", "reload", "all leave", ">minutes<", ">20<", ">600<"] {
        assert!(svg.contains(words), "{words}: {svg}");
    }
    assert!(!svg.contains("NaN") && svg.len() < 40_000, "{} bytes", svg.len());
}
