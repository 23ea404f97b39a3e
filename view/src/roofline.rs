//! Every operation of a schedule beside what the machine could do: operations per byte of SRAM traffic, and operations per cycle.
//!
//! An operation is a multiply-add of the matrix units or one ALU operation on one live lane.

use lockstep_isa::{Artifact, DType, Opcode, disasm};
use std::collections::BTreeMap;

/// What one IR operation does on all chips together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Op {
    /// What the compiler calls it.
    pub op: String,
    /// Its model nodes.
    pub nodes: Vec<String>,
    /// Multiply-adds of the matrix units.
    pub products: u64,
    /// Operations of the ALUs, lane by lane.
    pub alu: u64,
    /// Bytes read from and written to SRAM, whole words.
    pub bytes: u64,
    /// Cycles from its first issue to its end.
    pub cycles: u64,
}

/// What all chips in use can do at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roof {
    /// Multiply-adds per cycle in this dtype.
    pub products: f64,
    /// The dtype of most products.
    pub dtype: DType,
    /// ALU operations per cycle.
    pub alu: f64,
    /// Bytes of SRAM per cycle: one row of every bank.
    pub bytes: f64,
}

/// The operations of an entry by their first cycle, and what the machine could do.
pub fn of(artifact: &Artifact, entry: usize) -> (Vec<Op>, Roof) {
    let target = &artifact.target;
    let mut ops: BTreeMap<u32, (u64, u64, Op)> = BTreeMap::new();
    let mut dtypes: BTreeMap<DType, u64> = BTreeMap::new();
    let e = artifact.entries.get(entry);
    for line in disasm::lines(artifact, entry) {
        let Some(chip) = e.and_then(|e| e.chips.get(line.chip as usize)) else {
            continue;
        };
        let Some(&origin) = chip.origins.get(line.index as usize) else {
            continue;
        };
        let run = line.run;
        let end = line.cycle.saturating_add(u64::from(target.run_end(run)));
        let (first, last, op) = ops.entry(origin).or_insert_with(|| (line.cycle, end, Op::default()));
        (*first, *last) = ((*first).min(line.cycle), (*last).max(end));
        let issues = u64::from(run.issues());
        let lanes = u64::from(run.hi.saturating_sub(run.lo));
        match run.op {
            Opcode::Mul => {
                let blocks = chip.claims.get(line.index as usize).map_or(&[][..], |c| &c.blocks);
                let area = blocks.iter().map(|b| {
                    let w = b.window;
                    u64::from(w.n1.saturating_sub(w.n0)) * u64::from(w.k1.saturating_sub(w.k0))
                });
                let products = area.sum::<u64>().saturating_mul(issues);
                op.products = op.products.saturating_add(products);
                let of_dtype = dtypes.entry(run.dtype).or_default();
                *of_dtype = of_dtype.saturating_add(products);
            }
            Opcode::Alu | Opcode::Fold | Opcode::Reduce => op.alu = op.alu.saturating_add(issues * lanes),
            Opcode::Read | Opcode::Write | Opcode::Gather | Opcode::Scatter => {
                let words = if run.words > 0 {
                    u64::from(run.words)
                } else {
                    u64::from(run.dtype.words())
                };
                op.bytes = op.bytes.saturating_add(issues * words * target.word_bytes() as u64);
            }
            _ => {}
        }
    }
    let mut found: Vec<(u64, u32, Op)> = Vec::new();
    for (origin, (first, last, mut op)) in ops {
        if let Some(info) = e.and_then(|e| e.origins.get(origin as usize)) {
            op.op.clone_from(&info.op);
            op.nodes.clone_from(&info.nodes);
        }
        op.cycles = last.saturating_sub(first);
        found.push((first, origin, op));
    }
    found.sort_by_key(|(first, origin, _)| (*first, *origin));
    let dtype = dtypes
        .into_iter()
        .max_by_key(|(_, n)| *n)
        .map_or(DType::F32, |(d, _)| d);
    let chips = f64::from(artifact.n_chips);
    let lanes = f64::from(target.lanes);
    let each = target.mxm_rate(dtype).map_or(1, |r| r.cycles_per_vector.max(1));
    let roof = Roof {
        products: chips * 2.0 * f64::from(target.mxm_units(dtype)) * lanes * lanes / f64::from(each),
        dtype,
        alu: chips * f64::from(target.vxm.alus) * lanes,
        bytes: chips * target.n_places() as f64 * f64::from(target.slices) * target.word_bytes() as f64,
    };
    (found.into_iter().map(|f| f.2).collect(), roof)
}
