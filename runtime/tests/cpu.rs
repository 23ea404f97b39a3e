//! The cpu executor against the simulator: equal bits on every program, at every SIMD level and thread count.

use lockstep_isa::Target;
use lockstep_isa::artifact::{Artifact, HostDType};
use lockstep_runtime::cpu::Stats;
use lockstep_runtime::{CpuSession, HostTensor, LoadOptions, Session, Simd, lookup};
use lockstep_testkit::asm::{assemble, toy, verify_cases};
use std::sync::Arc;

/// Deterministic inputs for an entry; the seed changes them.
fn inputs(artifact: &Artifact, seed: u32) -> Vec<HostTensor> {
    let mut s = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = move || {
        s ^= s << 13;
        s ^= s >> 17;
        s ^= s << 5;
        s
    };
    let signature = &artifact.entries[0].inputs;
    signature
        .iter()
        .map(|t| {
            let n: u64 = t.shape.iter().product();
            let mut bytes = Vec::new();
            for _ in 0..n {
                let r = next();
                match t.dtype {
                    HostDType::F32 => {
                        let x = (r >> 8) as f32 / 16_777_216.0 * 8.0 - 4.0;
                        bytes.extend(x.to_le_bytes());
                    }
                    HostDType::F16 => {
                        let x = half::f16::from_f32((r >> 8) as f32 / 16_777_216.0 * 8.0 - 4.0);
                        bytes.extend(x.to_le_bytes());
                    }
                    other => {
                        let low = (r >> 8) % 7;
                        bytes.extend(&(low as u64).to_le_bytes()[..other.bytes()]);
                    }
                }
            }
            HostTensor {
                name: t.name.clone(),
                dtype: t.dtype,
                shape: t.shape.clone(),
                bytes,
            }
        })
        .collect()
}

fn run(session: &mut dyn Session, inputs: &[HostTensor]) -> Vec<HostTensor> {
    let views: Vec<_> = inputs.iter().map(HostTensor::view).collect();
    let outputs = session.run(0, &views).expect("a clean run");
    outputs.tensors.to_vec()
}

/// Runs an artifact three times on the simulator and on the cpu at all levels and two thread counts.
fn check(name: &str, artifact: Artifact) -> Stats {
    let artifact = Arc::new(artifact);
    let options = LoadOptions::default();
    let sim = lookup("sim").expect("built in");
    let mut sim = sim.load(artifact.clone(), &options).expect("loads");
    let given: Vec<Vec<HostTensor>> = (1..4).map(|seed| inputs(&artifact, seed)).collect();
    let wanted: Vec<_> = given.iter().map(|i| run(sim.as_mut(), i)).collect();
    let mut stats = Stats::default();
    for simd in [Simd::Scalar, Simd::Avx2, Simd::Avx512] {
        for threads in [1, 2, 3] {
            let options = LoadOptions {
                threads,
                simd: Some(simd),
                ..options
            };
            let Ok(mut cpu) = CpuSession::load(artifact.clone(), &options) else {
                assert_ne!(simd, Simd::Scalar, "{name} does not load");
                continue;
            };
            for (given, want) in given.iter().zip(&wanted) {
                let got = run(&mut cpu, given);
                assert!(
                    &got == want,
                    "{name} {simd:?} x{threads}: {got:?}\nwant {want:?}"
                );
            }
            stats = cpu.stats();
        }
    }
    stats
}

fn program(name: &str, text: &str, target: &Target) -> Stats {
    match assemble(text, target) {
        Ok(artifact) => check(name, artifact),
        Err(e) => panic!("{name}: {e}"),
    }
}

#[test]
fn hand_written_programs_give_the_simulators_bits() {
    let cases = verify_cases();
    assert!(!cases.is_empty());
    for (name, text) in cases {
        let stats = program(&name, &text, &toy());
        // The state is replaced by the chain that reads it.
        let by_issue = (name == "state.lks-asm") as usize;
        assert_eq!(stats.by_issue, by_issue, "{name}: {stats:?}");
    }
}
