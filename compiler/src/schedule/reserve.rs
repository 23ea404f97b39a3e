//! Reservation tables of one chip: queues as held intervals, belt slots as bitmaps, matrix planes.

use lockstep_isa::{Dir, Queue, Target};
use std::ops::Range;

/// Intervals `[start, end)` during which a group holds something, disjoint and ascending.
#[derive(Clone, Debug, Default)]
pub(super) struct Intervals {
    held: Vec<(u64, u64, u32)>,
}

impl Intervals {
    /// The first cycle at or after `start` from which `len` cycles are free, and the group that holds it until then.
    pub fn next_free(&self, start: u64, len: u64) -> (u64, Option<u32>) {
        let (mut start, mut holder) = (start, None);
        let first = self.held.partition_point(|&(_, end, _)| end <= start);
        for &(from, end, group) in &self.held[first..] {
            if from >= start + len {
                break;
            }
            (start, holder) = (end, Some(group));
        }
        (start, holder)
    }

    /// Holds `[start, start + len)`, which must be free.
    pub fn hold(&mut self, start: u64, len: u64, group: u32) {
        let at = self.held.partition_point(|&(from, _, _)| from < start);
        self.held.insert(at, (start, start + len, group));
    }

    /// End of the last interval.
    pub fn end(&self) -> u64 {
        self.held.last().map_or(0, |&(_, end, _)| end)
    }
}

/// A regular set of belt slots: what one run's results take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slots {
    /// Direction.
    pub dir: Dir,
    /// Cycle of the first result at `from`.
    pub cycle: u64,
    /// Cycles between results.
    pub period: u64,
    /// Number of results.
    pub count: u32,
    /// Producer's position.
    pub from: i32,
    /// Farthest consumer's position.
    pub to: i32,
}

/// Diagonals per page of [`Belts`].
const PAGE: usize = 512;

/// Words of a quad: a vector of four bytes an element. Bookkeeping by quads takes a quarter of the memory.
const QUAD: usize = 4;

/// The first of equidistant diagonals, how far apart they are, and how many.
type Diagonals = (usize, usize, usize);

/// Equidistant diagonals page by page: the index of the first on it, the page, its place there, how many are on it.
fn pages(first: usize, period: usize, count: usize) -> impl Iterator<Item = (usize, usize, usize, usize)> {
    let mut i = 0;
    std::iter::from_fn(move || {
        let d = first + i * period;
        let n = (PAGE - d % PAGE).div_ceil(period).min(count - i);
        let next = (n > 0).then_some((i, d / PAGE, d % PAGE, n));
        i += n;
        next
    })
}

/// The belts of a chip. A slot is (stream, diagonal); it is taken over the stretch of positions from the producer to its
/// farthest consumer, kept as one bit per stretch between neighbouring units.
#[derive(Clone, Debug)]
pub(super) struct Belts {
    /// Words per bookkeeping unit: no vector in the program is narrower.
    unit: u8,
    /// Units per direction.
    units: usize,
    /// Positions of units, ascending.
    positions: Vec<i32>,
    /// Bits of 64 per stretch; several stretches share a bit where there are more than 64.
    share: usize,
    /// Distance added to a diagonal so that it is not negative.
    origin: i64,
    /// Per direction, what vectors of less than a quad take, unit by unit.
    narrow: [Pages; 2],
    /// Per direction, what takes whole quads.
    wide: [Pages; 2],
}

/// Diagonals of several streams or quads, page by page: `diagonal / PAGE * tracks + track`. A page on which nothing is taken is empty.
#[derive(Clone, Debug)]
struct Pages {
    tracks: usize,
    pages: Vec<Vec<u64>>,
}

impl Pages {
    fn new(tracks: usize) -> Pages {
        Pages {
            tracks,
            pages: Vec::new(),
        }
    }

    /// Indices of equidistant diagonals at which a track is taken somewhere on a stretch, ascending.
    fn taken(&self, (first, period, count): Diagonals, track: usize, stretch: u64) -> impl Iterator<Item = usize> {
        pages(first, period, count).flat_map(move |(first, page, at, n)| {
            let page = self.pages.get(page * self.tracks + track);
            let bits = page.and_then(|page| page.get(at..)).unwrap_or_default();
            let hits = bits.iter().step_by(period).take(n).enumerate();
            hits.filter(move |(_, bits)| **bits & stretch != 0)
                .map(move |(i, _)| first + i)
        })
    }

    /// Takes (or gives back) a stretch of tracks.
    fn set(&mut self, (first, period, count): Diagonals, tracks: Range<usize>, stretch: u64, take: bool) {
        for (_, page, at, count) in pages(first, period, count) {
            let end = (page + 1) * self.tracks;
            if self.pages.len() < end {
                self.pages.resize(end, Vec::new());
            }
            for page in &mut self.pages[page * self.tracks..][tracks.clone()] {
                if page.is_empty() {
                    page.resize(PAGE, 0);
                }
                for bits in page[at..].iter_mut().step_by(period).take(count) {
                    *bits = if take { *bits | stretch } else { *bits & !stretch };
                }
            }
        }
    }
}

impl Belts {
    /// Empty belts for vectors of at least `unit` words.
    pub fn new(target: &Target, unit: u8) -> Belts {
        let mut positions: Vec<i32> = target.places().map(|p| target.mem_position(p)).collect();
        positions.push(0);
        for hemi in Dir::BOTH {
            positions.push(target.sxm_position(hemi));
            positions.push(target.mxm_position(hemi));
            positions.push(hemi.sign() * target.position.c2c as i32);
        }
        positions.sort_unstable();
        positions.dedup();
        let origin = positions.iter().map(|p| p.unsigned_abs()).max().unwrap_or(0) as i64;
        let unit = unit.max(1);
        let units = (target.streams / unit) as usize;
        let quads = units.div_ceil((QUAD / unit as usize).max(1));
        Belts {
            unit,
            units,
            share: positions.len().div_ceil(64),
            positions,
            origin,
            narrow: [Pages::new(units), Pages::new(units)],
            wide: [Pages::new(quads), Pages::new(quads)],
        }
    }

    fn stretch(&self, a: i32, b: i32) -> u64 {
        let (low, high) = (a.min(b), a.max(b));
        let first = self.positions.partition_point(|&p| p < low) / self.share;
        let last = self.positions.partition_point(|&p| p < high).div_ceil(self.share);
        let ones = |n: usize| if n >= 64 { u64::MAX } else { (1u64 << n) - 1 };
        ones(last) & !ones(first)
    }

    fn diagonals(&self, s: &Slots) -> Diagonals {
        let d = match s.dir {
            Dir::East => s.cycle as i64 - s.from as i64,
            Dir::West => s.cycle as i64 + s.from as i64,
        };
        let first = (d + self.origin).max(0) as usize;
        (first, s.period.max(1) as usize, s.count as usize)
    }

    /// Units of a quad.
    fn per_quad(&self) -> usize {
        (QUAD / self.unit as usize).max(1)
    }

    /// Streams that are free for all of `slots`, one bit per `unit` words, as a mask over units.
    pub fn free(&self, slots: &Slots) -> u64 {
        let (stretch, diagonals) = (self.stretch(slots.from, slots.to), self.diagonals(slots));
        let (narrow, wide) = (&self.narrow[slots.dir as usize], &self.wide[slots.dir as usize]);
        let per = self.per_quad();
        let mut free = 0;
        for quad in (0..wide.tracks).filter(|&quad| wide.taken(diagonals, quad, stretch).next().is_none()) {
            let units = quad * per..((quad + 1) * per).min(self.units);
            for unit in units.filter(|&unit| narrow.taken(diagonals, unit, stretch).next().is_none()) {
                free |= 1 << unit;
            }
        }
        free
    }

    /// Cycles by which `slots` of period 1, one set per vector of `words` words, must at least be delayed until some
    /// consecutive streams are free: the last slot taken on the best of them is then behind. 1 for other periods.
    pub fn delay(&self, slots: &[Slots], words: u16) -> u64 {
        let per = (words as usize).div_ceil(self.unit as usize).max(1);
        if slots.iter().any(|s| s.period != 1) {
            return 1;
        }
        let last: Vec<Vec<u64>> = slots.iter().map(|s| self.last_taken(s)).collect();
        (0..self.units)
            .step_by(per)
            .filter(|at| at + last.len() * per <= self.units)
            .map(|at| {
                let worst = |(g, last): (usize, &Vec<u64>)| {
                    last[at + g * per..at + (g + 1) * per]
                        .iter()
                        .copied()
                        .max()
                        .unwrap_or(0)
                };
                last.iter().enumerate().map(worst).max().unwrap_or(0)
            })
            .min()
            .unwrap_or(1)
            .max(1)
    }

    /// Per unit, one past the index of the last of `slots` that is taken; 0 where none is.
    fn last_taken(&self, slots: &Slots) -> Vec<u64> {
        let (stretch, diagonals) = (self.stretch(slots.from, slots.to), self.diagonals(slots));
        let last = |pages: &Pages, track| {
            let last = pages.taken(diagonals, track, stretch).last();
            last.map_or(0, |i| i as u64 + 1)
        };
        let (narrow, wide) = (&self.narrow[slots.dir as usize], &self.wide[slots.dir as usize]);
        let quads: Vec<u64> = (0..wide.tracks).map(|quad| last(wide, quad)).collect();
        let of = |unit: usize| quads[unit / self.per_quad()].max(last(narrow, unit));
        (0..self.units).map(of).collect()
    }

    /// Takes (or gives back) `words` streams from `stream` on. What is given back has been taken so.
    pub fn set(&mut self, slots: &Slots, stream: u8, words: u16, take: bool) {
        let (stretch, diagonals) = (self.stretch(slots.from, slots.to), self.diagonals(slots));
        let (dir, per) = (slots.dir as usize, self.per_quad());
        let first = (stream / self.unit) as usize;
        let units = first..first + (words as usize).div_ceil(self.unit as usize);
        if units.start.is_multiple_of(per) && units.end.is_multiple_of(per) {
            self.wide[dir].set(diagonals, units.start / per..units.end / per, stretch, take);
        } else {
            self.narrow[dir].set(diagonals, units, stretch, take);
        }
    }

    /// The lowest aligned stream at which `groups` consecutive vectors of `words` words are free, given the free units of
    /// each.
    pub fn choose(&self, free: &[u64], words: u16) -> Option<u8> {
        let per = (words as usize).div_ceil(self.unit as usize).max(1);
        let ones = if per >= 64 { u64::MAX } else { (1u64 << per) - 1 };
        let fits = |mask: u64, at: usize| at + per <= self.units && (mask >> at) & ones == ones;
        (0..self.units)
            .step_by(per)
            .find(|&at| free.iter().enumerate().all(|(g, &mask)| fits(mask, at + g * per)))
            .map(|at| at as u8 * self.unit)
    }
}

/// A matrix plane: products run in program order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Plane {
    /// First cycle at which the next mul may issue.
    pub mul_free: u64,
    /// First cycle at which the shadow tile may be loaded: after the last swap.
    pub shadow_free: u64,
}

/// A tile load that is placed.
#[derive(Clone, Copy, Debug)]
struct Loading {
    start: u64,
    end: u64,
    /// Words per cycle.
    words: u32,
    group: u32,
}

/// What a chip has reserved.
#[derive(Clone, Debug)]
pub(super) struct Chip {
    queues: Vec<Intervals>,
    /// Belts.
    pub belts: Belts,
    /// Planes by hemisphere.
    pub planes: [Vec<Plane>; 2],
    /// Tile loads per hemisphere.
    loads: [Vec<Loading>; 2],
    /// Nothing is held from this cycle on.
    pub horizon: u64,
    layout: QueueLayout,
}

#[derive(Clone, Copy, Debug)]
struct QueueLayout {
    groups: u8,
    banks: u8,
    planes: usize,
    alus: usize,
    links: usize,
}

impl QueueLayout {
    fn index(&self, queue: Queue) -> usize {
        let mem = 2 * self.groups as usize * self.banks as usize;
        let load = mem + 2 * self.planes;
        let mul = load + 2 * self.planes;
        let alu = mul + self.alus;
        let sxm = alu + 2;
        match queue {
            Queue::Mem(place) => place.dense(self.groups, self.banks),
            Queue::MxmLoad(hemi, plane) => mem + hemi as usize * self.planes + plane as usize,
            Queue::MxmMul(hemi, plane) => load + hemi as usize * self.planes + plane as usize,
            Queue::Alu(i) => mul + i as usize,
            Queue::Sxm(hemi) => alu + hemi as usize,
            Queue::Send(link) => sxm + link as usize,
            Queue::Recv(link) => sxm + self.links + link as usize,
        }
    }
}

impl Chip {
    /// A chip on which nothing runs.
    pub fn new(target: &Target, unit: u8) -> Chip {
        let planes = target.mxm.planes_per_hemisphere as usize;
        let layout = QueueLayout {
            groups: target.groups,
            banks: target.banks,
            planes,
            alus: target.vxm.alus as usize,
            links: target.n_links() as usize,
        };
        let n = target.n_places() + 4 * planes + layout.alus + 2 + 2 * layout.links;
        Chip {
            queues: vec![Intervals::default(); n],
            belts: Belts::new(target, unit),
            planes: [vec![Plane::default(); planes], vec![Plane::default(); planes]],
            loads: [Vec::new(), Vec::new()],
            horizon: 0,
            layout,
        }
    }

    /// The queue's intervals; `None` where the chip has no such queue.
    pub fn queue(&self, queue: Queue) -> Option<&Intervals> {
        self.queues.get(self.layout.index(queue))
    }

    /// Holds a queue.
    pub fn hold(&mut self, queue: Queue, start: u64, len: u64, group: u32) {
        let index = self.layout.index(queue);
        if let Some(q) = self.queues.get_mut(index) {
            q.hold(start, len, group);
            self.horizon = self.horizon.max(q.end());
        }
    }

    /// The first cycle from that of `free` on at which a load of `words` words a cycle keeps within `limit` words a cycle, and
    /// the group that is in its way until then: that of `free` where no load is.
    pub fn load_free(
        &self,
        hemi: Dir,
        free: (u64, Option<u32>),
        len: u64,
        words: u32,
        limit: u32,
    ) -> (u64, Option<u32>) {
        let mut free = free;
        loop {
            let overlaps = |l: &&Loading| l.start < free.0 + len && free.0 < l.end;
            let overlapping = || self.loads[hemi as usize].iter().filter(overlaps);
            let first = overlapping().map(|l| (l.end, Some(l.group))).min();
            match first {
                Some(first) if overlapping().map(|l| l.words).sum::<u32>() + words > limit => free = first,
                _ => return free,
            }
        }
    }

    /// Records a load; forgets those that ended before `oldest`, since none is placed earlier any more.
    pub fn hold_load(&mut self, hemi: Dir, start: u64, len: u64, words: u32, group: u32) {
        let oldest = self.planes[hemi as usize]
            .iter()
            .map(|p| p.shadow_free)
            .min()
            .unwrap_or(0);
        let loads = &mut self.loads[hemi as usize];
        loads.retain(|l| l.end > oldest);
        let end = start + len;
        loads.push(Loading {
            start,
            end,
            words,
            group,
        });
    }
}
