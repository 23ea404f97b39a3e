//! The plot of a sweep: every row at its first two objectives, with the Pareto front.

use super::rows::{Objective, Row};
use crate::text;
use lockstep_view::chart::{Axis, Line, Point, Scatter};
use std::path::Path;

/// The plot as an SVG file.
pub fn svg(model: &Path, rows: &[Row], objectives: &[Objective]) -> String {
    let (Some(&of_x), Some(&of_y)) = (objectives.first(), objectives.get(1)) else {
        return String::new();
    };
    let place = |row: &Row| Some((row.objective(of_x)?, row.objective(of_y)?));
    let mut entries: Vec<&str> = Vec::new();
    for row in rows.iter().filter(|r| place(r).is_some()) {
        if !entries.contains(&row.entry()) {
            entries.push(row.entry());
        }
    }
    let mut points = Vec::new();
    let mut lines = Vec::new();
    for (series, entry) in entries.iter().enumerate() {
        let mut front = Vec::new();
        for row in rows.iter().filter(|r| r.entry() == *entry) {
            let Some((x, y)) = place(row) else { continue };
            points.push(Point {
                x,
                y,
                // What is not on the front is grey; only the front tells entries apart.
                series: if row.front { series } else { usize::MAX },
                large: row.front,
                // Rows in one place share the label of the first.
                label: (row.front && !front.contains(&(x, y))).then(|| row.label()),
                about: format!("{}: {x}, {y}", row.label()),
            });
            if row.front {
                front.push((x, y));
            }
        }
        front.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
        // In steps: what lies between two schedules is no schedule.
        let mut corners = Vec::new();
        for (x, y) in front {
            corners.extend(corners.last().map(|&(_, above): &(f64, f64)| (x, above)));
            corners.push((x, y));
        }
        lines.push(Line {
            points: corners,
            series,
        });
    }
    let failed = rows.iter().filter(|r| place(r).is_none()).count();
    let name = model.file_name().unwrap_or_default().to_string_lossy();
    let mut title = format!("{name}: {} schedules", points.len());
    if failed > 0 {
        title += &format!(", {} that did not compile", text::count(failed as u64));
    }
    let legend = match entries.as_slice() {
        [_] => vec!["on the front".to_owned()],
        several => several.iter().map(|e| format!("front of {e}")).collect(),
    };
    // Grey points first, so that the front lies above them.
    points.sort_by_key(|p| p.large);
    let plot = Scatter {
        title,
        x: Axis::new(of_x.axis(), false),
        y: Axis::new(of_y.axis(), false),
        points,
        lines,
        series: legend,
    };
    plot.svg(true)
}
