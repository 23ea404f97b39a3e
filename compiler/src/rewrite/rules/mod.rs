//! The rules: tables of named equalities, by stage.
//!
//! A rule is `left => right` in the notation of patterns (names of ALU operations, f32 numbers, variables), or a root
//! operation and a function that gives equal classes. `exact` rules keep every rounding; `reassoc` rules may change it
//! and are off under `exact`. Every rule is tested on generated programs; see `tests.rs` beside this file.

pub mod algebra;
pub mod fold;
pub mod softmax;
#[cfg(test)]
mod tests;

use super::analysis::{Facts, Graph};
use super::lang::{Node, NodeOp};
use crate::error::CompileError;
use crate::tir::{Op, TirBuilder, Type, ValueId};
use egg::{Applier, ENodeOrVar, Id, Pattern, PatternAst, Rewrite, SearchMatches, Searcher, Subst, Symbol, Var};
use lockstep_isa::artifact::HostDType;
use lockstep_isa::{AluOp, DType};

/// Whether a rule keeps rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Both sides give the same bits.
    Exact,
    /// Rounding differs.
    Reassoc,
}

/// A condition on a variable of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// It is computed at compile time.
    Const(&'static str),
    /// It is an immediate.
    Imm(&'static str),
    /// Its elements are floats: for rules that do not hold of integers, or whose right side has numbers of its own.
    Float(&'static str),
}

/// What a rule does.
#[derive(Clone, Copy)]
pub enum Action {
    /// The right side as a pattern over the variables of the left, where all conditions hold.
    Pattern(&'static str, &'static str, &'static [When]),
    /// Classes equal to a class with such an operation, and a program in which the rule fires, whose last value is the root.
    Function(
        Root,
        fn(&mut Graph, Id) -> Vec<Id>,
        fn(&mut TirBuilder) -> Result<ValueId, CompileError>,
    ),
}

/// The operation that a function rule looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// An elementwise operation.
    Alu(AluOp),
    /// A contract.
    Contract,
}

/// A rule.
#[derive(Clone, Copy)]
pub struct Rule {
    /// Name in logs and tests.
    pub name: &'static str,
    /// Whether it keeps rounding.
    pub kind: Kind,
    /// What it does.
    pub action: Action,
}

/// A pattern rule.
pub const fn rule(
    name: &'static str,
    kind: Kind,
    left: &'static str,
    right: &'static str,
    when: &'static [When],
) -> Rule {
    Rule {
        name,
        kind,
        action: Action::Pattern(left, right, when),
    }
}

/// The stages in order: name and rules.
pub const STAGES: &[(&str, &[Rule])] = &[
    ("algebra", algebra::RULES),
    ("fold", fold::RULES),
    ("softmax", softmax::RULES),
];

/// The rewrites of the first `n_stages` stages.
///
/// # Errors
/// If a table holds a malformed pattern (a bug).
pub fn rewrites(n_stages: usize, exact: bool) -> Result<Vec<Rewrite<Node, Facts>>, CompileError> {
    let rules = STAGES.iter().take(n_stages).flat_map(|(_, rules)| rules.iter());
    rules.filter(|r| !exact || r.kind == Kind::Exact).map(compile).collect()
}

/// One rule for egg.
pub(super) fn compile(rule: &Rule) -> Result<Rewrite<Node, Facts>, CompileError> {
    let bad = |what: String| CompileError::internal("rewrite", format!("rule {}: {what}", rule.name));
    match rule.action {
        Action::Pattern(left, right, when) => {
            let parse = |text: &str| text.parse::<Pattern<Node>>().map_err(|e| bad(e.to_string()));
            let mut conditions = Vec::new();
            for condition in when {
                let (When::Const(name) | When::Imm(name) | When::Float(name)) = condition;
                let var: Var = name.parse().map_err(|_| bad(format!("{name} is no variable")))?;
                conditions.push((var, *condition));
            }
            let applier = Right {
                ast: parse(right)?.ast,
                conditions,
            };
            Rewrite::new(rule.name, parse(left)?, applier).map_err(bad)
        }
        Action::Function(root, apply, _) => Rewrite::new(rule.name, Find(root), Apply(apply)).map_err(bad),
    }
}

/// Instantiates the right side.
struct Right {
    ast: PatternAst<Node>,
    conditions: Vec<(Var, When)>,
}

impl Applier<Node, Facts> for Right {
    fn apply_one(
        &self,
        graph: &mut Graph,
        class: Id,
        subst: &Subst,
        _: Option<&PatternAst<Node>>,
        _: Symbol,
    ) -> Vec<Id> {
        for &(var, condition) in &self.conditions {
            let Some(&id) = subst.get(var) else { return Vec::new() };
            let data = &graph[id].data;
            let holds = match condition {
                When::Const(_) => data.constant,
                When::Imm(_) => data.imm.is_some(),
                When::Float(_) => data.ty.dtype.is_float(),
            };
            if !holds {
                return Vec::new();
            }
        }
        graph.analysis.current = graph[class].data.origins.clone();
        let mut ids: Vec<Id> = Vec::new();
        for node in self.ast.as_ref() {
            let id = match node {
                ENodeOrVar::Var(var) => match subst.get(*var) {
                    Some(&id) => id,
                    None => return Vec::new(),
                },
                ENodeOrVar::ENode(node) => {
                    let args: Vec<Id> = node.args.iter().map(|&a| ids[usize::from(a)]).collect();
                    let id = graph.add(Node {
                        op: node.op.clone(),
                        args,
                    });
                    if out_of_range(graph, node, &ids, id) {
                        graph.analysis.current.clear();
                        return Vec::new();
                    }
                    id
                }
            };
            ids.push(id);
        }
        graph.analysis.current.clear();
        ids.last().map_or_else(Vec::new, |&new| join(graph, class, new))
    }

    fn vars(&self) -> Vec<Var> {
        let pattern = Pattern::new(self.ast.clone());
        <Pattern<Node> as Searcher<Node, Facts>>::vars(&pattern)
    }
}

/// Whether numbers that meet leave the range of f32: 2^100 and 2^49 may each be a factor, their product is none.
fn out_of_range(graph: &Graph, node: &Node, ids: &[Id], id: Id) -> bool {
    let number = |id: Id| {
        let data = &graph[id].data;
        data.imm.filter(|_| data.ty.dtype == DType::F32).map(f32::from_bits)
    };
    let vanished = || {
        let mut factors = node.args.iter().map(|&a| number(ids[usize::from(a)]));
        node.op == NodeOp::Alu(AluOp::Mul) && factors.all(|f| f.is_some_and(|f| f != 0.0))
    };
    !node.args.is_empty() && number(id).is_some_and(|x| if x == 0.0 { vanished() } else { !x.is_normal() })
}

/// Finds classes with an operation.
struct Find(Root);

impl Searcher<Node, Facts> for Find {
    fn search_eclass_with_limit(&self, graph: &Graph, class: Id, limit: usize) -> Option<SearchMatches<'_, Node>> {
        let found = graph[class].nodes.iter().any(|n| match (&n.op, self.0) {
            (NodeOp::Alu(op), Root::Alu(wanted)) => *op == wanted,
            (NodeOp::Prim(Op::Contract { .. }, _), Root::Contract) => true,
            _ => false,
        });
        (found && limit > 0).then(|| SearchMatches {
            eclass: class,
            substs: vec![Subst::default()],
            ast: None,
        })
    }

    fn vars(&self) -> Vec<Var> {
        Vec::new()
    }
}

/// Joins a class with what a function gives for it.
struct Apply(fn(&mut Graph, Id) -> Vec<Id>);

impl Applier<Node, Facts> for Apply {
    fn apply_one(&self, graph: &mut Graph, class: Id, _: &Subst, _: Option<&PatternAst<Node>>, _: Symbol) -> Vec<Id> {
        graph.analysis.current = graph[class].data.origins.clone();
        let new = self.0(graph, class);
        graph.analysis.current.clear();
        new.into_iter().flat_map(|id| join(graph, class, id)).collect()
    }
}

/// Joins two classes if they have one type: a narrow operand that an operation would have widened stays as it is. Two immediates that
/// differ by a rounding stay apart: joined, every use of the one number could become the other, and a whole number a little less.
fn join(graph: &mut Graph, class: Id, new: Id) -> Vec<Id> {
    let (a, b) = (&graph[class].data, &graph[new].data);
    let same = a.ty == b.ty && (a.imm.is_none() || b.imm.is_none() || a.imm == b.imm);
    if graph.analysis.budget == Some(0) || !same || !graph.union(class, new) {
        return Vec::new();
    }
    graph.analysis.budget = graph.analysis.budget.map(|n| n - 1);
    vec![class]
}

/// An f32 input of a rule's example.
pub(super) fn sample_input(b: &mut TirBuilder, name: &str, shape: &[usize]) -> ValueId {
    let host: Vec<usize> = shape.to_vec();
    b.input(name, HostDType::F32, &host, Type::new(DType::F32, shape))
}

/// An f32 constant of a rule's example: different values of both signs, away from zero.
pub(super) fn sample_const(b: &mut TirBuilder, name: &str, shape: &[usize]) -> Result<ValueId, CompileError> {
    let n: usize = shape.iter().product();
    let values: Vec<f32> = (0..n)
        .map(|i| (if i % 3 == 1 { -1.0 } else { 1.0 }) * (0.5 + (i * 7 % 11) as f32 * 0.113))
        .collect();
    b.const_f32(name, shape, &values)
}
