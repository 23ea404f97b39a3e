//! Points, lines and labels over two axes.

use super::{at, class, escape, frame, legend, short, ticks, width_of};
use std::fmt::Write;

/// An axis.
#[derive(Clone, Debug)]
pub struct Axis {
    /// Name with its unit.
    pub label: String,
    /// By powers of ten; what is not positive is then left out.
    pub log: bool,
}

impl Axis {
    /// An axis.
    pub fn new(label: &str, log: bool) -> Axis {
        let label = label.to_owned();
        Axis { label, log }
    }

    fn scale(&self, value: f64) -> f64 {
        if self.log { value.log10() } else { value }
    }

    fn shows(&self, value: f64) -> bool {
        value.is_finite() && (!self.log || value > 0.0)
    }
}

/// A point.
#[derive(Clone, Debug)]
pub struct Point {
    /// Where.
    pub x: f64,
    /// Where.
    pub y: f64,
    /// Its colour.
    pub series: usize,
    /// Whether it stands out.
    pub large: bool,
    /// Text beside it.
    pub label: Option<String>,
    /// Text when it is pointed at.
    pub about: String,
}

/// A line through points.
#[derive(Clone, Debug)]
pub struct Line {
    /// Its corners.
    pub points: Vec<(f64, f64)>,
    /// Its colour.
    pub series: usize,
}

/// A plot of points and lines.
#[derive(Clone, Debug)]
pub struct Scatter {
    /// What it shows.
    pub title: String,
    /// To the right.
    pub x: Axis,
    /// Upwards.
    pub y: Axis,
    /// The points.
    pub points: Vec<Point>,
    /// The lines.
    pub lines: Vec<Line>,
    /// Names of the series, in order.
    pub series: Vec<String>,
}

const SIZE: (f64, f64) = (720.0, 420.0);
const LEFT: f64 = 64.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 48.0;

/// Smallest and largest, widened a little.
fn range(axis: &Axis, values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (lo, hi) = values
        .filter(|v| axis.shows(*v))
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
    match (lo <= hi, axis.log) {
        (false, _) => (1.0, 2.0),
        (true, true) => (lo / 1.3, hi * 1.3),
        (true, false) => {
            let pad = if hi > lo {
                (hi - lo) * 0.06
            } else {
                hi.abs().max(1.0) * 0.1
            };
            (if lo >= 0.0 { (lo - pad).max(0.0) } else { lo - pad }, hi + pad)
        }
    }
}

impl Scatter {
    /// The plot as SVG; `alone` as a file of its own.
    pub fn svg(&self, alone: bool) -> String {
        let of_lines = || self.lines.iter().flat_map(|l| l.points.iter().copied());
        let xs = range(&self.x, self.points.iter().map(|p| p.x).chain(of_lines().map(|p| p.0)));
        let ys = range(&self.y, self.points.iter().map(|p| p.y).chain(of_lines().map(|p| p.1)));
        let (width, height) = SIZE;
        let place = |axis: &Axis, (lo, hi): (f64, f64), v: f64| {
            (axis.scale(v) - axis.scale(lo)) / (axis.scale(hi) - axis.scale(lo)).max(f64::MIN_POSITIVE)
        };
        let px = |v: f64| at(LEFT + place(&self.x, xs, v) * (width - LEFT - RIGHT));
        let py = |v: f64| at(height - BOTTOM - place(&self.y, ys, v) * (height - TOP - BOTTOM));
        let mut out = String::new();
        let mut x = LEFT;
        for (i, name) in self.series.iter().enumerate() {
            x += legend(&mut out, x, 42.0, i, name);
        }
        for t in ticks(xs.0, xs.1, 6, self.x.log) {
            let _ = writeln!(
                out,
                "<line class=\"rule\" x1=\"{0}\" x2=\"{0}\" y1=\"{TOP}\" y2=\"{1}\"/><text class=\"tick mid\" x=\"{0}\" y=\"{2}\">{3}</text>",
                px(t),
                height - BOTTOM,
                height - BOTTOM + 16.0,
                short(t)
            );
        }
        for t in ticks(ys.0, ys.1, 6, self.y.log) {
            let _ = writeln!(
                out,
                "<line class=\"rule\" x1=\"{LEFT}\" x2=\"{1}\" y1=\"{0}\" y2=\"{0}\"/><text class=\"tick end\" x=\"{2}\" y=\"{3}\">{4}</text>",
                py(t),
                width - RIGHT,
                LEFT - 6.0,
                py(t) + 4.0,
                short(t)
            );
        }
        let _ = writeln!(
            out,
            "<text class=\"tick mid\" x=\"{}\" y=\"{}\">{}</text><text class=\"tick mid\" transform=\"translate(14 {}) rotate(-90)\">{}</text>",
            at(f64::midpoint(LEFT, width - RIGHT)),
            height - 10.0,
            escape(&self.x.label),
            at(f64::midpoint(TOP, height - BOTTOM)),
            escape(&self.y.label)
        );
        for line in &self.lines {
            let shown = line.points.iter().filter(|p| self.x.shows(p.0) && self.y.shows(p.1));
            let corners: Vec<String> = shown.map(|p| format!("{},{}", px(p.0), py(p.1))).collect();
            let _ = writeln!(
                out,
                "<polyline class=\"line {}\" points=\"{}\"/>",
                class(line.series),
                corners.join(" ")
            );
        }
        for p in self.points.iter().filter(|p| self.x.shows(p.x) && self.y.shows(p.y)) {
            let (x, y) = (px(p.x), py(p.y));
            let _ = writeln!(
                out,
                "<circle class=\"mark {}\" cx=\"{x}\" cy=\"{y}\" r=\"{}\"><title>{}</title></circle>",
                class(p.series),
                if p.large { 6 } else { 4 },
                escape(&p.about)
            );
            if let Some(label) = &p.label {
                // A label that would leave the plot stands to the left of its point.
                let (side, x) = if x + 10.0 + width_of(label) > width {
                    (" end", x - 9.0)
                } else {
                    ("", x + 9.0)
                };
                let _ = writeln!(
                    out,
                    "<text class=\"tick{side}\" x=\"{}\" y=\"{}\">{}</text>",
                    at(x),
                    at(y - 5.0),
                    escape(label)
                );
            }
        }
        frame(&self.title, SIZE, &out, alone)
    }
}
