//! Which columns of a product share its result vectors, and which hemisphere computes them.

use super::Builder;
use super::contract::{Axis, Spec};
use crate::layout::Layout;
use crate::layout::choose::{Rows, with_lanes};
use crate::tir::ValueId;
use lockstep_graph::EntityId;

/// Cycles of a pass over all rows up to which a tile that is loaded at run time is loaded in one hemisphere alone: about the load of
/// another.
const ALONE: usize = 128;

impl Builder<'_> {
    /// Lanes of the result: columns, small ones packed, and as many batches beside them as fit.
    pub fn contract_layout(&self, v: ValueId, spec: &Spec) -> Layout {
        let chosen = self.planned[v.index()].as_ref().or(self.wanted[v.index()].as_ref());
        if let Some(layout) = chosen {
            return layout.clone();
        }
        let shape = self.shape(v).to_vec();
        let n = shape.len();
        let columns = (0..n)
            .rev()
            .filter(|&a| matches!(spec.axes[a], Axis::Column { .. }) && shape[a] > 1);
        let batches = (0..n)
            .rev()
            .filter(|&a| matches!(spec.axes[a], Axis::Batch { .. }) && shape[a] > 1);
        let columns: Vec<usize> = columns.collect();
        let inner: usize = columns.first().map_or(1, |&a| shape[a]);
        let lanes = self.lanes();
        let mut order = columns.clone();
        // Small column axes are packed first; batches only beside whole column axes.
        let mut used = 1;
        let mut whole = true;
        for &a in &columns {
            whole &= used == 1 || used <= lanes / 4;
            used *= shape[a];
            whole &= used <= lanes;
        }
        let limit = lanes / 4;
        if whole {
            order.extend(batches);
        }
        let with_rows = |rows: &Rows| {
            with_lanes(&shape, &order, lanes, rows, |used| {
                whole || inner <= limit && used <= limit
            })
        };
        let rows = self.rows(v);
        let by_rows = with_rows(&rows);
        let rhs = self.ir.values[v].inputs[1];
        if self.is_const(rhs) {
            return by_rows;
        }
        // Tiles that are loaded at run time are loaded into one matrix unit only, if each unit takes its own batches.
        let is_batch = |a: u8| matches!(spec.axes[a as usize], Axis::Batch { .. });
        let on_one_side = || with_rows(&Rows { sides: false, ..rows });
        let mut layout = if self.is_alone(v, spec) {
            on_one_side()
        } else if by_rows.side.is_some_and(|n| is_batch(by_rows.vecs[n].axis)) {
            by_rows
        } else {
            on_one_side().split_sides(is_batch).unwrap_or(by_rows)
        };
        self.spread_columns(&mut layout, spec, rhs);
        layout
    }

    /// Whether a product has one tile for few rows.
    fn is_alone(&self, v: ValueId, spec: &Spec) -> bool {
        let rate = self.target.mxm_rate(self.dtype(self.ir.values[v].inputs[0]));
        let cycles = rate.map_or(1, |r| r.cycles_per_vector as usize);
        let extents = spec.axes.iter().zip(self.shape(v));
        let rows: usize = extents
            .filter(|(a, _)| matches!(a, Axis::Row { .. }))
            .map(|(_, &n)| n)
            .product();
        spec.batch.is_empty() && rows * cycles <= ALONE
    }
}
