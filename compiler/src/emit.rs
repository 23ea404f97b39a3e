//! Emit: schedules to an artifact.
//!
//! Values are buffers under the same index. The runs of a chip are put in canonical order (queue, then cycle) and start
//! at cycle 0 of the chip's own program, so that chips that do the same at different times share one program. Constants
//! that several entries share are stored once.

use crate::CompileError;
use crate::chain::contents::Contents;
use crate::chain::{BufKind, ChainKind, ChainProgram};
use crate::schedule::Schedule;
use lockstep_graph::EntityId;
use lockstep_isa::artifact::{ChainInfo, ChipProgram, Entry, Program, Value, ValueKind, WeightsBuilder};
use lockstep_isa::encode::encode_run;
use lockstep_isa::{Artifact, Place, Target};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What an artifact says about itself besides its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ArtifactInfo {
    /// Name of the model.
    pub name: String,
    /// The compile report: canonical JSON.
    pub report: String,
    /// Tokenizer of a language model, as [`Artifact::tokenizer`].
    pub tokenizer: String,
}

/// Turns the scheduled entries of a model into an artifact.
///
/// # Errors
/// `Internal` where a run cannot be encoded.
pub fn emit(
    entries: &[(&ChainProgram, &Schedule)],
    target: &Target,
    info: &ArtifactInfo,
) -> Result<Artifact, CompileError> {
    let mut weights = Weights::default();
    let mut programs = Programs::default();
    let mut out = Vec::with_capacity(entries.len());
    for (program, schedule) in entries {
        let values = values(program, schedule, &mut weights)?;
        let chips = chips(program, schedule, &mut programs)?;
        let chains = program
            .chains
            .values()
            .map(|chain| match chain.kind {
                ChainKind::Compute { chip, .. } => ChainInfo {
                    chip,
                    to: None,
                    origin: chain.origin,
                },
                ChainKind::Transfer { from, to, .. } => ChainInfo {
                    chip: program.bufs.get(from).map_or(0, |b| b.chip),
                    to: program.bufs.get(to).map(|b| b.chip),
                    origin: chain.origin,
                },
            })
            .collect();
        out.push(Entry {
            name: program.name.clone(),
            values,
            chips,
            chains,
            origins: program.origins.clone(),
            inputs: program.inputs.clone(),
            outputs: program.outputs.clone(),
            makespan: schedule.makespan,
        });
    }
    let (consts, tiles, bytes) = weights.builder.finish();
    let length = bytes.len() as u64;
    Ok(Artifact {
        name: info.name.clone(),
        target: target.clone(),
        n_chips: entries.iter().map(|(p, _)| p.n_chips).max().unwrap_or(1),
        programs: programs.list,
        entries: out,
        states: entries.first().map(|(p, _)| p.states.clone()).unwrap_or_default(),
        consts,
        tiles,
        weights: Arc::new(bytes),
        weights_range: (0, length),
        report: info.report.clone(),
        tokenizer: info.tokenizer.clone(),
    })
}

/// Constants stored so far, by the address of their bytes, their shape, and where they lie: a constant that one entry reads
/// from more places than another is several constants over the same bytes.
#[derive(Default)]
struct Weights {
    builder: WeightsBuilder,
    consts: BTreeMap<(usize, [u64; 4], Place, u16), u32>,
    tiles: BTreeMap<(usize, [u64; 4]), u32>,
}

/// The bytes of constant contents, which are as many as expected.
fn sized(contents: &Contents, expected: usize, whose: impl Fn() -> String) -> Result<Cow<'_, [u8]>, CompileError> {
    let bytes = contents.bytes()?;
    if bytes.len() != expected {
        let message = format!("{} has {} bytes of {expected}", whose(), bytes.len());
        return Err(CompileError::internal("emit", message));
    }
    Ok(bytes)
}

fn values(program: &ChainProgram, schedule: &Schedule, weights: &mut Weights) -> Result<Vec<Value>, CompileError> {
    let mut out = Vec::with_capacity(program.bufs.len());
    for (id, buf) in program.bufs.iter() {
        let Some(home) = schedule.homes.get(id.index()) else {
            return Err(CompileError::internal("emit", format!("buffer {id} has no home")));
        };
        let lanes = (buf.lo as u64) << 16 | buf.hi as u64;
        let kind = match &buf.kind {
            BufKind::Temp => ValueKind::Computed,
            BufKind::Input => ValueKind::Input,
            BufKind::State(state) => ValueKind::State(*state),
            BufKind::NextState(state) => ValueKind::NextState(state.index() as u32),
            BufKind::Rows(contents) => {
                let expected = buf.n_vectors as usize * buf.hi.saturating_sub(buf.lo) as usize * buf.dtype.bytes();
                let shape = [0, buf.n_vectors as u64, lanes, buf.dtype as u64];
                let key = (contents.id(), shape, home.place, home.base);
                let index = match weights.consts.get(&key) {
                    Some(&index) => index,
                    None => {
                        let bytes = sized(contents, expected, || format!("buffer {id}"))?;
                        weights.builder.push_rows(&bytes)
                    }
                };
                weights.consts.insert(key, index);
                ValueKind::Const(index)
            }
            BufKind::Tile { tile, first, step } => {
                let Some(t) = program.tiles.get(*tile) else {
                    return Err(CompileError::internal(
                        "emit",
                        format!("buffer {id} is part of no tile"),
                    ));
                };
                let width = t.columns as usize * t.dtype.bytes();
                let last = *first as u64 + buf.n_vectors.saturating_sub(1) as u64 * *step as u64;
                if last >= t.rows as u64 {
                    return Err(CompileError::internal(
                        "emit",
                        format!("tile {tile} has {} rows; buffer {id} takes row {last}", t.rows),
                    ));
                }
                let at = t.data.id();
                let shape = (t.rows as u64) << 48 | (t.lo as u64) << 32 | (t.columns as u64) << 16 | t.dtype as u64;
                let tile_key = (at, [shape, 0, 0, 0]);
                let index = match weights.tiles.get(&tile_key) {
                    Some(&index) => index,
                    None => {
                        let bytes = sized(&t.data, t.rows as usize * width, || format!("tile {tile}"))?;
                        weights.builder.push_tile(t.rows, t.lo, t.columns, t.dtype, |k, out| {
                            out.copy_from_slice(&bytes[k as usize * width..][..width]);
                        })
                    }
                };
                weights.tiles.insert(tile_key, index);
                let key = (
                    at,
                    [
                        shape,
                        (*first as u64) << 16 | *step as u64 | 1 << 63,
                        buf.n_vectors as u64,
                        lanes,
                    ],
                    home.place,
                    home.base,
                );
                let index = match weights.consts.get(&key) {
                    Some(&index) => index,
                    None => weights.builder.push_tile_rows(index, *first, *step),
                };
                weights.consts.insert(key, index);
                ValueKind::Const(index)
            }
        };
        out.push(Value {
            chip: buf.chip,
            place: home.place,
            base: home.base,
            n_vectors: buf.n_vectors,
            dtype: buf.dtype,
            lo: buf.lo,
            hi: buf.hi,
            kind,
        });
    }
    Ok(out)
}

/// Programs stored so far, by their encoded bytes.
#[derive(Default)]
struct Programs {
    list: Vec<Program>,
    index: BTreeMap<Vec<u8>, u32>,
}

fn chips(
    program: &ChainProgram,
    schedule: &Schedule,
    programs: &mut Programs,
) -> Result<Vec<ChipProgram>, CompileError> {
    let mut of_chip: Vec<Vec<u32>> = vec![Vec::new(); program.n_chips as usize];
    for (i, placed) in schedule.runs.iter().enumerate() {
        if let Some(list) = of_chip.get_mut(placed.chip as usize) {
            list.push(i as u32);
        }
    }
    // Index of each run in its chip's program.
    let mut local = vec![0u32; schedule.runs.len()];
    for list in &mut of_chip {
        list.sort_by_key(|&i| {
            let run = &schedule.runs[i as usize].run;
            (run.queue, run.cycle)
        });
        for (at, &i) in list.iter().enumerate() {
            local[i as usize] = at as u32;
        }
    }
    let mut out = Vec::with_capacity(of_chip.len());
    for list in &of_chip {
        let start = list
            .iter()
            .map(|&i| schedule.runs[i as usize].run.cycle)
            .min()
            .unwrap_or(0);
        let mut runs = Vec::with_capacity(list.len());
        let mut claims = Vec::with_capacity(list.len());
        let mut origins = Vec::with_capacity(list.len());
        let mut text = Vec::with_capacity(list.len() * 40);
        for &i in list {
            let placed = &schedule.runs[i as usize];
            let mut run = placed.run;
            run.cycle -= start;
            encode_run(&run, &mut text)
                .map_err(|e| CompileError::internal("emit", format!("chain {}: {e}", placed.chain)))?;
            runs.push(run);
            let mut c = placed.claims.clone();
            let acc = c.acc.as_mut().into_iter();
            for producer in c.operands.iter_mut().chain(acc) {
                producer.run = local[producer.run as usize];
            }
            for block in &mut c.blocks {
                block.load = local[block.load as usize];
            }
            claims.push(c);
            origins.push(program.chains[placed.chain].origin);
        }
        let Programs { list: stored, index } = programs;
        let id = *index.entry(text).or_insert_with(|| {
            stored.push(Program { runs: runs.into() });
            stored.len() as u32 - 1
        });
        out.push(ChipProgram {
            program: id,
            start: start as u64,
            claims,
            origins,
        });
    }
    Ok(out)
}
