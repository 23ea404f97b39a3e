//! The data flow of an entry: which runs produced what a run takes, and by which way it came.
//!
//! Everything is read from the claims that lie beside the program, which `lockstep verify` proves: producers of stream and ALU
//! operands, accumulator rows and tile blocks are claimed by run; rows of SRAM by value and element, and here joined to the
//! runs that write these elements. The time is linear in the runs and in the vectors that they move through SRAM: on the order
//! of a second for a million runs.
//!
//! Runs of an entry are numbered over all chips: run `i` of chip `c` is `first_run(c) + i`.

use lockstep_isa::artifact::{ChipProgram, Entry};
use lockstep_isa::claim::{MemClaim, ValueId};
use lockstep_isa::run::Src;
use lockstep_isa::{Artifact, Opcode, Queue, Run};

/// The way from a producer to a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Via {
    /// A belt.
    Stream = 0,
    /// The result that an ALU forwards to another.
    Alu = 1,
    /// Accumulator rows of a matrix unit.
    Accumulator = 2,
    /// A block of the tile that a product multiplies by.
    Tile = 3,
    /// Rows of SRAM.
    Row = 4,
    /// A link: from the sending run to the receiving one.
    Link = 5,
}

impl Via {
    /// All ways, in the order of their numbers.
    pub const ALL: [Via; 6] = [Via::Stream, Via::Alu, Via::Accumulator, Via::Tile, Via::Row, Via::Link];

    /// Name as printed (`stream`).
    pub const fn name(self) -> &'static str {
        match self {
            Via::Stream => "stream",
            Via::Alu => "alu",
            Via::Accumulator => "accumulator",
            Via::Tile => "tile",
            Via::Row => "row",
            Via::Link => "link",
        }
    }
}

/// A producer of what a run takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// The producing run, numbered over all chips.
    pub run: u32,
    /// How it came.
    pub via: Via,
}

/// Producers of every run of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Flow {
    /// First run of each chip, and the number of all runs.
    first: Vec<u32>,
    /// Where the sources of each run begin, and their number.
    starts: Vec<u32>,
    sources: Vec<Source>,
}

impl Flow {
    /// The data flow of an entry; empty where there is no such entry.
    ///
    /// What a claim names that does not exist is left out, so that an artifact that is wrong can be looked at.
    pub fn of(artifact: &Artifact, entry: usize) -> Flow {
        match artifact.entries.get(entry) {
            Some(entry) => Builder::new(artifact, entry).build(),
            None => Flow::default(),
        }
    }

    /// Number of runs.
    pub fn n_runs(&self) -> u32 {
        self.first.last().copied().unwrap_or(0)
    }

    /// Number of the first run of a chip; of all runs where there is no such chip.
    pub fn first_run(&self, chip: usize) -> u32 {
        self.first.get(chip).copied().unwrap_or(self.n_runs())
    }

    /// Chip of a run and its index in the chip's program; `None` where there is no such run.
    pub fn place(&self, run: u32) -> Option<(u16, u32)> {
        if run >= self.n_runs() {
            return None;
        }
        let chip = self.first.partition_point(|&f| f <= run).checked_sub(1)?;
        Some((chip as u16, run - self.first.get(chip)?))
    }

    /// Producers of what a run takes: of its operands in order, its accumulator rows, its tile blocks, then the writers of the
    /// rows that it reads, each once. A read of rows that nothing in this entry wrote, which are constants, inputs and states,
    /// has none.
    pub fn sources(&self, run: u32) -> &[Source] {
        let at = |i: usize| self.starts.get(i).map(|&s| s as usize);
        let range = at(run as usize).zip(at(run as usize + 1));
        range.and_then(|(a, b)| self.sources.get(a..b)).unwrap_or(&[])
    }
}

/// Chip and index of the run that sends what run `index` of a chip receives; `None` for a run that receives nothing, or nothing
/// that any run sends.
pub(crate) fn sender(artifact: &Artifact, entry: &Entry, chip: u16, index: u32, run: &Run) -> Option<(u16, u32)> {
    let Queue::Recv(link) = run.queue else { return None };
    let target = &artifact.target;
    let local = target.c2c.local_links;
    let peer = target.topology.peer(chip, link, local, artifact.n_chips)?;
    let claims = entry.chips.get(chip as usize)?.claims.get(index as usize)?;
    let sent = claims.operands.first()?.run;
    let there = runs_of(artifact, entry.chips.get(peer.chip as usize)?);
    let sends = there.get(sent as usize)?.queue == Queue::Send(peer.link);
    sends.then_some((peer.chip, sent))
}

/// The runs of an entry while its flow is made.
struct Builder<'a> {
    artifact: &'a Artifact,
    entry: &'a Entry,
    first: Vec<u32>,
}

impl<'a> Builder<'a> {
    fn new(artifact: &'a Artifact, entry: &'a Entry) -> Builder<'a> {
        let mut first = vec![0u32];
        for chip in &entry.chips {
            let before = first.last().copied().unwrap_or(0);
            first.push(before.saturating_add(runs_of(artifact, chip).len() as u32));
        }
        Builder { artifact, entry, first }
    }

    fn build(self) -> Flow {
        let rows = self.rows();
        let mut rows = rows.iter().peekable();
        let (mut starts, mut sources) = (vec![0u32], Vec::new());
        for (c, chip) in self.entry.chips.iter().enumerate() {
            let runs = runs_of(self.artifact, chip);
            for (i, run) in runs.iter().enumerate() {
                self.claimed(c, chip, i, run, &mut sources);
                let number = self.first[c] + i as u32;
                while let Some(&(_, run)) = rows.next_if(|r| r.0 == number) {
                    let via = Via::Row;
                    sources.push(Source { run, via });
                }
                starts.push(sources.len() as u32);
            }
        }
        Flow {
            first: self.first,
            starts,
            sources,
        }
    }

    /// What the claims of a run name by run: operands, accumulator rows, tile blocks.
    fn claimed(&self, c: usize, chip: &ChipProgram, i: usize, run: &Run, out: &mut Vec<Source>) {
        let Some(claims) = chip.claims.get(i) else { return };
        let (base, end) = (self.first[c], self.first[c + 1]);
        let mut push = |run: u32, via: Via| {
            if let Some(run) = base.checked_add(run).filter(|&r| r < end) {
                out.push(Source { run, via });
            }
        };
        if matches!(run.queue, Queue::Recv(_)) {
            if let Some((chip, index)) = sender(self.artifact, self.entry, c as u16, i as u32, run) {
                let (run, via) = (self.first[chip as usize] + index, Via::Link);
                out.push(Source { run, via });
            }
            return;
        }
        let mut ways = [run.a, run.b, run.c].into_iter().filter_map(|o| match o.src {
            Src::Stream(_) => Some(Via::Stream),
            Src::Alu(_) => Some(Via::Alu),
            Src::None | Src::Imm(_) => None,
        });
        for producer in &claims.operands {
            // A tile load has one operand and as many producers as belt groups.
            push(producer.run, ways.next().unwrap_or(Via::Stream));
        }
        if let Some(acc) = claims.acc {
            push(acc.run, Via::Accumulator);
        }
        for block in &claims.blocks {
            push(block.load, Via::Tile);
        }
    }

    /// Pairs of a run that reads rows and one that wrote them, ascending, each once.
    fn rows(&self) -> Vec<(u32, u32)> {
        let mut accesses: Vec<(ValueId, bool, Access<'_>)> = Vec::new();
        for (c, chip) in self.entry.chips.iter().enumerate() {
            for (i, run) in runs_of(self.artifact, chip).iter().enumerate() {
                let Some(claim) = chip.claims.get(i).and_then(|c| c.mem) else {
                    continue;
                };
                let reads = matches!(run.op, Opcode::Read | Opcode::Gather);
                let number = self.first[c] + i as u32;
                accesses.push((claim.value, reads, Access { number, run, claim }));
            }
        }
        // Of each value first the writers, then the readers, in the order of runs.
        accesses.sort_by_key(|(value, reads, access)| (*value, *reads, access.number));
        let mut pairs = Vec::new();
        let mut owners = Vec::new();
        for of_value in accesses.chunk_by(|a, b| a.0 == b.0) {
            let writers = of_value.partition_point(|(_, reads, _)| !reads);
            let (writers, readers) = of_value.split_at(writers);
            let value = of_value.first().and_then(|a| self.entry.values.get(a.0 as usize));
            let Some(value) = value.filter(|_| !writers.is_empty() && !readers.is_empty()) else {
                continue;
            };
            owners.clear();
            owners.resize(value.n_vectors as usize * value.dtype.words() as usize, NOBODY);
            let mut scattered = Vec::new();
            for (_, _, writer) in writers {
                if writer.run.op == Opcode::Scatter {
                    scattered.push((writer.number, writer.hull()));
                } else {
                    writer.each(|words| {
                        for owner in owners.get_mut(words).into_iter().flatten() {
                            *owner = writer.number;
                        }
                    });
                }
            }
            for (_, _, reader) in readers {
                let from = pairs.len();
                let mut last = NOBODY;
                let mut take = |words: std::ops::Range<usize>| {
                    for &owner in owners.get(words).into_iter().flatten() {
                        if owner != last && owner != NOBODY {
                            pairs.push((reader.number, owner));
                        }
                        last = owner;
                    }
                };
                let hull = reader.hull();
                if reader.run.op == Opcode::Gather {
                    take(hull.start..hull.end.min(owners.len()));
                } else {
                    reader.each(take);
                }
                let met = scattered
                    .iter()
                    .filter(|(_, s)| s.start < hull.end && hull.start < s.end);
                pairs.extend(met.map(|(writer, _)| (reader.number, *writer)));
                sort_tail(&mut pairs, from);
            }
        }
        pairs.sort_unstable();
        pairs
    }
}

const NOBODY: u32 = u32::MAX;

/// Sorts what follows `from` and drops what is there twice.
fn sort_tail(pairs: &mut Vec<(u32, u32)>, from: usize) {
    if pairs.len() > from + 1 {
        let mut tail = pairs.split_off(from);
        tail.sort_unstable();
        tail.dedup();
        pairs.append(&mut tail);
    }
}

/// The runs of a chip.
fn runs_of<'a>(artifact: &'a Artifact, chip: &ChipProgram) -> &'a [Run] {
    artifact.programs.get(chip.program as usize).map_or(&[], |p| &p.runs)
}

/// A run that moves words of a value.
struct Access<'a> {
    number: u32,
    run: &'a Run,
    claim: MemClaim,
}

impl Access<'_> {
    /// Words of one element as the claim counts them.
    fn unit(&self) -> i64 {
        match self.run.op {
            Opcode::Gather | Opcode::Scatter => self.run.dtype.words() as i64,
            _ => self.run.words.max(1) as i64,
        }
    }

    /// Calls `f` with the words of the value that each issue moves. Neighbouring issues that step on to the next words are one call.
    fn each(&self, mut f: impl FnMut(std::ops::Range<usize>)) {
        let unit = self.unit();
        let counts = self.run.dims.map(|d| d.count as i64);
        let strides = self.claim.strides.map(|s| s as i64);
        // Issues of the innermost dimension that lie next to each other.
        let (inner, width) = if strides[0] == 1 {
            (1, counts[0])
        } else {
            (counts[0], 1)
        };
        for i2 in 0..counts[2] {
            for i1 in 0..counts[1] {
                for i0 in 0..inner {
                    let element = self.claim.base as i64 + i0 * strides[0] + i1 * strides[1] + i2 * strides[2];
                    let words = element * unit..(element + width) * unit;
                    if words.start >= 0 {
                        f(words.start as usize..words.end as usize);
                    }
                }
            }
        }
    }

    /// The words between the least and the greatest that it may move.
    fn hull(&self) -> std::ops::Range<usize> {
        let (mut low, mut high) = (self.claim.base as i64, self.claim.base as i64);
        for (dim, stride) in self.run.dims.iter().zip(self.claim.strides) {
            let reach = (dim.count as i64 - 1) * stride as i64;
            low += reach.min(0);
            high += reach.max(0);
        }
        high += self.claim.row_stride as i64 * (self.claim.limit as i64 - 1).max(0);
        let unit = self.unit();
        (low.max(0) * unit) as usize..((high + 1).max(0) * unit) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_isa::disasm;
    use lockstep_isa::timing::result_offset;
    use lockstep_testkit::asm::{assemble, toy, verify_case, verify_cases};

    fn case(name: &str) -> Artifact {
        assemble(&verify_case(name), &toy()).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Every run as `QUEUE@CYCLE MNEMONIC`, by number.
    fn names(artifact: &Artifact) -> Vec<String> {
        let name = |l: disasm::Line<'_>| {
            let queue = disasm::queue_name(&artifact.target, l.chip, l.run.queue);
            format!("{queue}@{} {}", l.cycle, l.run.op.mnemonic())
        };
        disasm::lines(artifact, 0).map(name).collect()
    }

    /// Sources of the run with this name.
    fn sources(artifact: &Artifact, of: &str) -> Vec<String> {
        let (flow, names) = (Flow::of(artifact, 0), names(artifact));
        let run = names
            .iter()
            .position(|n| n == of)
            .unwrap_or_else(|| panic!("no {of} in {names:?}"));
        let text = |s: &Source| format!("{}: {}", s.via.name(), names[s.run as usize]);
        flow.sources(run as u32).iter().map(text).collect()
    }

    #[test]
    fn a_product_takes_its_operand_its_rows_and_its_tile() {
        let a = case("matmul");
        assert_eq!(
            sources(&a, "c0.mxm0@130 mul"),
            [
                "stream: c0.mem1.b0@97 read",
                "accumulator: c0.mxm0@80 mul",
                "tile: c0.mxm0@87 load.row"
            ]
        );
        let groups = ["stream: c0.mem0.b0@0 read", "stream: c0.mem0.b1@0 read"];
        assert_eq!(sources(&a, "c0.mxm0@37 load.row"), groups);
        assert_eq!(sources(&a, "c0.vxm1@184 alu"), ["alu: c0.vxm0@180 alu"]);
        assert!(sources(&a, "c0.mem1.b0@97 read").is_empty(), "an input has no producer");
    }

    #[test]
    fn a_transfer_leads_over_link_and_rows() {
        let a = case("transfer");
        assert_eq!(sources(&a, "c1.c2c1@267 recv"), ["link: c0.c2c0@39 send"]);
        assert_eq!(sources(&a, "c1.mem0.b0@286 write"), ["stream: c1.c2c1@267 recv"]);
        assert_eq!(sources(&a, "c1.mem0.b0@485 read"), ["row: c1.mem0.b0@286 write"]);
        let flow = Flow::of(&a, 0);
        assert_eq!(flow.place(flow.first_run(1)), Some((1, 0)));
        assert_eq!(flow.place(flow.n_runs()), None);
    }

    #[test]
    fn a_scattered_row_is_read() {
        let a = case("cache");
        assert_eq!(sources(&a, "c0.mem2.b0@60 read"), ["row: c0.mem2.b0@28 scatter"]);
        let both = ["stream: c0.mem0.b0@0 read", "stream: c0.mem0.b1@0 read"];
        assert_eq!(sources(&a, "c0.mem2.b0@28 scatter"), both);
    }

    #[test]
    fn rows_are_joined_by_element() {
        let text = "
value x = input    c0.mem0.b0 0x0000 x4 f32 0:16
value y = computed c0.mem3.b0 0x0000 x4 f32 0:16
value z = computed c0.mem1.b1 0x0000 x1 f32 0:16
input \"x\" float32 4,16 = x
output \"z\" float32 1,16 = z
output \"y\" float32 4,16 = y
chain c0 \"copy\"
  c0.mem0.b0 @0  read x[0;2] x2 -> st0.e
  c0.mem3.b0 @32 write st0.e -> y[0;2] x2
chain c0 \"copy\"
  c0.mem0.b0 @10 read x[1;2] x2 -> st0.e
  c0.mem3.b0 @42 write st0.e -> y[1;2] x2
chain c0 \"take\"
  c0.mem3.b0 @80 read y[2] -> st0.w
  c0.mem1.b1 @108 write st0.w -> z[0]
";
        let a = assemble(text, &toy()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(sources(&a, "c0.mem3.b0@80 read"), ["row: c0.mem3.b0@32 write"]);
    }

    /// A producer's result passes the consumer in the cycle in which it is taken, in every case: the ways are those of the machine.
    #[test]
    fn operands_arrive_when_they_are_taken() {
        for (name, text) in verify_cases() {
            let a = assemble(&text, &toy()).unwrap_or_else(|e| panic!("{name}: {e}"));
            let (flow, t) = (Flow::of(&a, 0), &a.target);
            let runs: Vec<_> = disasm::lines(&a, 0).collect();
            for (number, line) in runs.iter().enumerate() {
                let streams = [line.run.a, line.run.b, line.run.c].map(|o| matches!(o.src, Src::Stream(_)));
                let found = flow.sources(number as u32);
                let by_stream = found.iter().filter(|s| s.via == Via::Stream).count();
                assert!(
                    by_stream >= streams.iter().filter(|s| **s).count(),
                    "{name}: run {number}"
                );
                let first = |s: &&Source| s.via == Via::Stream && line.run.a.delay == 0;
                if let (Some(s), true) = (found.first().filter(first), streams[0]) {
                    let from = &runs[s.run as usize];
                    let way = t
                        .queue_position(from.run.queue)
                        .abs_diff(t.queue_position(line.run.queue)) as u64;
                    let arrives = |n| from.cycle + result_offset(t, from.run, n) as u64 + way;
                    assert!(
                        (0..from.run.results()).any(|n| arrives(n) == line.cycle),
                        "{name}: {number} from {}",
                        s.run
                    );
                }
            }
        }
    }

    #[test]
    fn claims_that_name_nothing_are_left_out() {
        let mut a = case("matmul");
        for chip in &mut a.entries[0].chips {
            for claims in &mut chip.claims {
                claims.operands.iter_mut().for_each(|p| p.run = u32::MAX - 1);
                claims.blocks.clear();
                claims.acc = None;
                if let Some(m) = &mut claims.mem {
                    (m.base, m.value) = (u32::MAX, m.value + 7);
                }
            }
        }
        let flow = Flow::of(&a, 0);
        assert!((0..flow.n_runs()).all(|r| flow.sources(r).is_empty()));
    }
}
