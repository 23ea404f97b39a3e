//! Hand-written programs on the simulator: values worked out here by plain arithmetic, cycles from the artifact.

use lockstep_isa::artifact::{Artifact, HostDType};
use lockstep_isa::math;
use lockstep_runtime::{HostTensor, LoadOptions, Session, lookup};
use lockstep_testkit::asm::{assemble, toy, verify_case, verify_cases};
use std::sync::Arc;

fn artifact(case: &str) -> Artifact {
    assemble(&verify_case(case), &toy()).expect("valid text")
}

fn session(case: &str) -> (Box<dyn Session>, u64) {
    let artifact = artifact(case);
    let makespan = artifact.entries[0].makespan;
    let executor = lookup("sim").expect("built in");
    let session = executor
        .load(Arc::new(artifact), &LoadOptions::default())
        .expect("a valid artifact");
    (session, makespan)
}

fn run(case: &str, inputs: &[HostTensor]) -> Vec<HostTensor> {
    let (mut session, makespan) = session(case);
    let views: Vec<_> = inputs.iter().map(HostTensor::view).collect();
    let first = session.run(0, &views).expect("no hazard");
    assert_eq!(first.cycles, Some(makespan), "{case}");
    let tensors = first.tensors.to_vec();
    session.reset_state();
    let again = session.run(0, &views).expect("no hazard");
    assert_eq!(again.tensors, tensors, "{case} is not repeatable");
    tensors
}

fn ramp(n: usize) -> Vec<f32> {
    (0..n).map(|i| i as f32 * 0.375 - 7.0).collect()
}

fn tensor(dtype: HostDType, shape: &[u64], bytes: Vec<u8>) -> HostTensor {
    HostTensor {
        name: String::new(),
        dtype,
        shape: shape.to_vec(),
        bytes,
    }
}

fn x(shape: &[u64]) -> (HostTensor, Vec<f32>) {
    let v = ramp(shape.iter().product::<u64>() as usize);
    (HostTensor::from_f32("x", shape, &v), v)
}

/// The f32 elements of a constant stored as rows.
fn constant(artifact: &Artifact, k: usize) -> Vec<f32> {
    let c = &artifact.consts[k];
    artifact.weight_bytes()[c.offset as usize..][..c.length as usize]
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}

#[test]
fn add_reads_a_bias_again_and_again() {
    let (t, v) = x(&[4, 16]);
    let y = run("add", &[t]).remove(0).to_f32();
    for (i, y) in y.iter().enumerate() {
        assert_eq!(*y, v[i] + 1.0 + (i % 16) as f32 * 0.5);
    }
}

#[test]
fn blocks_multiply_in_their_own_windows() {
    let a = artifact("blocks");
    let w: Vec<i8> = a.weight_bytes().iter().map(|&b| b as i8).collect();
    let at = |k: usize| &w[a.consts[k].offset as usize..][..a.consts[k].length as usize];
    let (wa, wb) = (at(0), at(1));
    let v: Vec<i8> = (0..128).map(|i| (i * 5 % 251) as i8).collect();
    let input = tensor(HostDType::I8, &[4, 32], v.iter().map(|&b| b as u8).collect());
    let y = run("blocks", &[input]).remove(0).bytes;
    for (i, b) in y.chunks_exact(4).enumerate() {
        let (row, col) = (&v[i / 16 * 32..][..32], i % 16);
        let want: i32 = (0..16)
            .map(|k| match col {
                0..8 => row[k] as i32 * wa[k * 8 + col] as i32,
                _ => row[16 + k] as i32 * wb[(col - 8) * 16 + k] as i32,
            })
            .sum();
        assert_eq!(i32::from_le_bytes(b.try_into().unwrap()), want, "{i}");
    }
}

#[test]
fn matmul_is_one_fma_chain_per_element() {
    let a = artifact("matmul");
    let consts: Vec<Vec<f32>> = (0..5).map(|k| constant(&a, k)).collect();
    let (t, v) = x(&[4, 64]);
    let y = run("matmul", &[t]).remove(0).to_f32();
    for (i, y) in y.iter().enumerate() {
        let (row, col) = (&v[i / 16 * 64..][..64], i % 16);
        let acc = (0..64).fold(0f32, |acc, k| {
            // Two belt groups per load: even rows from one constant, odd rows from the other.
            let w = &consts[k / 32 * 2 + k % 2];
            row[k].mul_add(w[k % 32 / 2 * 16 + col], acc)
        });
        let want = (acc + consts[4][col]).max(0.0);
        assert_eq!(y.to_bits(), want.to_bits(), "{i}");
    }
}

#[test]
fn cache_keeps_its_rows_between_runs() {
    let (mut s, _) = session("cache");
    for pos in [2i32, 5, 100] {
        let v: Vec<f32> = ramp(32).iter().map(|x| x + pos as f32).collect();
        let row = HostTensor::from_f32("x", &[1, 32], &v);
        let p = tensor(HostDType::I32, &[1], pos.to_le_bytes().to_vec());
        s.run(0, &[row.view(), p.view()]).unwrap();
    }
    let v = vec![1.0; 32];
    let row = HostTensor::from_f32("x", &[1, 32], &v);
    let p = tensor(HostDType::I32, &[1], 0i32.to_le_bytes().to_vec());
    let out = s.run(0, &[row.view(), p.view()]).unwrap();
    let y = out.get("y").unwrap().to_f32();
    let of = |r: usize| y[r * 32 + 1];
    let x1 = ramp(32)[1];
    assert_eq!(of(0), 2.0);
    assert_eq!(of(1), 0.0);
    assert_eq!(of(2), 2.0 * (x1 + 2.0));
    assert_eq!(of(5), 2.0 * (x1 + 5.0));
    assert_eq!(of(7), 2.0 * (x1 + 100.0), "an index beyond the limit is clamped");
    s.reset_state();
    let out = s.run(0, &[row.view(), p.view()]).unwrap();
    assert_eq!(out.get("y").unwrap().to_f32()[5 * 32 + 1], 0.0);
}

#[test]
fn fold_delays_and_divides() {
    let (t, v) = x(&[4, 16]);
    let out = run("fold", &[t]);
    let (y, s) = (out[0].to_f32(), out[1].to_f32());
    for i in 0..64 {
        assert_eq!(y[i].to_bits(), (math::exp(v[i]) * v[i]).to_bits());
    }
    for i in 0..16 {
        let sum = ((y[i] + y[16 + i]) + y[32 + i]) + y[48 + i];
        assert_eq!(s[i].to_bits(), (sum / 2.0).to_bits());
    }
}

#[test]
fn gather_takes_rows_and_clamps() {
    let rows = [3i64, 0, 1 << 40, -1];
    let bytes = rows.iter().flat_map(|r| r.to_le_bytes()).collect();
    let y = run("gather", &[tensor(HostDType::I64, &[4, 1], bytes)])
        .remove(0)
        .to_f32();
    for (i, row) in [3usize, 0, 15, 15].into_iter().enumerate() {
        assert_eq!(y[i * 32 + 4], (row * 32 + 4) as f32);
    }
}

#[test]
fn half_scans_in_f32_and_narrows() {
    let v: Vec<half::f16> = (0..192)
        .map(|i| half::f16::from_f32((i * 29 % 53) as f32 - 20.0))
        .collect();
    let bytes = v.iter().flat_map(|h| h.to_le_bytes()).collect();
    let y = run("half", &[tensor(HostDType::F16, &[6, 32], bytes)]).remove(0);
    for (i, b) in y.bytes.chunks_exact(2).enumerate() {
        let (vector, lane) = (i / 32, i % 32);
        let block = vector / 3 * 3;
        let want = (block..=vector)
            .map(|j| v[j * 32 + lane])
            .fold(half::f16::NEG_INFINITY, |a, b| if b > a { b } else { a });
        assert_eq!(half::f16::from_le_bytes(b.try_into().unwrap()), want, "{i}");
    }
}

#[test]
fn permute_fills_and_transpose_turns() {
    let (t, v) = x(&[4, 8]);
    let y = run("permute", &[t]).remove(0).to_f32();
    for (lane, map) in [7, 6, 5, 4, 65535, 2, 1, 65535].into_iter().enumerate() {
        for row in 0..4 {
            let want = if map == 65535 { 1.0 } else { v[row * 8 + map] };
            assert_eq!(y[lane * 4 + row], want);
        }
    }
}

#[test]
fn reduce_gives_the_segment_to_all_its_lanes() {
    let v: Vec<f32> = (0..128).map(|i| (i * 37 % 71) as f32).collect();
    let y = run("reduce", &[HostTensor::from_f32("x", &[4, 32], &v)])
        .remove(0)
        .to_f32();
    for (i, y) in y.iter().enumerate() {
        let max = v[i / 8 * 8..][..8].iter().fold(0f32, |a, &b| a.max(b));
        assert_eq!(*y, v[i] - max);
    }
}

#[test]
fn state_feeds_the_next_run() {
    let (mut s, _) = session("state");
    let (t, v) = x(&[4, 16]);
    for n in 1..=3 {
        let out = s.run(0, &[t.view()]).unwrap();
        let h = out.tensors[0].to_f32();
        assert_eq!(h[5], v[5] * n as f32);
    }
    s.reset_state();
    let out = s.run(0, &[t.view()]).unwrap();
    assert_eq!(out.tensors[0].to_f32(), v);
}

#[test]
fn inputs_that_do_not_match_are_named() {
    let (mut s, _) = session("add");
    let (t, _) = x(&[4, 16]);
    let (wrong, _) = x(&[16, 4]);
    let of = |e: Result<_, lockstep_runtime::ExecError>| match e {
        Ok(_) => String::new(),
        Err(e) => e.to_string(),
    };
    assert_eq!(
        of(s.run(0, &[wrong.view()]).map(|_| ())),
        "input \"x\": expected float32[4, 16], got float32[16, 4]"
    );
    assert_eq!(
        of(s.run(0, &[]).map(|_| ())),
        "entry \"main\" takes 1 inputs (x), got 0"
    );
    assert_eq!(
        of(s.run(1, &[t.view()]).map(|_| ())),
        "entry 1 does not exist; the artifact has 1 entries"
    );
    let mut short = t.view();
    short.bytes = &short.bytes[4..];
    assert_eq!(
        of(s.run(0, &[short]).map(|_| ())),
        "input \"x\": expected 256 bytes, got 252 bytes"
    );
}

/// Every case of the verifier's folder runs in exactly its makespan.
#[test]
fn every_case_takes_its_makespan() {
    let mut n = 0;
    for (name, text) in verify_cases() {
        let artifact = assemble(&text, &toy()).unwrap();
        let entry = artifact.entries[0].clone();
        let executor = lookup("sim").unwrap();
        let mut s = executor.load(Arc::new(artifact), &LoadOptions::default()).unwrap();
        let inputs: Vec<HostTensor> = entry
            .inputs
            .iter()
            .map(|t| {
                let n = t.shape.iter().product::<u64>() as usize;
                tensor(t.dtype, &t.shape, vec![1; n * t.dtype.bytes()])
            })
            .collect();
        let views: Vec<_> = inputs.iter().map(HostTensor::view).collect();
        let out = s.run(0, &views).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(out.cycles, Some(entry.makespan), "{name}");
        n += 1;
    }
    assert!(n >= 11);
}
