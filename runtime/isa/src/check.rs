//! Load-time checks of one run: its shape, and its bounds on a target.
//!
//! The shape is what the encoding relies on: fields that the opcode does not use are at their default, operands are of
//! the kind that the unit takes, issue cycles ascend. The bounds are what executors rely on to index without checks:
//! queues, streams, addresses, accumulator rows, windows and lanes all exist on the target. Neither proves that the
//! program means anything: that is the verifier's work.

use crate::id::{DType, Stream};
use crate::op::{AluOp, Opcode, UnitKind};
use crate::run::{AccIn, Addr, Operand, Queue, Run, Src};
use crate::target::Target;
use std::fmt::Debug;

/// Most issues of one run: bounds the time that a small file can make an executor spend in one instruction.
pub const MAX_ISSUES: u64 = 1 << 24;

/// Latest cycle, from the start of a program, at which a run may be over.
pub const MAX_PROGRAM_CYCLES: u64 = 1 << 31;

/// What is wrong with a run: the field, what was found, and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op} field {field:?}: found {found}, allowed is {allowed}")]
pub struct RunError {
    /// Mnemonic of the run.
    pub op: &'static str,
    /// Field of [`Run`].
    pub field: &'static str,
    /// Its value.
    pub found: String,
    /// Allowed values.
    pub allowed: String,
}

/// Boxed, so that what goes well is returned in a register.
type Checked = Result<(), Box<RunError>>;

/// Fields that not every opcode uses, one bit each; of the immediates, immediate i is `IMM0 << i`.
mod field {
    pub const ALU: u32 = 1 << 0;
    pub const A: u32 = 1 << 1;
    pub const B: u32 = 1 << 2;
    pub const C: u32 = 1 << 3;
    pub const OUT: u32 = 1 << 4;
    pub const ADDR: u32 = 1 << 5;
    pub const ADDR2: u32 = 1 << 6;
    pub const WORDS: u32 = 1 << 7;
    pub const ROW_STRIDE: u32 = 1 << 8;
    pub const LIMIT: u32 = 1 << 9;
    pub const WINDOW: u32 = 1 << 10;
    pub const BELTS: u32 = 1 << 11;
    pub const ACC_IN: u32 = 1 << 12;
    pub const SWAP: u32 = 1 << 13;
    pub const FOLD_DIMS: u32 = 1 << 14;
    pub const EMIT_EVERY: u32 = 1 << 15;
    pub const N_OUT: u32 = 1 << 16;
    pub const SEGMENT: u32 = 1 << 17;
    pub const IMM0: u32 = 1 << 18;
}

impl Run {
    /// The fields that the opcode uses, as bits of [`field`].
    fn used(&self) -> u32 {
        use field::*;
        let when = |condition: bool, bit: u32| if condition { bit } else { 0 };
        match self.op {
            Opcode::Read => OUT | ADDR | WORDS,
            Opcode::Write => A | ADDR | WORDS,
            Opcode::Gather => A | ADDR | ROW_STRIDE | LIMIT | OUT,
            Opcode::Scatter => A | B | ADDR | ROW_STRIDE | LIMIT,
            Opcode::LoadRow | Opcode::LoadCol => A | BELTS | WINDOW | when(self.b.src != Src::None, B),
            Opcode::Mul => {
                let addresses = when(self.acc_in == AccIn::Row, ADDR) | when(self.out.is_none(), ADDR2);
                A | OUT | ACC_IN | SWAP | addresses | when(self.acc_in == AccIn::Stream, B)
            }
            Opcode::Alu => {
                let operands = [0, A, A | B, A | B | C];
                let used = operands[self.alu.arity().min(3)];
                let named = |o: &Operand, bit: u32| match o.src {
                    Src::Imm(i) if used & bit != 0 && i < 3 => IMM0 << i,
                    _ => 0,
                };
                let imm = named(&self.a, A) | named(&self.b, B) | named(&self.c, C);
                ALU | OUT | used | imm | when(self.alu == AluOp::Iota, IMM0)
            }
            Opcode::Fold => A | OUT | ALU | FOLD_DIMS | EMIT_EVERY,
            Opcode::Permute => A | B | OUT | IMM0,
            Opcode::Transpose => A | OUT | N_OUT,
            Opcode::Reduce => A | OUT | ALU | SEGMENT,
            Opcode::Send => A,
            Opcode::Recv => OUT,
        }
    }

    /// The fields that are not at their default, as bits of [`field`].
    fn present(&self) -> u32 {
        use field::*;
        let bit = |there: bool, bit: u32| if there { bit } else { 0 };
        let operand = |o: &Operand| !(matches!(o.src, Src::None) && o.delay == 0 && matches!(o.dtype, DType::F32));
        let address = |a: &Addr| a.base != 0 || a.strides != [0; 3];
        let w = &self.window;
        bit(!matches!(self.alu, AluOp::Add), ALU)
            | bit(operand(&self.a), A)
            | bit(operand(&self.b), B)
            | bit(operand(&self.c), C)
            | bit(self.out.is_some(), OUT)
            | bit(address(&self.addr), ADDR)
            | bit(address(&self.addr2), ADDR2)
            | bit(self.words != 0, WORDS)
            | bit(self.row_stride != 0, ROW_STRIDE)
            | bit(self.limit != 0, LIMIT)
            | bit(w.n0 | w.n1 | w.k0 | w.k1 != 0, WINDOW)
            | bit(self.belts != 0, BELTS)
            | bit(!matches!(self.acc_in, AccIn::Zero), ACC_IN)
            | bit(self.swap, SWAP)
            | bit(self.fold_dims != 0, FOLD_DIMS)
            | bit(self.emit_every, EMIT_EVERY)
            | bit(self.n_out != 0, N_OUT)
            | bit(self.segment != 0, SEGMENT)
            | bit(self.imm[0] != 0, IMM0)
            | bit(self.imm[1] != 0, IMM0 << 1)
            | bit(self.imm[2] != 0, IMM0 << 2)
    }

    /// The run with every field that its opcode does not use at its default, and with strides of dimensions that do
    /// not step at zero. Encoding demands that a run equals its normal form.
    pub fn normal(&self) -> Run {
        let mut n = Run::new(self.op, self.dtype, self.queue);
        (n.cycle, n.dims, n.lo, n.hi) = (self.cycle, self.dims, self.lo, self.hi);
        for d in &mut n.dims {
            if d.count <= 1 {
                d.stride = 0;
            }
        }
        let used = self.used();
        macro_rules! keep {
            ($($field:ident $bit:ident,)*) => { $(if used & field::$bit != 0 { n.$field = self.$field; })* };
        }
        keep!(alu ALU, a A, b B, c C, out OUT, addr ADDR, addr2 ADDR2, words WORDS, row_stride ROW_STRIDE, limit LIMIT,);
        keep!(window WINDOW, belts BELTS, acc_in ACC_IN, swap SWAP, fold_dims FOLD_DIMS, emit_every EMIT_EVERY,);
        keep!(n_out N_OUT, segment SEGMENT,);
        for (i, (to, from)) in n.imm.iter_mut().zip(self.imm).enumerate() {
            if used & (field::IMM0 << i) != 0 {
                *to = from;
            }
        }
        for addr in [&mut n.addr, &mut n.addr2] {
            for (stride, dim) in addr.strides.iter_mut().zip(&self.dims) {
                if dim.count <= 1 {
                    *stride = 0;
                }
            }
        }
        n
    }

    /// Whether the run equals its normal form.
    fn is_normal(&self) -> bool {
        let steps = |d: usize| {
            let dim = &self.dims[d];
            dim.count > 1 || (dim.stride == 0 && self.addr.strides[d] == 0 && self.addr2.strides[d] == 0)
        };
        self.present() & !self.used() == 0 && steps(0) && steps(1) && steps(2)
    }

    fn error<T>(&self, field: &'static str, found: impl Debug, allowed: &str) -> Result<T, Box<RunError>> {
        Err(Box::new(RunError {
            op: self.op.mnemonic(),
            field,
            found: format!("{found:?}"),
            allowed: allowed.to_string(),
        }))
    }

    /// Checks the run's shape, without any target.
    ///
    /// # Errors
    /// The first field that is not as its opcode demands.
    pub fn check_shape(&self) -> Result<(), RunError> {
        self.shape().map_err(|e| *e)
    }

    fn shape(&self) -> Checked {
        if self.queue.unit() != self.op.unit() {
            return self.error("queue", self.queue, "a queue of the unit that issues this opcode");
        }
        self.check_dims()?;
        if self.lo >= self.hi {
            return self.error("lo", (self.lo, self.hi), "less than hi");
        }
        self.check_unused()?;
        let stream = |field, o: Operand| match o.src {
            Src::Stream(_) if o.delay == 0 => Ok(()),
            Src::Stream(_) => self.error(field, o.delay, "delay 0 outside the VXM"),
            _ => self.error(field, o.src, "a stream"),
        };
        let emits = || match self.out {
            Some(_) => Ok(()),
            None => self.error("out", "none", "a stream"),
        };
        match self.op {
            Opcode::Read | Opcode::Write => {
                if self.words != 1 && self.words as u16 != self.dtype.words() {
                    return self.error("words", self.words, "1 or the words of the dtype");
                }
                if self.op == Opcode::Read {
                    emits()
                } else {
                    stream("a", self.a)
                }
            }
            Opcode::Gather | Opcode::Scatter => {
                if self.limit == 0 {
                    return self.error("limit", 0, "at least 1");
                }
                stream("a", self.a)?;
                let (field, index) = if self.op == Opcode::Gather {
                    emits()?;
                    ("a", self.a)
                } else {
                    stream("b", self.b)?;
                    ("b", self.b)
                };
                if index.dtype != DType::I32 {
                    return self.error(field, index.dtype, "i32 for an index");
                }
                Ok(())
            }
            Opcode::LoadRow | Opcode::LoadCol => {
                stream("a", self.a)?;
                let w = self.window;
                if w.n0 >= w.n1 || w.k0 >= w.k1 {
                    return self.error("window", w, "n0 < n1 and k0 < k1");
                }
                if self.belts == 0 {
                    return self.error("belts", 0, "at least 1");
                }
                if !self.dtype.holds(self.a.dtype) {
                    let allowed = format!("a dtype whose values are all {}", self.dtype);
                    return self.error("a", self.a.dtype, &allowed);
                }
                if self.is_scaled() {
                    stream("b", self.b)?;
                    if !self.b.dtype.is_float() || self.dtype != DType::F32 || self.op != Opcode::LoadRow {
                        return self.error("b", self.b.dtype, "floats, for a load.row of f32");
                    }
                } else if self.a.dtype == DType::I4 {
                    return self.error("a", self.a.dtype, "pairs of integers with scales alone");
                }
                let issues = self.load_vectors().div_ceil(self.belts as u32);
                if self.issues() != issues {
                    let allowed = format!("{issues} issues, the window's vectors over the belts");
                    return self.error("dims", self.issues(), &allowed);
                }
                Ok(())
            }
            Opcode::Mul => {
                stream("a", self.a)?;
                if self.acc_in == AccIn::Stream {
                    stream("b", self.b)?;
                }
                Ok(())
            }
            Opcode::Alu => {
                let operands = [("a", self.a), ("b", self.b), ("c", self.c)];
                for (field, o) in operands.into_iter().take(self.alu.arity()) {
                    match o.src {
                        Src::None => return self.error(field, "none", "an operand"),
                        Src::Imm(i) if i > 2 => return self.error(field, o.src, "imm 0..=2"),
                        Src::Imm(_) if o.delay > 0 => {
                            return self.error(field, o.delay, "delay 0 of an immediate");
                        }
                        _ => {}
                    }
                }
                Ok(())
            }
            Opcode::Fold => {
                if !matches!(self.a.src, Src::Stream(_) | Src::Alu(_)) {
                    return self.error("a", self.a.src, "a stream or an ALU");
                }
                if !(1..=3).contains(&self.fold_dims) {
                    return self.error("fold_dims", self.fold_dims, "1..=3");
                }
                self.check_associative()
            }
            Opcode::Permute => {
                stream("a", self.a)?;
                stream("b", self.b)?;
                if self.b.dtype != DType::U16 {
                    return self.error("b", self.b.dtype, "u16 for a map");
                }
                emits()
            }
            Opcode::Transpose => {
                stream("a", self.a)?;
                if self.n_out != self.hi - self.lo {
                    return self.error("n_out", self.n_out, "hi - lo");
                }
                emits()
            }
            Opcode::Reduce => {
                stream("a", self.a)?;
                let s = self.segment;
                if s == 0 || !self.lo.is_multiple_of(s) || !self.hi.is_multiple_of(s) {
                    return self.error("segment", s, "a divisor of lo and of hi");
                }
                self.check_associative()?;
                emits()
            }
            Opcode::Send => {
                self.check_word()?;
                stream("a", self.a)
            }
            Opcode::Recv => {
                self.check_word()?;
                emits()
            }
        }
    }

    fn check_word(&self) -> Checked {
        if self.dtype != DType::U8 {
            return self.error("dtype", self.dtype, "u8 for a word");
        }
        Ok(())
    }

    fn check_associative(&self) -> Checked {
        if !matches!(self.alu, AluOp::Add | AluOp::Mul | AluOp::Min | AluOp::Max) {
            return self.error("alu", self.alu, "add, mul, min or max");
        }
        Ok(())
    }

    fn check_dims(&self) -> Checked {
        let (mut issues, mut span) = (1u64, 0u64);
        for d in self.dims {
            if d.count == 0 {
                return self.error("dims", d, "a count of at least 1");
            }
            if d.count == 1 && d.stride != 0 {
                return self.error("dims", d, "stride 0 where the count is 1");
            }
            if d.count > 1 && d.stride as u64 <= span {
                let allowed = format!("a stride above {span}, so that issues ascend");
                return self.error("dims", d, &allowed);
            }
            issues *= d.count as u64;
            span += (d.count as u64 - 1) * d.stride as u64;
        }
        if issues > MAX_ISSUES {
            return self.error("dims", issues, "at most 2^24 issues");
        }
        if self.cycle as u64 + span > MAX_PROGRAM_CYCLES {
            return self.error("cycle", self.cycle, "a last issue within 2^31 cycles");
        }
        Ok(())
    }

    /// Names the first field that differs from the normal form.
    fn check_unused(&self) -> Checked {
        if self.is_normal() {
            return self.check_operands();
        }
        let n = self.normal();
        macro_rules! same {
            ($($field:ident)*) => {
                $(if self.$field != n.$field {
                    let allowed = format!("{:?}, for it is not used", n.$field);
                    return self.error(stringify!($field), self.$field, &allowed);
                })*
            };
        }
        same!(alu a b c out addr addr2 words row_stride limit window belts acc_in swap fold_dims emit_every n_out segment imm);
        self.check_operands()
    }

    /// Checks that streams exist on any target, and that what is no operand is at its default.
    fn check_operands(&self) -> Checked {
        let memory = matches!(self.op, Opcode::Read | Opcode::Write);
        if self.dtype == DType::I4 && !memory {
            return self.error("dtype", self.dtype, "any other: pairs are read for tile loads alone");
        }
        let load = matches!(self.op, Opcode::LoadRow);
        let pairs = self.a.dtype == DType::I4 && !load && !memory;
        if pairs || self.b.dtype == DType::I4 || self.c.dtype == DType::I4 {
            return self.error("operands", DType::I4, "pairs as rows of a load.row alone");
        }
        let operand = |field, o: &Operand| match o.src {
            Src::Stream(s) if s.index > 63 => self.error(field, s.index, "stream 0..=63"),
            Src::None if o.delay != 0 || o.dtype != DType::F32 => {
                self.error(field, o, "delay 0 and dtype f32 where there is no operand")
            }
            _ => Ok(()),
        };
        operand("a", &self.a)?;
        operand("b", &self.b)?;
        operand("c", &self.c)?;
        match self.out {
            Some(s) if s.index > 63 => self.error("out", s.index, "stream 0..=63"),
            _ => Ok(()),
        }
    }

    /// Checks the run's shape and its bounds on a target.
    ///
    /// # Errors
    /// The first field that is out of bounds.
    pub fn check(&self, target: &Target) -> Result<(), RunError> {
        self.check_shape()?;
        self.check_bounds(target)
    }

    /// The bounds of a run whose shape is known to be right.
    pub(crate) fn check_bounds(&self, target: &Target) -> Result<(), RunError> {
        self.bounds(target).map_err(|e| *e)
    }

    fn bounds(&self, target: &Target) -> Checked {
        self.check_queue(target)?;
        if self.hi > target.lanes {
            let allowed = format!("at most {} lanes", target.lanes);
            return self.error("hi", self.hi, &allowed);
        }
        let dtype_words = self.dtype.words();
        let vxm = self.op.unit() == UnitKind::Vxm;
        for (field, o) in [("a", &self.a), ("b", &self.b), ("c", &self.c)] {
            let words = match self.op {
                Opcode::Write => self.words as u16,
                Opcode::Send => 1,
                _ => o.dtype.words(),
            };
            match o.src {
                Src::Stream(s) => self.check_stream(target, field, s, words, 1)?,
                Src::Alu(i) if i >= target.vxm.alus => {
                    let allowed = format!("ALU 0..{}", target.vxm.alus);
                    return self.error(field, i, &allowed);
                }
                _ => {}
            }
            if vxm && o.delay > target.vxm.max_delay {
                let allowed = format!("delay 0..={}", target.vxm.max_delay);
                return self.error(field, o.delay, &allowed);
            }
        }
        if let Some(s) = self.out {
            let words = match self.op {
                Opcode::Read => self.words as u16,
                Opcode::Mul => 4,
                Opcode::Recv => 1,
                _ => dtype_words,
            };
            self.check_stream(target, "out", s, words, 1)?;
        }
        match self.op {
            Opcode::Read | Opcode::Write => {
                self.check_addr("addr", self.addr, target.bank_words(), self.words as u16, 0)
            }
            Opcode::Gather | Opcode::Scatter => {
                if !self.row_stride.is_multiple_of(dtype_words) {
                    return self.error("row_stride", self.row_stride, "a multiple of the dtype's words");
                }
                let extra = self.row_stride as u64 * (self.limit as u64 - 1);
                self.check_addr("addr", self.addr, target.bank_words(), dtype_words, extra)
            }
            Opcode::LoadRow | Opcode::LoadCol => {
                if target.mxm_rate(self.dtype).is_none() {
                    return self.error("dtype", self.dtype, "a dtype that the target multiplies");
                }
                if self.window.n1 > target.lanes || self.window.k1 > target.lanes {
                    let allowed = format!("columns and rows up to {}", target.lanes);
                    return self.error("window", self.window, &allowed);
                }
                if let Src::Stream(s) = self.a.src {
                    self.check_stream(target, "a", s, self.a.dtype.words(), self.belts as u16)?;
                }
                Ok(())
            }
            Opcode::Mul => {
                let rows = target.mxm.acc_rows as u32;
                if self.acc_in == AccIn::Row {
                    self.check_addr("addr", self.addr, rows, 1, 0)?;
                }
                if self.out.is_none() {
                    self.check_addr("addr2", self.addr2, rows, 1, 0)?;
                }
                Ok(())
            }
            Opcode::Transpose if self.issues() > target.lanes as u32 => {
                let allowed = format!("at most {} vectors", target.lanes);
                self.error("dims", self.issues(), &allowed)
            }
            _ => Ok(()),
        }
    }

    fn check_queue(&self, t: &Target) -> Checked {
        let ok = match self.queue {
            Queue::Mem(p) => p.group < t.groups && p.bank < t.banks,
            Queue::MxmLoad(_, plane) | Queue::MxmMul(_, plane) => {
                let Some(rate) = t.mxm_rate(self.dtype) else {
                    return self.error("dtype", self.dtype, "a dtype that the target multiplies");
                };
                plane < t.mxm.planes_per_hemisphere && plane.is_multiple_of(rate.planes.max(1))
            }
            Queue::Alu(i) => i < t.vxm.alus && i.is_multiple_of(self.alu_cost()),
            Queue::Sxm(_) => true,
            Queue::Send(l) | Queue::Recv(l) => l < t.n_links(),
        };
        if ok {
            return Ok(());
        }
        self.error("queue", self.queue, "a queue of the target")
    }

    fn alu_cost(&self) -> u8 {
        if self.op == Opcode::Alu { self.alu.cost() } else { 1 }
    }

    fn check_stream(&self, t: &Target, field: &'static str, s: Stream, words: u16, groups: u16) -> Checked {
        let (index, end) = (s.index as u16, s.index as u16 + words * groups);
        if index & words.wrapping_sub(1) != 0 || end > t.streams as u16 {
            let allowed = format!(
                "a multiple of {words} with {} streams below {}",
                words * groups,
                t.streams
            );
            return self.error(field, s, &allowed);
        }
        Ok(())
    }

    /// Checks that all addresses of the run, plus `extra`, lie in `0 .. size` and are aligned to `words`.
    fn check_addr(&self, field: &'static str, addr: Addr, size: u32, words: u16, extra: u64) -> Checked {
        let (mut low, mut high) = (addr.base as i64, addr.base as i64 + extra as i64);
        // A dtype has 1, 2 or 4 words.
        let align = words.wrapping_sub(1);
        for (dim, &stride) in self.dims.iter().zip(&addr.strides) {
            let reach = (dim.count as i64 - 1) * stride as i64;
            low += reach.min(0);
            high += reach.max(0);
            if stride & align as i16 != 0 {
                let allowed = format!("strides that are multiples of {words}");
                return self.error(field, addr.strides, &allowed);
            }
        }
        if addr.base & align != 0 {
            let allowed = format!("a multiple of {words}");
            return self.error(field, addr.base, &allowed);
        }
        if low < 0 || high + words as i64 > size as i64 {
            let allowed = format!("0..{size}");
            return self.error(field, format_args!("{low}..{}", high + words as i64), &allowed);
        }
        Ok(())
    }
}

impl Queue {
    /// The kind of unit that the queue belongs to.
    pub fn unit(self) -> UnitKind {
        match self {
            Queue::Mem(_) => UnitKind::Mem,
            Queue::MxmLoad(..) => UnitKind::MxmLoad,
            Queue::MxmMul(..) => UnitKind::MxmMul,
            Queue::Alu(_) => UnitKind::Vxm,
            Queue::Sxm(_) => UnitKind::Sxm,
            Queue::Send(_) => UnitKind::C2cSend,
            Queue::Recv(_) => UnitKind::C2cRecv,
        }
    }
}
