//! The verifier rejects every single fault in compiled artifacts, and a scheduler that errs.
//!
//! Faults change one field that a run uses; see `lockstep_testkit::fault`. That the test can fail is tested too: with one
//! check of the verifier off, some fault passes.

#![cfg(all(feature = "compile", feature = "sim"))]

mod common;

use lockstep::files::FileSource;
use lockstep::graph::Verified;
use lockstep::{Artifact, Chips, ImportOptions, Options, Silent, Target, WeightFormat};
use lockstep_compiler::chain::BufKind;
use lockstep_compiler::emit::{ArtifactInfo, emit};
use lockstep_graph::EntityId;
use lockstep_isa::Queue;
use lockstep_isa::verify::{Checks, Invariant, VerifyErrors, verify, verify_with};
use lockstep_testkit::differ::{Setting, Timed, compile, timed};
use lockstep_testkit::fault::{FaultClass, inject, inject_class};
use lockstep_testkit::program::Program;
use std::collections::BTreeMap;

/// An encoder block: attention of two heads, then two products with an activation between them.
const BLOCK: &str = "
v0 = input f32 12x32
v1 = const f32 32x2x16
v2 = contract v0 v1 batch - over 1:0
v3 = const f32 32x2x16
v4 = contract v0 v3 batch - over 1:0
v5 = const f32 32x2x16
v6 = contract v0 v5 batch - over 1:0
v7 = contract v2 v4 batch 1:1 over 2:2
v8 = reduce max 2 v7
v9 = map sub v7 v8
v10 = map exp v9
v11 = reduce add 2 v10
v12 = map ratio v10 v11
v13 = contract v12 v6 batch 0:1 over 2:0
v14 = const f32 2x16x32
v15 = contract v13 v14 batch - over 0:0,2:1
v16 = map add v15 v0
v17 = const f32 32x64
v18 = contract v16 v17 batch - over 1:0
v19 = map gelu v18
v20 = const f32 64x32
v21 = contract v19 v20 batch - over 1:0
v22 = map add v21 v16
output v22
";

const TWO_CHIPS: Setting = Setting {
    target: "toy",
    chips: 2,
    serial: false,
};

fn block() -> Program {
    Program::parse(BLOCK).expect("a program")
}

fn block_artifact() -> Artifact {
    let compiled = compile(&block(), TWO_CHIPS).unwrap_or_else(|e| panic!("{e}"));
    let (artifact, _) = compiled.expect("it fits");
    assert_eq!(artifact.n_chips, 2);
    artifact
}

/// The shipped model on four chips.
fn silero() -> Artifact {
    let source = FileSource::open(&common::silero()).expect("the shipped model");
    let graph = lockstep::import(&source, &ImportOptions::default()).expect("a model");
    let graph = Verified::new(graph, &()).expect("a sound graph");
    let target = Target::builtin("toy").expect("a target").expect("a target");
    let options = Options {
        chips: Chips::Exactly(4),
        ..Options::default()
    };
    let compiled = lockstep_compiler::compile(&graph, &target, &options, &mut Silent).unwrap_or_else(|e| panic!("{e}"));
    compiled.artifact.expect("an artifact")
}

/// A decoder with weights of 4 bits on two chips.
fn int4() -> Artifact {
    let artifact = common::llama(WeightFormat::Int4);
    let scaled = |p: &lockstep_isa::artifact::Program| p.runs.iter().any(|r| r.is_scaled());
    assert!(artifact.programs.iter().any(scaled), "no load has scales");
    artifact
}

/// Injects `each` faults of every class; the numbers per class.
fn all_rejected(name: &str, a: &mut Artifact, each: u64) -> BTreeMap<FaultClass, u32> {
    verify(a).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut counts = BTreeMap::new();
    let mut accepted = Vec::new();
    for &class in FaultClass::ALL {
        for seed in 0..each {
            let Some(fault) = inject_class(a, class, seed) else {
                break;
            };
            *counts.entry(class).or_default() += 1;
            if verify(a).is_ok() {
                accepted.push(format!("{name} c{} r{}: {}", fault.at.1, fault.at.2, fault.what));
            }
            fault.undo(a);
        }
    }
    assert!(accepted.is_empty(), "accepted:\n{}", accepted.join("\n"));
    assert!(verify(a).is_ok(), "{name}: faults are taken back");
    counts
}

#[test]
fn faults_in_a_block_are_rejected() {
    let counts = all_rejected("block", &mut block_artifact(), 60);
    let total: u32 = counts.values().sum();
    assert!(total >= 1000, "{total}: {counts:?}");
    for class in [
        FaultClass::Link,
        FaultClass::Swap,
        FaultClass::KWindow,
        FaultClass::ClaimBlock,
        FaultClass::Delay,
    ] {
        assert!(counts.contains_key(&class), "none of {class:?}: {counts:?}");
    }
}

#[test]
fn faults_in_the_shipped_model_are_rejected() {
    let counts = all_rejected("silero", &mut silero(), 12);
    assert!(counts.len() > 15, "{counts:?}");
    assert!(counts.values().sum::<u32>() >= 200, "{counts:?}");
}

#[test]
fn faults_in_loads_of_scaled_weights_are_rejected() {
    let counts = all_rejected("int4", &mut int4(), 40);
    assert!(counts.values().sum::<u32>() >= 600, "{counts:?}");
}

#[test]
fn without_a_check_some_fault_passes() {
    let mut a = block_artifact();
    for off in [Invariant::Operands, Invariant::Addresses, Invariant::Lanes] {
        let passes = (0..2000).any(|seed| {
            let Some(fault) = inject(&mut a, seed) else {
                return false;
            };
            let passes = verify_with(&a, Checks::ALL.without(off)).is_ok();
            fault.undo(&mut a);
            passes
        });
        assert!(passes, "{off}: every fault is found without it");
    }
}

/// The violations of a schedule that was changed after the scheduler was done with it.
fn broken(chips: u16, change: impl FnOnce(&mut Timed)) -> VerifyErrors {
    let mut t = timed(&block(), Setting { chips, ..TWO_CHIPS })
        .unwrap_or_else(|e| panic!("{e}"))
        .expect("it fits");
    change(&mut t);
    let artifact =
        emit(&[(&t.chains, &t.schedule)], &t.target, &ArtifactInfo::default()).unwrap_or_else(|e| panic!("{e}"));
    verify(&artifact).expect_err("a schedule that was broken")
}

#[test]
fn a_link_booked_twice_is_found() {
    let mut place = None;
    let errors = broken(4, |t| {
        let runs = &t.schedule.runs;
        let sends: Vec<usize> = (0..runs.len())
            .filter(|&i| matches!(runs[i].run.queue, Queue::Send(_)))
            .collect();
        let pairs = sends.iter().flat_map(|&a| sends.iter().map(move |&b| (a, b)));
        let same_link = |&(a, b): &(usize, usize)| {
            (runs[a].chip, runs[a].run.queue) == (runs[b].chip, runs[b].run.queue)
                && runs[a].run.cycle < runs[b].run.cycle
        };
        let (a, b) = pairs.into_iter().find(same_link).expect("two sends on one link");
        place = Some((runs[a].chip, runs[a].run.queue));
        let by = runs[b].run.cycle - runs[a].run.cycle;
        // The send moves onto the earlier one, and with it what receives its words.
        let other = |i: usize| {
            let from = runs[i].claims.operands.first().is_some_and(|p| p.run as usize == b);
            from && matches!(runs[i].run.queue, Queue::Recv(_))
        };
        let moved: Vec<usize> = (0..runs.len()).filter(|&i| i == b || other(i)).collect();
        for i in moved {
            t.schedule.runs[i].run.cycle -= by;
        }
    });
    let (chip, queue) = place.expect("a link");
    let found = errors
        .violations
        .iter()
        .find(|v| v.invariant == Invariant::Queues)
        .expect("the link is held by one run");
    let said = errors
        .violations
        .iter()
        .any(|v| v.invariant == Invariant::Queues && (v.chip, v.queue) == (Some(chip), Some(queue)));
    assert!(said, "{found}");
    assert!(
        found.cycle.is_some() && found.chain.is_some() && !found.instruction.is_empty(),
        "{found}"
    );
}

#[test]
fn a_buffer_reused_too_early_is_found() {
    let errors = broken(1, |t| {
        // First definition and last use of every buffer, in cycles.
        let mut life: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
        for run in &t.schedule.runs {
            if let Some(mem) = run.claims.mem {
                let cycle = run.run.cycle;
                let l = life.entry(mem.value).or_insert((cycle, cycle));
                *l = (l.0.min(cycle), l.1.max(cycle));
            }
        }
        // What the program does not define is there from the start.
        for (id, buf) in t.chains.bufs.iter().filter(|(_, b)| !matches!(b.kind, BufKind::Temp)) {
            if let Some(l) = life.get_mut(&(id.index() as u32)) {
                l.0 = 0;
            }
            assert!(buf.n_vectors > 0);
        }
        let home = |v: u32| t.schedule.homes[v as usize];
        let buf = |v: u32| t.chains.bufs.iter().nth(v as usize).map(|(_, b)| b).expect("a buffer");
        let clash = |&(a, b): &(u32, u32)| {
            matches!(buf(b).kind, BufKind::Temp)
                && buf(a).chip == buf(b).chip
                && buf(a).dtype == buf(b).dtype
                && home(a).place == home(b).place
                && home(a).base != home(b).base
                && life[&a].0 < life[&b].0
                && life[&b].0 < life[&a].1
        };
        let used: Vec<u32> = life.keys().copied().collect();
        let all = used.iter().flat_map(|&a| used.iter().map(move |&b| (a, b)));
        let (a, b) = all
            .into_iter()
            .find(clash)
            .expect("two buffers of one bank alive at a time");
        let (from, to) = (home(b).base, home(a).base);
        for run in t
            .schedule
            .runs
            .iter_mut()
            .filter(|r| r.claims.mem.is_some_and(|m| m.value == b))
        {
            run.run.addr.base = run.run.addr.base.wrapping_sub(from).wrapping_add(to);
        }
        t.schedule.homes[b as usize].base = to;
    });
    let found = errors
        .violations
        .iter()
        .find(|v| matches!(v.invariant, Invariant::Rows | Invariant::ChainOrder | Invariant::Values));
    let found = found.unwrap_or_else(|| panic!("{errors}"));
    assert!(found.chip.is_some() && !found.what.is_empty(), "{found}");
}
