//! Two artifacts side by side: what changed, by model node, chain, unit or chip, with the reason where the data says it.
//!
//! Entries are matched by name. Nodes are matched by name, the chains of a node by operation and order, chips by number. Everything
//! is counted from instructions and claims; the critical path and the bound come from the compile report, where there is one.

mod placement;
mod stats;
mod why;

use lockstep_isa::Artifact;
use serde_json::{Value, json};
use stats::Stats;
use std::collections::{BTreeMap, BTreeSet};

pub use placement::Moved;

/// What the changes of an entry are grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Nodes of the model; what has none goes by its operation.
    Node,
    /// Chains of the schedule.
    Chain,
    /// Kinds of units.
    Unit,
    /// Chips.
    Chip,
}

/// A figure that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// What it is.
    pub name: String,
    /// In which unit.
    pub unit: &'static str,
    /// In the first artifact; `None` where it has none.
    pub a: Option<f64>,
    /// In the second one.
    pub b: Option<f64>,
}

impl Figure {
    /// The second less the first, an absent one as 0.
    pub fn change(&self) -> f64 {
        self.b.unwrap_or(0.0) - self.a.unwrap_or(0.0)
    }
}

/// A property that differs, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Property {
    /// What it is.
    pub name: String,
    /// In the first artifact; empty where it has none.
    pub a: String,
    /// In the second one.
    pub b: String,
}

/// A group of runs that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Node, chain, unit or chip.
    pub name: String,
    /// Where the group is: `a`, `b` or `both`.
    pub found_in: &'static str,
    /// The figures that differ.
    pub figures: Vec<Figure>,
    /// What explains them, most telling first.
    pub why: Vec<String>,
    size: (f64, f64),
}

/// What differs in one entry.
#[derive(Clone, Debug, PartialEq)]
pub struct EntryDiff {
    /// Its name.
    pub name: String,
    /// Totals that differ.
    pub figures: Vec<Figure>,
    /// Inputs and outputs that differ.
    pub signature: Vec<Property>,
    /// Groups that differ, the largest change first.
    pub groups: Vec<Group>,
    /// Tensors that lie elsewhere.
    pub moved: Vec<Moved>,
    /// Runs that differ in anything at all: of both artifacts, those that the other does not have in the same place.
    pub runs: [u64; 2],
}

impl EntryDiff {
    fn is_empty(&self) -> bool {
        self.figures.is_empty()
            && self.signature.is_empty()
            && self.groups.is_empty()
            && self.moved.is_empty()
            && self.runs == [0, 0]
    }
}

/// What differs between two artifacts.
#[derive(Clone, Debug, PartialEq)]
pub struct Diff {
    /// Model, target and its figures, number of chips, constants.
    pub properties: Vec<Property>,
    /// Entries that both have and that differ, in the order of the first artifact.
    pub entries: Vec<EntryDiff>,
    by: By,
}

impl Diff {
    /// Compares two artifacts.
    pub fn of(a: &Artifact, b: &Artifact, by: By) -> Diff {
        let mut entries = Vec::new();
        for (i, e) in a.entries.iter().enumerate() {
            if let Some(j) = b.entries.iter().position(|o| o.name == e.name) {
                let diff = entry(a, b, (i, j), by);
                if !diff.is_empty() {
                    entries.push(diff);
                }
            }
        }
        Diff {
            properties: properties(a, b),
            entries,
            by,
        }
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.properties.is_empty() && self.entries.is_empty()
    }

    /// As JSON.
    pub fn to_value(&self) -> Value {
        let properties = |all: &[Property]| {
            all.iter()
                .map(|p| json!({ "name": p.name, "a": p.a, "b": p.b }))
                .collect::<Vec<_>>()
        };
        let figures = |all: &[Figure]| {
            all.iter()
                .map(|f| json!({ "name": f.name, "unit": f.unit, "a": f.a, "b": f.b, "change": f.change() }))
                .collect::<Vec<_>>()
        };
        let entries = self.entries.iter().map(|e| {
            json!({
                "entry": e.name,
                "figures": figures(&e.figures),
                "signature": properties(&e.signature),
                "groups": e.groups.iter().map(|g| json!({
                    "name": g.name, "in": g.found_in, "figures": figures(&g.figures), "why": g.why,
                })).collect::<Vec<_>>(),
                "moved": e.moved.iter().map(Moved::to_value).collect::<Vec<_>>(),
                "runs_that_differ": { "a": e.runs[0], "b": e.runs[1] },
            })
        });
        json!({
            "equal": self.is_empty(),
            "by": match self.by {
                By::Node => "node",
                By::Chain => "chain",
                By::Unit => "unit",
                By::Chip => "chip",
            },
            "properties": properties(&self.properties),
            "entries": entries.collect::<Vec<_>>(),
        })
    }
}

/// A property, where its sides differ.
fn property(name: impl Into<String>, a: String, b: String) -> Option<Property> {
    let name = name.into();
    (a != b).then_some(Property { name, a, b })
}

fn properties(a: &Artifact, b: &Artifact) -> Vec<Property> {
    let mut out = Vec::new();
    let words = |t: &Artifact| t.entries.iter().map(|e| e.name.clone()).collect::<BTreeSet<_>>();
    out.extend(property("model", a.name.clone(), b.name.clone()));
    out.extend(property("target", a.target.name.clone(), b.target.name.clone()));
    out.extend(property("chips", a.n_chips.to_string(), b.n_chips.to_string()));
    let (only_a, only_b) = (words(a), words(b));
    let only = |x: &BTreeSet<String>, y: &BTreeSet<String>| x.difference(y).cloned().collect::<Vec<_>>().join(", ");
    out.extend(property(
        "entries of one alone",
        only(&only_a, &only_b),
        only(&only_b, &only_a),
    ));
    let figures = |t: &Artifact| -> BTreeMap<String, String> {
        let all = t.target.figures().into_iter();
        all.map(|f| (f.field, f.value)).collect()
    };
    let (of_a, of_b) = (figures(a), figures(b));
    for field in of_a.keys().chain(of_b.keys()).collect::<BTreeSet<_>>() {
        let value = |of: &BTreeMap<String, String>| of.get(field).cloned().unwrap_or_default();
        out.extend(property(format!("target {field}"), value(&of_a), value(&of_b)));
    }
    let bytes = |t: &Artifact| format!("{} bytes", t.weight_bytes().len());
    match property("constants", bytes(a), bytes(b)) {
        None if a.weight_bytes() != b.weight_bytes() || a.consts != b.consts || a.tiles != b.tiles => {
            let (of_a, of_b) = (bytes(a), format!("{}, others", bytes(b)));
            out.extend(property("constants", of_a, of_b));
        }
        found => out.extend(found),
    }
    let tokenizer = |t: &Artifact| format!("{} bytes", t.tokenizer.len());
    out.extend(property("tokenizer", tokenizer(a), tokenizer(b)));
    out
}

fn entry(a: &Artifact, b: &Artifact, (i, j): (usize, usize), by: By) -> EntryDiff {
    let (of_a, of_b) = (Stats::groups(a, i, by), Stats::groups(b, j, by));
    let mut groups = Vec::new();
    let none = Stats::default();
    for key in of_a.keys().chain(of_b.keys()).collect::<BTreeSet<_>>() {
        let (x, y) = (of_a.get(key), of_b.get(key));
        let found_in = match (x, y) {
            (Some(_), None) => "a",
            (None, Some(_)) => "b",
            _ => "both",
        };
        let figures = Stats::compare(x, y);
        let (x, y) = (x.unwrap_or(&none), y.unwrap_or(&none));
        let why = why::reasons(x, y);
        if figures.is_empty() && why.is_empty() {
            continue;
        }
        groups.push(Group {
            name: stats::name_of(key, (x, y)),
            found_in,
            figures,
            why,
            size: Stats::size(x, y, by),
        });
    }
    // The sort is stable and keys are sorted: on ties, names ascend.
    groups.sort_by(|x, y| y.size.0.total_cmp(&x.size.0).then(y.size.1.total_cmp(&x.size.1)));
    let (x, y) = (stats::totals(a, i), stats::totals(b, j));
    EntryDiff {
        name: a.entries.get(i).map(|e| e.name.clone()).unwrap_or_default(),
        figures: stats::compare_totals(x, y),
        signature: signature(a, b, (i, j)),
        groups,
        moved: placement::moved(a, b, (i, j)),
        runs: stats::runs_that_differ(a, b, (i, j)),
    }
}

fn signature(a: &Artifact, b: &Artifact, (i, j): (usize, usize)) -> Vec<Property> {
    let of = |artifact: &Artifact, entry: usize| -> BTreeMap<String, String> {
        let Some(e) = artifact.entries.get(entry) else {
            return BTreeMap::new();
        };
        let side = |what: &'static str, all: &[lockstep_isa::artifact::HostTensor]| {
            let one = |t: &lockstep_isa::artifact::HostTensor| {
                (
                    format!("{what} {}", t.name),
                    format!("{} {:?}", t.dtype.name(), t.shape),
                )
            };
            all.iter().map(one).collect::<Vec<_>>()
        };
        let mut all: BTreeMap<String, String> = side("input", &e.inputs).into_iter().collect();
        all.extend(side("output", &e.outputs));
        all
    };
    let (of_a, of_b) = (of(a, i), of(b, j));
    let names: BTreeSet<&String> = of_a.keys().chain(of_b.keys()).collect();
    let value = |of: &BTreeMap<String, String>, name: &str| of.get(name).cloned().unwrap_or_default();
    names
        .into_iter()
        .filter_map(|n| property(n.clone(), value(&of_a, n), value(&of_b, n)))
        .collect()
}
