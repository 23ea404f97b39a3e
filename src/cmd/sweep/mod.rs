//! `lockstep sweep`: a model compiled for every combination of some figures, from one import, in parallel.

mod plot;
mod rows;
mod vary;

use super::{line, lines, print_json, report};
use crate::args::SweepVerb;
use crate::diag::{Failure, JSON_VERSION, Outcome};
use crate::progress::{Bar, Progress};
use crate::subject::model::{self, Stages};
use lockstep::files::{self, FileError};
use lockstep::{Graph, Silent};
use lockstep_graph::Verified;
use rows::Row;
use serde_json::json;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use vary::Combination;

/// Most combinations of a sweep.
const MOST: usize = 4096;

/// Runs the verb.
///
/// # Errors
/// A key or value that is not allowed; what importing and writing report; if not one combination compiles, what the first one reports.
pub fn run(verb: &SweepVerb) -> Outcome {
    let objectives = rows::objectives(&verb.pareto)?;
    let combinations = vary::combinations(&verb.vary, &verb.options, MOST)?;
    let mut progress = Progress::new();
    let imported = model::import(&verb.model, &verb.options, &mut progress)?;
    let graphs = model::verified(imported.entries)?;
    drop(progress);
    let tokenizer = imported.tokenizer.unwrap_or_default();
    let jobs = verb
        .jobs
        .map_or_else(cores, usize::from)
        .clamp(1, combinations.len().max(1));
    let bar = Bar::new(combinations.len());
    let found = in_parallel(jobs, &combinations, |one| {
        let found = compile(one, &graphs, &tokenizer);
        bar.step();
        found
    });
    drop(bar);
    let mut rows = Vec::new();
    let mut failures = Vec::new();
    for (one, found) in combinations.iter().zip(found) {
        match found {
            Ok(report) => rows.extend(Row::of_report(one, &report)),
            Err(failure) => {
                rows.push(Row::of_failure(one, &failure.message));
                failures.push(failure);
            }
        }
    }
    rows::mark_front(&mut rows, &objectives);
    let keys: Vec<&str> = verb.vary.iter().map(|(key, _)| key.as_str()).collect();
    let mut written = Vec::new();
    if let Some(path) = &verb.output {
        let csv = if path.is_dir() || path.extension().is_none_or(|e| e != "csv") {
            std::fs::create_dir_all(path)
                .map_err(|e| Failure::usage(format!("{path:?}: cannot create the directory: {e}")))?;
            path.join("sweep.csv")
        } else {
            path.clone()
        };
        write(&csv, &rows::csv(&keys, &rows)?)?;
        written.push(csv.clone());
        if csv != *path && verb.svg.is_none() {
            let svg = path.join("sweep.svg");
            write(&svg, plot::svg(&verb.model, &rows, &objectives).as_bytes())?;
            written.push(svg);
        }
    }
    if let Some(path) = &verb.svg {
        write(path, plot::svg(&verb.model, &rows, &objectives).as_bytes())?;
        written.push(path.clone());
    }
    if verb.json {
        let files: Vec<String> = written.iter().map(|p| p.display().to_string()).collect();
        let names: Vec<&str> = objectives.iter().map(|o| o.name()).collect();
        print_json(&json!({
            "version": JSON_VERSION, "model": verb.model.display().to_string(), "pareto": names,
            "rows": rows.iter().map(Row::to_value).collect::<Vec<_>>(), "written": files,
        }));
    } else {
        lines(rows::table(&keys, &rows));
        for path in &written {
            line(format!("-> {}", path.display()));
        }
    }
    if failures.len() == combinations.len()
        && let Some(first) = failures.into_iter().next()
    {
        let message = format!(
            "none of {} combinations compiles: {}",
            combinations.len(),
            first.message
        );
        return Err(Failure { message, ..first });
    }
    Ok(())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The compile report of a combination.
fn compile(one: &Combination, graphs: &[(String, Verified<Graph>)], tokenizer: &str) -> Outcome<serde_json::Value> {
    let entries: Vec<_> = graphs.iter().map(|(name, graph)| (name.clone(), graph)).collect();
    let options = model::options(&one.options, Stages::default(), tokenizer.to_owned());
    let compiled = lockstep::compile_entries(&entries, &one.target, &options, &mut Silent)?;
    let artifact = compiled.artifact;
    let artifact = artifact.ok_or_else(|| Failure::usage("the compile was stopped before it made an artifact"))?;
    // Read from the artifact as `report` does, for the same digits.
    report::of(&artifact)
}

/// Applies a function to all items on so many threads; results are in the order of the items.
fn in_parallel<T: Sync, R: Send>(jobs: usize, items: &[T], f: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(usize, R)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some((i, item)) = {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    items.get(i).map(|item| (i, item))
                } {
                    let result = f(item);
                    // A thread that panicked ends the scope with its panic; what the others found does not matter then.
                    done.lock().unwrap_or_else(|e| e.into_inner()).push((i, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(|e| e.into_inner());
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, result)| result).collect()
}

fn write(path: &Path, bytes: &[u8]) -> Outcome {
    files::write_renamed(path, |out| {
        out.write_all(bytes).map_err(|source| FileError::Io {
            path: path.to_owned(),
            what: "write",
            source,
        })
    })?;
    Ok(())
}
