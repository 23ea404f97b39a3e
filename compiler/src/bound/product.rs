//! A contract as the bound sees it: the least that its products and tile loads need.

use super::{lanes, stored};
use crate::partition::cost::{Extents, extents};
use crate::tir::{Op, TensorIr, Type, ValueId};
use lockstep_isa::Target;

/// A contract as the bound sees it.
pub(super) struct Product {
    pub(super) x: Extents,
    /// Unit-cycles on the MXM, over all units of the chip; 0 where the VXM is cheaper.
    pub(super) mxm: u64,
    /// The same for products that fill their columns: what a share of the results needs at least.
    pub(super) dense: u64,
    /// ALU operations on vectors, where the VXM is cheaper.
    pub(super) alu: u64,
    /// Words of the operand that is loaded at least.
    pub(super) load: u64,
    /// The same for either operand loaded: a single row meets all words of its weights, or every weight the row.
    ways: [Way; 2],
    /// Matrix units of a hemisphere.
    units: u64,
    /// Cycles that a vector occupies one of them.
    pub(super) period: u64,
}

/// What a product needs with one of its operands loaded.
#[derive(Clone, Copy, Default)]
struct Way {
    /// Unit-cycles on the MXM, over all units of the chip.
    mxm: u64,
    /// Words loaded.
    words: u64,
    /// Tiles loaded.
    tiles: u64,
}

impl Product {
    /// Least cycles from the first product to the last, and of the loads that do not fit `shadow` words, with the better
    /// operand loaded. A unit loads a tile after the swap before it and swaps it in a load's latency after its last vector:
    /// latencies of one unit's tiles add up, but for the two that it holds at the start.
    pub(super) fn busy(&self, target: &Target, shadow: u64) -> u64 {
        let per_cycle = 2 * (target.mxm.load_words_per_cycle as u64).max(1);
        let units = 2 * self.units.max(1);
        let way = |way: &Way| {
            let loads = way.words.saturating_sub(shadow) / per_cycle;
            let turns = (way.tiles / units).saturating_sub(2) * target.latency.load as u64;
            let loaded = loads.max(loads / self.units.max(1) + turns).saturating_sub(1);
            loaded.max(way.mxm.saturating_sub(self.period))
        };
        self.ways.iter().map(way).min().unwrap_or(0)
    }
}

pub(super) fn product(ir: &TensorIr, target: &Target, v: ValueId) -> Option<Product> {
    let data = &ir.values[v];
    let (Op::Contract { batch, contracted, .. }, [a, b]) = (&data.op, data.inputs.as_slice()) else {
        return None;
    };
    let left = &ir.values[*a].ty;
    let (right, shared) = &stored(ir, *b);
    let shared = *shared;
    let x = extents(batch, contracted, left, right);
    let alu = (x.batch * x.rows * x.columns * x.depth).div_ceil(lanes(target));
    let none = Product {
        x,
        mxm: 0,
        dense: 0,
        alu,
        load: 0,
        ways: [Way::default(); 2],
        units: 0,
        period: 0,
    };
    let Some(rate) = target.mxm_rate(left.dtype) else {
        return Some(none);
    };
    let units = 2 * (target.mxm_units(left.dtype) as u64).max(1);
    let cycles = |vectors: u64| vectors * rate.cycles_per_vector as u64 / units;
    let dense = cycles(columns_only(target, x));
    let turned = Extents {
        rows: x.columns,
        columns: x.rows,
        ..x
    };
    let both = if repeats(ir, *a) || repeats(ir, *b) {
        [columns_only(target, x); 2]
    } else {
        [passes(target, x), passes(target, turned)]
    };
    let vectors = both[0].min(both[1]);
    let on_vxm = x.batch > 1 && (x.rows == 1 || x.columns == 1);
    if on_vxm && alu / (target.vxm.alus as u64).max(1) < cycles(vectors) {
        return Some(none);
    }
    let n = lanes(target);
    let way = |vectors: u64, x: Extents, loaded: &Type, shared: u64| Way {
        mxm: cycles(vectors),
        words: (x.batch * x.depth * x.columns * loaded.dtype.bytes() as u64).div_ceil(n * shared),
        // Densely packed: windows of several batches or columns share a tile.
        tiles: x.batch * x.depth * x.columns / (n * n),
    };
    let words = |of: u64, ty: &Type| (x.batch * x.depth * of * ty.dtype.bytes() as u64).div_ceil(n);
    Some(Product {
        x,
        mxm: cycles(vectors),
        dense,
        alu: 0,
        load: words(x.rows, left).min(words(x.columns, right) / shared),
        ways: [way(both[0], x, right, shared), way(both[1], turned, left, 1)],
        units: target.mxm_units(left.dtype) as u64,
        period: rate.cycles_per_vector as u64,
    })
}

/// Whether a value repeats elements of what it is made of.
fn repeats(ir: &TensorIr, v: ValueId) -> bool {
    let data = &ir.values[v];
    let from: usize = data.inputs.iter().map(|&u| ir.values[u].ty.elements()).sum();
    matches!(data.op, Op::Move { .. }) && data.ty.elements() > from
}

/// Vectors where every column is in use.
pub(super) fn columns_only(target: &Target, x: Extents) -> u64 {
    (x.batch * x.rows * x.columns * x.depth.div_ceil(lanes(target))).div_ceil(lanes(target))
}

/// Vectors with the columns loaded, over all ways to put rows of a batch, or batches, side by side.
pub(super) fn passes(target: &Target, x: Extents) -> u64 {
    let n = lanes(target);
    let diagonal = (n / x.depth.max(x.columns).max(1)).max(1);
    let batches = x.batch.div_ceil(diagonal) * x.rows;
    let rows = (1..=n).take_while(|&p| p == 1 || p <= x.rows).map(|p| {
        let window = n / p;
        x.batch * x.rows.div_ceil(p) * x.depth.div_ceil(window) * x.columns.div_ceil(window)
    });
    let plain = x.depth.div_ceil(n) * x.columns.div_ceil(n);
    rows.min().unwrap_or(u64::MAX).min(batches * plain)
}
