//! Programs in the tensor IR through chains, schedule and emit: proved by the verifier, run on the simulator, compared
//! with `tir::eval`.

use super::*;
use crate::chain::build::{Input, build};
use crate::emit::{ArtifactInfo, emit};
use crate::partition::{Chips, PartitionOptions, partition};
use crate::testing::noise;
use crate::tir::build::TirBuilder;
use crate::tir::eval::Tensor;
use crate::tir::{ReduceOp, TensorIr, Type, ValueId};
use lockstep_isa::artifact::HostDType;
use lockstep_isa::{DType, Target};
use lockstep_runtime::executor::{LoadOptions, lookup};
use lockstep_runtime::host_tensor::HostTensor;
use std::sync::Arc;
use std::time::Instant;

fn constant(b: &mut TirBuilder, shape: &[usize], seed: u32) -> ValueId {
    let n: usize = shape.iter().product();
    let scale = 1.0 / (shape[0] as f32).sqrt();
    let data: Vec<f32> = noise(n, seed).iter().map(|v| v * scale).collect();
    b.const_f32("w", shape, &data).unwrap()
}

fn chains(ir: &TensorIr, target: &Target) -> crate::chain::ChainProgram {
    chains_on(ir, target, 1)
}

fn chains_on(ir: &TensorIr, target: &Target, chips: u16) -> crate::chain::ChainProgram {
    let options = PartitionOptions {
        chips: Chips::Exactly(chips),
        ..PartitionOptions::default()
    };
    let part = partition(ir, target, &options).unwrap();
    assert_eq!(part.n_chips, chips);
    build(&Input {
        ir: &part.ir,
        chip: &part.chip,
        n_chips: part.n_chips,
        input_copies: &part.input_copies,
        target,
    })
    .unwrap()
}

/// Compiles, verifies, simulates and compares.
fn check(ir: &TensorIr, target: &str, chips: u16) {
    let target = Target::builtin(target).unwrap().unwrap();
    let program = chains_on(ir, &target, chips);
    let inputs: Vec<Tensor> = ir
        .inputs
        .iter()
        .enumerate()
        .map(|(i, p)| Tensor::f32(&p.shape, noise(p.shape.iter().product(), 77 + i as u32)))
        .collect();
    let want = crate::tir::eval::eval(ir, &inputs, &mut []).unwrap();
    let mut spans = Vec::new();
    for options in [ScheduleOptions::serial(), ScheduleOptions::default()] {
        let schedule = schedule(&program, &target, &options).unwrap();
        let artifact = emit(&[(&program, &schedule)], &target, &ArtifactInfo::default()).unwrap();
        if let Err(errors) = lockstep_isa::verify::verify(&artifact) {
            panic!("{} {options:?}: {errors}", target.name);
        }
        spans.push(schedule.makespan);
        let names: Vec<String> = artifact.entries[0].inputs.iter().map(|t| t.name.clone()).collect();
        let tensors: Vec<HostTensor> = inputs
            .iter()
            .zip(&names)
            .map(|(t, name)| {
                let shape: Vec<u64> = t.ty.shape.iter().map(|&d| d as u64).collect();
                let data: Vec<f32> = t.bits().iter().map(|&b| f32::from_bits(b)).collect();
                HostTensor::from_f32(name, &shape, &data)
            })
            .collect();
        let views: Vec<_> = tensors.iter().map(|t| t.view()).collect();
        let artifact = Arc::new(artifact);
        let load = |name: &str| {
            let executor = lookup(name).unwrap();
            executor.load(Arc::clone(&artifact), &LoadOptions::default()).unwrap()
        };
        let (mut session, mut cpu) = (load("sim"), load("cpu"));
        let outputs = session.run(0, &views).unwrap();
        assert_eq!(outputs.cycles, Some(schedule.makespan));
        for (a, b) in outputs.tensors.iter().zip(cpu.run(0, &views).unwrap().tensors) {
            assert_eq!(a.bytes, b.bytes, "{}: sim and cpu", target.name);
        }
        for (got, want) in outputs.tensors.iter().zip(&want) {
            let (got, want) = (got.to_f32(), want.bits());
            assert_eq!(got.len(), want.len());
            for (i, (a, &b)) in got.iter().zip(&want).enumerate() {
                let b = f32::from_bits(b);
                assert!(
                    (a - b).abs() <= 1e-4 * (1.0 + b.abs()),
                    "{}: element {i}: {a} against {b}",
                    target.name
                );
            }
        }
    }
    println!(
        "{} on {chips} {}: serial {} list {} chains {}",
        ir.name,
        target.name,
        spans[0],
        spans[1],
        program.chains.len()
    );
}

/// One encoder layer with erf-GELU.
fn layer(b: &mut TirBuilder, x: ValueId, (s, d, h, f): (usize, usize, usize, usize), seed: u32) -> ValueId {
    use crate::tir::expr::Ex;
    let e = d / h;
    let mut next = seed * 100;
    let mut weight = |b: &mut TirBuilder, shape: &[usize]| {
        next += 1;
        constant(b, shape, next)
    };
    let [q, k, v] = [0; 3].map(|_| {
        let w = weight(b, &[d, h, e]);
        let bias = weight(b, &[1, h, e]);
        let y = b.contract(x, w, &[], &[(1, 0)]).unwrap();
        b.map(&[y, bias], |e, a| e.add(a[0], a[1])).unwrap()
    });
    let scores = b.contract(q, k, &[(1, 1)], &[(2, 2)]).unwrap();
    let m = b.reduce(ReduceOp::Max, scores, &[2]).unwrap();
    let p = b.map(&[scores, m], |e, a| e.exp(e.sub(a[0], a[1]))).unwrap();
    let l = b.reduce(ReduceOp::Add, p, &[2]).unwrap();
    let p = b.map(&[p, l], |e, a| e.div(a[0], a[1])).unwrap();
    let o = b.contract(p, v, &[(0, 1)], &[(2, 0)]).unwrap();
    let w = weight(b, &[h, e, d]);
    let y = b.contract(o, w, &[], &[(0, 0), (2, 1)]).unwrap();
    let y = b.map(&[y, x], |e, a| e.add(a[0], a[1])).unwrap();
    let norm = |b: &mut TirBuilder, y: ValueId| {
        let sum = b.reduce(ReduceOp::Add, y, &[1]).unwrap();
        let mean = b.map(&[sum], |e, a| e.mul(a[0], Ex::f32(1.0 / d as f32))).unwrap();
        let c = b.map(&[y, mean], |e, a| e.sub(a[0], a[1])).unwrap();
        let sq = b.map(&[c], |e, a| e.mul(a[0], a[0])).unwrap();
        let var = b.reduce(ReduceOp::Add, sq, &[1]).unwrap();
        b.map(&[c, var], |e, a| e.mul(a[0], e.rsqrt(e.add(a[1], Ex::f32(1e-5)))))
            .unwrap()
    };
    let y = norm(b, y);
    let (w1, b1) = (weight(b, &[d, f]), weight(b, &[1, f]));
    let g = b.contract(y, w1, &[], &[(1, 0)]).unwrap();
    let g = b
        .map(&[g, b1], |e, a| {
            let t = e.add(a[0], a[1]);
            let r = e.erf(e.mul(t, Ex::f32(std::f32::consts::FRAC_1_SQRT_2)));
            e.mul(e.mul(t, Ex::f32(0.5)), e.add(r, Ex::f32(1.0)))
        })
        .unwrap();
    let w2 = weight(b, &[f, d]);
    let z = b.contract(g, w2, &[], &[(1, 0)]).unwrap();
    let z = b.map(&[z, y], |e, a| e.add(a[0], a[1])).unwrap();
    let _ = s;
    norm(b, z)
}

fn encoder(layers: u32, size: (usize, usize, usize, usize)) -> TensorIr {
    let mut b = TirBuilder::new("encoder");
    let shape = [size.0, size.1];
    let mut x = b.input("x", HostDType::F32, &shape, Type::new(DType::F32, &shape));
    for i in 0..layers {
        x = layer(&mut b, x, size, i + 1);
    }
    b.output("y", HostDType::F32, &shape, x);
    b.finish()
}

#[test]
fn small_encoder() {
    let ir = encoder(2, (12, 48, 3, 96));
    for target in ["toy", "tsp-2020"] {
        check(&ir, target, 1);
    }
}

#[test]
fn mlps() {
    for (rows, k, n) in [(1, 20, 10), (5, 100, 70), (40, 64, 33)] {
        let mut b = TirBuilder::new("mlp");
        let x = b.input("x", HostDType::F32, &[rows, k], Type::new(DType::F32, &[rows, k]));
        let (w, bias, w2) = (
            constant(&mut b, &[k, n], 1),
            constant(&mut b, &[1, n], 2),
            constant(&mut b, &[n, 3], 3),
        );
        let h = b.contract(x, w, &[], &[(1, 0)]).unwrap();
        let y = b
            .map(&[h, bias], |e, a| {
                e.max(e.add(a[0], a[1]), crate::tir::expr::Ex::f32(0.0))
            })
            .unwrap();
        let z = b.contract(y, w2, &[], &[(1, 0)]).unwrap();
        b.output("y", HostDType::F32, &[rows, 3], z);
        let ir = b.finish();
        for target in ["toy", "tsp-2020"] {
            check(&ir, target, 1);
        }
    }
}

/// Weights of narrow dtypes under rows of f32: one row, whose loads bind, and many.
#[test]
fn weights_stay_as_stored() {
    for (dtype, host) in [
        (DType::BF16, HostDType::BF16),
        (DType::F16, HostDType::F16),
        (DType::I8, HostDType::I8),
    ] {
        for rows in [1, 6] {
            let (k, n) = (70, 90);
            let mut b = TirBuilder::new("stored");
            let x = b.input("x", HostDType::F32, &[rows, k], Type::new(DType::F32, &[rows, k]));
            let bits = noise(k * n, 5).into_iter().map(|v| match dtype {
                DType::I8 => (v * 100.0) as i8 as u8 as u32,
                _ => lockstep_isa::scalar::narrow_f32(v, dtype),
            });
            let bytes: Vec<u8> = bits.flat_map(|v| v.to_le_bytes()[..dtype.bytes()].to_vec()).collect();
            let w = b.constant("w", Type::new(dtype, &[k, n]), host, bytes.into()).unwrap();
            let wide = b.map_to(&[k, n], &[w], |e, a| e.cvt(a[0], DType::F32)).unwrap();
            let y = b.contract(x, wide, &[], &[(1, 0)]).unwrap();
            b.output("y", HostDType::F32, &[rows, n], y);
            let mut ir = b.finish();
            crate::passes::run_all(&mut ir, &crate::passes::PassOptions::default()).unwrap();
            let stored = ir
                .values
                .values()
                .any(|v| matches!(v.op, crate::tir::Op::Contract { .. }) && ir.values[v.inputs[1]].ty.dtype == dtype);
            assert!(stored, "{dtype}: {ir}");
            for target in ["toy", "tsp-2020"] {
                check(&ir, target, 1);
            }
        }
    }
}

/// Figures of an encoder of the size of MiniLM; nothing is simulated.
#[test]
fn encoder_of_six_layers() {
    let target = Target::builtin("tsp-2020").unwrap().unwrap();
    let ir = encoder(6, (128, 384, 12, 1536));
    let at = Instant::now();
    let program = chains(&ir, &target);
    let built = at.elapsed();
    let mut spans = Vec::new();
    for options in [ScheduleOptions::serial(), ScheduleOptions::default()] {
        let at = Instant::now();
        let s = schedule(&program, &target, &options).unwrap();
        let scheduled = at.elapsed();
        let at = Instant::now();
        let artifact = emit(&[(&program, &s)], &target, &ArtifactInfo::default()).unwrap();
        let emitted = at.elapsed();
        let at = Instant::now();
        if let Err(errors) = lockstep_isa::verify::verify(&artifact) {
            panic!("{options:?}: {errors}");
        }
        println!(
            "{options:?}: makespan {} mul {} ({} a unit) runs {} chains {} build {built:?} schedule {scheduled:?} emit {emitted:?} verify {:?}",
            s.makespan,
            s.busy.mul,
            s.busy.mul / 2,
            s.runs.len(),
            program.chains.len(),
            at.elapsed()
        );
        spans.push(s);
    }
    let list = &spans[1];
    let mut waits = std::collections::BTreeMap::new();
    for step in &list.critical {
        *waits.entry(format!("{:?}", step.wait)).or_insert(0u64) += step.cycles;
    }
    let (first, sum) = (list.critical.last().unwrap().start, waits.values().sum::<u64>());
    println!(
        "critical path of {} chains: {waits:?}; sram {:?}",
        list.critical.len(),
        list.sram
    );
    assert_eq!(first + sum, list.makespan);
    assert!(list.makespan < spans[0].makespan);
}

#[test]
fn encoders_over_chips() {
    let ir = encoder(2, (12, 48, 3, 96));
    for (target, chips) in [("toy", 2), ("toy", 4), ("tsp-2020", 2), ("tsp-2020", 8)] {
        check(&ir, target, chips);
    }
}

/// Figures of the larger encoder over chips; nothing is simulated.
#[test]
fn encoder_of_six_layers_over_chips() {
    let target = Target::builtin("tsp-2020").unwrap().unwrap();
    let ir = encoder(6, (128, 384, 12, 1536));
    for chips in [2] {
        let program = chains_on(&ir, &target, chips);
        let at = Instant::now();
        let s = schedule(&program, &target, &ScheduleOptions::default()).unwrap();
        let scheduled = at.elapsed();
        let artifact = emit(&[(&program, &s)], &target, &ArtifactInfo::default()).unwrap();
        if let Err(errors) = lockstep_isa::verify::verify(&artifact) {
            panic!("{chips}: {errors}");
        }
        let mut waits = std::collections::BTreeMap::new();
        for step in &s.critical {
            *waits.entry(format!("{:?}", step.wait)).or_insert(0u64) += step.cycles;
        }
        println!(
            "{chips} chips: makespan {} mul {} a unit, link {}, runs {} in {scheduled:?}, programs {}, waits {waits:?}",
            s.makespan,
            s.busy.mul / 2 / chips as u64,
            s.busy.c2c / chips as u64,
            s.runs.len(),
            artifact.programs.len()
        );
    }
}

/// Products that load the operand with many rows: what they stream, and their result, are transposed.
#[test]
fn exchanged_products() {
    for (target, (h, s, d)) in [("toy", (4, 16, 4)), ("tsp-2020", (4, 128, 32))] {
        let mut b = TirBuilder::new("exchanged");
        let mut input =
            |name: &str, shape: &[usize]| b.input(name, HostDType::F32, shape, Type::new(DType::F32, shape));
        let (p, v) = (input("p", &[h, s, s]), input("v", &[s, h, d]));
        let o = b.contract(p, v, &[(0, 1)], &[(2, 0)]).unwrap();
        let w = constant(&mut b, &[h, d, 24], 3);
        let y = b.contract(o, w, &[], &[(0, 0), (2, 1)]).unwrap();
        b.output("y", HostDType::F32, &[s, 24], y);
        let ir = b.finish();
        let chip = Target::builtin(target).unwrap().unwrap();
        let transposes = |n: &crate::chain::Node| matches!(n.op, crate::chain::NodeOp::Transpose { .. });
        let program = chains(&ir, &chip);
        let found = program.chains.values().any(|c| match &c.kind {
            crate::chain::ChainKind::Compute { nodes, .. } => nodes.iter().any(transposes),
            crate::chain::ChainKind::Transfer { .. } => false,
        });
        assert!(found, "{target}");
        check(&ir, target, 1);
    }
}
