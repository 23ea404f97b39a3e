//! Matrix products: MatMul, Gemm, Einsum.

use super::elementwise::with;
use crate::onnx::cx::{Cx, Fail, Imported, malformed, unsupported};
use lockstep_graph::op::{Binary, Range, Reduce};
use lockstep_graph::{Op, ValueId};

pub(super) fn matmul(cx: &mut Cx<'_, '_>) -> Imported {
    let (a, b) = (cx.x(0)?, cx.x(1)?);
    Ok(vec![cx.b().matmul(a, b)?])
}

pub(super) fn gemm(cx: &mut Cx<'_, '_>) -> Imported {
    let (mut a, mut b) = (cx.x(0)?, cx.x(1)?);
    if cx.rank(a) != 2 || cx.rank(b) != 2 {
        return malformed(format!(
            "operands have ranks {} and {}, allowed: 2",
            cx.rank(a),
            cx.rank(b)
        ));
    }
    if cx.flag("transA", false) {
        a = cx.b().transpose(a, &[1, 0])?;
    }
    if cx.flag("transB", false) {
        b = cx.b().transpose(b, &[1, 0])?;
    }
    let (alpha, beta) = (cx.float("alpha", 1.0), cx.float("beta", 1.0));
    let mut result = cx.b().matmul(a, b)?;
    if alpha != 1.0 {
        result = with(cx, Binary::Mul, result, f64::from(alpha))?;
    }
    if let Some(mut bias) = cx.opt(2) {
        if beta != 1.0 {
            bias = with(cx, Binary::Mul, bias, f64::from(beta))?;
        }
        result = cx.b().binary(Binary::Add, result, bias)?;
    }
    Ok(vec![result])
}

/// Determinants by expansion along the first row.
pub(super) fn det(cx: &mut Cx<'_, '_>) -> Imported {
    const MOST: usize = 6;
    let x = cx.x(0)?;
    let shape = cx.shape(x);
    let rank = shape.rank();
    if rank < 2 || shape[rank - 1] != shape[rank - 2] {
        return malformed(format!("input {shape} is no square matrix"));
    }
    let n = shape[rank - 1];
    if !(1..=MOST).contains(&n) {
        return unsupported(format!(
            "a determinant of {n} rows is not supported, allowed: 1 to {MOST}"
        ));
    }
    let value = minor(cx, x, 0, &(0..n).collect::<Vec<_>>())?;
    Ok(vec![cx.b().reshape(value, shape[..rank - 2].to_vec())?])
}

/// The determinant, [.., 1, 1], of the rows from `row` on and of these columns.
fn minor(cx: &mut Cx<'_, '_>, x: ValueId, row: usize, columns: &[usize]) -> Result<ValueId, Fail> {
    let rank = cx.rank(x);
    let line = cx.b().narrow(x, rank - 2, Range::of(row, row + 1))?;
    let mut total = None;
    for (at, &column) in columns.iter().enumerate() {
        let mut term = cx.b().narrow(line, rank - 1, Range::of(column, column + 1))?;
        if columns.len() > 1 {
            let rest: Vec<usize> = columns.iter().copied().filter(|&c| c != column).collect();
            let below = minor(cx, x, row + 1, &rest)?;
            term = cx.b().binary(Binary::Mul, term, below)?;
        }
        let kind = if at % 2 == 0 { Binary::Add } else { Binary::Sub };
        total = Some(match total {
            Some(sum) => cx.b().binary(kind, sum, term)?,
            None => term,
        });
    }
    total.map_or_else(|| malformed("the matrix is empty"), Ok)
}

/// A value with a label per axis.
struct Labelled {
    value: ValueId,
    labels: Vec<char>,
}

/// Any number of operands: repeated labels take the diagonal, labels needed no more are summed, and operands are multiplied from the left.
pub(super) fn einsum(cx: &mut Cx<'_, '_>) -> Imported {
    let equation: String = cx
        .string("equation", "")
        .chars()
        .filter(|c| !c.is_whitespace())
        .collect();
    let operands = cx.all()?;
    let (left, output) = match equation.split_once("->") {
        Some((left, output)) => (left, Some(output)),
        None => (equation.as_str(), None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != operands.len() {
        return malformed(format!(
            "equation \"{}\" has {} terms for {} operands",
            equation.escape_debug(),
            terms.len(),
            operands.len()
        ));
    }
    let mut ellipsis = 0;
    for (term, &value) in terms.iter().zip(&operands) {
        if term.contains("...") {
            ellipsis = ellipsis.max(
                cx.rank(value)
                    .saturating_sub(term.chars().filter(|c| c.is_alphabetic()).count()),
            );
        }
    }
    let mut parts = Vec::new();
    for (term, &value) in terms.iter().zip(&operands) {
        let rank = cx.rank(value);
        let labels = expand_labels(term, rank, ellipsis)?;
        if labels.len() != rank {
            return malformed(format!(
                "term \"{}\" has {} labels for rank {rank}",
                term.escape_debug(),
                labels.len()
            ));
        }
        parts.push(diagonal(cx, Labelled { value, labels })?);
    }
    let output: Vec<char> = match output {
        Some(output) => expand_labels(
            output,
            ellipsis + output.chars().filter(|c| c.is_alphabetic()).count(),
            ellipsis,
        )?,
        None => {
            let mut all: Vec<char> = terms
                .iter()
                .flat_map(|term| term.chars())
                .filter(|c| c.is_alphabetic())
                .collect();
            all.sort_unstable();
            let once = |c: &char| all.iter().filter(|other| *other == c).count() == 1;
            dots(ellipsis, ellipsis)
                .into_iter()
                .chain(all.iter().copied().filter(once))
                .collect()
        }
    };
    let mut parts = parts.into_iter();
    let Some(mut product) = parts.next() else {
        return malformed("there is no operand");
    };
    let rest: Vec<Labelled> = parts.collect();
    for (at, next) in rest.iter().enumerate() {
        let later: Vec<char> = rest[at + 1..]
            .iter()
            .flat_map(|part| part.labels.iter().copied())
            .chain(output.iter().copied())
            .collect();
        product = multiply(cx, &product, next, &later)?;
    }
    let product = sum_out(cx, &product, &output)?;
    let mut value = product.value;
    let Some(perm) = output
        .iter()
        .map(|label| product.labels.iter().position(|l| l == label))
        .collect::<Option<Vec<usize>>>()
    else {
        return malformed(format!(
            "equation \"{}\" has an output label that no operand has",
            equation.escape_debug()
        ));
    };
    if perm.len() != product.labels.len() {
        return malformed(format!(
            "equation \"{}\" repeats an output label",
            equation.escape_debug()
        ));
    }
    value = cx.b().transpose(value, &perm)?;
    Ok(vec![value])
}

/// Labels that stand for the last `count` of `total` ellipsis axes.
fn dots(count: usize, total: usize) -> Vec<char> {
    (total - count..total)
        .filter_map(|at| char::from_u32(0xe000 + at as u32))
        .collect()
}

fn expand_labels(term: &str, rank: usize, ellipsis: usize) -> Result<Vec<char>, Fail> {
    let letters = term.chars().filter(|c| c.is_alphabetic()).count();
    let (head, tail) = term.split_once("...").unwrap_or((term, ""));
    if head.chars().chain(tail.chars()).any(|c| !c.is_alphabetic()) {
        return malformed(format!(
            "term \"{}\" has a character that is no letter",
            term.escape_debug()
        ));
    }
    let count = if term.contains("...") {
        rank.saturating_sub(letters).min(ellipsis)
    } else {
        0
    };
    Ok(head.chars().chain(dots(count, ellipsis)).chain(tail.chars()).collect())
}

/// Takes the diagonal over each pair of axes with the same label.
fn diagonal(cx: &mut Cx<'_, '_>, mut part: Labelled) -> Result<Labelled, Fail> {
    while let Some((first, second)) = (0..part.labels.len()).find_map(|at| {
        part.labels[at + 1..]
            .iter()
            .position(|l| *l == part.labels[at])
            .map(|p| (at, at + 1 + p))
    }) {
        let shape = cx.shape(part.value);
        let n = shape[first];
        if shape[second] != n {
            return malformed(format!("a repeated label has sizes {n} and {}", shape[second]));
        }
        let rest: Vec<usize> = (0..shape.rank())
            .filter(|axis| *axis != first && *axis != second)
            .collect();
        let perm: Vec<usize> = rest.iter().copied().chain([first, second]).collect();
        let mut value = cx.b().transpose(part.value, &perm)?;
        let mut dims: Vec<usize> = rest.iter().map(|&axis| shape[axis]).collect();
        dims.push(n * n);
        value = cx.b().reshape(value, dims)?;
        value = cx.b().narrow(
            value,
            rest.len(),
            Range {
                start: 0,
                step: n as isize + 1,
                len: n,
            },
        )?;
        let label = part.labels[first];
        part = Labelled {
            value,
            labels: rest.iter().map(|&axis| part.labels[axis]).chain([label]).collect(),
        };
    }
    Ok(part)
}

/// Sums over axes whose label is not kept.
fn sum_out(cx: &mut Cx<'_, '_>, part: &Labelled, keep: &[char]) -> Result<Labelled, Fail> {
    let axes: Vec<usize> = (0..part.labels.len())
        .filter(|&axis| !keep.contains(&part.labels[axis]))
        .collect();
    let labels = part
        .labels
        .iter()
        .copied()
        .filter(|label| keep.contains(label))
        .collect();
    let value = if axes.is_empty() {
        part.value
    } else {
        cx.b().reduce(Reduce::Sum, part.value, &axes, false)?
    };
    Ok(Labelled { value, labels })
}

fn multiply(cx: &mut Cx<'_, '_>, a: &Labelled, b: &Labelled, later: &[char]) -> Result<Labelled, Fail> {
    let keep = |own: &Labelled, other: &Labelled| {
        own.labels
            .iter()
            .copied()
            .filter(|l| later.contains(l) || other.labels.contains(l))
            .collect::<Vec<_>>()
    };
    let (keep_a, keep_b) = (keep(a, b), keep(b, a));
    let (a, b) = (sum_out(cx, a, &keep_a)?, sum_out(cx, b, &keep_b)?);
    let size = |cx: &Cx<'_, '_>, part: &Labelled, label: char| {
        part.labels
            .iter()
            .position(|l| *l == label)
            .map(|axis| cx.shape(part.value)[axis])
    };
    let shared: Vec<char> = a.labels.iter().copied().filter(|l| b.labels.contains(l)).collect();
    let mut sizes = Vec::new();
    for &label in &shared {
        match (size(cx, &a, label), size(cx, &b, label)) {
            (Some(x), Some(y)) if x == y || y == 1 => sizes.push(x),
            (Some(1), Some(y)) => sizes.push(y),
            (x, y) => {
                return malformed(format!("a label has sizes {} and {}", x.unwrap_or(0), y.unwrap_or(0)));
            }
        }
    }
    let batch: Vec<char> = shared.iter().copied().filter(|l| later.contains(l)).collect();
    let contracted: Vec<char> = shared.iter().copied().filter(|l| !later.contains(l)).collect();
    let only_a: Vec<char> = a.labels.iter().copied().filter(|l| !shared.contains(l)).collect();
    let only_b: Vec<char> = b.labels.iter().copied().filter(|l| !shared.contains(l)).collect();
    // Axes in the order given, shared ones at their full size, grouped into three.
    let arrange =
        |cx: &mut Cx<'_, '_>, part: &Labelled, groups: [&[char]; 3]| -> Result<(ValueId, [Vec<usize>; 3]), Fail> {
            let order: Vec<char> = groups.concat();
            let perm: Vec<usize> = order
                .iter()
                .filter_map(|label| part.labels.iter().position(|l| l == label))
                .collect();
            let value = cx.b().transpose(part.value, &perm)?;
            let own = cx.shape(value);
            let full = |label: &char, own: usize| shared.iter().position(|l| l == label).map_or(own, |at| sizes[at]);
            let dims: Vec<usize> = order
                .iter()
                .zip(own.iter())
                .map(|(label, &own)| full(label, own))
                .collect();
            let value = cx.b().expand(value, dims.clone())?;
            let (first, rest) = dims.split_at(groups[0].len());
            let (second, third) = rest.split_at(groups[1].len());
            let flat: Vec<usize> = [first, second, third]
                .iter()
                .map(|group| group.iter().product())
                .collect();
            Ok((
                cx.b().reshape(value, flat)?,
                [first.to_vec(), second.to_vec(), third.to_vec()],
            ))
        };
    let (left, [batch_dims, a_dims, _]) = arrange(cx, &a, [&batch, &only_a, &contracted])?;
    let (right, [_, _, b_dims]) = arrange(cx, &b, [&batch, &contracted, &only_b])?;
    let value = cx.b().op(Op::MatMul, &[left, right])?;
    let value = cx.b().reshape(value, [batch_dims, a_dims, b_dims].concat())?;
    Ok(Labelled {
        value,
        labels: [batch, only_a, only_b].concat(),
    })
}
