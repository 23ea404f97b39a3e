//! Lowerings against small references written independently of the IR.

use super::lower;
use crate::passes::{PassOptions, run_all};
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
        let plain = eval(&ir, &self.inputs, &mut []).unwrap();
        // The passes keep the result, up to the rounding of other orders of sums.
        let mut ir = ir.into_inner();
        let before = ir.to_string();
        let options = PassOptions {
            verify: true,
            ..PassOptions::default()
        };
        run_all(&mut ir, &options).unwrap_or_else(|e| panic!("{e}\n{before}"));
        for (a, b) in plain.iter().zip(eval(&ir, &self.inputs, &mut []).unwrap()) {
            let (a, b) = (a.to_f32(), b.to_f32());
            assert_eq!(a.len(), b.len());
            for (x, y) in a.iter().zip(&b) {
                let same = (x - y).abs() <= 1e-5 * x.abs().max(1.0) || x == y || (x.is_nan() && y.is_nan());
                assert!(same, "{x} became {y}\n{before}\n{ir}");
            }
        }
        plain
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
    let at = |i: usize, j: usize| (0..k).map(|p| a[i * k + p] as f64 * b[p * n + j] as f64).sum::<f64>() as f32;
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
            if sa.len() == 1 { vec![1, 4] } else { sa.to_vec() },
            if sb.len() == 1 { vec![4, 1] } else { sb.to_vec() },
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
            expected.extend(matmul(&da[ia * m * 4..][..m * 4], &db[ib * 4 * n..][..4 * n], m, 4, n));
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
        -1.0, -0.999, -0.7, -0.5, -0.3, -1e-3, -1e-7, 0.0, 1e-6, 0.02, 0.41, 0.42, 0.5, 0.8, 0.9999, 1.0,
    ];
    for (kind, f) in cases {
        let mut c = Case::new();
        let x = c.input(&[16], points.clone());
        let y = c.b.unary(kind, x).unwrap();
        let expected: Vec<f32> = points.iter().map(|&x| f(f64::from(x)) as f32).collect();
        let found = c.floats(y);
        for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
            let same = f == e || (f - e).abs() <= 4e-6 * e.abs() + 1e-12 || (f.is_nan() && e.is_nan());
            assert!(same, "{kind:?}({}): found {f}, expected {e}", points[i]);
        }
    }
    let mut c = Case::new();
    let x = c.input(&[5], vec![1.0, 1.0001, 3.0, 1e10, 40.0]);
    let (a, b) = (c.b.unary(Unary::Acosh, x).unwrap(), c.b.unary(Unary::Asinh, x).unwrap());
    let points = c.inputs[0].to_f32();
    let found = c.run(&[a, b]);
    close(
        &found[0].to_f32(),
        &points.iter().map(|x| f64::from(*x).acosh() as f32).collect::<Vec<_>>(),
    );
    close(
        &found[1].to_f32(),
        &points.iter().map(|x| f64::from(*x).asinh() as f32).collect::<Vec<_>>(),
    );
}

#[test]
fn integer_arithmetic() {
    let (a, b) = (vec![7, -7, 7, -7, 5, 0, 2, -1], vec![3, 3, -3, -3, 5, 2, 10, 3]);
    type Case2 = (Binary, fn(i32, i32) -> i32);
    let cases: [Case2; 6] = [
        (Binary::Div, |a, b| a / b),
        (Binary::Mod, |a, b| ((a % b) + b) % b),
        (Binary::Rem, |a, b| a % b),
        (Binary::Min, i32::min),
        (
            Binary::Pow,
            |a, b| {
                if b < 0 { i32::from(a == 1) } else { a.pow(b as u32) }
            },
        ),
        (Binary::Lt, |a, b| i32::from(a < b)),
    ];
    for (kind, f) in cases {
        let mut c = Case::new();
        let (x, y) = (c.ints(DType::I64, &[8], a.clone()), c.ints(DType::I64, &[8], b.clone()));
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
        &a.iter().zip(&b).map(|(a, b)| a.powf(*b)).collect::<Vec<_>>(),
    );
}

#[test]
fn unsupported_places_are_reported_together() {
    let mut c = Case::new();
    let x = c.ints(DType::I32, &[1, 2, 4, 4], vec![0; 32]);
    let w = c.ints(DType::I32, &[2, 1, 3, 3], vec![0; 18]);
    let attr = gop::Conv {
        strides: vec![1, 1],
        dilations: vec![1, 1],
        pads: vec![(0, 0); 2],
        groups: 2,
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
    let line = |n: &str| {
        format!(
            "node \"{n}\" (Conv): i32 operands with 2 groups and 72 multiplications, allowed: 1 group and 16777216, or floats and 8-bit integers"
        )
    };
    assert_eq!(text, format!("2 unsupported places:\n  {}\n  {}", line("a"), line("b")));
}

#[test]
fn wide_integer_convolution() {
    let mut c = Case::new();
    let x = c.ints(DType::I32, &[1, 2, 3, 3], (0..18).map(|i| i - 400).collect());
    let w = c.ints(DType::I32, &[2, 2, 2, 2], (0..16).map(|i| 300 - 7 * i).collect());
    let attr = gop::Conv {
        strides: vec![1, 1],
        dilations: vec![1, 1],
        pads: vec![(0, 0), (0, 0)],
        groups: 1,
    };
    let y = c.b.op(Op::Conv(attr.clone()), &[x, w]).unwrap();
    let (a, b) = (c.inputs[0].to_f32(), c.inputs[1].to_f32());
    let expected = conv2d(&a, [1, 2, 3, 3], &b, [2, 2, 2, 2], &attr);
    let expected = expected.iter().map(|&v| v as i32).collect();
    assert_eq!(c.run(&[y])[0].data, Data::I(expected));
}

/// Convolution by definition, `x [n, c, h, w]`, `w [o, c/g, kh, kw]`.
fn conv2d(x: &[f32], xs: [usize; 4], w: &[f32], ws: [usize; 4], attr: &gop::Conv) -> Vec<f32> {
    let out = |d: usize| {
        let padded = xs[2 + d] + attr.pads[d].0 + attr.pads[d].1;
        (padded - (ws[2 + d] - 1) * attr.dilations[d] - 1) / attr.strides[d] + 1
    };
    let (oh, ow, og) = (out(0), out(1), ws[0] / attr.groups);
    let mut y = Vec::new();
    for n in 0..xs[0] {
        for o in 0..ws[0] {
            for i in 0..oh {
                for j in 0..ow {
                    let mut sum = 0f64;
                    for c in 0..ws[1] {
                        let channel = o / og * ws[1] + c;
                        for a in 0..ws[2] {
                            for b in 0..ws[3] {
                                let h =
                                    (i * attr.strides[0] + a * attr.dilations[0]) as isize - attr.pads[0].0 as isize;
                                let v =
                                    (j * attr.strides[1] + b * attr.dilations[1]) as isize - attr.pads[1].0 as isize;
                                if h >= 0 && v >= 0 && (h as usize) < xs[2] && (v as usize) < xs[3] {
                                    let at = ((n * xs[1] + channel) * xs[2] + h as usize) * xs[3] + v as usize;
                                    let wt = ((o * ws[1] + c) * ws[2] + a) * ws[3] + b;
                                    sum += f64::from(x[at]) * f64::from(w[wt]);
                                }
                            }
                        }
                    }
                    y.push(sum as f32);
                }
            }
        }
    }
    y
}

#[test]
fn convolutions() {
    let attr = |s: [usize; 2], d: [usize; 2], p: [(usize, usize); 2], groups| gop::Conv {
        strides: s.to_vec(),
        dilations: d.to_vec(),
        pads: p.to_vec(),
        groups,
    };
    let cases = [
        ([1, 3, 6, 5], [4, 3, 3, 3], attr([1, 1], [1, 1], [(1, 1), (1, 1)], 1)),
        ([2, 4, 7, 6], [6, 4, 3, 2], attr([2, 1], [1, 2], [(2, 0), (0, 1)], 1)),
        ([1, 4, 5, 5], [6, 2, 3, 3], attr([1, 1], [1, 1], [(1, 1), (1, 1)], 2)),
        ([1, 5, 6, 6], [5, 1, 3, 3], attr([2, 1], [1, 1], [(1, 1), (1, 1)], 5)),
        ([2, 3, 4, 4], [5, 3, 1, 1], attr([2, 2], [1, 1], [(0, 0), (0, 0)], 1)),
        ([1, 4, 4, 4], [8, 1, 1, 1], attr([1, 1], [1, 1], [(0, 0), (0, 0)], 4)),
    ];
    for (xs, ws, attr) in cases {
        let mut c = Case::new();
        let x = c.noise(&xs);
        let data = noise(ws.iter().product(), 77);
        let bias = noise(ws[0], 78);
        let (w, b) = (c.weights(&ws, &data), c.weights(&[ws[0]], &bias));
        let y = c.b.op(Op::Conv(attr.clone()), &[x, w, b]).unwrap();
        let mut expected = conv2d(&c.inputs[0].to_f32(), xs, &data, ws, &attr);
        let plane = expected.len() / xs[0] / ws[0];
        expected
            .iter_mut()
            .enumerate()
            .for_each(|(i, v)| *v += bias[i / plane % ws[0]]);
        close(&c.floats(y), &expected);
    }
}

#[test]
fn convolutions_in_a_row_keep_channels_last() {
    let mut c = Case::new();
    let mut x = c.noise(&[1, 3, 8, 8]);
    let attr = gop::Conv {
        strides: vec![1, 1],
        dilations: vec![1, 1],
        pads: vec![(1, 1); 2],
        groups: 1,
    };
    for (i, (from, to)) in [(3, 8), (8, 8), (8, 4)].into_iter().enumerate() {
        let w = c.weights(&[to, from, 3, 3], &noise(to * from * 9, i as u64 + 20));
        let b = c.weights(&[to], &noise(to, i as u64 + 30));
        x = c.b.op(Op::Conv(attr.clone()), &[x, w, b]).unwrap();
        x = c.b.unary(Unary::Relu, x).unwrap();
    }
    let x = c.b.reduce(gop::Reduce::Mean, x, &[2, 3], false).unwrap();
    c.b.output("y", x);
    let graph = Verified::new(c.b.finish(), &()).unwrap();
    let mut ir = lower(&graph).unwrap();
    run_all(&mut ir, &PassOptions::default()).unwrap();
    insta::assert_snapshot!(ir);
}

#[test]
fn attention_moves_only_its_merged_projections() {
    let (tokens, heads, width) = (6, 3, 4);
    let hidden = heads * width;
    let mut c = Case::new();
    let x = c.noise(&[1, tokens, hidden]);
    let part = |c: &mut Case, seed: u64, perm: &[usize]| {
        let w = c.weights(&[hidden, hidden], &noise(hidden * hidden, seed));
        let b = c.weights(&[hidden], &noise(hidden, seed + 1));
        let y = c.b.matmul(x, w).unwrap();
        let y = c.b.binary(Binary::Add, b, y).unwrap();
        let y = c.b.reshape(y, [1, tokens, heads, width]).unwrap();
        c.b.transpose(y, perm).unwrap()
    };
    let q = part(&mut c, 40, &[0, 2, 1, 3]);
    let k = part(&mut c, 42, &[0, 2, 3, 1]);
    let v = part(&mut c, 44, &[0, 2, 1, 3]);
    let s = c.b.matmul(q, k).unwrap();
    let s = c.b.binary_scalar(Binary::Mul, s, 0.5).unwrap();
    let p = c.b.op(Op::Softmax { axis: 3, log: false }, &[s]).unwrap();
    let o = c.b.matmul(p, v).unwrap();
    let o = c.b.transpose(o, &[0, 2, 1, 3]).unwrap();
    let o = c.b.reshape(o, [1, tokens, hidden]).unwrap();
    let w = c.weights(&[hidden, hidden], &noise(hidden * hidden, 46));
    let o = c.b.matmul(o, w).unwrap();
    let o = c.b.binary(Binary::Add, o, x).unwrap();
    let (scale, bias) = (
        c.weights(&[hidden], &noise(hidden, 47)),
        c.weights(&[hidden], &noise(hidden, 48)),
    );
    let y = c.b.op(Op::LayerNorm { axis: 2, eps: 1e-5 }, &[o, scale, bias]).unwrap();
    c.b.output("y", y);
    let inputs = c.inputs.clone();
    let graph = Verified::new(c.b.finish(), &()).unwrap();
    let mut ir = lower(&graph).unwrap();
    let before = eval(&ir, &inputs, &mut []).unwrap();
    run_all(&mut ir, &PassOptions::default()).unwrap();
    close(&eval(&ir, &inputs, &mut []).unwrap()[0].to_f32(), &before[0].to_f32());
    insta::assert_snapshot!(ir);
}

#[test]
fn transposed_convolutions() {
    // By definition: every input element adds the kernel at its place.
    for (k, s, d, p, extra, groups) in [
        (3, 2, 1, (1, 1), 1, 1),
        (2, 2, 1, (0, 0), 0, 1),
        (3, 1, 2, (0, 1), 0, 2),
        (4, 3, 1, (2, 1), 0, 1),
    ] {
        let (c_in, c_out, n) = (4, 6, 5);
        let mut c = Case::new();
        let x = c.noise(&[1, c_in, n]);
        let data = noise(c_in * c_out / groups * k, 5);
        let w = c.weights(&[c_in, c_out / groups, k], &data);
        let attr = gop::ConvTranspose {
            strides: vec![s],
            dilations: vec![d],
            pads: vec![(p.0, p.1 as isize)],
            output_padding: vec![extra],
            groups,
        };
        let y = c.b.op(Op::ConvTranspose(attr), &[x, w]).unwrap();
        let out = (n - 1) * s + (k - 1) * d + 1 + extra - p.0 - p.1;
        let input = c.inputs[0].to_f32();
        let mut expected = vec![0f32; c_out * out];
        for i in 0..c_in {
            for o in 0..c_out / groups {
                for t in 0..n {
                    for a in 0..k {
                        let at = (t * s + a * d) as isize - p.0 as isize;
                        let channel = i / (c_in / groups) * (c_out / groups) + o;
                        if at >= 0 && (at as usize) < out {
                            expected[channel * out + at as usize] +=
                                input[i * n + t] * data[(i * (c_out / groups) + o) * k + a];
                        }
                    }
                }
            }
        }
        close(&c.floats(y), &expected);
    }
}

#[test]
fn pools() {
    let cases = [
        (gop::PoolKind::Max, 3, 2, (1, 1), 0),
        (gop::PoolKind::Avg { count_pads: false }, 3, 2, (1, 1), 1),
        (gop::PoolKind::Avg { count_pads: true }, 3, 2, (1, 1), 1),
        (gop::PoolKind::Avg { count_pads: false }, 4, 4, (0, 0), 0),
        (gop::PoolKind::Max, 8, 1, (0, 0), 0),
        (gop::PoolKind::Avg { count_pads: false }, 30, 1, (2, 2), 0),
    ];
    for (kind, k, s, p, extra) in cases {
        let n = if k == 30 { 40 } else { 8 };
        let mut c = Case::new();
        let x = c.noise(&[2, 3, n]);
        let attr = gop::Pool {
            kind,
            kernel: vec![k],
            strides: vec![s],
            dilations: vec![1],
            pads: vec![p],
            ceil_extra: vec![extra],
        };
        let y = c.b.op(Op::Pool(attr), &[x]).unwrap();
        let out = (n + p.0 + p.1 + extra - k) / s + 1;
        let input = c.inputs[0].to_f32();
        let mut expected = Vec::new();
        for row in 0..6 {
            for o in 0..out {
                let places: Vec<isize> = (0..k).map(|a| (o * s + a) as isize - p.0 as isize).collect();
                let inside: Vec<f32> = places
                    .iter()
                    .filter(|&&i| i >= 0 && (i as usize) < n)
                    .map(|&i| input[row * n + i as usize])
                    .collect();
                expected.push(match kind {
                    gop::PoolKind::Max => inside.iter().copied().fold(f32::NEG_INFINITY, f32::max),
                    gop::PoolKind::Avg { count_pads } => {
                        let padded = places.iter().filter(|&&i| i < (n + p.1) as isize).count();
                        inside.iter().sum::<f32>() / if count_pads { padded } else { inside.len() } as f32
                    }
                });
            }
        }
        close(&c.floats(y), &expected);
    }
}

#[test]
fn normalisations() {
    let mut c = Case::new();
    let x = c.noise(&[3, 5]);
    let soft = c.b.op(Op::Softmax { axis: 1, log: false }, &[x]).unwrap();
    let log = c.b.op(Op::Softmax { axis: 0, log: true }, &[x]).unwrap();
    let (g, b) = (c.weights(&[5], &noise(5, 3)), c.weights(&[5], &noise(5, 4)));
    let norm = c.b.op(Op::LayerNorm { axis: 1, eps: 1e-3 }, &[x, g, b]).unwrap();
    let rms = c.b.op(Op::RmsNorm { axis: 1, eps: 1e-3 }, &[x, g]).unwrap();
    let (mean, var) = (
        c.weights(&[5], &noise(5, 5)),
        c.weights(&[5], &[0.5, 1.0, 2.0, 0.1, 3.0]),
    );
    let batch = c.b.op(Op::BatchNorm { eps: 1e-3 }, &[x, g, b, mean, var]).unwrap();
    let data = c.inputs[0].to_f32();
    let found = c.run(&[soft, log, norm, rms, batch]);
    let (g, b, m, v) = (noise(5, 3), noise(5, 4), noise(5, 5), [0.5f32, 1.0, 2.0, 0.1, 3.0]);
    let row = |i: usize| &data[i / 5 * 5..i / 5 * 5 + 5];
    let e = |f: &dyn Fn(usize) -> f32| (0..15).map(f).collect::<Vec<f32>>();
    close(
        &found[0].to_f32(),
        &e(&|i| data[i].exp() / row(i).iter().map(|x| x.exp()).sum::<f32>()),
    );
    close(
        &found[1].to_f32(),
        &e(&|i| data[i] - (0..3).map(|r| data[r * 5 + i % 5].exp()).sum::<f32>().ln()),
    );
    close(
        &found[2].to_f32(),
        &e(&|i| {
            let mean = row(i).iter().sum::<f32>() / 5.0;
            let var = row(i).iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 5.0;
            (data[i] - mean) / (var + 1e-3).sqrt() * g[i % 5] + b[i % 5]
        }),
    );
    close(
        &found[3].to_f32(),
        &e(&|i| data[i] / (row(i).iter().map(|x| x * x).sum::<f32>() / 5.0 + 1e-3).sqrt() * g[i % 5]),
    );
    close(
        &found[4].to_f32(),
        &e(&|i| (data[i] - m[i % 5]) / (v[i % 5] + 1e-3).sqrt() * g[i % 5] + b[i % 5]),
    );
}

#[test]
fn reductions_and_orders() {
    let data = vec![3.0f32, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0, 5.0, 3.0, 5.0, 9.0];
    let mut c = Case::new();
    let x = c.input(&[3, 4], data.clone());
    let mean = c.b.reduce(gop::Reduce::Mean, x, &[0], false).unwrap();
    let first =
        c.b.op(
            Op::Arg {
                max: true,
                axis: 1,
                keepdims: false,
                last: false,
            },
            &[x],
        )
        .unwrap();
    let last =
        c.b.op(
            Op::Arg {
                max: false,
                axis: 1,
                keepdims: true,
                last: true,
            },
            &[x],
        )
        .unwrap();
    let sums =
        c.b.op(
            Op::CumSum {
                axis: 1,
                exclusive: false,
                reverse: false,
            },
            &[x],
        )
        .unwrap();
    let back =
        c.b.op(
            Op::CumSum {
                axis: 0,
                exclusive: true,
                reverse: true,
            },
            &[x],
        )
        .unwrap();
    let whole = c.b.cast(x, DType::I64).unwrap();
    let ints =
        c.b.op(
            Op::CumSum {
                axis: 1,
                exclusive: true,
                reverse: false,
            },
            &[whole],
        )
        .unwrap();
    let top =
        c.b.ops(
            Op::TopK {
                k: 2,
                axis: 1,
                largest: true,
            },
            &[x],
        )
        .unwrap();
    let found = c.run(&[mean, first, last, sums, back, ints, top[0], top[1]]);
    close(&found[0].to_f32(), &[13.0 / 3.0, 13.0 / 3.0, 11.0 / 3.0, 16.0 / 3.0]);
    assert_eq!(found[1].data, Data::I(vec![2, 1, 3]));
    assert_eq!(found[2].data, Data::I(vec![3, 2, 1]));
    close(
        &found[3].to_f32(),
        &[3., 4., 8., 9., 5., 14., 16., 22., 5., 8., 13., 22.],
    );
    close(&found[4].to_f32(), &[10., 12., 7., 15., 5., 3., 5., 9., 0., 0., 0., 0.]);
    assert_eq!(found[5].data, Data::I(vec![0, 3, 4, 8, 0, 5, 14, 16, 0, 5, 8, 13]));
    close(&found[6].to_f32(), &[4., 3., 9., 6., 9., 5.]);
    assert_eq!(found[7].data, Data::I(vec![2, 0, 1, 3, 3, 0]));
}

#[test]
fn indexed_reads_and_writes() {
    let mut c = Case::new();
    let x = c.noise(&[3, 4]);
    let rows = c.ints(DType::I64, &[2], vec![2, 0]);
    let grid = c.ints(DType::I64, &[3, 2], vec![1, 3, 0, 0, 2, 9]);
    let pairs = c.ints(DType::I64, &[2, 2], vec![2, 1, 0, 3]);
    let updates = c.input(&[2], vec![10.0, 20.0]);
    let fixed = c.b.i64s(&[3, 1, 1]);
    let across = c.b.op(Op::Gather { axis: 1 }, &[x, rows]).unwrap();
    let constant = c.b.op(Op::Gather { axis: 1 }, &[x, fixed]).unwrap();
    let elements = c.b.op(Op::GatherElements { axis: 1 }, &[x, grid]).unwrap();
    let nd = c.b.op(Op::GatherNd { batch_dims: 0 }, &[x, pairs]).unwrap();
    let written =
        c.b.op(
            Op::ScatterNd {
                combine: gop::Combine::Add,
            },
            &[x, pairs, updates],
        )
        .unwrap();
    let d = c.inputs[0].to_f32();
    let at = |r: usize, k: usize| d[r * 4 + k];
    let found = c.run(&[across, constant, elements, nd, written]);
    close(
        &found[0].to_f32(),
        &[at(0, 2), at(0, 0), at(1, 2), at(1, 0), at(2, 2), at(2, 0)],
    );
    let expected: Vec<f32> = (0..3).flat_map(|r| [at(r, 3), at(r, 1), at(r, 1)]).collect();
    close(&found[1].to_f32(), &expected);
    close(
        &found[2].to_f32(),
        &[at(0, 1), at(0, 3), at(1, 0), at(1, 0), at(2, 2), at(2, 3)],
    );
    close(&found[3].to_f32(), &[at(2, 1), at(0, 3)]);
    let mut expected = d.clone();
    expected[9] += 10.0;
    expected[3] += 20.0;
    close(&found[4].to_f32(), &expected);
}

#[test]
fn paddings() {
    let mut c = Case::new();
    let x = c.input(&[1, 3], vec![1.0, 2.0, 3.0]);
    let modes = [
        gop::PadMode::Constant(gop::Scalar::Float(9.0)),
        gop::PadMode::Reflect,
        gop::PadMode::Edge,
        gop::PadMode::Wrap,
    ];
    let ys: Vec<ValueId> = modes
        .iter()
        .map(|&mode| {
            c.b.op(
                Op::Pad {
                    pads: vec![(0, 0), (2, 1)],
                    mode,
                },
                &[x],
            )
            .unwrap()
        })
        .collect();
    let found = c.run(&ys);
    let expected = [
        [9., 9., 1., 2., 3., 9.],
        [3., 2., 1., 2., 3., 2.],
        [1., 1., 1., 2., 3., 3.],
        [2., 3., 1., 2., 3., 1.],
    ];
    found.iter().zip(expected).for_each(|(f, e)| close(&f.to_f32(), &e));
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

#[test]
fn recurrent_cells() {
    use gop::{Activation, Cell, Direction, Recurrent};
    let (t, b, i, h) = (3, 2, 4, 5);
    for (cell, direction) in [
        (Cell::Lstm { peephole: false }, Direction::Both),
        (Cell::Lstm { peephole: true }, Direction::Forward),
        (
            Cell::Gru {
                linear_before_reset: true,
            },
            Direction::Forward,
        ),
        (
            Cell::Gru {
                linear_before_reset: false,
            },
            Direction::Reverse,
        ),
        (Cell::Rnn, Direction::Forward),
    ] {
        let (d, g) = (direction.count(), cell.n_gates());
        let mut c = Case::new();
        let x = c.noise(&[t, b, i]);
        let h0 = c.noise(&[d, b, h]);
        let (w, r, bias) = (
            noise(d * g * h * i, 11),
            noise(d * g * h * h, 12),
            noise(d * 2 * g * h, 13),
        );
        let mut operands = vec![
            x,
            c.weights(&[d, g * h, i], &w),
            c.weights(&[d, g * h, h], &r),
            c.weights(&[d, 2 * g * h], &bias),
            h0,
        ];
        let (c0, p) = (noise(d * b * h, 14), noise(d * 3 * h, 15));
        let lstm = matches!(cell, Cell::Lstm { .. });
        if lstm {
            operands.push(c.weights(&[d, b, h], &c0));
        }
        let peephole = cell == Cell::Lstm { peephole: true };
        if peephole {
            operands.push(c.weights(&[d, 3 * h], &p));
        }
        let one = match cell {
            Cell::Rnn => vec![Activation::Tanh],
            Cell::Gru { .. } => vec![Activation::Sigmoid, Activation::Tanh],
            Cell::Lstm { .. } => vec![Activation::Sigmoid, Activation::Tanh, Activation::Tanh],
        };
        let activations = (0..d).flat_map(|_| one.clone()).collect();
        let ys =
            c.b.ops(
                Op::Recurrent(Recurrent {
                    cell,
                    hidden: h,
                    direction,
                    activations,
                    clip: None,
                }),
                &operands,
            )
            .unwrap();
        let (xd, hd) = (c.inputs[0].to_f32(), c.inputs[1].to_f32());
        let mut y = vec![0f32; t * d * b * h];
        for k in 0..d {
            let reverse = direction == Direction::Reverse || k == 1;
            for n in 0..b {
                let mut state = hd[(k * b + n) * h..][..h].to_vec();
                let mut memory = c0[(k * b + n) * h..][..h].to_vec();
                for step in 0..t {
                    let at = if reverse { t - 1 - step } else { step };
                    let input = &xd[(at * b + n) * i..][..i];
                    let dot = |m: &[f32], row: usize, v: &[f32]| {
                        (0..v.len()).map(|q| m[row * v.len() + q] * v[q]).sum::<f32>()
                    };
                    let wx = |gate: usize, u: usize| {
                        dot(&w[k * g * h * i..], gate * h + u, input) + bias[k * 2 * g * h + gate * h + u]
                    };
                    let rb = |gate: usize, u: usize| bias[k * 2 * g * h + g * h + gate * h + u];
                    let rh = |gate: usize, u: usize, s: &[f32]| dot(&r[k * g * h * h..], gate * h + u, s);
                    let old = state.clone();
                    let full = |gate: usize, u: usize| wx(gate, u) + rh(gate, u, &old) + rb(gate, u);
                    let peep = |which: usize, u: usize| if peephole { p[k * 3 * h + which * h + u] } else { 0.0 };
                    let reset: Vec<f32> = (0..h)
                        .map(|u| if g == 3 { sigmoid(full(1, u)) * old[u] } else { 0.0 })
                        .collect();
                    for u in 0..h {
                        state[u] = match cell {
                            Cell::Rnn => full(0, u).tanh(),
                            Cell::Gru { linear_before_reset } => {
                                let z = sigmoid(full(0, u));
                                let candidate = if linear_before_reset {
                                    wx(2, u) + sigmoid(full(1, u)) * (rh(2, u, &old) + rb(2, u))
                                } else {
                                    wx(2, u) + rh(2, u, &reset) + rb(2, u)
                                };
                                (1.0 - z) * candidate.tanh() + z * old[u]
                            }
                            Cell::Lstm { .. } => {
                                let before = memory[u];
                                let input_gate = sigmoid(full(0, u) + peep(0, u) * before);
                                let forget = sigmoid(full(2, u) + peep(2, u) * before);
                                memory[u] = forget * before + input_gate * full(3, u).tanh();
                                sigmoid(full(1, u) + peep(1, u) * memory[u]) * memory[u].tanh()
                            }
                        };
                    }
                    y[((at * d + k) * b + n) * h..][..h].copy_from_slice(&state);
                }
            }
        }
        let found = c.run(&ys);
        close(&found[0].to_f32(), &y);
        assert_eq!(found.len(), if lstm { 3 } else { 2 });
        for k in 0..d {
            let last = if direction == Direction::Reverse || k == 1 {
                0
            } else {
                t - 1
            };
            close(
                &found[1].to_f32()[k * b * h..][..b * h],
                &y[(last * d + k) * b * h..][..b * h],
            );
        }
    }
}

#[test]
fn unsigned_bytes_multiply_as_signed() {
    let mut c = Case::new();
    let a = c.ints(DType::U8, &[2, 3], vec![0, 255, 7, 130, 1, 200]);
    let b = c.ints(DType::U8, &[3, 2], vec![255, 0, 128, 3, 9, 90]);
    let s = c.ints(DType::I8, &[3, 2], vec![-128, 127, 5, -3, 0, 90]);
    let (y, z) = (c.b.matmul(a, b).unwrap(), c.b.matmul(a, s).unwrap());
    let found = c.run(&[y, z]);
    let product = |a: [i32; 6], b: [i32; 6]| {
        (0..4)
            .map(|i| (0..3).map(|k| a[i / 2 * 3 + k] * b[k * 2 + i % 2]).sum())
            .collect()
    };
    assert_eq!(
        found[0].data,
        Data::I(product([0, 255, 7, 130, 1, 200], [255, 0, 128, 3, 9, 90]))
    );
    assert_eq!(
        found[1].data,
        Data::I(product([0, 255, 7, 130, 1, 200], [-128, 127, 5, -3, 0, 90]))
    );
    let mut c = Case::new();
    let x = c.input(&[4], vec![-10.0, 0.26, 1.0, 100.0]);
    let (scale, zero) = (c.b.scalar_like(x, 0.1), c.b.scalar(DType::U8, gop::Scalar::Int(10)));
    let q = c.b.op(Op::Quantize { to: DType::U8 }, &[x, scale, zero]).unwrap();
    let y = c.b.op(Op::Dequantize, &[q, scale, zero]).unwrap();
    let found = c.run(&[q, y]);
    assert_eq!(found[0].data, Data::I(vec![0, 13, 20, 255]));
    close(&found[1].to_f32(), &[-1.0, 0.3, 1.0, 24.5]);
}

#[test]
fn large_windows_and_few_channels() {
    // Channels, extents, kernel, strides, dilations.
    let cases = [
        (1, [23, 40], [3, 5], [2, 1], [1, 2]),
        (3, [30, 31], [7, 6], [4, 2], [2, 2]),
        (9, [20, 21], [6, 11], [3, 2], [1, 1]),
    ];
    for (channels, [h, w], kernel, strides, dilations) in cases {
        for max in [true, false] {
            let mut c = Case::new();
            let x = c.noise(&[2, channels, h, w]);
            let attr = gop::Pool {
                kind: if max {
                    gop::PoolKind::Max
                } else {
                    gop::PoolKind::Avg { count_pads: false }
                },
                kernel: kernel.to_vec(),
                strides: strides.to_vec(),
                dilations: dilations.to_vec(),
                pads: vec![(1, 2), (2, 0)],
                ceil_extra: vec![0, 0],
            };
            let y = c.b.op(Op::Pool(attr), &[x]).unwrap();
            let input = c.inputs[0].to_f32();
            let out =
                |d: usize, n: usize, pads: usize| (n + pads - (kernel[d] - 1) * dilations[d] - 1) / strides[d] + 1;
            let mut expected = Vec::new();
            for at in 0..2 * channels * out(0, h, 3) * out(1, w, 2) {
                let (o1, rest) = (at % out(1, w, 2), at / out(1, w, 2));
                let (o0, plane) = (rest % out(0, h, 3), rest / out(0, h, 3));
                let mut inside = Vec::new();
                for k in 0..kernel[0] * kernel[1] {
                    let i = (o0 * strides[0] + k / kernel[1] * dilations[0]).wrapping_sub(1);
                    let j = (o1 * strides[1] + k % kernel[1] * dilations[1]).wrapping_sub(2);
                    if i < h && j < w {
                        inside.push(input[(plane * h + i) * w + j]);
                    }
                }
                expected.push(if max {
                    inside.iter().copied().fold(f32::NEG_INFINITY, f32::max)
                } else {
                    inside.iter().sum::<f32>() / inside.len() as f32
                });
            }
            close(&c.floats(y), &expected);
        }
    }
}

#[test]
fn single_elements_of_short_axes() {
    let mut c = Case::new();
    let x = c.noise(&[4, 7, 30]);
    let table = c.weights(&[7], &noise(7, 3));
    let picks: Vec<i32> = (0..3 * 29).map(|i| i * 5 % 7).collect();
    let at = c.ints(DType::I64, &[3, 1, 29], picks.clone());
    let along = c.b.op(Op::GatherElements { axis: 1 }, &[x, at]).unwrap();
    let from = c.b.op(Op::Gather { axis: 0 }, &[table, at]).unwrap();
    let data = c.inputs[0].to_f32();
    let found = c.run(&[along, from]);
    let pick = |i: usize| picks[i] as usize;
    let expected: Vec<f32> = (0..87).map(|i| data[(i / 29 * 7 + pick(i)) * 30 + i % 29]).collect();
    close(&found[0].to_f32(), &expected);
    close(
        &found[1].to_f32(),
        &(0..87).map(|i| noise(7, 3)[pick(i)]).collect::<Vec<f32>>(),
    );
}
