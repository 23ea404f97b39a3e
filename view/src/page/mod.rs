//! The viewer: one html file with the schedule of every entry, its data flow, and the modules that show it.
//!
//! The file needs no network and opens from disk. Rust packs (`columns`, `schedule`); what is shown and how is decided by the
//! modules in `web/`, which are embedded as they are, one after the other in the order of `MODULES`: their import lines
//! go and their exports become plain declarations, so that names are unique over all modules.

mod columns;
mod queues;
mod schedule;
mod text;

use lockstep_isa::{Artifact, DType, Queue};
use queues::Queues;
use serde_json::{Value, json};
use std::fmt::Write;
use text::Templates;

macro_rules! modules {
    ($($name:literal),* $(,)?) => {
        /// The modules of the page, each after those that it imports.
        const MODULES: &[(&str, &str)] = &[$(($name, include_str!(concat!("../../web/", $name)))),*];
    };
}
modules!(
    "data.js",
    "names.js",
    "theme.js",
    "scale.js",
    "rows.js",
    "lod.js",
    "timeline.js",
    "minimap.js",
    "memory.js",
    "charts.js",
    "search.js",
    "panel.js",
    "keys.js",
    "main.js",
);

const SHELL: &str = include_str!("../../web/page.html");
const STYLE: &str = include_str!("../../web/style.css");

/// The page of an artifact, or of several over the same time, the first at the top. The same artifacts give the same bytes.
///
/// Nothing is proved here: what the page shows of data flow are the artifact's claims, which `lockstep verify` proves.
pub fn html(artifacts: &[&Artifact]) -> String {
    let mut texts = Templates::default();
    let mut data = String::new();
    let parts: Vec<Value> = artifacts
        .iter()
        .enumerate()
        .map(|(part, artifact)| pack(part, artifact, &mut texts, &mut data))
        .collect();
    let meta = json!({
        "kinds": queues::KINDS,
        "ways": schedule::ways(),
        "dtypes": DType::ALL.map(|d| d.name()),
        "texts": texts.list(),
        "artifacts": parts,
    });
    blob(&mut data, "meta", &columns::compressed(meta.to_string().as_bytes()));
    let names: Vec<&str> = artifacts.iter().map(|a| a.name.as_str()).collect();
    SHELL
        .replacen("{{style}}", STYLE, 1)
        .replacen("{{modules}}", &script(), 1)
        .replacen("{{data}}", &data, 1)
        .replacen("{{title}}", &escaped(&names.join(", ")), 1)
}

/// Writes the programs and entries of an artifact as blobs, and returns what the page needs of it beside them.
fn pack(part: usize, artifact: &Artifact, texts: &mut Templates, data: &mut String) -> Value {
    let report: Value = serde_json::from_str(&artifact.report).unwrap_or(Value::Null);
    let of_entry = |i: usize| report.get("entries").and_then(|e| e.get(i)).unwrap_or(&Value::Null);
    let queues = Queues::of(artifact.programs.iter().flat_map(|p| p.runs.iter().map(|r| r.queue)));
    for (i, program) in artifact.programs.iter().enumerate() {
        let packed = schedule::program(artifact, program, &queues, texts);
        blob(data, &format!("program-{part}-{i}"), &packed);
    }
    let mut entries = Vec::new();
    for (i, entry) in artifact.entries.iter().enumerate() {
        blob(data, &format!("entry-{part}-{i}"), &schedule::entry(artifact, i, entry));
        entries.push(schedule::describe(artifact, i, entry, of_entry(i)));
    }
    let t = &artifact.target;
    let places = t.places().map(|p| queues::name(t, Queue::Mem(p)));
    json!({
        "model": artifact.name,
        "chips": artifact.n_chips,
        "target": {
            "name": t.name, "clock_hz": t.clock_hz, "bank_words": t.bank_words(), "word_bytes": t.word_bytes(),
            "link_cycles_per_word": t.c2c.cycles_per_word, "places": places.collect::<Vec<_>>(),
        },
        "units": queues::units(t),
        "queues": queues.describe(t),
        "wires": schedule::wires(artifact),
        "states": artifact.states.iter().map(|s| json!([s.name, s.from])).collect::<Vec<_>>(),
        "entries": entries,
        "report": report,
    })
}

/// Adds packed data to the page.
fn blob(data: &mut String, id: &str, packed: &str) {
    // Writing into a string cannot fail.
    let _ = writeln!(data, "<script type=\"text/plain\" id=\"{id}\">{packed}</script>");
}

/// The modules as one: without import lines, with exports as plain declarations.
fn script() -> String {
    let mut out = String::new();
    for (name, text) in MODULES {
        let _ = writeln!(out, "// {name}");
        for line in text.lines().filter(|l| !l.starts_with("import ")) {
            out += line.strip_prefix("export ").unwrap_or(line);
            out.push('\n');
        }
    }
    out
}

/// Text that may stand in html.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_testkit::asm::{assemble, toy, verify_case};

    fn page(name: &str) -> String {
        html(&[&assemble(&verify_case(name), &toy()).unwrap_or_else(|e| panic!("{name}: {e}"))])
    }

    fn blob<'a>(page: &'a str, id: &str) -> &'a str {
        let (_, rest) = page
            .split_once(&format!("id=\"{id}\">"))
            .unwrap_or_else(|| panic!("no {id}"));
        rest.split_once('<').expect("its end").0
    }

    #[test]
    fn the_page_holds_every_run() {
        let page = page("transfer");
        let (a, b) = (
            columns::tests::read(blob(&page, "program-0-0")),
            columns::tests::read(blob(&page, "program-0-1")),
        );
        assert_eq!(a["cycle"].len() + b["cycle"].len(), 7);
        let entry = columns::tests::read(blob(&page, "entry-0-0"));
        assert_eq!(entry["chain"].len(), 7);
        assert_eq!(entry["n_sources"].iter().sum::<i64>(), entry["source"].len() as i64);
        assert_eq!(entry["v_kind"], [1, 3, 3]);
    }

    #[test]
    fn the_page_is_whole_and_alone() {
        let page = page("matmul");
        assert!(!page.contains("{{") && page.trim_end().ends_with("</html>"));
        for outside in ["http://", "https://", "import(", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert_eq!(page, self::page("matmul"), "the same artifact gives the same bytes");
    }

    #[test]
    fn names_cannot_end_the_page() {
        assert_eq!(escaped("</title><b \"x\">"), "&lt;/title>&lt;b &quot;x&quot;>");
    }
}
