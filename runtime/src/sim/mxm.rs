//! Matrix units: shadow and active tiles, accumulator rows.

use super::vector::{Fault, Step, fault};
use crate::error::HazardKind;
use lockstep_isa::run::Window;
use lockstep_isa::{DType, Target};

/// A column block of a tile. Elements are bits of f32 or i32, row (k) after row.
pub(super) struct Block {
    pub window: Window,
    pub dtype: DType,
    pub data: Vec<u32>,
    /// First cycle in which a swap may take it; `u64::MAX` while vectors are still to come.
    pub ready: u64,
    /// The active run that loads it.
    pub owner: u32,
}

#[derive(Clone, Copy, Default)]
struct Row {
    ready: u64,
    written: bool,
    float: bool,
}

/// A matrix unit: the planes from one number on. Which planes belong to it depends on the dtype loaded.
#[derive(Default)]
pub(super) struct Unit {
    /// Planes of the blocks in the shadow tile.
    shadow_planes: u8,
    active_planes: u8,
    pub shadow: Vec<Block>,
    pub active: Vec<Block>,
    rows: Vec<Row>,
    acc: Vec<u32>,
    defined: Vec<u64>,
}

/// Columns of an accumulator row or a result that are defined.
#[derive(Clone, Debug, Default)]
pub(super) struct Columns(pub Vec<u64>);

impl Columns {
    pub fn new(lanes: usize) -> Columns {
        Columns(vec![0; lanes.div_ceil(64)])
    }

    pub fn clear(&mut self) {
        self.0.fill(0);
    }

    pub fn insert(&mut self, lo: u16, hi: u16) {
        for l in lo as usize..hi as usize {
            self.0[l / 64] |= 1 << (l % 64);
        }
    }

    /// The first column of a range that is not defined.
    pub fn missing(&self, lo: u16, hi: u16) -> Option<u16> {
        (lo..hi).find(|&l| self.0[l as usize / 64] >> (l % 64) & 1 == 0)
    }
}

/// All matrix units of one hemisphere of a chip, by first plane.
pub(super) struct Hemisphere {
    pub units: Vec<Unit>,
    lanes: usize,
    /// Words of 64 columns in a row of `Unit::defined`.
    groups: usize,
    load_cycle: u64,
    load_words: u32,
    load_limit: u32,
}

impl Hemisphere {
    /// Empty units; those listed in `with_acc` get accumulator rows.
    pub fn new(target: &Target, with_acc: &[bool]) -> Hemisphere {
        let lanes = target.word_bytes();
        let rows = target.mxm.acc_rows as usize;
        let groups = lanes.div_ceil(64);
        let unit = |&acc: &bool| {
            let n = if acc { rows } else { 0 };
            Unit {
                rows: vec![Row::default(); n],
                acc: vec![0; n * lanes],
                defined: vec![0; n * groups],
                ..Unit::default()
            }
        };
        Hemisphere {
            units: with_acc.iter().map(unit).collect(),
            lanes,
            groups,
            load_cycle: 0,
            load_words: 0,
            load_limit: target.mxm.load_words_per_cycle as u32,
        }
    }

    /// Empties tiles and accumulators; block buffers go to `spare`.
    pub fn clear(&mut self, spare: &mut Vec<Vec<u32>>) {
        (self.load_cycle, self.load_words) = (0, 0);
        for u in &mut self.units {
            let blocks = u.shadow.drain(..).chain(u.active.drain(..));
            spare.extend(blocks.map(|b| b.data));
            u.rows.fill(Row::default());
        }
    }

    /// Counts the words that loads take in a cycle.
    pub fn count_load(&mut self, cycle: u64, words: u32) -> Step<()> {
        if self.load_cycle != cycle {
            (self.load_cycle, self.load_words) = (cycle, 0);
        }
        self.load_words += words;
        if self.load_words > self.load_limit {
            let (n, most) = (self.load_words, self.load_limit);
            let what = format!("tile loads of the hemisphere take {n} words in one cycle, {most} at most");
            return fault(HazardKind::PortTaken, what);
        }
        Ok(())
    }

    /// Begins a block in the shadow tile of the unit at `plane`.
    pub fn begin_block(&mut self, plane: usize, planes: u8, block: Block) -> Step<()> {
        let range = plane..plane + planes as usize;
        for (p, u) in self.units.iter().enumerate() {
            let theirs = p..p + u.shadow_planes as usize;
            let overlap = theirs.start < range.end && range.start < theirs.end;
            if p != plane && overlap && !u.shadow.is_empty() {
                let what = format!("the shadow tile of plane {p} holds planes of this unit");
                return fault(HazardKind::Tile, what);
            }
        }
        let unit = &mut self.units[plane];
        let taken = unit
            .shadow
            .iter()
            .find(|b| b.dtype != block.dtype || !b.window.may_join(&block.window));
        if let Some(b) = taken {
            let w = b.window;
            let what = format!(
                "the shadow tile already holds {} columns {}..{}, rows {}..{}",
                b.dtype, w.n0, w.n1, w.k0, w.k1
            );
            return fault(HazardKind::Tile, what);
        }
        unit.shadow_planes = planes;
        unit.shadow.push(block);
        Ok(())
    }

    /// Makes the shadow tile of a unit active.
    pub fn swap(&mut self, plane: usize, planes: u8, cycle: u64, spare: &mut Vec<Vec<u32>>) -> Step<()> {
        let unit = &self.units[plane];
        if unit.shadow.is_empty() || unit.shadow_planes != planes {
            return fault(HazardKind::Tile, "the shadow tile is empty");
        }
        if let Some(b) = unit.shadow.iter().find(|b| b.ready > cycle) {
            let Window { n0, n1, .. } = b.window;
            let when = if b.ready == u64::MAX {
                "is still being loaded".to_owned()
            } else {
                format!("is usable from cycle {} on", b.ready)
            };
            return fault(
                HazardKind::Tile,
                format!("the shadow block of columns {n0}..{n1} {when}"),
            );
        }
        let range = plane..plane + planes as usize;
        for (p, u) in self.units.iter_mut().enumerate() {
            let theirs = p..p + u.active_planes as usize;
            if theirs.start < range.end && range.start < theirs.end {
                spare.extend(u.active.drain(..).map(|b| b.data));
            }
        }
        let unit = &mut self.units[plane];
        std::mem::swap(&mut unit.shadow, &mut unit.active);
        unit.active.sort_by_key(|b| (b.window.n0, b.window.k0));
        (unit.active_planes, unit.shadow_planes) = (planes, 0);
        Ok(())
    }

    fn row(&self, plane: usize, addr: i64) -> Step<usize> {
        let n = self.units[plane].rows.len() as i64;
        if addr < 0 || addr >= n {
            let what = format!("accumulator row {addr} of {n}");
            return fault(HazardKind::Accumulator, what);
        }
        Ok(addr as usize)
    }

    /// Copies an accumulator row and its defined columns.
    pub fn read_row(
        &self,
        plane: usize,
        addr: i64,
        float: bool,
        cycle: u64,
        acc: &mut [u32],
        columns: &mut Columns,
    ) -> Step<()> {
        let r = self.row(plane, addr)?;
        let unit = &self.units[plane];
        let row = unit.rows[r];
        let error = |what: String| -> Step<()> {
            Err(Fault {
                kind: HazardKind::Accumulator,
                what,
            })
        };
        if !row.written {
            return error(format!("accumulator row {addr} was never written"));
        }
        if row.ready > cycle {
            let ready = row.ready;
            return error(format!("accumulator row {addr} is usable from cycle {ready} on"));
        }
        if row.float != float {
            let (is, want) = if row.float { ("f32", "i32") } else { ("i32", "f32") };
            return error(format!("accumulator row {addr} holds {is}, {want} is needed"));
        }
        acc.copy_from_slice(&unit.acc[r * self.lanes..][..self.lanes]);
        columns
            .0
            .copy_from_slice(&unit.defined[r * self.groups..][..self.groups]);
        Ok(())
    }

    /// Writes an accumulator row, usable from cycle `ready` on.
    pub fn write_row(
        &mut self,
        plane: usize,
        addr: i64,
        float: bool,
        ready: u64,
        acc: &[u32],
        columns: &Columns,
    ) -> Step<()> {
        let r = self.row(plane, addr)?;
        let unit = &mut self.units[plane];
        unit.rows[r] = Row {
            ready,
            written: true,
            float,
        };
        unit.acc[r * self.lanes..][..self.lanes].copy_from_slice(acc);
        unit.defined[r * self.groups..][..self.groups].copy_from_slice(&columns.0);
        Ok(())
    }
}
