//! Artifact to bytes: records in the order of the structures, strings and lists appended to their sections.

use super::container::{self, Section};
use super::error::{ArtifactError, ArtifactErrorKind};
use super::record::*;
use super::{Artifact, ConstForm, Entry, HostTensor, ValueKind};
use crate::claim::Claims;
use crate::encode::encode_unchecked;
use crate::figures::rows;
use std::io::Write;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{I32, U32, U64};

impl Artifact {
    /// The artifact as the bytes of a file. The same artifact gives the same bytes.
    ///
    /// # Errors
    /// An artifact that [`Artifact::check`] refuses, or a list too long for its count in the file.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ArtifactError> {
        let mut out = Vec::new();
        self.write_to(&mut out)?;
        Ok(out)
    }

    /// Writes the bytes of [`Artifact::to_bytes`] without holding them all: the weights are written from where they are.
    ///
    /// # Errors
    /// As [`Artifact::to_bytes`], and what the writer reports.
    pub fn write_to(&self, out: &mut dyn Write) -> Result<(), ArtifactError> {
        self.check()?;
        let mut w = Sections::default();
        w.artifact(self)?;
        let mut weights: &[u8] = self.weight_bytes();
        let padded;
        if !weights.len().is_multiple_of(64) {
            let mut copy = weights.to_vec();
            copy.resize(weights.len().next_multiple_of(64), 0);
            padded = copy;
            weights = &padded;
        }
        let mut all: [&[u8]; Section::ALL.len()] = std::array::from_fn(|i| w.of[i].as_slice());
        all[Section::Weights as usize - 1] = weights;
        container::write(&all, out)
    }
}

/// Sections under construction.
struct Sections {
    of: [Vec<u8>; Section::ALL.len()],
}

impl Default for Sections {
    fn default() -> Self {
        Sections {
            of: std::array::from_fn(|_| Vec::new()),
        }
    }
}

/// A count that must fit its field.
fn count<T: TryFrom<usize>>(what: &'static str, n: usize) -> Result<T, ArtifactError> {
    T::try_from(n).map_err(|_| {
        let allowed = format!("what fits {} bytes", size_of::<T>());
        ArtifactErrorKind::value(what, n, allowed).at("")
    })
}

impl Sections {
    fn put(&mut self, section: Section, record: &(impl IntoBytes + zerocopy::Immutable)) {
        self.of[section as usize - 1].extend_from_slice(record.as_bytes());
    }

    /// Appends a string and returns its length.
    fn name(&mut self, s: &str) -> Result<U32, ArtifactError> {
        self.of[Section::Names as usize - 1].extend_from_slice(s.as_bytes());
        Ok(U32::new(count("bytes of a string", s.len())?))
    }

    fn artifact(&mut self, a: &Artifact) -> Result<(), ArtifactError> {
        let meta = Meta {
            name: self.name(&a.name)?,
            n_chips: a.n_chips.into(),
            zero: 0.into(),
        };
        self.put(Section::Meta, &meta);
        let target_name = self.name(&a.target.name)?.get() as u64;
        self.put(Section::Target, &U64::new(target_name));
        for row in rows(&mut a.target.clone()) {
            self.put(Section::Target, &U64::new(row.word()));
        }
        for s in &a.target.sources {
            let (field, note) = (self.name(&s.field)?, self.name(&s.note)?);
            self.put(Section::Sources, &SourceRow { field, note });
        }
        for s in &a.states {
            let (name, from) = (self.name(&s.name)?, self.name(&s.from)?);
            self.put(Section::States, &StateRow { name, from });
        }
        for p in &a.programs {
            let text = &mut self.of[Section::Text as usize - 1];
            let before = text.len();
            for run in &p.runs {
                encode_unchecked(run, text);
            }
            let text_bytes = text.len() - before;
            let row = ProgramRow {
                n_runs: U32::new(count("runs of a program", p.runs.len())?),
                text_bytes: U32::new(count("bytes of a program", text_bytes)?),
            };
            self.put(Section::Programs, &row);
        }
        for c in &a.consts {
            let (tile, first, step) = match c.form {
                ConstForm::Rows => (NONE, 0, 0),
                ConstForm::Tile { tile, first, step } => (tile, first, step),
            };
            let row = ConstRow {
                offset: c.offset.into(),
                length: c.length.into(),
                tile: tile.into(),
                first: first.into(),
                step: step.into(),
            };
            self.put(Section::Consts, &row);
        }
        for t in &a.tiles {
            let row = TileRow {
                offset: t.offset.into(),
                rows: t.rows.into(),
                lo: t.lo.into(),
                columns: t.columns.into(),
                dtype: t.dtype as u8,
                zero: 0,
            };
            self.put(Section::Tiles, &row);
        }
        for e in &a.entries {
            self.entry(e)?;
        }
        let report = &mut self.of[Section::Report as usize - 1];
        report.extend_from_slice(a.report.as_bytes());
        let tokenizer = &mut self.of[Section::Tokenizer as usize - 1];
        tokenizer.extend_from_slice(a.tokenizer.as_bytes());
        Ok(())
    }

    fn entry(&mut self, e: &Entry) -> Result<(), ArtifactError> {
        let row = EntryRow {
            name: self.name(&e.name)?,
            n_values: U32::new(count("values of an entry", e.values.len())?),
            n_chains: U32::new(count("chains of an entry", e.chains.len())?),
            n_origins: U32::new(count("origins of an entry", e.origins.len())?),
            n_inputs: U32::new(count("inputs of an entry", e.inputs.len())?),
            n_outputs: U32::new(count("outputs of an entry", e.outputs.len())?),
            makespan: e.makespan.into(),
        };
        self.put(Section::Entries, &row);
        for v in &e.values {
            let (kind, index) = match v.kind {
                ValueKind::Const(i) => (0, i),
                ValueKind::Input => (1, 0),
                ValueKind::State(i) => (2, i),
                ValueKind::Computed => (3, 0),
                ValueKind::NextState(i) => (4, i),
            };
            let row = ValueRow {
                kind,
                dtype: v.dtype as u8,
                chip: v.chip.into(),
                group: (v.place.hemi as u8) << 7 | v.place.group,
                bank: v.place.bank,
                base: v.base.into(),
                n_vectors: v.n_vectors.into(),
                lo: v.lo.into(),
                hi: v.hi.into(),
                index: index.into(),
            };
            self.put(Section::Values, &row);
        }
        for c in &e.chips {
            let row = ChipRow {
                program: c.program.into(),
                zero: 0.into(),
                start: c.start.into(),
            };
            self.put(Section::Chips, &row);
            for &o in &c.origins {
                self.put(Section::RunOrigins, &U32::new(o));
            }
            for claims in &c.claims {
                self.claims(claims)?;
            }
        }
        for c in &e.chains {
            let row = ChainRow {
                chip: c.chip.into(),
                to: c.to.unwrap_or(NONE16).into(),
                origin: c.origin.into(),
            };
            self.put(Section::Chains, &row);
        }
        for o in &e.origins {
            let row = OriginRow {
                op: self.name(&o.op)?,
                n_nodes: U32::new(count("nodes of an origin", o.nodes.len())?),
            };
            self.put(Section::Origins, &row);
            for node in &o.nodes {
                let length = self.name(node)?;
                self.put(Section::Nodes, &length);
            }
        }
        for t in e.inputs.iter().chain(&e.outputs) {
            self.tensor(t)?;
        }
        Ok(())
    }

    fn claims(&mut self, c: &Claims) -> Result<(), ArtifactError> {
        let row = ClaimRow {
            chain: c.chain.into(),
            n_blocks: count::<u16>("blocks of a claim", c.blocks.len())?.into(),
            n_operands: count("operands of a claim", c.operands.len())?,
            flags: c.acc.is_some() as u8 | (c.mem.is_some() as u8) << 1,
        };
        self.put(Section::Claims, &row);
        for p in c.operands.iter().chain(&c.acc) {
            let row = ProducerRow {
                run: p.run.into(),
                first: p.first.into(),
            };
            self.put(Section::Producers, &row);
        }
        for b in &c.blocks {
            let row = BlockRow {
                load: b.load.into(),
                n0: b.window.n0.into(),
                n1: b.window.n1.into(),
                k0: b.window.k0.into(),
                k1: b.window.k1.into(),
            };
            self.put(Section::Blocks, &row);
        }
        if let Some(m) = &c.mem {
            let row = MemRow {
                value: m.value.into(),
                base: m.base.into(),
                strides: m.strides.map(I32::new),
                limit: m.limit.into(),
                row_stride: m.row_stride.into(),
            };
            self.put(Section::Mem, &row);
        }
        Ok(())
    }

    fn tensor(&mut self, t: &HostTensor) -> Result<(), ArtifactError> {
        let row = TensorRow {
            name: self.name(&t.name)?,
            fill: t.fill.into(),
            n_nests: U32::new(count("nests of a tensor", t.nests.len())?),
            rank: count::<u16>("rank of a tensor", t.shape.len())?.into(),
            dtype: t.dtype as u8,
            zero: 0,
        };
        self.put(Section::Tensors, &row);
        for &extent in &t.shape {
            self.put(Section::Shapes, &U64::new(extent));
        }
        for n in &t.nests {
            let row = NestRow {
                value: n.value.into(),
                vector: n.vector.into(),
                element: n.element.into(),
                lane: n.lane.into(),
                n_dims: count::<u16>("dimensions of a nest", n.dims.len())?.into(),
                zero: 0.into(),
            };
            self.put(Section::Nests, &row);
            for d in &n.dims {
                let row = DimRow {
                    element: d.element.into(),
                    count: d.count.into(),
                    vector: d.vector.into(),
                    lane: d.lane.into(),
                    zero: 0.into(),
                };
                self.put(Section::Dims, &row);
            }
        }
        Ok(())
    }
}
