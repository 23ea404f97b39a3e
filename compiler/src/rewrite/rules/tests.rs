//! Every rule on a generated program: both sides are evaluated by the interpreter and compared.

use super::super::analysis::Facts;
use super::super::{convert, extract};
use super::*;
use crate::tir::consteval;
use crate::tir::eval::{Tensor, eval};
use crate::tir::{Arg, MapNode, TensorIr};
use egg::Runner;
use lockstep_graph::EntityId;

/// Elements of both signs, or positive ones.
fn numbers(n: usize, salt: usize, positive: bool) -> Vec<f32> {
    let number = |i: usize| 0.25 + ((i * 37 + salt * 101 + 11) % 97) as f32 / 61.0;
    (0..n)
        .map(|i| {
            if positive || (i + salt).is_multiple_of(2) {
                number(i)
            } else {
                -number(i)
            }
        })
        .collect()
}

/// The program of a pattern: the first variable is a whole tensor, the others are rows, columns or constants.
fn program(left: &str, when: &[When]) -> TensorIr {
    let pattern: Pattern<Node> = left.parse().unwrap();
    let mut b = TirBuilder::new("left");
    let mut known: Vec<(Var, Arg, Option<ValueId>)> = Vec::new();
    let mut made: Vec<(Arg, Option<ValueId>)> = Vec::new();
    for node in pattern.ast.as_ref() {
        let result = match node {
            ENodeOrVar::Var(var) => {
                if let Some((_, arg, v)) = known.iter().find(|k| k.0 == *var) {
                    (*arg, *v)
                } else {
                    let name = var.to_string();
                    let shape: &[usize] = [&[3, 5], &[3, 1], &[1, 5]][known.len() % 3];
                    let result = if when.iter().any(|w| matches!(w, When::Imm(n) if *n == name)) {
                        (Arg::Imm(0.75f32.to_bits()), None)
                    } else if when.iter().any(|w| matches!(w, When::Const(n) if *n == name)) {
                        (Arg::Imm(0), Some(sample_const(&mut b, &name, &[1, 5]).unwrap()))
                    } else {
                        (Arg::Imm(0), Some(sample_input(&mut b, &name, shape)))
                    };
                    known.push((*var, result.0, result.1));
                    result
                }
            }
            ENodeOrVar::ENode(Node {
                op: NodeOp::Imm(bits, _),
                ..
            }) => (Arg::Imm(*bits), None),
            ENodeOrVar::ENode(Node {
                op: NodeOp::Alu(op),
                args,
            }) => {
                let mut operands = Vec::new();
                let mut slots = [Arg::Imm(0); 3];
                let mut shape = vec![1, 1];
                for (slot, a) in slots.iter_mut().zip(args) {
                    *slot = match made[usize::from(*a)] {
                        (_, Some(v)) => {
                            shape.iter_mut().zip(b.shape(v)).for_each(|(s, &n)| *s = (*s).max(n));
                            operands.push(v);
                            Arg::Operand(operands.len() as u32 - 1)
                        }
                        (imm, None) => imm,
                    };
                }
                let node = MapNode {
                    op: *op,
                    dtype: DType::F32,
                    args: slots,
                    axis: 0,
                };
                (Arg::Imm(0), Some(b.map_nodes(&shape, &operands, vec![node]).unwrap()))
            }
            ENodeOrVar::ENode(node) => panic!("{node:?} in a pattern"),
        };
        made.push(result);
    }
    let root = made.last().unwrap().1.unwrap();
    finish(b, root)
}

fn finish(mut b: TirBuilder, root: ValueId) -> TensorIr {
    let shape = b.shape(root).to_vec();
    b.output("y", HostDType::F32, &shape, root);
    b.finish()
}

fn results(ir: &TensorIr, positive: bool) -> Vec<f32> {
    let input = |(n, p): (usize, &crate::tir::Port)| {
        let ty = &ir.values[p.value].ty;
        Tensor::f32(&ty.shape, numbers(ty.elements(), n, positive))
    };
    let inputs: Vec<Tensor> = ir.inputs.iter().enumerate().map(input).collect();
    eval(ir, &inputs, &mut []).unwrap()[0].to_f32()
}

fn check(rule: &Rule) {
    let (ir, positive) = match rule.action {
        Action::Pattern(left, _, when) => (program(left, when), left.contains("sqrt") || left.contains("log")),
        Action::Function(_, _, sample) => {
            let mut b = TirBuilder::new("left");
            let root = sample(&mut b).unwrap();
            (finish(b, root), false)
        }
    };
    let constant = consteval::const_values(&ir);
    let mut users = vec![0u32; ir.values.len()];
    ir.values
        .values()
        .flat_map(|v| &v.inputs)
        .for_each(|v| users[v.index()] += 1);
    let blocks = convert::blocks(&ir);
    assert_eq!(blocks.len(), 1, "{}", rule.name);
    let key = convert::key(&ir, &blocks[0], &constant, &users);
    let (graph, roots) = convert::graph(
        &key,
        Facts {
            maps: ir.maps.clone(),
            ..Facts::default()
        },
    );
    let runner = Runner::<_, _, ()>::new(Facts::default())
        .with_egraph(graph)
        .with_iter_limit(1)
        .run(&[compile(rule).unwrap()]);
    assert!(!runner.iterations[0].applied.is_empty(), "{} does not fire", rule.name);
    let mut graph = runner.egraph;
    assert_eq!(graph.analysis.clash, None, "{}", rule.name);
    let root = graph.find(roots[0]);
    let expected = results(&ir, positive);
    let mut tried = 0;
    // Every way to compute the root, one after the other.
    for node in graph[root].nodes.clone() {
        let allowed = |class: egg::Id, n: &Node| class != root || *n == node;
        let Some(choice) = extract::extract(&graph, &[root], &|_, _| 1, &allowed) else {
            continue;
        };
        let solution = convert::solution(&graph, &[root], &choice).unwrap();
        let mut rewritten = ir.clone();
        rewritten.maps = graph.analysis.maps.clone();
        convert::rebuild(&mut rewritten, &blocks, &[Some(&solution)]).unwrap();
        let found = results(&rewritten, positive);
        for (a, b) in expected.iter().zip(&found) {
            let near = match rule.kind {
                Kind::Exact => a.to_bits() == b.to_bits(),
                Kind::Reassoc => (a - b).abs() <= 1e-5 * (1.0 + a.abs()),
            };
            assert!(near, "{}: {a} became {b}\n{ir}\n{rewritten}", rule.name);
        }
        tried += 1;
    }
    assert!(tried >= 1, "{}", rule.name);
    graph.analysis.current.clear();
}

#[test]
fn both_sides_are_equal() {
    STAGES.iter().flat_map(|(_, rules)| rules.iter()).for_each(check);
}

#[test]
fn a_wrong_rule_is_found() {
    let wrong = rule("wrong", Kind::Reassoc, "(sub ?a (neg ?b))", "(sub ?a ?b)", &[]);
    assert!(std::panic::catch_unwind(|| check(&wrong)).is_err());
}

#[test]
fn names_are_unique() {
    let mut names: Vec<&str> = STAGES
        .iter()
        .flat_map(|(_, rules)| rules.iter().map(|r| r.name))
        .collect();
    let n = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), n);
}
