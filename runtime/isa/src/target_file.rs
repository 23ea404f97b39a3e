//! Target files: TOML to [`Target`], and the built-in ones.
//!
//! A target file states every figure of the table in [`crate::figures`], or names a built-in `base` and states what
//! differs. `[sources]` maps a field path to a citation or to `assumed: ` and the reason; a path covers all figures
//! below it. A rate set to `"none"` is one that the chip does not offer.

use crate::figures::{Row, Slot, TargetError, TargetErrorKind, rows};
use crate::target::{MxmRate, Target};
use crate::topology::Topology;
use std::collections::{BTreeMap, BTreeSet};
use toml::Value;

const BUILTIN: [(&str, &str); 4] = [
    ("tsp-2020", include_str!("../targets/tsp-2020.toml")),
    ("lpx-2026", include_str!("../targets/lpx-2026.toml")),
    ("toy", include_str!("../targets/toy.toml")),
    ("cpu", include_str!("../targets/cpu.toml")),
];

type Flat = BTreeMap<String, Value>;

impl Target {
    /// Names of the built-in targets, the default first.
    pub fn builtin_names() -> impl Iterator<Item = &'static str> {
        BUILTIN.iter().map(|(name, _)| *name)
    }

    /// Text of a built-in target's file; `None` where no target has this name.
    pub fn builtin_text(name: &str) -> Option<&'static str> {
        BUILTIN.iter().find(|(n, _)| *n == name).map(|(_, t)| *t)
    }

    /// A built-in target; `None` where none has this name.
    pub fn builtin(name: &str) -> Option<Result<Target, TargetError>> {
        Target::builtin_text(name).map(|text| Target::parse_toml(name, text))
    }

    /// Parses a target file. `name` is the target's name where the file states none.
    ///
    /// # Errors
    /// Names the field, what was found and what is allowed: no TOML, an unknown or missing field, a value of another
    /// type or out of range.
    pub fn parse_toml(name: &str, text: &str) -> Result<Target, TargetError> {
        parse(name, text).map_err(|kind| TargetError {
            target: name.to_string(),
            kind,
        })
    }
}

fn parse(name: &str, text: &str) -> Result<Target, TargetErrorKind> {
    let mut file: toml::Table = text.parse().map_err(|e: toml::de::Error| {
        let upto = e.span().map_or(0, |s| s.start);
        let line = 1 + text.bytes().take(upto).filter(|b| *b == b'\n').count();
        TargetErrorKind::Syntax {
            line,
            message: e.message().replace('\n', " "),
        }
    })?;
    let own_name = take_string(&mut file, "name")?;
    let base = match take_string(&mut file, "base")? {
        None => None,
        Some(base) => {
            let text = Target::builtin_text(&base).ok_or_else(|| TargetErrorKind::Base {
                found: base.clone(),
                allowed: Target::builtin_names().collect::<Vec<_>>().join(", "),
            })?;
            Some(parse(&base, text)?)
        }
    };
    let notes = take_sources(&mut file)?;
    let mut flat = Flat::new();
    flatten("", file, &mut flat);

    let mut target = base.clone().unwrap_or_else(|| Target::blank(name));
    target.name = own_name.unwrap_or_else(|| name.to_string());
    let mut set = BTreeSet::new();
    let mut known = Vec::new();
    for row in rows(&mut target) {
        known.extend(names_below(&row));
        fill(row, base.is_some(), &mut flat, &mut set)?;
    }
    if let Some(field) = flat.keys().next() {
        return Err(unknown(field, &known));
    }
    for key in notes.keys() {
        let prefix = format!("{key}.");
        if !known.iter().any(|k| k == key || k.starts_with(&prefix)) {
            return Err(unknown(key, &known));
        }
    }
    target.check().map_err(|e| e.kind)?;
    target.set_sources(&notes, |field| {
        let base = base.as_ref()?;
        let kept = !set.contains(field);
        let old = base.sources.iter().find(|s| s.field == field)?;
        kept.then(|| old.note.clone())
    });
    Ok(target)
}

/// Field paths that a row reads.
fn names_below(row: &Row<'_>) -> Vec<String> {
    let below: &[&str] = match row.slot {
        Slot::Rate(_) => &["planes", "cycles_per_vector"],
        Slot::Topology(_) => &["kind", "node"],
        _ => return vec![row.field.to_string()],
    };
    below.iter().map(|b| format!("{}.{b}", row.field)).collect()
}

/// Fills one row from the file. A row that the file does not state keeps the base's value.
fn fill(row: Row<'_>, has_base: bool, flat: &mut Flat, set: &mut BTreeSet<String>) -> Result<(), TargetErrorKind> {
    let (field, min, max) = (row.field, row.min, row.max);
    let range = format!("{min}..={max}");
    match row.slot {
        Slot::U64(v) => put(v, field, &range, has_base, flat, set),
        Slot::U16(v) => put(v, field, &range, has_base, flat, set),
        Slot::U8(v) => put(v, field, &range, has_base, flat, set),
        Slot::F64(v) => match flat.remove(field) {
            Some(Value::Float(f)) => {
                *v = f;
                set.insert(field.to_string());
                Ok(())
            }
            Some(Value::Integer(i)) => {
                *v = i as f64;
                set.insert(field.to_string());
                Ok(())
            }
            Some(other) => Err(wrong(field, &other, &range)),
            None if has_base => Ok(()),
            None => Err(missing(field, &range)),
        },
        Slot::Rate(v) => {
            match flat.remove(field) {
                None => {}
                Some(Value::String(s)) if s == "none" => *v = None,
                Some(other) => {
                    let allowed = "a table of planes and cycles_per_vector, or \"none\"";
                    return Err(wrong(field, &other, allowed));
                }
            }
            let (planes, cycles) = (format!("{field}.planes"), format!("{field}.cycles_per_vector"));
            if flat.contains_key(&planes) || flat.contains_key(&cycles) {
                let (had, mut rate) = (
                    v.is_some(),
                    v.unwrap_or(MxmRate {
                        planes: 0,
                        cycles_per_vector: 0,
                    }),
                );
                put(&mut rate.planes, &planes, "1..=16", had, flat, set)?;
                put(&mut rate.cycles_per_vector, &cycles, &range, had, flat, set)?;
                *v = Some(rate);
            }
            Ok(())
        }
        Slot::Topology(v) => {
            let kinds = "\"nodes\" or \"ring\"";
            match flat.remove("topology.kind") {
                Some(Value::String(s)) if s == "ring" => {
                    *v = Topology::Ring;
                    set.insert("topology.kind".to_string());
                    return Ok(());
                }
                Some(Value::String(s)) if s == "nodes" => {
                    set.insert("topology.kind".to_string());
                    let mut node = 0;
                    put(&mut node, "topology.node", &range, false, flat, set)?;
                    *v = Topology::Nodes { node };
                }
                Some(other) => return Err(wrong("topology.kind", &other, kinds)),
                None if has_base => {
                    if let Topology::Nodes { node } = v {
                        put(node, "topology.node", &range, true, flat, set)?;
                    }
                }
                None => return Err(missing("topology.kind", kinds)),
            }
            Ok(())
        }
    }
}

/// Takes an integer field.
fn put<T: TryFrom<i64>>(
    slot: &mut T,
    field: &str,
    allowed: &str,
    optional: bool,
    flat: &mut Flat,
    set: &mut BTreeSet<String>,
) -> Result<(), TargetErrorKind> {
    match flat.remove(field) {
        Some(Value::Integer(i)) => {
            let value = T::try_from(i).map_err(|_| wrong(field, &Value::Integer(i), allowed))?;
            *slot = value;
            set.insert(field.to_string());
            Ok(())
        }
        Some(other) => Err(wrong(field, &other, allowed)),
        None if optional => Ok(()),
        None => Err(missing(field, allowed)),
    }
}

fn take_string(file: &mut toml::Table, key: &str) -> Result<Option<String>, TargetErrorKind> {
    match file.remove(key) {
        None => Ok(None),
        Some(Value::String(s)) => Ok(Some(s)),
        Some(other) => Err(wrong(key, &other, "a string")),
    }
}

fn take_sources(file: &mut toml::Table) -> Result<BTreeMap<String, String>, TargetErrorKind> {
    let mut flat = Flat::new();
    match file.remove("sources") {
        None => {}
        Some(Value::Table(t)) => flatten("", t, &mut flat),
        Some(other) => return Err(wrong("sources", &other, "a table of strings")),
    }
    flat.into_iter()
        .map(|(key, value)| match value {
            Value::String(s) => Ok((key, s)),
            other => Err(wrong(&format!("sources.{key}"), &other, "a string")),
        })
        .collect()
}

/// Field paths of all values that are not tables.
fn flatten(prefix: &str, table: toml::Table, out: &mut Flat) {
    for (key, value) in table {
        let path = if prefix.is_empty() {
            key
        } else {
            format!("{prefix}.{key}")
        };
        match value {
            Value::Table(t) if !t.is_empty() => flatten(&path, t, out),
            other => {
                out.insert(path, other);
            }
        }
    }
}

fn wrong(field: &str, found: &Value, allowed: &str) -> TargetErrorKind {
    let found = match found {
        Value::Table(_) => "a table".to_string(),
        Value::Array(_) => "an array".to_string(),
        other => other.to_string().replace('\n', " "),
    };
    TargetErrorKind::Value {
        field: field.to_string(),
        found,
        allowed: allowed.to_string(),
    }
}

fn missing(field: &str, allowed: &str) -> TargetErrorKind {
    TargetErrorKind::Missing {
        field: field.to_string(),
        allowed: allowed.to_string(),
    }
}

/// An unknown field, with the fields of the table in which it stands.
fn unknown(field: &str, known: &[String]) -> TargetErrorKind {
    let parent = |f: &str| f.rsplit_once('.').map_or(String::new(), |(p, _)| p.to_string());
    let mut table = parent(field);
    let allowed = loop {
        let prefix = if table.is_empty() {
            String::new()
        } else {
            format!("{table}.")
        };
        let mut names: Vec<&str> = known
            .iter()
            .filter_map(|k| k.strip_prefix(prefix.as_str()))
            .map(|k| k.split('.').next().unwrap_or(k))
            .collect();
        names.dedup();
        if !names.is_empty() || table.is_empty() {
            if table.is_empty() {
                names.splice(0..0, ["name", "base", "sources"]);
            }
            break names.join(", ");
        }
        table = parent(&table);
    };
    TargetErrorKind::Unknown {
        field: field.to_string(),
        allowed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::NO_SOURCE;
    use crate::id::DType;

    fn builtin(name: &str) -> Target {
        Target::builtin(name).unwrap().unwrap()
    }

    #[test]
    fn every_builtin_figure_has_a_source() {
        for name in Target::builtin_names() {
            let t = builtin(name);
            assert_eq!(t.name, name);
            for f in t.figures() {
                assert_ne!(f.note, NO_SOURCE, "{name}: {}", f.field);
                assert!(f.note.contains(": "), "{name}: {}: {}", f.field, f.note);
            }
            assert_eq!(t.figures().len(), t.sources.len());
        }
    }

    #[test]
    fn printed_targets_parse_to_themselves() {
        for name in Target::builtin_names() {
            let t = builtin(name);
            assert_eq!(Target::parse_toml("x", &t.to_toml()), Ok(t));
        }
    }

    #[test]
    fn published_sizes() {
        let tsp = builtin("tsp-2020");
        assert_eq!(tsp.sram_bytes(), 220 << 20);
        assert_eq!(tsp.mxm_units(DType::F32), 1);
        assert_eq!(tsp.mxm_units(DType::I8), 2);
        assert_eq!(builtin("toy").sram_bytes(), 2 << 20);
        assert_eq!(builtin("lpx-2026").sram_bytes(), 499_712_000);
        assert_eq!(builtin("cpu").sram_bytes(), 2_013_265_920);
    }

    #[test]
    fn a_base_is_changed_in_part() {
        let text = "base = \"tsp-2020\"\n[mem]\nrows = 2048\n[mxm]\nf32 = \"none\"\n[sources]\nmem = \"mine\"\n";
        let t = Target::parse_toml("half", text).unwrap();
        let base = builtin("tsp-2020");
        assert_eq!((t.name.as_str(), t.rows, t.mxm.f32), ("half", 2048, None));
        assert_eq!(t.latency, base.latency);
        let note = |f: &str| t.figures().into_iter().find(|x| x.field == f).unwrap().note;
        assert_eq!(note("mem.rows"), "mine");
        assert_eq!(note("lanes"), base.figures()[1].note);
        let t = Target::parse_toml("half", "base = \"toy\"\nlanes = 64").unwrap();
        assert_eq!(t.figures()[1].note, NO_SOURCE);
    }

    #[test]
    fn errors_name_field_value_and_range() {
        let toy = Target::builtin_text("toy").unwrap();
        let cases = [
            (
                "lanes = 32",
                "lanes = 33",
                "field \"lanes\": found 33, allowed is a multiple of 16",
            ),
            (
                "lanes = 32",
                "lanes = \"x\"",
                "field \"lanes\": found \"x\", allowed is 16..=4096",
            ),
            (
                "lanes = 32",
                "lanes = 320000",
                "field \"lanes\": found 320000, allowed is 16..=4096",
            ),
            ("lanes = 32", "", "field \"lanes\" is missing; allowed is 16..=4096"),
            (
                "lanes = 32",
                "lanes = -1",
                "field \"lanes\": found -1, allowed is 16..=4096",
            ),
            (
                "rows = 1024",
                "rows = 20000",
                "field \"mem.rows\": found 20000, allowed is 1..=16384",
            ),
            (
                "groups = 4",
                "groups = 4\nbankz = 2",
                "field \"mem.bankz\" is not known; allowed are groups, slices, banks, rows",
            ),
            (
                "kind = \"ring\"",
                "kind = \"mesh\"",
                "field \"topology.kind\": found \"mesh\", allowed is \"nodes\" or \"ring\"",
            ),
            (
                "kind = \"ring\"",
                "kind = \"ring\"\nnode = 3",
                "field \"topology.node\" is not known",
            ),
            (
                "local_links = 2",
                "local_links = 3",
                "field \"c2c.local_links\": found 3, allowed is 2 in a ring",
            ),
            (
                "f16 = { planes = 2,",
                "f16 = { planes = 3,",
                "field \"mxm.f16.planes\": found 3, allowed is a divisor of planes_per_hemisphere, 2",
            ),
            (
                "sxm = 18",
                "sxm = 15",
                "field \"position.sxm\": found 15, allowed is more than 15",
            ),
            (
                "link_bit = 5.0",
                "link_bit = nan",
                "field \"energy.link_bit\": found NaN, allowed is 0..=1000000",
            ),
            (
                "link_bit = 5.0",
                "link_bit = -1",
                "field \"energy.link_bit\": found -1.0",
            ),
            (
                "mem = \"assumed",
                "mum = \"assumed",
                "field \"mum\" is not known; allowed are name, base",
            ),
            ("name = \"toy\"", "name = \"toy", "line 4: "),
            (
                "name = \"toy\"",
                "base = \"tpu\"",
                "field \"base\": found \"tpu\", allowed are tsp-2020, lpx-2026, toy, cpu",
            ),
            (
                "name = \"toy\"",
                "name = \"a b\"",
                "field \"name\": found \"a b\", allowed is 1 to 64 letters",
            ),
        ];
        for (old, new, expect) in cases {
            assert!(toy.contains(old), "{old}");
            let e = Target::parse_toml("toy", &toy.replacen(old, new, 1)).unwrap_err();
            let text = e.to_string();
            assert!(text.contains(expect), "{old} -> {new}: {text}");
            assert!(!text.contains('\n') && text.starts_with("target \"toy\": "), "{text}");
        }
    }
}
