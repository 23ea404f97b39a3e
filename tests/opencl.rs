//! The opencl executor against the others, bit for bit, on the first device that can be used. Feature `opencl-device`: where there is
//! no device, these tests fail.

#![allow(missing_docs)]

mod common;

use common::silero;
use lockstep::files::{self, FileSource, KernelCache};
use lockstep::graph::Verified;
use lockstep::isa::{AluOp, DType, scalar};
use lockstep::runtime::opencl::driver::{Contents, Driver, Range3};
use lockstep::runtime::opencl::{KernelStore, OpenCl, device, prelude};
use lockstep::{
    Artifact, Chips, Executor, HostTensor, ImportOptions, LoadOptions, Options, Silent, TensorView, WeightFormat,
    lookup, tensors,
};
use std::path::Path;
use std::sync::Arc;

fn compile(
    model: &Path,
    dims: &[(&str, usize)],
    shapes: &[(&str, &[usize])],
    target: &str,
    chips: u16,
) -> Arc<Artifact> {
    let source = FileSource::open(model).expect("the model");
    let options = ImportOptions {
        dims: dims.iter().map(|(n, v)| (n.to_string(), *v)).collect(),
        shapes: shapes.iter().map(|(n, s)| (n.to_string(), s.to_vec())).collect(),
        ..ImportOptions::default()
    };
    let graph = lockstep::import(&source, &options).expect("it imports");
    let graph = Verified::new(graph, &()).expect("a good graph");
    let options = Options {
        chips: Chips::Exactly(chips),
        ..Options::default()
    };
    let machine = files::target(target).expect("a target");
    let compiled = lockstep::compile(&graph, &machine, &options, &mut Silent).expect("it compiles");
    Arc::new(compiled.artifact.expect("an artifact"))
}

/// Outputs of three runs, each on inputs of its own, without a reset between them; then one after a reset.
fn runs(artifact: &Arc<Artifact>, executor: &dyn Executor) -> Vec<Vec<HostTensor>> {
    let loaded = executor.load(Arc::clone(artifact), &LoadOptions::default());
    let mut session = loaded.unwrap_or_else(|e| panic!("{}: {e}", executor.name()));
    let mut all = Vec::new();
    for seed in [1, 2, 3, 1] {
        if all.len() == 3 {
            session.reset_state();
        }
        let wanted = &artifact.entries[0].inputs;
        let given: Vec<HostTensor> = wanted
            .iter()
            .map(|w| tensors::random(&w.name, w.dtype, &w.shape, seed))
            .collect();
        let views: Vec<TensorView<'_>> = given.iter().map(HostTensor::view).collect();
        let outputs = session.run(0, &views);
        all.push(
            outputs
                .unwrap_or_else(|e| panic!("{}: {e}", executor.name()))
                .tensors
                .to_vec(),
        );
    }
    all
}

fn same_bits(what: &str, artifact: &Arc<Artifact>) {
    let cpu = runs(artifact, lookup("cpu").expect("cpu").as_ref());
    // The first run records its launches where the device can.
    for enqueue_each in [false, true] {
        let executor = OpenCl {
            enqueue_each,
            ..OpenCl::default()
        };
        let opencl = runs(artifact, &executor);
        assert!(
            cpu == opencl,
            "{what}: opencl differs from cpu, one by one: {enqueue_each}"
        );
    }
    assert_eq!(cpu[0], cpu[3], "{what}: a reset session starts again");
}

#[test]
fn silero_on_one_chip_and_on_four() {
    for chips in [1, 4] {
        same_bits("silero", &compile(&silero(), &[], &[], "toy", chips));
    }
}

#[test]
fn a_decoder_with_integer_weights() {
    for weights in [WeightFormat::Int8, WeightFormat::Int4] {
        same_bits("integer weights", &Arc::new(common::llama(weights)));
    }
}

/// Bits of floats: every 1009th, small ones, special ones.
fn samples() -> Vec<u32> {
    let special = [
        0u32,
        1,
        0x007f_ffff,
        0x0080_0000,
        0x3f80_0000,
        0x7f7f_ffff,
        0x7f80_0000,
        0x7fc0_0000,
        0x7f80_0001,
    ];
    let mut all: Vec<u32> = special.iter().flat_map(|&x| [x, x | 0x8000_0000]).collect();
    all.extend((0..=u32::MAX / 1009).map(|i| i * 1009));
    all.extend((0..400_000).map(|i| ((i as f32 - 200_000.0) * 6.7e-5).to_bits()));
    // What saturates or rounds at an edge.
    for edge in [
        32_767.5f32,
        65_504.0,
        65_520.0,
        2_147_483_648.0,
        6.0e-5,
        6.0e-8,
        128.0,
        256.0,
        65_536.0,
    ] {
        all.extend((0..64).flat_map(|i| [edge, -edge].map(|e| e.to_bits() - 32 + i)));
    }
    all
}

/// Deterministic words, small numbers, raw bits and specials by turns.
fn words(seed: u32, n: usize) -> Vec<u32> {
    let special = [
        0u32,
        0x8000_0000,
        1,
        0x3f80_0000,
        0xbf80_0000,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0000,
        u32::MAX,
        31,
        0x7fff_ffff,
    ];
    let mut s = seed.wrapping_mul(2_654_435_761) | 1;
    (0..n)
        .map(|i| {
            s ^= s << 13;
            s ^= s >> 17;
            s ^= s << 5;
            match s % 4 {
                0 => special[(s >> 8) as usize % special.len()],
                1 => s,
                2 => (s >> 8) % 100,
                _ => ((i % 4096) as f32 / 16.0 - 128.0).to_bits(),
            }
        })
        .collect()
}

fn same(got: u32, want: u32, float: bool) -> bool {
    got == want || float && f32::from_bits(got).is_nan() && f32::from_bits(want).is_nan()
}

/// Runs expressions of `a`, `b` and `c` on every element.
fn evaluate(expressions: &[String], a: &[u32], b: &[u32], c: &[u32]) -> Vec<Vec<u32>> {
    let mut driver = device::open(None).expect("a device");
    let mut source = prelude::text(1);
    for (i, e) in expressions.iter().enumerate() {
        source += &format!(
            "__kernel void f{i}(__global const uint *x, __global const uint *y, __global const uint *z, __global uint *out, \
             const ulong n) {{ const size_t i = get_global_id(0); if (i < n) {{ const uint a = x[i], b = y[i], c = z[i]; \
             out[i] = {e}; }} }}\n"
        );
    }
    let bytes = |x: &[u32]| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let program = driver.program(&source, None).unwrap_or_else(|e| panic!("{e:?}"));
    let mut buffers: Vec<usize> = [a, b, c]
        .iter()
        .map(|x| driver.buffer(Contents::Copy(&bytes(x), 0)).expect("a buffer"))
        .collect();
    buffers.push(driver.buffer(Contents::Zeros(a.len() as u64 * 4)).expect("a buffer"));
    let range = Range3 {
        items: [a.len().next_multiple_of(64), 1, 1],
        group: [64, 1, 1],
    };
    let mut results = Vec::new();
    for i in 0..expressions.len() {
        let launch = driver
            .launch(program, &format!("f{i}"), &buffers, a.len() as u64, range)
            .expect("a launch");
        driver.run(launch..launch + 1).expect("it runs");
        let mut out = vec![0u8; a.len() * 4];
        driver.read(buffers[3], 0, &mut out).expect("results");
        results.push(
            out.chunks_exact(4)
                .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
        );
    }
    results
}

#[test]
fn operations_equal_the_scalar_definition() {
    let (dense, n) = (samples(), 300_000);
    let (a, b, c) = (words(1, n), words(2, n), words(3, n));
    let mut cases = Vec::new();
    for &op in AluOp::ALL {
        for ty in [DType::F32, DType::I32] {
            let own = matches!(op, AluOp::Cvt | AluOp::Iota);
            if !own && scalar::is_defined(op, ty) {
                cases.push((op, ty));
            }
        }
    }
    let name = |op: AluOp, ty| format!("{}_{}", op.name(), if ty == DType::F32 { "f" } else { "i" });
    for unary in [true, false] {
        let of: Vec<_> = cases.iter().filter(|(op, _)| (op.arity() == 1) == unary).collect();
        let text =
            |&&(op, ty): &&(AluOp, DType)| format!("{}({})", name(op, ty), ["a", "b", "c"][..op.arity()].join(", "));
        let (x, y, z) = if unary { (&dense, &dense, &dense) } else { (&a, &b, &c) };
        let results = evaluate(&of.iter().map(text).collect::<Vec<_>>(), x, y, z);
        for (&&(op, ty), got) in of.iter().zip(&results) {
            for (i, &got) in got.iter().enumerate() {
                let first = if op == AluOp::Select {
                    scalar::truth(x[i], ty)
                } else {
                    x[i]
                };
                let want = scalar::alu(op, ty, first, y[i], z[i]);
                let float = ty == DType::F32 && scalar::result_type(op, ty) == DType::F32 && op != AluOp::Select;
                assert!(
                    same(got, want, float),
                    "{} of 0x{:08x}, 0x{:08x}, 0x{:08x}: 0x{got:08x}, want 0x{want:08x}",
                    name(op, ty),
                    x[i],
                    y[i],
                    z[i]
                );
            }
        }
    }
}

#[test]
fn conversions_equal_the_scalar_definition() {
    let all = [
        (DType::F32, "f32"),
        (DType::F16, "f16"),
        (DType::BF16, "bf16"),
        (DType::I32, "i32"),
        (DType::U16, "u16"),
        (DType::I8, "i8"),
        (DType::U8, "u8"),
    ];
    let mut dense = samples();
    dense.extend(0..=0xffffu32);
    dense.extend((0..=0xffffu32).map(|x| x.wrapping_sub(0x8000)));
    for (dtype, name) in all {
        let mask = match dtype.bytes() {
            1 => 0xff,
            2 => 0xffff,
            _ => u32::MAX,
        };
        let text = [
            format!("widen_{name}(a & 0x{mask:x}u)"),
            format!("narrow_f_{name}(a)"),
            format!("narrow_i_{name}(a)"),
        ];
        let results = evaluate(&text, &dense, &dense, &dense);
        let nan = |bits: u32| dtype.is_float() && f32::from_bits(scalar::widen(bits, dtype)).is_nan();
        for (i, &x) in dense.iter().enumerate() {
            let wide = scalar::widen(x & mask, dtype);
            assert!(
                same(results[0][i], wide, dtype.is_float()),
                "{name} 0x{x:08x} widened: 0x{:08x}",
                results[0][i]
            );
            for (got, want) in [
                (results[1][i], scalar::narrow_f32(f32::from_bits(x), dtype)),
                (results[2][i], scalar::narrow_i32(x as i32, dtype)),
            ] {
                assert!(
                    got == want || nan(got) && nan(want),
                    "0x{x:08x} as {name}: 0x{got:08x}, want 0x{want:08x}"
                );
            }
        }
    }
}

/// An executor that keeps kernels in a directory.
fn cached(dir: &common::Scratch) -> OpenCl {
    let store: Arc<dyn KernelStore> = Arc::new(KernelCache::new(dir.0.clone()));
    OpenCl {
        device: None,
        store: Some(store),
        enqueue_each: false,
    }
}

#[test]
fn built_kernels_are_kept_and_damage_is_built_again() {
    let artifact = compile(&silero(), &[], &[], "toy", 1);
    let dir = common::Scratch::new("kernels");
    let executor = cached(&dir);
    let fresh = runs(&artifact, &executor);
    let files: Vec<_> = std::fs::read_dir(&dir.0)
        .expect("the cache")
        .flatten()
        .map(|f| f.path())
        .collect();
    let [kept] = files.as_slice() else { panic!("{files:?}") };
    assert_eq!(runs(&artifact, &executor), fresh);
    let good = std::fs::read(kept).expect("the kept kernels");
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    for damaged in [&flipped[..], &good[..good.len() / 2], &[]] {
        std::fs::write(kept, damaged).expect("a damaged file");
        assert_eq!(runs(&artifact, &executor), fresh);
        assert!(
            std::fs::read(kept).expect("the file").len() > good.len() / 2,
            "it is kept again"
        );
    }
}

#[test]
fn a_run_allocates_nothing_and_bench_counts_enqueues() {
    let dir = common::Scratch::new("bench");
    let artifact = compile(&silero(), &[], &[], "toy", 1);
    files::write_artifact(&dir.0.join("silero.lks"), &artifact).expect("a file");
    let bench = |more: &[&str]| {
        let told = std::process::Command::new(env!("CARGO_BIN_EXE_lockstep"))
            .args(["bench", "silero.lks", "--backend", "opencl", "--runs", "5"])
            .args(more)
            .current_dir(&dir.0)
            .env("XDG_CACHE_HOME", &dir.0)
            .output()
            .expect("the command line starts");
        String::from_utf8(told.stdout).expect("text")
    };
    let device = device::devices().expect("devices").remove(0);
    let mut enqueues = Vec::new();
    for more in [&["--json"][..], &["--json", "--no-command-buffer"]] {
        let told: serde_json::Value = serde_json::from_str(&bench(more)).expect("JSON");
        assert_eq!(told["allocations"], 0, "{told}");
        assert_eq!(
            (&told["device"], &told["threads"]),
            (&device.name.as_str().into(), &serde_json::Value::Null)
        );
        assert!(
            told["microseconds_per_enqueue"].as_f64().is_some_and(|x| x > 0.0),
            "{told}"
        );
        enqueues.push(told["enqueues_per_run"].as_u64().expect("a number"));
    }
    let [recorded, each] = enqueues[..] else { panic!() };
    match device.records {
        true => assert!(0 < recorded && recorded < each, "{recorded} of {each}"),
        false => assert!(0 < recorded && recorded == each, "{recorded} of {each}"),
    }
    let line = bench(&[]);
    assert!(line.contains(&format!(" on opencl, {}: 5 runs", device.name)), "{line}");
    assert!(
        dir.0.join("lockstep/kernels").is_dir(),
        "the kernels are kept in the user's cache directory"
    );
}

#[cfg(feature = "fetched-models")]
mod fetched {
    use super::*;
    use common::path;

    #[test]
    fn minilm_on_one_chip_and_on_four() {
        for chips in [1, 4] {
            let dims = [("batch", 1), ("sequence", 128)];
            same_bits(
                "minilm",
                &compile(&path("models/minilm"), &dims, &[], "tsp-2020", chips),
            );
        }
    }

    #[test]
    fn int8_minilm() {
        let dims = [("batch", 1), ("sequence", 16)];
        let model = path("models/minilm-int8/model.onnx");
        same_bits("int8 minilm", &compile(&model, &dims, &[], "tsp-2020", 1));
    }

    #[test]
    fn the_classifier() {
        let shape: &[usize] = &[1, 3, 48, 192];
        let model = path("models/ppocr-v4/ch_ppocr_mobile_v2.0_cls_infer.onnx");
        for chips in [1, 4] {
            same_bits("classifier", &compile(&model, &[], &[("x", shape)], "tsp-2020", chips));
        }
    }
}
