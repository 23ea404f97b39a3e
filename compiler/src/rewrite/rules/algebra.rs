//! Identities of elementwise operations, and multiply-adds.
//!
//! There is no commutativity and no associativity here: a rule moves constants to where they meet other constants, or lowers the
//! number of operations. `rsqrt(x)` is `1 / sqrt(x)` by definition, in two roundings.

use super::super::analysis::{Graph, add_alu};
use super::super::lang::{Node, NodeOp};
use super::Kind::{Exact, Reassoc};
use super::When::{Const, Float, Imm};
use super::{Action, Root, Rule, rule};
use crate::error::CompileError;
use crate::tir::expr::Ex;
use crate::tir::{TirBuilder, ValueId};
use egg::Id;
use lockstep_isa::AluOp;
use lockstep_isa::DType;

/// The table.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    rule("mul-one",       Exact,   "(mul ?x 1)",                      "?x",                              &[]),
    rule("div-one",       Exact,   "(div ?x 1)",                      "?x",                              &[]),
    rule("sub-zero",      Exact,   "(sub ?x 0)",                      "?x",                              &[]),
    rule("add-neg-zero",  Exact,   "(add ?x -0.0)",                   "?x",                              &[]),
    rule("max-same",      Exact,   "(max ?x ?x)",                     "?x",                              &[]),
    rule("min-same",      Exact,   "(min ?x ?x)",                     "?x",                              &[]),
    rule("max-max",       Exact,   "(max (max ?x ?a) ?a)",            "(max ?x ?a)",                     &[]),
    rule("min-min",       Exact,   "(min (min ?x ?a) ?a)",            "(min ?x ?a)",                     &[]),
    rule("neg-neg",       Exact,   "(neg (neg ?x))",                  "?x",                              &[]),
    rule("abs-neg",       Exact,   "(abs (neg ?x))",                  "(abs ?x)",                        &[]),
    rule("abs-abs",       Exact,   "(abs (abs ?x))",                  "(abs ?x)",                        &[]),
    rule("sub-neg",       Exact,   "(sub ?a (neg ?b))",               "(add ?a ?b)",                     &[]),
    rule("add-neg",       Exact,   "(add ?a (neg ?b))",               "(sub ?a ?b)",                     &[]),
    rule("mul-minus-one", Exact,   "(mul ?x -1)",                     "(neg ?x)",                        &[]),
    rule("sub-const",     Exact,   "(sub ?x ?c)",                     "(add ?x (neg ?c))",               &[Const("?c")]),
    rule("one-over-sqrt", Exact,   "(div 1 (sqrt ?x))",               "(rsqrt ?x)",                      &[]),
    Rule { name: "div-exact", kind: Exact, action: Action::Function(Root::Alu(AluOp::Div), div_exact, sample_div_exact) },
    rule("add-zero",      Reassoc, "(add ?x 0)",                      "?x",                              &[]),
    rule("div-const",     Reassoc, "(div ?x ?c)",                     "(mul ?x (div 1 ?c))",             &[Const("?c"), Float("?c")]),
    rule("div-sqrt",      Reassoc, "(div ?x (sqrt ?y))",              "(mul ?x (rsqrt ?y))",             &[]),
    rule("mul-add",       Reassoc, "(add (mul ?a ?b) ?c)",            "(fma ?a ?b ?c)",                  &[]),
    rule("add-mul",       Reassoc, "(add ?c (mul ?a ?b))",            "(fma ?a ?b ?c)",                  &[]),
    rule("sub-mul-const", Reassoc, "(sub ?x (mul ?s ?c))",            "(fma ?s (neg ?c) ?x)",            &[Const("?c")]),
    rule("mul-sub-const", Reassoc, "(sub (mul ?a ?b) ?c)",            "(fma ?a ?b (neg ?c))",            &[Const("?c")]),
    rule("mul-add-one",   Reassoc, "(mul ?a (add ?b 1))",             "(fma ?a ?b ?a)",                  &[]),
    rule("mul-mul-const", Reassoc, "(mul (mul ?x ?s) ?t)",            "(mul ?x (mul ?s ?t))",            &[Const("?s"), Const("?t")]),
    rule("add-add-const", Reassoc, "(add (add ?x ?s) ?t)",            "(add ?x (add ?s ?t))",            &[Const("?s"), Const("?t")]),
    rule("pull-scale",    Reassoc, "(mul (mul ?x ?s) ?y)",            "(mul (mul ?x ?y) ?s)",            &[Imm("?s")]),
    rule("pull-scale-fma", Reassoc, "(fma (mul ?x ?s) ?y (mul ?x ?s))", "(mul (fma ?x ?y ?x) ?s)",       &[Imm("?s")]),
    rule("mul-over-add",  Reassoc, "(mul (add ?x ?b) ?s)",            "(add (mul ?x ?s) (mul ?b ?s))",   &[Const("?b"), Const("?s")]),
    rule("fma-over-add",  Reassoc, "(fma (add ?x ?b) ?g ?h)",         "(add (mul ?x ?g) (fma ?b ?g ?h))", &[Const("?b"), Const("?g"), Const("?h")]),
    rule("split-fma",     Reassoc, "(fma ?x ?g ?h)",                  "(add (mul ?x ?g) ?h)",            &[Const("?g"), Const("?h")]),
];

/// `x / c` is `x * (1 / c)` to the bit where c is a power of two.
fn div_exact(graph: &mut Graph, class: Id) -> Vec<Id> {
    let nodes: Vec<Node> = graph[class].nodes.clone();
    let mut out = Vec::new();
    for node in nodes.iter().filter(|n| n.op == NodeOp::Alu(AluOp::Div)) {
        let divisor = &graph[node.args[1]].data;
        let Some(bits) = divisor.imm.filter(|_| divisor.ty.dtype == DType::F32) else {
            continue;
        };
        let c = f32::from_bits(bits);
        if c.is_normal() && c.to_bits().trailing_zeros() >= 23 && (1.0 / c).is_normal() {
            let inverse = graph.add(Node::f32(1.0 / c));
            out.push(add_alu(graph, AluOp::Mul, &[node.args[0], inverse]));
        }
    }
    out
}

fn sample_div_exact(b: &mut TirBuilder) -> Result<ValueId, CompileError> {
    let x = super::sample_input(b, "x", &[3, 5]);
    b.map(&[x], |e, x| e.div(x[0], Ex::f32(8.0)))
}
