//! States updated in place: a `scatter` onto a state that becomes the state's next contents.
//!
//! No row is copied: each update is one scatter instruction per vector of a row, into the rows of the state itself. That is
//! possible where nothing reads the old contents afterwards, and where the result, seen through the moves between them, is what
//! the state becomes. Every other scatter is rewritten (`expand.rs`).

use super::fit::{At, fit};
use super::gather::lane_zero;
use super::moves::Kernel;
use super::source::Source;
use super::{Builder, Home, StateLayouts};
use crate::chain::{Affine, BufId, BufKind, NodeArg, NodeOp};
use crate::error::CompileError;
use crate::layout::choose::{Rows, with_lanes};
use crate::layout::{LaneDigit, Layout, VecDigit};
use crate::tir::{Combiner, IndexMap, Op, TensorIr, ValueId, compose};
use lockstep_graph::{EntityId, SideTable};
use lockstep_isa::{AluOp, DType, Target};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Most open axes' vectors that get a buffer each; more share one.
const PARTS: usize = 16;

/// Most scatters in the chain of what they write: each takes an ALU and a word-wide belt of its own.
const MOST_UPDATES: usize = 4;

/// Steps of one chain.
const MOST: usize = 1024;

/// A state whose next contents are its old ones with some rows replaced.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Update {
    /// The `state` operation.
    pub holder: ValueId,
    /// Name and chip of the state.
    pub key: (String, u16),
    /// The scatters, in order.
    pub scatters: Vec<ValueId>,
    /// How the scatters' table lies: rows follow each other in a buffer.
    pub layout: Layout,
    /// The same, in the coordinates of the state.
    pub state_layout: Layout,
}

/// The states that are updated in place; `settled` are the layouts that states have already.
pub(crate) fn updates(
    ir: &TensorIr,
    chip: &SideTable<ValueId, u16>,
    target: &Target,
    settled: &StateLayouts,
) -> Vec<Update> {
    let mut users: Vec<Vec<ValueId>> = vec![Vec::new(); ir.values.len()];
    for (v, data) in ir.values.iter() {
        data.inputs.iter().for_each(|i| users[i.index()].push(v));
    }
    let holders = ir.values.iter().filter(|(_, d)| matches!(d.op, Op::State(_)));
    let mut holders: Vec<ValueId> = holders.map(|(v, _)| v).collect();
    // A state has one holder; of several nothing is assumed.
    let states: Vec<_> = holders.iter().map(|&h| ir.values[h].op.clone()).collect();
    holders.retain(|&h| states.iter().filter(|s| **s == ir.values[h].op).count() == 1);
    holders
        .into_iter()
        .filter_map(|h| update(ir, chip, &users, h, target))
        .filter(|u| settled.get(&u.key).is_none_or(|l| *l == u.state_layout))
        .collect()
}

fn update(
    ir: &TensorIr,
    chip: &SideTable<ValueId, u16>,
    users: &[Vec<ValueId>],
    holder: ValueId,
    target: &Target,
) -> Option<Update> {
    let Op::State(state) = ir.values[holder].op else {
        return None;
    };
    let next = ir.states[state].next;
    let shape = &ir.values[holder].ty.shape;
    // From the next contents back to the state.
    let (last, after) = behind(ir, next)?;
    let mut scatters = vec![last];
    let table = loop {
        let v = *scatters.last()?;
        let data = &ir.values[v];
        let wanted = Op::Scatter {
            combiner: Combiner::Replace,
        };
        if data.op != wanted || chip[v] != chip[holder] || data.ty.shape != ir.values[last].ty.shape {
            return None;
        }
        let (root, map) = behind(ir, data.inputs[0])?;
        if root == holder {
            break map;
        }
        // Between scatters nothing moves.
        if root != data.inputs[0] {
            return None;
        }
        scatters.push(root);
    };
    scatters.reverse();
    if !compose(&after, &table)?.is_identity(shape) {
        return None;
    }
    let [view] = &table.views[..] else { return None };
    // A row's vectors have one bank each.
    let dtype = ir.values[holder].ty.dtype;
    let rows = view.shape.first().copied().unwrap_or(1);
    if rows > target.bank_words() as usize / dtype.words() as usize * 7 / 8 {
        return None;
    }
    let layout = table_layout(&view.shape, dtype, target);
    let state_layout = seen(&layout, &view.strides, shape)?;
    // Nothing reads the old contents later, nothing but the next scatter those in between.
    let first = scatters[0];
    for u in readers(ir, users, holder)? {
        let data = &ir.values[u];
        let as_table = u == first && data.inputs[1..].iter().all(|&i| !leads_to(ir, i, holder));
        if u >= first && !as_table {
            return None;
        }
    }
    for pair in scatters.windows(2) {
        let operands = &ir.values[pair[1]].inputs;
        if users[pair[0].index()] != [pair[1]] || operands[1..].contains(&pair[0]) || ir.is_observed(pair[0]) {
            return None;
        }
    }
    // A scatter after this one must not be handed what this one is still to change.
    for &v in &scatters[1..] {
        let operands = &ir.values[v].inputs;
        if operands[1..].iter().any(|&i| leads_to(ir, i, holder)) {
            return None;
        }
    }
    Some(Update {
        holder,
        key: (ir.states[state].name.clone(), chip[holder]),
        scatters,
        layout,
        state_layout,
    })
}

/// What lies behind moves of one operand that lose nothing, and the element of it per coordinate of `v`.
fn behind(ir: &TensorIr, v: ValueId) -> Option<(ValueId, IndexMap)> {
    let mut map = IndexMap::identity(&ir.values[v].ty.shape);
    let mut v = v;
    while let Op::Move { parts, .. } = &ir.values[v].op {
        let ([part], [input]) = (&parts[..], &ir.values[v].inputs[..]) else {
            return None;
        };
        let part = ir.maps.get(*part);
        if !part.is_total() || ir.values[v].ty.elements() != ir.values[*input].ty.elements() {
            return None;
        }
        map = compose(&map, part)?;
        v = *input;
    }
    Some((v, map))
}

/// What computes with the elements of `v`, moves seen through; `None` if they are observed.
fn readers(ir: &TensorIr, users: &[Vec<ValueId>], v: ValueId) -> Option<Vec<ValueId>> {
    let mut out = Vec::new();
    let mut open = vec![v];
    while let Some(v) = open.pop() {
        if ir.is_observed(v) {
            return None;
        }
        for &u in &users[v.index()] {
            if matches!(ir.values[u].op, Op::Move { .. }) {
                open.push(u);
            } else {
                out.push(u);
            }
        }
    }
    Some(out)
}

/// Whether `v` is `of` seen through moves.
pub(super) fn leads_to(ir: &TensorIr, v: ValueId, of: ValueId) -> bool {
    v == of || matches!(ir.values[v].op, Op::Move { .. }) && ir.values[v].inputs.iter().any(|&i| leads_to(ir, i, of))
}

/// The layout of a tensor of shape `to` whose elements lie as those of `layout` do: element c of the layout's tensor is
/// element `sum c * strides` of the other. `None` where an axis would be cut unevenly.
fn seen(layout: &Layout, strides: &[i64], to: &[usize]) -> Option<Layout> {
    let mut whole = vec![1usize; to.len()];
    for d in (0..to.len().saturating_sub(1)).rev() {
        whole[d] = whole[d + 1] * to[d + 1];
    }
    // One digit becomes one per axis that it runs over, innermost first.
    let split = |axis: u8, div: usize, extent: usize| -> Option<Vec<(u8, usize, usize)>> {
        let mut at = usize::try_from(strides[axis as usize]).ok()? * div;
        let mut left = extent;
        let mut out = Vec::new();
        while left > 1 {
            let a = (0..to.len()).find(|&a| to[a] > 1 && at >= whole[a] && at < whole[a] * to[a])?;
            if !at.is_multiple_of(whole[a]) {
                return None;
            }
            let (div, room) = (at / whole[a], (whole[a] * to[a]).div_ceil(at));
            let n = left.min(room);
            if n < left && (!left.is_multiple_of(n) || n * div != to[a]) {
                return None;
            }
            out.push((a as u8, div, n));
            left /= n;
            at *= n;
        }
        Some(out)
    };
    let mut lanes = Vec::new();
    for d in &layout.lanes {
        match d.axis {
            Some(axis) => lanes.extend(
                split(axis, d.div, d.extent)?
                    .into_iter()
                    .map(|(a, div, extent)| LaneDigit {
                        axis: Some(a),
                        div,
                        extent,
                    }),
            ),
            None => lanes.push(*d),
        }
    }
    let mut vecs = Vec::new();
    let mut parts = 0;
    for (n, d) in layout.vecs.iter().enumerate() {
        let digits = split(d.axis, d.div, d.extent)?;
        parts += if n < layout.parts { digits.len() } else { 0 };
        vecs.extend(
            digits
                .into_iter()
                .rev()
                .map(|(axis, div, extent)| VecDigit { axis, div, extent }),
        );
    }
    Some(Layout {
        shape: to.to_vec(),
        lanes,
        vecs,
        parts,
        side: None,
    })
}

/// Rows of axis 0 in one buffer, lanes from the other axes: as many heads of up to half of the lanes as fit lie beside each other, so that
/// one tile takes them.
fn table_layout(shape: &[usize], dtype: DType, target: &Target) -> Layout {
    let bank = target.bank_words() as usize / dtype.words() as usize;
    let order: Vec<usize> = (1..shape.len()).rev().collect();
    let lanes = target.lanes as usize;
    let rows = Rows::single(usize::MAX);
    let mut layout = with_lanes(shape, &order, lanes, &rows, |used| used <= lanes / 2);
    let in_lanes = |a: usize| layout.lanes.iter().any(|d| d.axis == Some(a as u8));
    let open: Vec<usize> = (1..shape.len()).filter(|&a| shape[a] > 1 && !in_lanes(a)).collect();
    let high: Vec<VecDigit> = layout
        .vecs
        .iter()
        .filter(|d| in_lanes(d.axis as usize))
        .copied()
        .collect();
    let digit = |a: usize| VecDigit {
        axis: a as u8,
        div: 1,
        extent: shape[a],
    };
    let others: usize = open.iter().map(|&a| shape[a]).product();
    let row = Some(0).filter(|_| shape[0] > 1).map(digit);
    let apart = others <= PARTS || shape[0] * others > bank / 2;
    let mut vecs = high;
    if apart {
        vecs.extend(open.iter().copied().map(digit));
    }
    layout.parts = vecs.len();
    vecs.extend(row);
    if !apart {
        vecs.extend(open.iter().copied().map(digit));
    }
    layout.vecs = vecs;
    layout.side = None;
    layout
}

impl Builder<'_> {
    /// Gives states that are updated in place their homes, with the rows of the scatters' table as vectors.
    pub fn place_updates(&mut self) -> Result<(), CompileError> {
        for update in self.updates.clone() {
            let holder = update.holder;
            let Op::State(state) = self.ir.values[holder].op else {
                continue;
            };
            let (chip, dtype) = (self.chip(holder), self.dtype(holder));
            self.states.insert(update.key, update.state_layout.clone());
            let home = self.new_home(chip, dtype, update.state_layout, |_| {
                BufKind::State(state.index() as u32)
            });
            let bufs = home.bufs.clone();
            let next = self.new_home(chip, dtype, update.layout, |p| match bufs.get(p).copied().flatten() {
                Some(buf) => BufKind::NextState(buf),
                None => BufKind::Temp,
            });
            self.homes[holder.index()] = Some(home);
            update.scatters.iter().for_each(|v| {
                self.next_homes.insert(*v, next.clone());
            });
        }
        Ok(())
    }

    /// A scatter into the rows of its state.
    pub fn lower_scatter(&mut self, v: ValueId) -> Result<(), CompileError> {
        let Some(home) = self.next_homes.get(&v).cloned() else {
            return Err(CompileError::internal("chains", format!("{v} is no update of a state")));
        };
        let (indices, updates) = (self.ir.values[v].inputs[1], self.ir.values[v].inputs[2]);
        let (chip, dtype) = (self.chip(v), self.dtype(v));
        let n = self.shape(v)[0];
        let index_shape = self.shape(indices).to_vec();
        let want = self.update_layout(&home.layout, updates, &index_shape);
        let source = self.exact_source(updates, &want, chip)?;
        let index = self.index_home(indices)?;
        let steps = lane_zero(&index_shape);
        let steps = steps.bases(&steps.part(0));
        for piece in self.row_pieces(&home, n)? {
            let mut tracks: [Vec<At>; 2] = [Vec::new(), Vec::new()];
            for step in &steps {
                let mut c = step.clone();
                c.extend_from_slice(&piece.coordinates[1..]);
                tracks[0].push(source.at(&c)?);
                tracks[1].push(index.at(step).map(|(buf, at, _)| (buf, at))?);
            }
            for fitted in fit(&tracks, MOST, 3) {
                let mut k = Kernel::new(fitted.dims);
                let [(from, at), (i, i_at)] = fitted.at[..] else {
                    continue;
                };
                let (lo, hi) = (self.prog.bufs[from].lo, self.prog.bufs[from].hi);
                let x = k.read(from, at, dtype, lo, hi);
                let x = self.as_result(&mut k, x, dtype, piece.hi);
                let i = k.read(i, i_at, DType::I32, 0, 1);
                let i = k.push(NodeOp::Alu(AluOp::Copy), DType::I32, 1, vec![i]);
                let op = NodeOp::Scatter {
                    buf: piece.buf,
                    at: Affine {
                        base: piece.base,
                        ..Affine::default()
                    },
                    row_stride: piece.step,
                    limit: n as u32,
                };
                k.push(op, dtype, piece.hi, vec![x, i]);
                self.add_chain(chip, k.nodes);
            }
        }
        self.finish(&[v], v, home);
        Ok(())
    }

    /// The scatters that use `v`, if those are all that do, each puts it into one row of a state that nothing else reads any more, and
    /// the vectors of `layout` are those of the row; else none.
    pub fn row_updates(&mut self, v: ValueId, layout: &Layout) -> Result<Vec<RowUpdate>, CompileError> {
        let scatters = self.users[v.index()].clone();
        let fits = |&s: &ValueId| {
            let data = &self.ir.values[s];
            let Some(home) = self.next_homes.get(&s) else {
                return false;
            };
            let index_shape = self.shape(data.inputs[1]).to_vec();
            let alone = |u: &Update| {
                let readers = readers(self.ir, &self.users, u.holder).unwrap_or_default();
                u.scatters == [s] && readers.iter().all(|r| *r == s || self.done[r.index()])
            };
            data.inputs[2] == v
                && data.inputs[1] != v
                && self.chip(s) == self.chip(v)
                && self.is_ready(data.inputs[1])
                && index_shape.iter().all(|&n| n == 1)
                && self.updates.iter().any(alone)
                && self.same_vectors(&self.update_layout(&home.layout, v, &index_shape), layout)
        };
        if scatters.is_empty() || scatters.len() > MOST_UPDATES || self.is_observed(v) || !scatters.iter().all(fits) {
            return Ok(Vec::new());
        }
        let mut updates = Vec::with_capacity(scatters.len());
        for scatter in scatters {
            let (home, data) = (self.next_homes[&scatter].clone(), &self.ir.values[scatter]);
            let (indices, axes) = (data.inputs[1], self.shape(data.inputs[1]).len());
            let n = self.shape(scatter)[0];
            let at = vec![0; axes];
            let index = self.index_home(indices)?.at(&at).map(|(buf, row, _)| (buf, row))?;
            updates.push(RowUpdate {
                scatter,
                pieces: self.row_pieces(&home, n)?,
                home,
                index,
                axes,
                rows: n as u32,
            });
        }
        Ok(updates)
    }

    /// Whether two layouts of one tensor have one vector in each part, with the same lanes.
    fn same_vectors(&self, a: &Layout, b: &Layout) -> bool {
        let single = |l: &Layout| (0..l.n_parts()).all(|p| l.part(p).n_vectors() == 1);
        let bases = |l: &Layout| -> Vec<_> {
            let parts = (0..l.n_parts()).map(|p| l.part(p));
            parts
                .flat_map(|p| l.bases(&p).into_iter().map(move |c| (c, p.hi)))
                .collect()
        };
        single(a) && single(b) && a.pattern() == b.pattern() && bases(a) == bases(b)
    }

    /// The node of an update with `result` in lanes `[0, hi)`; `at` is its row as [`RowUpdate::row`] says.
    pub fn emit_update(
        &self,
        kernel: &mut Kernel,
        update: &RowUpdate,
        result: NodeArg,
        (buf, at): (BufId, Affine),
        dtype: DType,
        hi: u16,
    ) {
        let index = Affine {
            base: update.index.1,
            ..Affine::default()
        };
        let i = kernel.read(update.index.0, index, DType::I32, 0, 1);
        let i = kernel.push(NodeOp::Alu(AluOp::Copy), DType::I32, 1, vec![i]);
        let piece = update.pieces.iter().find(|p| p.buf == buf && p.base == at.base);
        let op = NodeOp::Scatter {
            buf,
            at,
            row_stride: piece.map_or(1, |p| p.step),
            limit: update.rows,
        };
        kernel.push(op, dtype, hi, vec![result, i]);
    }

    /// Records that scatters are done.
    pub fn finish_updates(&mut self, updates: Vec<RowUpdate>) {
        for update in updates {
            self.finish(&[update.scatter], update.scatter, update.home);
        }
    }

    /// Vectors that hold `v` as wanted, with no lanes besides.
    pub fn exact_source(&mut self, v: ValueId, want: &Layout, chip: u16) -> Result<Source, CompileError> {
        let source = self.source(v, want, chip, None)?;
        if let Source::Home(home) = &source
            && home.layout.lane_count() != want.lane_count()
        {
            return self.relayout(v, want).map(Source::Home);
        }
        Ok(source)
    }

    /// The layout of updates whose vectors go into rows of the table.
    fn update_layout(&self, table: &Layout, updates: ValueId, index_shape: &[usize]) -> Layout {
        let shape = self.shape(updates).to_vec();
        let shift = index_shape.len() as u8;
        let axis = |a: u8| a - 1 + shift;
        let lanes = table.lanes.iter().map(|d| LaneDigit {
            axis: d.axis.map(axis),
            ..*d
        });
        let rest = table.vecs.iter().enumerate().filter(|(_, d)| d.axis != 0);
        let mut vecs: Vec<VecDigit> = Vec::new();
        let mut parts = 0;
        for (n, d) in rest {
            if n < table.parts {
                parts += 1;
            }
            vecs.push(VecDigit {
                axis: axis(d.axis),
                ..*d
            });
        }
        let index = (0..index_shape.len())
            .filter(|&a| index_shape[a] > 1)
            .map(|a| VecDigit {
                axis: a as u8,
                div: 1,
                extent: index_shape[a],
            });
        vecs.splice(parts..parts, index);
        Layout {
            shape,
            lanes: lanes.collect(),
            vecs,
            parts,
            side: None,
        }
    }

    /// The vectors of a row, each with where it lies in row 0 and how far the next row is.
    fn row_pieces(&self, home: &Home, n: usize) -> Result<Vec<RowPiece>, CompileError> {
        let mut out = Vec::new();
        for part in &home.parts {
            for base in home.layout.bases(part).into_iter().filter(|c| c[0] == 0) {
                let (buf, first, _) = home.at(&base)?;
                let mut c = base.clone();
                let mut step = 1;
                if n > 1 {
                    c[0] = 1;
                    step = home.at(&c)?.1 - first;
                }
                c[0] = n - 1;
                if home.at(&c)? != (buf, first + step * (n as u32 - 1), 0) {
                    return Err(CompileError::internal(
                        "chains",
                        format!("rows do not follow each other in {:?}", home.layout),
                    ));
                }
                out.push(RowPiece {
                    coordinates: base,
                    buf,
                    base: first,
                    step,
                    hi: part.hi as u16,
                });
            }
        }
        Ok(out)
    }
}

/// A scatter of one row, in the chain that computes the row.
pub(crate) struct RowUpdate {
    scatter: ValueId,
    /// The home of what the state becomes, and its rows' vectors.
    home: Rc<Home>,
    pieces: Vec<RowPiece>,
    /// The vector with the index in lane 0.
    index: At,
    /// Axes of the index, all of extent 1.
    axes: usize,
    /// Rows of the table.
    rows: u32,
}

impl RowUpdate {
    /// The vector of row 0 that takes the vector of updates with these coordinates.
    pub fn row(&self, base: &[usize]) -> Result<At, CompileError> {
        let wanted = base.get(self.axes..).unwrap_or(&[]);
        let piece = self.pieces.iter().find(|p| p.coordinates.get(1..) == Some(wanted));
        let missing = || CompileError::internal("chains", format!("no row of {} takes {base:?}", self.scatter));
        piece.map(|p| (p.buf, p.base)).ok_or_else(missing)
    }
}

/// One vector of every row of a table.
struct RowPiece {
    /// Coordinates of its first element in row 0.
    coordinates: Vec<usize>,
    buf: BufId,
    base: u32,
    step: u32,
    hi: u16,
}

/// The homes of what scatters make: by scatter.
pub(crate) type NextHomes = BTreeMap<ValueId, Rc<Home>>;
