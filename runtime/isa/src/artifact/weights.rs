//! Building the weights section: rows and tile images, each stored once and 64-byte aligned.

use super::{Const, ConstForm, PANEL_COLUMNS, TileImage};
use crate::id::DType;
use std::collections::BTreeMap;

/// Alignment of everything in the weights section, in bytes.
pub const WEIGHT_ALIGN: usize = 64;

/// Collects constants and tiles. Equal bytes are stored once, whatever pushed them.
#[derive(Default)]
pub struct WeightsBuilder {
    bytes: Vec<u8>,
    consts: Vec<Const>,
    tiles: Vec<TileImage>,
    by_hash: BTreeMap<[u8; 32], u64>,
    tile_index: BTreeMap<TileImage, u32>,
}

impl WeightsBuilder {
    /// An empty builder.
    pub fn new() -> WeightsBuilder {
        WeightsBuilder::default()
    }

    /// Bytes stored so far.
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Whether nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Stores the bytes that lie from `start` on, unless the same bytes are there already; gives their offset.
    fn settle(&mut self, start: usize) -> u64 {
        let hash = *blake3::hash(&self.bytes[start..]).as_bytes();
        if let Some(&offset) = self.by_hash.get(&hash) {
            self.bytes.truncate(start);
            return offset;
        }
        self.by_hash.insert(hash, start as u64);
        let end = self.bytes.len().next_multiple_of(WEIGHT_ALIGN);
        self.bytes.resize(end, 0);
        start as u64
    }

    /// Adds a constant of rows: the live lanes of each vector, little-endian, row after row. Returns its index in
    /// [`Artifact::consts`](super::Artifact::consts).
    pub fn push_rows(&mut self, rows: &[u8]) -> u32 {
        self.push_rows_with(rows.len(), |out| out.copy_from_slice(rows))
    }

    /// As [`WeightsBuilder::push_rows`], with `length` bytes that `fill` writes in place (they are zero before).
    pub fn push_rows_with(&mut self, length: usize, fill: impl FnOnce(&mut [u8])) -> u32 {
        let start = self.bytes.len();
        self.bytes.resize(start + length, 0);
        fill(&mut self.bytes[start..]);
        let offset = self.settle(start);
        self.consts.push(Const {
            offset,
            length: length as u64,
            form: ConstForm::Rows,
        });
        self.consts.len() as u32 - 1
    }

    /// Adds a tile of `rows` x `columns` whose columns are the lanes from `lo` on, as 32-column panels. `row(k, out)`
    /// writes row k into `out`, `columns * dtype.bytes()` bytes that are zero before. Returns the tile's index; the same
    /// tile pushed again has the same index.
    pub fn push_tile(
        &mut self,
        rows: u16,
        lo: u16,
        columns: u16,
        dtype: DType,
        mut row: impl FnMut(u16, &mut [u8]),
    ) -> u32 {
        let panel = PANEL_COLUMNS * dtype.bytes();
        let width = columns as usize * dtype.bytes();
        let panel_bytes = panel * rows as usize;
        let start = self.bytes.len();
        self.bytes.resize(start + width.div_ceil(panel) * panel_bytes, 0);
        let mut line = vec![0; width];
        for k in 0..rows {
            line.fill(0);
            row(k, &mut line);
            for (p, part) in line.chunks(panel).enumerate() {
                let at = start + p * panel_bytes + k as usize * panel;
                self.bytes[at..at + part.len()].copy_from_slice(part);
            }
        }
        let image = TileImage {
            offset: self.settle(start),
            rows,
            lo,
            columns,
            dtype,
        };
        let tiles = &mut self.tiles;
        *self.tile_index.entry(image).or_insert_with(|| {
            tiles.push(image);
            tiles.len() as u32 - 1
        })
    }

    /// Adds a constant whose vector i is row `first + i * step` of a tile. Returns its index.
    pub fn push_tile_rows(&mut self, tile: u32, first: u16, step: u16) -> u32 {
        self.consts.push(Const {
            offset: 0,
            length: 0,
            form: ConstForm::Tile { tile, first, step },
        });
        self.consts.len() as u32 - 1
    }

    /// The constants, the tiles, and the bytes that both point into.
    pub fn finish(self) -> (Vec<Const>, Vec<TileImage>, Vec<u8>) {
        (self.consts, self.tiles, self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_are_panels_and_stored_once() {
        let mut w = WeightsBuilder::new();
        let fill = |k: u16, out: &mut [u8]| {
            for (n, b) in out.iter_mut().enumerate() {
                *b = (k as usize * 40 + n) as u8;
            }
        };
        let a = w.push_tile(3, 4, 40, DType::I8, fill);
        let b = w.push_tile(3, 4, 40, DType::I8, fill);
        let c = w.push_tile(3, 5, 40, DType::I8, fill);
        assert_eq!((a, b, c), (0, 0, 1));
        let k = w.push_tile_rows(a, 1, 2);
        let r = w.push_rows(&[7; 65]);
        let s = w.push_rows(&[7; 65]);
        assert_eq!((k, r, s), (0, 1, 2));
        let (consts, tiles, bytes) = w.finish();
        assert_eq!(tiles[0].offset, tiles[1].offset);
        assert_eq!(consts[1], consts[2]);
        assert_eq!((consts[1].offset, bytes.len()), (192, 192 + 128));
        // Panel 0 holds columns 0..32 of all rows, panel 1 columns 32..40 and zeros.
        assert_eq!(bytes[32], 40);
        assert_eq!(bytes[96 + 32 + 7], 40 + 39);
        assert_eq!(bytes[96 + 32 + 8], 0);
    }
}
