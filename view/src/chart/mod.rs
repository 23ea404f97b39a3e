//! Plots as SVG text: points on two axes, and stacked bars. No script, no font of its own; colours follow the reader's light or dark
//! scheme, which is why they are classes and not attributes.

mod bars;
mod scatter;

pub use bars::{Bar, Bars};
pub use scatter::{Axis, Line, Point, Scatter};

use std::fmt::Write;

/// The style sheet of all plots. Classes `s0` to `s5` are colours that the colour-blind tell apart.
pub const STYLE: &str = "\
.plot{--ink:#1f2328;--faint:#8b949e;--rule:#d0d7de;--paper:#fff;font:12px system-ui,sans-serif}\
@media(prefers-color-scheme:dark){.plot{--ink:#e6edf3;--faint:#8b949e;--rule:#30363d;--paper:#0d1117}}\
@media print{.plot{--ink:#000;--faint:#555;--rule:#bbb;--paper:#fff}}\
.plot text{fill:var(--ink)}.plot .title{font-weight:600;font-size:13px}.plot .tick{fill:var(--faint);font-size:11px}\
.plot .rule{stroke:var(--rule);stroke-width:1}.plot .axis{stroke:var(--faint);stroke-width:1}\
.plot .line{fill:none;stroke-width:1.5}.plot .mark{stroke:var(--paper);stroke-width:.75}\
.plot .limit{stroke:var(--ink);stroke-width:1.5}.plot .end{text-anchor:end}.plot .mid{text-anchor:middle}\
.plot .s0{fill:#0072b2;stroke:#0072b2}.plot .s1{fill:#e69f00;stroke:#e69f00}.plot .s2{fill:#009e73;stroke:#009e73}\
.plot .s3{fill:#d55e00;stroke:#d55e00}.plot .s4{fill:#cc79a7;stroke:#cc79a7}.plot .s5{fill:#56b4e9;stroke:#56b4e9}\
.plot .s6{fill:var(--faint);stroke:var(--faint)}.plot .line.s0,.plot .line.s1,.plot .line.s2,.plot .line.s3,.plot .line.s6{fill:none}";

/// Classes of series.
const SERIES: [&str; 7] = ["s0", "s1", "s2", "s3", "s4", "s5", "s6"];

/// The class of a series; series beyond the sixth share the last.
fn class(series: usize) -> &'static str {
    SERIES.get(series).copied().unwrap_or("s6")
}

/// An `svg` element with a title for screen readers. On its own it brings its style and paper along.
fn frame(title: &str, (width, height): (f64, f64), body: &str, alone: bool) -> String {
    let title = escape(title);
    let (style, paper) = if alone {
        (
            format!("<style>{STYLE}</style>"),
            "<rect width=\"100%\" height=\"100%\" style=\"fill:var(--paper)\"/>",
        )
    } else {
        (String::new(), "")
    };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"plot\" role=\"img\" aria-label=\"{title}\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\">{style}{paper}\n<text class=\"title\" x=\"12\" y=\"20\">{title}</text>\n{body}</svg>\n"
    )
}

/// Text for XML, in an element or between double quotes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // What XML does not allow.
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// A coordinate, to a tenth of a pixel.
fn at(value: f64) -> f64 {
    if value.is_finite() {
        (value * 10.0).round() / 10.0
    } else {
        0.0
    }
}

/// A number for a tick or label: at most four digits and a letter for the power of ten.
pub fn short(value: f64) -> String {
    let size = value.abs();
    let (scaled, letter) = match size {
        s if s >= 1e12 => (value / 1e12, "T"),
        s if s >= 1e9 => (value / 1e9, "G"),
        s if s >= 1e6 => (value / 1e6, "M"),
        s if s >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = match scaled.abs() {
        s if s >= 100.0 || s == 0.0 => 0,
        s if s >= 10.0 => 1,
        s if s >= 1.0 => 2,
        _ => 4,
    };
    let mut text = format!("{scaled:.digits$}");
    if text.contains('.') {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    text + letter
}

/// Values at which an axis from `lo` to `hi` is ruled: 1, 2 or 5 times powers of ten, about `n` of them; with `log`, powers of ten,
/// and their double and fivefold where there are few.
fn ticks(lo: f64, hi: f64, n: usize, log: bool) -> Vec<f64> {
    let mut out = Vec::new();
    if !(lo.is_finite() && hi.is_finite() && lo < hi) {
        return out;
    }
    if log && lo > 0.0 {
        let (first, last) = (lo.log10().floor() as i32, hi.log10().ceil() as i32);
        let steps: &[f64] = if last - first <= 3 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        for power in first..=last {
            out.extend(steps.iter().map(|s| s * 10f64.powi(power)));
        }
        out.retain(|t| *t >= lo * 0.999_999 && *t <= hi * 1.000_001);
        return out;
    }
    let rough = (hi - lo) / n.max(1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .iter()
        .map(|m| m * power)
        .find(|s| *s >= rough * 0.999_999);
    let step = step.unwrap_or(10.0 * power);
    let mut i = (lo / step).ceil();
    while i * step <= hi + step * 1e-9 && out.len() < 100 {
        out.push(i * step);
        i += 1.0;
    }
    out
}

/// One line of a legend: a square of the series' colour and its name. Returns how wide it is, about.
fn legend(out: &mut String, x: f64, y: f64, series: usize, name: &str) -> f64 {
    let _ = writeln!(
        out,
        "<rect class=\"{}\" x=\"{}\" y=\"{}\" width=\"10\" height=\"10\" rx=\"2\"/><text class=\"tick\" x=\"{}\" y=\"{}\">{}</text>",
        class(series),
        at(x),
        at(y - 9.0),
        at(x + 15.0),
        at(y),
        escape(name)
    );
    width_of(name) + 33.0
}

/// Pixels that a text of the small size takes, about.
fn width_of(text: &str) -> f64 {
    6.2 * text.chars().count() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 10.0, 5, false), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(30.0, 400.0, 5, true), [50.0, 100.0, 200.0]);
        assert_eq!(ticks(1.0, 1e6, 5, true).len(), 7);
        assert!(ticks(3.0, 3.0, 5, false).is_empty());
        assert!(ticks(f64::NAN, 3.0, 5, true).is_empty());
    }

    #[test]
    fn numbers_are_short() {
        let texts = [0.0, 7.0, 0.25, 131_669.0, 2_619.16, 1.5e9].map(short);
        assert_eq!(texts, ["0", "7", "0.25", "132k", "2619", "1.5G"]);
    }

    #[test]
    fn names_cannot_break_the_file() {
        assert_eq!(escape("a<b & \"c\"\u{1}"), "a&lt;b &amp; &quot;c&quot; ");
        let plot = Scatter {
            title: "<script>".into(),
            x: Axis::new("x", false),
            y: Axis::new("y", true),
            points: vec![Point {
                x: f64::NAN,
                y: -1.0,
                series: 99,
                large: true,
                label: Some("</svg>".into()),
                about: "<".into(),
            }],
            lines: Vec::new(),
            series: vec![],
        };
        let text = plot.svg(true);
        assert!(
            !text.contains("<script>") && text.matches("</svg>").count() == 1,
            "{text}"
        );
        assert!(!text.contains("NaN"), "{text}");
    }

    #[test]
    fn bars_end_at_their_sums() {
        let bars = Bars {
            title: "t".into(),
            series: vec!["a".into(), "b".into()],
            bars: vec![Bar {
                label: "c0".into(),
                parts: vec![25.0, 50.0, f64::NAN],
                limit: Some(100.0),
            }],
            most: Some(100.0),
            unit: 1.0,
            show: short,
        };
        let text = bars.svg(false);
        let width = |class: &str| -> f64 {
            let rest = text.split(&format!("mark {class}\"")).nth(1).expect("a part");
            let rest = rest.split("width=\"").nth(1).expect("a width");
            rest.split('"').next().and_then(|w| w.parse().ok()).expect("a number")
        };
        assert!((width("s1") - 2.0 * width("s0")).abs() <= 0.2, "{text}");
        assert!(
            text.contains(">75<") && text.contains("class=\"limit\"") && !text.contains("NaN"),
            "{text}"
        );
    }
}
