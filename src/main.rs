//! The command line: argv, paths, printing, progress. Exit codes are in [`diag::Code`].

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod alloc;
mod args;
mod cmd;
mod diag;
mod feed;
mod golden;
mod progress;
mod show;
mod subject;
mod text;

use args::{Cli, TargetsSub, Verb};
use clap::Parser;
use std::process::ExitCode;

/// Counts allocations, for `bench`.
#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (json, outcome) = match &cli.verb {
        #[cfg(feature = "compile")]
        Verb::Compile(v) => (v.json, cmd::compile::run(v)),
        Verb::Run(v) => (v.json, cmd::run::run(v)),
        Verb::Verify(v) => (v.json, cmd::verify::run(v)),
        Verb::Report(v) => (v.json, cmd::report::run(v)),
        Verb::Inspect(v) => (v.json, cmd::inspect::run(v)),
        Verb::Diff(v) => (v.json, cmd::diff::run(v)),
        #[cfg(feature = "compile")]
        Verb::Sweep(v) => (v.json, cmd::sweep::run(v)),
        Verb::Trace(v) => (v.json, cmd::trace::run(v)),
        Verb::View(v) => (v.json, cmd::view::run(v)),
        #[cfg(feature = "generate")]
        Verb::Generate(v) => (v.json, cmd::generate::run(v)),
        Verb::Bench(v) => (v.json, cmd::bench::run(v)),
        #[cfg(feature = "compile")]
        Verb::Ops(v) => (v.json, cmd::ops::run(v)),
        #[cfg(feature = "compile")]
        Verb::Check(v) => (v.json, cmd::check::run(v)),
        Verb::Backends(v) => (v.json, cmd::backends::run(v)),
        Verb::Targets(v) => {
            let json = match v.verb {
                TargetsSub::List { json } | TargetsSub::Show { json, .. } => json,
            };
            (json, cmd::targets::run(v))
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if json {
                cmd::print_json(&failure.json());
            }
            eprint!("{}", failure.text());
            ExitCode::from(failure.code as u8)
        }
    }
}
