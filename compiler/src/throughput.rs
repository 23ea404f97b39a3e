//! How many runs a schedule makes in a second where its stages work on the runs of several users at a time.
//!
//! A stage is occupied by a run from the last transfer that an earlier stage sends it, which is what it waits for, to the end of its last
//! instruction; one that is sent nothing from cycle 0 on. It is occupied no less than its busiest queue issues. The run of the next user may
//! follow after the longest of these times. What a chip does before that transfer (tables that come early, tiles that are loaded ahead) is
//! taken to fit beside the run before: it counts for the busiest queue alone. Users have states of their own, so that there are no more of
//! them than fit. No artifact holds such a timetable yet: it has one run and the states of one user.

use crate::partition::{Partitioned, Stage};
use crate::schedule::{Schedule, SramUse};
use lockstep_isa::{Queue, Target};
use std::collections::BTreeMap;

/// What is optimised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Objective {
    /// The time of a run for one user.
    #[default]
    Latency,
    /// The runs per second over all users in flight.
    Throughput,
}

impl Objective {
    /// Its name on the command line and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Objective::Latency => "latency",
            Objective::Throughput => "throughput",
        }
    }

    /// What it makes least: the cycles of a run, or those from one user's run to the next one's.
    pub const fn cost(self, makespan: u64, interval: u64) -> u64 {
        match self {
            Objective::Latency => makespan,
            Objective::Throughput => interval,
        }
    }
}

/// The pipeline that a schedule is where its stages work on the runs of several users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Throughput {
    /// Cycles for which a run occupies each stage.
    pub stages: Vec<u64>,
    /// Users in flight: one per stage, at most as many as have room for their states.
    pub users: u64,
    /// Cycles from one user's run to the next one's.
    pub interval: u64,
}

impl Throughput {
    /// Of a schedule whose chips belong to these stages.
    pub fn of(timed: &Schedule, stages: &[Stage], target: &Target) -> Throughput {
        let stage_of = |chip: u16| stages.iter().position(|s| s.chips.contains(&chip)).unwrap_or(0);
        let n = stages.len().max(1);
        // The first stage that sends in a chain.
        let mut senders: BTreeMap<_, usize> = BTreeMap::new();
        for placed in &timed.runs {
            if let Queue::Send(_) = placed.run.queue {
                let from = stage_of(placed.chip);
                senders
                    .entry(placed.chain)
                    .and_modify(|s| *s = from.min(*s))
                    .or_insert(from);
            }
        }
        let (mut from, mut to) = (vec![0u64; n], vec![0u64; n]);
        let mut issued: BTreeMap<(u16, Queue), u64> = BTreeMap::new();
        for placed in &timed.runs {
            let (run, stage) = (&placed.run, stage_of(placed.chip));
            to[stage] = to[stage].max(u64::from(run.cycle) + target.run_end(run) as u64);
            *issued.entry((placed.chip, run.queue)).or_default() +=
                run.issues() as u64 * target.occupancy(run.op, run.dtype) as u64;
            let earlier = senders.get(&placed.chain).is_some_and(|&s| s < stage);
            if matches!(run.queue, Queue::Recv(_)) && earlier {
                from[stage] = from[stage].max(u64::from(run.cycle));
            }
        }
        let mut occupied: Vec<u64> = from
            .iter()
            .zip(&to)
            .map(|(from, to)| to.saturating_sub(*from))
            .collect();
        for ((chip, _), cycles) in issued {
            let stage = &mut occupied[stage_of(chip)];
            *stage = cycles.max(*stage);
        }
        let users = users_that_fit(&timed.sram).clamp(1, n as u64);
        let longest = occupied.iter().copied().max().unwrap_or(0).min(timed.makespan);
        Throughput {
            interval: longest.max(timed.makespan.div_ceil(users)),
            users,
            stages: occupied,
        }
    }

    /// The stage that is occupied longest.
    pub fn slowest(&self) -> usize {
        let longest = self.stages.iter().copied().max();
        self.stages.iter().position(|&s| Some(s) == longest).unwrap_or(0)
    }

    /// Runs per second over all users in flight, at this clock in hertz.
    pub fn runs_per_second(&self, clock_hz: u64) -> f64 {
        clock_hz as f64 / self.interval.max(1) as f64
    }
}

/// Cycles over all entries: of a run, and from one user's run to the next one's.
pub(crate) fn figures(parts: &[Partitioned], timed: &[Schedule], target: &Target) -> (u64, u64) {
    let each = parts.iter().zip(timed);
    let intervals = each.map(|(part, timed)| Throughput::of(timed, &part.stages, target).interval);
    (timed.iter().map(|t| t.makespan).sum(), intervals.sum())
}

/// Users whose states the chips hold.
pub fn users_that_fit(sram: &[SramUse]) -> u64 {
    let fit = sram.iter().map(|s| {
        let each = s.state_bytes + s.state_padding_bytes;
        let fixed = s.used_bytes() - each;
        s.total_bytes.saturating_sub(fixed) / each.max(1)
    });
    fit.min().unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::build::{Input, build};
    use crate::partition::{Chips, PartitionOptions, candidates};
    use crate::schedule::{ScheduleOptions, schedule};
    use crate::testing::noise;
    use crate::tir::{TirBuilder, Type};
    use lockstep_isa::DType;
    use lockstep_isa::artifact::HostDType;

    /// Products of one row with squares of these sizes, one after another, on a pipeline of so many chips.
    fn pipeline(sizes: &[usize], chips: u16, optimize: Objective) -> (u64, u64, Throughput) {
        let mut b = TirBuilder::new("t");
        let ty = Type::new(DType::F32, &[1, sizes[0]]);
        let mut x = b.input("x", HostDType::F32, &ty.shape, ty.clone());
        for (i, pair) in sizes.windows(2).enumerate() {
            let values = noise(pair[0] * pair[1], i as u32);
            let w = b.const_f32(&format!("w{i}"), pair, &values).unwrap();
            x = b.contract(x, w, &[], &[(1, 0)]).unwrap();
            x = b.map(&[x], |e, a| e.tanh(a[0])).unwrap();
        }
        b.output("y", HostDType::F32, &[1, sizes[sizes.len() - 1]], x);
        let target = Target::builtin("tsp-2020").unwrap().unwrap();
        let options = PartitionOptions {
            chips: Chips::Exactly(chips),
            optimize,
            ..PartitionOptions::default()
        };
        let found = candidates(&b.finish(), &target, &options).unwrap();
        let part = found.iter().find(|p| p.stages.len() == usize::from(chips)).unwrap();
        let input = Input {
            ir: &part.ir,
            chip: &part.chip,
            n_chips: part.n_chips,
            input_copies: &part.input_copies,
            target: &target,
        };
        let timed = schedule(&build(&input).unwrap(), &target, &ScheduleOptions::default()).unwrap();
        let throughput = Throughput::of(&timed, &part.stages, &target);
        (part.modelled_stage, timed.makespan, throughput)
    }

    #[test]
    fn one_stage_works_for_one_user() {
        let (_, makespan, one) = pipeline(&[64, 64, 64], 1, Objective::Latency);
        assert_eq!(
            (one.users, one.interval, one.stages.as_slice()),
            (1, makespan, &[makespan][..])
        );
    }

    #[test]
    fn stages_share_the_time_of_a_run() {
        let (_, makespan, three) = pipeline(&[320; 7], 3, Objective::Throughput);
        assert_eq!((three.users, three.stages.len()), (3, 3));
        let longest = three.stages[three.slowest()];
        assert_eq!(three.interval, longest.max(makespan.div_ceil(3)));
        assert!(three.interval < makespan / 2, "{makespan} {three:?}");
        // A stage begins with what the one before it hands on: together they take about the time of the run.
        let sum: u64 = three.stages.iter().sum();
        assert!(
            sum >= makespan * 9 / 10 && sum <= makespan * 11 / 10,
            "{makespan} {three:?}"
        );
    }

    /// For one user wide values stay inside a stage; for several users a stage of most of the work is cut there.
    #[test]
    fn the_longest_stage_counts_for_several_users() {
        let sizes = [320, 1280, 1280, 1280, 1280, 320, 320, 320];
        let (modelled_of_one, _, one) = pipeline(&sizes, 3, Objective::Latency);
        let (modelled, _, all) = pipeline(&sizes, 3, Objective::Throughput);
        assert!(modelled < modelled_of_one, "{modelled} {modelled_of_one}");
        assert!(all.interval < one.interval, "{all:?} {one:?}");
    }
}
