//! Expansion of a plan: every operation once per chip that does it, every movement between chips a transfer.

use super::cuts::{StagePlan, homes};
use super::dist::{Dist, Split};
use super::fabric::{Fabric, Load};
use super::search::Sharding;
use super::{CollectiveInfo, Context, Partitioned, Stage, choice, moves};
use crate::CompileError;
use crate::tir::{Arg, IndexMap, MapNode, Op, Port, StateData, TensorIr, Type, ValueData, ValueId};
use lockstep_graph::{OriginId, SideTable};
use lockstep_isa::{AluOp, DType};
use std::collections::BTreeMap;

/// Name of this step in messages about bugs.
const PASS: &str = "partition";

/// A part of a value: everything, or `lo..hi` of one axis.
type Part = Option<(usize, usize, usize)>;

/// Builds the partitioned program of one plan.
pub(super) struct Expander<'a> {
    pub(super) cx: &'a Context<'a>,
    stages: &'a [StagePlan],
    shardings: &'a [Sharding],
    home: SideTable<ValueId, u16>,
    pub(super) fabric: Fabric,
    loads: Vec<Load>,
    pub(super) ir: TensorIr,
    chip: SideTable<ValueId, u16>,
    /// What the members of a stage hold of a source value.
    held: BTreeMap<(ValueId, u16, Dist), Vec<ValueId>>,
    constants: BTreeMap<(ValueId, u16, Part), ValueId>,
    inputs: BTreeMap<(ValueId, u16), ValueId>,
    /// Copies of one value on different chips share a group.
    group: SideTable<ValueId, u32>,
    copies: Vec<BTreeMap<u16, ValueId>>,
    pub(super) collectives: Vec<CollectiveInfo>,
}

impl<'a> Expander<'a> {
    pub(super) fn new(
        cx: &'a Context<'a>,
        stages: &'a [StagePlan],
        shardings: &'a [Sharding],
        n_chips: u16,
    ) -> Expander<'a> {
        let fabric = Fabric::new(cx.target, n_chips);
        let ir = TensorIr {
            name: cx.ir.name.clone(),
            consts: cx.ir.consts.clone(),
            maps: cx.ir.maps.clone(),
            origins: cx.ir.origins.clone(),
            ..TensorIr::default()
        };
        Expander {
            cx,
            stages,
            shardings,
            home: homes(cx, stages),
            loads: stages.iter().map(|s| fabric.load(s.first, s.degree)).collect(),
            fabric,
            ir,
            chip: SideTable::new(),
            held: BTreeMap::new(),
            constants: BTreeMap::new(),
            inputs: BTreeMap::new(),
            group: SideTable::new(),
            copies: Vec::new(),
            collectives: Vec::new(),
        }
    }

    /// The whole program.
    pub(super) fn run(mut self, n_chips: u16) -> Result<Partitioned, CompileError> {
        let mut stages = Vec::with_capacity(self.stages.len());
        for (s, plan) in self.stages.iter().enumerate() {
            let first = self.ir.values.len();
            for at in plan.ops.clone() {
                self.operation(s as u16, self.cx.order[at])?;
            }
            stages.push(Stage {
                chips: plan.first..plan.first + plan.degree,
                ops: first..self.ir.values.len(),
            });
        }
        for &(state, next) in &self.cx.feeds {
            let s = self.home[state];
            let dist = self.sharding(s).dist(state);
            let nexts = self.need(next, s, &dist)?;
            let states = self.need(state, s, &dist)?;
            for (state, next) in states.into_iter().zip(nexts) {
                if let Op::State(id) = self.ir.values[state].op {
                    self.ir.states[id].next = next;
                }
            }
        }
        for port in &self.cx.ir.outputs {
            let value = self.output(port.value)?;
            self.ir.outputs.push(Port { value, ..port.clone() });
        }
        let mut input_copies = Vec::new();
        for (index, port) in self.cx.ir.inputs.iter().enumerate() {
            let on: Vec<ValueId> = self
                .inputs
                .range((port.value, 0)..=(port.value, u16::MAX))
                .map(|(_, &id)| id)
                .collect();
            let value = match on.first() {
                Some(&id) => id,
                None => self.input(port.value, 0),
            };
            self.ir.inputs.push(Port { value, ..port.clone() });
            input_copies.extend(on.iter().skip(1).map(|&id| (index, id)));
        }
        Ok(Partitioned {
            ir: self.ir,
            chip: self.chip,
            n_chips,
            stages,
            input_copies,
            collectives: self.collectives,
            description: String::new(),
            modelled_cycles: 0,
            modelled_stage: 0,
            examined: Vec::new(),
        })
    }

    fn sharding(&self, stage: u16) -> &'a Sharding {
        &self.shardings[self.stages[stage as usize].sharding]
    }

    /// Adds an operation on a chip.
    pub(super) fn emit(&mut self, op: Op, inputs: Vec<ValueId>, ty: Type, chip: u16, origins: &[OriginId]) -> ValueId {
        let id = self.ir.values.push(ValueData {
            ty,
            op,
            inputs,
            origins: origins.to_vec(),
        });
        self.chip[id] = chip;
        self.group[id] = self.copies.len() as u32;
        self.copies.push(BTreeMap::from([(chip, id)]));
        id
    }

    /// A one-operand move.
    pub(super) fn rearrange(&mut self, of: ValueId, map: IndexMap, chip: u16) -> ValueId {
        let ty = Type {
            dtype: self.ir.values[of].ty.dtype,
            shape: map.shape().to_vec(),
        };
        let origins = self.ir.values[of].origins.clone();
        let map = self.ir.maps.intern(map);
        self.emit(
            Op::Move {
                parts: vec![map],
                fill: 0,
            },
            vec![of],
            ty,
            chip,
            &origins,
        )
    }

    /// A part of a value, on the chip where it is.
    pub(super) fn part(&mut self, of: ValueId, axis: usize, lo: usize, hi: usize) -> ValueId {
        let shape = self.ir.values[of].ty.shape.clone();
        if lo == 0 && hi == shape[axis] {
            return of;
        }
        let chip = self.chip[of];
        self.rearrange(of, moves::narrow(&shape, axis, lo, hi), chip)
    }

    /// Declares that these hold the same value on their chips.
    pub(super) fn same(&mut self, ids: &[ValueId]) {
        let Some(&first) = ids.first() else { return };
        let group = self.group[first];
        for &id in ids {
            let other = self.group[id];
            if other != group {
                let members = std::mem::take(&mut self.copies[other as usize]);
                for (chip, member) in members {
                    self.group[member] = group;
                    self.copies[group as usize].entry(chip).or_insert(member);
                }
            }
        }
    }

    /// Chip of a value.
    pub(super) fn chip_of(&self, id: ValueId) -> u16 {
        self.chip[id]
    }

    /// The value on another chip: a copy that is there already, or transfers along the shortest path from the nearest one.
    pub(super) fn copy_to(&mut self, id: ValueId, to: u16) -> Result<ValueId, CompileError> {
        let group = self.group[id] as usize;
        if let Some(&here) = self.copies[group].get(&to) {
            return Ok(here);
        }
        let copies = &self.copies[group];
        let path = self
            .fabric
            .path(to, self.chip[id], |c| copies.contains_key(&c))
            .ok_or_else(|| CompileError::internal(PASS, format!("no path from c{} to c{to}", self.chip[id])))?;
        let mut at = self.copies[group][&path[0]];
        let (ty, origins) = (self.ir.values[at].ty.clone(), self.ir.values[at].origins.clone());
        for &chip in &path[1..] {
            let copy = self.emit(Op::Transfer, vec![at], ty.clone(), chip, &origins);
            self.same(&[at, copy]);
            at = copy;
        }
        Ok(at)
    }

    /// The argument on a chip.
    fn input(&mut self, v: ValueId, chip: u16) -> ValueId {
        if let Some(&id) = self.inputs.get(&(v, chip)) {
            return id;
        }
        let data = &self.cx.ir.values[v];
        let id = self.emit(Op::Input, Vec::new(), data.ty.clone(), chip, &data.origins);
        self.inputs.insert((v, chip), id);
        id
    }

    /// A part of a constant expression on a chip, with the part taken as near to the constants as it goes, so that only
    /// what is used is ever made.
    fn constant(&mut self, v: ValueId, chip: u16, part: Part) -> Result<ValueId, CompileError> {
        let data = &self.cx.ir.values[v];
        let part = part.filter(|&(axis, lo, hi)| lo != 0 || hi != data.ty.shape[axis]);
        if let Some(&id) = self.constants.get(&(v, chip, part)) {
            return Ok(id);
        }
        let mut ty = data.ty.clone();
        if let Some((axis, lo, hi)) = part {
            ty.shape[axis] = hi - lo;
        }
        let id = match (&data.op, part) {
            (Op::Move { parts, fill }, Some((axis, lo, hi))) => {
                let inputs = data
                    .inputs
                    .iter()
                    .map(|&u| self.constant(u, chip, None))
                    .collect::<Result<_, _>>()?;
                let parts = parts
                    .iter()
                    .map(|&m| {
                        self.ir
                            .maps
                            .intern(moves::narrow_output(self.cx.ir.maps.get(m), axis, lo, hi))
                    })
                    .collect();
                self.emit(Op::Move { parts, fill: *fill }, inputs, ty, chip, &data.origins)
            }
            (Op::Map { nodes }, Some((axis, lo, _))) => {
                let inputs = data
                    .inputs
                    .iter()
                    .map(|&u| self.constant(u, chip, part.filter(|_| self.cx.ir.values[u].ty.shape[axis] != 1)))
                    .collect::<Result<_, _>>()?;
                self.emit(
                    Op::Map {
                        nodes: shifted(nodes, axis, lo),
                    },
                    inputs,
                    ty,
                    chip,
                    &data.origins,
                )
            }
            (_, Some((axis, lo, hi))) => {
                let whole = self.constant(v, chip, None)?;
                self.part(whole, axis, lo, hi)
            }
            (op, None) => {
                let inputs = data
                    .inputs
                    .iter()
                    .map(|&u| self.constant(u, chip, None))
                    .collect::<Result<_, _>>()?;
                self.emit(op.clone(), inputs, ty, chip, &data.origins)
            }
        };
        self.constants.insert((v, chip, part), id);
        Ok(id)
    }

    /// What the members of a stage need of a value.
    fn need(&mut self, v: ValueId, stage: u16, dist: &Dist) -> Result<Vec<ValueId>, CompileError> {
        let key = (v, stage, dist.clone());
        if let Some(found) = self.held.get(&key) {
            return Ok(found.clone());
        }
        let plan = self.stages[stage as usize].clone();
        let part = |rank: u16| -> Part {
            match dist {
                Dist::Split(s) => {
                    let (lo, hi) = s.range(rank as usize);
                    Some((s.axis(), lo, hi))
                }
                _ => None,
            }
        };
        let found = if self.cx.constant[v] {
            (0..plan.degree)
                .map(|r| self.constant(v, plan.first + r, part(r)))
                .collect::<Result<Vec<_>, _>>()?
        } else if self.cx.ir.values[v].op == Op::Input {
            (0..plan.degree)
                .map(|r| {
                    let whole = self.input(v, plan.first + r);
                    part(r).map_or(whole, |(axis, lo, hi)| self.part(whole, axis, lo, hi))
                })
                .collect()
        } else if self.home[v] == stage {
            let from = self.sharding(stage).dist(v);
            let pieces = self.pieces(v, stage, &from)?;
            self.convert(
                &pieces,
                &self.cx.ir.values[v].ty,
                &from,
                dist,
                self.loads[stage as usize],
            )?
        } else {
            self.fetch(v, &plan, dist)?
        };
        self.held.insert(key, found.clone());
        Ok(found)
    }

    /// What the members of its home hold of a value as computed.
    fn pieces(&self, v: ValueId, stage: u16, dist: &Dist) -> Result<Vec<ValueId>, CompileError> {
        self.held
            .get(&(v, stage, dist.clone()))
            .cloned()
            .ok_or_else(|| CompileError::internal(PASS, format!("{v} is used before its stage s{stage}")))
    }

    /// A value of another stage: each member gets the parts that it needs.
    fn fetch(&mut self, v: ValueId, to: &StagePlan, dist: &Dist) -> Result<Vec<ValueId>, CompileError> {
        let home = self.home[v];
        let mut from = self.sharding(home).dist(v);
        if let Dist::Partial(_) = from {
            from = Dist::Whole;
        }
        let pieces = self.need(v, home, &from)?;
        let ty = self.cx.ir.values[v].ty.clone();
        let mut result = Vec::with_capacity(to.degree as usize);
        for r in 0..to.degree {
            let chip = to.first + r;
            result.push(match (&from, dist) {
                (Dist::Split(a), Dist::Split(b)) if a == b => self.copy_to(pieces[r as usize], chip)?,
                (Dist::Split(a), Dist::Split(b)) => self.exchange(&pieces, &ty, a, b, r as usize, chip)?,
                (Dist::Whole, Dist::Split(b)) => {
                    let (lo, hi) = b.range(r as usize);
                    let part = self.part(pieces[r as usize % pieces.len()], b.axis(), lo, hi);
                    self.copy_to(part, chip)?
                }
                (Dist::Split(_), _) => self.assemble(&pieces, &ty, &from, chip)?,
                _ => self.copy_to(pieces[r as usize % pieces.len()], chip)?,
            });
        }
        if *dist == Dist::Whole {
            self.same(&result);
        }
        Ok(result)
    }

    /// One operation of a stage, on each member.
    fn operation(&mut self, stage: u16, v: ValueId) -> Result<(), CompileError> {
        let plan = self.stages[stage as usize].clone();
        let sharding = self.sharding(stage);
        let data = &self.cx.ir.values[v];
        let out = sharding.dist(v);
        let mut operands: Vec<Vec<ValueId>> = Vec::with_capacity(data.inputs.len());
        for (j, &u) in data.inputs.iter().enumerate() {
            operands.push(self.need(u, stage, &sharding.need(v, j))?);
        }
        let mut pieces = Vec::with_capacity(plan.degree as usize);
        for r in 0..plan.degree {
            let chip = plan.first + r;
            let ty = out.local(&data.ty, r as usize);
            let mut inputs: Vec<ValueId> = operands.iter().map(|o| o[r as usize]).collect();
            let op = match (&data.op, &out) {
                (Op::State(id), _) => {
                    let next = self.ir.values.next_id();
                    let state = StateData {
                        ty: ty.clone(),
                        next,
                        ..self.cx.ir.states[*id].clone()
                    };
                    Op::State(self.ir.states.push(state))
                }
                (Op::Map { nodes }, Dist::Split(s)) => Op::Map {
                    nodes: shifted(nodes, s.axis(), s.range(r as usize).0),
                },
                (Op::Move { parts, fill }, Dist::Split(s)) => {
                    let mut local = Vec::new();
                    let mut used = Vec::new();
                    for (j, (&m, &u)) in parts.iter().zip(&data.inputs).enumerate() {
                        let behind = match sharding.need(v, j) {
                            Dist::Split(b) => Some(b),
                            _ => None,
                        };
                        let shape = &self.cx.ir.values[u].ty.shape;
                        let map = choice::local_map(self.cx.ir, m, shape, s, behind.as_ref(), r as usize)
                            .ok_or_else(|| CompileError::internal(PASS, format!("{v} has too many views")))?;
                        local.push(self.ir.maps.intern(map));
                        used.push(inputs[j]);
                    }
                    inputs = used;
                    Op::Move {
                        parts: local,
                        fill: *fill,
                    }
                }
                (op, _) => op.clone(),
            };
            pieces.push(self.emit(op, inputs, ty, chip, &data.origins));
        }
        if out == Dist::Whole {
            self.same(&pieces);
        }
        self.held.insert((v, stage, out), pieces);
        Ok(())
    }

    /// An output of the model, whole on one chip.
    fn output(&mut self, v: ValueId) -> Result<ValueId, CompileError> {
        if self.cx.constant[v] {
            return self.constant(v, 0, None);
        }
        if self.cx.ir.values[v].op == Op::Input {
            let on = self
                .inputs
                .range((v, 0)..=(v, u16::MAX))
                .next()
                .map_or(0, |((_, chip), _)| *chip);
            return Ok(self.input(v, on));
        }
        let home = self.home[v];
        if let Some(whole) = self.held.get(&(v, home, Dist::Whole)) {
            return Ok(whole[0]);
        }
        let dist = self.sharding(home).dist(v);
        let pieces = self.pieces(v, home, &dist)?;
        let ty = self.cx.ir.values[v].ty.clone();
        self.assemble(&pieces, &ty, &dist, self.stages[home as usize].first)
    }
}

/// Nodes of a map for a part of its output that starts at `lo` of `axis`: coordinates along it are shifted.
fn shifted(nodes: &[MapNode], axis: usize, lo: usize) -> Vec<MapNode> {
    let mut result = Vec::with_capacity(nodes.len());
    let mut at: Vec<u32> = Vec::with_capacity(nodes.len());
    for node in nodes {
        let mut node = *node;
        for arg in &mut node.args {
            if let Arg::Node(k) = arg {
                *k = at.get(*k as usize).copied().unwrap_or(*k);
            }
        }
        result.push(node);
        if node.op == AluOp::Iota && node.axis as usize == axis && lo > 0 {
            let iota = result.len() as u32 - 1;
            let args = [Arg::Node(iota), Arg::Imm(lo as u32), Arg::Imm(0)];
            result.push(MapNode {
                op: AluOp::Add,
                dtype: DType::I32,
                args,
                axis: 0,
            });
        }
        at.push(result.len() as u32 - 1);
    }
    result
}

/// The split of the pieces of a distribution, where it is one.
pub(super) fn split_of(dist: &Dist) -> Option<&Split> {
    match dist {
        Dist::Split(s) => Some(s),
        _ => None,
    }
}
