//! A loaded session of the cpu executor allocates nothing while it runs: the shipped model with carried state, at 1 and 2
//! threads.

#![cfg(feature = "compile")]

mod common;

use lockstep::files::FileSource;
use lockstep::graph::Verified;
use lockstep::{HostTensor, ImportOptions, LoadOptions, Options, Silent, Target, lookup};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn runs_allocate_nothing() {
    let source = FileSource::open(&common::silero()).expect("the shipped model");
    let graph = lockstep::import(&source, &ImportOptions::default()).expect("a model");
    let graph = Verified::new(graph, &()).expect("a sound graph");
    for name in ["toy", "tsp-2020"] {
        let target = Target::builtin(name).expect("a target").expect("a target");
        let compiled = lockstep::compile(&graph, &target, &Options::default(), &mut Silent).expect("it compiles");
        let artifact = Arc::new(compiled.artifact.expect("an artifact"));
        let inputs: Vec<HostTensor> = artifact.entries[0]
            .inputs
            .iter()
            .map(|t| HostTensor::zeros(&t.name, t.dtype, &t.shape))
            .collect();
        let views: Vec<_> = inputs.iter().map(HostTensor::view).collect();
        for threads in [1, 2] {
            let options = LoadOptions {
                threads,
                ..LoadOptions::default()
            };
            let mut session = lookup("cpu")
                .expect("cpu")
                .load(artifact.clone(), &options)
                .expect("it loads");
            session.run(0, &views).expect("a clean run");
            let region = Region::new(ALLOCATOR);
            for _ in 0..10 {
                session.run(0, &views).expect("a clean run");
            }
            let change = region.change();
            assert_eq!(
                (change.allocations, change.reallocations),
                (0, 0),
                "{name} with {threads} threads"
            );
        }
    }
}
