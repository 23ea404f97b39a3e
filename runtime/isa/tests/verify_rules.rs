//! Each invariant of the verifier, broken alone where it can be: found when it is checked, and the program passes when
//! that one check is off.

use lockstep_isa::Artifact;
use lockstep_isa::Opcode;
use lockstep_isa::artifact::{Value, ValueKind};
use lockstep_isa::verify::{Checks, Invariant, verify, verify_with};
use lockstep_testkit::asm::{assemble, toy, verify_case};

fn case(name: &str) -> Artifact {
    program(&verify_case(name))
}

fn program(text: &str) -> Artifact {
    assemble(text, &toy()).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// Breaks `invariant` in a way that other checks may see too.
fn breaks(a: &Artifact, invariant: Invariant) {
    let errors = verify(a).expect_err("a broken program");
    let all: Vec<String> = errors.violations.iter().map(|v| v.to_string()).collect();
    assert!(errors.has(invariant), "{invariant}:\n{}", all.join("\n"));
}

/// Breaks `invariant` and nothing else.
fn breaks_alone(a: &Artifact, invariant: Invariant) {
    breaks(a, invariant);
    if let Err(e) = verify_with(a, Checks::ALL.without(invariant)) {
        let all: Vec<String> = e.violations.iter().map(|v| v.to_string()).collect();
        panic!("without {invariant}:\n{}", all.join("\n"));
    }
}

fn find(a: &Artifact, op: Opcode) -> usize {
    a.programs[0]
        .runs
        .iter()
        .position(|r| r.op == op)
        .unwrap_or_else(|| panic!("no {op:?}"))
}

#[test]
fn a1_records() {
    let mut a = case("add");
    a.programs[0].runs[0].hi = 33;
    breaks(&a, Invariant::Records);
    let mut a = case("add");
    a.entries[0].chips[0].claims[1].operands.pop();
    a.entries[0].chips[0].claims[2].mem = None;
    breaks(&a, Invariant::Records);
    let mut a = case("add");
    a.entries[0].chips[0].claims.pop();
    breaks(&a, Invariant::Records);
    let mut a = case("fold");
    let write = find(&a, Opcode::Write);
    a.programs[0].runs[write].a.dtype = lockstep_isa::DType::I32;
    breaks(&a, Invariant::Records);
}

#[test]
fn a2_values() {
    let mut a = case("add");
    a.consts[0].length -= 1;
    breaks_alone(&a, Invariant::Values);
    let mut a = case("add");
    a.entries[0].values[2].base = 4092;
    breaks(&a, Invariant::Values);
    let mut a = case("state");
    a.entries[0].values[2].hi = 17;
    breaks(&a, Invariant::Values);
    // A second entry that has the constant elsewhere.
    let mut a = case("add");
    let mut second = a.entries[0].clone();
    second.name = "second".into();
    a.entries.push(second);
    assert!(verify(&a).is_ok());
    a.entries[1].values[1].base = 4;
    breaks(&a, Invariant::Values);
}

#[test]
fn a3_queues() {
    let text = "
value x = input    c0.mem0.b0 0x0000 x4 f32 0:16
value y = computed c0.mem1.b0 0x0000 x2 f32 0:16
value z = computed c0.mem1.b1 0x0000 x2 f32 0:16
input \"x\" float32 4,16 = x
output \"y\" float32 2,16 = y
output \"z\" float32 2,16 = z
chain c0
  c0.mem0.b0 @0  read x[0;2] x2:2 -> st0.e
  c0.mem0.b0 @1  read x[1;2] x2:2 -> st0.e
  c0.mem1.b0 @24 write st0.e -> y[0;1] x2:2
  c0.mem1.b1 @25 write st0.e -> z[0;1] x2:2
";
    breaks_alone(&program(text), Invariant::Queues);
    // A product every 8 cycles, where one takes 9.
    let mut a = case("matmul");
    a.target.mxm.f32 = a.target.mxm.f32.map(|mut r| {
        r.cycles_per_vector = 9;
        r
    });
    breaks_alone(&a, Invariant::Queues);
}

#[test]
fn a3_an_operation_of_four_alus_holds_all_of_them() {
    let text = "
value x = input    c0.mem0.b0 0x0000 x4 f32 0:16
value y = computed c0.mem1.b0 0x0000 x4 f32 0:16
value z = computed c0.mem5.b0 0x0000 x4 f32 0:16
input \"x\" float32 4,16 = x
output \"y\" float32 4,16 = y
output \"z\" float32 4,16 = z
chain c0
  c0.mem0.b0 @0  read x[0;1] x4 -> st0.w
  c0.vxm0    @23 alu.log st0.w x4 -> st0.e
  c0.vxm3    @23 alu.neg st0.w x4 -> st4.w
  c0.mem1.b0 @50 write st0.e -> y[0;1] x4
  c0.mem5.b0 @34 write st4.w -> z[0;1] x4
";
    breaks_alone(&program(text), Invariant::Queues);
    let sound = text.replace("vxm3", "vxm4");
    assert!(verify(&program(&sound)).is_ok());
}

#[test]
fn a4_load_words() {
    let mut a = case("matmul");
    a.target.mxm.load_words_per_cycle = 7;
    breaks_alone(&a, Invariant::LoadWords);
}

#[test]
fn a5_operands() {
    let mut a = case("add");
    let write = find(&a, Opcode::Write);
    a.programs[0].runs[write].cycle += 1;
    a.entries[0].makespan += 1;
    breaks_alone(&a, Invariant::Operands);
    // Against the direction of the belt.
    let mut a = case("add");
    let write = find(&a, Opcode::Write);
    let alu = find(&a, Opcode::Alu);
    let west = lockstep_isa::Stream {
        dir: lockstep_isa::Dir::West,
        index: 8,
    };
    a.programs[0].runs[write].a.src = lockstep_isa::run::Src::Stream(west);
    a.programs[0].runs[alu].out = Some(west);
    breaks_alone(&a, Invariant::Operands);
}

#[test]
fn a6_slots() {
    let text = "
value x = input    c0.mem1.b0 0x0000 x1 f32 0:16
value z = input    c0.mem0.b0 0x0000 x1 f32 0:16
value y = computed c0.mem4.b0 0x0000 x1 f32 0:16
value w = computed c0.mem2.b0 0x0000 x1 f32 0:16
input \"x\" float32 1,16 = x
input \"z\" float32 1,16 = z
output \"y\" float32 1,16 = y
output \"w\" float32 1,16 = w
chain c0
  c0.mem1.b0 @0  read x[0] -> st0.w
  c0.mem0.b0 @4  read z[0] -> st0.w
  c0.vxm0    @27 alu.neg st0.w -> st0.e
  c0.mem2.b0 @42 write st0.e -> w[0]
  c0.mem4.b0 @30 write st0.w -> y[0]
";
    let mut a = program(text);
    // The read of z replaces x in the slot before the ALU sees it.
    let alu = find(&a, Opcode::Alu);
    let claims = &mut a.entries[0].chips[0].claims;
    let far = a.programs[0]
        .runs
        .iter()
        .position(|r| r.op == Opcode::Read && r.cycle == 0);
    claims[alu].operands[0].run = far.expect("the far read") as u32;
    breaks_alone(&a, Invariant::Slots);
    // Two banks of one slice group drive one slot in one cycle.
    let mut a = case("add");
    let reads: Vec<usize> = (0..a.programs[0].runs.len())
        .filter(|&i| a.programs[0].runs[i].op == Opcode::Read)
        .collect();
    let out = a.programs[0].runs[reads[0]].out;
    let alu = find(&a, Opcode::Alu);
    a.programs[0].runs[reads[1]].out = out;
    a.programs[0].runs[alu].b.src = a.programs[0].runs[alu].a.src;
    breaks_alone(&a, Invariant::Slots);
}

#[test]
fn a7_results() {
    let text = verify_case("add");
    let text = format!("{text}\n  c0.mem0.b1 @20 read b[0] -> st8.w\n");
    breaks_alone(&program(&text), Invariant::Taken);
}

#[test]
fn a8_lanes() {
    let text = verify_case("add");
    let text = text.replace("alu.add st0.w, st4.w", "alu.add st0.w, st4.w lanes=0:15");
    breaks_alone(&program(&text), Invariant::Lanes);
    // A map that names a lane which is not live in x.
    let mut a = case("permute");
    assert!(verify(&a).is_ok());
    a = program(&verify_case("permute").replace("list 7 6", "list 8 6"));
    breaks_alone(&a, Invariant::Lanes);
    // Received words end up in another order.
    let mut a = case("transfer");
    let write = a.programs[1]
        .runs
        .iter()
        .position(|r| r.op == Opcode::Write && r.words == 1)
        .expect("a word write");
    a.programs[1].runs[write].addr.base += 7;
    a.programs[1].runs[write].addr.strides[0] = -1;
    let m = a.entries[0].chips[1].claims[write].mem.as_mut();
    let m = m.expect("a claim");
    (m.base, m.strides[0]) = (7, -1);
    breaks_alone(&a, Invariant::Lanes);
}

#[test]
fn a9_addresses() {
    let mut a = case("matmul");
    let read = find(&a, Opcode::Read);
    a.programs[0].runs[read].addr.base += 4;
    breaks_alone(&a, Invariant::Addresses);
    let mut a = case("gather");
    let gather = find(&a, Opcode::Gather);
    a.programs[0].runs[gather].limit = 15;
    breaks_alone(&a, Invariant::Addresses);
}

#[test]
fn a10_rows() {
    let text = verify_case("reduce");
    let early = text
        .replace("@80 ", "@69 ")
        .replace("@92 ", "@81 ")
        .replace("@115", "@104")
        .replace("@126", "@115");
    breaks_alone(&program(&early), Invariant::Rows);
    let just = text
        .replace("@80 ", "@70 ")
        .replace("@92 ", "@82 ")
        .replace("@115", "@105")
        .replace("@126", "@116");
    assert!(verify(&program(&just)).is_ok());
}

/// The second chain follows the first row by row in time, but its rows would not yet be there if it came first.
#[test]
fn a11_chain_order() {
    let mut a = case("reduce");
    a.entries[0].chains.swap(0, 1);
    for c in &mut a.entries[0].chips[0].claims {
        c.chain = 1 - c.chain;
    }
    breaks_alone(&a, Invariant::ChainOrder);
    // Both in one chain: a value must not be read in the chain that defines it.
    let mut a = case("reduce");
    for c in &mut a.entries[0].chips[0].claims {
        c.chain = 0;
    }
    breaks_alone(&a, Invariant::ChainOrder);
}

/// A ring of two rows that a producer chain reuses while the consumer chain follows: right in time, wrong in order.
#[test]
fn a11_reuse_between_two_running_chains() {
    let text = "
value x = input    c0.mem0.b0 0x0000 x2 f32 0:16
value p = computed c0.mem1.b0 0x0000 x1 f32 0:16
value q = computed c0.mem1.b0 0x0000 x1 f32 0:16
value y = computed c0.mem3.b0 0x0000 x2 f32 0:16
input \"x\" float32 2,16 = x
output \"y\" float32 2,16 = y
chain c0
  c0.mem0.b0 @0   read x[0] -> st0.e
  c0.mem1.b0 @24  write st0.e -> p[0]
  c0.mem0.b0 @100 read x[1] -> st0.e
  c0.mem1.b0 @124 write st0.e -> q[0]
chain c0
  c0.mem1.b0 @60  read p[0] -> st4.e
  c0.mem3.b0 @88  write st4.e -> y[0]
  c0.mem1.b0 @160 read q[0] -> st4.e
  c0.mem3.b0 @188 write st4.e -> y[1]
";
    breaks_alone(&program(text), Invariant::ChainOrder);
}

#[test]
fn a12_definitions() {
    let text = verify_case("add");
    // One vector of the output is never written.
    let missing = text.replace("0x0010 x4 f32", "0x0010 x5 f32");
    let missing = missing.replace("\"y\" float32 4,16", "\"y\" float32 5,16");
    breaks_alone(&program(&missing), Invariant::Definitions);
    // The output lies on a constant.
    let mut a = case("add");
    let input = Value {
        kind: ValueKind::Input,
        ..a.entries[0].values[2].clone()
    };
    a.entries[0].values.push(Value {
        kind: ValueKind::Const(0),
        n_vectors: 1,
        ..input
    });
    breaks(&a, Invariant::Definitions);
    // A state that nobody replaces must survive, also where another entry owns it.
    let mut a = case("state");
    let mut other = program(&text);
    a.entries[0].name = "first".into();
    let mut entry = other.entries.remove(0);
    a.consts.extend(other.consts);
    a.weights = other.weights;
    a.weights_range = other.weights_range;
    entry.chips[0].program = 1;
    entry.values[2].place = a.entries[0].values[0].place;
    entry.values[2].base = 0;
    a.programs.extend(other.programs);
    a.entries.push(entry);
    breaks(&a, Invariant::Definitions);
}

#[test]
fn a12_a_cache_is_not_changed_after_it_is_read() {
    let text = verify_case("cache");
    let again = format!(
        "{text}\nchain c0\n  c0.mem0.b0 @100 read x[0] -> st0.e\n  c0.mem0.b1 @100 read p[0] -> st4.e\n  c0.mem2.b0 @128 scatter st0.e, st4.e -> n[0] limit=8\n"
    );
    breaks_alone(&program(&again), Invariant::Definitions);
}

#[test]
fn a13_tiles() {
    let mut a = case("matmul");
    a.target.latency.load = 40;
    breaks_alone(&a, Invariant::Tiles);
    let mut a = case("blocks");
    let load = find(&a, Opcode::LoadCol);
    let mul = find(&a, Opcode::Mul);
    // The second block overlaps the first by one column.
    a.programs[0].runs[load].window.n0 = 7;
    a.programs[0].runs[load].window.n1 = 15;
    a.entries[0].chips[0].claims[mul].blocks[1].window = a.programs[0].runs[load].window;
    breaks(&a, Invariant::Tiles);
    let mut a = case("blocks");
    a.entries[0].chips[0].claims[mul].blocks[1].window.k0 += 1;
    breaks_alone(&a, Invariant::Tiles);
}

#[test]
fn a14_accumulators() {
    let mut a = case("matmul");
    let second = a.programs[0]
        .runs
        .iter()
        .rposition(|r| r.op == Opcode::Mul)
        .expect("mul");
    let acc = a.entries[0].chips[0].claims[second].acc.as_mut();
    acc.expect("claims a row").first += 1;
    breaks_alone(&a, Invariant::Accumulators);
    let mut a = case("matmul");
    a.programs[0].runs[second].addr.base += 1;
    breaks_alone(&a, Invariant::Accumulators);
}

#[test]
fn a15_links() {
    let mut a = case("transfer");
    a.entries[0].chips[1].start += 1;
    a.entries[0].makespan += 1;
    breaks_alone(&a, Invariant::Links);
    let mut a = case("transfer");
    for run in &mut a.programs[1].runs {
        if run.op == Opcode::Recv {
            run.queue = lockstep_isa::Queue::Recv(0);
        }
    }
    breaks(&a, Invariant::Links);
}

#[test]
fn a16_chains() {
    let mut a = case("reduce");
    let alu = find(&a, Opcode::Alu);
    a.entries[0].chips[0].claims[alu].chain = 0;
    breaks_alone(&a, Invariant::Chains);
    let mut a = case("transfer");
    a.entries[0].chains[0].to = None;
    breaks_alone(&a, Invariant::Chains);
}

#[test]
fn a17_host_maps() {
    let mut a = case("add");
    a.entries[0].inputs[0].nests[0].lane = 1;
    breaks_alone(&a, Invariant::HostMaps);
    let mut a = case("add");
    a.entries[0].inputs[0].nests[0].dims[0].vector = 0;
    breaks_alone(&a, Invariant::HostMaps);
    let mut a = case("add");
    a.entries[0].outputs[0].shape[0] = 5;
    breaks_alone(&a, Invariant::HostMaps);
    let mut a = case("add");
    a.entries[0].outputs[0].shape = vec![u64::MAX, u64::MAX];
    breaks_alone(&a, Invariant::HostMaps);
}

#[test]
fn a18_sram() {
    let mut a = case("add");
    let like = a.entries[0].values[2].clone();
    let n_vectors = a.target.bank_words() / 4;
    for place in a.target.places() {
        a.entries[0].values.push(Value {
            place,
            base: 0,
            n_vectors,
            ..like.clone()
        });
    }
    breaks_alone(&a, Invariant::Sram);
}

#[test]
fn a19_makespan() {
    let mut a = case("matmul");
    let summary = verify(&a).expect("sound");
    assert_eq!(summary.entries[0].makespan, a.entries[0].makespan);
    assert_eq!(summary.entries[0].busy[0].mxm_mul, 64);
    a.entries[0].makespan -= 1;
    breaks_alone(&a, Invariant::Makespan);
}

/// Messages name invariant, entry, run, chain, cycle and instruction.
#[test]
fn messages_say_where() {
    let mut a = case("add");
    let write = find(&a, Opcode::Write);
    a.programs[0].runs[write].cycle += 1;
    let errors = verify(&a).expect_err("broken");
    assert_eq!(
        errors.violations[0].to_string(),
        "A5 entry main r2 h0 @35 `c0.mem1.b0 @35 write st0.e -> 0x0010[4] f32 x4:1 lanes=0:16`: operand 0 is taken @35, result 0 of r3 passes @34"
    );
}
