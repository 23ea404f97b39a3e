//! Sharded and staged programs compute what the whole one computes; invariants hold; choices are deterministic.

use super::*;
use crate::CompileErrorKind;
use crate::tir::eval::{Tensor, eval};
use crate::tir::{Phase, ReduceOp, TirBuilder, Type};
use lockstep_graph::{Verify, VerifyErrors};
use lockstep_isa::DType;
use lockstep_isa::artifact::HostDType;

fn target(name: &str) -> Target {
    Target::builtin(name).expect("builtin").expect("parses")
}

/// Deterministic small values: multiples of 1/8, so that sums of few terms are exact in any order.
struct Values(u64);

impl Values {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| (self.next() % 17) as f32 / 8.0 - 1.0).collect()
    }
}

fn weight(b: &mut TirBuilder, values: &mut Values, name: &str, shape: &[usize]) -> ValueId {
    let data = values.floats(shape.iter().product());
    b.const_f32(name, shape, &data).expect("constant")
}

fn float_input(b: &mut TirBuilder, name: &str, shape: &[usize]) -> ValueId {
    b.input(name, HostDType::F32, shape, Type::new(DType::F32, shape))
}

fn output(b: &mut TirBuilder, name: &str, v: ValueId) {
    let shape = b.shape(v).to_vec();
    let host = if b.dtype(v).is_float() {
        HostDType::F32
    } else {
        HostDType::I32
    };
    b.output(name, host, &shape, v);
}

/// x -> relu(x W1 + b1) W2 + b2.
fn mlp(rows: usize, d: usize, hidden: usize) -> TensorIr {
    let (mut b, mut r) = (TirBuilder::new("mlp"), Values(1));
    let x = float_input(&mut b, "x", &[rows, d]);
    let (w1, b1) = (
        weight(&mut b, &mut r, "w1", &[d, hidden]),
        weight(&mut b, &mut r, "b1", &[1, hidden]),
    );
    let (w2, b2) = (
        weight(&mut b, &mut r, "w2", &[hidden, d]),
        weight(&mut b, &mut r, "b2", &[1, d]),
    );
    let h = b.contract(x, w1, &[], &[(1, 0)]).expect("contract");
    let h = b
        .map(&[h, b1], |e, a| {
            e.max(e.add(a[0], a[1]), crate::tir::expr::Ex::f32(0.0))
        })
        .expect("map");
    let y = b.contract(h, w2, &[], &[(1, 0)]).expect("contract");
    let y = b.map(&[y, b2, x], |e, a| e.add(e.add(a[0], a[1]), a[2])).expect("map");
    output(&mut b, "y", y);
    b.finish()
}

/// One transformer layer with a key-value cache of `past` rows, updated at row `pos`.
fn layer(rows: usize, heads: usize, width: usize, cache: bool) -> TensorIr {
    let (mut b, mut r) = (TirBuilder::new("layer"), Values(2));
    let d = heads * width;
    let x = float_input(&mut b, "x", &[rows, d]);
    let sum = b.reduce(ReduceOp::Add, x, &[1]).expect("reduce");
    let scale = crate::tir::expr::Ex::f32(-1.0 / d as f32);
    let n = b.map(&[x, sum], |e, a| e.add(a[0], e.mul(a[1], scale))).expect("map");
    let mut project = |b: &mut TirBuilder, name: &str| {
        let w = weight(b, &mut r, name, &[d, d]);
        let y = b.contract(n, w, &[], &[(1, 0)]).expect("contract");
        b.reshape(y, &[rows, heads, width]).expect("reshape")
    };
    let (q, mut k, mut v) = (project(&mut b, "wq"), project(&mut b, "wk"), project(&mut b, "wv"));
    let mut length = rows;
    if cache {
        length = 6;
        let pos = b.input("pos", HostDType::I32, &[rows], Type::new(DType::I32, &[rows]));
        for (i, x) in [&mut k, &mut v].into_iter().enumerate() {
            let name = ["k", "v"][i];
            let past = b
                .state(name, name, Type::new(DType::F32, &[length, heads, width]))
                .expect("state");
            *x = b
                .scatter(crate::tir::Combiner::Replace, past, pos, *x)
                .expect("scatter");
            b.set_next(i, *x);
        }
    }
    let s = b.contract(q, k, &[(1, 1)], &[(2, 2)]).expect("scores");
    let at = b
        .map_to(&[1, 1, length], &[], |e, _| e.cvt(e.iota(2), DType::F32))
        .expect("iota");
    let tenth = crate::tir::expr::Ex::f32(-0.125);
    let s = b.map(&[s, at], |e, a| e.fma(a[1], tenth, a[0])).expect("bias");
    let m = b.reduce(ReduceOp::Max, s, &[2]).expect("max");
    let p = b.map(&[s, m], |e, a| e.exp(e.sub(a[0], a[1]))).expect("exp");
    let l = b.reduce(ReduceOp::Add, p, &[2]).expect("sum");
    let p = b.map(&[p, l], |e, a| e.div(a[0], a[1])).expect("div");
    let o = b.contract(p, v, &[(0, 1)], &[(2, 0)]).expect("values");
    let o = b.transpose(o, &[1, 0, 2]).expect("transpose");
    let o = b.reshape(o, &[rows, d]).expect("reshape");
    let wo = weight(&mut b, &mut r, "wo", &[d, d]);
    let y = b.contract(o, wo, &[], &[(1, 0)]).expect("out");
    let y = b.map(&[y, x], |e, a| e.add(a[0], a[1])).expect("residual");
    output(&mut b, "y", y);
    b.finish()
}

/// A random program of all primitives on small tensors.
fn random(seed: u64) -> TensorIr {
    let (mut b, mut r) = (TirBuilder::new("random"), Values(seed));
    let mut pool = vec![float_input(&mut b, "x", &[4, 6]), float_input(&mut b, "y", &[4, 6])];
    for i in 0..12 {
        let x = pool[r.below(pool.len())];
        let shape = b.shape(x).to_vec();
        let (rank, last) = (shape.len(), shape.len() - 1);
        let made = match r.below(9) {
            0 => {
                let n = [6, 8, 5][r.below(3)];
                let w = weight(&mut b, &mut r, &format!("w{i}"), &[shape[last], n]);
                b.contract(x, w, &[], &[(last, 0)]).expect("contract")
            }
            1 => {
                let other = pool
                    .iter()
                    .copied()
                    .find(|&y| y != x && b.shape(y) == shape)
                    .unwrap_or(x);
                b.map(&[x, other], |e, a| {
                    e.sub(e.add(a[0], a[1]), crate::tir::expr::Ex::f32(0.5))
                })
                .expect("map")
            }
            2 => b
                .reduce([ReduceOp::Add, ReduceOp::Max][r.below(2)], x, &[r.below(rank)])
                .expect("reduce"),
            3 => {
                let mut perm: Vec<usize> = (0..rank).collect();
                perm.rotate_left(r.below(rank));
                b.transpose(x, &perm).expect("transpose")
            }
            4 if shape[last] % 2 == 0 => {
                let mut to = shape.clone();
                to[last] /= 2;
                to.push(2);
                b.reshape(x, &to).expect("reshape")
            }
            4 | 5 if rank > 1 => {
                let mut to = shape.clone();
                let n = to.remove(last);
                to[last - 1] *= n;
                b.reshape(x, &to).expect("reshape")
            }
            6 => {
                let axis = r.below(rank);
                let narrow = b.narrow_axis(x, axis, 0, shape[axis].div_ceil(2)).expect("narrow");
                b.concat(&[x, narrow], axis).expect("concat")
            }
            7 => {
                let index = b.const_i32(&format!("i{i}"), &[5], &[0, 2, 1, 0, 3]).expect("constant");
                b.gather(x, index).expect("gather")
            }
            _ => b.sort(r.below(rank), r.below(2) == 0, x, x).expect("sort"),
        };
        let n: usize = b.shape(made).iter().product();
        if b.shape(made).len() <= 4 && n <= 2000 {
            pool.push(made);
        }
    }
    let scale = crate::tir::expr::Ex::f32(1.0);
    for (i, v) in pool.iter().rev().take(2).enumerate() {
        let v = b.map(&[*v], |e, a| e.mul(a[0], scale)).expect("map");
        output(&mut b, &format!("o{i}"), v);
    }
    b.finish()
}

fn check_verified(part: &Partitioned, target: &Target) {
    let mut errors = VerifyErrors::new();
    part.verify(target, &mut errors);
    part.with_all_ports().verify(&Phase::Partitioned, &mut errors);
    assert!(errors.is_empty(), "{errors}\n{part}");
}

/// Runs both programs twice on equal inputs; `tolerance` 0 asks for equal bits.
fn check_equal(ir: &TensorIr, part: &Partitioned, tolerance: f32) {
    let split = part.with_all_ports();
    let mut r = Values(77);
    let zero = |p: &TensorIr| p.states.values().map(|s| Tensor::zeros(&s.ty)).collect::<Vec<_>>();
    let (mut whole_states, mut split_states) = (zero(ir), zero(&split));
    for run in 0..2 {
        let inputs: Vec<Tensor> = ir
            .inputs
            .iter()
            .map(|p| {
                let ty = ir.values[p.value].ty.clone();
                let n = ty.elements();
                if ty.dtype.is_float() {
                    Tensor::f32(&ty.shape, r.floats(n))
                } else {
                    Tensor::i32(&ty.shape, (0..n).map(|i| (i + run * n) as i32).collect())
                }
            })
            .collect();
        let mut fed = inputs.clone();
        fed.extend(part.input_copies.iter().map(|&(port, _)| inputs[port].clone()));
        let want = eval(ir, &inputs, &mut whole_states).expect("whole");
        let got = eval(&split, &fed, &mut split_states).expect("split");
        for (w, g) in want.iter().zip(&got) {
            assert_eq!(w.ty, g.ty);
            for (a, b) in w.to_f32().iter().zip(g.to_f32()) {
                let near = if tolerance == 0.0 {
                    a.to_bits() == b.to_bits()
                } else {
                    (a - b).abs() <= tolerance * (1.0 + a.abs())
                };
                assert!(near, "{a} and {b} differ\n{part}");
            }
        }
    }
}

fn exactly(n: u16, exact: bool) -> PartitionOptions {
    PartitionOptions {
        chips: Chips::Exactly(n),
        exact,
        ..PartitionOptions::default()
    }
}

#[test]
fn mlp_and_layers_are_the_same_on_any_number_of_chips() {
    for name in ["toy", "tsp-2020"] {
        let target = target(name);
        let layers = [
            mlp(5, 64, 96),
            layer(5, 4, 8, false),
            layer(1, 6, 8, true),
            layer(2, 3, 16, true),
        ];
        for ir in &layers {
            for n in [1, 2, 3, 4, 8] {
                for exact in [false, true] {
                    let found = candidates(ir, &target, &exactly(n, exact));
                    let found = match found {
                        Ok(found) => found,
                        Err(e) => {
                            assert!(n > 3, "{} on {n}: {e}", ir.name);
                            continue;
                        }
                    };
                    for part in &found {
                        assert_eq!(part.n_chips, n);
                        check_verified(part, &target);
                        check_equal(ir, part, if exact { 0.0 } else { 1e-5 });
                    }
                }
            }
        }
    }
}

#[test]
fn random_programs_are_the_same_when_sharded() {
    // Links so fast that to share pays for small programs too.
    let mut target = target("toy");
    target.c2c.latency = 1;
    target.c2c.cycles_per_word = 1;
    let mut sharded = 0;
    for seed in 0..60 {
        let ir = random(seed);
        let mut errors = VerifyErrors::new();
        ir.verify(&Phase::Legal, &mut errors);
        assert!(errors.is_empty(), "{errors}");
        for n in [1, 2, 3, 4] {
            for part in candidates(&ir, &target, &exactly(n, false)).unwrap_or_default() {
                sharded += usize::from(!part.collectives.is_empty());
                check_verified(&part, &target);
                check_equal(&ir, &part, 1e-4);
            }
        }
    }
    assert!(sharded >= 12, "{sharded} candidates used collectives");
}

#[test]
fn heads_are_split_without_communication_between_projections_and_output() {
    let target = target("tsp-2020");
    let found = candidates(&layer(64, 6, 64, false), &target, &exactly(2, false)).expect("fits");
    let sharded = found
        .iter()
        .find(|p| p.description.contains("1 stage of 2"))
        .expect("tensor parallel");
    assert!(sharded.collectives.len() <= 2, "{sharded}");
    let weights: Vec<u64> = usage(sharded, &target).iter().map(|u| u.weights).collect();
    assert!(weights[0].abs_diff(weights[1]) * 10 < weights[0], "{weights:?}");
}

#[test]
fn choices_are_deterministic() {
    let target = target("toy");
    let ir = layer(3, 4, 8, true);
    let text = || -> Vec<String> {
        candidates(&ir, &target, &exactly(2, false))
            .expect("fits")
            .iter()
            .map(|p| p.to_string())
            .collect()
    };
    assert_eq!(text(), text());
}

#[test]
fn auto_uses_more_chips_only_where_needed() {
    let toy = target("toy");
    let small = candidates(&mlp(4, 64, 64), &toy, &PartitionOptions::default()).expect("fits");
    assert!(small.iter().any(|p| p.n_chips == 1));
    assert!(small.windows(2).all(|w| w[0].modelled_cycles <= w[1].modelled_cycles));
    let large = candidates(&mlp(4, 512, 1024), &toy, &PartitionOptions::default()).expect("fits");
    assert!(large.iter().all(|p| p.n_chips >= 2), "{:?}", large[0].examined);
    for part in &large {
        check_verified(part, &toy);
    }
    check_equal(&mlp(4, 512, 1024), &large[0], 1e-3);
}

#[test]
fn what_does_not_fit_is_accounted_for() {
    let mut toy = target("toy");
    toy.max_chips = 2;
    let e = candidates(&mlp(4, 1024, 2048), &toy, &PartitionOptions::default()).expect_err("too large");
    let CompileErrorKind::DoesNotFit { summary, report } = e.kind else {
        panic!("{e}")
    };
    assert!(summary.contains("2 allowed"), "{summary}");
    let number = |name: &str| -> u64 {
        let line = report
            .lines()
            .find(|l| l.trim_start().starts_with(name))
            .unwrap_or_else(|| panic!("{name}: {report}"));
        line.split_whitespace()
            .last()
            .and_then(|n| n.parse().ok())
            .expect("a number")
    };
    let terms = ["weights", "states", "lane padding", "values", "instruction text"];
    assert_eq!(terms.iter().map(|t| number(t)).sum::<u64>(), number("needed"));
    assert_eq!(number("needed") - number("available"), number("missing"));
    assert!(report.contains("w1"), "{report}");
}

#[test]
fn impossible_numbers_of_chips_are_refused() {
    let toy = target("toy");
    let e = candidates(&mlp(1, 4, 4), &toy, &exactly(65, false)).expect_err("too many");
    assert_eq!(e.to_string(), "--chips 65: toy has 1 to 64 chips");
    let e = candidates(&mlp(1, 4, 4), &toy, &exactly(33, false)).expect_err("too many");
    assert!(e.to_string().contains("can hold weights"), "{e}");
}

#[test]
fn faults_are_reported() {
    let toy = target("toy");
    let found = candidates(&mlp(4, 64, 64), &toy, &exactly(4, false)).expect("fits");
    let good = found
        .into_iter()
        .find(|p| p.ir.values.values().any(|d| d.op == Op::Transfer))
        .expect("transfers");
    let invariants = |part: &Partitioned| -> Vec<&'static str> {
        let mut errors = VerifyErrors::new();
        part.verify(&toy, &mut errors);
        errors.iter().map(|e| e.invariant).collect()
    };
    assert!(invariants(&good).is_empty());
    let transfer = good
        .ir
        .values
        .iter()
        .find(|(_, d)| d.op == Op::Transfer)
        .map(|(v, _)| v)
        .expect("one");
    let mut moved = good.clone();
    moved.chip[transfer] = good.chip[good.ir.values[transfer].inputs[0]];
    assert!(invariants(&moved).contains(&"P2"));
    let mut outside = good.clone();
    outside.chip[transfer] = 9;
    assert!(invariants(&outside).contains(&"P1"));
    let mut stages = good.clone();
    stages.stages[0].chips = 0..9;
    assert!(invariants(&stages).contains(&"P4"));
    let mut small = toy.clone();
    small.rows = 1;
    let mut errors = VerifyErrors::new();
    good.verify(&small, &mut errors);
    assert!(errors.iter().any(|e| e.invariant == "P8"));
}

#[test]
fn entries_share_parts_of_weights_and_states() {
    let target = target("toy");
    let (decode, prefill) = (layer(1, 6, 8, true), layer(3, 6, 8, true));
    for n in [1, 2, 3, 4] {
        let found = candidates_of_entries(&[&decode, &prefill], &target, &exactly(n, false)).expect("fits");
        for parts in &found {
            for (part, ir) in parts.iter().zip([&decode, &prefill]) {
                assert_eq!(part.n_chips, n);
                check_verified(part, &target);
                check_equal(ir, part, 1e-5);
            }
            let held = |part: &Partitioned| -> BTreeSet<(u16, String, Type, usize)> {
                let constant = constants(&part.ir);
                let users = part.ir.values.iter().filter(|(v, _)| !constant[*v]);
                let used = users
                    .flat_map(|(_, d)| d.inputs.iter().copied())
                    .filter(|&u| constant[u]);
                let root = |mut u: ValueId| {
                    let (chip, ty) = (part.chip[u], part.ir.values[u].ty.clone());
                    let mut offset = 0;
                    while let Op::Move { parts, .. } = &part.ir.values[u].op {
                        offset += part.ir.maps.get(parts[0]).views[0].offset as usize;
                        u = part.ir.values[u].inputs[0];
                    }
                    match part.ir.values[u].op {
                        Op::Const(k) => Some((chip, part.ir.consts[k].name.clone(), ty, offset)),
                        _ => None,
                    }
                };
                used.filter_map(root).collect()
            };
            let states = |part: &Partitioned| -> Vec<(u16, String, Type)> {
                let of = part.ir.values.iter().filter_map(|(v, d)| match d.op {
                    Op::State(s) => Some((part.chip[v], part.ir.states[s].name.clone(), d.ty.clone())),
                    _ => None,
                });
                of.collect()
            };
            assert_eq!(held(&parts[0]), held(&parts[1]), "{}\n{}", parts[0], parts[1]);
            assert_eq!(states(&parts[0]), states(&parts[1]));
        }
    }
}
