//! Runs the steps of a plan.
//!
//! Safety rests on the plan: its builder checks every offset against the spaces (`plan::link` and `plan::build`), and the
//! session allocates scratch and buffers of the sizes that the plan states.

use super::{Factor, Kernels, Lines, MapArgs, Product, Scales};
use crate::executor::StepTime;
use crate::plan::{
    Arg, FactorStep, Follow, MAX_TERMS, Multiply, OpKind, Pack, Part, Plan, Rows, SPACES, Space, Step, Tape, TapeOp,
    Transpose,
};
use lockstep_isa::artifact::PANEL_COLUMNS;
use lockstep_isa::scalar;
use lockstep_isa::{AluOp, DType};

/// Most rows of one tape block.
pub const MAX_BLOCK: usize = 32;

/// The memory that steps work on.
#[derive(Clone, Copy)]
pub struct Machine {
    /// First byte of each [`Space`].
    bases: [*mut u8; SPACES],
    /// Bytes of a row of scratch.
    row_bytes: usize,
    /// Bytes of one thread's scratch.
    scratch_bytes: usize,
}

// SAFETY: a part that touches rows of another thread waits for it; the plan guarantees that.
unsafe impl Send for Machine {}
// SAFETY: as above.
unsafe impl Sync for Machine {}

impl Machine {
    /// A machine over these spaces. `row_bytes` is the size of a scratch row, `scratch_bytes` that of each thread's
    /// scratch; `scratch` holds one for each thread.
    ///
    /// The weights and the pool are never written.
    pub fn new(
        memory: &mut [u8],
        scratch: &mut [u8],
        pool: &[u8],
        weights: &[u8],
        row_bytes: usize,
        scratch_bytes: usize,
    ) -> Machine {
        Machine {
            bases: [
                memory.as_mut_ptr(),
                scratch.as_mut_ptr(),
                pool.as_ptr().cast_mut(),
                weights.as_ptr().cast_mut(),
            ],
            row_bytes,
            scratch_bytes,
        }
    }

    /// The same machine with the scratch of thread `t`.
    fn with_scratch(&self, t: usize) -> Machine {
        let mut m = *self;
        let scratch = &mut m.bases[Space::Scratch as usize];
        *scratch = scratch.wrapping_add(t * self.scratch_bytes);
        m
    }

    /// The first of some rows, those of scratch as thread 0 has them.
    pub(super) fn first(&self, rows: &Rows) -> *const u8 {
        self.row(rows, 0).cast_const()
    }

    #[inline(always)]
    fn row(&self, rows: &Rows, n: u32) -> *mut u8 {
        self.byte(rows.space, rows.at(n))
    }

    #[inline(always)]
    fn byte(&self, space: Space, offset: i64) -> *mut u8 {
        self.bases[space as usize].wrapping_offset(offset as isize)
    }
}

/// Buffers of one thread.
pub struct Local {
    slots: Vec<Line>,
    pointers: Vec<*const u8>,
    outputs: Vec<*mut u8>,
    factors: Vec<Factor>,
}

/// Gives an allocation its alignment.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

// SAFETY: the pointers are scratch of one step and are not kept from one step to the next.
unsafe impl Send for Local {}

impl Local {
    /// Buffers for a plan's `local` bytes, `pointers` rows and `factors` windows.
    pub fn new(bytes: usize, pointers: usize, factors: usize) -> Local {
        Local {
            slots: vec![Line([0; 64]); bytes.div_ceil(64) + 1],
            pointers: Vec::with_capacity(pointers.max(PANEL_COLUMNS)),
            outputs: Vec::with_capacity(pointers),
            factors: Vec::with_capacity(factors),
        }
    }

    fn base(&mut self) -> *mut u8 {
        self.slots.as_mut_ptr().cast()
    }
}

/// Measures the parts of a run on one thread.
pub struct Probe {
    last: std::time::Instant,
    /// What was measured so far.
    pub times: Vec<StepTime>,
}

impl Probe {
    /// Starts to measure.
    pub fn start() -> Probe {
        Probe {
            last: std::time::Instant::now(),
            times: Vec::new(),
        }
    }

    /// Notes what was done since the last note.
    pub fn note(&mut self, chain: Option<u32>, kind: &'static str) {
        let now = std::time::Instant::now();
        let nanoseconds = now.duration_since(self.last).as_nanos() as u64;
        self.times.push(StepTime {
            chain,
            kind,
            nanoseconds,
        });
        self.last = now;
    }
}

/// The rows of part `part` of `parts`, in multiples of `grain`.
fn share(rows: u32, grain: u32, part: u32, parts: u32) -> (u32, u32) {
    let grain = grain.max(1) as u64;
    let units = (rows as u64).div_ceil(grain);
    let cut = |p: u32| (units * p as u64 / parts.max(1) as u64 * grain).min(rows as u64) as u32;
    (cut(part), cut(part + 1))
}

/// Runs a part of a chain on thread `t`; `probe` is told what was done.
///
/// # Safety
/// The plan was built for this machine's spaces, `local` for the plan; what the part waits for is done.
pub unsafe fn run_part(
    k: &Kernels,
    m: &Machine,
    plan: &Plan,
    part: &Part,
    local: &mut Local,
    t: usize,
    probe: &mut Option<Probe>,
) {
    let Some(chain) = plan.chains.get(part.chain as usize) else {
        return;
    };
    let mut note = |kind| {
        if let Some(probe) = probe {
            probe.note(Some(part.chain), kind);
        }
    };
    let m = &m.with_scratch(t);
    // SAFETY: as the caller vouches.
    unsafe {
        for &(s, n) in &chain.events {
            if let Some(step) = chain.steps.get(s as usize) {
                run_step(k, m, plan, step, local, (n, n + 1), std::ptr::null());
            }
        }
        if !chain.events.is_empty() {
            note("by issue");
            return;
        }
        // The first weights of the steps from one on.
        let next = |from: usize| {
            let mut after = chain.steps.get(from..).unwrap_or(&[]).iter();
            let weights = after.find_map(|s| match s {
                Step::Multiply(s) => s.factors.first(),
                _ => None,
            });
            weights.map_or(std::ptr::null(), |f| m.byte(f.space, f.offset as i64).cast_const())
        };
        let mut i = 0;
        while let Some(step) = chain.steps.get(i) {
            let (rows, grain) = step.rows();
            let rows = match step {
                Step::Pack(_) => (0, rows),
                _ => share(rows, grain, part.part, part.parts),
            };
            match step {
                Step::Multiply(Multiply { follow: Some(f), .. }) => {
                    let tapes = chain.steps.get(i + 1..i + 1 + f.starts.len()).unwrap_or(&[]);
                    followed(k, m, plan, step, (f, tapes), local, rows, next(i + 1));
                    i += tapes.len();
                    note("product and map");
                }
                _ => {
                    run_step(k, m, plan, step, local, rows, next(i + 1));
                    note(step.kind());
                }
            }
            i += 1;
        }
    }
}

/// Runs a product and the tapes that follow it, block by block.
#[allow(clippy::too_many_arguments)]
unsafe fn followed(
    k: &Kernels,
    m: &Machine,
    plan: &Plan,
    product: &Step,
    (follow, tapes): (&Follow, &[Step]),
    local: &mut Local,
    (r0, r1): (u32, u32),
    next: *const u8,
) {
    let mut first = r0;
    while first < r1 {
        let end = (first + follow.block).min(r1);
        // SAFETY: as the caller vouches; the tapes take rows of the product that are done.
        unsafe {
            run_step(k, m, plan, product, local, (first, end), next);
            for (tape, &start) in tapes.iter().zip(&follow.starts) {
                let rows = tape.rows().0;
                let rows = (
                    first.saturating_sub(start).min(rows),
                    end.saturating_sub(start).min(rows),
                );
                if rows.0 < rows.1 {
                    run_step(k, m, plan, tape, local, rows, std::ptr::null());
                }
            }
        }
        first = end;
    }
}

unsafe fn run_step(
    k: &Kernels,
    m: &Machine,
    plan: &Plan,
    step: &Step,
    local: &mut Local,
    rows: (u32, u32),
    next: *const u8,
) {
    // SAFETY: as the caller vouches.
    unsafe {
        match step {
            Step::Tape(s) => tape(k, m, plan, s, local, rows),
            Step::Multiply(s) => multiply(k, m, s, local, rows, next),
            Step::Pack(s) => pack(k, m, s, local),
            Step::Transpose(s) => transpose(m, s, local, rows),
        }
    }
}

unsafe fn multiply(k: &Kernels, m: &Machine, s: &Multiply, local: &mut Local, (r0, r1): (u32, u32), next: *const u8) {
    if r0 >= r1 {
        return;
    }
    let acc_step = s.acc.strides[0] as isize;
    if let Some((from, lo, hi)) = &s.copy {
        for n in r0..r1 {
            let (lo, hi) = (*lo as usize, *hi as usize);
            // SAFETY: the plan vouches for these bytes of both rows.
            unsafe {
                let (a, b) = (m.row(from, n).add(lo), m.row(&s.acc, n).add(lo));
                std::ptr::copy(a, b, hi - lo);
            }
        }
    }
    let scratch = local.base();
    for (i, b) in s.blocks.iter().enumerate() {
        local.pointers.clear();
        local.outputs.clear();
        local.factors.clear();
        let mut r = r0;
        while r < r1 {
            let Some(x) = s.x.get((r / s.each) as usize) else {
                break;
            };
            let (even, step) = x.even(r % s.each);
            let count = even.min(s.each - r % s.each).min(r1 - r);
            let mut from = m.row(x, r % s.each).cast_const();
            let mut to = m.row(&s.acc, r).wrapping_add(b.n0 as usize * 4);
            for _ in 0..count {
                for &(x, column) in s.places_of(b) {
                    local.pointers.push(from.wrapping_offset(x as isize));
                    local.outputs.push(to.wrapping_offset(column as isize));
                }
                (from, to) = (from.wrapping_offset(step as isize), to.wrapping_offset(acc_step));
            }
            r += count;
        }
        let factor = |f: &FactorStep| Factor {
            x: f.x as isize,
            w: m.byte(f.space, f.offset as i64).cast_const(),
            w_step: f.w_step,
            panel_step: f.panel_step,
            k: f.k as usize,
            scales: f.scales.map(|s| Scales {
                from: m.byte(Space::Pool, s.offset as i64).cast_const(),
                blocks: s.blocks as usize,
                rows: s.rows as usize,
                dtype: s.dtype,
            }),
        };
        local.factors.extend(s.factors_of(b).iter().map(factor));
        let product = Product {
            x: &local.pointers,
            acc: &local.outputs,
            factors: &local.factors,
            dtype: b.dtype,
            integer: b.integer,
            n: b.n as usize,
            zero: b.zero,
            next: match s.factors.get(b.factors.1 as usize) {
                Some(f) if i + 1 < s.blocks.len() => m.byte(f.space, f.offset as i64).cast_const(),
                _ => next,
            },
            scratch,
        };
        // SAFETY: the plan vouches for the rows and panels; the slots hold a widened panel of the largest window.
        unsafe { (k.product)(&product) };
    }
}

unsafe fn pack(k: &Kernels, m: &Machine, s: &Pack, local: &mut Local) {
    let belts = s.belts.len() as u32;
    if belts == 0 {
        return;
    }
    let size = s.dtype.bytes();
    let out = m.byte(Space::Scratch, s.out as i64);
    let vector = |i: u32| m.row(&s.belts[(i % belts) as usize], i / belts);
    const PANEL: u32 = PANEL_COLUMNS as u32;
    let (depth, width) = if s.columns { (s.n, s.vectors) } else { (s.vectors, s.n) };
    for q in 0..width.div_ceil(PANEL) {
        let count = (width - q * PANEL).min(PANEL);
        let panel = out.wrapping_add(q as usize * depth as usize * PANEL_COLUMNS * 4);
        // SAFETY: the plan vouches for the vectors and for room for the panels.
        unsafe {
            if s.columns {
                local.pointers.clear();
                for i in 0..count {
                    local.pointers.push(vector(q * PANEL + i).cast_const());
                }
                let (lo, n) = (s.lo as usize, s.n as usize);
                (k.pack_columns)(s.dtype, &local.pointers, lo, n, PANEL_COLUMNS, panel);
                continue;
            }
            for i in 0..s.vectors {
                let from = vector(i).add((s.lo + q * PANEL) as usize * size);
                let to = panel.add(i as usize * PANEL_COLUMNS * 4);
                (k.widen)(s.dtype, from, to, count as usize);
                let rest = PANEL_COLUMNS - count as usize;
                std::ptr::write_bytes(to.add(count as usize * 4), 0, rest * 4);
            }
        }
    }
}

unsafe fn transpose(m: &Machine, s: &Transpose, local: &mut Local, (r0, r1): (u32, u32)) {
    local.pointers.clear();
    local.outputs.clear();
    for i in 0..s.rows {
        local.pointers.push(m.row(&s.a, i).cast_const());
    }
    for i in r0..r1 {
        local.outputs.push(m.row(&s.out, i));
    }
    // SAFETY: the plan vouches for `lo + n` lanes of each operand and `rows` lanes of each result.
    unsafe {
        let lo = (s.lo + r0) as usize;
        super::transpose(&local.pointers, &local.outputs, s.size as usize, lo);
    }
}

/// The rows of an operand in the block that starts at row `n`, which [`even_rows`] has cut.
#[inline(always)]
fn place(m: &Machine, slots: *mut u8, s: &Tape, arg: &Arg, n: u32, shift: usize) -> Lines {
    match arg {
        Arg::None => Lines::NONE,
        Arg::Rows(rows) => Lines {
            first: m.row(rows, n).wrapping_add(shift),
            step: rows.even(n).1 as isize,
        },
        Arg::Slot(slot) => Lines {
            first: slots.wrapping_add(*slot as usize * s.block as usize * m.row_bytes + shift),
            step: m.row_bytes as isize,
        },
    }
}

/// How many rows from `n` on are equidistant in all operands. What folds keep and give they address row by row.
#[inline(always)]
fn even_rows(plan: &Plan, s: &Tape, n: u32) -> u32 {
    let rows = |arg: &Arg| match arg {
        Arg::Rows(rows) => rows.even(n).0,
        _ => u32::MAX,
    };
    let op = |op: &TapeOp| match op.kind {
        OpKind::Fold { .. } => rows(&op.a),
        OpKind::MultiplyAdd { first, count } => {
            let terms = plan.terms.get(first as usize..(first + count) as usize).unwrap_or(&[]);
            let least = terms.iter().map(|(a, b)| rows(a).min(rows(b))).min();
            least.unwrap_or(u32::MAX).min(rows(&op.c)).min(rows(&op.out))
        }
        _ => rows(&op.a).min(rows(&op.b)).min(rows(&op.c)).min(rows(&op.out)),
    };
    s.ops.iter().map(op).min().unwrap_or(u32::MAX)
}

unsafe fn tape(k: &Kernels, m: &Machine, plan: &Plan, s: &Tape, local: &mut Local, (r0, r1): (u32, u32)) {
    let slots = local.base();
    let mut n = r0;
    while n < r1 {
        let count = match (r1 - n).min(s.block) {
            1 => 1,
            most => most.min(even_rows(plan, s, n)),
        };
        for op in &s.ops {
            // SAFETY: the plan vouches for every row of every operand.
            unsafe { tape_op(k, m, plan, s, slots, op, n, count as usize) };
        }
        n += count;
    }
}

/// Row offset that an index vector selects.
#[inline(always)]
unsafe fn chosen(index: *const u8, limit: u32, stride: u32) -> usize {
    // SAFETY: an index vector has at least one lane of 4 bytes.
    let index = unsafe { index.cast::<u32>().read_unaligned() };
    scalar::clamp_index(index, limit) as usize * stride as usize
}

#[allow(clippy::too_many_arguments)]
unsafe fn tape_op(k: &Kernels, m: &Machine, plan: &Plan, s: &Tape, slots: *mut u8, op: &TapeOp, n: u32, count: usize) {
    let lanes = op.n as usize;
    let rows = |arg: &Arg, shift: usize| place(m, slots, s, arg, n, shift);
    let words = op.lo as usize * 4;
    // SAFETY: the plan vouches for lanes `lo .. lo + n` of every row of every operand and result.
    unsafe {
        match op.kind {
            OpKind::Map { op: alu, ty } => {
                let args = MapArgs {
                    a: rows(&op.a, words),
                    b: rows(&op.b, words),
                    c: rows(&op.c, words),
                    out: rows(&op.out, words),
                    rows: count,
                    n: lanes,
                };
                (k.map)(alu, ty, &args);
            }
            OpKind::Widen(dtype) => {
                let a = rows(&op.a, op.lo as usize * dtype.bytes());
                let out = rows(&op.out, words);
                for i in 0..count {
                    (k.widen)(dtype, a.at(i), out.at(i), lanes);
                }
            }
            OpKind::Narrow { ty, dtype } => {
                let a = rows(&op.a, words);
                let out = rows(&op.out, op.lo as usize * dtype.bytes());
                for i in 0..count {
                    (k.narrow)(ty, dtype, a.at(i), out.at(i), lanes);
                }
            }
            OpKind::Reduce { op: alu, ty, segment } => {
                let (a, out) = (rows(&op.a, words), rows(&op.out, words));
                for i in 0..count {
                    (k.reduce)(alu, ty, segment as usize, a.at(i), out.at(i), lanes);
                }
            }
            OpKind::Permute { size, lanes: all, fill } => {
                let (a, b, out) = (rows(&op.a, 0), rows(&op.b, 0), rows(&op.out, 0));
                let (lo, hi) = (op.lo as usize, (op.lo + op.n) as usize);
                for i in 0..count {
                    (k.permute)(a.at(i), b.at(i), out.at(i), size as usize, all as usize, lo, hi, fill);
                }
            }
            OpKind::Pieces {
                first,
                count: pieces,
                size,
                fill,
            } => {
                let (a, out) = (rows(&op.a, 0), rows(&op.out, 0));
                let pieces = plan.pieces.get(first as usize..(first + pieces) as usize);
                for i in 0..count {
                    super::copy_pieces(a.at(i), out.at(i), pieces.unwrap_or(&[]), size as usize, fill);
                }
            }
            OpKind::MultiplyAdd { first, count: terms } => {
                let mut lines = [(Lines::NONE, Lines::NONE); MAX_TERMS];
                let terms = plan.terms.get(first as usize..(first + terms) as usize).unwrap_or(&[]);
                for (to, (a, b)) in lines.iter_mut().zip(terms) {
                    *to = (rows(a, words), rows(b, words));
                }
                let args = MapArgs {
                    a: Lines::NONE,
                    b: Lines::NONE,
                    c: rows(&op.c, words),
                    out: rows(&op.out, words),
                    rows: count,
                    n: lanes,
                };
                (k.multiply_add)(&lines[..terms.len().min(MAX_TERMS)], &args);
            }
            OpKind::Gather { limit, stride, .. } => {
                let lo = op.lo as usize;
                let (a, c, out) = (rows(&op.a, 0), rows(&op.c, lo), rows(&op.out, lo));
                for i in 0..count {
                    let from = c.at(i).add(chosen(a.at(i), limit, stride));
                    std::ptr::copy(from, out.at(i), lanes);
                }
            }
            OpKind::GatherTile {
                tile,
                rows: table,
                limit,
                stride,
            } => {
                let (a, out) = (rows(&op.a, 0), rows(&op.out, 0));
                for i in 0..count {
                    let first = plan.tile_rows.get(table as usize + n as usize + i);
                    let (Some(tile), Some(&first)) = (plan.tiles.get(tile as usize), first) else {
                        continue;
                    };
                    let row = first as usize + chosen(a.at(i), limit, stride);
                    let size = tile.size as usize;
                    let (mut lane, end) = (op.lo as usize, (op.lo + op.n) as usize);
                    while lane < end {
                        let column = lane - tile.lo as usize;
                        let run = (PANEL_COLUMNS - column % PANEL_COLUMNS).min(end - lane);
                        let panel = column / PANEL_COLUMNS * tile.rows as usize;
                        let at = (panel + row) * PANEL_COLUMNS + column % PANEL_COLUMNS;
                        let from = m.byte(Space::Weights, (tile.offset + at * size) as i64);
                        std::ptr::copy_nonoverlapping(from, out.at(i).add(lane * size), run * size);
                        lane += run;
                    }
                }
            }
            OpKind::Copy { .. } => {
                let (a, out) = (rows(&op.a, op.lo as usize), rows(&op.out, op.lo as usize));
                for i in 0..count {
                    std::ptr::copy(a.at(i), out.at(i), lanes);
                }
            }
            OpKind::Scatter { limit, stride, .. } => {
                let lo = op.lo as usize;
                let (a, b, out) = (rows(&op.a, lo), rows(&op.b, 0), rows(&op.out, lo));
                for i in 0..count {
                    let to = out.at(i).add(chosen(b.at(i), limit, stride));
                    std::ptr::copy(a.at(i), to, lanes);
                }
            }
            OpKind::Fold {
                op: alu,
                ty,
                len,
                every,
            } => {
                fold(k, m, s, slots, op, (alu, ty, len, every), n, count);
            }
        }
    }
}

#[allow(clippy::too_many_arguments)]
unsafe fn fold(
    k: &Kernels,
    m: &Machine,
    s: &Tape,
    slots: *mut u8,
    op: &TapeOp,
    (alu, ty, len, every): (AluOp, DType, u32, bool),
    n: u32,
    count: usize,
) {
    let shift = op.lo as usize * 4;
    let lanes = op.n as usize;
    let a = place(m, slots, s, &op.a, n, shift);
    let acc = place(m, slots, s, &op.c, 0, shift).first;
    for i in 0..count {
        let (x, at) = (a.at(i), n + i as u32);
        // SAFETY: the plan vouches for these rows.
        unsafe {
            if at.is_multiple_of(len) {
                std::ptr::copy_nonoverlapping(x, acc, lanes * 4);
            } else {
                let line = |first| Lines { first, step: 0 };
                let args = MapArgs {
                    a: line(acc),
                    b: line(x),
                    c: Lines::NONE,
                    out: line(acc),
                    rows: 1,
                    n: lanes,
                };
                (k.map)(alu, ty, &args);
            }
            let result = match (every, (at + 1).is_multiple_of(len)) {
                (true, _) => at,
                (false, true) => at / len,
                _ => continue,
            };
            let out = match op.out {
                Arg::Slot(_) => place(m, slots, s, &op.out, n, shift).at(i),
                _ => place(m, slots, s, &op.out, result, shift).first,
            };
            std::ptr::copy_nonoverlapping(acc, out, lanes * 4);
        }
    }
}
