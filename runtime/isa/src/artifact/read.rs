//! Bytes to artifact. The bytes are hostile: nothing is allocated that the file does not justify, and every record,
//! string and list must use up its section exactly.

use super::container::{self, SectionInfo};
use super::error::{ArtifactError, ArtifactErrorKind};
use super::record::*;
use super::{
    Artifact, ChainInfo, ChipProgram, Const, ConstForm, Entry, HostDType, HostDim, HostNest, HostTensor, OriginInfo,
    Program, SharedBytes, State, TileImage, Value, ValueKind,
};
use crate::claim::{Block, Claims, MemClaim, Producer};
use crate::decode::decode_run;
use crate::figures::rows;
use crate::id::{DType, Dir, Place};
use crate::run::Window;
use crate::target::{Source, Target};
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use zerocopy::FromBytes;
use zerocopy::little_endian::{U32, U64};

use ArtifactErrorKind as Kind;

impl Artifact {
    /// Reads an artifact. Its weights stay in `bytes`, which it shares.
    ///
    /// # Errors
    /// A file that is no artifact, of another version, cut short or damaged (the crc32 of every section is checked), or
    /// that [`Artifact::check`] refuses.
    pub fn from_bytes(bytes: SharedBytes) -> Result<Artifact, ArtifactError> {
        let file: &[u8] = (*bytes).as_ref();
        let table = container::sections(file)?;
        let Some((weights, others)) = table.split_last() else {
            return Err(Kind::value("table count", 0, Section::ALL.len()).at("header"));
        };
        // The weights are most of a file: another thread begins with their checksum while the rest is decoded.
        let sum = Checksum::new(container::bytes_of(file, weights));
        let (artifact, crc) = std::thread::scope(|scope| {
            let beside = match sum.chunks.len() > 1 {
                true => std::thread::Builder::new().spawn_scoped(scope, || sum.take()).ok(),
                false => None,
            };
            let artifact = decode(file, &table, others).and_then(|mut artifact| {
                let range = &weights.range;
                artifact.weights_range = (range.start, range.end - range.start);
                artifact.weights = bytes.clone();
                artifact.check_decoded()?;
                let target = Arc::new(artifact.target.clone());
                for program in &mut artifact.programs {
                    program.runs.note_checked(&target);
                }
                Ok(artifact)
            });
            let own = sum.take();
            let others = beside.map(|thread| thread.join().unwrap_or_default());
            (artifact, sum.combine(own, others.unwrap_or_default()))
        });
        let artifact = artifact?;
        container::check_crc(crc, weights)?;
        Ok(artifact)
    }
}

/// Everything but the weights.
fn decode(file: &[u8], table: &[SectionInfo], others: &[SectionInfo]) -> Result<Artifact, ArtifactError> {
    for info in others {
        let crc = container::crc_of(container::bytes_of(file, info));
        container::check_crc(crc.finalize(), info)?;
    }
    Reader::new(file, table).artifact()
}

/// Bytes of weights that a thread takes the checksum of at a time.
const CHUNK_BYTES: usize = 2 << 20;

/// The checksum of the weights, taken chunk by chunk by whoever has time.
struct Checksum<'a> {
    chunks: Vec<&'a [u8]>,
    next: AtomicUsize,
}

/// Checksums of chunks, with their numbers.
type Parts = Vec<(usize, crc32fast::Hasher)>;

impl<'a> Checksum<'a> {
    fn new(bytes: &'a [u8]) -> Checksum<'a> {
        Checksum {
            chunks: bytes.chunks(CHUNK_BYTES).collect(),
            next: AtomicUsize::new(0),
        }
    }

    /// Takes chunks that nobody has taken until there is none left.
    fn take(&self) -> Parts {
        let mut parts = Vec::new();
        loop {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(chunk) = self.chunks.get(i) else {
                return parts;
            };
            parts.push((i, container::crc_of(chunk)));
        }
    }

    /// The checksum of all, of what two threads have taken; a chunk that neither has is done here.
    fn combine(&self, own: Parts, others: Parts) -> u32 {
        let mut all: BTreeMap<usize, crc32fast::Hasher> = own.into_iter().chain(others).collect();
        let mut crc = crc32fast::Hasher::new();
        for (i, chunk) in self.chunks.iter().enumerate() {
            crc.combine(&all.remove(&i).unwrap_or_else(|| container::crc_of(chunk)));
        }
        crc.finalize()
    }
}

/// A cursor into every section.
struct Reader<'a> {
    of: [&'a [u8]; Section::ALL.len()],
    total: [usize; Section::ALL.len()],
}

type Read<T> = Result<T, ArtifactError>;

fn unknown<T>(section: Section, what: &'static str, found: impl std::fmt::Display) -> Read<T> {
    let at = format!("section {}", section.name());
    Err(Kind::value(what, found, "a known one").at(at))
}

fn zero(section: Section, field: u64) -> Read<()> {
    if field != 0 {
        let at = format!("section {}", section.name());
        return Err(Kind::value("reserved field", field, 0).at(at));
    }
    Ok(())
}

impl<'a> Reader<'a> {
    fn new(file: &'a [u8], table: &[SectionInfo]) -> Reader<'a> {
        let mut of: [&[u8]; Section::ALL.len()] = [&[]; Section::ALL.len()];
        for (slot, info) in of.iter_mut().zip(table) {
            *slot = container::bytes_of(file, info);
        }
        let total = of.map(<[u8]>::len);
        Reader { of, total }
    }

    /// The error of a section that is too short by `more` bytes, or has bytes left over.
    fn pool<T>(&self, section: Section, more: u64) -> Read<T> {
        let i = section as usize - 1;
        let (total, left) = (self.total[i] as u64, self.of[i].len() as u64);
        Err(Kind::Pool {
            section: section.name(),
            unit: "bytes",
            found: total,
            needed: total - left + more,
        }
        .at(""))
    }

    fn next<T: FromBytes>(&mut self, section: Section) -> Read<T> {
        let slot = &mut self.of[section as usize - 1];
        match T::read_from_prefix(slot) {
            Ok((record, rest)) => {
                *slot = rest;
                Ok(record)
            }
            Err(_) => self.pool(section, size_of::<T>() as u64),
        }
    }

    /// Reads `n` items; reserves no more than the section that they come from can hold.
    fn list<T>(&mut self, n: u32, section: Section, mut item: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        let most = self.of[section as usize - 1].len() / section.element_bytes();
        let mut out = Vec::with_capacity(most.min(n as usize));
        for _ in 0..n {
            out.push(item(self)?);
        }
        Ok(out)
    }

    fn name(&mut self, length: U32) -> Read<String> {
        let slot = &mut self.of[Section::Names as usize - 1];
        let length = length.get() as usize;
        let Some((s, rest)) = slot.split_at_checked(length) else {
            return self.pool(Section::Names, length as u64);
        };
        *slot = rest;
        match std::str::from_utf8(s) {
            Ok(s) => Ok(s.to_string()),
            Err(_) => Err(Kind::Utf8.at("section names")),
        }
    }

    fn dtype(&self, section: Section, byte: u8) -> Read<DType> {
        DType::from_u8(byte).map_or_else(|| unknown(section, "dtype", byte), Ok)
    }

    fn left(&self, section: Section) -> bool {
        !self.of[section as usize - 1].is_empty()
    }

    fn artifact(&mut self) -> Read<Artifact> {
        let meta: Meta = self.next(Section::Meta)?;
        zero(Section::Meta, meta.zero.get() as u64)?;
        let name = self.name(meta.name)?;
        let n_chips = meta.n_chips.get();
        let target = self.target()?;
        let mut states = Vec::new();
        while self.left(Section::States) {
            let row: StateRow = self.next(Section::States)?;
            states.push(State {
                name: self.name(row.name)?,
                from: self.name(row.from)?,
            });
        }
        let mut programs = Vec::new();
        while self.left(Section::Programs) {
            programs.push(self.program(programs.len())?);
        }
        let mut consts = Vec::new();
        while self.left(Section::Consts) {
            consts.push(self.constant()?);
        }
        let mut tiles = Vec::new();
        while self.left(Section::Tiles) {
            let t: TileRow = self.next(Section::Tiles)?;
            zero(Section::Tiles, t.zero as u64)?;
            tiles.push(TileImage {
                offset: t.offset.get(),
                rows: t.rows.get(),
                lo: t.lo.get(),
                columns: t.columns.get(),
                dtype: self.dtype(Section::Tiles, t.dtype)?,
            });
        }
        let mut entries = Vec::new();
        while self.left(Section::Entries) {
            entries.push(self.entry(n_chips, &programs)?);
        }
        let report = std::mem::take(&mut self.of[Section::Report as usize - 1]);
        let report = std::str::from_utf8(report).map_err(|_| Kind::Utf8.at("section report"))?;
        let tokenizer = std::mem::take(&mut self.of[Section::Tokenizer as usize - 1]);
        let tokenizer = std::str::from_utf8(tokenizer).map_err(|_| Kind::Utf8.at("section tokenizer"))?;
        for section in Section::ALL {
            if section != Section::Weights && self.left(section) {
                return self.pool(section, 0);
            }
        }
        let none: SharedBytes = Arc::new(Vec::new());
        Ok(Artifact {
            name,
            target,
            n_chips,
            programs,
            entries,
            states,
            consts,
            tiles,
            weights: none,
            weights_range: (0, 0),
            report: report.to_string(),
            tokenizer: tokenizer.to_string(),
        })
    }

    fn target(&mut self) -> Read<Target> {
        let length: U64 = self.next(Section::Target)?;
        let length = u32::try_from(length.get()).unwrap_or(u32::MAX);
        let mut target = Target::blank(&self.name(U32::new(length))?);
        for mut row in rows(&mut target) {
            let word: U64 = self.next(Section::Target)?;
            if !row.set_word(word.get()) {
                return unknown(Section::Target, row.field, word);
            }
        }
        while self.left(Section::Sources) {
            let row: SourceRow = self.next(Section::Sources)?;
            let (field, note) = (self.name(row.field)?, self.name(row.note)?);
            target.sources.push(Source { field, note });
        }
        Ok(target)
    }

    fn program(&mut self, index: usize) -> Read<Program> {
        let row: ProgramRow = self.next(Section::Programs)?;
        let slot = &mut self.of[Section::Text as usize - 1];
        let Some((mut text, rest)) = slot.split_at_checked(row.text_bytes.get() as usize) else {
            return self.pool(Section::Text, row.text_bytes.get() as u64);
        };
        *slot = rest;
        let most = text.len() / crate::encode::RECORD_BYTES;
        let mut runs = Vec::with_capacity(most.min(row.n_runs.get() as usize));
        for i in 0..row.n_runs.get() {
            let (run, len) = decode_run(text).map_err(|e| Kind::Run(e).at(format!("program {index}, run r{i}")))?;
            runs.push(run);
            text = text.get(len..).unwrap_or(&[]);
        }
        if !text.is_empty() {
            let allowed = row.text_bytes.get() as usize - text.len();
            let at = format!("program {index}");
            return Err(Kind::value("text bytes", row.text_bytes, allowed).at(at));
        }
        Ok(Program { runs: runs.into() })
    }

    fn constant(&mut self) -> Read<Const> {
        let c: ConstRow = self.next(Section::Consts)?;
        let (first, step) = (c.first.get(), c.step.get());
        let form = match c.tile.get() {
            NONE if first != 0 || step != 0 => {
                return unknown(Section::Consts, "row of a constant without tile", first | step);
            }
            NONE => ConstForm::Rows,
            tile => ConstForm::Tile { tile, first, step },
        };
        Ok(Const {
            offset: c.offset.get(),
            length: c.length.get(),
            form,
        })
    }

    fn entry(&mut self, n_chips: u16, programs: &[Program]) -> Read<Entry> {
        let row: EntryRow = self.next(Section::Entries)?;
        let name = self.name(row.name)?;
        let values = self.list(row.n_values.get(), Section::Values, Reader::value)?;
        let mut chips = Vec::new();
        for chip in 0..n_chips {
            let at = |k: Kind| k.at(format!("entry {name:?}, chip {chip}"));
            let row: ChipRow = self.next(Section::Chips)?;
            zero(Section::Chips, row.zero.get() as u64)?;
            let program = row.program.get();
            let Some(code) = programs.get(program as usize) else {
                return Err(at(Kind::value("program", program, below(programs.len()))));
            };
            let n = code.runs.len() as u32;
            let origins = self.list(n, Section::RunOrigins, |r| r.next(Section::RunOrigins).map(U32::get))?;
            let claims = self.list(n, Section::Claims, Reader::claims)?;
            chips.push(ChipProgram {
                program,
                start: row.start.get(),
                claims,
                origins,
            });
        }
        let chains = self.list(row.n_chains.get(), Section::Chains, |r| {
            let c: ChainRow = r.next(Section::Chains)?;
            Ok(ChainInfo {
                chip: c.chip.get(),
                to: (c.to.get() != NONE16).then_some(c.to.get()),
                origin: c.origin.get(),
            })
        })?;
        let origins = self.list(row.n_origins.get(), Section::Origins, |r| {
            let o: OriginRow = r.next(Section::Origins)?;
            let op = r.name(o.op)?;
            let nodes = r.list(o.n_nodes.get(), Section::Nodes, |r| {
                let length = r.next(Section::Nodes)?;
                r.name(length)
            })?;
            Ok(OriginInfo { op, nodes })
        })?;
        let inputs = self.list(row.n_inputs.get(), Section::Tensors, Reader::tensor)?;
        let outputs = self.list(row.n_outputs.get(), Section::Tensors, Reader::tensor)?;
        Ok(Entry {
            name,
            values,
            chips,
            chains,
            origins,
            inputs,
            outputs,
            makespan: row.makespan.get(),
        })
    }

    fn value(&mut self) -> Read<Value> {
        let v: ValueRow = self.next(Section::Values)?;
        let index = v.index.get();
        let kind = match v.kind {
            0 => ValueKind::Const(index),
            1 => ValueKind::Input,
            2 => ValueKind::State(index),
            3 => ValueKind::Computed,
            4 => ValueKind::NextState(index),
            other => return unknown(Section::Values, "kind of a value", other),
        };
        if matches!(kind, ValueKind::Input | ValueKind::Computed) {
            zero(Section::Values, index as u64)?;
        }
        let hemi = if v.group >> 7 == 0 { Dir::East } else { Dir::West };
        Ok(Value {
            chip: v.chip.get(),
            place: Place {
                hemi,
                group: v.group & 0x7f,
                bank: v.bank,
            },
            base: v.base.get(),
            n_vectors: v.n_vectors.get(),
            dtype: self.dtype(Section::Values, v.dtype)?,
            lo: v.lo.get(),
            hi: v.hi.get(),
            kind,
        })
    }

    fn producer(&mut self) -> Read<Producer> {
        let p: ProducerRow = self.next(Section::Producers)?;
        Ok(Producer {
            run: p.run.get(),
            first: p.first.get(),
        })
    }

    fn claims(&mut self) -> Read<Claims> {
        let c: ClaimRow = self.next(Section::Claims)?;
        if c.flags > 3 {
            return unknown(Section::Claims, "flags", c.flags);
        }
        let mut operands = SmallVec::new();
        for _ in 0..c.n_operands {
            operands.push(self.producer()?);
        }
        let acc = if c.flags & 1 != 0 { Some(self.producer()?) } else { None };
        let blocks = self.list(c.n_blocks.get() as u32, Section::Blocks, |r| {
            let b: BlockRow = r.next(Section::Blocks)?;
            Ok(Block {
                load: b.load.get(),
                window: Window {
                    n0: b.n0.get(),
                    n1: b.n1.get(),
                    k0: b.k0.get(),
                    k1: b.k1.get(),
                },
            })
        })?;
        let mem = if c.flags & 2 != 0 {
            let m: MemRow = self.next(Section::Mem)?;
            Some(MemClaim {
                value: m.value.get(),
                base: m.base.get(),
                strides: m.strides.map(|s| s.get()),
                limit: m.limit.get(),
                row_stride: m.row_stride.get(),
            })
        } else {
            None
        };
        Ok(Claims {
            chain: c.chain.get(),
            operands,
            blocks,
            acc,
            mem,
        })
    }

    fn tensor(&mut self) -> Read<HostTensor> {
        let t: TensorRow = self.next(Section::Tensors)?;
        zero(Section::Tensors, t.zero as u64)?;
        let Some(dtype) = HostDType::ALL.get(t.dtype as usize).copied() else {
            return unknown(Section::Tensors, "dtype", t.dtype);
        };
        let name = self.name(t.name)?;
        let shape = self.list(t.rank.get() as u32, Section::Shapes, |r| {
            r.next(Section::Shapes).map(U64::get)
        })?;
        let nests = self.list(t.n_nests.get(), Section::Nests, |r| {
            let n: NestRow = r.next(Section::Nests)?;
            zero(Section::Nests, n.zero.get() as u64)?;
            let dims = r.list(n.n_dims.get() as u32, Section::Dims, |r| {
                let d: DimRow = r.next(Section::Dims)?;
                zero(Section::Dims, d.zero.get() as u64)?;
                Ok(HostDim {
                    count: d.count.get(),
                    element: d.element.get(),
                    vector: d.vector.get(),
                    lane: d.lane.get(),
                })
            })?;
            Ok(HostNest {
                value: n.value.get(),
                element: n.element.get(),
                vector: n.vector.get(),
                lane: n.lane.get(),
                dims,
            })
        })?;
        Ok(HostTensor {
            name,
            dtype,
            shape,
            fill: t.fill.get(),
            nests,
        })
    }
}

/// "Less than n", as errors say it.
pub(crate) fn below(n: usize) -> String {
    format!("less than {n}")
}
