//! Relative timing of a group: periods, first issues, operand delays.
//!
//! A system of difference constraints. A consumer issues `w` cycles after its producer, where `w` is the producer's latency plus
//! the distance, and an ALU may take its operand up to `max_delay` cycles earlier. The least solution fixes the runs
//! that end the group, the greatest one below it delays every read to the last moment. Where there is no solution,
//! `copy` operations are inserted as delay lines.

use super::group::{Arg, Step, StepOp, bad, opcode, position, push_copy};
use crate::CompileError;
use crate::chain::{ChainId, NodeOp};
use lockstep_isa::Target;

/// Times the steps, inserting delay lines as needed.
pub(super) fn time(target: &Target, chain: ChainId, steps: &mut Vec<Step>) -> Result<(), CompileError> {
    loop {
        mark_forwards(steps);
        periods(target, chain, steps)?;
        check_counts(chain, steps)?;
        if solve(target, chain, steps)? {
            return Ok(());
        }
        insert_delay(target, chain, steps)?;
    }
}

fn mark_forwards(steps: &mut [Step]) {
    let vxm: Vec<bool> = steps.iter().map(Step::on_vxm).collect();
    for (v, step) in steps.iter_mut().enumerate() {
        for arg in &mut step.args {
            if let Arg::Step { step: u, forward, .. } = arg {
                *forward = vxm[*u] && vxm[v];
            }
        }
    }
}

/// Edges (producer, consumer, operand index, first result).
fn edges(steps: &[Step]) -> Vec<(usize, usize, usize, u32)> {
    let mut out = Vec::new();
    for (v, step) in steps.iter().enumerate() {
        for (a, arg) in step.args.iter().enumerate() {
            if let Arg::Step { step: u, first, .. } = *arg {
                out.push((u, v, a, first));
            }
        }
    }
    out
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Sets the cycle stride of every step: the least that the slowest unit allows, folds slowing what follows them.
fn periods(target: &Target, chain: ChainId, steps: &mut [Step]) -> Result<(), CompileError> {
    let edges = edges(steps);
    let mut scale: Vec<Option<(u64, u64)>> = vec![None; steps.len()];
    for seed in 0..steps.len() {
        if scale[seed].is_some() {
            continue;
        }
        scale[seed] = Some((1, 1));
        let mut component = vec![seed];
        let mut next = 0;
        while let Some(&at) = component.get(next) {
            next += 1;
            let Some((num, den)) = scale[at] else {
                continue;
            };
            for &(u, v, _, _) in &edges {
                if (u != at && v != at) || steps[u].is_transpose() {
                    continue;
                }
                let folded = steps[u].folded();
                let (other, (n, d)) = if u == at {
                    (v, (num * folded, den))
                } else {
                    (u, (num, den * folded))
                };
                let g = gcd(n, d).max(1);
                let value = (n / g, d / g);
                match scale[other] {
                    None => {
                        scale[other] = Some(value);
                        component.push(other);
                    }
                    Some(old) if old == value => {}
                    Some(_) => {
                        return Err(bad(
                            chain,
                            format_args!("node {:?} has operands of different rates", steps[v].node),
                        ));
                    }
                }
            }
        }
        let lcm = component
            .iter()
            .filter_map(|&i| scale[i])
            .fold(1u64, |l, (_, d)| l / gcd(l, d).max(1) * d);
        let ints: Vec<u64> = component
            .iter()
            .map(|&i| scale[i].map_or(1, |(n, d)| n * (lcm / d)))
            .collect();
        let common = ints.iter().fold(0, |g, &s| gcd(g, s)).max(1);
        let base = component
            .iter()
            .zip(&ints)
            .map(|(&i, &s)| {
                let occupancy = target.occupancy(opcode(&steps[i].op), steps[i].dtype) as u64;
                occupancy.div_ceil(s / common)
            })
            .max()
            .unwrap_or(1);
        for (&i, &s) in component.iter().zip(&ints) {
            steps[i].period = base * (s / common);
        }
    }
    for &(u, v, _, _) in &edges {
        if steps[u].is_transpose() && steps[v].period != 1 {
            return Err(bad(
                chain,
                format_args!(
                    "node {:?} cannot take the results of a transpose every cycle",
                    steps[v].node
                ),
            ));
        }
    }
    Ok(())
}

fn check_counts(chain: ChainId, steps: &[Step]) -> Result<(), CompileError> {
    for (u, v, a, first) in edges(steps) {
        let (have, mut taken) = (steps[u].results(), steps[v].issues() as u64);
        if let StepOp::Node(NodeOp::Load {
            by_column,
            window,
            scaled,
            ..
        }) = &steps[v].op
            && !(*scaled && a + 1 == steps[v].args.len())
        {
            // Belt `a` of `n` carries every n-th vector of the window.
            let (low, high) = if *by_column {
                (window.n0, window.n1)
            } else {
                (window.k0, window.k1)
            };
            let n = (steps[v].args.len() - usize::from(*scaled)).max(1);
            let vectors = usize::from(high.saturating_sub(low)).div_ceil(steps[u].dtype.load_rows());
            taken = (vectors + n - 1 - a).div_euclid(n) as u64;
        }
        let need = first as u64 + taken;
        if need > have {
            return Err(bad(
                chain,
                format_args!(
                    "node {:?} takes {need} results of node {:?}, which has {have}",
                    steps[v].node, steps[u].node
                ),
            ));
        }
    }
    Ok(())
}

/// Constraint `w <= t[v] - t[u] <= w + slack`.
struct Link {
    u: usize,
    v: usize,
    arg: usize,
    w: i64,
    slack: i64,
}

fn links(target: &Target, steps: &[Step]) -> Vec<Link> {
    edges(steps)
        .into_iter()
        .map(|(u, v, arg, first)| {
            let distance = (position(target, &steps[u]) - position(target, &steps[v])).unsigned_abs() as i64;
            Link {
                u,
                v,
                arg,
                w: steps[u].result_offset(target, first) as i64 + distance,
                slack: if steps[v].on_vxm() {
                    target.vxm.max_delay as i64
                } else {
                    0
                },
            }
        })
        .collect()
}

/// Solves the relative timing; false where the operand delays do not suffice.
fn solve(target: &Target, chain: ChainId, steps: &mut [Step]) -> Result<bool, CompileError> {
    let links = links(target, steps);
    let n = steps.len();
    let mut t = vec![0i64; n];
    for round in 0.. {
        let mut changed = false;
        for l in &links {
            let low = t[l.u] + l.w;
            if t[l.v] < low {
                t[l.v] = low;
                changed = true;
            }
            let low = t[l.v] - l.w - l.slack;
            if t[l.u] < low {
                t[l.u] = low;
                changed = true;
            }
        }
        if !changed {
            break;
        }
        if round > 2 * n + 2 {
            return Ok(false);
        }
    }
    // The greatest solution with the same sinks: everything as late as possible.
    let mut sink = vec![true; n];
    for l in &links {
        sink[l.u] = false;
    }
    let mut late: Vec<i64> = (0..n).map(|i| if sink[i] { t[i] } else { i64::MAX / 4 }).collect();
    for _ in 0..2 * n + 2 {
        let mut changed = false;
        for l in &links {
            let high = late[l.v] - l.w;
            if late[l.u] > high {
                late[l.u] = high;
                changed = true;
            }
            let high = late[l.u].saturating_add(l.w + l.slack);
            if late[l.v] > high {
                late[l.v] = high;
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    let least = late.iter().copied().min().unwrap_or(0);
    for (step, &t) in steps.iter_mut().zip(&late) {
        step.offset = (t - least) as u64;
    }
    for l in &links {
        let wait = late[l.v] - late[l.u] - l.w;
        if !(0..=l.slack).contains(&wait) {
            return Err(bad(
                chain,
                format_args!("no timing for the operands of node {:?}", steps[l.v].node),
            ));
        }
        if let Some(Arg::Step { delay, .. }) = steps[l.v].args.get_mut(l.arg) {
            *delay = wait as u8;
        }
    }
    Ok(true)
}

/// Puts a `copy` before the VXM operand that would wait longest.
fn insert_delay(target: &Target, chain: ChainId, steps: &mut Vec<Step>) -> Result<(), CompileError> {
    let links = links(target, steps);
    let n = steps.len();
    let mut early = vec![0i64; n];
    for _ in 0..=n {
        for l in &links {
            early[l.v] = early[l.v].max(early[l.u] + l.w);
        }
    }
    let mut sink = vec![true; n];
    for l in &links {
        sink[l.u] = false;
    }
    let mut late: Vec<i64> = (0..n).map(|i| if sink[i] { early[i] } else { i64::MAX / 4 }).collect();
    for _ in 0..=n {
        for l in &links {
            late[l.u] = late[l.u].min(late[l.v] - l.w);
        }
    }
    let worst = links
        .iter()
        .filter(|l| steps[l.v].on_vxm())
        .map(|l| (late[l.v] - late[l.u] - l.w - l.slack, l))
        .filter(|(over, _)| *over > 0)
        .max_by_key(|(over, l)| (*over, std::cmp::Reverse((l.v, l.arg))));
    let copies = steps.iter().filter(|s| s.node.is_none()).count();
    let Some((_, link)) = worst.filter(|_| copies < target.vxm.alus as usize) else {
        let vxm: Vec<_> = steps.iter().filter(|s| s.on_vxm()).filter_map(|s| s.node).collect();
        return Err(bad(
            chain,
            format_args!("its operands cannot meet: a value used twice at too great a distance (VXM nodes {vxm:?})"),
        ));
    };
    let (v, arg, u) = (link.v, link.arg, link.u);
    let first = match steps[v].args[arg] {
        Arg::Step { first, .. } => first,
        Arg::Imm(_) => 0,
    };
    let issues = steps[v].dims;
    let copy = push_copy(steps, u, first);
    steps[copy].dims = issues;
    steps[v].args[arg] = Arg::Step {
        step: copy,
        first: 0,
        delay: 0,
        forward: false,
    };
    Ok(())
}
