//! Products of rows by weight panels.
//!
//! Every output element is one chain of multiply-adds over k in ascending order that starts from the accumulator, held
//! in a register from the first k to the last. How many rows and columns are worked on at a time changes no bit.
//!
//! Integer products use the same kernels: products of 8-bit integers and sums of 256 of them are exact in f32, so they
//! are summed there and added to the i32 accumulators, [`EXACT_K`] rows at a time.

use super::convert::load_float;
use super::simd::Simd;
use lockstep_isa::DType;
use lockstep_isa::artifact::PANEL_COLUMNS;

/// Most rows of x that a micro-kernel holds. The addresses of one more would not fit into registers, which halves the speed.
const MAX_ROWS: usize = 11;
/// From this many rows on, narrow weights are widened once into scratch.
const WIDEN_ROWS: usize = 4;
/// Rows of an integer window that are summed in f32: 256 * 255 * 255 is below 2^24.
const EXACT_K: usize = 256;
/// Bytes of a cache line.
const LINE_BYTES: usize = 64;
/// Bytes of one row of a widened panel.
const PANEL_BYTES: usize = PANEL_COLUMNS * 4;

/// `acc[r][n] += sum over k of x[r][k] * w[k][n]` for one column block of a tile.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// Row r of x: `k` f32; of integer products they hold 8-bit integers.
    pub x: &'a [*const u8],
    /// Element of each row of x that meets row 0 of the weights.
    pub x_first: usize,
    /// Panels of 32 columns, each k-major, all columns readable.
    pub w: *const u8,
    /// Bytes from row k to row k + 1 of a panel.
    pub w_step: usize,
    /// Bytes from a panel to the next.
    pub panel_step: usize,
    /// Element type of the weights; I32 for widened 8-bit integers.
    pub dtype: DType,
    /// Whether the accumulators are i32.
    pub integer: bool,
    /// Rows of the window.
    pub k: usize,
    /// Columns of the block.
    pub n: usize,
    /// Accumulator row r starts at `acc + r * acc_step`: `n` elements of 4 bytes.
    pub acc: *mut u8,
    /// Bytes from one accumulator row to the next.
    pub acc_step: usize,
    /// Whether to start from zero instead of what the accumulator rows hold.
    pub zero: bool,
    /// What will be read next after the last panel, to be fetched into the cache meanwhile.
    pub next: *const u8,
    /// Room for one widened panel, `32 * k` elements of 4 bytes; used where the weights are narrow.
    pub scratch: *mut u8,
}

/// A panel, and what to fetch into the cache while it is multiplied: one line for each of its rows.
#[derive(Clone, Copy)]
pub(super) struct Panel {
    w: *const u8,
    ahead: *const u8,
}

/// How one kind of weights is loaded and multiplied.
pub(super) trait Weight {
    /// Element type.
    const DTYPE: DType;
    /// Whether it is worth a micro-kernel for every number of rows.
    const EVERY: bool;
}

/// The micro-kernels of a level, each compiled for its instructions.
pub(super) trait Level {
    /// Lanes of a register.
    const N: usize;

    /// [`one_panel`].
    ///
    /// # Safety
    /// As for [`product`].
    unsafe fn one_panel<W: Weight>(p: &Product<'_>, x: &[*const u8], w: Panel, acc: *mut u8, acc_step: usize);

    /// [`panels`].
    ///
    /// # Safety
    /// As for [`product`].
    unsafe fn panels<W: Weight>(p: &Product<'_>, w: Panel, acc: *mut u8, count: usize);

    /// [`super::convert::to_float`].
    ///
    /// # Safety
    /// See there.
    unsafe fn to_float(dtype: DType, from: *const u8, to: *mut u8, n: usize);
}

macro_rules! weights {
    ($($name:ident $dtype:ident $every:literal;)*) => {
        $(
            pub(super) struct $name;
            impl Weight for $name {
                const DTYPE: DType = DType::$dtype;
                const EVERY: bool = $every;
            }
        )*
    };
}

weights! {
    F32 F32 true;
    F16 F16 false;
    BF16 BF16 false;
    I32 I32 false;
    I8 I8 false;
    U8 U8 false;
}

/// `R` rows by `P` neighbouring panels of `NV` registers each.
///
/// # Safety
/// As for [`product`], for `R` rows from `x` and `acc` on and `P` whole panels from `w` on.
#[inline(always)]
unsafe fn micro<V: Simd, W: Weight, const R: usize, const P: usize, const NV: usize>(
    p: &Product<'_>,
    x: &[*const u8],
    w: Panel,
    acc: *mut u8,
    acc_step: usize,
) {
    let Some(x) = x.first_chunk::<R>() else {
        return;
    };
    let rows: [*const f32; R] = std::array::from_fn(|r| x[r].cast::<f32>().wrapping_add(p.x_first));
    let mut c = [[[V::splat(0.0); NV]; P]; R];
    // SAFETY: all accesses are those that the caller vouches for.
    unsafe {
        if !p.zero && !p.integer {
            for (r, row) in c.iter_mut().enumerate() {
                for (q, panel) in row.iter_mut().enumerate() {
                    for (v, reg) in panel.iter_mut().enumerate() {
                        let at = acc.add(r * acc_step + q * PANEL_BYTES).cast::<u32>();
                        *reg = V::load(at.add(v * V::N));
                    }
                }
            }
        }
        let Panel { mut w, mut ahead } = w;
        for k in 0..p.k {
            V::prefetch(ahead);
            ahead = ahead.wrapping_add(LINE_BYTES);
            let mut b = [[V::splat(0.0); NV]; P];
            for (q, panel) in b.iter_mut().enumerate() {
                for (v, reg) in panel.iter_mut().enumerate() {
                    *reg = load_float::<V>(W::DTYPE, w.add(q * p.panel_step), v * V::N);
                }
            }
            for (r, row) in c.iter_mut().enumerate() {
                let a = V::splat(rows[r].add(k).read_unaligned());
                for (panel, b) in row.iter_mut().zip(&b) {
                    for (reg, &b) in panel.iter_mut().zip(b) {
                        *reg = a.fma(b, *reg);
                    }
                }
            }
            w = w.add(p.w_step);
        }
        for (r, row) in c.iter().enumerate() {
            for (q, panel) in row.iter().enumerate() {
                for (v, reg) in panel.iter().enumerate() {
                    let at = acc.add(r * acc_step + q * PANEL_BYTES).cast::<u32>();
                    let at = at.add(v * V::N);
                    let sum = match p.integer {
                        false => *reg,
                        true if p.zero => V::from_bits(reg.to_int()),
                        true => {
                            let acc = V::load(at).bits();
                            V::from_bits(V::int_add(acc, reg.to_int()))
                        }
                    };
                    sum.store(at);
                }
            }
        }
    }
}

/// All rows of `x`, at most [`most_rows`] of them, by one whole panel.
///
/// # Safety
/// As for [`product`].
#[inline(always)]
pub(super) unsafe fn one_panel<V: Simd, W: Weight, const NV: usize>(
    p: &Product<'_>,
    x: &[*const u8],
    w: Panel,
    acc: *mut u8,
    acc_step: usize,
) {
    macro_rules! go {
        ($r:literal) => {
            // SAFETY: as the caller vouches.
            unsafe { micro::<V, W, $r, 1, NV>(p, x, w, acc, acc_step) }
        };
        ($r:literal by halves) => {{
            // SAFETY: as the caller vouches; either half of the panel's columns is two registers.
            unsafe {
                micro::<V, W, $r, 1, 2>(p, x, w, acc, acc_step);
                let w = Panel {
                    w: w.w.add(PANEL_BYTES / 2),
                    ahead: w.ahead,
                };
                micro::<V, W, $r, 1, 2>(p, x, w, acc.add(PANEL_BYTES / 2), acc_step);
            }
        }};
    }
    if const { V::N == 16 && W::EVERY } {
        match x.len() {
            1 => go!(1),
            2 => go!(2),
            3 => go!(3),
            4 => go!(4),
            5 => go!(5),
            6 => go!(6),
            7 => go!(7),
            8 => go!(8),
            9 => go!(9),
            10 => go!(10),
            11 => go!(11),
            _ => {}
        }
    } else if const { V::N > 1 } {
        // With 16 registers, 6 rows by 2 registers leave room for the operands; 3 by 4 would not.
        match x.len() {
            1 => go!(1),
            2 => go!(2),
            3 => go!(3),
            4 if const { W::EVERY } => go!(4 by halves),
            5 if const { W::EVERY } => go!(5 by halves),
            6 if const { W::EVERY } => go!(6 by halves),
            _ => {}
        }
    } else {
        go!(1)
    }
}

/// Few rows by `count` neighbouring whole panels, so that enough registers accumulate: one row by 2 to 4, two to four
/// rows by 2.
///
/// # Safety
/// As for [`product`].
#[inline(always)]
pub(super) unsafe fn panels<V: Simd, W: Weight, const NV: usize>(
    p: &Product<'_>,
    w: Panel,
    acc: *mut u8,
    count: usize,
) {
    macro_rules! go {
        ($r:literal, $c:literal) => {
            // SAFETY: as the caller vouches.
            unsafe { micro::<V, W, $r, $c, NV>(p, p.x, w, acc, p.acc_step) }
        };
    }
    if const { V::N == 16 } {
        match (p.x.len(), count) {
            (1, 4) => go!(1, 4),
            (1, 3) => go!(1, 3),
            (1, 2) => go!(1, 2),
            (2, 2) if const { W::EVERY } => go!(2, 2),
            (3, 2) if const { W::EVERY } => go!(3, 2),
            (4, 2) if const { W::EVERY } => go!(4, 2),
            _ => {}
        }
    }
}

/// Most rows that a micro-kernel takes.
fn most_rows<L: Level, W: Weight>() -> usize {
    match L::N {
        16 if W::EVERY => MAX_ROWS,
        8 if W::EVERY => 6,
        1 => 1,
        _ => 3,
    }
}

/// Most neighbouring panels that [`panels`] takes.
fn most_panels<L: Level, W: Weight>(rows: usize) -> usize {
    match rows {
        1 if L::N == 16 => 4,
        2..=4 if L::N == 16 && W::EVERY => 2,
        _ => 1,
    }
}

/// All rows by the panel at `w`, whose first `n` columns belong to accumulators at `acc`; `next` is read after it.
unsafe fn panel_rows<L: Level, W: Weight>(p: &Product<'_>, w: *const u8, acc: *mut u8, n: usize, next: *const u8) {
    let most = most_rows::<L, W>();
    let rows = p.x.len();
    let blocks = rows.div_ceil(most);
    let mut first = 0;
    for block in 0..blocks {
        let count = (rows - first).div_ceil(blocks - block);
        let x = &p.x[first..first + count];
        // Each pass over the panel fetches as many lines of the next one as the panel has rows.
        let fetched = block * p.k * LINE_BYTES;
        let ahead = if fetched < p.k * p.w_step {
            next.wrapping_add(fetched)
        } else {
            w
        };
        let w = Panel { w, ahead };
        // SAFETY: the rows and columns are within those that the caller vouches for; a narrow panel goes through a
        // buffer of whole ones.
        unsafe {
            let acc = acc.add(first * p.acc_step);
            if n == PANEL_COLUMNS {
                L::one_panel::<W>(p, x, w, acc, p.acc_step);
            } else {
                let mut buffer = [[0u32; PANEL_COLUMNS]; MAX_ROWS];
                for (r, row) in buffer.iter_mut().enumerate().take(count) {
                    let from = acc.add(r * p.acc_step);
                    if !p.zero {
                        std::ptr::copy_nonoverlapping(from, row.as_mut_ptr().cast(), n * 4);
                    }
                }
                L::one_panel::<W>(p, x, w, buffer.as_mut_ptr().cast(), PANEL_BYTES);
                for (r, row) in buffer.iter().enumerate().take(count) {
                    let to = acc.add(r * p.acc_step);
                    std::ptr::copy_nonoverlapping(row.as_ptr().cast(), to, n * 4);
                }
            }
        }
        first += count;
    }
}

/// A block with its weights as they are.
unsafe fn block<L: Level, W: Weight>(p: &Product<'_>) {
    let whole = p.n / PANEL_COLUMNS;
    let most = most_panels::<L, W>(p.x.len());
    let mut q = 0;
    // SAFETY: panels `q..` are within the block that the caller vouches for.
    unsafe {
        while q * PANEL_COLUMNS < p.n {
            let (w, acc) = (p.w.add(q * p.panel_step), p.acc.add(q * PANEL_BYTES));
            let after = |count: usize| match (q + count) * PANEL_COLUMNS < p.n {
                true => p.w.add((q + count) * p.panel_step),
                false => p.next,
            };
            let left = whole.saturating_sub(q);
            let count = if left > 1 {
                left.div_ceil(left.div_ceil(most))
            } else {
                1
            };
            if count > 1 {
                let ahead = after(count);
                L::panels::<W>(p, Panel { w, ahead }, acc, count);
            } else {
                let n = (p.n - q * PANEL_COLUMNS).min(PANEL_COLUMNS);
                panel_rows::<L, W>(p, w, acc, n, after(1));
            }
            q += count;
        }
    }
}

/// A block with narrow weights, one panel at a time widened into scratch.
unsafe fn widened_block<L: Level>(p: &Product<'_>) {
    let row = PANEL_COLUMNS * p.dtype.bytes();
    for q in 0..p.n.div_ceil(PANEL_COLUMNS) {
        let n = (p.n - q * PANEL_COLUMNS).min(PANEL_COLUMNS);
        // SAFETY: panel `q` is within the block, and scratch has room for a panel, as the caller vouches.
        unsafe {
            let w = p.w.add(q * p.panel_step);
            if p.w_step == row {
                L::to_float(p.dtype, w, p.scratch, p.k * PANEL_COLUMNS);
            } else {
                for k in 0..p.k {
                    let to = p.scratch.add(k * PANEL_BYTES);
                    L::to_float(p.dtype, w.add(k * p.w_step), to, PANEL_COLUMNS);
                }
            }
            let acc = p.acc.add(q * PANEL_BYTES);
            let wide = Product {
                w_step: PANEL_BYTES,
                ..*p
            };
            let next = w.wrapping_add(p.panel_step);
            panel_rows::<L, F32>(&wide, p.scratch, acc, n, next);
        }
    }
}

/// Computes one block.
///
/// # Safety
/// Every pointer of the product is valid for what its field says; weights for whole panels of 32 columns. Accumulators
/// and scratch overlap nothing else. The host has the instructions of the level.
pub(super) unsafe fn product<L: Level>(p: &Product<'_>) {
    if p.x.is_empty() || p.n == 0 {
        return;
    }
    let mut part = *p;
    let mut done = 0;
    loop {
        part.k = match p.integer {
            true => (p.k - done).min(EXACT_K),
            false => p.k,
        };
        // SAFETY: as the caller vouches; rows `done ..` are within the window.
        unsafe { whole_window::<L>(&part, done) };
        done += part.k;
        if done >= p.k {
            return;
        }
        part.w = part.w.wrapping_add(part.k * p.w_step);
        part.zero = false;
    }
}

/// A window whose sums are exact or one chain; x starts `first` elements into its rows.
unsafe fn whole_window<L: Level>(p: &Product<'_>, first: usize) {
    let p = &Product { x_first: first, ..*p };
    // SAFETY: as the caller vouches.
    unsafe {
        match p.dtype {
            DType::F32 => block::<L, F32>(p),
            _ if p.x.len() >= WIDEN_ROWS => widened_block::<L>(p),
            DType::F16 => block::<L, F16>(p),
            DType::BF16 => block::<L, BF16>(p),
            DType::I32 => block::<L, I32>(p),
            DType::I8 => block::<L, I8>(p),
            DType::U8 | DType::U16 => block::<L, U8>(p),
        }
    }
}
