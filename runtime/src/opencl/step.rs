//! Products, packing and transposes as kernels.
//!
//! A work-item of a product holds some rows by some columns of sums in registers, from the first window to the last, k ascending:
//! one chain of fused multiply-adds for each element, as on every executor. Integer products are summed as floats 256 at a time,
//! which is exact, and then as i32.

use super::tape::{dtype, element};
use super::work::{Kernel, Parameters, Shape, Work};
use crate::plan::{BlockStep, Multiply, Pack, Space, Transpose};
use lockstep_isa::DType;
use lockstep_isa::artifact::PANEL_COLUMNS;

/// Rows of integer windows that are summed in f32: 256 * 255 * 255 is below 2^24.
const EXACT_K: usize = 256;
/// Results of a transpose that a work-group writes.
const RESULTS: u32 = 16;
/// How far ahead of a product weights are asked for; panels follow one another in memory.
const AHEAD_BYTES: usize = 4096;

/// The kernel of a block of a product for rows `r0 .. r1`, with its parameters.
///
/// Parameters: 0 first and 1 end of the sums counted over rows and places, 2 columns, 3 rows of each item of x, 4 places,
/// 5 their index, 6 windows, 7 their index, 8 index of the rows of x, 9 first and 10 step of the sums.
pub fn multiply(shape: &Shape, m: &Multiply, b: &BlockStep, (r0, r1): (u32, u32)) -> (Product, Work) {
    let (factors, places) = (m.factors_of(b), m.places_of(b));
    let mut p = Parameters::default();
    let n_places = places.len() as u32;
    let (first, end) = (r0 as usize * places.len(), r1 as usize * places.len());
    for x in [
        first as i64,
        end as i64,
        i64::from(b.n),
        i64::from(m.each),
        i64::from(n_places),
    ] {
        p.push(x);
    }
    (0..6).for_each(|_| {
        p.push(0);
    });
    p.0[5] = p.0.len() as i64;
    for &(x, column) in places {
        p.push(x);
        p.push(column);
    }
    p.0[6] = factors.len() as i64;
    p.0[7] = p.0.len() as i64;
    for f in factors {
        p.push(f.x);
        p.push(i64::from(f.k));
        p.push(f.space as i64);
        let at = p.push(f.offset as i64);
        p.address(at, f.space);
        if f.space == Space::Weights {
            let panels = (b.n as usize).div_ceil(PANEL_COLUMNS);
            let bytes = panels.max(1).saturating_sub(1) * f.panel_step
                + (f.k.max(1) as usize - 1) * f.w_step
                + PANEL_COLUMNS * b.dtype.bytes();
            p.weights_range(f.offset, f.offset + bytes);
        }
        p.push(f.w_step as i64);
        p.push(f.panel_step as i64);
    }
    p.0[8] = p.0.len() as i64;
    let x_space = m.x.first().map_or(Space::Memory, |x| x.space);
    let mixed = m.x.iter().any(|x| x.space != x_space);
    for x in &m.x {
        p.rows(x);
        p.push(x.space as i64);
    }
    p.0[9] = m.acc.at(0) + i64::from(b.n0) * 4;
    p.0[10] = m.acc.strides[0];
    p.address(9, m.acc.space);

    let sums = end - first;
    let width = shape.width;
    let rows = match (sums, width) {
        (0..=1, _) => 1,
        (2, _) => 2,
        (3..=4, _) => 4,
        (_, 16) => 8,
        (_, 8) => 6,
        _ => 4,
    };
    let columns = 2 * width;
    let product = Product {
        rows,
        width,
        dtype: b.dtype,
        integer: b.integer,
        zero: b.zero,
        sums: m.acc.space,
        x: x_space,
        mixed,
    };
    let groups = [sums.div_ceil(rows), (b.n as usize).div_ceil(columns)];
    let local = [
        shape.local[0].min(groups[0].max(1)),
        shape.local[1].min(groups[1].max(1)),
    ];
    let work = Work {
        parameters: p,
        groups: [groups[0].div_ceil(local[0]), groups[1].div_ceil(local[1])],
        local,
    };
    (product, work)
}

/// What the kernel of a product depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product {
    /// Rows that a work-item holds.
    rows: usize,
    /// Floats of a register; a work-item holds two of them for each row.
    width: usize,
    /// Type of the weights.
    dtype: DType,
    /// Whether the sums are i32.
    integer: bool,
    /// Whether they start from zero.
    zero: bool,
    /// Where they lie.
    sums: Space,
    /// Where x lies, unless its rows lie in several spaces.
    x: Space,
    mixed: bool,
}

/// A load of `width` weights as floats from `w`.
fn load(d: DType, width: usize, at: usize) -> String {
    let v = width;
    let raw = |ty: &str| format!("vload{v}(0, (__global const {ty} *)w + {at})");
    match d {
        DType::F32 => raw("float"),
        DType::BF16 => format!("as_float{v}(convert_uint{v}({}) << 16)", raw("ushort")),
        DType::F16 => format!("half{v}_bits(convert_uint{v}({}))", raw("ushort")),
        DType::I32 => format!("convert_float{v}({})", raw("int")),
        DType::U16 => format!("convert_float{v}({})", raw("ushort")),
        DType::I8 | DType::I4 => format!("convert_float{v}({})", raw("char")),
        DType::U8 => format!("convert_float{v}({})", raw("uchar")),
    }
}

/// The text before the kernels that products need.
pub fn prelude(width: usize) -> String {
    let v = width;
    format!(
        "static inline float{v} half{v}_bits(uint{v} a) {{\n    \
         const uint{v} m = (a & 0x7fffu) << 13, sign = (a & 0x8000u) << 16;\n    \
         const uint{v} finite = as_uint{v}(as_float{v}(m) * as_float(0x77800000u));\n    \
         return as_float{v}(sign | select(finite, m | 0x70000000u, m >= 0x0f800000u));\n}}\n"
    )
}

fn pointer(s: Space) -> &'static str {
    match s {
        Space::Memory => "mem",
        Space::Scratch => "scr",
        Space::Pool => "pool",
        Space::Weights => "wts",
    }
}

/// The kernel of a product.
pub fn product(b: &Product) -> Kernel {
    let (rows, v, mixed) = (b.rows, b.width, b.mixed);
    let columns = 2 * v;
    let acc = pointer(b.sums);
    let mut t = format!(
        "    const uint c0 = (uint)get_global_id(1) * {columns}u, r0 = (uint)P[0] + (uint)get_global_id(0) * {rows}u;\n    \
         const uint n = (uint)P[2], end = (uint)P[1], each = (uint)P[3], places = (uint)P[4];\n    \
         if (c0 >= n || r0 >= end) return;\n    \
         const int whole = c0 + {columns}u <= n;\n    \
         __global const long *X = P + P[8], *L = P + P[5], *W = P + P[7];\n"
    );
    let x = match mixed {
        true => "space_of(mem, scr, pool, wts, x[7])",
        false => pointer(b.x),
    };
    for r in 0..rows {
        t += &format!(
            "    __global const uchar *x{r}; __global uchar *a{r};\n    {{\n        \
             const uint q = min(r0 + {r}u, end - 1u), row = q / places, place = q % places;\n        \
             __global const long *x = X + (row / each) * 8u;\n        \
             x{r} = (__global const uchar *){x} + rows_at(x, row % each) + L[2u * place];\n        \
             a{r} = {acc} + P[9] + (long)row * P[10] + L[2u * place + 1u] + c0 * 4u;\n    }}\n"
        );
    }
    let ty = if b.integer { "int" } else { "float" };
    for r in 0..rows {
        for (h, at) in [("l", 0), ("h", v)] {
            let zero = format!("({ty}{v})(0)");
            let load = match b.zero {
                true => zero,
                // Nothing beyond the columns of the block is stored, so it may hold anything.
                false => format!("vload{v}(0, (__global const {ty} *)a{r} + {at})"),
            };
            t += &format!("    {ty}{v} s{r}{h} = {load};\n");
        }
    }
    t += &format!(
        "    for (uint f = 0u; f < (uint)P[6]; ++f, W += 6) {{\n        \
         const uint depth = (uint)W[1];\n        \
         __global const uchar *w = (__global const uchar *)space_of(mem, scr, pool, wts, W[2]) + W[3] + (long)(c0 / 32u) * W[5] + (c0 % 32u) * {}u;\n        \
         const long step = W[4];\n",
        b.dtype.bytes()
    );
    for r in 0..rows {
        t += &format!("        __global const float *y{r} = (__global const float *)(x{r} + W[0]);\n");
    }
    let inner = |t: &mut String, from: &str, to: &str, sum: &str| {
        *t += &format!(
            "        for (uint k = {from}; k < {to}; ++k, w += step) {{\n            AHEAD(w + {AHEAD_BYTES}u)\n"
        );
        *t += &format!(
            "            const float{v} wl = {}, wh = {};\n",
            load(b.dtype, v, 0),
            load(b.dtype, v, v)
        );
        for r in 0..rows {
            *t += &format!(
                "            {{ const float{v} y = (float{v})(y{r}[k]); {sum}{r}l = fma(y, wl, {sum}{r}l); {sum}{r}h = fma(y, wh, {sum}{r}h); }}\n"
            );
        }
        *t += "        }\n";
    };
    match b.integer {
        false => inner(&mut t, "0u", "depth", "s"),
        true => {
            t += &format!("        for (uint first = 0u; first < depth; first += {EXACT_K}u) {{\n");
            for r in 0..rows {
                t += &format!("        float{v} f{r}l = (float{v})(0.0f), f{r}h = (float{v})(0.0f);\n");
            }
            inner(&mut t, "first", &format!("min(first + {EXACT_K}u, depth)"), "f");
            for r in 0..rows {
                t += &format!("        s{r}l += convert_int{v}(f{r}l); s{r}h += convert_int{v}(f{r}h);\n");
            }
            t += "        }\n";
        }
    }
    t += "    }\n    if (whole) {\n";
    for r in 0..rows {
        t += &format!(
            "        vstore{v}(s{r}l, 0, (__global {ty} *)a{r}); vstore{v}(s{r}h, 0, (__global {ty} *)a{r} + {v});\n"
        );
    }
    t += &format!("    }} else {{\n        {ty} line[{columns}];\n");
    for r in 0..rows {
        t += &format!(
            "        vstore{v}(s{r}l, 0, line); vstore{v}(s{r}h, 0, line + {v});\n        \
             for (uint c = 0u; c < n - c0; ++c) ((__global {ty} *)a{r})[c] = line[c];\n"
        );
    }
    t += "    }\n";
    Kernel { text: t }
}

/// The kernel of a packing step: a work-group for a panel and some of its depth.
///
/// Parameters: 0 vectors, 1 belts, 2 first lane, 3 lanes, 4 where the panels go, 5 depth of one group; then the belts.
pub fn pack(shape: &Shape, p: &Pack) -> (Kernel, Work) {
    const DEPTH: usize = 32;
    let mut list = Parameters::default();
    for x in [
        i64::from(p.vectors),
        p.belts.len() as i64,
        i64::from(p.lo),
        i64::from(p.n),
        p.out as i64,
        DEPTH as i64,
    ] {
        list.push(x);
    }
    list.address(4, Space::Scratch);
    for b in &p.belts {
        list.rows(b);
        list.push(b.space as i64);
    }
    let (ty, widen) = (element(p.dtype.bytes() as u32), dtype(p.dtype));
    let vector = |i: &str| {
        format!(
            "__global const long *B = P + 6u + ({i} % (uint)P[1]) * 8u;\n            \
             __global const {ty} *v = (__global const {ty} *)((__global const uchar *)space_of(mem, scr, pool, wts, B[7]) + rows_at(B, {i} / (uint)P[1])) + (uint)P[2];\n"
        )
    };
    let (depth, width) = if p.columns { (p.n, p.vectors) } else { (p.vectors, p.n) };
    let text = match p.columns {
        true => format!(
            "    const uint depth = (uint)P[3], width = (uint)P[0], q = (uint)get_group_id(1);\n    \
             if (q * 32u >= width) return;\n    \
             const uint k0 = (uint)get_group_id(0) * (uint)P[5], k1 = min(k0 + (uint)P[5], depth);\n    \
             __global uint *to = (__global uint *)(scr + P[4]) + q * depth * 32u;\n    \
             for (uint c = LID; c < 32u; c += LS) {{\n        const uint i = q * 32u + c;\n        \
             if (i < width) {{\n            {}            for (uint k = k0; k < k1; ++k) to[k * 32u + c] = widen_{widen}(v[k]);\n        \
             }} else {{\n            for (uint k = k0; k < k1; ++k) to[k * 32u + c] = 0u;\n        }}\n    }}\n",
            vector("i")
        ),
        false => format!(
            "    const uint depth = (uint)P[0], width = (uint)P[3], q = (uint)get_group_id(1);\n    \
             if (q * 32u >= width) return;\n    \
             const uint k0 = (uint)get_group_id(0) * (uint)P[5], k1 = min(k0 + (uint)P[5], depth);\n    \
             __global uint *to = (__global uint *)(scr + P[4]) + q * depth * 32u;\n    \
             for (uint k = k0; k < k1; ++k) {{\n            {}        \
             for (uint c = LID; c < 32u; c += LS) {{ const uint i = q * 32u + c; to[k * 32u + c] = i < width ? widen_{widen}(v[min(i, width - 1u)]) : 0u; }}\n    }}\n",
            vector("k")
        ),
    };
    let work = Work {
        parameters: list,
        groups: [
            (depth as usize).div_ceil(DEPTH),
            (width as usize).div_ceil(PANEL_COLUMNS),
        ],
        local: [shape.items, 1],
    };
    (Kernel { text }, work)
}

/// The kernel of a transpose for results `r0 .. r1`: a work-group for some of them.
///
/// Parameters: 0 first result, 1 end, 2 operands, 3 first lane; then the operands, their space, the results, their space.
pub fn transpose(shape: &Shape, t: &Transpose, (r0, r1): (u32, u32)) -> (Kernel, Work) {
    let mut p = Parameters::default();
    for x in [i64::from(r0), i64::from(r1), i64::from(t.rows), i64::from(t.lo)] {
        p.push(x);
    }
    for rows in [&t.a, &t.out] {
        p.rows(rows);
        p.push(rows.space as i64);
    }
    let ty = element(t.size);
    let text = format!(
        "    const uint first = (uint)P[0] + (uint)get_group_id(1) * {RESULTS}u;\n    \
         if (first >= (uint)P[1]) return;\n    \
         const uint n = min((uint)P[1] - first, {RESULTS}u);\n    \
         __global const uchar *from = (__global const uchar *)space_of(mem, scr, pool, wts, P[11]);\n    \
         __global {ty} *to[{RESULTS}];\n    \
         for (uint i = 0u; i < {RESULTS}u; ++i)\n        \
         to[i] = (__global {ty} *)((__global uchar *)space_of(mem, scr, pool, wts, P[19]) + rows_at(P + 12, first + min(i, n - 1u)));\n    \
         for (uint j = LID; j < (uint)P[2]; j += LS) {{\n        \
         __global const {ty} *x = (__global const {ty} *)(from + rows_at(P + 4, j)) + (uint)P[3] + first;\n        \
         for (uint i = 0u; i < n; ++i) to[i][j] = x[i];\n    }}\n"
    );
    let work = Work {
        parameters: p,
        groups: [1, (r1 - r0).div_ceil(RESULTS) as usize],
        local: [shape.items, 1],
    };
    (Kernel { text }, work)
}
