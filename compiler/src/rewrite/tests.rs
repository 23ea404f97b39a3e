//! Whole programs: layers that repeat, what becomes of them, and that they stay equal.

use super::*;
use crate::tir::eval::{Tensor, eval};
use crate::tir::expr::Ex;
use crate::tir::{Phase, ReduceOp, TirBuilder, Type};
use lockstep_graph::{Verify, VerifyErrors};
use lockstep_isa::DType;
use lockstep_isa::artifact::HostDType;

const ROWS: usize = 6;
const HEADS: usize = 2;
const WIDTH: usize = 4;

/// So many layers of attention with a residual connection and a normalisation.
fn attention(layers: usize) -> TensorIr {
    let mut b = TirBuilder::new("attention");
    let ty = Type::new(DType::F32, &[ROWS, HEADS * WIDTH]);
    let mut x = b.input("x", HostDType::F32, &ty.shape, ty.clone());
    for layer in 0..layers {
        let project = |b: &mut TirBuilder, name: &str, x| {
            let name = format!("{name}.{layer}");
            let values: Vec<f32> = (0..64)
                .map(|i| ((i * 29 + layer * 7 + name.len()) % 23) as f32 / 40.0 - 0.2)
                .collect();
            let w = b.const_f32(&name, &[8, HEADS, WIDTH], &values).unwrap();
            let bias = b
                .const_f32(&format!("{name}.bias"), &[1, HEADS, WIDTH], &values[..8])
                .unwrap();
            let y = b.contract(x, w, &[], &[(1, 0)]).unwrap();
            b.map(&[y, bias], |e, y| e.add(y[0], y[1])).unwrap()
        };
        let (q, k, v) = (
            project(&mut b, "query", x),
            project(&mut b, "key", x),
            project(&mut b, "value", x),
        );
        let s = b.contract(q, k, &[(1, 1)], &[(2, 2)]).unwrap();
        let s = b.map(&[s], |e, s| e.mul(s[0], Ex::f32(0.3))).unwrap();
        let top = b.reduce(ReduceOp::Max, s, &[2]).unwrap();
        let p = b.map(&[s, top], |e, x| e.exp(e.sub(x[0], x[1]))).unwrap();
        let l = b.reduce(ReduceOp::Add, p, &[2]).unwrap();
        let p = b.map(&[p, l], |e, x| e.div(x[0], x[1])).unwrap();
        let y = b.contract(p, v, &[(0, 1)], &[(2, 0)]).unwrap();
        let y = b.transpose(y, &[1, 0, 2]).unwrap();
        let y = b.reshape(y, &ty.shape).unwrap();
        let y = b.map(&[y, x], |e, y| e.add(y[0], y[1])).unwrap();
        let mean = b.reduce(ReduceOp::Add, y, &[1]).unwrap();
        x = b
            .map(&[y, mean], |e, y| e.sub(y[0], e.mul(y[1], Ex::f32(0.125))))
            .unwrap();
    }
    b.output("y", HostDType::F32, &ty.shape, x);
    let mut ir = b.finish();
    let dead_code = TIR_PASSES.iter().find(|p| p.name == "dead-code").unwrap();
    (dead_code.run)(&mut ir, &PassCx::default()).unwrap();
    ir
}

fn results(ir: &TensorIr) -> Vec<f32> {
    let values = (0..ROWS * HEADS * WIDTH)
        .map(|i| (i * 31 % 17) as f32 / 9.0 - 0.8)
        .collect();
    eval(ir, &[Tensor::f32(&[ROWS, HEADS * WIDTH], values)], &mut []).unwrap()[0].to_f32()
}

fn rewritten(ir: &TensorIr, options: RewriteOptions) -> (TensorIr, RewriteReport) {
    let target = lockstep_isa::Target::builtin("tsp-2020").unwrap().unwrap();
    let mut out = ir.clone();
    let report = run(&mut out, &target, &options).unwrap();
    let mut errors = VerifyErrors::new();
    out.verify(&Phase::Legal, &mut errors);
    assert!(errors.is_empty(), "{errors}\n{out}");
    (out, report)
}

#[test]
fn layers_stay_equal_and_get_cheaper() {
    let ir = attention(4);
    let (out, report) = rewritten(&ir, RewriteOptions::default());
    for (a, b) in results(&ir).iter().zip(results(&out)) {
        assert!((a - b).abs() < 1e-4, "{a} {b}\n{out}");
    }
    assert!(
        report.stages.iter().all(|s| s.cycles_after <= s.cycles_before),
        "{report:?}"
    );
    assert!(
        report.stages.first().map(|s| s.cycles_before) > report.stages.last().map(|s| s.cycles_after),
        "{report:?}"
    );
    assert!(
        report
            .blocks
            .iter()
            .all(|b| b.nodes <= NODE_LIMIT && !b.stop.is_empty()),
        "{report:?}"
    );
    assert!(
        report.blocks.len() < report.blocks.iter().map(|b| b.times).sum(),
        "layers repeat: {report:?}"
    );
}

#[test]
fn exact_keeps_every_bit() {
    let ir = attention(2);
    let (out, _) = rewritten(
        &ir,
        RewriteOptions {
            exact: true,
            stop_after: None,
        },
    );
    assert_eq!(results(&ir), results(&out));
}

#[test]
fn the_same_program_every_time() {
    let ir = attention(3);
    let text = |options| rewritten(&ir, options).0.to_string();
    assert_eq!(text(RewriteOptions::default()), text(RewriteOptions::default()));
    let none = RewriteOptions {
        exact: false,
        stop_after: Some(0),
    };
    assert_eq!(results(&ir), results(&rewritten(&ir, none).0));
}

#[test]
fn the_scale_of_attention_goes_to_the_weights() {
    let (out, _) = rewritten(&attention(1), RewriteOptions::default());
    assert!(!out.to_string().contains("0.3)"), "{out}");
}

/// Reflection at the edges of an image, as exporters write it: whole and half numbers only, so every rounding is exact.
#[test]
fn numbers_of_the_program_stay_as_they_are() {
    let mut b = TirBuilder::new("reflect");
    let ty = Type::new(DType::F32, &[23]);
    let x = b.input("x", HostDType::F32, &ty.shape, ty.clone());
    let y = b
        .map(&[x], |e, x| {
            let distance = e.abs(e.add(x[0], Ex::f32(0.5)));
            let periods = e.floor(e.div(distance, Ex::f32(6.0)));
            let phase = e.sub(distance, e.mul(periods, Ex::f32(6.0)));
            let centred = e.neg(e.abs(e.sub(phase, Ex::f32(3.0))));
            let folded = e.add(centred, Ex::f32(2.5));
            let weight = e.sub(Ex::f32(1.0), e.mul(e.sub(x[0], e.floor(x[0])), Ex::f32(0.25)));
            let index = e.min(e.max(folded, Ex::f32(0.0)), Ex::f32(2.0));
            e.mul(e.floor(index), weight)
        })
        .unwrap();
    b.output("y", HostDType::F32, &ty.shape, y);
    let mut ir = b.finish();
    crate::passes::run_part(
        &mut ir,
        &crate::passes::PassOptions::default(),
        0..crate::passes::FUSION,
    )
    .unwrap();
    let values: Vec<f32> = (0..23).map(|i| i as f32 / 2.0 - 4.0).collect();
    let of = |ir: &TensorIr| eval(ir, &[Tensor::f32(&[23], values.clone())], &mut []).unwrap()[0].to_f32();
    let (out, _) = rewritten(&ir, RewriteOptions::default());
    assert_eq!(of(&ir), of(&out), "{out}");
}

#[test]
fn whole_numbers_are_divided_as_such() {
    let mut b = TirBuilder::new("remainder");
    let ty = Type::new(DType::I32, &[23]);
    let x = b.input("x", HostDType::I32, &ty.shape, ty.clone());
    let y = b
        .map(&[x], |e, x| {
            let rest = e.sub(x[0], e.mul(e.div(x[0], Ex::i32(4)), Ex::i32(4)));
            e.add(e.mul(rest, Ex::i32(100)), e.div(x[0], Ex::i32(3)))
        })
        .unwrap();
    b.output("y", HostDType::I32, &ty.shape, y);
    let mut ir = b.finish();
    crate::passes::run_part(
        &mut ir,
        &crate::passes::PassOptions::default(),
        0..crate::passes::FUSION,
    )
    .unwrap();
    let values: Vec<i32> = (0..23).map(|i| i * 5 - 40).collect();
    let input = Tensor::from_bits(ty, values.iter().map(|&v| v as u32).collect());
    let of = |ir: &TensorIr| eval(ir, std::slice::from_ref(&input), &mut []).unwrap()[0].bits();
    let (out, _) = rewritten(&ir, RewriteOptions::default());
    assert_eq!(of(&ir), of(&out), "{out}");
}

/// A gain is multiplied with the rows: integers times scales stay apart.
#[test]
fn gains_stay_out_of_integers_with_scales() {
    for scaled in [true, false] {
        let mut b = TirBuilder::new("t");
        let x = b.input("x", HostDType::F32, &[1, 64], Type::new(DType::F32, &[1, 64]));
        let q = (0..64 * 32).map(|i| (i * 37 % 251) as u8).collect::<Vec<u8>>();
        let q = b
            .constant("q", Type::new(DType::I8, &[64, 32]), HostDType::I8, q.into())
            .unwrap();
        let w = b.map(&[q], |e, x| e.cvt(x[0], DType::F32)).unwrap();
        let w = match scaled {
            true => {
                let s = b.const_f32("s", &[1, 32], &[0.5; 32]).unwrap();
                let w = b.map(&[w, s], |e, x| e.mul(x[0], x[1])).unwrap();
                b.reshape(w, &[64, 4, 8]).unwrap()
            }
            false => b.const_f32("w", &[64, 4, 8], &[0.25; 64 * 32]).unwrap(),
        };
        let gain = b.const_f32("gain", &[1, 64], &[1.5; 64]).unwrap();
        let y = b.map(&[x, gain], |e, x| e.mul(x[0], x[1])).unwrap();
        let y = b.contract(y, w, &[], &[(1, 0)]).unwrap();
        b.output("y", HostDType::F32, &[1, 4, 8], y);
        let (out, _) = rewritten(&b.finish(), RewriteOptions::default());
        let end = &out.values[out.outputs[0].value];
        let of_input = |v: crate::tir::ValueId| out.values[v].op == crate::tir::Op::Input;
        assert_eq!(of_input(end.inputs[0]), !scaled, "{out}");
    }
}
