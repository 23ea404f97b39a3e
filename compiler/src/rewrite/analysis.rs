//! What is known of every e-class: type, whether it is constant, and where it came from.
//!
//! All nodes of a class compute the same tensor, so their types are equal: `merge` asserts it, which finds unsound rules at
//! once. In a release build a clash is recorded, and the block is left as it was.

use super::lang::{Node, NodeOp};
use crate::tir::eval::alu;
use crate::tir::map::MapTable;
use crate::tir::{IndexMap, Op, Type};
use egg::{Analysis, DidMerge, EGraph, Id};
use lockstep_isa::{AluOp, DType};
use std::collections::BTreeSet;

/// The e-graph of a block.
pub type Graph = EGraph<Node, Facts>;

/// A value from outside the block.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeafData {
    /// Its type.
    pub ty: Type,
    /// Whether all its ancestors are constants.
    pub constant: bool,
    /// Whether it is a constant that other operations use as well, or that is stored in a narrower dtype: a changed copy takes SRAM of
    /// its own.
    pub shared: bool,
}

/// What all classes of a graph share.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The block's outside values.
    pub leaves: Vec<LeafData>,
    /// Index maps of moves; rules add to it.
    pub maps: MapTable,
    /// Origin of nodes that are being added: numbers of the block's values.
    pub current: BTreeSet<u32>,
    /// Applications of rules that are still allowed; unlimited if absent.
    pub budget: Option<usize>,
    /// What was found wrong: rules that joined values of different types, or built operations that do not fit.
    pub clash: Option<String>,
}

/// What is known of one class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// Type. Immediates and operations on them alone have rank 0.
    pub ty: Type,
    /// All ancestors are constants: computed at compile time.
    pub constant: bool,
    /// A constant that is used elsewhere too; see [`LeafData::shared`].
    pub shared: bool,
    /// The bits, of an immediate.
    pub imm: Option<u32>,
    /// Values of the block that it stands for.
    pub origins: BTreeSet<u32>,
}

impl Analysis<Node> for Facts {
    type Data = Data;

    fn make(graph: &mut Graph, node: &Node, _: Id) -> Data {
        let args: Vec<Data> = node.args.iter().map(|&a| graph[a].data.clone()).collect();
        let constant = args.iter().all(|a| a.constant);
        let origins = graph.analysis.current.clone();
        let data = |ty: Type, constant: bool| Data {
            ty,
            constant,
            shared: false,
            imm: None,
            origins: origins.clone(),
        };
        match &node.op {
            NodeOp::Leaf(n) => match graph.analysis.leaves.get(*n as usize) {
                Some(leaf) => Data {
                    shared: leaf.shared,
                    ..data(leaf.ty.clone(), leaf.constant)
                },
                None => data(Type::new(DType::F32, &[]), false),
            },
            NodeOp::Imm(bits, dtype) => Data {
                imm: Some(*bits),
                ..data(Type::new(*dtype, &[]), true)
            },
            NodeOp::Prim(_, ty) => data(ty.clone(), constant),
            NodeOp::Cvt(dtype) => data(
                Type {
                    dtype: *dtype,
                    shape: args[0].ty.shape.clone(),
                },
                constant,
            ),
            NodeOp::Alu(op) => {
                let (dtype, shape) = elementwise(&mut graph.analysis.clash, *op, &args);
                let imm: Option<Vec<u32>> = args.iter().map(|a| a.imm).collect();
                let imm = imm.map(|mut bits| {
                    bits.resize(3, 0);
                    let compute = args[0].ty.dtype.widened();
                    let compute = if *op == AluOp::Select { dtype } else { compute };
                    alu(*op, compute, dtype, [bits[0], bits[1], bits[2]])
                });
                Data {
                    imm,
                    ..data(Type { dtype, shape }, constant)
                }
            }
        }
    }

    fn merge(&mut self, a: &mut Data, b: Data) -> DidMerge {
        debug_assert_eq!(a.ty, b.ty, "a rule joined values of different types");
        if a.ty != b.ty {
            self.clash
                .get_or_insert_with(|| format!("a rule joined {:?} and {:?}", a.ty, b.ty));
        }
        let joined = Data {
            ty: a.ty.clone(),
            constant: a.constant || b.constant,
            shared: a.shared || b.shared,
            imm: a.imm.or(b.imm),
            origins: a.origins.union(&b.origins).copied().collect(),
        };
        let did = DidMerge(joined != *a, joined != b);
        *a = joined;
        did
    }

    /// An operation on immediates alone is an immediate.
    fn modify(graph: &mut Graph, id: Id) {
        let data = &graph[id].data;
        if let Some(bits) = data.imm
            && data.ty.shape.is_empty()
        {
            let node = Node::new(NodeOp::Imm(bits, data.ty.dtype), &[]);
            let imm = graph.add(node);
            graph.union(id, imm);
        }
    }
}

/// Result dtype and broadcast shape of an ALU operation.
fn elementwise(clash: &mut Option<String>, op: AluOp, args: &[Data]) -> (DType, Vec<usize>) {
    let compute = args
        .get(usize::from(op == AluOp::Select))
        .map_or(DType::F32, |a| a.ty.dtype.widened());
    let dtype = match op {
        AluOp::Eq | AluOp::Ne | AluOp::Lt | AluOp::Le | AluOp::Gt | AluOp::Ge => DType::I32,
        _ => compute,
    };
    let alike = &args[usize::from(op == AluOp::Select).min(args.len())..];
    if let [first, rest @ ..] = alike
        && let Some(other) = rest.iter().find(|a| a.ty.dtype.widened() != first.ty.dtype.widened())
    {
        clash.get_or_insert_with(|| format!("{} of {:?} and {:?}", op.name(), first.ty, other.ty));
    }
    let rank = args.iter().map(|a| a.ty.rank()).max().unwrap_or(0);
    let mut shape = vec![1; rank];
    for arg in args.iter().filter(|a| a.ty.rank() > 0) {
        for (slot, &n) in shape.iter_mut().zip(&arg.ty.shape) {
            if *slot != n && *slot != 1 && n != 1 {
                clash.get_or_insert_with(|| format!("{} of {:?} and {:?}", op.name(), args[0].ty, arg.ty));
            }
            if n != 1 {
                *slot = n;
            }
        }
    }
    (dtype, shape)
}

/// Adds a move of one operand; the operand itself if it stays as it is.
pub fn add_move(graph: &mut Graph, x: Id, map: IndexMap) -> Id {
    let ty = graph[x].data.ty.clone();
    if map.is_identity(&ty.shape) {
        return x;
    }
    let ty = Type {
        shape: map.shape().to_vec(),
        ..ty
    };
    let part = graph.analysis.maps.intern(map);
    graph.add(Node::new(
        NodeOp::Prim(
            Op::Move {
                parts: vec![part],
                fill: 0,
            },
            ty,
        ),
        &[x],
    ))
}

/// Adds an elementwise operation.
pub fn add_alu(graph: &mut Graph, op: AluOp, args: &[Id]) -> Id {
    graph.add(Node::alu(op, args))
}
