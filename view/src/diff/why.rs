//! What explains a change, as far as the instructions say it.

use super::stats::Stats;
use std::collections::BTreeSet;

/// Reasons, most telling first.
pub(super) fn reasons(a: &Stats, b: &Stats) -> Vec<String> {
    let mut out = Vec::new();
    if a.runs == 0 || b.runs == 0 {
        if a.runs != b.runs {
            out.push(format!("only in {}", if a.runs == 0 { "B" } else { "A" }));
        }
        return out;
    }
    let dtypes = |s: &Stats| {
        s.dtypes
            .iter()
            .map(|d| d.name().to_owned())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let chips = |s: &Stats| ranges(&s.chips);
    let waits = |s: &Stats| s.waits.iter().cloned().collect::<Vec<_>>().join("; ");
    for (what, x, y) in [("dtypes", dtypes(a), dtypes(b)), ("chips", chips(a), chips(b))] {
        if x != y {
            out.push(format!("{what} {x} -> {y}"));
        }
    }
    let each = |s: &Stats| s.products.1.checked_div(s.products.0).unwrap_or(0);
    let counts = [
        ("words sent", a.sent, b.sent),
        ("cycles per product", each(a), each(b)),
        ("products", a.products.0, b.products.0),
        ("vectors loaded", a.loaded, b.loaded),
        ("bytes of constants", a.constants, b.constants),
        ("SRAM accesses", a.accesses, b.accesses),
        ("ALU operations", a.alu, b.alu),
        ("lane moves", a.moves, b.moves),
        ("chains", a.chains.len() as u64, b.chains.len() as u64),
    ];
    for (what, x, y) in counts {
        if x != y {
            let how = if y > x { "more" } else { "fewer" };
            out.push(format!("{how} {what} {x} -> {y}"));
        }
    }
    let (x, y) = (waits(a), waits(b));
    if x != y {
        let or_none = |s: String| if s.is_empty() { "not critical".to_owned() } else { s };
        out.push(format!("waited for {} -> {}", or_none(x), or_none(y)));
    }
    out
}

/// Chips as ranges: `c0-c3, c5`.
fn ranges(chips: &BTreeSet<u16>) -> String {
    let mut runs: Vec<(u16, u16)> = Vec::new();
    for &chip in chips {
        match runs.last_mut() {
            Some(last) if u32::from(last.1) + 1 == u32::from(chip) => last.1 = chip,
            _ => runs.push((chip, chip)),
        }
    }
    let text = runs
        .iter()
        .map(|&(a, b)| if a == b { format!("c{a}") } else { format!("c{a}-c{b}") });
    text.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chips_in_a_row_are_a_range() {
        assert_eq!(ranges(&BTreeSet::from([0, 1, 2, 5, 7, 8])), "c0-c2, c5, c7-c8");
        assert_eq!(ranges(&BTreeSet::from([u16::MAX])), "c65535");
    }

    #[test]
    fn a_group_of_one_side_has_one_reason() {
        let some = Stats {
            runs: 3,
            alu: 7,
            ..Stats::default()
        };
        assert_eq!(reasons(&some, &Stats::default()), ["only in A"]);
        assert_eq!(reasons(&Stats::default(), &some), ["only in B"]);
        assert!(reasons(&some, &some).is_empty());
        let more = Stats { alu: 9, ..some.clone() };
        assert_eq!(reasons(&some, &more), ["more ALU operations 7 -> 9"]);
    }
}
