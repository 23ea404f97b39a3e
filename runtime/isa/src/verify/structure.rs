//! A1 and A16: each record on its own, and its claims, before anything is replayed.

use super::walk::Walk;
use super::{ChipCx, Invariant, RunInfo};
use crate::artifact::Entry;
use crate::claim::Claims;
use crate::id::{DType, Dir};
use crate::op::{Opcode, UnitKind};
use crate::run::{AccIn, Operand, Queue, Run, Src};
use crate::target::Target;

/// Most issues of all runs of a chip in one entry.
pub(super) const MAX_EVENTS: u64 = 1 << 26;

type Check<T = ()> = Result<T, String>;

/// Dtype of the vectors that a run puts on a belt or forwards.
pub(super) fn result_dtype(run: &Run) -> DType {
    match run.op {
        Opcode::Read if (run.words as u16) < run.dtype.words() => DType::U8,
        Opcode::Mul => run.dtype.widened(),
        Opcode::Recv => DType::U8,
        _ => run.dtype,
    }
}

/// Whether a result is a bare word whose bytes have no element type: a part of a wider vector, or received.
pub(super) fn is_raw(run: &Run) -> bool {
    run.op == Opcode::Recv || (run.op == Opcode::Read && (run.words as u16) < run.dtype.words())
}

/// Stream and ALU operands in claim order; the belt groups of a tile load count as operands, its scales come after them.
pub(super) fn operands(run: &Run, mut visit: impl FnMut(usize, Operand)) {
    if matches!(run.op, Opcode::LoadRow | Opcode::LoadCol) {
        for g in 0..belt_groups(run) {
            let mut o = run.a;
            if let Src::Stream(s) = &mut o.src {
                s.index = s.index.wrapping_add(g.wrapping_mul(run.a.dtype.words() as u8));
            }
            visit(g as usize, o);
        }
        if run.is_scaled() {
            visit(belt_groups(run) as usize, run.b);
        }
        return;
    }
    let mut slot = 0;
    for o in [run.a, run.b, run.c] {
        if matches!(o.src, Src::Stream(_) | Src::Alu(_)) {
            visit(slot, o);
            slot += 1;
        }
    }
}

/// Belt groups that a tile load uses: `belts`, or fewer where it loads fewer vectors.
pub(super) fn belt_groups(run: &Run) -> u8 {
    (run.belts as u32).min(run.load_vectors()) as u8
}

/// Vectors that a run takes of operand `slot`: one per issue, except for the last issue of a tile load.
pub(super) fn taken(run: &Run, slot: usize) -> u32 {
    match run.op {
        Opcode::LoadRow | Opcode::LoadCol if slot < belt_groups(run) as usize => {
            let belts = run.belts.max(1) as u32;
            run.load_vectors().saturating_sub(slot as u32).div_ceil(belts)
        }
        _ => run.issues(),
    }
}

/// Number of operands that need a producer.
fn n_operands(run: &Run) -> usize {
    let mut n = 0;
    operands(run, |_, _| n += 1);
    n
}

/// Checks a run on its own. `Err` says what is malformed; such a run takes no part in the replay.
pub(super) fn check_run(t: &Target, run: &Run) -> Check<RunInfo> {
    run.check(t).map_err(|e| e.to_string())?;
    check_units(t, run)?;
    check_dtypes(run)?;
    let last = run
        .dims
        .iter()
        .map(|d| (d.count as u64 - 1) * d.stride as u64)
        .sum::<u64>();
    let results = match run.op {
        Opcode::Write | Opcode::Scatter | Opcode::LoadRow | Opcode::LoadCol | Opcode::Send => 0,
        _ => Walk::results(t, run, 0).len() as u32,
    };
    // A product into accumulator rows puts nothing on a belt; an ALU forwards all of its results.
    let on_belt = run.out.is_some() || run.op.unit() == UnitKind::Vxm;
    Ok(RunInfo {
        ok: true,
        issues: run.issues(),
        visible: if on_belt { results } else { 0 },
        last: last as u32,
        position: t.queue_position(run.queue),
        latency: t.latency_of(run) as u32,
        occupancy: t.occupancy(run.op, run.dtype).max(1) as u32,
    })
}

/// All planes and ALUs that a run occupies exist, and so do the slices of its vectors.
fn check_units(t: &Target, run: &Run) -> Check {
    match run.queue {
        Queue::MxmLoad(_, plane) | Queue::MxmMul(_, plane) => {
            let planes = t.mxm_rate(run.dtype).map_or(1, |r| r.planes);
            if plane as u16 + planes as u16 > t.mxm.planes_per_hemisphere as u16 {
                return Err(format!(
                    "{planes} planes from plane {plane} of {}",
                    t.mxm.planes_per_hemisphere
                ));
            }
        }
        Queue::Alu(i) if i as u16 + alu_cost(run) as u16 > t.vxm.alus as u16 => {
            return Err(format!("{} ALUs from ALU {i} of {}", alu_cost(run), t.vxm.alus));
        }
        Queue::Mem(_) => {
            let words = run.dtype.words();
            if words > t.slices as u16 || !(t.slices as u16).is_multiple_of(words) {
                return Err(format!("{words} words in a row of {} slices", t.slices));
            }
        }
        _ => {}
    }
    Ok(())
}

/// ALUs that a run of the VXM occupies.
pub(super) fn alu_cost(run: &Run) -> u8 {
    match run.op {
        Opcode::Alu => run.alu.cost(),
        _ => 1,
    }
}

/// Operands have the dtype that the opcode takes, and a gathered vector leaves in its index's direction.
fn check_dtypes(run: &Run) -> Check {
    let takes = |o: Operand, dtype: DType, name: char| {
        if o.dtype == dtype {
            Ok(())
        } else {
            Err(format!("operand {name} is {}, {dtype} is needed", o.dtype))
        }
    };
    let word = |o: Operand| {
        if o.dtype.words() == 1 {
            Ok(())
        } else {
            Err(format!("operand a is {}, one word is needed", o.dtype))
        }
    };
    match run.op {
        Opcode::Write if run.words == 1 => word(run.a),
        Opcode::Send => word(run.a),
        Opcode::Write | Opcode::Permute | Opcode::Transpose | Opcode::Scatter => takes(run.a, run.dtype, 'a'),
        // `Run::check` has seen that the tile's dtype holds it.
        Opcode::LoadRow | Opcode::LoadCol => Ok(()),
        Opcode::Reduce => {
            takes(run.a, run.dtype, 'a')?;
            match run.dtype {
                DType::F32 | DType::I32 => Ok(()),
                other => Err(format!("reduce of {other}, f32 or i32 is needed")),
            }
        }
        Opcode::Gather => match (run.a.src, run.out) {
            (Src::Stream(s), Some(out)) if s.dir != out.dir => {
                Err(format!("the result leaves on {out}, the index comes on {s}"))
            }
            _ => Ok(()),
        },
        Opcode::Mul => {
            takes(run.a, run.dtype, 'a')?;
            match run.acc_in {
                AccIn::Stream => takes(run.b, result_dtype(run), 'b'),
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// Accumulator rows that a product writes (`out`) or reads.
pub(super) fn acc_walk(run: &Run, out: bool) -> Walk {
    let addr = if out { run.addr2 } else { run.addr };
    Walk::over(run, addr.base as i64, addr.strides.map(|s| s as i64))
}

/// Checks the target's figures that the replay relies on.
pub(super) fn check_target(t: &Target) -> Check {
    let far = t.position.mem_first as u32 + t.position.mem_step as u32 * t.groups as u32;
    let p = &t.position;
    let far = [far, p.sxm as u32, p.mxm as u32, p.c2c as u32].into_iter().max();
    if far.is_some_and(|f| f >= 1 << 14) {
        return Err("positions of units lie below 16384".into());
    }
    if t.lanes == 0 || t.slices == 0 || t.slices > 16 || t.bank_words() > 1 << 16 {
        return Err(format!(
            "{} lanes, {} slices of {} rows: word addresses have 16 bits",
            t.lanes, t.slices, t.rows
        ));
    }
    Ok(())
}

/// Checks the claims of a run for shape: as many as it has operands, naming runs, chains and values that exist.
pub(super) fn check_claims(cx: &ChipCx<'_>, run: &Run, claims: &Claims) -> Check {
    let n = if run.op == Opcode::Recv { 1 } else { n_operands(run) };
    if claims.operands.len() != n {
        return Err(format!("{} operands are claimed, it takes {n}", claims.operands.len()));
    }
    if run.op != Opcode::Recv {
        for p in claims.operands.iter().chain(&claims.acc) {
            if p.run as usize >= cx.runs.len() {
                return Err(format!("run r{} of {} is claimed", p.run, cx.runs.len()));
            }
        }
    }
    let is_mul = run.op == Opcode::Mul;
    if is_mul == claims.blocks.is_empty() {
        return Err(format!("{} tile blocks are claimed", claims.blocks.len()));
    }
    if let Some(b) = claims.blocks.iter().find(|b| b.load as usize >= cx.runs.len()) {
        return Err(format!("run r{} of {} is claimed", b.load, cx.runs.len()));
    }
    if claims.acc.is_some() != (is_mul && run.acc_in == AccIn::Row) {
        return Err("an accumulator row is claimed where none is read, or the reverse".into());
    }
    if claims.mem.is_some() != (run.op.unit() == UnitKind::Mem) {
        return Err("memory is claimed where none is touched, or the reverse".into());
    }
    if let Some(m) = claims.mem
        && !cx.values_ok.get(m.value as usize).is_some_and(|&ok| ok)
    {
        return Err(format!(
            "value v{} of {} does not exist or is malformed",
            m.value,
            cx.entry.values.len()
        ));
    }
    Ok(())
}

/// A16: the chain that a run claims exists and names this chip.
pub(super) fn check_chain(entry: &Entry, chip: u16, claims: &Claims) -> Check {
    let Some(info) = entry.chains.get(claims.chain as usize) else {
        return Err(format!("chain h{} of {}", claims.chain, entry.chains.len()));
    };
    if info.chip != chip && info.to != Some(chip) {
        return Err(format!(
            "chain h{} belongs to c{}, not to c{chip}",
            claims.chain, info.chip
        ));
    }
    Ok(())
}

/// Checks every record of a chip and returns which runs may take part in the replay.
pub(super) fn check(cx: &ChipCx<'_>, sink: &mut super::report::Sink) -> Vec<bool> {
    let mut ok = vec![true; cx.runs.len()];
    let mut events = 0u64;
    for (i, (run, claims)) in cx.runs.iter().zip(cx.claims).enumerate() {
        let sound = if cx.info[i].ok {
            check_claims(cx, run, claims)
        } else {
            check_run(cx.t, run).map(|_| ())
        };
        if let Err(what) = sound {
            ok[i] = false;
            sink.report(Invariant::Records, || {
                cx.violation(Invariant::Records, i as u32, None, what)
            });
        }
        if let Err(what) = check_chain(cx.entry, cx.chip, claims) {
            ok[i] &= (claims.chain as usize) < cx.entry.chains.len();
            sink.report(Invariant::Chains, || {
                cx.violation(Invariant::Chains, i as u32, None, what)
            });
        }
        events += cx.info[i].issues as u64;
        if ok[i] && events > MAX_EVENTS {
            ok[i] = false;
            sink.report(Invariant::Records, || {
                let what = format!("more than {MAX_EVENTS} issues on one chip");
                cx.violation(Invariant::Records, i as u32, None, what)
            });
        }
    }
    ok
}

/// Both hemispheres, as array indices.
pub(super) fn hemi_index(dir: Dir) -> usize {
    dir as usize
}
