//! Random programs through the whole line: verified, simulated and run on the cpu, all in agreement with `tir::eval`.
//!
//! Programs are drawn from fixed seeds: a few hundred by default, many more by the ignored test. What fails is made smaller
//! and printed as a case for `tests/cases/regress`, whose cases are run here too.

use arbitrary::Unstructured;
use lockstep_testkit::asm::splitmix;
use lockstep_testkit::differ::{Outcome, Setting, check};
use lockstep_testkit::program::Program;
use lockstep_testkit::random;
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Of so many programs at most one does not fit its chips.
const FITTING: u32 = 20;

fn setting(u: &mut Unstructured<'_>) -> arbitrary::Result<Setting> {
    Ok(Setting {
        target: if u.ratio(2, 3)? { "toy" } else { "tsp-2020" },
        chips: u.int_in_range(1..=3)?,
        serial: u.ratio(1, 4)?,
    })
}

/// The outcome, with a panic as an error.
fn tried(p: &Program, s: Setting) -> Result<Outcome, String> {
    catch_unwind(AssertUnwindSafe(|| check(p, s))).unwrap_or_else(|e| {
        let text = e
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| e.downcast_ref::<&str>().map(|s| s.to_string()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

/// The kind of a failure: its text without numbers.
fn kind(error: &str) -> String {
    let mut out: String = error
        .chars()
        .take(90)
        .map(|c| if c.is_ascii_digit() { '#' } else { c })
        .collect();
    while out.contains("##") {
        out = out.replace("##", "#");
    }
    out
}

/// A failing program as a case file.
fn case(p: &Program, s: Setting, error: &str) -> String {
    let wanted = kind(error);
    let small = p.shrunk(|p| tried(p, s).is_err_and(|e| kind(&e) == wanted));
    let error = tried(&small, s).err().unwrap_or_default();
    let first = error.lines().next().unwrap_or_default();
    format!(
        "; target {}\n; chips {}\n; serial {}\n{small}; {first}\n",
        s.target, s.chips, s.serial
    )
}

/// Runs the programs of these seeds; one small case of every kind of failure.
fn survey(seeds: Range<u64>) {
    std::panic::set_hook(Box::new(|_| {}));
    let mut kinds: BTreeMap<String, (u32, String)> = BTreeMap::new();
    let (mut agreed, mut refused) = (0, 0);
    for n in seeds {
        let bytes: Vec<u8> = (0..256).flat_map(|i| splitmix(n << 16 | i).to_le_bytes()).collect();
        let mut u = Unstructured::new(&bytes);
        let (Ok(s), Ok(p)) = (setting(&mut u), random::program(&mut u, 1 + n as usize % 8)) else {
            continue;
        };
        match tried(&p, s) {
            Ok(Outcome::Agrees(..)) => agreed += 1,
            Ok(Outcome::DoesNotFit) => refused += 1,
            Err(e) => {
                let found = kinds
                    .entry(kind(&e))
                    .or_insert_with(|| (0, format!("; seed {n}\n{}", case(&p, s, &e))));
                found.0 += 1;
            }
        }
    }
    let _ = std::panic::take_hook();
    let all: Vec<String> = kinds.values().map(|(n, text)| format!("{n} times\n{text}")).collect();
    let counts = format!("{agreed} agree, {refused} do not fit");
    assert!(kinds.is_empty(), "{counts}\n{}", all.join("\n"));
    assert!(refused * FITTING <= agreed, "{counts}");
}

#[test]
fn random_programs() {
    survey(0..500);
}

#[test]
#[ignore = "takes minutes"]
fn many_random_programs() {
    survey(500..20_000);
}

#[test]
fn regress() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cases/regress");
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .expect("a folder of cases")
        .map(|f| f.expect("a file").path())
        .collect();
    files.sort();
    let mut failed = Vec::new();
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "prog")) {
        let text = std::fs::read_to_string(file).expect("a case");
        let header = |name: &str| {
            text.lines()
                .find_map(|l| l.strip_prefix("; ")?.strip_prefix(name)?.strip_prefix(' '))
        };
        let s = Setting {
            target: if header("target") == Some("toy") {
                "toy"
            } else {
                "tsp-2020"
            },
            chips: header("chips").and_then(|n| n.parse().ok()).unwrap_or(1),
            serial: header("serial") == Some("true"),
        };
        let p = Program::parse(&text).expect("a program");
        assert_eq!(Program::parse(&p.to_string()).as_ref(), Ok(&p), "{}", file.display());
        match tried(&p, s) {
            Ok(Outcome::Agrees(..)) => {}
            Ok(Outcome::DoesNotFit) => failed.push(format!("{}: does not fit", file.display())),
            Err(e) => failed.push(format!("{}: {e}", file.display())),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
