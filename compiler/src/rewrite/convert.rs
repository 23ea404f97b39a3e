//! The bridge between the tensor IR and the e-graph: blocks out, chosen operations in.
//!
//! A *block* is a stretch of the program between places that few values cross (the ends of a layer). Constants and what other
//! blocks compute are its leaves. Two blocks are equal if they apply the same operations to leaves of the same types; then one
//! solution serves both.

use super::analysis::{Facts, Graph, LeafData};
use super::extract::Choice;
use super::lang::{Node, NodeOp};
use crate::error::CompileError;
use crate::tir::op::compute_dtype;
use crate::tir::{Arg, MapNode, Op, Port, TensorIr, TirBuilder, Type, ValueId, consteval};
use egg::Id;
use lockstep_graph::{EntityId, IdSet, OriginId};
use lockstep_isa::{AluOp, DType};
use std::collections::{BTreeMap, BTreeSet};

/// A block has at least this many operations: a layer's half, say, so that what should meet does meet.
const MIN_VALUES: usize = 16;
/// Values that may cross the end of a block: what a layer hands on, and one that all layers use, such as a mask.
const CROSSING: usize = 2;
/// A block has at most this many, wherever that cuts.
const MAX_VALUES: usize = 512;

/// A stretch of the program.
#[derive(Clone, Debug, Default)]
pub struct Block {
    /// Its operations, in order.
    pub values: Vec<ValueId>,
    /// What they use from outside, in order of first use.
    pub leaves: Vec<ValueId>,
    /// Those of its values that are used outside, ascending.
    pub outputs: Vec<ValueId>,
}

/// An operand in a block: a leaf or an operation, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ref {
    /// A leaf.
    Leaf(u32),
    /// An operation of the block.
    Local(u32),
}

/// What makes two blocks equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockKey {
    leaves: Vec<LeafData>,
    values: Vec<(Op, Type, Vec<Ref>)>,
    outputs: Vec<u32>,
}

/// Cuts the program into blocks.
pub fn blocks(ir: &TensorIr) -> Vec<Block> {
    let constant = consteval::const_values(ir);
    let mut last_use = vec![0usize; ir.values.len()];
    for (id, value) in ir.values.iter() {
        value.inputs.iter().for_each(|v| last_use[v.index()] = id.index());
    }
    let roots = ir
        .outputs
        .iter()
        .map(|p| p.value)
        .chain(ir.states.values().map(|s| s.next));
    roots.for_each(|v| last_use[v.index()] = usize::MAX);
    let inside = |id: ValueId| !constant.contains(id) && !matches!(ir.values[id].op, Op::Input | Op::State(_));
    let mut all = Vec::new();
    let mut block = Block::default();
    let mut crossing: BTreeSet<ValueId> = BTreeSet::new();
    let order: Vec<ValueId> = ir.values.iter().map(|(id, _)| id).filter(|&id| inside(id)).collect();
    let is_contract = |id: ValueId| matches!(ir.values[id].op, Op::Contract { .. });
    for (at, &id) in order.iter().enumerate() {
        block.values.push(id);
        crossing.insert(id);
        crossing.retain(|v| last_use[v.index()] > id.index());
        // What belongs to a contract comes after it, or two contracts later: blocks begin with one.
        let between = !is_contract(id) && order.get(at + 1).is_some_and(|&next| is_contract(next));
        let n = block.values.len();
        if (n >= MIN_VALUES && crossing.len() <= CROSSING && between) || n >= MAX_VALUES {
            all.push(std::mem::take(&mut block));
        }
    }
    if !block.values.is_empty() {
        all.push(block);
    }
    for block in &mut all {
        let own: BTreeSet<ValueId> = block.values.iter().copied().collect();
        let end = block.values.last().map_or(0, |v| v.index());
        let mut seen = IdSet::new();
        for &u in block.values.iter().flat_map(|&v| &ir.values[v].inputs) {
            if !own.contains(&u) && seen.insert(u) {
                block.leaves.push(u);
            }
        }
        block.outputs = block
            .values
            .iter()
            .copied()
            .filter(|v| last_use[v.index()] > end)
            .collect();
    }
    all
}

/// Whether a constant is one of a narrower dtype, moved and widened: contracts take it as it is stored. So they do where it is integers
/// times scales.
fn widened(ir: &TensorIr, v: ValueId) -> bool {
    let data = &ir.values[v];
    match &data.op {
        Op::Move { .. } => data.inputs.iter().all(|&u| widened(ir, u)),
        Op::Map { nodes } if matches!(&nodes[..], [n] if n.op == AluOp::Mul) => {
            let whole = |u: &&ValueId| ir.values[**u].ty.shape == data.ty.shape;
            data.inputs.iter().filter(whole).any(|&u| widened(ir, u))
        }
        Op::Map { nodes } => {
            let stored = data.inputs.first().map(|&u| ir.values[u].ty.dtype);
            nodes.len() == 1
                && matches!(nodes[0].op, AluOp::Cvt | AluOp::Copy)
                && stored.is_some_and(|d| d != data.ty.dtype && data.ty.dtype.holds(d))
        }
        _ => false,
    }
}

/// The form in which blocks are compared; `users` counts the users of every value.
pub fn key(ir: &TensorIr, block: &Block, constant: &IdSet<ValueId>, users: &[u32]) -> BlockKey {
    let leaf = |&v: &ValueId| LeafData {
        ty: ir.values[v].ty.clone(),
        constant: constant.contains(v),
        shared: constant.contains(v) && (users[v.index()] > 1 || widened(ir, v)),
    };
    let numbers = |list: &[ValueId], r: fn(u32) -> Ref| -> Vec<(ValueId, Ref)> {
        list.iter().copied().zip((0..).map(r)).collect()
    };
    let refs: BTreeMap<ValueId, Ref> = numbers(&block.leaves, Ref::Leaf)
        .into_iter()
        .chain(numbers(&block.values, Ref::Local))
        .collect();
    let value = |&v: &ValueId| {
        let data = &ir.values[v];
        (
            data.op.clone(),
            data.ty.clone(),
            data.inputs.iter().filter_map(|u| refs.get(u).copied()).collect(),
        )
    };
    let output = |v: &ValueId| block.values.iter().position(|b| b == v).map(|n| n as u32);
    BlockKey {
        leaves: block.leaves.iter().map(leaf).collect(),
        values: block.values.iter().map(value).collect(),
        outputs: block.outputs.iter().filter_map(output).collect(),
    }
}

/// The e-graph of a block, and the classes of its outputs.
pub fn graph(key: &BlockKey, facts: Facts) -> (Graph, Vec<Id>) {
    let mut graph = Graph::new(Facts {
        leaves: key.leaves.clone(),
        ..facts
    });
    let leaves: Vec<Id> = (0..key.leaves.len())
        .map(|n| graph.add(Node::new(NodeOp::Leaf(n as u32), &[])))
        .collect();
    let mut ids: Vec<Id> = Vec::new();
    for (n, (op, ty, inputs)) in key.values.iter().enumerate() {
        graph.analysis.current = BTreeSet::from([n as u32]);
        let args: Vec<Id> = inputs
            .iter()
            .map(|r| match *r {
                Ref::Leaf(n) => leaves[n as usize],
                Ref::Local(n) => ids[n as usize],
            })
            .collect();
        let split = match op {
            Op::Map { nodes } => split(&mut graph, nodes, &args).filter(|&id| graph[id].data.ty == *ty),
            _ => None,
        };
        ids.push(split.unwrap_or_else(|| graph.add(Node::new(NodeOp::Prim(op.clone(), ty.clone()), &args))));
    }
    graph.analysis.current.clear();
    graph.rebuild();
    let roots = key.outputs.iter().map(|&n| ids[n as usize]).collect();
    (graph, roots)
}

/// A map as single operations; `None` if it depends on coordinates, or has an operation of immediates alone, which has no shape of its own.
fn split(graph: &mut Graph, nodes: &[MapNode], args: &[Id]) -> Option<Id> {
    let shapeless = |n: &MapNode| n.args[..n.op.arity()].iter().all(|a| matches!(a, Arg::Imm(_)));
    if nodes.iter().any(|n| n.op == AluOp::Iota || shapeless(n)) {
        return None;
    }
    let operands: Vec<DType> = args.iter().map(|&a| graph[a].data.ty.dtype).collect();
    let mut ids: Vec<Id> = Vec::with_capacity(nodes.len());
    for (at, node) in nodes.iter().enumerate() {
        let compute = compute_dtype(nodes, at, &operands);
        let mut inputs: Vec<Id> = Vec::with_capacity(3);
        for (n, &arg) in node.args[..node.op.arity()].iter().enumerate() {
            inputs.push(match arg {
                Arg::Operand(i) => args[i as usize],
                Arg::Node(i) => ids[i as usize],
                Arg::Imm(bits) => {
                    let dtype = if node.op == AluOp::Select && n == 0 {
                        DType::I32
                    } else {
                        compute
                    };
                    graph.add(Node::new(NodeOp::Imm(bits, dtype), &[]))
                }
            });
        }
        let op = match node.op {
            AluOp::Cvt => NodeOp::Cvt(node.dtype),
            op => NodeOp::Alu(op),
        };
        // Constants come second, so that rules need one form alone.
        let commutes = matches!(node.op, AluOp::Add | AluOp::Mul | AluOp::Min | AluOp::Max | AluOp::Fma);
        if commutes && graph[inputs[0]].data.constant && !graph[inputs[1]].data.constant {
            inputs.swap(0, 1);
        }
        ids.push(graph.add(Node { op, args: inputs }));
    }
    ids.last().copied()
}

/// One operation of a solution.
#[derive(Clone, Debug)]
pub struct Step {
    op: NodeOp,
    args: Vec<usize>,
    ty: Type,
    origins: Vec<u32>,
}

/// What a block becomes.
#[derive(Clone, Debug)]
pub struct Solution {
    steps: Vec<Step>,
    outputs: Vec<usize>,
}

/// The chosen operations of a graph.
pub fn solution(graph: &Graph, roots: &[Id], choice: &Choice) -> Option<Solution> {
    let at: BTreeMap<Id, usize> = choice
        .nodes
        .iter()
        .enumerate()
        .map(|(n, (class, _))| (*class, n))
        .collect();
    let place = |id: &Id| at.get(&graph.find(*id)).copied();
    let step = |(class, node): &(Id, Node)| {
        let data = &graph[*class].data;
        let args = node.args.iter().map(place).collect::<Option<Vec<usize>>>()?;
        Some(Step {
            op: node.op.clone(),
            args,
            ty: data.ty.clone(),
            origins: data.origins.iter().copied().collect(),
        })
    };
    Some(Solution {
        steps: choice.nodes.iter().map(step).collect::<Option<_>>()?,
        outputs: roots.iter().map(place).collect::<Option<_>>()?,
    })
}

/// Rebuilds the program with a solution for every block that has one.
///
/// # Errors
/// If a solution does not fit the program (a bug).
pub fn rebuild(ir: &mut TensorIr, blocks: &[Block], solutions: &[Option<&Solution>]) -> Result<(), CompileError> {
    let mut old = std::mem::take(ir);
    let mut b = TirBuilder::like(&mut old);
    b.carry_states(&old);
    let mut new: Vec<Option<ValueId>> = vec![None; old.values.len()];
    let constant = consteval::const_values(&old);
    for (id, value) in old.values.iter() {
        if constant.contains(id) || matches!(value.op, Op::Input | Op::State(_)) {
            keep(&mut b, &old, &mut new, id)?;
        }
    }
    for (block, solution) in blocks.iter().zip(solutions) {
        match solution {
            Some(solution) => emit(&mut b, &old, &mut new, block, solution)?,
            None => block.values.iter().try_for_each(|&v| keep(&mut b, &old, &mut new, v))?,
        }
    }
    let renamed = |ports: &[Port]| -> Result<Vec<Port>, CompileError> {
        ports
            .iter()
            .map(|p| {
                Ok(Port {
                    value: fetch(&new, p.value)?,
                    ..p.clone()
                })
            })
            .collect()
    };
    let (inputs, outputs) = (renamed(&old.inputs)?, renamed(&old.outputs)?);
    let next = old
        .states
        .values()
        .map(|s| fetch(&new, s.next))
        .collect::<Result<Vec<_>, _>>()?;
    next.into_iter().enumerate().for_each(|(n, v)| b.set_next(n, v));
    *ir = b.finish();
    ir.inputs = inputs;
    ir.outputs = outputs;
    Ok(())
}

fn fetch(new: &[Option<ValueId>], v: ValueId) -> Result<ValueId, CompileError> {
    new[v.index()].ok_or_else(|| CompileError::internal("rewrite", format!("{v} was not rebuilt")))
}

fn keep(b: &mut TirBuilder, old: &TensorIr, new: &mut [Option<ValueId>], id: ValueId) -> Result<(), CompileError> {
    let value = &old.values[id];
    let inputs = value
        .inputs
        .iter()
        .map(|&v| fetch(new, v))
        .collect::<Result<Vec<_>, _>>()?;
    b.set_origins(&value.origins);
    new[id.index()] = Some(b.push(value.op.clone(), &inputs, &value.ty)?);
    Ok(())
}

/// An operand of an emitted operation.
#[derive(Clone, Copy)]
enum Made {
    Value(ValueId),
    Imm(u32),
}

fn emit(
    b: &mut TirBuilder,
    old: &TensorIr,
    new: &mut [Option<ValueId>],
    block: &Block,
    solution: &Solution,
) -> Result<(), CompileError> {
    let bug = || CompileError::internal("rewrite", "an immediate where a tensor is needed");
    let mut made: Vec<Made> = Vec::with_capacity(solution.steps.len());
    for step in &solution.steps {
        b.set_origins(&origins(old, block, step));
        let args: Vec<Made> = step.args.iter().map(|&a| made[a]).collect();
        let value = match &step.op {
            NodeOp::Imm(bits, _) => Made::Imm(*bits),
            NodeOp::Leaf(n) => Made::Value(fetch(new, block.leaves[*n as usize])?),
            NodeOp::Alu(op) => Made::Value(single(b, *op, &step.ty, &args)?),
            NodeOp::Cvt(_) => Made::Value(single(b, AluOp::Cvt, &step.ty, &args)?),
            NodeOp::Prim(op, ty) => {
                let tensor = |m: &Made| if let Made::Value(v) = m { Ok(*v) } else { Err(bug()) };
                let inputs = args.iter().map(tensor).collect::<Result<Vec<_>, _>>()?;
                Made::Value(b.push(op.clone(), &inputs, ty)?)
            }
        };
        made.push(value);
    }
    for (&old_value, &at) in block.outputs.iter().zip(&solution.outputs) {
        let Made::Value(v) = made[at] else { return Err(bug()) };
        new[old_value.index()] = Some(v);
    }
    Ok(())
}

/// A map of one operation.
fn single(b: &mut TirBuilder, op: AluOp, ty: &Type, args: &[Made]) -> Result<ValueId, CompileError> {
    let mut operands = Vec::new();
    let mut slots = [Arg::Imm(0); 3];
    for (slot, made) in slots.iter_mut().zip(args) {
        *slot = match *made {
            Made::Imm(bits) => Arg::Imm(bits),
            Made::Value(v) => {
                operands.push(v);
                Arg::Operand(operands.len() as u32 - 1)
            }
        };
    }
    b.map_nodes(
        &ty.shape,
        &operands,
        vec![MapNode {
            op,
            dtype: ty.dtype,
            args: slots,
            axis: 0,
        }],
    )
}

fn origins(old: &TensorIr, block: &Block, step: &Step) -> Vec<OriginId> {
    let all = |values: &[ValueId]| -> Vec<OriginId> {
        let set: BTreeSet<OriginId> = values
            .iter()
            .flat_map(|&v| old.values[v].origins.iter().copied())
            .collect();
        set.into_iter().collect()
    };
    let from: Vec<ValueId> = step
        .origins
        .iter()
        .filter_map(|&n| block.values.get(n as usize).copied())
        .collect();
    if from.is_empty() {
        all(&block.outputs)
    } else {
        all(&from)
    }
}
