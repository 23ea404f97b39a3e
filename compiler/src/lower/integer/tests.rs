//! Quantised products against their float meaning, and that they are integer products.

use crate::lower::lower;
use crate::tir::eval::{Tensor, eval};
use crate::tir::{Op as TOp, TensorIr};
use lockstep_graph::op::{Conv, Op, Pool, PoolKind, Scalar};
use lockstep_graph::{DType, GraphBuilder, Shape, ValueId, Verified};
use lockstep_isa::{AluOp, DType as Chip};

/// Bytes in no order.
fn bytes(n: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..n).map(|_| next()).collect()
}

fn scalar(b: &mut GraphBuilder, dtype: DType, value: f64) -> ValueId {
    let value = if dtype.is_float() {
        Scalar::Float(value)
    } else {
        Scalar::Int(value as i128)
    };
    b.scalar(dtype, value)
}

fn finished(mut b: GraphBuilder, y: ValueId) -> TensorIr {
    b.output("y", y);
    lower(&Verified::new(b.finish(), &()).unwrap()).unwrap()
}

fn contracts(ir: &TensorIr) -> Vec<Chip> {
    let of = |v: &crate::tir::ValueData| matches!(v.op, TOp::Contract { .. }).then(|| ir.values[v.inputs[0]].ty.dtype);
    ir.values.values().filter_map(of).collect()
}

/// `[2, 3] x [3, 4]` with a zero point on both sides and a scale per column.
#[test]
fn a_quantised_matmul_is_an_integer_product() {
    let mut b = GraphBuilder::new("case", "main");
    let (x, w) = (bytes(6, 1), bytes(12, 2));
    let q = b.input("q", DType::U8, Shape::from([2, 3])).unwrap();
    let weights = b
        .constant("", DType::I8, Shape::from([3, 4]), w.clone().into())
        .unwrap();
    let (sx, zx) = (scalar(&mut b, DType::F32, 0.5), scalar(&mut b, DType::U8, 131.0));
    let columns = [0.25f32, 0.5, 1.0, 2.0];
    let sw = b
        .constant("", DType::F32, Shape::from([1, 4]), columns.as_slice().into())
        .unwrap();
    let zw = scalar(&mut b, DType::I8, -3.0);
    let xf = b.op(Op::Dequantize, &[q, sx, zx]).unwrap();
    let wf = b.op(Op::Dequantize, &[weights, sw, zw]).unwrap();
    let y = b.matmul(xf, wf).unwrap();
    let ir = finished(b, y);
    assert_eq!(contracts(&ir), [Chip::I8]);
    let mut input = Tensor::i32(&[2, 3], x.iter().map(|&v| i32::from(v)).collect());
    input.ty.dtype = Chip::U8;
    let found = eval(&ir, &[input], &mut []).unwrap()[0].to_f32();
    for (at, found) in found.iter().enumerate() {
        let (row, column) = (at / 4, at % 4);
        let term = |k: usize| {
            let (x, w) = (i32::from(x[row * 3 + k]) - 131, i32::from(w[k * 4 + column] as i8) + 3);
            x * w
        };
        let sum: i32 = (0..3).map(term).sum();
        assert_eq!(*found, sum as f32 * (0.5 * columns[column]));
    }
}

/// One channel, 3x3 kernel, padded: what is padded on is the zero point, whether the compiler knows it or not; weights less their own zero
/// point need not be bytes.
#[test]
fn a_padded_quantised_convolution_is_an_integer_product() {
    let (x, w) = (bytes(25, 3), bytes(18, 4));
    for (known, zero) in [(true, 0), (false, 0), (true, -100), (false, -100)] {
        let mut b = GraphBuilder::new("case", "main");
        let q = b.input("q", DType::U8, Shape::from([1, 1, 5, 5])).unwrap();
        let weights = b
            .constant("", DType::I8, Shape::from([2, 1, 3, 3]), w.clone().into())
            .unwrap();
        let sx = scalar(&mut b, DType::F32, 0.5);
        let zx = if known {
            scalar(&mut b, DType::U8, 100.0)
        } else {
            b.input("zero", DType::U8, Shape::from([])).unwrap()
        };
        let (sw, zw) = (
            scalar(&mut b, DType::F32, 0.25),
            scalar(&mut b, DType::I8, f64::from(zero)),
        );
        let xf = b.op(Op::Dequantize, &[q, sx, zx]).unwrap();
        let wf = b.op(Op::Dequantize, &[weights, sw, zw]).unwrap();
        let conv = Conv {
            strides: vec![1, 1],
            dilations: vec![1, 1],
            pads: vec![(1, 1), (1, 1)],
            groups: 1,
        };
        let y = b.op(Op::Conv(conv), &[xf, wf]).unwrap();
        let ir = finished(b, y);
        assert!(contracts(&ir).iter().all(|&dtype| dtype == Chip::I8));
        let mut inputs = vec![Tensor::i32(&[1, 1, 5, 5], x.iter().map(|&v| i32::from(v)).collect())];
        if !known {
            inputs.push(Tensor::i32(&[], vec![100]));
        }
        for input in &mut inputs {
            input.ty.dtype = Chip::U8;
        }
        let found = eval(&ir, &inputs, &mut []).unwrap()[0].to_f32();
        for (at, found) in found.iter().enumerate() {
            let (o, row, column) = (at / 25, at / 5 % 5, at % 5);
            let mut sum = 0;
            for (i, &weight) in w[o * 9..][..9].iter().enumerate() {
                let (r, c) = (row + i / 3, column + i % 3);
                if (1..6).contains(&r) && (1..6).contains(&c) {
                    sum += (i32::from(x[(r - 1) * 5 + c - 1]) - 100) * (i32::from(weight as i8) - zero);
                }
            }
            assert_eq!(*found, sum as f32 * 0.125, "element {at}");
        }
    }
}

/// Constants of i32 that are no bytes, but span no more numbers than bytes do.
#[test]
fn shifted_constants_are_an_integer_product() {
    let mut b = GraphBuilder::new("case", "main");
    let q = b.input("q", DType::U8, Shape::from([1, 2])).unwrap();
    let weights = [-140i32, 100, 7, -3];
    let w = b
        .constant("", DType::I32, Shape::from([2, 2]), weights.as_slice().into())
        .unwrap();
    let x = b.op(Op::Cast { to: DType::I32 }, &[q]).unwrap();
    let y = b.matmul(x, w).unwrap();
    let ir = finished(b, y);
    assert_eq!(contracts(&ir), [Chip::I8]);
    let mut input = Tensor::i32(&[1, 2], vec![250, 3]);
    input.ty.dtype = Chip::U8;
    let found = eval(&ir, &[input], &mut []).unwrap()[0].bits();
    let sums = [250 * -140 + 3 * 7, 250 * 100 - 3 * 3];
    assert_eq!(found, sums.map(|v: i32| v as u32));
}

/// What is pooled between quantisers of one scale stays bytes, of another scale it is numbers on the way.
#[test]
fn a_maximum_of_bytes_is_taken_of_bytes() {
    for (again, scaled) in [(0.25, false), (0.5, true)] {
        let mut b = GraphBuilder::new("case", "main");
        let values = bytes(32, 9);
        let q = b.input("q", DType::U8, Shape::from([1, 2, 4, 4])).unwrap();
        let (scale, zero) = (scalar(&mut b, DType::F32, 0.25), scalar(&mut b, DType::U8, 7.0));
        let x = b.op(Op::Dequantize, &[q, scale, zero]).unwrap();
        let pool = Pool {
            kind: PoolKind::Max,
            kernel: vec![2, 2],
            strides: vec![2, 2],
            dilations: vec![1, 1],
            pads: vec![(0, 0); 2],
            ceil_extra: vec![0; 2],
        };
        let y = b.op(Op::Pool(pool), &[x]).unwrap();
        let scale = scalar(&mut b, DType::F32, again);
        let y = b.op(Op::Quantize { to: DType::U8 }, &[y, scale, zero]).unwrap();
        let ir = finished(b, y);
        let mut passed = ir.clone();
        crate::passes::run_all(&mut passed, &crate::passes::PassOptions::default()).unwrap();
        let scales = |v: &crate::tir::ValueData| match &v.op {
            TOp::Map { nodes } => nodes.iter().any(|n| matches!(n.op, AluOp::Mul | AluOp::Fma)),
            _ => false,
        };
        assert_eq!(passed.values.values().any(scales), scaled, "{passed}");
        let mut input = Tensor::i32(&[1, 2, 4, 4], values.iter().map(|&v| i32::from(v)).collect());
        input.ty.dtype = Chip::U8;
        let found = eval(&ir, &[input], &mut []).unwrap()[0].bits();
        for (at, &found) in found.iter().enumerate() {
            let (c, y, x) = (at / 4, at / 2 % 2, at % 2);
            let of = |i: usize| values[c * 16 + (2 * y + i / 2) * 4 + 2 * x + i % 2];
            let most = (0..4).map(of).max().unwrap();
            let want = ((f32::from(most) - 7.0) * 0.25 / again as f32).round_ties_even() + 7.0;
            assert_eq!(found as u8, want.clamp(0.0, 255.0) as u8);
        }
    }
}
