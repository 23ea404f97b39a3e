//! Lowerings against small references written independently of the IR.

use super::lower;
use crate::tir::Phase;
use crate::tir::eval::{Data, Tensor, eval};
use lockstep_graph::op::{self as gop, Binary, Op, Unary};
use lockstep_graph::{DType, GraphBuilder, Shape, ValueId, Verified, Weights};

/// Deterministic values between -1 and 1.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

struct Case {
    b: GraphBuilder,
    inputs: Vec<Tensor>,
}

impl Case {
    fn new() -> Case {
        Case {
            b: GraphBuilder::new("case", "main"),
            inputs: Vec::new(),
        }
    }

    fn input(&mut self, shape: &[usize], values: Vec<f32>) -> ValueId {
        let name = format!("x{}", self.inputs.len());
        self.inputs.push(Tensor::f32(shape, values));
        self.b.input(&name, DType::F32, Shape::from(shape)).unwrap()
    }

    fn noise(&mut self, shape: &[usize]) -> ValueId {
        let seed = self.inputs.len() as u64 + 1;
        self.input(shape, noise(shape.iter().product(), seed))
    }

    fn ints(&mut self, dtype: DType, shape: &[usize], values: Vec<i32>) -> ValueId {
        let name = format!("x{}", self.inputs.len());
        let mut tensor = Tensor::i32(shape, values);
        tensor.ty.dtype = super::dtype(dtype);
        self.inputs.push(tensor);
        self.b.input(&name, dtype, Shape::from(shape)).unwrap()
    }

    fn weights(&mut self, shape: &[usize], values: &[f32]) -> ValueId {
        self.b
            .constant("", DType::F32, Shape::from(shape), Weights::from(values))
            .unwrap()
    }

    /// Lowers, verifies and evaluates, before and after the passes.
    fn run(mut self, outputs: &[ValueId]) -> Vec<Tensor> {
        for (i, &v) in outputs.iter().enumerate() {
            self.b.output(&format!("y{i}"), v);
        }
        let graph = Verified::new(self.b.finish(), &()).unwrap();
        let ir = Verified::new(lower(&graph).unwrap(), &Phase::Lowered)
            .map_err(|e| e.to_string())
            .unwrap();
        eval(&ir, &self.inputs, &mut []).unwrap()
    }

    fn floats(self, output: ValueId) -> Vec<f32> {
        self.run(&[output])[0].to_f32()
    }
}

fn close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        let same = (f - e).abs() <= 1e-5 + 2e-5 * e.abs() || f == e || (f.is_nan() && e.is_nan());
        assert!(same, "element {i}: found {f}, expected {e}");
    }
}

fn matmul(a: &[f32], b: &[f32], m: usize, k: usize, n: usize) -> Vec<f32> {
    let at = |i: usize, j: usize| {
        (0..k)
            .map(|p| a[i * k + p] as f64 * b[p * n + j] as f64)
            .sum::<f64>() as f32
    };
    (0..m * n).map(|x| at(x / n, x % n)).collect()
}

#[test]
fn mlp() {
    let mut c = Case::new();
    let x = c.noise(&[3, 8]);
    let (w1, w2) = (noise(8 * 16, 7), noise(16 * 4, 8));
    let bias = noise(16, 9);
    let (w1v, w2v, bv) = (
        c.weights(&[8, 16], &w1),
        c.weights(&[16, 4], &w2),
        c.weights(&[16], &bias),
    );
    let h = c.b.matmul(x, w1v).unwrap();
    let h = c.b.binary(Binary::Add, h, bv).unwrap();
    let h = c.b.unary(Unary::Relu, h).unwrap();
    let y = c.b.matmul(h, w2v).unwrap();
    let data = c.inputs[0].to_f32();
    let mut hidden = matmul(&data, &w1, 3, 8, 16);
    hidden
        .iter_mut()
        .enumerate()
        .for_each(|(i, v)| *v = (*v + bias[i % 16]).max(0.0));
    close(&c.floats(y), &matmul(&hidden, &w2, 3, 16, 4));
}

#[test]
fn matmul_broadcasts_leading_axes() {
    let shapes: [(&[usize], &[usize], &[usize]); 5] = [
        (&[2, 1, 3, 4], &[5, 4, 6], &[2, 5, 3, 6]),
        (&[2, 5, 3, 4], &[2, 1, 4, 6], &[2, 5, 3, 6]),
        (&[1, 5, 3, 4], &[2, 5, 4, 6], &[2, 5, 3, 6]),
        (&[4], &[2, 4, 6], &[2, 6]),
        (&[2, 3, 4], &[4], &[2, 3]),
    ];
    for (sa, sb, so) in shapes {
        let mut c = Case::new();
        let (a, b) = (c.noise(sa), c.noise(sb));
        let y = c.b.matmul(a, b).unwrap();
        let (da, db) = (c.inputs[0].to_f32(), c.inputs[1].to_f32());
        let ty = c.b.shape(y).to_vec();
        assert_eq!(ty, so);
        let (fa, fb) = (
            if sa.len() == 1 {
                vec![1, 4]
            } else {
                sa.to_vec()
            },
            if sb.len() == 1 {
                vec![4, 1]
            } else {
                sb.to_vec()
            },
        );
        let (m, n) = (fa[fa.len() - 2], fb[fb.len() - 1]);
        let batch = Shape::from(&fa[..fa.len() - 2])
            .broadcast(&Shape::from(&fb[..fb.len() - 2]))
            .unwrap();
        let mut expected = Vec::new();
        for i in 0..batch.n_elements() {
            let place = |s: &[usize]| {
                let (mut rest, mut index, mut step) = (i, 0, 1);
                for d in (0..batch.rank()).rev() {
                    let c = rest % batch[d];
                    rest /= batch[d];
                    if let Some(own) = (d + s.len()).checked_sub(batch.rank()).map(|at| s[at]) {
                        index += if own == 1 { 0 } else { c * step };
                        step *= own;
                    }
                }
                index
            };
            let (ia, ib) = (place(&fa[..fa.len() - 2]), place(&fb[..fb.len() - 2]));
            expected.extend(matmul(
                &da[ia * m * 4..][..m * 4],
                &db[ib * 4 * n..][..4 * n],
                m,
                4,
                n,
            ));
        }
        close(&c.floats(y), &expected);
    }
}

#[test]
fn unary_functions() {
    type Case1 = (Unary, fn(f64) -> f64);
    let cases: [Case1; 20] = [
        (Unary::Exp, f64::exp),
        (Unary::Tan, f64::tan),
        (Unary::Asin, f64::asin),
        (Unary::Acos, f64::acos),
        (Unary::Atan, f64::atan),
        (Unary::Sinh, f64::sinh),
        (Unary::Cosh, f64::cosh),
        (Unary::Asinh, f64::asinh),
        (Unary::Atanh, f64::atanh),
        (Unary::Tanh, f64::tanh),
        (Unary::Sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
        (Unary::Relu, |x| x.max(0.0)),
        (Unary::Abs, f64::abs),
        (Unary::Neg, |x| -x),
        (Unary::Sign, |x| if x == 0.0 { 0.0 } else { x.signum() }),
        (Unary::Recip, |x| 1.0 / x),
        (Unary::Floor, f64::floor),
        (Unary::Round, f64::round_ties_even),
        (Unary::Sin, f64::sin),
        (Unary::Cos, f64::cos),
    ];
    let points: Vec<f32> = vec![
        -1.0, -0.999, -0.7, -0.5, -0.3, -1e-3, -1e-7, 0.0, 1e-6, 0.02, 0.41, 0.42, 0.5, 0.8,
        0.9999, 1.0,
    ];
    for (kind, f) in cases {
        let mut c = Case::new();
        let x = c.input(&[16], points.clone());
        let y = c.b.unary(kind, x).unwrap();
        let expected: Vec<f32> = points.iter().map(|&x| f(f64::from(x)) as f32).collect();
        let found = c.floats(y);
        for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
            let same =
                f == e || (f - e).abs() <= 4e-6 * e.abs() + 1e-12 || (f.is_nan() && e.is_nan());
            assert!(same, "{kind:?}({}): found {f}, expected {e}", points[i]);
        }
    }
    let mut c = Case::new();
    let x = c.input(&[5], vec![1.0, 1.0001, 3.0, 1e10, 40.0]);
    let (a, b) = (
        c.b.unary(Unary::Acosh, x).unwrap(),
        c.b.unary(Unary::Asinh, x).unwrap(),
    );
    let points = c.inputs[0].to_f32();
    let found = c.run(&[a, b]);
    close(
        &found[0].to_f32(),
        &points
            .iter()
            .map(|x| f64::from(*x).acosh() as f32)
            .collect::<Vec<_>>(),
    );
    close(
        &found[1].to_f32(),
        &points
            .iter()
            .map(|x| f64::from(*x).asinh() as f32)
            .collect::<Vec<_>>(),
    );
}

#[test]
fn integer_arithmetic() {
    let (a, b) = (
        vec![7, -7, 7, -7, 5, 0, 2, -1],
        vec![3, 3, -3, -3, 5, 2, 10, 3],
    );
    type Case2 = (Binary, fn(i32, i32) -> i32);
    let cases: [Case2; 6] = [
        (Binary::Div, |a, b| a / b),
        (Binary::Mod, |a, b| ((a % b) + b) % b),
        (Binary::Rem, |a, b| a % b),
        (Binary::Min, i32::min),
        (Binary::Pow, |a, b| {
            if b < 0 {
                i32::from(a == 1)
            } else {
                a.pow(b as u32)
            }
        }),
        (Binary::Lt, |a, b| i32::from(a < b)),
    ];
    for (kind, f) in cases {
        let mut c = Case::new();
        let (x, y) = (
            c.ints(DType::I64, &[8], a.clone()),
            c.ints(DType::I64, &[8], b.clone()),
        );
        let z = c.b.binary(kind, x, y).unwrap();
        let expected = a.iter().zip(&b).map(|(&a, &b)| f(a, b)).collect();
        assert_eq!(c.run(&[z])[0].data, Data::I(expected), "{kind:?}");
    }
    let mut c = Case::new();
    let x = c.ints(DType::U8, &[3], vec![250, 3, 128]);
    let y = c.b.binary(Binary::Add, x, x).unwrap();
    let z = c.b.cast(x, DType::I8).unwrap();
    let found = c.run(&[y, z]);
    assert_eq!(found[0].data, Data::I(vec![244, 6, 0]));
    assert_eq!(found[1].data, Data::I(vec![-6, 3, -128]));
}

#[test]
fn powers() {
    for y in [2.0f32, 0.5, -1.0, 3.0, -0.5, 0.0, 1.0, 2.5, -3.0, 17.0] {
        let mut c = Case::new();
        let points = vec![0.1f32, 1.0, 2.5, 9.0, 0.0];
        let x = c.input(&[5], points.clone());
        let z = c.b.binary_scalar(Binary::Pow, x, f64::from(y)).unwrap();
        close(
            &c.floats(z),
            &points
                .iter()
                .map(|p| f64::from(*p).powf(f64::from(y)) as f32)
                .collect::<Vec<_>>(),
        );
    }
    let mut c = Case::new();
    let (a, b) = (vec![-2.0f32, -2.0, -2.0, 3.0], vec![3.0f32, 2.0, 0.5, -2.0]);
    let (x, y) = (c.input(&[4], a.clone()), c.input(&[4], b.clone()));
    let z = c.b.binary(Binary::Pow, x, y).unwrap();
    close(
        &c.floats(z),
        &a.iter()
            .zip(&b)
            .map(|(a, b)| a.powf(*b))
            .collect::<Vec<_>>(),
    );
}

#[test]
fn unsupported_places_are_reported_together() {
    let mut c = Case::new();
    let x = c.ints(DType::I32, &[1, 1, 4, 4], vec![0; 16]);
    let w = c.ints(DType::I32, &[1, 1, 3, 3], vec![0; 9]);
    let attr = gop::Conv {
        strides: vec![1, 1],
        dilations: vec![1, 1],
        pads: vec![(0, 0); 2],
        groups: 1,
    };
    c.b.set_origin(lockstep_graph::Origin {
        node_name: "a".into(),
        op_type: "Conv".into(),
        ..Default::default()
    });
    let y = c.b.op(Op::Conv(attr.clone()), &[x, w]).unwrap();
    c.b.set_origin(lockstep_graph::Origin {
        node_name: "b".into(),
        op_type: "Conv".into(),
        ..Default::default()
    });
    let z = c.b.op(Op::Conv(attr), &[x, w]).unwrap();
    let z = c.b.binary(Binary::Add, y, z).unwrap();
    c.b.output("z", z);
    let graph = Verified::new(c.b.finish(), &()).unwrap();
    let text = lower(&graph).unwrap_err().to_string();
    let line =
        |n: &str| format!("node \"{n}\" (Conv): i32 operands, allowed: floats and 8-bit integers");
    assert_eq!(
        text,
        format!("2 unsupported places:\n  {}\n  {}", line("a"), line("b"))
    );
}
