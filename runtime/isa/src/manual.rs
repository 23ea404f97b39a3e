//! The reference manual of the instruction set, docs/ISA.md: written from the tables that the code itself uses.

use crate::figures::NO_SOURCE;
use crate::id::DType;
use crate::op::{AluOp, Opcode, UnitKind};
use crate::target::Target;
use crate::timing::LatencyKey;
use std::fmt::Write;

/// Text of docs/ISA.md.
pub fn manual() -> String {
    let targets: Vec<Target> = Target::builtin_names()
        .filter_map(|name| Target::builtin(name)?.ok())
        .collect();
    let mut out = String::from(INTRO);
    instructions(&mut out);
    out.push_str(OPERANDS);
    operations(&mut out);
    out.push_str(SCALAR_RULES);
    timing(&mut out, &targets);
    figures(&mut out, &targets);
    out
}

const INTRO: &str = "\
# The instruction set

This page is written by `lockstep_isa::manual` from the instruction table, the table of ALU operations and the target
files; a test compares it. docs/ARTIFACT.md has the encoding.

Every instruction is a *run*: a queue, a first issue cycle, up to three nested dimensions of (count, cycle stride) with
an address stride each, and live lanes [lo, hi). Issue number `(i2 * n1 + i1) * n0 + i0` happens in cycle
`cycle + i0 * s0 + i1 * s1 + i2 * s2`. A run holds its queue from its first issue to its last issue plus the occupancy.

A result of an instruction issued in cycle t is on its belt, at the unit's own position, in cycle t + latency. A belt
moves one position per cycle. A consumer issues in exactly the cycle in which its operand passes. Nothing ever stalls.

## Instructions

";

const OPERANDS: &str = "
A row is `row * slices + slice` words from the start of its bank; a vector of dtype size s takes s aligned words and s
aligned streams. `words = 1` on a read or write of a wider dtype moves a single word, for links. A tile load takes
vector `j * belts + g` from belt group g in its issue j. Where it has scales, a vector of floats per issue, each row of
that issue is multiplied by them, lane by lane, in f32: blocks of integers with a scale of their own. An i4 vector is a
word of pairs: the low half of a byte is its column of one row, the high half that of the next. `mul` starts from zero,
from accumulator row `acc[r]` or from a stream, and leaves its result in `acc[r]` or on a stream; `swap` makes the
shadow tile active in the first issue. The result of a product is f32 for float dtypes and i32 for i8 and u8.

Live lanes follow from the operands; a lane outside them is undefined.

| instruction | live lanes |
|---|---|
| read, gather | those of the value |
| write, scatter | those of the operand and of the value, which are equal |
| word accesses, send, recv, alu.iota | all |
| alu | the intersection of those of its operands |
| fold, reduce | those of the operand; a reduce's segments count from lane 0 and tile [lo, hi) |
| permute | those of the map; every mapped lane is live in x |
| transpose | [lo, hi) of the operands; result i is lane lo + i, its lanes are [0, issues) |
| load.row | the columns [n0, n1) |
| load.col | the rows [k0, k1) |
| mul | the hull of the columns of all loaded blocks and of the accumulator |

## Operations of the VXM

The VXM computes in f32 and i32; narrow operands widen at its ports, `cvt` narrows. An operation that costs four ALUs is
issued on ALU 4i and takes ALUs 4i .. 4i+3. `fold` and `reduce` take add, mul, min and max.

";

const SCALAR_RULES: &str = "
- `fma(a, b, c)` is a * b + c with one rounding; `select(c, a, b)` is c != 0 ? a : b; compares give i32 0 or 1.
- min and max propagate NaN, and -0 < +0; round is half to even; rsqrt(x) is 1 / sqrt(x).
- f32 to i32 saturates, NaN gives 0; i32 wraps; shift counts are taken & 31; `shr` is logical, `shra` arithmetic.
- `mul` is one chain of fused multiply-adds over k ascending, starting from the accumulator; integers accumulate in i32.
- A lane reduce is 16 interleaved partial sums ascending, then halves; missing terms are the identity.
- exp, log, tanh, erf, sin and cos are the crate's own, with one stated order of operations. Denormals are kept.

## Timing

";

fn unit_name(unit: UnitKind) -> &'static str {
    match unit {
        UnitKind::Mem => "MEM, one queue per bank of a slice group",
        UnitKind::MxmLoad => "MXM, load queue of a matrix unit",
        UnitKind::MxmMul => "MXM, mul queue of a matrix unit",
        UnitKind::Vxm => "VXM, one queue per ALU",
        UnitKind::Sxm => "SXM, one queue per hemisphere",
        UnitKind::C2cSend => "C2C, sending end of a link",
        UnitKind::C2cRecv => "C2C, receiving end of a link",
    }
}

fn instructions(out: &mut String) {
    out.push_str("| code | mnemonic | queue | operands | semantics |\n|---|---|---|---|---|\n");
    for op in Opcode::ALL {
        let (code, name, unit) = (*op as u8, op.mnemonic(), unit_name(op.unit()));
        let (operands, semantics) = (op.operands(), op.semantics());
        let _ = writeln!(out, "| {code} | `{name}` | {unit} | {operands} | {semantics} |");
    }
}

fn operations(out: &mut String) {
    out.push_str("| code | operation | operands | ALUs | latency |\n|---|---|---|---|---|\n");
    for op in AluOp::ALL {
        let key = match op.latency_key() {
            LatencyKey::AluSimple => "alu_simple",
            LatencyKey::AluMul => "alu_mul",
            LatencyKey::AluDiv => "alu_div",
            LatencyKey::AluExp => "alu_exp",
        };
        let (code, name, arity, cost) = (*op as u8, op.name(), op.arity(), op.cost());
        let _ = writeln!(out, "| {code} | `{name}` | {arity} | {cost} | {key} |");
    }
}

fn row(out: &mut String, label: &str, targets: &[Target], cell: impl Fn(&Target) -> String) {
    let _ = write!(out, "| {label} |");
    for t in targets {
        let _ = write!(out, " {} |", cell(t));
    }
    out.push('\n');
}

fn timing(out: &mut String, targets: &[Target]) {
    out.push_str("Cycles from issue to result.\n\n");
    row(out, "instruction", targets, |t| t.name.clone());
    row(out, "---", targets, |_| "---".into());
    type Latency = fn(&Target) -> u16;
    let latencies: [(&str, Latency); 17] = [
        ("read", |t| t.latency.read),
        ("write (until the row is readable)", |t| t.latency.write),
        ("gather", |t| t.latency.read + t.latency.index),
        ("scatter", |t| t.latency.write + t.latency.index),
        ("load.row, load.col (last issue to first mul)", |t| t.latency.load),
        ("mul", |t| t.latency.mul),
        ("alu_simple", |t| t.latency.alu_simple),
        ("alu_mul", |t| t.latency.alu_mul),
        ("alu_div", |t| t.latency.alu_div),
        ("alu_exp", |t| t.latency.alu_exp),
        ("fold (last folded vector to result)", |t| t.latency.fold),
        ("permute", |t| t.latency.permute),
        ("transpose (last vector in to first out)", |t| t.latency.transpose),
        ("reduce", |t| t.latency.reduce),
        ("send to recv", |t| t.c2c.latency),
        ("send, recv: occupancy", |t| t.c2c.cycles_per_word),
        ("longest operand delay of the VXM", |t| t.vxm.max_delay as u16),
    ];
    for (label, latency) in latencies {
        row(out, label, targets, |t| latency(t).to_string());
    }
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::I8] {
        let label = format!("mul {dtype}: cycles per vector, matrix units per hemisphere");
        row(out, &label, targets, |t| match t.mxm_rate(dtype) {
            Some(r) => format!("{}, {}", r.cycles_per_vector, t.mxm_units(dtype)),
            None => "none".into(),
        });
    }
    out.push_str("\nEvery other instruction occupies its queue for one cycle per issue.\n");
}

fn figures(out: &mut String, targets: &[Target]) {
    out.push_str("\n## Targets\n");
    for t in targets {
        let mib = t.sram_bytes() as f64 / (1 << 20) as f64;
        let _ = write!(out, "\n### {}\n\n{mib:.1} MiB of SRAM per chip.\n\n", t.name);
        out.push_str("| figure | value | source |\n|---|---|---|\n");
        for f in t.figures() {
            let note = if f.note == NO_SOURCE { "" } else { &f.note };
            let _ = writeln!(out, "| `{}` | {} | {note} |", f.field, f.value);
        }
    }
}
