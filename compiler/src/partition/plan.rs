//! Which partitions to try: degrees of tensor parallelism, numbers of stages, and their combinations.

use super::cuts::{self, Demand, Room, StagePlan};
use super::expand::Expander;
use super::fabric::{Fabric, Load};
use super::search::{self, Fixed, Sharding};
use super::{Candidate, Chips, Context, PartitionOptions, Partitioned, capacity, usage};
use crate::throughput::Objective;
use crate::tir::TensorIr;
use crate::{CompileError, CompileErrorKind};
use lockstep_isa::Target;
use lockstep_isa::topology::Topology;

/// The partition with the fewest modelled cycles: see [`candidates`].
///
/// # Errors
/// As [`candidates`].
pub fn partition(ir: &TensorIr, target: &Target, options: &PartitionOptions) -> Result<Partitioned, CompileError> {
    candidates(ir, target, options)?
        .into_iter()
        .next()
        .ok_or_else(|| CompileError::internal("partition", "no candidate"))
}

/// What the searches count: the price of a row of constants in cycles (only latency counts; about what it costs to multiply
/// a row; SRAM counts most), and of how many link cycles one counts (all are waited for; most pass while units work).
const SEARCHES: [(u64, u64); 4] = [(0, 4), (0, 1), (4, 1), (64, 1)];
/// Most chips for which stages of unequal degree are tried.
const MAX_MIXED_CHIPS: u16 = 16;
/// Most chips of a ring that share a stage: a collective takes as many hops.
const MAX_RING_DEGREE: u16 = 8;
/// Where nothing fits by estimate: the share of the estimated values and text that is believed, and the plans that are then
/// tried, those that lack the least room first.
const NEAR_SHARE: u64 = 4;
const NEAR_PLANS: usize = 4;
/// How often a plan that turns out too large is cut again with less SRAM, and the share that then remains of it.
const RETRIES: usize = 4;
const RETRY_NUMERATOR: u64 = 9;
const RETRY_DENOMINATOR: u64 = 10;
/// The share of SRAM above which stages are made even: a chip that is fuller has little choice of banks left.
const FULL_NUMERATOR: u64 = 3;
const FULL_DENOMINATOR: u64 = 4;
/// How far a program can be spread: the last time over as many chips as can hold weights, before that over half as many each time.
pub(crate) const MOST_SPREAD: u32 = 3;

/// Partitions worth scheduling, by modelled cycles of the objective, on ties fewer chips first; never empty.
///
/// # Errors
/// `DoesNotFit` with a capacity report; `Options` where the number of chips asked for is none the target has or more than can hold
/// weights.
pub fn candidates(
    ir: &TensorIr,
    target: &Target,
    options: &PartitionOptions,
) -> Result<Vec<Partitioned>, CompileError> {
    let cx = Context::new(ir, target, *options);
    let (planned, _) = plan(&cx)?;
    let mut found: Vec<Partitioned> = planned.into_iter().map(|p| p.part).collect();
    note_examined(&mut found);
    Ok(found)
}

/// Chips of a plan.
fn n_chips(stages: &[StagePlan]) -> u16 {
    stages.last().map_or(1, |s| s.first + s.degree)
}

/// The SRAM of a chip that stages are cut for: all of it, and where `even` is asked for what leaves them about even; that alone where
/// a chip would be fuller than its share.
fn rooms(
    cx: &Context<'_>,
    demand: &Demand,
    within: impl Fn(u64) -> Option<Vec<StagePlan>>,
    even: bool,
    shardings: &[Sharding],
) -> Result<Vec<u64>, CompileError> {
    let whole = cx.target.sram_bytes();
    let Some(stages) = within(whole).filter(|_| even) else {
        return Ok(vec![whole]);
    };
    let part = expand(cx, demand, &stages, shardings)?;
    let most = whole / FULL_DENOMINATOR * FULL_NUMERATOR;
    let full = usage(&part, cx.target).iter().any(|u| u.total() > most);
    let even = even_room(whole, |bytes| within(bytes).is_some());
    Ok(if full { vec![even] } else { vec![whole, even] })
}

/// SRAM that leaves stages no room but to share the weights about evenly: the step above the least, of `whole` taken down in tenths,
/// that is enough. One stage after another then works for another user, and none is so full that the allocator refuses it.
fn even_room(whole: u64, enough: impl Fn(u64) -> bool) -> u64 {
    let steps = std::iter::successors(Some(whole), |b| Some(b / RETRY_DENOMINATOR * RETRY_NUMERATOR));
    let mut last = [whole; 2];
    for bytes in steps.take_while(|&b| b > 0 && enough(b)) {
        last = [last[1], bytes];
    }
    last[0]
}

/// Writes into each partition what was looked at.
pub(super) fn note_examined(found: &mut [Partitioned]) {
    let examined: Vec<Candidate> = found
        .iter()
        .map(|p| Candidate {
            description: p.description.clone(),
            modelled_cycles: p.modelled_cycles,
        })
        .collect();
    found.iter_mut().for_each(|p| p.examined.clone_from(&examined));
}

/// A partition with the plan it follows.
pub(super) struct Planned {
    pub(super) part: Partitioned,
    pub(super) stages: Vec<StagePlan>,
}

/// All partitions that fit, best first, and the shardings that their stages follow.
pub(super) fn plan(cx: &Context<'_>) -> Result<(Vec<Planned>, Vec<Sharding>), CompileError> {
    let (target, options) = (cx.target, cx.options);
    let most = target.max_chips.max(1);
    if let Chips::Exactly(n) = options.chips
        && (n == 0 || n > most)
    {
        return Err(CompileError::options(format!(
            "--chips {n}: {} has 1 to {most} chips",
            target.name
        )));
    }
    let limit = match options.chips {
        Chips::Auto => most,
        Chips::Exactly(n) => n,
    };
    let shardings = shardings(cx, limit);
    let demand = Demand::new(cx, &shardings);
    let mut found: Vec<Planned> = Vec::new();
    let mut tried: Vec<Vec<StagePlan>> = Vec::new();
    let mut too_large: Option<Partitioned> = None;
    let attempts = attempts(cx, &demand, &shardings, limit);
    for (wanted, offer, least) in &attempts {
        let (wanted, least) = (*wanted, *least);
        // For one user, more chips than the fewest that fit only add transfers.
        if least
            && found
                .iter()
                .any(|p| p.stages.iter().all(|s| offer.contains(&s.sharding)))
        {
            continue;
        }
        let within = |bytes: u64| cuts::cut(cx, &demand, &shardings, offer, wanted, Room { bytes, share: 1 }, least);
        for bytes in rooms(cx, &demand, within, !least && wanted <= MAX_MIXED_CHIPS, &shardings)? {
            let less = |b: &u64| Some(b / RETRY_DENOMINATOR * RETRY_NUMERATOR);
            for bytes in std::iter::successors(Some(bytes), less).take(RETRIES) {
                let Some(stages) = within(bytes) else { break };
                if tried.contains(&stages) {
                    break;
                }
                tried.push(stages.clone());
                let part = expand(cx, &demand, &stages, &shardings)?;
                if excess(&part, target) == 0 {
                    found.push(Planned { part, stages });
                    break;
                }
                if too_large.as_ref().is_none_or(|t| t.n_chips <= part.n_chips) {
                    too_large = Some(part);
                }
            }
        }
    }
    if found.is_empty() && options.spread == 0 {
        // Values and text are estimates: where constants and states fit, the allocator has the last word.
        let room = Room {
            bytes: target.sram_bytes(),
            share: NEAR_SHARE,
        };
        for (wanted, offer, least) in &attempts {
            let Some(stages) = cuts::cut(cx, &demand, &shardings, offer, *wanted, room, *least) else {
                continue;
            };
            if found.iter().any(|p| p.stages == stages) {
                continue;
            }
            let part = expand(cx, &demand, &stages, &shardings)?;
            if usage(&part, target).iter().all(|u| u.held() <= target.sram_bytes()) {
                found.push(Planned { part, stages });
            }
        }
        found.sort_by_key(|p| (excess(&p.part, target), p.part.n_chips));
        found.truncate(NEAR_PLANS);
    }
    found.sort_by_key(|p| (p.part.modelled(options.optimize), p.part.n_chips));
    found.dedup_by(|a, b| a.part.description == b.part.description && a.part.modelled_cycles == b.part.modelled_cycles);
    if found.is_empty() {
        return Err(nothing_fits(cx, &demand, too_large, &shardings, limit));
    }
    Ok((found, shardings))
}

/// Most bytes by which a chip lacks room for its part, by estimate.
pub(super) fn excess(part: &Partitioned, target: &Target) -> u64 {
    let used = usage(part, target).into_iter().map(|u| u.total()).max().unwrap_or(0);
    used.saturating_sub(target.sram_bytes())
}

/// The program of a plan.
pub(super) fn expand(
    cx: &Context<'_>,
    demand: &Demand,
    stages: &[StagePlan],
    shardings: &[Sharding],
) -> Result<Partitioned, CompileError> {
    let n_chips = n_chips(stages);
    let cycles = demand.cycles(cx, stages, shardings);
    let mut part = Expander::new(cx, stages, shardings, n_chips).run(n_chips)?;
    let used = usage(&part, cx.target);
    let held = used.iter().map(|u| u.weights).max().unwrap_or(0);
    part.description = format!("{}, at most {held} bytes of weights each", describe(stages, n_chips));
    part.modelled_cycles = cycles.iter().copied().fold(0, u64::saturating_add);
    part.modelled_stage = cycles.into_iter().max().unwrap_or(0);
    Ok(part)
}

/// Shardings for every degree on offer: chips of one node (or ring) in powers of two, for latency and for SRAM.
fn shardings(cx: &Context<'_>, limit: u16) -> Vec<Sharding> {
    let group = match cx.target.topology {
        Topology::Nodes { node } => u16::from(node),
        Topology::Ring => MAX_RING_DEGREE,
    };
    let mut found = vec![Sharding::whole(cx)];
    let mut degrees: Vec<u16> = std::iter::successors(Some(2u16), |d| d.checked_mul(2))
        .take_while(|&d| d <= limit.min(group))
        .collect();
    if let Chips::Exactly(n) = cx.options.chips
        && n > 1
        && n <= group
        && !degrees.contains(&n)
    {
        degrees.push(n);
    }
    for d in degrees {
        let load = Fabric::new(cx.target, d).load(0, d);
        for (price, overlap) in SEARCHES {
            let sharding = search::search(cx, d, Load { overlap, ..load }, price, &Fixed::default());
            if sharding.shares() && !found.iter().any(|s| s.is_like(&sharding)) {
                found.push(sharding);
            }
        }
    }
    found
}

/// What to try: (chips, indices of the shardings that stages may follow, whether fewer chips are better).
fn attempts(cx: &Context<'_>, demand: &Demand, shardings: &[Sharding], limit: u16) -> Vec<(u16, Vec<usize>, bool)> {
    let all: Vec<usize> = (0..shardings.len()).collect();
    let mut attempts = Vec::new();
    let spread = cx.options.spread;
    match cx.options.chips {
        Chips::Auto if spread > 0 => {
            let most = capacity::weight_operations(cx).min(limit as usize).max(1) as u16;
            let chips = most >> (MOST_SPREAD - spread.min(MOST_SPREAD));
            for k in all {
                let degree = shardings[k].degree;
                attempts.push((chips.max(degree) / degree * degree, vec![k], false));
            }
        }
        Chips::Exactly(n) => {
            for k in all.iter().copied().filter(|&k| n % shardings[k].degree == 0) {
                attempts.push((n, vec![k], false));
            }
            if n > 2 && n <= MAX_MIXED_CHIPS {
                attempts.push((n, all, false));
            }
        }
        Chips::Auto => {
            for (k, s) in shardings.iter().enumerate() {
                let least = demand.least_stages(k, cx.target).max(1);
                let mut stages = least;
                for _ in 0..8 {
                    let n = stages.saturating_mul(s.degree as u64).min(limit as u64) as u16;
                    attempts.push((
                        n / s.degree * s.degree,
                        vec![k],
                        cx.options.optimize == Objective::Latency,
                    ));
                    stages += (stages / 4).max(1);
                    if n == limit {
                        break;
                    }
                }
            }
            if shardings.len() > 1 {
                for n in [4u16, 8].into_iter().filter(|&n| n <= limit) {
                    attempts.push((n, all.clone(), false));
                }
            }
        }
    }
    attempts
}

/// Stages and degrees in words.
fn describe(stages: &[StagePlan], n_chips: u16) -> String {
    let degrees: Vec<u16> = stages.iter().map(|s| s.degree).collect();
    let plural = |n: usize| if n == 1 { "" } else { "s" };
    let uniform = degrees.windows(2).all(|w| w[0] == w[1]);
    let of = match degrees.first() {
        Some(d) if uniform => format!("{d}"),
        _ => degrees.iter().map(u16::to_string).collect::<Vec<_>>().join("+"),
    };
    let (n, s) = (n_chips as usize, stages.len());
    format!("{n} chip{}: {s} stage{} of {of}", plural(n), plural(s))
}

/// The error where no candidate fits.
fn nothing_fits(
    cx: &Context<'_>,
    demand: &Demand,
    too_large: Option<Partitioned>,
    shardings: &[Sharding],
    limit: u16,
) -> CompileError {
    let least = (shardings.iter().enumerate())
        .map(|(k, s)| demand.least_stages(k, cx.target) * s.degree as u64)
        .min()
        .unwrap_or(1);
    let capacity_allows = too_large.is_none() && least <= limit as u64;
    if let (Chips::Exactly(n), true) = (cx.options.chips, capacity_allows) {
        let weights = capacity::weight_operations(cx);
        if weights < n as usize {
            return CompileError::options(format!(
                "--chips {n}: at most {} chips can hold weights of this model",
                weights.max(1)
            ));
        }
    }
    let (summary, report) = capacity::does_not_fit(cx, too_large.as_ref(), least, limit);
    CompileError {
        kind: CompileErrorKind::DoesNotFit { summary, report },
        at: None,
    }
}
