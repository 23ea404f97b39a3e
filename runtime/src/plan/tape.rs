//! Turns a group of vector operations into a tape.

use crate::kernels::MAX_BLOCK;
use crate::plan::build::{Building, Chain, Obstacle};
use crate::plan::link::Source;
use crate::plan::{Arg, MAX_TERMS, OpKind, Piece, Rows, Space, Step, Tape, TapeOp, TileView};
use lockstep_isa::run::{Operand, Src};
use lockstep_isa::{AluOp, DType, Opcode, scalar};
use std::collections::BTreeMap;

/// Bytes that the buffers of a tape may take together: they should stay in the first-level cache.
const CACHE_BYTES: usize = 24 << 10;

/// Copying pieces of fewer lanes on average costs more than looking every lane up.
const LANES_PER_PIECE: u32 = 8;

fn in_scratch(arg: &Arg) -> bool {
    matches!(arg, Arg::Rows(r) if r.space == Space::Scratch)
}

/// A tape being written. Slots are numbered as they are defined and shared afterwards.
struct Writer {
    ops: Vec<TapeOp>,
    slots: u32,
    /// Slots that keep their contents from block to block.
    kept: Vec<u32>,
    /// Results of the group's nodes.
    values: BTreeMap<usize, Arg>,
    grain: u32,
    rows: u32,
}

impl Writer {
    fn slot(&mut self) -> Arg {
        self.slots += 1;
        Arg::Slot(self.slots - 1)
    }

    fn push(&mut self, kind: OpKind, [a, b, c]: [Arg; 3], out: Arg, (lo, n): (u32, u32)) {
        self.ops.push(TapeOp {
            kind,
            a,
            b,
            c,
            out,
            lo,
            n,
        });
    }
}

impl Chain<'_, '_> {
    /// Adds the tape of a group of nodes, which are in the order of their first issue.
    pub fn tape(&mut self, members: &[usize]) -> Building<()> {
        let linked = self.b.linked;
        let rows = linked.nodes[members[0]].run.issues();
        let mut w = Writer {
            ops: Vec::with_capacity(members.len()),
            slots: 0,
            kept: Vec::new(),
            values: BTreeMap::new(),
            grain: 1,
            rows,
        };
        // What replaces rows that the group reads comes last.
        let last = |id: usize| self.in_place.iter().any(|&(_, write)| write == id);
        let mut order = members.to_vec();
        order.sort_by_key(|&id| last(id));
        for id in order {
            if linked.nodes[id].run.issues() != rows {
                return Err(Obstacle::NotFused);
            }
            self.node(&mut w, id)?;
        }
        if w.ops.is_empty() {
            return Ok(());
        }
        let tape = self.finish(w);
        self.steps.push((Step::Tape(tape), members[0]));
        Ok(())
    }

    /// Lanes of a run, widened to whole registers where rows have room.
    fn lanes(&self, lo: u16, hi: u16) -> (u32, u32) {
        let lanes = self.b.linked.artifact.target.lanes as u32;
        let lo = lo as u32 & !15;
        (lo, (hi as u32).next_multiple_of(16).min(lanes) - lo)
    }

    /// The rows of a source at the dtype stated, not widened.
    fn narrow_arg(&self, w: &Writer, id: usize, (s, width): (Source, usize), want: usize) -> Building<Arg> {
        if width != want {
            let what = format!("an operand of {width} bytes per lane, {want} are needed");
            return Err(self.b.linked.error(id, what).into());
        }
        match s {
            Source::Node(p, 0) if w.values.contains_key(&p) => Ok(w.values[&p]),
            _ => Ok(Arg::Rows(self.rows_of(s)?)),
        }
    }

    /// The operand as f32 or i32.
    fn wide_arg(&mut self, w: &mut Writer, id: usize, s: (Source, usize), dtype: DType) -> Building<Arg> {
        let a = self.narrow_arg(w, id, s, dtype.bytes())?;
        if dtype.bytes() == 4 {
            return Ok(a);
        }
        let run = self.b.linked.nodes[id].run;
        let lanes = self.lanes(run.lo, run.hi);
        let out = w.slot();
        w.push(OpKind::Widen(dtype), [a, Arg::None, Arg::None], out, lanes);
        Ok(out)
    }

    /// An ALU operand: immediate, stream or forwarded result.
    fn operand(
        &mut self,
        w: &mut Writer,
        id: usize,
        o: Operand,
        sources: &mut impl Iterator<Item = (Source, usize)>,
    ) -> Building<Arg> {
        match o.src {
            Src::None => Ok(Arg::None),
            Src::Imm(i) => {
                let run = self.b.linked.nodes[id].run;
                let bits = run.imm.get(i as usize).copied().unwrap_or(0);
                let bits = scalar::widen(bits, o.dtype);
                Ok(Arg::Rows(self.b.pool.row(false, bits, self.b.row_bytes)))
            }
            _ => match sources.next() {
                Some(s) => self.wide_arg(w, id, s, o.dtype),
                None => Err(self.b.linked.error(id, "too few claims").into()),
            },
        }
    }

    /// Where a node's result goes.
    fn result(&mut self, w: &mut Writer, id: usize) -> Building<Arg> {
        let linked = self.b.linked;
        let run = linked.nodes[id].run;
        let rank = linked.nodes[id].rank;
        let direct = self.facts[rank].writes;
        let folded = run.op == Opcode::Fold && !run.emit_every;
        let out = if let (true, Some(write)) = (self.fused, direct) {
            let rows = linked.memory_rows(write)?;
            self.facts[rank].place = Some(rows);
            Arg::Rows(rows)
        } else if !self.fused || folded || self.facts[rank].leaves {
            let rows = self.reserve(linked.results(id))?;
            self.facts[rank].place = Some(rows);
            Arg::Rows(rows)
        } else {
            w.slot()
        };
        if !folded {
            w.values.insert(id, out);
        }
        Ok(out)
    }

    fn node(&mut self, w: &mut Writer, id: usize) -> Building<()> {
        let linked = self.b.linked;
        let run = linked.nodes[id].run;
        let operands = self.sources(id);
        let mut sources = operands.as_slice().iter().copied();
        let none = Arg::None;
        let lanes = self.lanes(run.lo, run.hi);
        let fail = |what: &str| Err(Obstacle::Link(linked.error(id, what)));
        let mut next = || sources.next();
        match run.op {
            Opcode::Alu => self.alu(w, id, &mut sources),
            Opcode::Fold => {
                let a = self.operand(w, id, run.a, &mut sources)?;
                let len: u32 = run.dims[..run.fold_dims as usize]
                    .iter()
                    .map(|d| d.count as u32)
                    .product();
                let ty = run.a.dtype.widened();
                if run.dtype != ty {
                    return fail("the dtype of its result is not that of its operand");
                }
                let c = if self.fused {
                    let slot = w.slot();
                    w.kept.push(w.slots - 1);
                    slot
                } else {
                    Arg::Rows(Rows {
                        strides: [0; 3],
                        ..self.reserve(1)?
                    })
                };
                let grain = if w.grain == 1 || w.grain == len { len } else { w.rows };
                w.grain = w.grain.max(grain);
                let out = self.result(w, id)?;
                let (op, every) = (run.alu, run.emit_every);
                let kind = OpKind::Fold { op, ty, len, every };
                w.push(kind, [a, none, c], out, lanes);
                Ok(())
            }
            Opcode::Reduce => {
                let a = self.operand(w, id, run.a, &mut sources)?;
                let ty = run.a.dtype.widened();
                if run.dtype != ty {
                    return fail("the dtype of its result is not that of its operand");
                }
                let out = self.result(w, id)?;
                let (op, segment) = (run.alu, run.segment as u32);
                let kind = OpKind::Reduce { op, ty, segment };
                let exact = (run.lo as u32, (run.hi - run.lo) as u32);
                w.push(kind, [a, none, none], out, exact);
                Ok(())
            }
            Opcode::Permute => {
                let (Some(x), Some(map)) = (next(), next()) else {
                    return fail("too few claims");
                };
                let size = run.dtype.bytes();
                let a = self.narrow_arg(w, id, x, size)?;
                let b = self.narrow_arg(w, id, map, 2)?;
                let out = self.result(w, id)?;
                let exact = (run.lo as u32, (run.hi - run.lo) as u32);
                let pieces = match b {
                    Arg::Rows(map) if linked.producer(id, 1, 0).is_ok_and(|(p, _)| linked.is_constant(p)) => {
                        self.pieces(&map, w.rows, size as u32, exact)
                    }
                    _ => None,
                };
                if let Some((first, count)) = pieces {
                    let kind = OpKind::Pieces {
                        first,
                        count,
                        size: size as u32,
                        fill: run.imm[0],
                    };
                    w.push(kind, [a, none, none], out, exact);
                    return Ok(());
                }
                let kind = OpKind::Permute {
                    size: size as u32,
                    lanes: linked.artifact.target.lanes as u32,
                    fill: run.imm[0],
                };
                w.push(kind, [a, b, none], out, exact);
                Ok(())
            }
            Opcode::Gather => {
                let Some(index) = next() else {
                    return fail("too few claims");
                };
                self.gather(w, id, index)
            }
            Opcode::Write | Opcode::Scatter => {
                let size = match run.op {
                    Opcode::Write => run.words as usize,
                    _ => run.dtype.bytes(),
                } as u32;
                let Some(data) = next() else {
                    return fail("too few claims");
                };
                let bytes = self.live_bytes(id, size);
                let out = Arg::Rows(linked.memory_rows(id)?);
                if run.op == Opcode::Scatter {
                    let Some(index) = next() else {
                        return fail("too few claims");
                    };
                    let a = self.narrow_arg(w, id, data, size as usize)?;
                    let b = self.narrow_arg(w, id, index, 4)?;
                    let kind = OpKind::Scatter {
                        limit: run.limit,
                        stride: run.row_stride as u32 * linked.memory.lanes() as u32,
                        size,
                    };
                    w.push(kind, [a, b, none], out, bytes);
                    return Ok(());
                }
                if self.fused && self.facts[linked.nodes[id].rank].direct.is_some() {
                    return Ok(());
                }
                let a = self.narrow_arg(w, id, data, size as usize)?;
                w.push(OpKind::Copy { size }, [a, none, none], out, bytes);
                Ok(())
            }
            Opcode::Read => {
                let rows = linked.memory_rows(id)?;
                let out = self.result(w, id)?;
                let all = run.words as u32 * linked.memory.lanes() as u32;
                let size = run.words as u32;
                w.push(OpKind::Copy { size }, [Arg::Rows(rows), none, none], out, (0, all));
                Ok(())
            }
            Opcode::Send | Opcode::Recv => {
                let Some((source, _)) = next() else {
                    return fail("too few claims");
                };
                let mut rows = self.rows_of(source)?;
                if let Source::Node(p, _) = source {
                    rows.offset += (linked.word_of(id, p) * linked.memory.lanes()) as i64;
                }
                let out = self.result(w, id)?;
                let all = (0, linked.memory.lanes() as u32);
                w.push(OpKind::Copy { size: 1 }, [Arg::Rows(rows), none, none], out, all);
                Ok(())
            }
            _ => fail("no vector operation"),
        }
    }

    /// The pieces, by first and number in the table, that a constant map common to all rows makes of lanes of `size` bytes;
    /// none where they would be too many.
    fn pieces(&mut self, map: &Rows, rows: u32, size: u32, (lo, n): (u32, u32)) -> Option<(u32, u32)> {
        let linked = self.b.linked;
        let lanes = linked.artifact.target.lanes as u32;
        let at = map.at(0);
        if map.space != Space::Memory || (1..rows).any(|r| map.at(r) != at) {
            return None;
        }
        let at = usize::try_from(at).ok()?;
        let map = linked.memory.bytes().get(at..at + (lo + n) as usize * 2)?;
        let mut pieces: Vec<Piece> = Vec::new();
        for (l, entry) in map.chunks_exact(2).enumerate().skip(lo as usize) {
            let from = u16::from_le_bytes([entry[0], entry[1]]) as u32;
            let from = (from < lanes).then_some(from * size);
            let count = pieces.len() as u32;
            match pieces.last_mut() {
                Some(p) if p.from.map(|f| f + p.bytes) == from => p.bytes += size,
                _ if count >= n / LANES_PER_PIECE + 2 => return None,
                _ => pieces.push(Piece {
                    to: l as u32 * size,
                    from,
                    bytes: size,
                }),
            }
        }
        let table = &mut self.b.plan.pieces;
        let first = table.len() as u32;
        table.extend(pieces);
        Some((first, table.len() as u32 - first))
    }

    /// First byte and bytes of the live lanes of a memory run; of a word access all of the word.
    fn live_bytes(&self, id: usize, size: u32) -> (u32, u32) {
        let run = self.b.linked.nodes[id].run;
        let word = run.op == Opcode::Write && (run.words as u16) < run.dtype.words();
        if word {
            return (0, self.b.linked.memory.lanes() as u32);
        }
        (run.lo as u32 * size, (run.hi - run.lo) as u32 * size)
    }

    fn alu(&mut self, w: &mut Writer, id: usize, sources: &mut impl Iterator<Item = (Source, usize)>) -> Building<()> {
        let linked = self.b.linked;
        let run = linked.nodes[id].run;
        if run.alu == AluOp::Iota {
            let rows = self.b.pool.row(true, run.imm[0], self.b.row_bytes);
            w.values.insert(id, Arg::Rows(rows));
            self.facts[linked.nodes[id].rank].place = Some(rows);
            return Ok(());
        }
        let a = self.operand(w, id, run.a, sources)?;
        let b = self.operand(w, id, run.b, sources)?;
        let c = self.operand(w, id, run.c, sources)?;
        let ty = run.a.dtype.widened();
        let of = match run.alu {
            AluOp::Select => run.b.dtype.widened(),
            _ => scalar::result_type(run.alu, ty),
        };
        let lanes = self.lanes(run.lo, run.hi);
        let out = self.result(w, id)?;
        if run.alu == AluOp::Cvt {
            let kind = match (ty, run.dtype) {
                (DType::F32, DType::F32) | (DType::I32, DType::I32) => OpKind::Map { op: AluOp::Copy, ty },
                (_, DType::F32 | DType::I32) => OpKind::Map { op: AluOp::Cvt, ty },
                (_, dtype) => OpKind::Narrow { ty, dtype },
            };
            w.push(kind, [a, Arg::None, Arg::None], out, lanes);
            return Ok(());
        }
        if run.dtype != of {
            let what = format!("a result of {}, {} gives {of}", run.dtype, run.alu.name());
            return Err(linked.error(id, what).into());
        }
        w.push(OpKind::Map { op: run.alu, ty }, [a, b, c], out, lanes);
        Ok(())
    }

    fn gather(&mut self, w: &mut Writer, id: usize, index: (Source, usize)) -> Building<()> {
        let linked = self.b.linked;
        let run = linked.nodes[id].run;
        let size = run.dtype.bytes() as u32;
        let a = self.narrow_arg(w, id, index, 4)?;
        let tile = if linked.tile_rows {
            None
        } else {
            linked.tile_rows_of(id)
        };
        if let Some((t, rows)) = tile {
            let image = linked.artifact.tiles[t as usize];
            let step = linked.tile_claim(id).map_or(0, |c| c.2 as u32);
            let inside = run.lo >= image.lo && run.hi <= image.lo.saturating_add(image.columns);
            if !inside || image.dtype != run.dtype || super::matrix::tile_bytes(linked, t).is_none() {
                return Err(linked.error(id, format!("lanes outside weight tile {t}")).into());
            }
            let plan = &mut self.b.plan;
            let kind = OpKind::GatherTile {
                tile: plan.tiles.len() as u32,
                rows: plan.tile_rows.len() as u32,
                limit: run.limit,
                stride: run.row_stride as u32 / run.dtype.words() as u32 * step,
            };
            plan.tiles.push(TileView {
                offset: image.offset as usize,
                rows: image.rows as u32,
                lo: image.lo as u32,
                columns: image.columns as u32,
                size,
            });
            plan.tile_rows.extend((0..run.issues()).map(|i| rows.at(i) as u32));
            let out = self.result(w, id)?;
            let exact = (run.lo as u32, (run.hi - run.lo) as u32);
            w.push(kind, [a, Arg::None, Arg::None], out, exact);
            return Ok(());
        }
        let (from, stride) = match linked.gathered_rows(id) {
            Some(rows) => rows,
            None => {
                let stride = run.row_stride as u32 * linked.memory.lanes() as u32;
                (linked.memory_rows(id)?, stride)
            }
        };
        let from = Arg::Rows(from);
        let out = self.result(w, id)?;
        let kind = OpKind::Gather {
            limit: run.limit,
            stride,
            size,
        };
        let bytes = self.live_bytes(id, size);
        w.push(kind, [a, Arg::None, from], out, bytes);
        Ok(())
    }

    /// Adds a tape that converts `rows` rows of a narrow dtype, lanes `[lo, hi)`, to f32 in scratch.
    pub fn to_float(&mut self, id: usize, from: Rows, rows: u32, dtype: DType, (lo, hi): (u16, u16)) -> Building<Rows> {
        let out = self.reserve(rows)?;
        let lanes = self.lanes(lo, hi);
        let mut w = Writer {
            ops: Vec::new(),
            slots: 0,
            kept: Vec::new(),
            values: BTreeMap::new(),
            grain: 1,
            rows,
        };
        let a = [Arg::Rows(from), Arg::None, Arg::None];
        w.push(OpKind::Widen(dtype), a, Arg::Rows(out), lanes);
        if !dtype.is_float() {
            let (op, ty) = (AluOp::Cvt, DType::I32);
            let a = [Arg::Rows(out), Arg::None, Arg::None];
            w.push(OpKind::Map { op, ty }, a, Arg::Rows(out), lanes);
        }
        let tape = self.finish(w);
        self.steps.push((Step::Tape(tape), id));
        Ok(out)
    }

    /// Makes one operation of multiply-adds each of which goes on from the one before it, but for those of results that lie
    /// in scratch.
    fn add_up(&mut self, w: &mut Writer) {
        let room = Vec::with_capacity(w.ops.len());
        let ops = std::mem::replace(&mut w.ops, room);
        let fma = OpKind::Map {
            op: AluOp::Fma,
            ty: DType::F32,
        };
        let mut uses = vec![0u32; w.slots as usize];
        for arg in ops.iter().flat_map(|op| [op.a, op.b, op.c]) {
            if let Arg::Slot(s) = arg {
                uses[s as usize] += 1;
            }
        }
        let table = &mut self.b.plan.terms;
        for op in ops {
            let last = w.ops.last_mut();
            let goes_on = last.filter(|last| {
                let lives = |s: u32| uses[s as usize] == 1 && !w.kept.contains(&s);
                let takes = matches!((op.c, last.out), (Arg::Slot(c), Arg::Slot(o)) if c == o && lives(c));
                let sums = last.kind == fma || matches!(last.kind, OpKind::MultiplyAdd { .. });
                let apart = [op.a, op.b, last.a, last.b].iter().all(|a| !in_scratch(a));
                op.kind == fma && sums && takes && apart && (op.lo, op.n) == (last.lo, last.n)
            });
            let Some(last) = goes_on else {
                w.ops.push(op);
                continue;
            };
            match &mut last.kind {
                OpKind::MultiplyAdd { count, .. } if *count as usize >= MAX_TERMS => {
                    w.ops.push(op);
                    continue;
                }
                OpKind::MultiplyAdd { count, .. } => *count += 1,
                kind => {
                    let first = table.len() as u32;
                    table.push((last.a, last.b));
                    *kind = OpKind::MultiplyAdd { first, count: 2 };
                    (last.a, last.b) = (Arg::None, Arg::None);
                }
            }
            table.push((op.a, op.b));
            last.out = op.out;
        }
    }

    /// The operands of an operation.
    fn arguments(&mut self, op: &mut TapeOp, mut f: impl FnMut(&mut Arg)) {
        for arg in [&mut op.a, &mut op.b, &mut op.c, &mut op.out] {
            f(arg);
        }
        if let OpKind::MultiplyAdd { first, count } = op.kind {
            let terms = self.b.plan.terms.get_mut(first as usize..(first + count) as usize);
            for (a, b) in terms.unwrap_or(&mut []) {
                f(a);
                f(b);
            }
        }
    }

    /// Shares slots whose lives do not overlap and chooses the block size.
    fn finish(&mut self, mut w: Writer) -> Tape {
        self.add_up(&mut w);
        let mut last = vec![0usize; w.slots as usize];
        for (i, op) in w.ops.iter_mut().enumerate() {
            self.arguments(op, |arg| {
                if let Arg::Slot(s) = arg {
                    last[*s as usize] = i;
                }
            });
        }
        for &s in &w.kept {
            last[s as usize] = usize::MAX;
        }
        let mut ends: Vec<(usize, usize)> = last.iter().enumerate().map(|(s, &l)| (l, s)).collect();
        ends.sort_unstable();
        let mut ends = ends.into_iter().peekable();
        let mut home: Vec<Option<u32>> = vec![None; w.slots as usize];
        let mut free: Vec<u32> = Vec::new();
        let mut slots = 0u32;
        for (i, op) in w.ops.iter_mut().enumerate() {
            self.arguments(op, |arg| {
                let Arg::Slot(s) = arg else { return };
                let at = home[*s as usize].unwrap_or_else(|| {
                    free.pop().unwrap_or_else(|| {
                        slots += 1;
                        slots - 1
                    })
                });
                home[*s as usize] = Some(at);
                *arg = Arg::Slot(at);
            });
            while let Some((_, s)) = ends.next_if(|e| e.0 == i) {
                free.extend(home[s]);
            }
        }
        let width = w.ops.iter().map(|op| op.n as usize * 4).max().unwrap_or(64);
        let fits = CACHE_BYTES / (width.max(64) * (slots as usize + 1));
        let block = fits.clamp(1, MAX_BLOCK).min(w.rows.max(1) as usize);
        let local = slots as usize * block * self.b.row_bytes;
        self.b.plan.local = self.b.plan.local.max(local);
        Tape {
            rows: w.rows,
            block: block as u32,
            grain: w.grain,
            slots,
            ops: w.ops,
        }
    }
}
