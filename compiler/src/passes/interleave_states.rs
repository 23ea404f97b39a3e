//! `interleave-states`: the rows of a state that is updated in place and multiplied by go to several banks by turns.
//!
//! A bank gives one vector a cycle, and a tile load takes several. Row r of the state becomes row r / 4 of part r mod 4; an update goes to
//! every part, and in all but one to a row behind the others that nothing reads.
//!
//! ```text
//! v0: f32[256,64] = state @k           v0: f32[65,64] = state @k[0::4] ..
//! v2: f32[256,64] = scatter v0, v1, x  =>  v4: i32[] = map v1 : .. select ..
//! v3 = contract q, v2 over 1:1             v5: f32[65,64] = scatter v0, v4, x ..
//!                                          v9: f32[256,64] = move v5, ..
//!                                          v10 = contract q, v9 over 1:1
//! ```

use super::rebuild::{keep, live};
use super::{Changed, PassCx};
use crate::error::CompileError;
use crate::tir::{Combiner, Op, Port, StateData, StateId, TensorIr, TirBuilder, Type, ValueId};
use lockstep_graph::{EntityId, IdVec};

/// Most parts of a state: what a tile load of vectors computed at run time takes.
const MOST_PARTS: usize = 4;
/// Fewest rows of a part: fewer are loaded in no time.
const LEAST_ROWS: usize = 16;

/// The name of a part of a state, and the name of the whole again.
const OPEN: char = '[';

/// Name of the state that a part belongs to, or of a whole state.
pub(crate) fn whole_name(name: &str) -> &str {
    match (name.ends_with(']'), name.rfind(OPEN)) {
        (true, Some(at)) if name[at..].contains("::") => &name[..at],
        _ => name,
    }
}

/// Runs the pass.
pub(crate) fn run(ir: &mut TensorIr, cx: &PassCx) -> Result<Changed, CompileError> {
    if cx.keep_states {
        return Ok(Changed(false));
    }
    let parts: Vec<usize> = ir.states.ids().map(|s| parts_of(ir, s)).collect();
    if parts.iter().all(|&n| n == 1) {
        return Ok(Changed(false));
    }
    let mut old = std::mem::take(ir);
    let live = live(&old);
    // The first part of every state.
    let mut first = Vec::with_capacity(parts.len());
    let mut states: IdVec<StateId, StateData> = IdVec::new();
    for (state, &n) in old.states.values().zip(&parts) {
        first.push(states.len());
        for k in 0..n {
            states.push(part_of(state, k, n));
        }
    }
    let wholes = std::mem::replace(&mut old.states, states);
    let mut b = TirBuilder::like(&mut old);
    b.carry_states(&old);
    let mut rebuilt = Rebuilt {
        values: vec![None; old.values.len()],
        parts: vec![Vec::new(); old.values.len()],
    };
    for (v, data) in old.values.iter().filter(|(v, _)| live.contains(*v)) {
        b.set_origins(&data.origins);
        let inputs = data
            .inputs
            .iter()
            .map(|&u| rebuilt.whole(u))
            .collect::<Result<Vec<_>, _>>()?;
        let split: Vec<ValueId> = match &data.op {
            Op::State(s) => {
                let n = parts[s.index()];
                let of = |k: usize| StateId::from_index(first[s.index()] + k);
                let ids: Vec<StateId> = (0..n).map(of).collect();
                let ty = ids.iter().map(|&id| b.ir().states[id].ty.clone()).collect::<Vec<_>>();
                let states = ids.iter().zip(&ty).map(|(&id, ty)| b.push(Op::State(id), &[], ty));
                states.collect::<Result<_, _>>()?
            }
            Op::Scatter { combiner } => {
                let tables = rebuilt.parts[data.inputs[0].index()].clone();
                let n = tables.len();
                let mut scattered = Vec::with_capacity(n);
                for (k, table) in tables.into_iter().enumerate() {
                    let index = index_in_part(&mut b, inputs[1], data.ty.shape[0], k, n)?;
                    scattered.push(b.scatter(*combiner, table, index, inputs[2])?);
                }
                scattered
            }
            _ => Vec::new(),
        };
        rebuilt.values[v.index()] = Some(match &split[..] {
            [] => keep(&mut b, &old, v, &inputs)?,
            [one] => *one,
            _ => interleaved(&mut b, &split, &data.ty.shape)?,
        });
        if split.len() > 1 {
            rebuilt.parts[v.index()] = split;
        }
    }
    let mut next = Vec::new();
    for (state, &n) in wholes.values().zip(&parts) {
        match n {
            1 => next.push(rebuilt.whole(state.next)?),
            _ => next.extend(&rebuilt.parts[state.next.index()]),
        }
    }
    for (k, next) in next.into_iter().enumerate() {
        b.set_next(k, next);
    }
    let ports = |ports: &[Port]| -> Result<Vec<Port>, CompileError> {
        let renamed = ports.iter().map(|p| {
            Ok(Port {
                value: rebuilt.whole(p.value)?,
                ..p.clone()
            })
        });
        renamed.collect()
    };
    let (inputs, outputs) = (ports(&old.inputs)?, ports(&old.outputs)?);
    *ir = b.finish();
    (ir.inputs, ir.outputs) = (inputs, outputs);
    Ok(Changed(true))
}

/// Old values in the new program: whole, and in parts.
struct Rebuilt {
    values: Vec<Option<ValueId>>,
    parts: Vec<Vec<ValueId>>,
}

impl Rebuilt {
    fn whole(&self, v: ValueId) -> Result<ValueId, CompileError> {
        self.values[v.index()]
            .ok_or_else(|| CompileError::internal("interleave-states", format!("{v} was not rebuilt")))
    }
}

/// Part `k` of `n` of a state; its successor is still to be set.
fn part_of(state: &StateData, k: usize, n: usize) -> StateData {
    if n == 1 {
        return state.clone();
    }
    let mut shape = state.ty.shape.clone();
    shape[0] = shape[0] / n + 1;
    StateData {
        name: format!("{}{OPEN}{k}::{n}]", state.name),
        ty: Type::new(state.ty.dtype, &shape),
        ..state.clone()
    }
}

/// How many parts a state is put into: 1 if it stays as it is.
fn parts_of(ir: &TensorIr, state: StateId) -> usize {
    let rows = ir.states[state].ty.shape.first().copied().unwrap_or(0);
    let even = (2..=MOST_PARTS)
        .rev()
        .find(|n| n.is_power_of_two() && rows.is_multiple_of(*n) && rows / n >= LEAST_ROWS);
    even.filter(|_| is_multiplied(ir, state)).unwrap_or(1)
}

/// Whether what becomes of a state are its old contents with rows replaced, and all that reads it are products.
fn is_multiplied(ir: &TensorIr, state: StateId) -> bool {
    let is_holder = |v: &ValueId| ir.values[*v].op == Op::State(state);
    let next = ir.states[state].next;
    let mut versions = vec![next];
    loop {
        let Some(&v) = versions.last() else { return false };
        if is_holder(&v) {
            break;
        }
        let data = &ir.values[v];
        let replaces = Op::Scatter {
            combiner: Combiner::Replace,
        };
        if data.op != replaces {
            return false;
        }
        versions.push(data.inputs[0]);
    }
    let others = ir
        .states
        .iter()
        .any(|(s, data)| s != state && versions.contains(&data.next));
    let holders = ir.values.ids().filter(is_holder).count();
    if others || holders != 1 || versions.len() == 1 {
        return false;
    }
    // The versions, and what is seen of them through moves.
    let mut seen = versions.clone();
    let mut multiplied = false;
    for (v, data) in ir.values.iter() {
        let reads = data.inputs.iter().enumerate().filter(|(_, u)| seen.contains(u));
        for (j, u) in reads {
            match &data.op {
                Op::Contract { .. } => multiplied = true,
                Op::Scatter { .. } if j == 0 && versions.contains(&v) && versions.contains(u) => {}
                Op::Move { .. } => {}
                _ => return false,
            }
        }
        if matches!(data.op, Op::Move { .. }) && data.inputs.iter().any(|u| seen.contains(u)) {
            seen.push(v);
        }
    }
    multiplied && ir.outputs.iter().all(|p| !seen.contains(&p.value))
}

/// The row of part `k` of `n` that holds row `index` of `rows`; where another part holds it, the row behind the last.
fn index_in_part(b: &mut TirBuilder, index: ValueId, rows: usize, k: usize, n: usize) -> Result<ValueId, CompileError> {
    use crate::tir::expr::Ex;
    let int = |x: usize| Ex::i32(x as i32);
    b.map(&[index], |e, a| {
        // Negative indices are large ones.
        let last = int(rows - 1);
        let row = e.select(e.lt(a[0], int(0)), last, e.min(a[0], last));
        let here = e.eq(e.and(row, int(n - 1)), int(k));
        e.select(here, e.shr(row, int(n.trailing_zeros() as usize)), int(rows / n))
    })
}

/// The whole state, seen through moves of its parts.
fn interleaved(b: &mut TirBuilder, parts: &[ValueId], shape: &[usize]) -> Result<ValueId, CompileError> {
    let n = parts.len();
    let rows = shape[0] / n;
    let mut apart = vec![rows, 1];
    apart.extend_from_slice(&shape[1..]);
    let mut turns = Vec::with_capacity(n);
    for &part in parts {
        let read = b.narrow_axis(part, 0, 0, rows)?;
        turns.push(b.reshape(read, &apart)?);
    }
    let all = b.concat(&turns, 1)?;
    b.reshape(all, shape)
}
