//! Stacked bars, one below the other.

use super::{at, class, escape, frame, legend, short, ticks, width_of};
use std::fmt::Write;

/// One bar.
#[derive(Clone, Debug)]
pub struct Bar {
    /// Its name.
    pub label: String,
    /// One part per series, none negative.
    pub parts: Vec<f64>,
    /// A mark across the bar: what it may reach.
    pub limit: Option<f64>,
}

/// Stacked bars over one axis that starts at 0.
#[derive(Clone, Debug)]
pub struct Bars {
    /// What they show.
    pub title: String,
    /// Names of the series, in order.
    pub series: Vec<String>,
    /// The bars, from the top.
    pub bars: Vec<Bar>,
    /// End of the axis; the largest sum or limit where there is none.
    pub most: Option<f64>,
    /// What one unit of the axis is worth: ticks count in it.
    pub unit: f64,
    /// A value as text.
    pub show: fn(f64) -> String,
}

const WIDTH: f64 = 720.0;
const TOP: f64 = 56.0;
const STEP: f64 = 24.0;
const BOTTOM: f64 = 28.0;

impl Bars {
    /// The bars as SVG; `alone` as a file of its own.
    pub fn svg(&self, alone: bool) -> String {
        let sum = |b: &Bar| {
            b.parts
                .iter()
                .copied()
                .filter(|p| p.is_finite() && *p > 0.0)
                .sum::<f64>()
        };
        let largest = self
            .bars
            .iter()
            .map(|b| sum(b).max(b.limit.unwrap_or(0.0)))
            .fold(0.0, f64::max);
        let most = self.most.unwrap_or(largest * 1.02).max(f64::MIN_POSITIVE);
        // Labels are set larger than what `width_of` counts for.
        let labels = self.bars.iter().map(|b| 1.25 * width_of(&b.label)).fold(24.0, f64::max);
        let left = labels.min(220.0) + 18.0;
        let right = 96.0;
        let px = |v: f64| left + (v / most).clamp(0.0, 1.0) * (WIDTH - left - right);
        let end = TOP + STEP * self.bars.len() as f64;
        let mut out = String::new();
        let mut x = left;
        if self.series.len() > 1 {
            for (i, name) in self.series.iter().enumerate() {
                x += legend(&mut out, x, 42.0, i, name);
            }
        }
        for t in ticks(0.0, most / self.unit, 5, false) {
            let _ = writeln!(
                out,
                "<line class=\"rule\" x1=\"{0}\" x2=\"{0}\" y1=\"{TOP}\" y2=\"{end}\"/><text class=\"tick mid\" x=\"{0}\" y=\"{1}\">{2}</text>",
                at(px(t * self.unit)),
                end + 16.0,
                short(t)
            );
        }
        for (row, bar) in self.bars.iter().enumerate() {
            let y = TOP + STEP * row as f64 + 4.0;
            let _ = writeln!(
                out,
                "<text class=\"end\" x=\"{}\" y=\"{}\">{}</text>",
                at(left - 8.0),
                at(y + 12.0),
                escape(&bar.label)
            );
            let mut from = 0.0;
            for (i, part) in bar.parts.iter().enumerate().filter(|p| p.1.is_finite() && *p.1 > 0.0) {
                let name = self.series.get(i).map_or("", String::as_str);
                let _ = writeln!(
                    out,
                    "<rect class=\"mark {}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"16\"><title>{}</title></rect>",
                    class(i),
                    at(px(from)),
                    at(y),
                    at((px(from + part) - px(from)).max(0.5)),
                    escape(&format!("{} {name}: {}", bar.label, (self.show)(*part)))
                );
                from += part;
            }
            if let Some(limit) = bar.limit {
                let _ = writeln!(
                    out,
                    "<line class=\"limit\" x1=\"{0}\" x2=\"{0}\" y1=\"{1}\" y2=\"{2}\"/>",
                    at(px(limit)),
                    at(y - 3.0),
                    at(y + 19.0)
                );
            }
            let _ = writeln!(
                out,
                "<text class=\"tick\" x=\"{}\" y=\"{}\">{}</text>",
                at(px(from.max(bar.limit.unwrap_or(0.0))) + 6.0),
                at(y + 12.0),
                escape(&(self.show)(from))
            );
        }
        frame(&self.title, (WIDTH, end + BOTTOM), &out, alone)
    }
}
