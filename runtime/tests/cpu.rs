//! The cpu executor against the simulator: equal bits on every program, at every SIMD level and thread count.

use lockstep_isa::Target;
use lockstep_isa::artifact::{Artifact, HostDType};
use lockstep_runtime::cpu::Stats;
use lockstep_runtime::{CpuSession, HostTensor, LoadOptions, Session, Simd, lookup};
use lockstep_testkit::asm::{assemble, toy, verify_case, verify_cases};
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
            let mut cpu = match CpuSession::load(artifact.clone(), &options) {
                Ok(cpu) => cpu,
                Err(e) if simd == Simd::Scalar => panic!("{name}: {e}"),
                Err(_) => continue,
            };
            for (given, want) in given.iter().zip(&wanted) {
                let got = run(&mut cpu, given);
                assert!(&got == want, "{name} {simd:?} x{threads}: {got:?}\nwant {want:?}");
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
        assert_eq!(stats.by_issue, 0, "{name}: {stats:?}");
    }
}

fn tsp() -> Target {
    Target::builtin("tsp-2020")
        .and_then(Result::ok)
        .expect("the target is built in")
}

/// 64 rows by a 320 x 320 tile, bias, erf, a reduction and an in-place update: large enough to be split over threads.
const LARGE: &str = r#"
value x = input    c0.mem0.b0 0x0000 x64 f32 0:320
value w = const    c0.mem4.b0 0x0000 x320 f32 0:320 = rand 3
value b = const    c0.mem1.b0 0x0000 x1 f32 0:320 = iota -1 0.01
value y = computed c0.mem2.b0 0x0000 x64 f32 0:320
input "x" float32 64,320 = x
output "y" float32 64,320 = y
chain c0 "contract"
  c0.mem4.b0 @0   read w[0;1] x320 -> st0.e
  c0.mxm0    @49  load.row st0.e f32 cols=0:320 rows=0:320 x320
  c0.mem0.b0 @330 read x[0;1] x64:8 -> st4.e
  c0.mxm0    @395 mul st4.e zero swap x64:8 -> st0.w
  c0.mem1.b0 @446 read b[0] x64:8 -> st4.w
  c0.vxm0    @473 alu.add st0.w, st4.w x64:8
  c0.vxm4    @477 alu.erf a0 x64:8
  c0.vxm8    @497 alu.mul a4, 0.5 x64:8 -> st0.e
  c0.mem2.b0 @514 write st0.e -> y[0;1] x64:8
"#;

#[test]
fn a_large_chain_is_split_over_threads() {
    let stats = program("large", LARGE, &tsp());
    assert_eq!(stats.by_issue, 0);
    assert!(stats.cut >= 1, "{stats:?}");
}

/// The same tile multiplies two groups of rows, whose results go on separately.
#[test]
fn products_by_the_same_weights_are_joined() {
    let mut text = String::from(
        r#"
value x = input    c0.mem0.b0 0x0000 x40 f32 0:320
value w = const    c0.mem4.b0 0x0000 x320 f32 0:320 = rand 3
value b = const    c0.mem1.b0 0x0000 x1 f32 0:320 = iota -1 0.01
value y = computed c0.mem2.b0 0x0000 x40 f32 0:320
input "x" float32 40,320 = x
output "y" float32 40,320 = y
chain c0 "contract"
  c0.mem4.b0 @0   read w[0;1] x320 -> st0.e
  c0.mxm0    @49  load.row st0.e f32 cols=0:320 rows=0:320 x320
"#,
    );
    for (first, late, swap) in [(0, 0, "swap "), (20, 160, "")] {
        let at = |cycle: u32| cycle + late;
        text += &format!("  c0.mem0.b0 @{} read x[{first};1] x20:8 -> st4.e\n", at(330));
        text += &format!("  c0.mxm0    @{} mul st4.e zero {swap}x20:8 -> st0.w\n", at(395));
        text += &format!("  c0.mem1.b0 @{} read b[0] x20:8 -> st4.w\n", at(446));
        text += &format!("  c0.vxm0    @{} alu.add st0.w, st4.w x20:8 -> st0.e\n", at(473));
        text += &format!("  c0.mem2.b0 @{} write st0.e -> y[{first};1] x20:8\n", at(488));
    }
    let stats = program("joined", &text, &tsp());
    assert_eq!((stats.by_issue, stats.steps), (0, 3), "{stats:?}");
}

/// Weights computed at run time: rows by `load.col` (a product with a transpose) and by `load.row`, 40 columns each.
#[test]
fn run_time_weights_are_packed() {
    let text = r#"
value q = input    c0.mem1.b0 0x0000 x9 f32 0:32
value k = input    c0.mem0.b0 0x0000 x30 f32 0:32
value y = computed c0.mem3.b0 0x0000 x9 f32 0:30
value z = computed c0.mem3.b1 0x0000 x9 f32 0:32
input "q" float32 9,32 = q
input "k" float32 30,32 = k
output "y" float32 9,30 = y
output "z" float32 9,32 = z
chain c0 "qk"
  c0.mem0.b0 @0   read k[0;1] x30 -> st0.e
  c0.mxm0    @37  load.col st0.e f32 cols=0:30 rows=4:20 x30
  c0.mem1.b0 @57  read q[0;1] x9:8 -> st8.e
  c0.mxm0    @90  mul st8.e zero swap x9:8 -> st0.w
  c0.mem3.b0 @125 write st0.w -> y[0;1] x9:8
chain c0 "pv"
  c0.mem0.b0 @300 read k[0;1] x30 -> st0.e
  c0.mxm0    @337 load.row st0.e f32 cols=0:32 rows=0:30 x30
  c0.mem1.b0 @357 read q[0;1] x9:8 -> st8.e
  c0.mxm0    @390 mul st8.e zero swap x9:8 -> st0.w
  c0.mem3.b1 @425 write st0.w -> z[0;1] x9:8
"#;
    assert_eq!(program("run-time", text, &toy()).by_issue, 0);
}

/// A table that only gathers take is read where it lies; one that something else reads as well has rows of its own.
#[test]
fn tables_are_gathered() {
    let head = r#"
value ids = input  c0.mem0.b0 0x0000 x4 i32 0:1
value t = const    c0.mem2.b0 0x0000 x16 f32 8:24 = rand 7
value y = computed c0.mem3.b0 0x0000 x4 f32 8:24
value z = computed c0.mem3.b1 0x0000 x2 f32 8:24
input "ids" int32 4,1 = ids
output "y" float32 4,16 = y
"#;
    let gather = r#"
chain c0 "gather"
  c0.mem0.b0 @0  read ids[0;1] x4 -> st0.e
  c0.mem2.b0 @28 gather st0.e t[3;2] limit=6 x4 -> st4.e
  c0.mem3.b0 @56 write st4.e -> y[0;1] x4
"#;
    let read = r#"
chain c0 "read"
  c0.mem2.b0 @100 read t[5;1] x2 -> st0.e
  c0.mem3.b1 @124 write st0.e -> z[0;1] x2
"#;
    let output = "output \"z\" float32 2,16 = z\n";
    let without = head.replace("value z = computed c0.mem3.b1 0x0000 x2 f32 8:24\n", "");
    assert_eq!(program("in place", &(without + gather), &toy()).by_issue, 0);
    let both = format!("{head}{output}{gather}{read}");
    assert_eq!(program("in memory", &both, &toy()).by_issue, 0);
}

/// So many chains are prepared by two threads; each has an immediate of its own.
#[test]
fn many_chains_are_prepared_together() {
    let n = 300;
    let mut text = format!("value x = input c0.mem0.b0 0x0000 x{n} f32 0:16\n");
    text += &format!("value y = computed c0.mem1.b0 0x0000 x{n} f32 0:16\n");
    text += &format!("input \"x\" float32 {n},16 = x\noutput \"y\" float32 {n},16 = y\n");
    for c in 0..n {
        let t = c * 60;
        text += &format!("chain c0 \"add\"\n  c0.mem0.b0 @{t} read x[{c}] -> st0.w\n");
        text += &format!("  c0.vxm0 @{} alu.add st0.w, {c}.5 -> st0.e\n", t + 23);
        text += &format!("  c0.mem1.b0 @{} write st0.e -> y[{c}]\n", t + 34);
    }
    let stats = program("many", &text, &toy());
    assert_eq!((stats.chains, stats.by_issue), (n, 0));
}

/// Results land one row below their operands, in the rows that the next issue read before: no fused form.
#[test]
fn a_chain_that_shifts_rows_runs_issue_by_issue() {
    let text = r#"
value x = input    c0.mem0.b0 0x0000 x4 f32 0:16
value y = computed c0.mem0.b0 0x0004 x4 f32 0:16
input "x" float32 4,16 = x
output "y" float32 4,16 = y
chain c0 "shift"
  c0.mem0.b0 @0  read x[0;1] x4 -> st0.w
  c0.vxm0    @23 alu.exp st0.w x4
  c0.vxm1    @43 alu.add a0, st0.w+20 x4 -> st0.e
  c0.mem0.b0 @50 write st0.e -> y[0;1] x4
"#;
    assert_eq!(program("shift", text, &toy()).by_issue, 1);
}

/// Chains that touch different rows go to different threads; those that follow one another wait.
#[test]
fn small_chains_are_handed_over() {
    let mut text = String::new();
    for c in 0..6 {
        let at = c * 4 * 48;
        text += &format!("value x{c} = input c0.mem0.b0 {at:#06x} x48 f32 0:320\n");
        text += &format!("value t{c} = computed c0.mem1.b0 {at:#06x} x48 f32 0:320\n");
        text += &format!("value y{c} = computed c0.mem1.b1 {at:#06x} x48 f32 0:320\n");
        text += &format!("input \"x{c}\" float32 48,320 = x{c}\n");
        text += &format!("output \"y{c}\" float32 48,320 = y{c}\n");
    }
    for c in 0..6 {
        let t = c * 100;
        text += &format!("chain c0 \"exp\"\n  c0.mem0.b0 @{t} read x{c}[0;1] x48 -> st0.w\n");
        text += &format!("  c0.vxm0 @{} alu.exp st0.w x48 -> st0.e\n", t + 23);
        text += &format!("  c0.mem1.b0 @{} write st0.e -> t{c}[0;1] x48\n", t + 50);
    }
    for c in 0..6 {
        let (t, d) = (1000 + c * 100, (c + 1) % 6);
        text += &format!("chain c0 \"add\"\n  c0.mem1.b0 @{t} read t{c}[0;1] x48 -> st0.w\n");
        text += &format!("  c0.mem0.b0 @{} read x{d}[0;1] x48 -> st4.w\n", t + 4);
        text += &format!("  c0.vxm0 @{} alu.sub st0.w, st4.w x48 -> st0.e\n", t + 27);
        text += &format!("  c0.mem1.b1 @{} write st0.e -> y{c}[0;1] x48\n", t + 38);
    }
    assert_eq!(program("many", &text, &tsp()).by_issue, 0);
}

#[test]
fn an_artifact_changed_after_it_was_read_is_checked_when_it_is_loaded() {
    let written = assemble(&verify_case("add"), &toy())
        .expect("valid text")
        .to_bytes()
        .expect("a file");
    let read = Artifact::from_bytes(Arc::new(written)).expect("an artifact");
    let refused = |artifact: &Artifact| {
        let loaded = CpuSession::load(Arc::new(artifact.clone()), &LoadOptions::default());
        loaded.err().map(|e| e.to_string())
    };
    assert_eq!(refused(&read), None);
    let lanes = read.target.lanes;
    let mut run = read.clone();
    run.programs[0].runs[0].hi = lanes + 1;
    let error = refused(&run).expect("a run beyond the lanes");
    assert!(error.contains(&format!("at most {lanes} lanes")), "{error}");
    let mut target = read;
    target.target.streams = 1;
    let error = refused(&target).expect("runs on streams that are not there");
    assert!(error.contains("streams below 1"), "{error}");
}
