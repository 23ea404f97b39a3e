//! The ONNX backend suite on the interpreter, the simulator and the cpu executor, and on the opencl executor where it is asked for.
//!
//! ```text
//! cargo test --test conformance                          the chosen tests of the committed archive
//! cargo test --release --test conformance -- --full      the core list and the pytorch suites, from models/onnx-tests
//! cargo test --release --test conformance -- --light     the whole networks, compiled for tsp-2020
//! cargo test --release --test conformance -- --opencl  the chosen tests on an OpenCL device, too; fails where there is none
//! options: --bless rewrites what is expected and docs/ONNX_SUPPORT.md; --jobs N; --limit SECONDS; --verbose;
//!          NAME.. runs only the tests whose names contain one of these (of the full list; with --opencl of the chosen ones)
//! ```
//!
//! Each test is compiled for `toy` on 1 and 2 chips (for `tsp-2020` where its data alone is more than a chip of `toy` holds) and proved; the executors must give equal bits and the expected results at the official
//! tolerance. A test runs in a process of its own kind, so that a crash or a test over the limit is a failure of that test alone. What is
//! not listed in tests/data/conformance/expected.txt is expected to pass; anything unexpected fails the run.

#![allow(missing_docs, clippy::print_stdout, clippy::print_stderr)]

mod case;
mod compare;
mod outcome;
mod run;
mod support;
mod workers;

use case::{Case, Store};
use lockstep::runtime::opencl::OpenCl;
use outcome::{Outcome, Record};
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const ARCHIVE: &str = "tests/data/conformance/subset.zip";
const EXPECTED: &str = "tests/data/conformance/expected.txt";
const CORE: &str = "tests/data/conformance/core_tests.txt";
const FETCHED: &str = "models/onnx-tests";
const SUPPORT: &str = "docs/ONNX_SUPPORT.md";

/// What the command line asks for.
struct Wanted {
    full: bool,
    light: bool,
    bless: bool,
    verbose: bool,
    worker: bool,
    opencl: bool,
    jobs: usize,
    limit: u64,
    names: Vec<String>,
}

fn path(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(below)
}

fn wanted() -> Result<Wanted, String> {
    let mut wanted = Wanted {
        full: false,
        light: false,
        bless: false,
        verbose: false,
        worker: false,
        opencl: false,
        jobs: 2,
        limit: 120,
        names: Vec::new(),
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number = || {
            args.next()
                .and_then(|n| n.parse().ok())
                .ok_or(format!("{arg} needs a number"))
        };
        match arg.as_str() {
            "--full" | "--ignored" | "--include-ignored" => wanted.full = true,
            "--light" => wanted.light = true,
            "--bless" => wanted.bless = true,
            "--verbose" => wanted.verbose = true,
            "--worker" => wanted.worker = true,
            "--opencl" => wanted.opencl = true,
            "--jobs" => wanted.jobs = number()? as usize,
            "--limit" => wanted.limit = number()?,
            "--nocapture" | "--quiet" | "-q" | "--exact" => {}
            "--test-threads" | "--color" | "--format" => drop(args.next()),
            other if other.starts_with('-') => {}
            name => wanted.names.push(name.to_string()),
        }
    }
    Ok(wanted)
}

/// The store of a run.
fn store(fetched: bool) -> Result<Store, String> {
    if !fetched {
        return Store::archive(&path(ARCHIVE));
    }
    if !path(FETCHED).is_dir() {
        return Err("models/onnx-tests is missing; python3 tests/fetch_models.py onnx-tests gets it".into());
    }
    Ok(Store::Folder(path(FETCHED)))
}

/// (suite, test) pairs of a run.
fn tests(wanted: &Wanted, store: &Store) -> Result<Vec<(String, String)>, String> {
    let mut all: Vec<(String, String)> = Vec::new();
    if wanted.light {
        all.extend(store.tests("real").into_iter().map(|t| ("real".to_string(), t)));
        all.retain(|(_, t)| wanted.names.is_empty() || wanted.names.iter().any(|n| t.contains(n.as_str())));
        return Ok(all);
    }
    if let Store::Archive(_) = store {
        for suite in ["node", "pytorch-converted", "pytorch-operator"] {
            all.extend(store.tests(suite).into_iter().map(|t| (suite.to_string(), t)));
        }
        all.retain(|(_, t)| wanted.names.is_empty() || wanted.names.iter().any(|n| t.contains(n.as_str())));
        return Ok(all);
    }
    let core = std::fs::read_to_string(path(CORE)).map_err(|e| format!("{CORE}: {e}"))?;
    all.extend(core.lines().map(|t| ("node".to_string(), t.to_string())));
    if !wanted.names.is_empty() {
        let more = store.tests("node");
        let listed: std::collections::BTreeSet<&str> = core.lines().collect();
        let more = more.into_iter().filter(|t| !listed.contains(t.as_str()));
        all.extend(more.map(|t| ("node".to_string(), t)));
    }
    for suite in ["pytorch-converted", "pytorch-operator"] {
        all.extend(store.tests(suite).into_iter().map(|t| (suite.to_string(), t)));
    }
    all.retain(|(_, t)| wanted.names.is_empty() || wanted.names.iter().any(|n| t.contains(n.as_str())));
    Ok(all)
}

/// Test -> (class, reason) of those that are not expected to pass.
fn expected() -> Result<BTreeMap<String, (String, String)>, String> {
    let text = std::fs::read_to_string(path(EXPECTED)).map_err(|e| format!("{EXPECTED}: {e}"))?;
    let lines = text.lines().filter(|l| !l.starts_with('#') && !l.is_empty());
    let parse = |line: &str| -> Option<(String, (String, String))> {
        let mut parts = line.splitn(3, '\t');
        Some((parts.next()?.into(), (parts.next()?.into(), parts.next()?.into())))
    };
    lines
        .map(|l| parse(l).ok_or_else(|| format!("{EXPECTED}: {l}")))
        .collect()
}

fn bless(records: &[Record]) -> Result<(), String> {
    let mut text = String::from(
        "# Tests that do not pass: name, class, reason. Written by `cargo test --test conformance -- --full --bless`.\n",
    );
    for r in records.iter().filter(|r| !r.outcome().passed()) {
        text += &format!("{}\t{}\t{}\n", r.name, r.outcome().class(), r.outcome().reason());
    }
    std::fs::write(path(EXPECTED), text).map_err(|e| format!("{EXPECTED}: {e}"))
}

/// A test whose artifacts the opencl executor is to repeat.
struct Pending {
    case: Case,
    record: Record,
    ran: Vec<run::Ran>,
}

/// One request a line, `FROM SUITE NAME`, and one record a line. After the request `opencl` the records of all tests since the last one
/// again, with what became of them on an OpenCL device.
fn work(opencl: bool) -> Result<(), String> {
    let mut stores: [Option<Store>; 2] = [None, None];
    let mut kernels = match opencl {
        true => Some(OpenCl::default().kernels().map_err(|e| e.to_string())?),
        false => None,
    };
    let mut pending: Vec<Pending> = Vec::new();
    let tell = |record: &Record| {
        println!("{}", record.line());
        std::io::stdout().flush().map_err(|e| e.to_string())
    };
    for line in std::io::stdin().lock().lines() {
        let line = line.map_err(|e| e.to_string())?;
        if let ("opencl", Some(kernels)) = (line.as_str(), &mut kernels) {
            run::build(kernels, pending.iter().flat_map(|p| &p.ran));
            for mut p in pending.drain(..) {
                p.record.opencl = Some(run::repeat(&p.case, &p.record.fixed, &p.ran, kernels));
                tell(&p.record)?;
            }
            continue;
        }
        let mut parts = line.split(' ');
        let (Some(from), Some(suite), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(format!("bad request {line}"));
        };
        let fetched = from == "fetched";
        if stores[usize::from(fetched)].is_none() {
            stores[usize::from(fetched)] = Some(store(fetched)?);
        }
        let machine = if suite == "real" {
            run::Machine {
                target: "tsp-2020",
                chips: &[1],
            }
        } else {
            run::Machine {
                target: "toy",
                chips: &[1, 2],
            }
        };
        let started = std::time::Instant::now();
        let case = stores[usize::from(fetched)].as_ref().map(|s| s.case(suite, name));
        let mut ran = Vec::new();
        let mut record = match &case {
            Some(Ok(case)) => {
                let all = std::panic::AssertUnwindSafe(&mut ran);
                std::panic::catch_unwind(|| run::run(case, machine, { all }.0)).unwrap_or_else(|panic| {
                    let text = panic.downcast_ref::<String>().map(String::as_str);
                    let text = text
                        .or_else(|| panic.downcast_ref::<&str>().copied())
                        .unwrap_or("no message");
                    let mut record = Record {
                        operator: case.operator(),
                        opset: case.opset(),
                        ..Record::default()
                    };
                    record.all(&Outcome::failed("panic", text));
                    record
                })
            }
            Some(Err(message)) => {
                let mut record = Record::default();
                record.all(&Outcome::Unsupported(message.clone()));
                record
            }
            None => return Err("no store".into()),
        };
        record.name = name.to_string();
        record.millis = started.elapsed().as_millis() as u64;
        tell(&record)?;
        if let (true, true, Some(Ok(case))) = (opencl, record.outcome().passed(), case) {
            pending.push(Pending { case, record, ran });
        }
    }
    Ok(())
}

/// The results by executor, and the failures by their first line.
fn summary(records: &[Record], verbose: bool) {
    let mut groups: BTreeMap<String, Vec<&Record>> = BTreeMap::new();
    for r in records.iter().filter(|r| !r.outcome().passed()) {
        let digitless: String = r
            .outcome()
            .reason()
            .chars()
            .map(|c| if c.is_ascii_digit() { '#' } else { c })
            .collect();
        let mut key = format!("{}: {}", r.outcome().class(), digitless);
        while key.contains("##") {
            key = key.replace("##", "#");
        }
        groups.entry(key).or_default().push(r);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(key, of)| (std::cmp::Reverse(of.len()), key.clone()));
    for (key, of) in &groups {
        let names: Vec<&str> = of.iter().map(|r| r.name.as_str()).collect();
        let shown = if verbose { names.len() } else { 3 };
        let more = if names.len() > shown { ", .." } else { "" };
        println!(
            "{:5}  {key}\n         {}{more}",
            of.len(),
            names[..shown.min(names.len())].join(", ")
        );
    }
    let count = |f: &dyn Fn(&Record) -> &Outcome| records.iter().filter(|r| f(r).passed()).count();
    let classes = |c: &str| records.iter().filter(|r| r.outcome().class() == c).count();
    let on_opencl: Vec<&Outcome> = records.iter().filter_map(|r| r.opencl.as_ref()).collect();
    let opencl = match on_opencl.is_empty() {
        true => String::new(),
        false => {
            let passed = on_opencl.iter().filter(|o| o.passed()).count();
            format!(", opencl {passed} of {}", on_opencl.len())
        }
    };
    println!(
        "{} tests: {} passed on all, {} failed, {} unsupported; eval {}, sim {}, cpu {}{opencl}; {} with an input fixed at compile time",
        records.len(),
        classes("passed"),
        classes("failed"),
        classes("unsupported"),
        count(&|r| &r.eval),
        count(&|r| &r.sim),
        count(&|r| &r.cpu),
        records.iter().filter(|r| !r.fixed.is_empty()).count(),
    );
}

fn checked(wanted: &Wanted) -> Result<bool, String> {
    let fetched = wanted.full || wanted.light || !wanted.opencl && !wanted.names.is_empty();
    let store = store(fetched)?;
    let tests = tests(wanted, &store)?;
    if wanted.opencl {
        let kernels = OpenCl::default().kernels().map_err(|e| e.to_string())?;
        println!("opencl: {}", kernels.device().name);
    }
    let from = if fetched { "fetched" } else { "committed" };
    let records = workers::run(
        &tests,
        from,
        wanted.opencl,
        wanted.jobs,
        std::time::Duration::from_secs(wanted.limit),
    )?;
    summary(&records, wanted.verbose);
    if fetched && !wanted.names.is_empty() {
        for r in &records {
            println!(
                "{} {} ({} ms, chips {:?}, fixed {:?}, {} ULP) {}",
                r.name,
                r.outcome().class(),
                r.millis,
                r.chips,
                r.fixed,
                r.ulp,
                r.outcome().reason()
            );
        }
        return Ok(true);
    }
    if wanted.full {
        if wanted.bless {
            bless(&records)?;
        }
        let text = support::page(&records);
        let at = path(SUPPORT);
        if wanted.bless {
            std::fs::write(&at, text).map_err(|e| format!("{SUPPORT}: {e}"))?;
        }
    }
    let expected = expected()?;
    let mut good = true;
    for r in &records {
        let want = expected.get(&r.name).map_or("passed", |e| e.0.as_str());
        if r.outcome().class() != want {
            good = false;
            println!(
                "unexpected: {} {}, expected {want}: {}",
                r.name,
                r.outcome().class(),
                r.outcome().reason()
            );
        }
    }
    Ok(good)
}

fn main() -> ExitCode {
    let done = wanted().and_then(|w| {
        if w.worker {
            work(w.opencl).map(|()| true)
        } else {
            checked(&w)
        }
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
