//! Programs that break a rule of the machine: the simulator names the rule, the cycle, the queue and the node.
//!
//! Each case is a valid program of `tests/cases/verify` with one field of a run changed.

use lockstep_isa::artifact::Artifact;
use lockstep_isa::{AluOp, DType, Dir, Opcode, Queue, Run, Stream};
use lockstep_runtime::error::{Hazard, HazardKind};
use lockstep_runtime::{ExecError, HostTensor, LoadOptions, lookup};
use lockstep_testkit::asm::{assemble, toy, verify_case, verify_cases};
use lockstep_testkit::fault::{FaultClass, inject_class};
use std::sync::Arc;

fn run(artifact: Artifact) -> Result<(), ExecError> {
    let entry = artifact.entries[0].clone();
    let executor = lookup("sim").expect("built in");
    let mut session = executor.load(Arc::new(artifact), &LoadOptions::default())?;
    let inputs: Vec<HostTensor> = entry
        .inputs
        .iter()
        .map(|t| HostTensor::zeros(&t.name, t.dtype, &t.shape))
        .collect();
    let views: Vec<_> = inputs.iter().map(HostTensor::view).collect();
    session.run(0, &views).map(|_| ())
}

fn hazard_of(result: Result<(), ExecError>) -> Hazard {
    match result {
        Err(ExecError::Hazard(h)) => *h,
        Err(other) => panic!("no hazard but {other}"),
        Ok(()) => panic!("no hazard"),
    }
}

/// The hazard of a case after an edit.
fn hazard(case: &str, edit: impl FnOnce(&mut Artifact)) -> Hazard {
    let mut artifact = assemble(&verify_case(case), &toy()).expect("valid text");
    edit(&mut artifact);
    hazard_of(run(artifact))
}

/// Run number `nth` of an opcode in the canonical order of chip `chip`'s program.
fn nth(a: &mut Artifact, chip: usize, op: Opcode, nth: usize) -> &mut Run {
    let program = a.entries[0].chips[chip].program as usize;
    let mut runs = a.programs[program].runs.iter_mut();
    runs.by_ref().filter(|r| r.op == op).nth(nth).expect("the run")
}

fn west(index: u8) -> Stream {
    Stream { dir: Dir::West, index }
}

#[track_caller]
fn expect(h: &Hazard, kind: HazardKind, cycle: u64, queue: &str, what: &str) {
    assert_eq!((h.kind, h.cycle, h.queue.as_str()), (kind, cycle, queue), "{h}");
    assert!(h.what.contains(what), "{h}");
}

#[test]
fn an_operand_one_cycle_late_is_absent() {
    // Three of the four issues still find a vector.
    let h = hazard("add", |a| nth(a, 0, Opcode::Alu, 0).cycle += 1);
    let what = "nothing passes position 0 on st0.w";
    expect(&h, HazardKind::OperandAbsent, 27, "c0.vxm0", what);
    assert_eq!(h.source_node, " of add");
    assert_eq!(
        h.to_string(),
        "cycle 27, c0.vxm0, alu.add st0.w, st4.w -> st0.e f32 x4:1 lanes=0:16 of add: \
         nothing passes position 0 on st0.w"
    );
}

#[test]
fn an_operand_of_another_width_is_refused() {
    let h = hazard("half", |a| {
        let fold = nth(a, 0, Opcode::Fold, 0);
        (fold.a.dtype, fold.dtype) = (DType::I8, DType::I32);
    });
    let what = "st2.e carries word 0 of a vector of 2 words, word 0 of 1 is needed";
    expect(&h, HazardKind::WrongType, 23, "c0.vxm0", what);
    let h = hazard("half", |a| {
        nth(a, 0, Opcode::Alu, 0).a.dtype = DType::F16;
    });
    let what = "a vector of 4 words, 2 are needed";
    expect(&h, HazardKind::WrongType, 27, "c0.vxm3", what);
}

#[test]
fn a_forward_is_there_for_one_cycle() {
    let h = hazard("fold", |a| {
        let mul = nth(a, 0, Opcode::Alu, 1);
        assert_eq!(mul.alu, AluOp::Mul);
        (mul.cycle, mul.b.delay) = (mul.cycle + 1, 21);
    });
    let what = "ALU 0 forwards nothing";
    expect(&h, HazardKind::OperandAbsent, 47, "c0.vxm1", what);
}

#[test]
fn a_delay_looks_back_in_time() {
    let h = hazard("fold", |a| nth(a, 0, Opcode::Alu, 1).b.delay += 1);
    let what = "nothing passes position 0 on st0.w";
    expect(&h, HazardKind::OperandAbsent, 22, "c0.vxm1", what);
}

#[test]
fn two_units_cannot_drive_one_slot() {
    let h = hazard("add", |a| nth(a, 0, Opcode::Read, 1).out = Some(west(0)));
    assert_eq!((h.kind, h.cycle), (HazardKind::PortTaken, 20), "{h}");
    assert_eq!(h.what, "st0.w is driven twice at position 3");
}

#[test]
fn a_bank_serves_one_run_at_a_time() {
    let h = hazard("add", |a| {
        let queue = nth(a, 0, Opcode::Read, 0).queue;
        let read = nth(a, 0, Opcode::Read, 1);
        (read.queue, read.cycle, read.addr.base) = (queue, 2, 0x100);
        let values = &mut a.entries[0].values;
        (values[1].place, values[1].base) = (values[0].place, 0x100);
    });
    expect(&h, HazardKind::Busy, 2, "c0.mem0.b0", "busy until cycle 4");
}

#[test]
fn undefined_lanes_are_poison() {
    let h = hazard("add", |a| nth(a, 0, Opcode::Alu, 0).hi = 17);
    let what = "lane 16 of lanes 0..17";
    expect(&h, HazardKind::Undefined, 23, "c0.vxm0", what);
    // Before its first write a row is all poison.
    let h = hazard("reduce", |a| nth(a, 0, Opcode::Write, 1).dims[0].count = 3);
    let what = "lane 0 of lanes 0..32";
    expect(&h, HazardKind::Undefined, 83, "c0.mem3.b0", what);
    let h = hazard("cache", |a| nth(a, 0, Opcode::Write, 0).hi = 31);
    let what = "vector 0 of v4 is not written";
    expect(&h, HazardKind::Output, 137, "c0", what);
}

#[test]
fn a_row_is_readable_after_its_write_has_landed() {
    let h = hazard("cache", |a| {
        let read = nth(a, 0, Opcode::Read, 2);
        assert_eq!(read.cycle, 60);
        read.cycle = 45;
    });
    let what = "readable from cycle 52 on";
    expect(&h, HazardKind::RowNotReady, 45, "c0.mem2.b0", what);
}

#[test]
fn an_address_belongs_to_a_value() {
    let h = hazard("add", |a| nth(a, 0, Opcode::Write, 0).addr.base += 16);
    let what = "0x0020 belongs to no value";
    expect(&h, HazardKind::Address, 34, "c0.mem1.b0", what);
}

#[test]
fn accumulator_rows_are_ready_before_they_are_read() {
    let h = hazard("matmul", |a| nth(a, 0, Opcode::Mul, 1).addr.base = 1);
    let what = "row 4 was never written";
    expect(&h, HazardKind::Accumulator, 154, "c0.mxm0", what);
    let h = hazard("matmul", |a| {
        let addr = &mut nth(a, 0, Opcode::Mul, 0).addr2;
        (addr.base, addr.strides[0]) = (3, -1);
    });
    let what = "row 0 is usable from cycle 134 on";
    expect(&h, HazardKind::Accumulator, 130, "c0.mxm0", what);
}

#[test]
fn a_tile_is_swapped_in_when_it_is_complete() {
    let early = |a: &mut Artifact| {
        nth(a, 0, Opcode::Mul, 0).cycle -= 17;
    };
    let h = hazard("matmul", early);
    let what = "columns 0..16 is usable from cycle 72 on";
    expect(&h, HazardKind::Tile, 63, "c0.mxm0", what);
    let h = hazard("matmul", |a| nth(a, 0, Opcode::Mul, 0).swap = false);
    let what = "the active tile is empty";
    expect(&h, HazardKind::Tile, 80, "c0.mxm0", what);
    let h = hazard("matmul", |a| nth(a, 0, Opcode::Mul, 0).cycle = 40);
    expect(&h, HazardKind::Tile, 40, "c0.mxm0", "is still being loaded");
}

#[test]
fn columns_are_loaded_once_per_tile() {
    let h = hazard("blocks", |a| {
        let window = &mut nth(a, 0, Opcode::LoadCol, 0).window;
        (window.n0, window.n1) = (7, 15);
    });
    let what = "already holds i8 columns 0..8";
    expect(&h, HazardKind::Tile, 57, "c0.mxm1", what);
}

#[test]
fn words_arrive_when_they_are_received() {
    let h = hazard("transfer", |a| nth(a, 1, Opcode::Recv, 0).cycle += 1);
    expect(&h, HazardKind::Link, 268, "c1.c2c1", "due in cycle 267");
    let h = hazard("transfer", |a| nth(a, 0, Opcode::Send, 0).queue = Queue::Send(1));
    // On a ring of two chips link 1 leads to the same chip, to its link 0.
    let what = "no word arrives on the link";
    expect(&h, HazardKind::Link, 267, "c1.c2c1", what);
    let h = hazard("transfer", |a| {
        let program = a.entries[0].chips[1].program as usize;
        a.programs[program].runs.clear();
        let chip = &mut a.entries[0].chips[1];
        chip.claims.clear();
        chip.origins.clear();
    });
    expect(&h, HazardKind::Link, 267, "c0.c2c0", "is not received");
}

#[test]
fn every_output_is_written() {
    let h = hazard("add", |a| nth(a, 0, Opcode::Write, 0).dims[0].count = 3);
    let what = "vector 3 of v2 is not written";
    expect(&h, HazardKind::Output, 56, "c0", what);
}

#[test]
fn nonsense_is_refused_at_load() {
    let mut artifact = assemble(&verify_case("add"), &toy()).expect("valid text");
    nth(&mut artifact, 0, Opcode::Alu, 0).hi = 33;
    let error = run(artifact).map_err(|e| e.to_string());
    assert!(error.is_err_and(|e| e.contains("hi")));
    let mut artifact = assemble(&verify_case("add"), &toy()).expect("valid text");
    artifact.entries[0].values[0].n_vectors = u32::MAX;
    let error = run(artifact).map_err(|e| e.to_string());
    assert!(error.is_err_and(|e| e.contains("value v0") && e.contains("4096 words")));
    let mut artifact = assemble(&verify_case("add"), &toy()).expect("valid text");
    artifact.entries[0].inputs[0].nests[0].dims[0].vector = 2;
    let error = run(artifact).map_err(|e| e.to_string());
    assert!(error.is_err_and(|e| e.contains("vector")));
    let artifact = assemble(&verify_case("add"), &toy()).expect("valid text");
    let options = LoadOptions {
        max_memory_bytes: 100,
        ..LoadOptions::default()
    };
    let executor = lookup("sim").expect("built in");
    let error = executor.load(Arc::new(artifact), &options).err();
    assert!(error.is_some_and(|e| e.to_string().contains("100 bytes are allowed")));
}

/// Whatever one field of a run holds, the simulator runs or refuses; it reads no claims.
#[test]
fn faults_are_refused_or_run_and_never_panic() {
    let (mut runs, mut refused) = (0, 0);
    for (name, text) in verify_cases() {
        let mut artifact = assemble(&text, &toy()).expect("valid text");
        for &class in FaultClass::ALL {
            for seed in 0..12 {
                let Some(fault) = inject_class(&mut artifact, class, seed) else {
                    continue;
                };
                runs += 1;
                let of_claims = class.name().starts_with("claimed");
                match run(artifact.clone()) {
                    Err(ExecError::Hazard(h)) => {
                        assert!(!of_claims, "{name}, {}: {h}", class.name());
                        refused += 1;
                    }
                    Err(_) => refused += 1,
                    Ok(()) => {}
                }
                fault.undo(&mut artifact);
            }
        }
    }
    assert!(runs > 1000 && refused > runs / 4, "{refused} of {runs}");
}
