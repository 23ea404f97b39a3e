//! What each instruction does in the cycle of its issue.

use super::check::is_word_access;
use super::engine::{Active, Arrival, Engine, Issue, see, vxm_operand};
use super::lanes::{alu_lanes, fold_lanes, narrow_lanes, reduce_lanes};
use super::mxm::Block;
use super::vector::{
    Live, Step, Words, decode_lanes, fault, has_lanes, live_words, need_lanes, store_lanes, widen_lanes,
};
use crate::error::HazardKind;
use crate::kernels::sim_mul;
use lockstep_isa::run::{AccIn, Queue, Src, Window};
use lockstep_isa::{AluOp, DType, Opcode, Place, Stream, scalar};

/// Lane map entry that takes the fill instead of a lane.
const FILL: u16 = 0xffff;

impl Engine {
    pub(super) fn read(&mut self, issue: &Issue<'_>) -> Step<()> {
        let run = &issue.code.run;
        self.read_row(issue, run.addr.at(issue.at), run.words)
    }

    pub(super) fn gather(&mut self, issue: &Issue<'_>) -> Step<()> {
        let index = self.index(issue, 0)?;
        self.read_row(issue, row_address(issue, index), issue.code.run.dtype.words() as u8)
    }

    /// The clamped row that the index operand `k` names.
    fn index(&self, issue: &Issue<'_>, k: usize) -> Step<u32> {
        let seen = see(&self.chips[issue.chip], issue, k)?;
        if !seen.live[0].covers(Live { lo: 0, hi: 4 }) {
            return fault(HazardKind::Undefined, "lane 0 of the index is undefined");
        }
        let b = seen.bytes;
        let index = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
        Ok(scalar::clamp_index(index, issue.code.run.limit))
    }

    fn read_row(&mut self, issue: &Issue<'_>, addr: i64, words: u8) -> Step<()> {
        let run = &issue.code.run;
        let target = &issue.plan.artifact.target;
        let access = self
            .sram
            .access(target, issue.chip as u32, place(run.queue), addr, words)?;
        let have = self.sram.read(&access, issue.cycle)?;
        let single = run.op == Opcode::Read && is_word_access(run);
        let live = result_live(issue, &have, single, self.lanes)?;
        let a = &self.active[issue.id as usize];
        let v = self.pool.take(a.chip, a.run, words, live);
        let bytes = &self.sram.memory.bytes()[access.bytes];
        self.pool.bytes_mut(v)[..bytes.len()].copy_from_slice(bytes);
        self.emit(issue, v, issue.cycle + issue.code.latency);
        Ok(())
    }

    pub(super) fn write(&mut self, issue: &Issue<'_>) -> Step<()> {
        let run = &issue.code.run;
        self.write_row(issue, run.addr.at(issue.at), run.words)
    }

    pub(super) fn scatter(&mut self, issue: &Issue<'_>) -> Step<()> {
        let index = self.index(issue, 1)?;
        self.write_row(issue, row_address(issue, index), issue.code.run.dtype.words() as u8)
    }

    fn write_row(&mut self, issue: &Issue<'_>, addr: i64, words: u8) -> Step<()> {
        let run = &issue.code.run;
        let target = &issue.plan.artifact.target;
        let access = self
            .sram
            .access(target, issue.chip as u32, place(run.queue), addr, words)?;
        let seen = see(&self.chips[issue.chip], issue, 0)?;
        let single = run.op == Opcode::Write && is_word_access(run);
        let live = result_live(issue, &seen.live, single, self.lanes)?;
        let ready = issue.cycle + issue.code.latency;
        self.sram.write(&access, seen.bytes, &live, ready);
        Ok(())
    }

    pub(super) fn load(&mut self, issue: &Issue<'_>) -> Step<()> {
        let run = &issue.code.run;
        let (Queue::MxmLoad(hemi, plane), Src::Stream(first)) = (run.queue, run.a.src) else {
            return Ok(());
        };
        let chip = &mut self.chips[issue.chip];
        let hemisphere = &mut chip.hemispheres[hemi as usize];
        let Window { n0, n1, k0, k1 } = run.window;
        let columns = (n1 - n0) as usize;
        if issue.n == 0 {
            let mut data = self.spare.pop().unwrap_or_default();
            data.clear();
            data.resize(columns * (k1 - k0) as usize, 0);
            let block = Block {
                window: run.window,
                dtype: run.dtype,
                data,
                ready: u64::MAX,
                owner: issue.id,
            };
            hemisphere.begin_block(plane as usize, issue.code.planes, block)?;
        }
        let belts = run.belts as u32;
        let stored = run.a.dtype;
        let words = stored.words() as u8;
        let start = issue.n * belts;
        let count = belts.min(run.load_vectors() - start);
        let position = issue.code.position;
        let [row, scales, _] = &mut self.operands;
        let mut taken = count * words as u32;
        if let (true, Src::Stream(stream)) = (run.is_scaled(), run.b.src) {
            let words = run.b.dtype.words();
            let seen = chip.belts.see(stream, words as u8, false, position, issue.cycle)?;
            need_lanes(&seen.live, n0, n1, run.b.dtype, self.lanes)?;
            widen_lanes(seen.bytes, run.b.dtype, n0, n1, scales);
            taken += words as u32;
        }
        hemisphere.count_load(issue.cycle, taken)?;
        let shadow = &mut hemisphere.units[plane as usize].shadow;
        let Some(block) = shadow.iter_mut().find(|b| b.owner == issue.id && b.ready == u64::MAX) else {
            return fault(HazardKind::Tile, "the shadow tile was swapped away");
        };
        for g in 0..count {
            let stream = Stream {
                dir: first.dir,
                index: first.index + g as u8 * words,
            };
            let seen = chip.belts.see(stream, words, false, position, issue.cycle)?;
            let i = (start + g) as usize;
            if run.op == Opcode::LoadRow {
                need_lanes(&seen.live, n0, n1, stored, self.lanes)?;
                let lanes = n0 as usize..n1 as usize;
                let per = run.load_rows() as usize;
                let to = block.data[i * per * columns..].chunks_exact_mut(columns).take(per);
                for (half, to) in to.enumerate() {
                    if stored == DType::I4 {
                        for (x, &byte) in row[lanes.clone()].iter_mut().zip(&seen.bytes[lanes.clone()]) {
                            *x = scalar::pair(byte)[half] as u32;
                        }
                    } else {
                        widen_lanes(seen.bytes, stored, n0, n1, row);
                    }
                    decode_lanes(stored, run.dtype, n0, n1, row);
                    to.copy_from_slice(&row[lanes.clone()]);
                    if run.is_scaled() {
                        for (x, &scale) in to.iter_mut().zip(&scales[lanes.clone()]) {
                            *x = (f32::from_bits(*x) * f32::from_bits(scale)).to_bits();
                        }
                    }
                }
            } else {
                need_lanes(&seen.live, k0, k1, stored, self.lanes)?;
                widen_lanes(seen.bytes, stored, k0, k1, row);
                decode_lanes(stored, run.dtype, k0, k1, row);
                let column = block.data[i..].iter_mut().step_by(columns);
                for (to, &x) in column.zip(&row[k0 as usize..k1 as usize]) {
                    *to = x;
                }
            }
        }
        if issue.n + 1 == issue.code.issues {
            block.ready = issue.cycle + issue.code.latency;
        }
        Ok(())
    }

    pub(super) fn mul(&mut self, issue: &Issue<'_>) -> Step<()> {
        let run = &issue.code.run;
        let Queue::MxmMul(hemi, plane) = run.queue else {
            return Ok(());
        };
        let plane = plane as usize;
        let float = run.dtype.is_float();
        let chip = &mut self.chips[issue.chip];
        let hemisphere = &mut chip.hemispheres[hemi as usize];
        if run.swap && issue.n == 0 {
            let planes = issue.code.planes;
            hemisphere.swap(plane, planes, issue.cycle, &mut self.spare)?;
        }
        let chip = &self.chips[issue.chip];
        let hemisphere = &chip.hemispheres[hemi as usize];
        let tile = &hemisphere.units[plane].active;
        match tile.first() {
            None => return fault(HazardKind::Tile, "the active tile is empty"),
            Some(b) if b.dtype != run.dtype => {
                let what = format!("the active tile holds {}, {} is needed", b.dtype, run.dtype);
                return fault(HazardKind::Tile, what);
            }
            Some(_) => {}
        }
        let x = see(chip, issue, 0)?;
        let k0 = tile.iter().map(|b| b.window.k0).min().unwrap_or(0);
        let k1 = tile.iter().map(|b| b.window.k1).max().unwrap_or(0);
        let [lanes, acc, _] = &mut self.operands;
        if !has_lanes(&x.live, k0, k1, run.dtype, self.lanes) {
            for b in tile {
                need_lanes(&x.live, b.window.k0, b.window.k1, run.dtype, self.lanes)?;
            }
        }
        widen_lanes(x.bytes, run.dtype, k0, k1, lanes);
        self.columns.clear();
        acc.fill(0);
        match run.acc_in {
            AccIn::Zero => {}
            AccIn::Row => {
                let row = run.addr.at(issue.at);
                hemisphere.read_row(plane, row, float, issue.cycle, acc, &mut self.columns)?;
            }
            AccIn::Stream => {
                let b = see(chip, issue, 1)?;
                let (lo, hi) = live_lanes(&b.live, 4, self.lanes);
                need_lanes(&b.live, lo, hi, run.b.dtype, self.lanes)?;
                widen_lanes(b.bytes, run.b.dtype, lo, hi, acc);
                self.columns.insert(lo, hi);
            }
        }
        for b in tile {
            let Window { n0, n1, k0, k1 } = b.window;
            clear_undefined(&self.columns, n0, n1, acc);
            let out = &mut acc[n0 as usize..n1 as usize];
            let x = &lanes[k0 as usize..k1 as usize];
            if float {
                sim_mul::mul_f32(x, &b.data, out);
            } else {
                sim_mul::mul_i32(x, &b.data, out);
            }
            self.columns.insert(n0, n1);
        }
        if let Some(l) = self.columns.missing(run.lo, run.hi).filter(|_| run.out.is_some()) {
            let what = format!("column {l} of lanes {}..{} has no result", run.lo, run.hi);
            return fault(HazardKind::Undefined, what);
        }
        let ready = issue.cycle + issue.code.latency;
        if run.out.is_some() {
            let v = self.result_vector(issue);
            let bytes = self.pool.bytes_mut(v);
            store_lanes(bytes, DType::F32, run.lo, run.hi, &self.operands[1]);
            self.emit(issue, v, ready);
        } else {
            let hemisphere = &mut self.chips[issue.chip].hemispheres[hemi as usize];
            let row = run.addr2.at(issue.at);
            hemisphere.write_row(plane, row, float, ready, &self.operands[1], &self.columns)?;
        }
        Ok(())
    }

    /// Widens operand `k` of a VXM run into its scratch row.
    fn widen_operand(&mut self, issue: &Issue<'_>, k: usize) -> Step<()> {
        let run = &issue.code.run;
        let Some(take) = issue.code.takes[k] else {
            return Ok(());
        };
        let dtype = take.operand.dtype;
        let to = &mut self.operands[k];
        if let Src::Imm(i) = take.operand.src {
            let bits = scalar::widen(run.imm[i as usize], dtype);
            to[run.lo as usize..run.hi as usize].fill(bits);
            return Ok(());
        }
        let active = &self.active[issue.id as usize];
        let seen = vxm_operand(&self.chips[issue.chip], &self.pool, active, issue, k)?;
        need_lanes(&seen.live, run.lo, run.hi, dtype, self.lanes)?;
        widen_lanes(seen.bytes, dtype, run.lo, run.hi, to);
        Ok(())
    }

    pub(super) fn alu(&mut self, issue: &Issue<'_>) -> Step<()> {
        let run = &issue.code.run;
        for k in 0..3 {
            self.widen_operand(issue, k)?;
        }
        let live = run.lo as usize..run.hi as usize;
        let [a, b, c] = &mut self.operands;
        let a = &mut a[live.clone()];
        let b = &mut b[live.clone()];
        match run.alu {
            AluOp::Select => {
                let ty = run.a.dtype.widened();
                a.iter_mut().for_each(|x| *x = scalar::truth(*x, ty));
            }
            AluOp::Iota => {
                for (x, lane) in a.iter_mut().zip(run.lo as u32..) {
                    *x = lane;
                }
                b.fill(run.imm[0]);
            }
            _ => {}
        }
        let out = &mut self.result[live.clone()];
        alu_lanes(run.alu, issue.code.ty, a, b, &c[live], out);
        if run.alu == AluOp::Cvt {
            narrow_lanes(issue.code.ty, run.dtype, out);
        }
        self.release_operands(issue);
        let v = self.result_vector(issue);
        let bytes = self.pool.bytes_mut(v);
        store_lanes(bytes, run.dtype, run.lo, run.hi, &self.result);
        self.emit(issue, v, issue.cycle + issue.code.latency);
        Ok(())
    }

    pub(super) fn fold(&mut self, issue: &Issue<'_>) -> Step<()> {
        let run = &issue.code.run;
        self.widen_operand(issue, 0)?;
        self.release_operands(issue);
        let folded = run.dims.iter().take(run.fold_dims as usize);
        let folded: u32 = folded.map(|d| d.count as u32).product();
        let acc = &mut self.active[issue.id as usize].lanes;
        let x = &self.operands[0][run.lo as usize..run.hi as usize];
        if issue.n.is_multiple_of(folded) {
            acc.clear();
            acc.extend_from_slice(x);
        } else {
            fold_lanes(run.alu, issue.code.ty, acc, x);
        }
        if run.emit_every || (issue.n + 1).is_multiple_of(folded) {
            self.result[run.lo as usize..run.hi as usize].copy_from_slice(acc);
            let v = self.result_vector(issue);
            let bytes = self.pool.bytes_mut(v);
            store_lanes(bytes, run.dtype, run.lo, run.hi, &self.result);
            self.emit(issue, v, issue.cycle + issue.code.latency);
        }
        Ok(())
    }

    pub(super) fn reduce(&mut self, issue: &Issue<'_>) -> Step<()> {
        let run = &issue.code.run;
        let seen = see(&self.chips[issue.chip], issue, 0)?;
        need_lanes(&seen.live, run.lo, run.hi, run.dtype, self.lanes)?;
        widen_lanes(seen.bytes, run.dtype, run.lo, run.hi, &mut self.result);
        let live = &mut self.result[run.lo as usize..run.hi as usize];
        reduce_lanes(run.alu, issue.code.ty, run.segment as usize, live);
        let v = self.result_vector(issue);
        let bytes = self.pool.bytes_mut(v);
        store_lanes(bytes, run.dtype, run.lo, run.hi, &self.result);
        self.emit(issue, v, issue.cycle + issue.code.latency);
        Ok(())
    }

    pub(super) fn permute(&mut self, issue: &Issue<'_>) -> Step<()> {
        let run = &issue.code.run;
        let v = self.result_vector(issue);
        let chip = &self.chips[issue.chip];
        let x = see(chip, issue, 0)?;
        let map = see(chip, issue, 1)?;
        need_lanes(&map.live, run.lo, run.hi, DType::U16, self.lanes)?;
        let size = run.dtype.bytes();
        let fill = run.imm[0].to_le_bytes();
        let out = self.pool.bytes_mut(v);
        for l in run.lo as usize..run.hi as usize {
            let from = u16::from_le_bytes([map.bytes[2 * l], map.bytes[2 * l + 1]]);
            let to = &mut out[l * size..(l + 1) * size];
            if from == FILL {
                to.copy_from_slice(&fill[..size]);
                continue;
            }
            if from as usize >= self.lanes {
                let what = format!("lane {l} maps to lane {from} of {}", self.lanes);
                return fault(HazardKind::Address, what);
            }
            need_lanes(&x.live, from, from + 1, run.dtype, self.lanes)?;
            let from = from as usize;
            to.copy_from_slice(&x.bytes[from * size..(from + 1) * size]);
        }
        self.emit(issue, v, issue.cycle + issue.code.latency);
        Ok(())
    }

    pub(super) fn transpose(&mut self, issue: &Issue<'_>) -> Step<()> {
        let run = &issue.code.run;
        let seen = see(&self.chips[issue.chip], issue, 0)?;
        need_lanes(&seen.live, run.lo, run.hi, run.dtype, self.lanes)?;
        let size = run.dtype.bytes();
        let rows = &mut self.active[issue.id as usize].lanes;
        if issue.n == 0 {
            rows.clear();
        }
        for element in seen
            .bytes
            .chunks_exact(size)
            .take(run.hi as usize)
            .skip(run.lo as usize)
        {
            let mut bits = [0; 4];
            bits[..size].copy_from_slice(element);
            rows.push(u32::from_le_bytes(bits));
        }
        if issue.n + 1 < issue.code.issues {
            return Ok(());
        }
        let m = issue.code.issues as u16;
        let width = (run.hi - run.lo) as usize;
        let live = live_words(0, m, size, self.lanes);
        let first = issue.cycle + issue.code.latency;
        for i in 0..run.n_out as usize {
            let a = &self.active[issue.id as usize];
            for (j, x) in a.lanes[i..].iter().step_by(width).enumerate() {
                self.result[j] = *x;
            }
            let v = self.pool.take(a.chip, a.run, size as u8, live);
            let bytes = self.pool.bytes_mut(v);
            store_lanes(bytes, run.dtype, 0, m, &self.result);
            self.emit(issue, v, first + i as u64);
        }
        self.last_until(first + run.n_out.saturating_sub(1) as u64);
        Ok(())
    }

    pub(super) fn send(&mut self, issue: &Issue<'_>) -> Step<()> {
        let Queue::Send(link) = issue.code.run.queue else {
            return Ok(());
        };
        let n_links = issue.plan.artifact.target.n_links() as usize;
        let Some(peer) = issue.plan.peers[issue.chip * n_links + link as usize] else {
            return fault(HazardKind::Link, format!("link {link} leads nowhere"));
        };
        let seen = see(&self.chips[issue.chip], issue, 0)?;
        if seen.live[0].is_empty() {
            return fault(HazardKind::Undefined, "no byte of the word is defined");
        }
        let Active { chip, run, .. } = self.active[issue.id as usize];
        let vector = self.pool.take(chip, run, 1, seen.live);
        self.pool.bytes_mut(vector)[..seen.bytes.len()].copy_from_slice(seen.bytes);
        let arrivals = &mut self.chips[peer.chip as usize].arrivals[peer.link as usize];
        arrivals.push_back(Arrival {
            cycle: issue.cycle + issue.code.latency,
            vector,
        });
        Ok(())
    }

    pub(super) fn recv(&mut self, issue: &Issue<'_>) -> Step<()> {
        let Queue::Recv(link) = issue.code.run.queue else {
            return Ok(());
        };
        let arrivals = &mut self.chips[issue.chip].arrivals[link as usize];
        let what = match arrivals.front() {
            Some(a) if a.cycle == issue.cycle => {
                let from = a.vector;
                arrivals.pop_front();
                let Active { chip, run, .. } = self.active[issue.id as usize];
                let v = self.pool.reuse(from, chip, run);
                self.emit(issue, v, issue.cycle + issue.code.latency);
                return Ok(());
            }
            Some(a) => format!("the next word on the link is due in cycle {}", a.cycle),
            None => "no word arrives on the link".to_owned(),
        };
        fault(HazardKind::Link, what)
    }
}

/// The bank of a MEM queue.
fn place(queue: Queue) -> Place {
    match queue {
        Queue::Mem(place) => place,
        _ => Place {
            hemi: lockstep_isa::Dir::East,
            group: u8::MAX,
            bank: 0,
        },
    }
}

/// The address of a gather or scatter for a clamped index.
fn row_address(issue: &Issue<'_>, index: u32) -> i64 {
    let run = &issue.code.run;
    run.addr.at(issue.at) + index as i64 * run.row_stride as i64
}

/// What is defined of a vector read or written: for a whole vector the live lanes of the run, all of which must be
/// defined; for a single word whatever is defined of it, which must not be nothing.
fn result_live(issue: &Issue<'_>, have: &Words, single: bool, lanes: usize) -> Step<Words> {
    let run = &issue.code.run;
    if !single {
        need_lanes(have, run.lo, run.hi, run.dtype, lanes)?;
        return Ok(live_words(run.lo, run.hi, run.dtype.bytes(), lanes));
    }
    if have[0].is_empty() {
        return fault(HazardKind::Undefined, "no byte of the word is defined");
    }
    Ok(*have)
}

/// The lanes of `size` bytes that are defined, from the first to the last.
fn live_lanes(words: &Words, size: usize, lanes: usize) -> (u16, u16) {
    let defined = |w: usize| (!words[w].is_empty()).then_some(words[w]);
    let first = (0..size).find_map(|w| defined(w).map(|l| w * lanes + l.lo as usize));
    let last = (0..size)
        .rev()
        .find_map(|w| defined(w).map(|l| w * lanes + l.hi as usize));
    match (first, last) {
        (Some(a), Some(b)) => (a.div_ceil(size) as u16, (b / size) as u16),
        _ => (0, 0),
    }
}

/// Sets the accumulator of columns that it does not define to zero.
fn clear_undefined(columns: &super::mxm::Columns, n0: u16, n1: u16, acc: &mut [u32]) {
    if columns.missing(n0, n1).is_some() {
        for l in n0..n1 {
            if columns.missing(l, l + 1).is_some() {
                acc[l as usize] = 0;
            }
        }
    }
}
