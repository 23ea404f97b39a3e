//! Text of runs and of whole entries: one line per run, unambiguous.
//!
//! ```text
//! sched v1 @mlp entry="main" chips=2 makespan=131
//! c0.mem3.b1 @0 read 0x0040[4] -> st4.e f32 x16:1 lanes=0:320 ; h0 contract v3
//! ```
//! A line is queue, cycle from the start of the entry, mnemonic, operands, `->` and the result, then the dtype,
//! dimensions `xCOUNT:STRIDE*COUNT:STRIDE` innermost first (none where there is one issue), live lanes, and what else
//! the opcode uses. Addresses are hexadecimal words with the step per dimension in brackets, accumulator rows `acc[R]`
//! likewise in rows; operands carry `+DELAY` and `:DTYPE` where these are not 0 and the one expected. An immediate is
//! its number, `immI=` before it where it is not the next of the three.

use crate::artifact::Artifact;
use crate::id::{DType, Dir};
use crate::op::{AluOp, Opcode};
use crate::run::{AccIn, Addr, Operand, Queue, Run, Src};
use crate::target::Target;
use std::fmt::{self, Write};

/// Name of a queue (`c0.mem3.b1`, `c0.mxm1`, `c0.vxm7`, `c0.sxm0`, `c0.c2c2`); numbers count the east side first. The
/// loads and the products of a matrix unit, and the two directions of a link, are told apart by their opcodes.
pub fn queue_name(target: &Target, chip: u16, queue: Queue) -> String {
    let side = |hemi: Dir, per_side: u8, i: u8| hemi as u32 * per_side as u32 + i as u32;
    let planes = target.mxm.planes_per_hemisphere;
    match queue {
        Queue::Mem(p) => {
            let group = side(p.hemi, target.groups, p.group);
            format!("c{chip}.mem{group}.b{}", p.bank)
        }
        Queue::MxmLoad(h, plane) | Queue::MxmMul(h, plane) => {
            format!("c{chip}.mxm{}", side(h, planes, plane))
        }
        Queue::Alu(i) => format!("c{chip}.vxm{i}"),
        Queue::Sxm(h) => format!("c{chip}.sxm{}", h as u8),
        Queue::Send(l) | Queue::Recv(l) => format!("c{chip}.c2c{l}"),
    }
}

/// One run of an entry, in its place.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// The chip.
    pub chip: u16,
    /// First issue, in cycles from the start of the entry.
    pub cycle: u64,
    /// Index of the run in the chip's program.
    pub index: u32,
    /// The run.
    pub run: &'a Run,
    /// Its chain.
    pub chain: u32,
    /// The operation that it came from.
    pub origin: &'a str,
}

impl Line<'_> {
    /// The line as [`disassemble`] prints it.
    pub fn text(&self, target: &Target) -> String {
        let queue = queue_name(target, self.chip, self.run.queue);
        let (cycle, run) = (self.cycle, disasm_run(self.run));
        let (chain, origin) = (self.chain, self.origin);
        format!("{queue} @{cycle} {run} ; h{chain} {origin}")
    }
}

/// All runs of an entry in canonical order: chip, queue, cycle. Empty where there is no such entry.
pub fn lines(artifact: &Artifact, entry: usize) -> impl Iterator<Item = Line<'_>> {
    let entry = artifact.entries.get(entry);
    let chips = entry.map_or(&[][..], |e| &e.chips).iter().enumerate();
    chips.flat_map(move |(chip, c)| {
        let runs = artifact.programs.get(c.program as usize);
        let runs = runs.map_or(&[][..], |p| &p.runs).iter().enumerate();
        runs.map(move |(i, run)| Line {
            chip: chip as u16,
            cycle: c.start + run.cycle as u64,
            index: i as u32,
            run,
            chain: c.claims.get(i).map_or(0, |claims| claims.chain),
            origin: c
                .origins
                .get(i)
                .and_then(|&o| entry?.origins.get(o as usize))
                .map_or("", |o| &o.op),
        })
    })
}

/// Writes an entry as text: a header line and one line per run, in canonical order.
///
/// # Errors
/// What the writer reports.
pub fn disassemble(artifact: &Artifact, entry: usize, out: &mut dyn Write) -> fmt::Result {
    let Some(e) = artifact.entries.get(entry) else {
        return Ok(());
    };
    writeln!(
        out,
        "sched v1 @{} entry={:?} chips={} makespan={}",
        artifact.name, e.name, artifact.n_chips, e.makespan
    )?;
    for line in lines(artifact, entry) {
        writeln!(out, "{}", line.text(&artifact.target))?;
    }
    Ok(())
}

/// Text of one run without queue and cycle.
pub fn disasm_run(run: &Run) -> String {
    let mut t = Text {
        run,
        out: String::new(),
        immediates: 0,
    };
    // Writing into a string cannot fail.
    let _ = t.run();
    t.out
}

struct Text<'a> {
    run: &'a Run,
    out: String,
    immediates: u8,
}

impl Text<'_> {
    fn run(&mut self) -> fmt::Result {
        let r = *self.run;
        self.out.push_str(r.op.mnemonic());
        if matches!(r.op, Opcode::Alu | Opcode::Fold | Opcode::Reduce) {
            write!(self.out, ".{}", r.alu.name())?;
        }
        let acc = if r.dtype.is_float() { DType::F32 } else { DType::I32 };
        let mut sep = Separator(" ");
        match r.op {
            Opcode::Read => self.address(" ", r.addr)?,
            Opcode::Write => {
                self.operand(&mut sep, r.a, r.dtype)?;
                self.address(" -> ", r.addr)?;
            }
            Opcode::Gather => {
                self.operand(&mut sep, r.a, DType::I32)?;
                self.address(", ", r.addr)?;
            }
            Opcode::Scatter => {
                self.operand(&mut sep, r.a, r.dtype)?;
                self.operand(&mut sep, r.b, DType::I32)?;
                self.address(" -> ", r.addr)?;
            }
            Opcode::Mul => {
                self.operand(&mut sep, r.a, r.dtype)?;
                match r.acc_in {
                    AccIn::Zero => self.out.push_str(", zero"),
                    AccIn::Row => self.rows(", acc", r.addr)?,
                    AccIn::Stream => self.operand(&mut sep, r.b, acc)?,
                }
                if r.out.is_none() {
                    self.rows(" -> acc", r.addr2)?;
                }
            }
            Opcode::Permute => {
                self.operand(&mut sep, r.a, r.dtype)?;
                self.operand(&mut sep, r.b, DType::U16)?;
            }
            Opcode::Alu if r.alu == AluOp::Iota => self.immediate(&mut sep, 0, DType::I32)?,
            Opcode::LoadRow if r.is_scaled() => {
                self.operand(&mut sep, r.a, r.dtype)?;
                self.operand(&mut sep, r.b, DType::F16)?;
            }
            _ => {
                for o in [r.a, r.b, r.c] {
                    self.operand(&mut sep, o, r.dtype)?;
                }
            }
        }
        if let Some(s) = r.out {
            write!(self.out, " -> {s}")?;
        }
        write!(self.out, " {}", r.dtype)?;
        self.dims()?;
        write!(self.out, " lanes={}:{}", r.lo, r.hi)?;
        self.options()
    }

    /// Dimensions up to the last that steps.
    fn dims(&mut self) -> fmt::Result {
        let dims = &self.run.dims;
        let Some(last) = dims.iter().rposition(|d| d.count != 1) else {
            return Ok(());
        };
        let mut sep = " x";
        for d in &dims[..=last] {
            write!(self.out, "{sep}{}:{}", d.count, d.stride)?;
            sep = "*";
        }
        Ok(())
    }

    fn options(&mut self) -> fmt::Result {
        let r = *self.run;
        let out = &mut self.out;
        match r.op {
            Opcode::Read | Opcode::Write if r.words as u16 != r.dtype.words() => {
                write!(out, " word")
            }
            Opcode::Gather | Opcode::Scatter => {
                write!(out, " limit={} rstride={}", r.limit, r.row_stride)
            }
            Opcode::LoadRow | Opcode::LoadCol => {
                let w = r.window;
                write!(out, " belts={} cols={}:{} rows={}:{}", r.belts, w.n0, w.n1, w.k0, w.k1)
            }
            Opcode::Mul if r.swap => write!(out, " swap"),
            Opcode::Fold => {
                write!(out, " fold={}", r.fold_dims)?;
                if r.emit_every {
                    write!(out, " every")?;
                }
                Ok(())
            }
            Opcode::Permute => write!(out, " fill={:#x}", r.imm[0]),
            Opcode::Transpose => write!(out, " n={}", r.n_out),
            Opcode::Reduce => write!(out, " seg={}", r.segment),
            _ => Ok(()),
        }
    }

    /// Strides in brackets, up to the last that is not zero.
    fn strides(&mut self, strides: [i16; 3]) -> fmt::Result {
        let n = strides.iter().rposition(|s| *s != 0).map_or(0, |i| i + 1);
        for (i, s) in strides[..n].iter().enumerate() {
            let sep = if i == 0 { "" } else { "/" };
            write!(self.out, "{sep}{s}")?;
        }
        Ok(())
    }

    fn address(&mut self, sep: &str, a: Addr) -> fmt::Result {
        write!(self.out, "{sep}{:#06x}", a.base)?;
        if a.strides != [0; 3] {
            self.out.push('[');
            self.strides(a.strides)?;
            self.out.push(']');
        }
        Ok(())
    }

    fn rows(&mut self, sep: &str, a: Addr) -> fmt::Result {
        write!(self.out, "{sep}[{}", a.base)?;
        if a.strides != [0; 3] {
            self.out.push(';');
            self.strides(a.strides)?;
        }
        self.out.push(']');
        Ok(())
    }

    fn operand(&mut self, sep: &mut Separator, o: Operand, expected: DType) -> fmt::Result {
        match o.src {
            Src::None => return Ok(()),
            Src::Stream(s) => write!(self.out, "{}{s}", sep.next())?,
            Src::Alu(i) => write!(self.out, "{}a{i}", sep.next())?,
            Src::Imm(i) => self.immediate(sep, i, o.dtype)?,
        }
        if o.delay != 0 {
            write!(self.out, "+{}", o.delay)?;
        }
        if o.dtype != expected {
            write!(self.out, ":{}", o.dtype)?;
        }
        Ok(())
    }

    fn immediate(&mut self, sep: &mut Separator, i: u8, dtype: DType) -> fmt::Result {
        self.out.push_str(sep.next());
        if i != self.immediates {
            write!(self.out, "imm{i}=")?;
        }
        self.immediates = self.immediates.max(i + 1);
        let bits = self.run.imm.get(i as usize).copied().unwrap_or(0);
        let float = f32::from_bits(bits);
        match dtype {
            DType::F32 if !float.is_nan() => write!(self.out, "{float:?}"),
            DType::I32 => write!(self.out, "{}", bits as i32),
            _ => write!(self.out, "{bits:#010x}"),
        }
    }
}

/// A space before the first operand, a comma before the others.
struct Separator(&'static str);

impl Separator {
    fn next(&mut self) -> &'static str {
        std::mem::replace(&mut self.0, ", ")
    }
}
