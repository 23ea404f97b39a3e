//! Constants made at load: immediates, lane numbers, packed weights and scales.
//!
//! While plans are built only the place and the contents of each are noted. The bytes are made once, when all plans are there,
//! where they stay.

use crate::aligned::Aligned;
use crate::error::ExecError;
use crate::memory::Memory;
use crate::plan::load::beside;
use crate::plan::{Pack, Rows, Space};
use lockstep_isa::artifact::PANEL_COLUMNS;
use lockstep_isa::{AluOp, DType, scalar};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// From this many bytes on, two threads make them.
const BYTES_FOR_TWO: usize = 1 << 20;

/// Constants made at load.
#[derive(Default)]
pub struct Pool {
    bytes: usize,
    rows: BTreeMap<(bool, u32), usize>,
    /// By ascending offset; none reaches into the next.
    parts: Vec<(usize, Content)>,
}

/// What lies at an offset.
pub enum Content {
    /// So many bytes of lanes with the same bits or, where the flag says so, with the lane number added to them.
    Row(bool, u32, usize),
    /// Constant rows in panels of [`packed_dtype`].
    Packed(Pack),
    /// Constant rows in panels of f32, multiplied by the scales of their issue.
    Scaled {
        /// The rows.
        pack: Pack,
        /// Bytes of memory at which the scales of each issue lie, lane 0.
        scales: Vec<usize>,
        /// Type of a scale.
        dtype: DType,
        /// Rows of a panel.
        depth: usize,
    },
    /// Constant rows in panels as they are.
    Panels {
        /// Byte of memory of the first element of each row.
        rows: Vec<usize>,
        /// Elements of a row.
        n: usize,
        /// Bytes of an element.
        size: usize,
    },
}

/// The type that constant weights have in panels: their own where products take it, or the one that it widens to.
pub fn packed_dtype(dtype: DType) -> DType {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 | DType::I8 | DType::U8 => dtype,
        DType::I32 | DType::U16 | DType::I4 => dtype.widened(),
    }
}

impl Pool {
    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Adds `bytes` bytes at a multiple of 64 and gives their offset.
    pub fn add(&mut self, bytes: usize, content: Content) -> usize {
        let at = self.bytes.next_multiple_of(64);
        self.bytes = at + bytes;
        self.parts.push((at, content));
        at
    }

    /// A row with the same bits on every lane, or (with `iota`) with the lane number added to them.
    pub fn row(&mut self, iota: bool, bits: u32, row_bytes: usize) -> Rows {
        let at = match self.rows.get(&(iota, bits)) {
            Some(&at) => at,
            None => {
                let at = self.add(row_bytes, Content::Row(iota, bits, row_bytes));
                self.rows.insert((iota, bits), at);
                at
            }
        };
        Rows::linear(Space::Pool, at, 0)
    }

    /// Adds all of another pool and gives its offset.
    pub fn append(&mut self, other: Pool) -> usize {
        let at = self.bytes.next_multiple_of(64);
        self.bytes = at + other.bytes;
        let parts = other.parts.into_iter();
        self.parts.extend(parts.map(|(offset, content)| (at + offset, content)));
        at
    }

    /// The bytes, those of constants from chip memory.
    ///
    /// # Errors
    /// More bytes than `limit`, or than the host has.
    pub(crate) fn fill(&self, memory: &Memory, limit: u64) -> Result<Aligned, ExecError> {
        let needed = self.bytes as u64;
        if needed > limit {
            return Err(ExecError::Memory { needed, allowed: limit });
        }
        let Some(mut bytes) = Aligned::zeroed(needed) else {
            return Err(ExecError::Memory { needed, allowed: 0 });
        };
        let fill = |parts: &[(usize, Content)], base: usize, to: &mut [u8]| {
            for (at, content) in parts {
                if let Some(to) = to.get_mut(at - base..) {
                    content.write(memory, to);
                }
            }
        };
        let half = match self.bytes < BYTES_FOR_TWO {
            true => self.parts.len(),
            false => self.parts.partition_point(|p| p.0 < self.bytes / 2),
        };
        let (first, second) = self.parts.split_at(half);
        let base = second.first().map_or(self.bytes, |p| p.0);
        let (low, high) = bytes.as_mut_slice().split_at_mut(base);
        let high = Mutex::new(high);
        let fill_high = || fill(second, base, &mut high.lock().unwrap_or_else(PoisonError::into_inner));
        beside(!second.is_empty(), || fill(first, 0, low), fill_high);
        Ok(bytes)
    }
}

impl Content {
    /// Writes the content to the start of some bytes, which are zero.
    fn write(&self, memory: &Memory, to: &mut [u8]) {
        match self {
            Content::Row(iota, bits, bytes) => {
                for (lane, to) in to.chunks_exact_mut(4).take(bytes / 4).enumerate() {
                    let lane = if *iota { lane as u32 } else { 0 };
                    let x = scalar::alu(AluOp::Iota, DType::I32, lane, *bits, 0);
                    to.copy_from_slice(&x.to_le_bytes());
                }
            }
            Content::Packed(pack) => pack_constant(memory, pack, to),
            Content::Scaled {
                pack,
                scales,
                dtype,
                depth,
            } => pack_scaled(memory, pack, (scales, *dtype), *depth, to),
            Content::Panels { rows, n, size } => {
                for (i, &row) in rows.iter().enumerate() {
                    let from = memory.bytes().get(row..row + n * size);
                    write_row(from.unwrap_or(&[]), i, rows.len(), *size, to);
                }
            }
        }
    }
}

/// Writes a row of elements as row `k` of panels that are `depth` rows deep.
fn write_row(from: &[u8], k: usize, depth: usize, size: usize, to: &mut [u8]) {
    let panel = PANEL_COLUMNS * size;
    for (q, part) in from.chunks(panel).enumerate() {
        let at = (q * depth + k) * panel;
        if let Some(to) = to.get_mut(at..at + part.len()) {
            to.copy_from_slice(part);
        }
    }
}

/// Byte of memory of the first lane that a vector of a pack takes.
fn vector(pack: &Pack, i: u32) -> usize {
    let belts = pack.belts.len() as u32;
    let row = pack.belts[(i % belts) as usize].at(i / belts) as usize;
    row + pack.lo as usize * pack.dtype.bytes()
}

/// Packs constant rows of memory into panels of [`packed_dtype`].
fn pack_constant(memory: &Memory, pack: &Pack, to: &mut [u8]) {
    let (dtype, size) = (packed_dtype(pack.dtype), pack.dtype.bytes());
    let bytes = pack.n as usize * size;
    if dtype != pack.dtype {
        return pack_widened(memory, pack, to);
    }
    if !pack.columns {
        for i in 0..pack.vectors {
            let at = vector(pack, i);
            let from = memory.bytes().get(at..at + bytes).unwrap_or(&[]);
            write_row(from, i as usize, pack.vectors as usize, size, to);
        }
        return;
    }
    let mut panels = to.chunks_mut(pack.n as usize * PANEL_COLUMNS * size);
    for first in (0..pack.vectors).step_by(PANEL_COLUMNS) {
        let columns = first..(first + PANEL_COLUMNS as u32).min(pack.vectors);
        let columns = columns.map(|i| vector(pack, i));
        let columns = columns.map(|at| memory.bytes().get(at..at + bytes).unwrap_or(&[]));
        if let Some(panel) = panels.next() {
            match size {
                4 => write_columns::<4>(columns, panel),
                2 => write_columns::<2>(columns, panel),
                _ => write_columns::<1>(columns, panel),
            }
        }
    }
}

/// Writes columns of elements of `S` bytes into a panel, some rows of all columns at a time.
fn write_columns<'a, const S: usize>(columns: impl Iterator<Item = &'a [u8]>, panel: &mut [u8]) {
    const ROWS: usize = 64;
    let columns: Vec<&[u8]> = columns.collect();
    for (r, rows) in panel.chunks_mut(ROWS * PANEL_COLUMNS * S).enumerate() {
        for (c, column) in columns.iter().enumerate() {
            let from = column.get(r * ROWS * S..).unwrap_or(&[]).chunks_exact(S);
            for (row, from) in rows.chunks_exact_mut(PANEL_COLUMNS * S).zip(from) {
                row[c * S..c * S + S].copy_from_slice(from);
            }
        }
    }
}

/// Packs constant rows of memory into widened panels.
fn pack_widened(memory: &Memory, pack: &Pack, to: &mut [u8]) {
    let size = pack.dtype.bytes();
    let depth = if pack.columns { pack.n } else { pack.vectors } as usize;
    for i in 0..pack.vectors {
        let at = vector(pack, i);
        for lane in 0..pack.n as usize {
            let wide = scalar::widen(element(memory, at + lane * size, size), pack.dtype);
            let (k, n) = match pack.columns {
                true => (lane, i as usize),
                false => (i as usize, lane),
            };
            let element = (n / PANEL_COLUMNS * depth + k) * PANEL_COLUMNS + n % PANEL_COLUMNS;
            if let Some(to) = to.get_mut(element * 4..element * 4 + 4) {
                to.copy_from_slice(&wide.to_le_bytes());
            }
        }
    }
}

/// The bits of an element of up to four bytes.
fn element(memory: &Memory, at: usize, size: usize) -> u32 {
    let mut bits = [0u8; 4];
    if let Some(from) = memory.bytes().get(at..at + size) {
        bits[..size].copy_from_slice(from);
    }
    u32::from_le_bytes(bits)
}

/// Packs constant rows of memory, multiplied by the scales of their issue, into panels of f32 that are `depth` rows deep.
fn pack_scaled(memory: &Memory, pack: &Pack, (scales, dtype): (&[usize], DType), depth: usize, to: &mut [u8]) {
    let belts = pack.belts.len() as u32;
    let (size, per) = (pack.dtype.bytes(), pack.dtype.load_rows());
    for i in 0..pack.vectors {
        let row = vector(pack, i);
        let Some(scale) = scales.get((i / belts) as usize) else {
            continue;
        };
        for lane in 0..pack.n as usize {
            let by = scale + (pack.lo as usize + lane) * dtype.bytes();
            let by = f32::from_bits(scalar::widen(element(memory, by, dtype.bytes()), dtype));
            let bits = element(memory, row + lane * size, size);
            for half in 0..per {
                let x = match pack.dtype {
                    DType::I4 => scalar::pair(bits as u8)[half] as f32,
                    float if float.is_float() => f32::from_bits(scalar::widen(bits, float)),
                    integer => scalar::widen(bits, integer) as i32 as f32,
                };
                let k = i as usize * per + half;
                let element = (lane / PANEL_COLUMNS * depth + k) * PANEL_COLUMNS + lane % PANEL_COLUMNS;
                if let (true, Some(to)) = (k < depth, to.get_mut(element * 4..element * 4 + 4)) {
                    to.copy_from_slice(&(x * by).to_le_bytes());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Element (k, n) of a matrix of two-byte elements.
    fn cell(k: usize, n: usize) -> [u8; 2] {
        ((k * 251 + n * 7 + 1) as u16).to_le_bytes()
    }

    /// Panels of a matrix, element by element.
    fn panels(depth: usize, columns: usize) -> Vec<u8> {
        let mut to = vec![0; columns.div_ceil(PANEL_COLUMNS) * depth * PANEL_COLUMNS * 2];
        for k in 0..depth {
            for n in 0..columns {
                let at = ((n / PANEL_COLUMNS * depth + k) * PANEL_COLUMNS + n % PANEL_COLUMNS) * 2;
                to[at..at + 2].copy_from_slice(&cell(k, n));
            }
        }
        to
    }

    #[test]
    fn rows_and_columns_become_the_same_panels() {
        let (depth, columns) = (70, 40);
        let wanted = panels(depth, columns);
        let mut to = vec![0; wanted.len()];
        for k in 0..depth {
            let row: Vec<u8> = (0..columns).flat_map(|n| cell(k, n)).collect();
            write_row(&row, k, depth, 2, &mut to);
        }
        assert_eq!(to, wanted);
        let mut to = vec![0; wanted.len()];
        let all: Vec<Vec<u8>> = (0..columns)
            .map(|n| (0..depth).flat_map(|k| cell(k, n)).collect())
            .collect();
        for (panel, columns) in to.chunks_mut(depth * PANEL_COLUMNS * 2).zip(all.chunks(PANEL_COLUMNS)) {
            write_columns::<2>(columns.iter().map(Vec::as_slice), panel);
        }
        assert_eq!(to, wanted);
    }

    #[test]
    fn pools_follow_each_other_at_cache_lines() {
        let (mut a, mut b) = (Pool::default(), Pool::default());
        a.row(false, 7, 20);
        let row = b.row(true, 1, 20);
        assert_eq!(b.row(true, 1, 20), row);
        assert_eq!((a.append(b), a.len()), (64, 84));
    }
}
