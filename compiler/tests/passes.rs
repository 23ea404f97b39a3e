//! Case files of passes: every `tests/cases/pass/*.tir` starts with `; test NAME`, a pass or `all`; the program after it is a
//! snapshot, evaluates to the same numbers, and survives printing and parsing.

use lockstep_compiler::passes::{PassCx, PassOptions, TIR_PASSES, precision, run_all};
use lockstep_compiler::tir::eval::{Tensor, eval};
use lockstep_compiler::tir::{Phase, TensorIr, parse::parse};
use lockstep_graph::{Verify, VerifyErrors};
use lockstep_isa::DType;

fn verified(ir: &TensorIr, phase: Phase) {
    let mut errors = VerifyErrors::new();
    ir.verify(&phase, &mut errors);
    assert!(errors.is_empty(), "{errors}\n{ir}");
}

/// Inputs with elements 0.1, 0.2, .. (integers 0, 1, 2, ..), and all-zero states.
fn arguments(ir: &TensorIr) -> (Vec<Tensor>, Vec<Tensor>) {
    let input = |v| {
        let ty = &ir.values[v].ty;
        let number = |i: usize| {
            if ty.dtype.is_float() {
                (0.1 * (i % 13 + 1) as f32).to_bits()
            } else {
                (i % 5) as u32
            }
        };
        Tensor::from_bits(ty.clone(), (0..ty.elements()).map(number).collect())
    };
    let inputs = ir.inputs.iter().map(|p| input(p.value)).collect();
    (inputs, ir.states.values().map(|s| Tensor::zeros(&s.ty)).collect())
}

fn results(ir: &TensorIr) -> Vec<Vec<f32>> {
    let (inputs, mut states) = arguments(ir);
    let first = eval(ir, &inputs, &mut states).expect("evaluates");
    let second = eval(ir, &inputs, &mut states).expect("evaluates");
    first.iter().chain(&second).map(Tensor::to_f32).collect()
}

#[test]
fn cases() {
    insta::glob!("../../tests/cases/pass", "*.tir", |path| {
        let text = std::fs::read_to_string(path).unwrap();
        let name = text
            .lines()
            .next()
            .and_then(|l| l.strip_prefix("; test "))
            .expect("a first line `; test NAME`")
            .trim();
        let mut ir = parse(&text).unwrap_or_else(|e| panic!("{e}"));
        verified(&ir, Phase::Lowered);
        let before = results(&ir);
        let mut tolerance = 1e-5;
        match (name, TIR_PASSES.iter().find(|p| p.name == name)) {
            ("all", _) => {
                run_all(
                    &mut ir,
                    &PassOptions {
                        verify: true,
                        ..PassOptions::default()
                    },
                )
                .unwrap();
            }
            ("precision-f16", _) => {
                tolerance = 1e-2;
                precision::run(&mut ir, DType::F16).unwrap();
            }
            (_, Some(pass)) => {
                (pass.run)(&mut ir, &PassCx::default()).unwrap();
            }
            (name, None) => panic!("no pass is named {name}"),
        }
        verified(&ir, Phase::Legal);
        for (a, b) in before.iter().zip(results(&ir)) {
            let close = a
                .iter()
                .zip(&b)
                .all(|(a, b)| (a - b).abs() <= tolerance * a.abs().max(1.0) || a == b);
            assert!(close && a.len() == b.len(), "{a:?}\n{b:?}\n{ir}");
        }
        let printed = ir.to_string();
        assert_eq!(
            parse(&printed).unwrap_or_else(|e| panic!("{e}\n{printed}")).to_string(),
            printed
        );
        insta::assert_snapshot!(printed);
    });
}
