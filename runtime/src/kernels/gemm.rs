//! Products of rows by weight panels.
//!
//! Every output element is one chain of multiply-adds in the order of the factors and over k in ascending order within
//! each. It starts from the accumulator and is held in a register from the first to the last. How many rows and columns
//! are worked on at a time changes no bit.
//!
//! Integer products use the same kernels: products of 8-bit integers and sums of 256 of them are exact in f32, so they
//! are summed there and added to the i32 accumulators, [`EXACT_K`] rows at a time.

use super::convert::{halves, load_float};
use super::simd::Simd;
use lockstep_isa::artifact::PANEL_COLUMNS;
use lockstep_isa::{DType, scalar};

/// Most rows of x that a micro-kernel holds. The addresses of one more would not fit into registers, which halves the speed.
const MAX_ROWS: usize = 11;
/// From this many rows on, narrow weights are widened once into scratch.
const WIDEN_ROWS: usize = 4;
/// Rows of integer windows that are summed in f32: 256 * 255 * 255 is below 2^24.
const EXACT_K: usize = 256;
/// Bytes of a cache line.
const LINE_BYTES: usize = 64;
/// Bytes of one row of a widened panel.
const PANEL_BYTES: usize = PANEL_COLUMNS * 4;

/// One window of a product: `k` elements of every row of x by as many rows of weights.
#[derive(Clone, Copy)]
pub struct Factor {
    /// Bytes from the row of x to the element that meets row 0 of the weights.
    pub x: isize,
    /// Panels of 32 columns, each k-major, all columns readable.
    pub w: *const u8,
    /// Bytes from row k to row k + 1 of a panel; of pairs of i4, from a pair of rows to the next.
    pub w_step: usize,
    /// Bytes from a panel to the next.
    pub panel_step: usize,
    /// Rows of the window.
    pub k: usize,
    /// What its weights are multiplied by before they meet x.
    pub scales: Option<Scales>,
}

/// Scales of the rows of a window, in panels of 32 columns like the weights.
#[derive(Clone, Copy)]
pub struct Scales {
    /// The first panel: `blocks` rows of 32 scales.
    pub from: *const u8,
    /// Rows of a panel.
    pub blocks: usize,
    /// Rows of weights that share a row of scales.
    pub rows: usize,
    /// Type of a scale, a float.
    pub dtype: DType,
}

impl Scales {
    /// Bytes of a row of a panel.
    fn row(&self) -> usize {
        PANEL_COLUMNS * self.dtype.bytes()
    }

    /// The first row of a panel.
    fn panel(&self, q: usize) -> *const u8 {
        self.from.wrapping_add(q * self.blocks * self.row())
    }
}

/// `acc[r][n] += sum over factors and k of x[r][k] * w[k][n]` for one column block of a tile.
#[derive(Clone, Copy)]
pub struct Product<'a> {
    /// Rows of x: f32; of integer products they hold 8-bit integers.
    pub x: &'a [*const u8],
    /// Accumulators of each row: `n` elements of 4 bytes.
    pub acc: &'a [*mut u8],
    /// Windows in order.
    pub factors: &'a [Factor],
    /// Element type of the weights; I32 for widened 8-bit integers.
    pub dtype: DType,
    /// Whether the accumulators are i32.
    pub integer: bool,
    /// Columns of the block.
    pub n: usize,
    /// Whether to start from zero instead of what the accumulator rows hold.
    pub zero: bool,
    /// What will be read next after the last panel, to be fetched into the cache meanwhile.
    pub next: *const u8,
    /// Room for one widened panel of the deepest factor, `32 * k` elements of 4 bytes; used where the weights are narrow.
    pub scratch: *mut u8,
}

/// Which columns a micro-kernel computes.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// The first panel.
    panel: usize,
    /// First column within it: 0 or 16.
    column: usize,
    /// Columns of the block from that one on.
    n: usize,
    /// How many times the panel was read before, for other rows.
    pass: usize,
}

impl Place {
    /// What to fetch into the cache while `count` panels of a factor are multiplied, one line for each row of the panel:
    /// what comes after them, the next lines at each pass.
    #[inline(always)]
    fn ahead(&self, p: &Product<'_>, f: &Factor, count: usize) -> *const u8 {
        let fetched = self.pass * f.k * LINE_BYTES;
        let more = (self.panel + count) * PANEL_COLUMNS < p.n;
        let next = match (more, p.factors) {
            (true, _) => f.w.wrapping_add((self.panel + count) * f.panel_step),
            (false, [_]) => p.next,
            (false, _) => return f.w,
        };
        match fetched < f.k * f.w_step {
            true => next.wrapping_add(fetched),
            false => f.w,
        }
    }

    /// The other half of the panel.
    fn second_half(self) -> Place {
        Place {
            column: PANEL_COLUMNS / 2,
            n: self.n - PANEL_COLUMNS / 2,
            ..self
        }
    }
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
    unsafe fn one_panel<W: Weight>(p: &Product<'_>, x: &[*const u8], acc: &[*mut u8], at: Place);

    /// [`panels`].
    ///
    /// # Safety
    /// As for [`product`].
    unsafe fn panels<W: Weight>(p: &Product<'_>, at: Place, count: usize);

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
    I4 I4 false;
    U8 U8 false;
}

/// `R` rows by `P` neighbouring panels of `NV` registers each. Of the last panel, only the columns of the block are written.
///
/// # Safety
/// As for [`product`], for `R` rows from `x` and `acc` on and `P` panels.
#[inline(always)]
unsafe fn micro<V: Simd, W: Weight, const R: usize, const P: usize, const NV: usize>(
    p: &Product<'_>,
    x: &[*const u8],
    acc: &[*mut u8],
    at: Place,
) {
    let (Some(x), Some(acc)) = (x.first_chunk::<R>(), acc.first_chunk::<R>()) else {
        return;
    };
    let columns = at.panel * PANEL_BYTES + at.column * 4;
    let live = |q: usize, v: usize| V::first(at.n.saturating_sub(q * PANEL_COLUMNS + v * V::N));
    let live: [[V::Mask; NV]; P] = std::array::from_fn(|q| std::array::from_fn(|v| live(q, v)));
    let mut c = [[[V::splat(0.0); NV]; P]; R];
    // SAFETY: all accesses are those that the caller vouches for.
    unsafe {
        if !p.zero && !p.integer {
            for (row, acc) in c.iter_mut().zip(acc) {
                for (q, panel) in row.iter_mut().enumerate() {
                    for (v, reg) in panel.iter_mut().enumerate() {
                        let from = acc.add(columns + (q * PANEL_COLUMNS + v * V::N) * 4);
                        *reg = V::load_masked(from.cast(), live[q][v]);
                    }
                }
            }
        }
        for f in p.factors {
            let ahead = at.ahead(p, f, P);
            c = match &f.scales {
                Some(s) if const { matches!(W::DTYPE, DType::I8 | DType::I4) } => {
                    scaled_window::<V, W, R, P, NV>(c, x, f, s, at, ahead)
                }
                _ => window::<V, W, R, P, NV>(c, x, f, at, ahead),
            };
        }
        for (row, acc) in c.iter().zip(acc) {
            for (q, panel) in row.iter().enumerate() {
                for (v, reg) in panel.iter().enumerate() {
                    let to = acc.add(columns + (q * PANEL_COLUMNS + v * V::N) * 4).cast();
                    let live = live[q][v];
                    let sum = match p.integer {
                        false => *reg,
                        true if p.zero => V::from_bits(reg.to_int()),
                        true => {
                            let acc = V::load_masked(to, live).bits();
                            V::from_bits(V::int_add(acc, reg.to_int()))
                        }
                    };
                    sum.store_masked(to, live);
                }
            }
        }
    }
}

/// Adds the products of one window. The sums go in and out by value, which keeps them in registers.
///
/// # Safety
/// As for [`micro`].
#[inline(always)]
unsafe fn window<V: Simd, W: Weight, const R: usize, const P: usize, const NV: usize>(
    mut c: [[[V; NV]; P]; R],
    x: &[*const u8; R],
    f: &Factor,
    at: Place,
    mut ahead: *const u8,
) -> [[[V; NV]; P]; R] {
    let rows: [*const f32; R] = std::array::from_fn(|r| x[r].wrapping_offset(f.x).cast());
    let mut w = f.w.wrapping_add(at.panel * f.panel_step + at.column * W::DTYPE.bytes());
    for k in 0..f.k {
        V::prefetch(ahead);
        ahead = ahead.wrapping_add(LINE_BYTES);
        let mut b = [[V::splat(0.0); NV]; P];
        // SAFETY: all accesses are those that the caller vouches for.
        unsafe {
            for (q, panel) in b.iter_mut().enumerate() {
                for (v, reg) in panel.iter_mut().enumerate() {
                    *reg = load_float::<V>(W::DTYPE, w.add(q * f.panel_step), v * V::N);
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
            w = w.add(f.w_step);
        }
    }
    c
}

/// As [`window`], for integers that are multiplied by scales.
///
/// # Safety
/// As for [`micro`]; the scales are readable for as many panels.
#[inline(always)]
unsafe fn scaled_window<V: Simd, W: Weight, const R: usize, const P: usize, const NV: usize>(
    mut c: [[[V; NV]; P]; R],
    x: &[*const u8; R],
    f: &Factor,
    s: &Scales,
    at: Place,
    mut ahead: *const u8,
) -> [[[V; NV]; P]; R] {
    let per = const { W::DTYPE.load_rows() };
    let rows: [*const f32; R] = std::array::from_fn(|r| x[r].wrapping_offset(f.x).cast());
    let mut w = f.w.wrapping_add(at.panel * f.panel_step + at.column);
    let scale_panel = s.blocks * s.row();
    let mut scales = s.panel(at.panel).wrapping_add(at.column * s.dtype.bytes());
    let mut k = 0;
    while k < f.k {
        let end = (k + s.rows.max(1)).min(f.k);
        let mut by = [[V::splat(0.0); NV]; P];
        // SAFETY: all accesses are those that the caller vouches for.
        unsafe {
            for (q, panel) in by.iter_mut().enumerate() {
                for (v, reg) in panel.iter_mut().enumerate() {
                    *reg = load_float::<V>(s.dtype, scales.wrapping_add(q * scale_panel), v * V::N);
                }
            }
        }
        scales = scales.wrapping_add(s.row());
        while k < end {
            V::prefetch(ahead);
            ahead = ahead.wrapping_add(LINE_BYTES);
            let mut b = [[[V::splat(0.0); NV]; P]; 2];
            // SAFETY: all accesses are those that the caller vouches for.
            unsafe {
                for (q, by) in by.iter().enumerate() {
                    for (v, by) in by.iter().enumerate() {
                        let bytes = V::load_i8(w.add(q * f.panel_step + v * V::N).cast());
                        if per == 2 {
                            let [low, high] = halves::<V>(bytes);
                            b[0][q][v] = V::from_int(low).mul(*by);
                            b[1][q][v] = V::from_int(high).mul(*by);
                        } else {
                            b[0][q][v] = V::from_int(bytes).mul(*by);
                        }
                    }
                }
                for (half, b) in b.iter().enumerate().take(per.min(end - k)) {
                    for (r, row) in c.iter_mut().enumerate() {
                        let a = V::splat(rows[r].add(k + half).read_unaligned());
                        for (panel, b) in row.iter_mut().zip(b) {
                            for (reg, &b) in panel.iter_mut().zip(b) {
                                *reg = a.fma(b, *reg);
                            }
                        }
                    }
                }
                w = w.add(f.w_step);
            }
            k += per;
        }
    }
    c
}

/// All rows of `x`, at most [`most_rows`] of them, by one panel.
///
/// # Safety
/// As for [`product`].
#[inline(always)]
pub(super) unsafe fn one_panel<V: Simd, W: Weight, const NV: usize>(
    p: &Product<'_>,
    x: &[*const u8],
    acc: &[*mut u8],
    at: Place,
) {
    macro_rules! go {
        ($r:literal) => {
            // SAFETY: as the caller vouches.
            unsafe { micro::<V, W, $r, 1, NV>(p, x, acc, at) }
        };
        ($r:literal half) => {
            // SAFETY: as the caller vouches.
            unsafe { micro::<V, W, $r, 1, 1>(p, x, acc, at) }
        };
        ($r:literal by halves) => {{
            // SAFETY: as the caller vouches; either half of the panel's columns is two registers.
            unsafe {
                micro::<V, W, $r, 1, 2>(p, x, acc, at);
                if at.n > PANEL_COLUMNS / 2 {
                    micro::<V, W, $r, 1, 2>(p, x, acc, at.second_half());
                }
            }
        }};
    }
    if const { V::N == 16 && W::EVERY } {
        match (x.len(), at.n <= PANEL_COLUMNS / 2) {
            (1, true) => go!(1 half),
            (2, true) => go!(2 half),
            (3, true) => go!(3 half),
            (4, true) => go!(4 half),
            (5, true) => go!(5 half),
            (6, true) => go!(6 half),
            (7, true) => go!(7 half),
            (8, true) => go!(8 half),
            (9, true) => go!(9 half),
            (10, true) => go!(10 half),
            (11, true) => go!(11 half),
            (1, _) => go!(1),
            (2, _) => go!(2),
            (3, _) => go!(3),
            (4, _) => go!(4),
            (5, _) => go!(5),
            (6, _) => go!(6),
            (7, _) => go!(7),
            (8, _) => go!(8),
            (9, _) => go!(9),
            (10, _) => go!(10),
            (11, _) => go!(11),
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
pub(super) unsafe fn panels<V: Simd, W: Weight, const NV: usize>(p: &Product<'_>, at: Place, count: usize) {
    macro_rules! go {
        ($r:literal, $c:literal) => {
            // SAFETY: as the caller vouches.
            unsafe { micro::<V, W, $r, $c, NV>(p, p.x, p.acc, at) }
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

/// All rows by one panel.
unsafe fn panel_rows<L: Level, W: Weight>(p: &Product<'_>, panel: usize) {
    let most = most_rows::<L, W>();
    let rows = p.x.len();
    let blocks = rows.div_ceil(most);
    let mut first = 0;
    for pass in 0..blocks {
        let count = (rows - first).div_ceil(blocks - pass);
        let at = Place {
            panel,
            column: 0,
            n: p.n - panel * PANEL_COLUMNS,
            pass,
        };
        let rows = first..first + count;
        // SAFETY: the rows and columns are within those that the caller vouches for.
        unsafe { L::one_panel::<W>(p, &p.x[rows.clone()], &p.acc[rows], at) };
        first += count;
    }
}

/// A block with its weights as they are.
unsafe fn block<L: Level, W: Weight>(p: &Product<'_>) {
    let whole = p.n / PANEL_COLUMNS;
    let most = most_panels::<L, W>(p.x.len());
    let mut panel = 0;
    while panel * PANEL_COLUMNS < p.n {
        let left = whole.saturating_sub(panel);
        let count = if left > 1 {
            left.div_ceil(left.div_ceil(most))
        } else {
            1
        };
        // SAFETY: panels `panel ..` are within the block that the caller vouches for.
        unsafe {
            if count > 1 {
                let at = Place {
                    panel,
                    column: 0,
                    n: p.n - panel * PANEL_COLUMNS,
                    pass: 0,
                };
                L::panels::<W>(p, at, count);
            } else {
                panel_rows::<L, W>(p, panel);
            }
        }
        panel += count;
    }
}

/// A block with narrow weights, one panel of one factor at a time widened into scratch.
unsafe fn widened_block<L: Level>(p: &Product<'_>) {
    let row = PANEL_COLUMNS * p.dtype.bytes();
    for (i, f) in p.factors.iter().enumerate() {
        for q in 0..p.n.div_ceil(PANEL_COLUMNS) {
            // SAFETY: panel `q` is within the block, and scratch has room for a panel, as the caller vouches.
            unsafe {
                let w = f.w.add(q * f.panel_step);
                if let Some(s) = &f.scales {
                    decode_panel::<L>(p, f, s, q);
                } else if f.w_step == row {
                    L::to_float(p.dtype, w, p.scratch, f.k * PANEL_COLUMNS);
                } else {
                    for k in 0..f.k {
                        let to = p.scratch.add(k * PANEL_BYTES);
                        L::to_float(p.dtype, w.add(k * f.w_step), to, PANEL_COLUMNS);
                    }
                }
                let factor = Factor {
                    w: p.scratch,
                    w_step: PANEL_BYTES,
                    panel_step: 0,
                    scales: None,
                    ..*f
                };
                let wide = Product {
                    factors: &[factor],
                    zero: p.zero && i == 0,
                    next: w.wrapping_add(f.panel_step),
                    ..*p
                };
                panel_rows::<L, F32>(&wide, q);
            }
        }
    }
}

/// Decodes panel `q` of a scaled window into scratch.
///
/// # Safety
/// As for [`widened_block`].
unsafe fn decode_panel<L: Level>(p: &Product<'_>, f: &Factor, s: &Scales, q: usize) {
    let mut by = [0f32; PANEL_COLUMNS];
    for k in 0..f.k {
        // SAFETY: the rows of the panel and of its scales are readable and scratch has room for a panel, as the caller vouches.
        let to = unsafe {
            if k % s.rows.max(1) == 0 {
                let scales = s.panel(q).wrapping_add(k / s.rows.max(1) * s.row());
                L::to_float(s.dtype, scales, by.as_mut_ptr().cast(), PANEL_COLUMNS);
            }
            let panel = f.w.add(q * f.panel_step);
            let to = p.scratch.add(k * PANEL_BYTES).cast::<[f32; PANEL_COLUMNS]>();
            if p.dtype == DType::I4 {
                let pairs = panel
                    .add(k / 2 * f.w_step)
                    .cast::<[u8; PANEL_COLUMNS]>()
                    .read_unaligned();
                to.write_unaligned(pairs.map(|b| scalar::pair(b)[k % 2] as f32));
            } else {
                L::to_float(p.dtype, panel.add(k * f.w_step), to.cast(), PANEL_COLUMNS);
            }
            &mut *to
        };
        to.iter_mut().zip(&by).for_each(|(x, by)| *x *= by);
    }
}

/// Computes one block.
///
/// # Safety
/// Every pointer of the product is valid for what its field says; weights for whole panels of 32 columns; as many
/// accumulators as rows of x. Accumulators and scratch overlap nothing else. The host has the instructions of the level.
pub(super) unsafe fn product<L: Level>(p: &Product<'_>) {
    if p.x.is_empty() || p.n == 0 || p.x.len() != p.acc.len() {
        return;
    }
    if !p.integer {
        // SAFETY: as the caller vouches.
        return unsafe { exact_windows::<L>(p) };
    }
    let mut zero = p.zero;
    let mut first = 0;
    while first < p.factors.len() {
        // As many whole windows as are exact together, or part by part one that is not.
        let mut k = 0;
        let fits = |f: &&Factor| {
            k += f.k;
            k <= EXACT_K
        };
        let count = p.factors[first..].iter().take_while(fits).count();
        if count > 0 {
            let factors = &p.factors[first..first + count];
            // SAFETY: as the caller vouches.
            unsafe { exact_windows::<L>(&Product { factors, zero, ..*p }) };
            (first, zero) = (first + count, false);
            continue;
        }
        let mut f = p.factors[first];
        while f.k > 0 {
            let part = Factor {
                k: f.k.min(EXACT_K),
                ..f
            };
            let factors = &[part];
            // SAFETY: as the caller vouches; the part is within the window.
            unsafe { exact_windows::<L>(&Product { factors, zero, ..*p }) };
            zero = false;
            f.k -= part.k;
            f.x += 4 * part.k as isize;
            f.w = f.w.wrapping_add(part.k * f.w_step);
        }
        first += 1;
    }
}

/// Windows whose sums are exact or one chain.
unsafe fn exact_windows<L: Level>(p: &Product<'_>) {
    // SAFETY: as the caller vouches.
    unsafe {
        let scaled = p.factors.iter().any(|f| f.scales.is_some());
        match p.dtype {
            dtype if scaled && !matches!(dtype, DType::I8 | DType::I4) => widened_block::<L>(p),
            DType::F32 => block::<L, F32>(p),
            _ if p.x.len() >= WIDEN_ROWS => widened_block::<L>(p),
            DType::F16 => block::<L, F16>(p),
            DType::BF16 => block::<L, BF16>(p),
            DType::I32 => block::<L, I32>(p),
            DType::I8 => block::<L, I8>(p),
            DType::I4 => block::<L, I4>(p),
            DType::U8 | DType::U16 => block::<L, U8>(p),
        }
    }
}
