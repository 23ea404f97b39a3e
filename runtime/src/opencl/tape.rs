//! A tape as one kernel: a work-group for some of its rows, its work-items over the lanes.
//!
//! Operations that take each lane by itself and have the same lanes become one loop whose values are registers:
//!
//! ```text
//! mul a, b -> slot 0; add slot 0, c -> row     for each lane: row[l] = a[l] * b[l] + c[l]
//! ```
//!
//! A slot that is needed beyond its loop lies in local memory. Work-items wait for each other between loops. Addresses are
//! parameters, so that tapes which differ in them alone share a kernel.

use super::work::{Kernel, Parameters, Shape, Work};
use crate::plan::{Arg, OpKind, Plan, Rows, Space, Tape, TapeOp};
use lockstep_isa::artifact::PANEL_COLUMNS;
use lockstep_isa::{AluOp, DType, scalar};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Writes the kernel of a tape for rows `r0 .. r1` of it, with its parameters.
pub fn tape(shape: &Shape, plan: &Plan, pool: &[u8], t: &Tape, (r0, r1): (u32, u32)) -> (Kernel, Work) {
    let mut w = Writer {
        shape,
        plan,
        pool,
        tape: t,
        parameters: Parameters::default(),
        names: BTreeMap::new(),
        before: String::new(),
        row: String::new(),
        body: String::new(),
        open: Loop::default(),
        sizes: BTreeMap::new(),
        n: 0,
    };
    let rows = r1 - r0;
    let grain = match t.writes_each_row_once() {
        true => t.grain.max(1),
        false => rows,
    };
    let groups = (rows.div_ceil(grain.max(1))).clamp(1, shape.row_groups as u32);
    let each = rows.div_ceil(groups).next_multiple_of(grain.max(1)).max(1);
    w.parameters.push(r0 as i64);
    w.parameters.push(r1 as i64);
    w.parameters.push(each as i64);
    for (i, op) in t.ops.iter().enumerate() {
        w.op(i, op);
    }
    w.flush(t.ops.len());
    let slots = match t.slots {
        0 => String::new(),
        n => format!("    __local uint S[{}];\n", n as usize * shape.lanes),
    };
    let text = format!(
        "{slots}    const uint first = (uint)P[0] + (uint)get_group_id(1) * (uint)P[2];\n    \
         const uint end = min(first + (uint)P[2], (uint)P[1]);\n{}    \
         for (uint n = first; n < end; ++n) {{\n{}{}    }}\n",
        w.before, w.row, w.body
    );
    let work = Work {
        parameters: w.parameters,
        groups: [1, rows.div_ceil(each) as usize],
        local: [shape.items, 1],
    };
    (Kernel { text }, work)
}

/// Operations in one loop over lanes.
#[derive(Default)]
struct Loop {
    lanes: (u32, u32),
    before: String,
    text: String,
    /// Registers of the slots defined in it.
    values: BTreeMap<u32, String>,
    /// Whether it writes rows.
    writes: bool,
}

struct Writer<'a> {
    shape: &'a Shape,
    plan: &'a Plan,
    pool: &'a [u8],
    tape: &'a Tape,
    parameters: Parameters,
    /// Pointers and constants by what they stand for: rows, and the number of rows folded into one.
    names: BTreeMap<(Rows, u32), String>,
    before: String,
    row: String,
    body: String,
    open: Loop,
    /// Bytes per lane of slots.
    sizes: BTreeMap<u32, u32>,
    n: usize,
}

/// Type of an element of so many bytes.
pub fn element(size: u32) -> &'static str {
    match size {
        1 => "uchar",
        2 => "ushort",
        _ => "uint",
    }
}

fn space(s: Space) -> &'static str {
    match s {
        Space::Memory => "mem",
        Space::Scratch => "scr",
        Space::Pool => "pool",
        Space::Weights => "wts",
    }
}

/// Name of the function of an ALU operation.
fn function(op: AluOp, ty: DType) -> String {
    let suffix = if ty == DType::F32 { "f" } else { "i" };
    format!("{}_{suffix}", op.name())
}

/// Suffix of conversion functions.
pub fn dtype(d: DType) -> &'static str {
    match d {
        DType::F32 => "f32",
        DType::F16 => "f16",
        DType::BF16 => "bf16",
        DType::I32 => "i32",
        DType::U16 => "u16",
        DType::I8 | DType::I4 => "i8",
        DType::U8 => "u8",
    }
}

impl Writer<'_> {
    fn fresh(&mut self, prefix: &str) -> String {
        self.n += 1;
        format!("{prefix}{}", self.n)
    }

    /// The name of a pointer to the row of the loop; `fold` rows of the tape share one.
    fn pointer(&mut self, r: &Rows, fold: u32) -> String {
        if let Some(name) = self.names.get(&(*r, fold)) {
            return name.clone();
        }
        let name = self.fresh("p");
        let qualifier = match r.space {
            Space::Pool | Space::Weights => "__global const uchar",
            _ => "__global uchar",
        };
        let row = match fold {
            1 => "n".to_owned(),
            fold => format!("(n / {fold}u)"),
        };
        let base = space(r.space);
        let count = self.tape.rows.div_ceil(fold.max(1));
        let _ = match linear(r, count) {
            Some((first, step)) => {
                let at = self.parameters.push(first);
                self.parameters.push(step);
                self.parameters.address(at, r.space);
                let _ = writeln!(
                    self.before,
                    "    const long b{name} = P[{at}], s{name} = P[{}];",
                    at + 1
                );
                writeln!(
                    self.row,
                    "        {qualifier} *{name} = {base} + (b{name} + (long){row} * s{name});"
                )
            }
            None => {
                let at = self.parameters.rows(r);
                writeln!(
                    self.row,
                    "        {qualifier} *{name} = {base} + rows_at(P + {at}, {row});"
                )
            }
        };
        self.names.insert((*r, fold), name.clone());
        name
    }

    /// The value that all lanes of all rows have, if they do, as the name of a constant.
    fn splat(&mut self, r: &Rows) -> Option<String> {
        let same = r.space == Space::Pool && r.strides == [0; 3];
        let at = usize::try_from(r.offset).ok().filter(|_| same)?;
        let row = self.pool.get(at..at + self.shape.lanes * 4)?;
        let first = row.get(..4)?;
        if !row.chunks_exact(4).all(|x| x == first) {
            return None;
        }
        if let Some(name) = self.names.get(&(*r, 0)) {
            return Some(name.clone());
        }
        let name = self.fresh("c");
        let at = self.parameters.push(r.offset);
        let _ = writeln!(
            self.before,
            "    const uint {name} = *(__global const uint *)(pool + P[{at}]);"
        );
        self.names.insert((*r, 0), name.clone());
        Some(name)
    }

    /// An array of elements of a row or slot.
    fn array(&mut self, arg: &Arg, size: u32) -> String {
        match arg {
            Arg::Rows(r) => {
                let p = self.pointer(r, 1);
                let constant = match r.space {
                    Space::Pool | Space::Weights => "const ",
                    _ => "",
                };
                format!("((__global {constant}{} *){p})", element(size))
            }
            Arg::Slot(s) => format!("(S + {})", *s as usize * self.shape.lanes),
            Arg::None => "(S)".to_owned(),
        }
    }

    /// The element of lane `l`, as bits.
    fn read(&mut self, arg: &Arg, size: u32) -> String {
        match arg {
            Arg::None => "0u".to_owned(),
            Arg::Slot(s) => match self.open.values.get(s) {
                Some(v) => v.clone(),
                None => format!("{}[l]", self.array(arg, size)),
            },
            Arg::Rows(r) => match self.splat(r).filter(|_| size == 4) {
                Some(c) => c,
                None => format!("{}[l]", self.array(arg, size)),
            },
        }
    }

    /// Stores the element of lane `l`.
    fn write(&mut self, arg: &Arg, size: u32, value: String) {
        match arg {
            Arg::None => {}
            Arg::Slot(s) => {
                let name = self.fresh("v");
                let _ = writeln!(self.open.text, "            const uint {name} = {value};");
                self.open.values.insert(*s, name);
                self.sizes.insert(*s, size);
            }
            Arg::Rows(_) => {
                let to = self.array(arg, size);
                let _ = writeln!(self.open.text, "            {to}[l] = ({})({value});", element(size));
                self.open.writes = true;
            }
        }
    }

    /// Begins a loop over these lanes, or goes on with the one that is open.
    fn lanes(&mut self, i: usize, lanes: (u32, u32)) {
        if self.open.lanes != lanes {
            self.flush(i);
            self.open.lanes = lanes;
        }
    }

    /// Ends the open loop before operation `i`.
    fn flush(&mut self, i: usize) {
        let open = std::mem::take(&mut self.open);
        if open.text.is_empty() {
            return;
        }
        let (lo, n) = open.lanes;
        self.body += &open.before;
        let _ = writeln!(
            self.body,
            "        EACH for (uint l = {lo}u + LID; l < {}u; l += LS) {{",
            lo + n
        );
        self.body += &open.text;
        for (slot, value) in &open.values {
            if self.is_read_from(*slot, i) {
                let at = *slot as usize * self.shape.lanes;
                let _ = writeln!(self.body, "            S[{at} + l] = {value};");
            }
        }
        self.body += "        }\n        SYNC\n";
    }

    /// Whether an operation from `i` on takes what a slot holds before it.
    fn is_read_from(&self, slot: u32, i: usize) -> bool {
        for op in self.tape.ops.get(i..).unwrap_or(&[]) {
            let own = Arg::Slot(slot);
            let mut read = op.a == own || op.b == own || op.c == own;
            if let OpKind::MultiplyAdd { first, count } = op.kind {
                let terms = self.plan.terms.get(first as usize..(first + count) as usize);
                read |= terms.unwrap_or(&[]).iter().any(|(a, b)| *a == own || *b == own);
            }
            if read {
                return true;
            }
            if op.out == own {
                return false;
            }
        }
        false
    }

    /// Lane 0 of a vector of indices, read before the loop.
    fn index(&mut self, i: usize, arg: &Arg, lanes: (u32, u32)) -> String {
        let rows = matches!(arg, Arg::Rows(r) if matches!(r.space, Space::Memory | Space::Scratch));
        let defined = matches!(arg, Arg::Slot(s) if self.open.values.contains_key(s));
        if defined || rows && self.open.writes {
            self.flush(i);
        }
        self.lanes(i, lanes);
        let name = self.fresh("i");
        let array = self.array(arg, 4);
        let _ = writeln!(self.open.before, "        const uint {name} = {array}[0];");
        name
    }

    fn op(&mut self, i: usize, op: &TapeOp) {
        let words = (op.lo, op.n);
        let bytes = |size: u32| (op.lo / size.max(1), op.n / size.max(1));
        match op.kind {
            OpKind::Map { op: alu, ty } => {
                self.lanes(i, words);
                let value = match scalar::is_defined(alu, ty) {
                    false => "0u".to_owned(),
                    true => {
                        let all = [op.a, op.b, op.c];
                        let arguments: Vec<String> =
                            all.iter().take(alu.arity().max(1)).map(|a| self.read(a, 4)).collect();
                        format!("{}({})", function(alu, ty), arguments.join(", "))
                    }
                };
                self.write(&op.out, 4, value);
            }
            OpKind::MultiplyAdd { first, count } => {
                self.lanes(i, words);
                let mut sum = self.read(&op.c, 4);
                let terms = self.plan.terms.get(first as usize..(first + count) as usize);
                for (a, b) in terms.unwrap_or(&[]) {
                    let (a, b) = (self.read(a, 4), self.read(b, 4));
                    let name = self.fresh("v");
                    let _ = writeln!(
                        self.open.text,
                        "            const uint {name} = fma_f({a}, {b}, {sum});"
                    );
                    sum = name;
                }
                self.write(&op.out, 4, sum);
            }
            OpKind::Widen(d) => {
                self.lanes(i, words);
                let a = self.read(&op.a, d.bytes() as u32);
                self.write(&op.out, 4, format!("widen_{}({a})", dtype(d)));
            }
            OpKind::Narrow { ty, dtype: d } => {
                self.lanes(i, words);
                let a = self.read(&op.a, 4);
                let from = if ty == DType::F32 { "f" } else { "i" };
                self.write(&op.out, d.bytes() as u32, format!("narrow_{from}_{}({a})", dtype(d)));
            }
            OpKind::Copy { size } => {
                self.lanes(i, bytes(size));
                let a = self.read(&op.a, size);
                self.write(&op.out, size, a);
            }
            OpKind::Fold {
                op: alu,
                ty,
                len,
                every,
            } => self.fold(i, op, function(alu, ty), len.max(1), every),
            OpKind::Reduce { op: alu, ty, segment } => self.reduce(i, op, alu, ty, segment),
            OpKind::Permute { size, lanes, fill } => {
                let source = matches!(op.a, Arg::Slot(s) if self.open.values.contains_key(&s));
                if source || self.open.writes {
                    self.flush(i);
                }
                self.lanes(i, words);
                let map = self.read(&op.b, 2);
                let (from, fill) = (self.array(&op.a, size), cut(fill, size));
                let name = self.fresh("m");
                let _ = writeln!(self.open.text, "            const uint {name} = {map};");
                let value = format!(
                    "({name} < {lanes}u ? {from}[min({name}, {}u)] : {fill}u)",
                    lanes.max(1) - 1
                );
                self.write(&op.out, size, value);
            }
            OpKind::Pieces {
                first,
                count,
                size,
                fill,
            } => {
                self.flush(i);
                let (from, to, fill) = (self.array(&op.a, size), self.array(&op.out, size), cut(fill, size));
                let pieces = self
                    .plan
                    .pieces
                    .get(first as usize..(first + count) as usize)
                    .unwrap_or(&[]);
                let mut at = self.parameters.0.len();
                for p in pieces {
                    let each = size.max(1);
                    self.parameters.push(i64::from(p.to / each));
                    self.parameters.push(p.from.map_or(-1, |f| i64::from(f / each)));
                    self.parameters.push(i64::from(p.bytes / each));
                }
                at = at.min(self.parameters.0.len());
                let ty = element(if matches!(op.out, Arg::Slot(_)) { 4 } else { size });
                let _ = write!(
                    self.body,
                    "        for (uint q = 0u; q < {}u; ++q) {{\n            \
                     const uint to = (uint)P[{at} + 3u * q], count = (uint)P[{at} + 3u * q + 2u];\n            \
                     const long from = P[{at} + 3u * q + 1u];\n            \
                     if (from < 0l) {{ EACH for (uint l = LID; l < count; l += LS) {to}[to + l] = ({ty}){fill}u; }}\n            \
                     else {{ EACH for (uint l = LID; l < count; l += LS) {to}[to + l] = ({ty}){from}[(uint)from + l]; }}\n        \
                     }}\n        SYNC\n",
                    pieces.len()
                );
            }
            OpKind::Gather { limit, stride, size } => {
                let index = self.index(i, &op.a, bytes(size));
                let Arg::Rows(r) = op.c else { return };
                let p = self.pointer(&r, 1);
                if r.space == Space::Weights {
                    self.reach(&r, limit, stride, op.lo + op.n);
                }
                let name = self.fresh("g");
                let constant = if matches!(r.space, Space::Pool | Space::Weights) {
                    "const "
                } else {
                    ""
                };
                let _ = writeln!(
                    self.open.before,
                    "        __global {constant}{} *{name} = (__global {constant}{} *)({p} + (ulong)chosen({index}, {limit}u) * {stride}u);",
                    element(size),
                    element(size),
                );
                self.write(&op.out, size, format!("{name}[l]"));
            }
            OpKind::GatherTile {
                tile,
                rows,
                limit,
                stride,
            } => {
                let index = self.index(i, &op.a, words);
                let Some(t) = self.plan.tiles.get(tile as usize) else {
                    return;
                };
                let at = self.parameters.push(t.offset as i64);
                self.parameters.address(at, Space::Weights);
                let panels = (t.columns as usize).div_ceil(PANEL_COLUMNS);
                let bytes = panels * t.rows as usize * PANEL_COLUMNS * t.size as usize;
                self.parameters.weights_range(t.offset, t.offset + bytes);
                let table = self.parameters.0.len();
                let count = self.tape.rows as usize;
                for row in self
                    .plan
                    .tile_rows
                    .get(rows as usize..rows as usize + count)
                    .unwrap_or(&[])
                {
                    self.parameters.push(i64::from(*row));
                }
                let ty = element(t.size);
                let (row, base) = (self.fresh("r"), self.fresh("g"));
                let _ = write!(
                    self.open.before,
                    "        const uint {row} = (uint)P[{table} + n] + chosen({index}, {limit}u) * {stride}u;\n        \
                     __global const {ty} *{base} = (__global const {ty} *)(wts + P[{at}]) + {row} * 32u;\n"
                );
                let column = format!("(l - {}u)", t.lo);
                let value = format!(
                    "{base}[{column} / 32u * {}u + {column} % 32u]",
                    t.rows as usize * PANEL_COLUMNS
                );
                self.write(&op.out, t.size, value);
            }
            OpKind::Scatter { limit, stride, size } => {
                let index = self.index(i, &op.b, bytes(size));
                let Arg::Rows(r) = op.out else { return };
                let p = self.pointer(&r, 1);
                let name = self.fresh("g");
                let ty = element(size);
                let _ = writeln!(
                    self.open.before,
                    "        __global {ty} *{name} = (__global {ty} *)({p} + (ulong)chosen({index}, {limit}u) * {stride}u);"
                );
                let a = self.read(&op.a, size);
                let _ = writeln!(self.open.text, "            {name}[l] = ({ty}){a};");
                self.open.writes = true;
            }
        }
    }

    /// Notes the bytes of the weights section that gathers of the tape may touch.
    fn reach(&mut self, r: &Rows, limit: u32, stride: u32, bytes: u32) {
        let all = (0..self.tape.rows).map(|n| r.at(n));
        let (low, high) = all.fold((i64::MAX, 0), |(l, h), at| (l.min(at), h.max(at)));
        let far = high + i64::from(limit.max(1) - 1) * i64::from(stride) + i64::from(bytes);
        let first = usize::try_from(low.max(0)).unwrap_or(0);
        self.parameters
            .weights_range(first, usize::try_from(far).unwrap_or(first));
    }

    fn fold(&mut self, i: usize, op: &TapeOp, f: String, len: u32, every: bool) {
        self.lanes(i, (op.lo, op.n));
        let x = self.read(&op.a, 4);
        let acc = match op.c {
            Arg::Slot(_) => format!("{}[l]", self.array(&op.c, 4)),
            Arg::Rows(r) => format!("((__global uint *){})[l]", self.pointer(&r, 1)),
            Arg::None => return,
        };
        let name = self.fresh("v");
        let _ = write!(
            self.open.text,
            "            const uint {name} = n % {len}u == 0u ? {x} : {f}({acc}, {x});\n            {acc} = {name};\n"
        );
        match (every, op.out) {
            (true, _) => self.write(&op.out, 4, name),
            (false, Arg::Rows(r)) => {
                let p = self.pointer(&r, len);
                let _ = writeln!(
                    self.open.text,
                    "            if ((n + 1u) % {len}u == 0u) ((__global uint *){p})[l] = {name};"
                );
                self.open.writes = true;
            }
            _ => {}
        }
    }

    fn reduce(&mut self, i: usize, op: &TapeOp, alu: AluOp, ty: DType, segment: u32) {
        self.flush(i);
        if segment == 0 {
            return;
        }
        let (from, to, f) = (self.array(&op.a, 4), self.array(&op.out, 4), function(alu, ty));
        let (lo, count, start) = (op.lo, op.n / segment, scalar::identity(alu, ty));
        let (whole, rest) = (segment / 16 * 16, segment % 16);
        let mut text = format!(
            "        for (uint s = LID; s < {count}u; s += LS) {{\n            \
             const uint at = {lo}u + s * {segment}u;\n            uint r[16];\n            \
             for (uint j = 0u; j < 16u; ++j) r[j] = 0x{start:08x}u;\n"
        );
        if whole > 0 {
            let _ = writeln!(
                text,
                "            for (uint k = 0u; k < {whole}u; k += 16u)\n                \
                 for (uint j = 0u; j < 16u; ++j) r[j] = {f}(r[j], {from}[at + k + j]);"
            );
        }
        if rest > 0 {
            let _ = writeln!(
                text,
                "            for (uint j = 0u; j < {rest}u; ++j) r[j] = {f}(r[j], {from}[at + {whole}u + j]);"
            );
        }
        for half in [8, 4, 2, 1] {
            let _ = writeln!(
                text,
                "            for (uint j = 0u; j < {half}u; ++j) r[j] = {f}(r[j], r[j + {half}u]);"
            );
        }
        let _ = write!(
            text,
            "            EACH for (uint l = 0u; l < {segment}u; ++l) {to}[at + l] = r[0];\n        }}\n        SYNC\n"
        );
        self.body += &text;
    }
}

/// The low bytes of a fill.
fn cut(fill: u32, size: u32) -> u32 {
    match size {
        1 => fill & 0xff,
        2 => fill & 0xffff,
        _ => fill,
    }
}

/// First byte and step of rows that are equidistant.
pub fn linear(r: &Rows, rows: u32) -> Option<(i64, i64)> {
    let step = if rows > 1 { r.at(1) - r.at(0) } else { 0 };
    let even = r.counts[0] == u32::MAX || (2..rows).all(|n| r.at(n) - r.at(n - 1) == step);
    even.then(|| (r.at(0), step))
}
