//! Checks of a run that need no cycle, beyond those of [`Run::check`]: dtypes that the opcode is defined on, issues apart
//! by the occupancy. What passes can be stepped without further range checks; what depends on time is a hazard instead.

use lockstep_isa::run::{AccIn, Operand, Queue, Run, Src};
use lockstep_isa::{AluOp, DType, Opcode, Target, scalar};

/// An operand of a run and the words it takes from a belt; `single` for one word of a vector of any width.
#[derive(Clone, Copy, Debug)]
pub(super) struct Take {
    pub operand: Operand,
    pub words: u8,
    pub single: bool,
}

/// Whether a read or write moves one word of a wider vector.
pub(super) fn is_word_access(run: &Run) -> bool {
    run.words == 1 && run.dtype.words() > 1
}

/// The operands of a run in the order a, b, c. Tile loads have one per belt group and are not listed.
pub(super) fn takes(run: &Run) -> [Option<Take>; 3] {
    let full = |operand: Operand| {
        Some(Take {
            operand,
            words: operand.dtype.words() as u8,
            single: false,
        })
    };
    let list = match run.op {
        Opcode::Read | Opcode::Recv | Opcode::LoadRow | Opcode::LoadCol => [None; 3],
        Opcode::Write => [
            Some(Take {
                operand: run.a,
                words: run.words,
                single: is_word_access(run),
            }),
            None,
            None,
        ],
        Opcode::Send => [
            Some(Take {
                operand: run.a,
                words: 1,
                single: true,
            }),
            None,
            None,
        ],
        Opcode::Mul if run.acc_in == AccIn::Stream => [full(run.a), full(run.b), None],
        Opcode::Scatter | Opcode::Permute => [full(run.a), full(run.b), None],
        Opcode::Alu => [full(run.a), full(run.b), full(run.c)],
        _ => [full(run.a), None, None],
    };
    let arity = match run.op {
        Opcode::Alu => run.alu.arity(),
        _ => 3,
    };
    let mut out = list;
    out.iter_mut().skip(arity).for_each(|t| *t = None);
    out
}

/// Words that a run puts onto a belt per result.
pub(super) fn result_words(run: &Run) -> u8 {
    match run.op {
        Opcode::Read => run.words,
        Opcode::Recv => 1,
        Opcode::Mul => 4,
        _ => run.dtype.words() as u8,
    }
}

/// The type in which a VXM run computes: that of its operands, widened (for a select, of its second and third).
pub(super) fn compute_type(run: &Run) -> DType {
    match run.op {
        Opcode::Alu if run.alu.arity() == 0 => DType::I32,
        Opcode::Alu if run.alu.arity() == 3 && run.alu == AluOp::Select => run.b.dtype.widened(),
        _ => run.a.dtype.widened(),
    }
}

/// Checks that issues are apart by the occupancy.
fn check_dims(target: &Target, run: &Run) -> Result<(), String> {
    let mut span = target.occupancy(run.op, run.dtype).max(1) as u64;
    for d in &run.dims {
        if d.count > 1 && (d.stride as u64) < span {
            let (n, s) = (d.count, d.stride);
            return Err(format!("{n} steps of {s} cycles, a step takes {span}"));
        }
        span += (d.count as u64 - 1) * d.stride as u64;
    }
    Ok(())
}

/// Checks that all planes and ALUs that a run occupies exist.
fn check_extent(target: &Target, run: &Run) -> Result<(), String> {
    let (end, limit) = match run.queue {
        Queue::MxmLoad(_, plane) | Queue::MxmMul(_, plane) => {
            let planes = target.mxm_rate(run.dtype).map_or(1, |r| r.planes.max(1));
            (plane as u32 + planes as u32, target.mxm.planes_per_hemisphere)
        }
        Queue::Alu(i) if run.op == Opcode::Alu => (i as u32 + run.alu.cost() as u32, target.vxm.alus),
        _ => return Ok(()),
    };
    if end > limit as u32 {
        return Err(format!("planes or ALUs up to {end} of {limit}"));
    }
    Ok(())
}

fn check_types(target: &Target, run: &Run) -> Result<(), String> {
    let ty = compute_type(run);
    let wide = matches!(run.dtype, DType::F32 | DType::I32);
    let same = |o: &Operand| o.dtype.words() == run.dtype.words();
    let fits = match run.op {
        Opcode::Read | Opcode::Write => {
            run.words <= target.slices && (run.op == Opcode::Read || is_word_access(run) || same(&run.a))
        }
        Opcode::Scatter => same(&run.a),
        Opcode::Mul => {
            let acc = run.b.dtype == run.dtype.widened();
            run.a.dtype == run.dtype && (run.acc_in != AccIn::Stream || acc)
        }
        Opcode::Alu => {
            let operands = takes(run);
            let skip = (run.alu == AluOp::Select) as usize;
            let alike = operands
                .iter()
                .flatten()
                .skip(skip)
                .all(|t| t.operand.dtype.widened() == ty);
            let result = run.alu == AluOp::Cvt || run.dtype == scalar::result_type(run.alu, ty);
            alike && result && scalar::is_defined(run.alu, ty)
        }
        Opcode::Fold => run.dtype == ty,
        Opcode::Reduce => wide && run.a.dtype == run.dtype,
        Opcode::Permute | Opcode::Transpose => run.a.dtype == run.dtype,
        Opcode::LoadRow | Opcode::LoadCol => run.dtype.holds(run.a.dtype),
        Opcode::Gather | Opcode::Send | Opcode::Recv => true,
    };
    if fits {
        return Ok(());
    }
    let (a, b, c) = (run.a.dtype, run.b.dtype, run.c.dtype);
    Err(format!(
        "{} does not take operands {a}, {b}, {c} to a result {} of {} words",
        run.op.mnemonic(),
        run.dtype,
        run.words
    ))
}

/// Checks one run against the target.
pub(super) fn check_run(target: &Target, run: &Run) -> Result<(), String> {
    run.check(target).map_err(|e| e.to_string())?;
    check_dims(target, run)?;
    check_extent(target, run)?;
    check_types(target, run)?;
    let along = match (run.op, run.a.src, run.out) {
        (Opcode::Gather, Src::Stream(a), Some(out)) => a.dir == out.dir,
        _ => true,
    };
    if !along {
        return Err("a gather whose result does not follow its index".to_owned());
    }
    Ok(())
}

/// Checks what the order of events relies on: a word sent arrives in a later cycle.
pub(super) fn check_target(target: &Target) -> Result<(), String> {
    if target.n_links() > 0 && target.c2c.latency == 0 {
        return Err("links of latency 0".to_owned());
    }
    Ok(())
}
