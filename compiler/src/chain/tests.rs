//! Small programs through layout and chains, executed by the chain interpreter and compared with `tir::eval`.

use super::build::{Input, build};
use super::{ChainKind, NodeOp, eval};
use crate::passes::{PassOptions, run_all};
use crate::testing::noise;
use crate::tir::build::TirBuilder;
use crate::tir::eval::Tensor;
use crate::tir::{IndexMap, ReduceOp, TensorIr, Type, ValueId, View};
use lockstep_graph::SideTable;
use lockstep_isa::artifact::HostDType;
use lockstep_isa::{DType, Target};

fn input(b: &mut TirBuilder, name: &str, shape: &[usize]) -> ValueId {
    b.input(name, HostDType::F32, shape, Type::new(DType::F32, shape))
}

fn constant(b: &mut TirBuilder, name: &str, shape: &[usize], seed: u32) -> ValueId {
    let n = shape.iter().product();
    b.const_f32(name, shape, &noise(n, seed)).unwrap()
}

fn output(b: &mut TirBuilder, v: ValueId) {
    let shape = b.shape(v).to_vec();
    let host = if b.dtype(v) == DType::I32 {
        HostDType::I32
    } else {
        HostDType::F32
    };
    b.output("y", host, &shape, v);
}

fn check(ir: &TensorIr, inputs: &[Tensor]) {
    for target in ["toy", "tsp-2020"] {
        let target = Target::builtin(target).unwrap().unwrap();
        let mut chip = SideTable::default();
        ir.values.ids().for_each(|v| chip[v] = 0);
        let program = build(&Input {
            ir,
            chip: &chip,
            n_chips: 1,
            input_copies: &[],
            target: &target,
        })
        .unwrap();
        let got = eval::run(&program, target.lanes as usize, inputs, &mut Vec::new());
        let want = crate::tir::eval::eval(ir, inputs, &mut []).unwrap();
        for (g, w) in got.iter().zip(&want) {
            let wb = w.bits();
            assert_eq!(g.len(), wb.len());
            for (i, (a, b)) in g.iter().zip(&wb).enumerate() {
                if w.ty.dtype == DType::I32 {
                    assert_eq!(a, b, "element {i}");
                    continue;
                }
                let (a, b) = (f32::from_bits(*a), f32::from_bits(*b));
                assert!(
                    (a - b).abs() <= 1e-4 * (1.0 + b.abs()),
                    "{}: element {i}: {a} against {b}",
                    target.name
                );
            }
        }
    }
}

fn random(ir: &TensorIr) -> Vec<Tensor> {
    ir.inputs
        .iter()
        .enumerate()
        .map(|(i, p)| Tensor::f32(&p.shape, noise(p.shape.iter().product(), 77 + i as u32)))
        .collect()
}

fn strided(shape: &[usize], strides: &[i64], offset: i64) -> IndexMap {
    IndexMap {
        views: vec![View::strided(shape.to_vec(), strides.to_vec(), offset)],
    }
}

#[test]
fn mlp() {
    for (rows, k, n) in [(1, 20, 10), (5, 100, 70), (40, 64, 33), (128, 384, 40)] {
        let mut b = TirBuilder::new("mlp");
        let x = input(&mut b, "x", &[rows, k]);
        let w = constant(&mut b, "w", &[k, n], 1);
        let bias = constant(&mut b, "b", &[1, n], 2);
        let h = b.contract(x, w, &[], &[(1, 0)]).unwrap();
        let y = b
            .map(&[h, bias], |e, a| {
                e.max(e.add(a[0], a[1]), crate::tir::expr::Ex::f32(0.0))
            })
            .unwrap();
        let w2 = constant(&mut b, "w2", &[n, 3], 3);
        let z = b.contract(y, w2, &[], &[(1, 0)]).unwrap();
        output(&mut b, z);
        let ir = b.finish();
        check(&ir, &random(&ir));
    }
}

#[test]
fn attention_with_norm() {
    let (s, d, h) = (12, 48, 3);
    let e = d / h;
    let mut b = TirBuilder::new("attention");
    let x = input(&mut b, "x", &[s, d]);
    let head = |b: &mut TirBuilder, seed| {
        let w = constant(b, "w", &[d, h, e], seed);
        b.contract(x, w, &[], &[(1, 0)]).unwrap()
    };
    let (q, k, v) = (head(&mut b, 1), head(&mut b, 2), head(&mut b, 3));
    let scores = b.contract(q, k, &[(1, 1)], &[(2, 2)]).unwrap();
    let m = b.reduce(ReduceOp::Max, scores, &[2]).unwrap();
    let p = b.map(&[scores, m], |e, a| e.exp(e.sub(a[0], a[1]))).unwrap();
    let l = b.reduce(ReduceOp::Add, p, &[2]).unwrap();
    let p = b.map(&[p, l], |e, a| e.div(a[0], a[1])).unwrap();
    let o = b.contract(p, v, &[(0, 1)], &[(2, 0)]).unwrap();
    let w = constant(&mut b, "wo", &[h, e, d], 4);
    let y = b.contract(o, w, &[], &[(0, 0), (2, 1)]).unwrap();
    let y = b.map(&[y, x], |e, a| e.add(a[0], a[1])).unwrap();
    let sum = b.reduce(ReduceOp::Add, y, &[1]).unwrap();
    let mean = b
        .map(&[sum], |e, a| e.mul(a[0], crate::tir::expr::Ex::f32(1.0 / d as f32)))
        .unwrap();
    let c = b.map(&[y, mean], |e, a| e.sub(a[0], a[1])).unwrap();
    let sq = b.map(&[c], |e, a| e.mul(a[0], a[0])).unwrap();
    let var = b.reduce(ReduceOp::Add, sq, &[1]).unwrap();
    let n = b
        .map(&[c, var], |e, a| {
            e.mul(a[0], e.rsqrt(e.add(a[1], crate::tir::expr::Ex::f32(1e-5))))
        })
        .unwrap();
    output(&mut b, n);
    let ir = b.finish();
    check(&ir, &random(&ir));
}

/// Heads of a few rows each by one tile; what their values add up to is folded on the way from the matrix unit.
#[test]
fn heads_by_one_tile() {
    let (h, g, e, len) = (3, 2, 4, 6);
    let mut b = TirBuilder::new("decode");
    let q = input(&mut b, "q", &[h, g, e]);
    let (k, v) = (input(&mut b, "k", &[len, h, e]), input(&mut b, "v", &[len, h, e]));
    let scores = b.contract(q, k, &[(0, 1)], &[(2, 2)]).unwrap();
    let p = b.map(&[scores], |e, a| e.exp(a[0])).unwrap();
    let l = b.reduce(ReduceOp::Add, p, &[2]).unwrap();
    let o = b.contract(p, v, &[(0, 1)], &[(2, 0)]).unwrap();
    let o = b.map(&[o, l], |e, a| e.div(a[0], a[1])).unwrap();
    let w = constant(&mut b, "wo", &[h, g, e, 5], 4);
    let y = b.contract(o, w, &[], &[(0, 0), (1, 1), (2, 2)]).unwrap();
    output(&mut b, y);
    let mut ir = b.finish();
    let options = PassOptions {
        lanes: Some(h * e),
        ..PassOptions::default()
    };
    run_all(&mut ir, &options).unwrap();
    check(&ir, &random(&ir));
    let target = Target::builtin("tsp-2020").unwrap().unwrap();
    let mut chip = SideTable::default();
    ir.values.ids().for_each(|v| chip[v] = 0);
    let program = build(&Input {
        ir: &ir,
        chip: &chip,
        n_chips: 1,
        input_copies: &[],
        target: &target,
    })
    .unwrap();
    let chains = program.chains.values().filter_map(|c| match &c.kind {
        ChainKind::Compute { nodes, .. } => Some(nodes),
        ChainKind::Transfer { .. } => None,
    });
    let folded = chains.filter(|nodes| {
        let has = |f: fn(&NodeOp) -> bool| nodes.iter().any(|n| f(&n.op));
        has(|op| matches!(op, NodeOp::Mul { .. })) && has(|op| matches!(op, NodeOp::Fold { .. }))
    });
    assert_eq!(folded.count(), 1);
}

#[test]
fn moves_are_carried_out() {
    let mut b = TirBuilder::new("moves");
    let x = input(&mut b, "x", &[6, 50]);
    let t = b.transpose(x, &[1, 0]).unwrap();
    let padded = b.pad(t, &[(2, 1), (0, 3)], 1.5f32.to_bits()).unwrap();
    let r = b.reshape(padded, &[53 * 9]).unwrap();
    let c = b.concat(&[r, r], 0).unwrap();
    let y = b.map(&[c], |e, a| e.neg(a[0])).unwrap();
    output(&mut b, y);
    let ir = b.finish();
    check(&ir, &random(&ir));
}

#[test]
fn convolution_by_taps() {
    // 3 x 3 over a padded [10, 8, 5] image: taps are read in place.
    let mut b = TirBuilder::new("conv");
    let x = input(&mut b, "x", &[8, 6, 5]);
    let p = b.pad(x, &[(1, 1), (1, 1), (0, 0)], 0).unwrap();
    let taps = b
        .move_one(p, strided(&[8, 6, 3, 3, 5], &[40, 5, 40, 5, 1], 0), 0)
        .unwrap();
    let w = constant(&mut b, "w", &[3, 3, 5, 7], 9);
    let y = b.contract(taps, w, &[], &[(2, 0), (3, 1), (4, 2)]).unwrap();
    let y = b.reduce(ReduceOp::Max, y, &[0, 1]).unwrap();
    output(&mut b, y);
    let ir = b.finish();
    check(&ir, &random(&ir));
}

/// A mobile block: a strided convolution of a channels-first image, taps of every channel with a border, a scale per channel from
/// a mean over all pixels, and a 3 x 3 convolution, at a stride.
fn mobile_block(h: usize, w: usize, channels: usize, taps: usize) -> TensorIr {
    let mut b = TirBuilder::new("mobile");
    let x = input(&mut b, "x", &[3, 2 * h, 2 * w]);
    let x = b.transpose(x, &[1, 2, 0]).unwrap();
    let windows = |kernel: usize, stride: usize| crate::tir::Windows {
        kernel: vec![kernel; 2],
        strides: vec![stride; 2],
        dilations: vec![1; 2],
        pads: vec![(kernel / 2, kernel / 2); 2],
    };
    let columns = |b: &mut TirBuilder, x: ValueId, stride: usize| {
        let shape = [&[1], b.shape(x)].concat();
        let x = b.reshape(x, &shape).unwrap();
        let y = b.move_one(x, IndexMap::im2col(&shape, &windows(3, stride)), 0).unwrap();
        let shape = b.shape(y)[1..].to_vec();
        b.reshape(y, &shape).unwrap()
    };
    let x = columns(&mut b, x, 2);
    let weights = constant(&mut b, "stem", &[3, 3, 3, channels], 1);
    let x = b.contract(x, weights, &[], &[(2, 0), (3, 1), (4, 2)]).unwrap();
    let mut sum = None;
    let half = taps / 2;
    let padded = b.pad(x, &[(half, half), (half, half), (0, 0)], 0).unwrap();
    for i in 0..taps {
        let mut operands: Vec<ValueId> = sum.into_iter().collect();
        for j in 0..taps {
            operands.push(b.narrow(padded, &[(i, 1, h), (j, 1, w), (0, 1, channels)]).unwrap());
            operands.push(constant(&mut b, "tap", &[1, 1, channels], (10 + i * taps + j) as u32));
        }
        let first = sum.is_none();
        sum = Some(
            b.map(&operands, |e, a| {
                let mut acc = if first { crate::tir::expr::Ex::f32(0.0) } else { a[0] };
                for pair in a[usize::from(!first)..].chunks(2) {
                    acc = e.fma(pair[0], pair[1], acc);
                }
                acc
            })
            .unwrap(),
        );
    }
    let x = sum.unwrap();
    let mean = b.reduce(ReduceOp::Add, x, &[0, 1]).unwrap();
    let mean = b
        .map(&[mean], |e, a| {
            e.mul(a[0], crate::tir::expr::Ex::f32(1.0 / (h * w) as f32))
        })
        .unwrap();
    let squeeze = constant(&mut b, "squeeze", &[channels, 2], 5);
    let excite = constant(&mut b, "excite", &[2, channels], 6);
    let s = b.contract(mean, squeeze, &[], &[(2, 0)]).unwrap();
    let s = b.contract(s, excite, &[], &[(2, 0)]).unwrap();
    let s = b.map(&[s], |e, a| e.max(a[0], crate::tir::expr::Ex::f32(0.1))).unwrap();
    let x = b.map(&[x, s], |e, a| e.mul(a[0], a[1])).unwrap();
    let x = columns(&mut b, x, 1);
    let weights = constant(&mut b, "last", &[3, 3, channels, 5], 7);
    let x = b.contract(x, weights, &[], &[(2, 0), (3, 1), (4, 2)]).unwrap();
    let x = columns(&mut b, x, 2);
    let weights = constant(&mut b, "down", &[3, 3, 5, 9], 8);
    let x = b.contract(x, weights, &[], &[(2, 0), (3, 1), (4, 2)]).unwrap();
    output(&mut b, x);
    let mut ir = b.finish();
    crate::passes::run_all(&mut ir, &crate::passes::PassOptions::default()).unwrap();
    ir
}

#[test]
fn packed_pixels_give_the_same_image() {
    for (h, w, channels, taps) in [
        (4, 12, 8, 3),
        (6, 16, 6, 5),
        (3, 24, 10, 3),
        (5, 7, 40, 3),
        (2, 32, 4, 5),
    ] {
        let ir = mobile_block(h, w, channels, taps);
        check(&ir, &random(&ir));
    }
}

#[test]
fn reductions_over_every_axis() {
    for axes in [
        vec![0],
        vec![1],
        vec![2],
        vec![0, 1],
        vec![1, 2],
        vec![0, 2],
        vec![0, 1, 2],
    ] {
        for shape in [[5, 9, 40], [64, 3, 7], [2, 33, 37]] {
            let mut b = TirBuilder::new("reduce");
            let x = input(&mut b, "x", &shape);
            let y = b.reduce(ReduceOp::Add, x, &axes).unwrap();
            let m = b.reduce(ReduceOp::Min, x, &axes).unwrap();
            let z = b.map(&[x, y, m], |e, a| e.add(a[0], e.sub(a[1], a[2]))).unwrap();
            output(&mut b, z);
            let ir = b.finish();
            check(&ir, &random(&ir));
        }
    }
}

#[test]
fn rows_of_a_long_table() {
    let mut b = TirBuilder::new("gather");
    let ids = b.input("ids", HostDType::I64, &[1, 9], Type::new(DType::I32, &[1, 9]));
    let table = constant(&mut b, "table", &[3000, 40], 5);
    let y = b.gather(table, ids).unwrap();
    output(&mut b, y);
    let ir = b.finish();
    check(
        &ir,
        &[Tensor::i32(&[1, 9], vec![0, 2999, 1500, 7, 1000, -1, 5000, 999, 2000])],
    );
}
