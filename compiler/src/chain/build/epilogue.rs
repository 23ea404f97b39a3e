//! What follows a product in its own chain: maps, before them a lane move of the product, behind them a reduction, or updates of
//! states.
//!
//! ```text
//! v1 = contract v0, k0
//! v2 = move v1{..}                     lanes of a vector of v1 in another order
//! v3 = map fma(v1, k1, mul(v2, k2))    a rotation of positions, say
//! ```
//!
//! Products leave the matrix units through the lane-move unit of their hemisphere, so that what a map needs of the same vectors in
//! other lanes is there some cycles after them.

use super::Builder;
use super::kernel::{EPILOGUE_ALUS, Operand};
use super::moves::Kernel;
use super::reduce::Tail;
use super::scatter::RowUpdate;
use super::source::Resolved;
use crate::chain::{Affine, BufId, NodeArg, NodeOp};
use crate::error::CompileError;
use crate::layout::Layout;
use crate::tir::{Op, ValueId};
use lockstep_graph::EntityId;
use lockstep_isa::{DType, Dir};

/// Most vectors of a buffer whose product keeps a lane-move unit: scores of one row, say.
const BRIEF: usize = 8;

/// Most vectors of all buffers for which a longer one is too.
const BRIEF_IN_ALL: usize = 16;

/// Most operands of the map behind a turn: scales of the product and of what is turned, and what it is rotated by.
const TURN_OPERANDS: usize = 6;

/// What follows a product in its own chain.
#[derive(Default)]
pub(crate) struct Epilogue {
    /// What the first map reads of the product besides its vectors.
    pub turn: Option<Turn>,
    /// Maps, each the only user of the one before.
    pub maps: Vec<ValueId>,
    /// The reduction behind the last map.
    pub tail: Option<Tail>,
    /// Scatters that take the results, which then go nowhere else.
    pub updates: Vec<RowUpdate>,
}

/// A move of a product within its vectors.
pub(crate) struct Turn {
    /// The move.
    pub value: ValueId,
    /// For every lane the one that it has the element of.
    pub lanes: Vec<u16>,
}

impl Epilogue {
    /// The value that a chain of product `v` ends in.
    pub fn out(&self, v: ValueId) -> ValueId {
        self.maps.last().copied().unwrap_or(v)
    }

    /// The vectors that the tail folds, as [`Tail::folded`] says.
    pub fn folded(&self) -> Option<(u32, &[u8])> {
        self.tail.as_ref().and_then(Tail::folded)
    }

    /// All that the chain computes, besides its tail.
    pub fn values(&self, v: ValueId) -> Vec<ValueId> {
        [self.hot(v), self.maps.clone()].concat()
    }

    /// What the maps take from the chain itself.
    pub fn hot(&self, v: ValueId) -> Vec<ValueId> {
        [v].into_iter().chain(self.turn.iter().map(|t| t.value)).collect()
    }
}

impl Builder<'_> {
    /// What can follow product `v` in its own chain, with results in `layout`.
    ///
    /// # Errors
    /// If a state that it updates does not lie in rows (a bug).
    pub fn product_epilogue(&mut self, v: ValueId, layout: &Layout) -> Result<Epilogue, CompileError> {
        let vectors = (0..layout.n_parts()).map(|p| layout.part(p).n_vectors());
        let brief = vectors.clone().all(|n| n <= BRIEF) || vectors.sum::<usize>() <= BRIEF_IN_ALL;
        let (turn, maps) = match self.turned(v, layout).filter(|_| brief) {
            Some((turn, map)) => (Some(turn), vec![map]),
            None => (None, self.epilogue(v, EPILOGUE_ALUS)),
        };
        let mut all = Epilogue {
            turn,
            maps,
            ..Epilogue::default()
        };
        let out = all.out(v);
        if brief {
            all.updates = self.row_updates(out, layout)?;
            all.tail = self.tail(out, layout).or_else(|| self.fold(out, layout));
        }
        Ok(all)
    }

    /// A move of `v` within the vectors of `layout`, in the same way in all of them, and the map that takes both.
    fn turned(&self, v: ValueId, layout: &Layout) -> Option<(Turn, ValueId)> {
        let users = |v: ValueId| {
            let mut users = self.users[v.index()].clone();
            users.sort();
            users.dedup();
            users
        };
        let is_move = |v: ValueId| self.is_lazy(v);
        let (value, map) = match users(v)[..] {
            [a, b] if is_move(a) => (a, b),
            [a, b] if is_move(b) => (b, a),
            _ => return None,
        };
        let fits = |u: ValueId| self.shape(u) == self.shape(v) && self.chip(u) == self.chip(v);
        let is_map = matches!(self.ir.values[map].op, Op::Map { .. });
        if !is_map || users(value) != [map] || !fits(value) || !fits(map) {
            return None;
        }
        let operands = self.operands(&[map], &[v, value]);
        let ready = operands.iter().all(|o| match o {
            Operand::Value(v) => self.is_ready(*v),
            Operand::Iota(_) => true,
        });
        let small = self.alu_cost(map) <= EPILOGUE_ALUS && operands.len() <= TURN_OPERANDS;
        if !ready || !small || self.is_observed(v) || self.is_observed(value) {
            return None;
        }
        let mut lanes: Vec<u16> = Vec::new();
        for p in 0..layout.n_parts() {
            let part = layout.part(p);
            for (i, base) in layout.bases(&part).iter().enumerate() {
                for lane in 0..part.hi {
                    let mut c = base.clone();
                    layout.add_lane(lane, &mut c);
                    let Ok(Resolved::Element(from, at)) = self.resolve(value, &c) else {
                        return None;
                    };
                    let l = layout.locate(&at);
                    if from != v || (l.part, l.index as usize) != (p, i) {
                        return None;
                    }
                    match lanes.get(lane) {
                        Some(&other) if other == l.lane => {}
                        None => lanes.push(l.lane),
                        _ => return None,
                    }
                }
            }
        }
        Some((Turn { value, lanes }, map))
    }

    /// The node of a turn of `product`, in lanes `[0, hi)`; `dest` is the chain's result.
    pub fn emit_turn(
        &mut self,
        kernel: &mut Kernel,
        turn: &Turn,
        product: NodeArg,
        (dest, hemi): (BufId, Dir),
        hi: u16,
    ) -> NodeArg {
        let bytes = turn.lanes.iter().take(hi.into()).flat_map(|l| l.to_le_bytes());
        let chip = self.prog.bufs[dest].chip;
        let table = self.const_vector(Some(dest), chip, Some(hemi), DType::U16, bytes.collect());
        let lanes = kernel.read(table, Affine::default(), DType::U16, 0, hi);
        let dtype = self.dtype(turn.value);
        kernel.push(NodeOp::Permute { fill: 0, hemi }, dtype, hi, vec![product, lanes])
    }
}
