//! Links the runs of an entry: groups them by chain and finds what each operand is.

use crate::error::ExecError;
use crate::memory::Memory;
use crate::plan::{Rows, Space};
use lockstep_isa::artifact::{Artifact, ConstForm, Entry, Value, ValueKind};
use lockstep_isa::claim::{Claims, MemClaim, Producer};
use lockstep_isa::run::{AccIn, Addr, Operand, Src};
use lockstep_isa::{Opcode, Queue, Run};

/// A run in its place.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    /// The chip that issues it.
    pub chip: u16,
    /// Index in the chip's program.
    pub index: u32,
    /// The run.
    pub run: &'a Run,
    /// Its claims.
    pub claims: &'a Claims,
    /// Cycle of the first issue from the start of the entry.
    pub cycle: u64,
    /// Its place among the nodes of its chain.
    pub rank: usize,
}

/// What an operand is, from its first issue on.
#[derive(Clone, Copy)]
pub enum Source {
    /// Rows of memory that a read takes.
    Memory(Rows),
    /// Results of another run of the chain (index into the entry's nodes), from the given one on.
    Node(usize, u32),
}

/// An entry with its runs in one list.
pub struct Linked<'a> {
    /// The artifact.
    pub artifact: &'a Artifact,
    /// The entry.
    pub entry: &'a Entry,
    /// Chip memory.
    pub memory: &'a Memory,
    /// All runs, chip by chip.
    pub nodes: Vec<Node<'a>>,
    /// The chips and the chains that they belong to.
    groups: Groups,
    /// Whether all constants have rows in memory, also those that can be read in place.
    pub tile_rows: bool,
    /// Values that gathers read in place.
    gathered: &'a [bool],
}

/// The runs of an entry, in one list and by chain.
pub struct Nodes<'a> {
    list: Vec<Node<'a>>,
    groups: Groups,
}

/// Where the runs of chips and chains are in a list of all runs.
#[derive(Default)]
struct Groups {
    /// Node of each chip's run 0.
    first: Vec<usize>,
    /// All nodes by chain, those of a chain in the order of their first issue.
    by_chain: Vec<usize>,
    /// Where each chain begins in `by_chain`, and the end of the last.
    starts: Vec<usize>,
    /// Whether all runs are known to be within the target's bounds.
    checked: bool,
}

/// A chain cannot be linked.
pub enum LinkError {
    /// The artifact is wrong.
    Artifact(ExecError),
    /// A constant that was to be read in place is read as rows, which have no memory.
    NeedsTileRows,
}

impl From<ExecError> for LinkError {
    fn from(e: ExecError) -> LinkError {
        LinkError::Artifact(e)
    }
}

/// Result of linking.
pub type Linking<T> = Result<T, LinkError>;

impl<'a> Nodes<'a> {
    /// Groups the runs of an entry by chain. They are to be checked before they are used ([`Linked::check`]).
    ///
    /// # Errors
    /// Programs, claims or chains that do not match in number.
    pub fn new(artifact: &'a Artifact, entry: &'a Entry) -> Result<Nodes<'a>, ExecError> {
        let mut list: Vec<Node<'a>> = Vec::new();
        let mut groups = Groups {
            starts: vec![0; entry.chains.len() + 1],
            checked: true,
            ..Groups::default()
        };
        for (c, chip) in entry.chips.iter().enumerate() {
            let at = || format!("entry {:?} chip c{c}", entry.name);
            let Some(program) = artifact.programs.get(chip.program as usize) else {
                let n = artifact.programs.len();
                let what = format!("program {} of {n}", chip.program);
                return Err(ExecError::artifact(at(), what));
            };
            if program.runs.len() != chip.claims.len() {
                let (r, k) = (program.runs.len(), chip.claims.len());
                let what = format!("{k} claims for {r} runs");
                return Err(ExecError::artifact(at(), what));
            }
            groups.checked &= program.runs.is_checked(&artifact.target);
            groups.first.push(list.len());
            list.reserve(program.runs.len());
            for (index, (run, claims)) in program.runs.iter().zip(&chip.claims).enumerate() {
                if claims.chain as usize >= entry.chains.len() {
                    let what = format!("chain h{} of {}", claims.chain, entry.chains.len());
                    return Err(ExecError::artifact(format!("{} r{index}", at()), what));
                }
                groups.starts[claims.chain as usize + 1] += 1;
                list.push(Node {
                    chip: c as u16,
                    index: index as u32,
                    run,
                    claims,
                    cycle: chip.start + run.cycle as u64,
                    rank: 0,
                });
            }
        }
        for chain in 0..entry.chains.len() {
            groups.starts[chain + 1] += groups.starts[chain];
        }
        groups.by_chain = vec![0; list.len()];
        let mut ends = groups.starts.clone();
        for (i, node) in list.iter().enumerate() {
            let end = &mut ends[node.claims.chain as usize];
            groups.by_chain[*end] = i;
            *end += 1;
        }
        for chain in groups.starts.windows(2) {
            let chain = &mut groups.by_chain[chain[0]..chain[1]];
            chain.sort_unstable_by_key(|&i| (list[i].cycle, i));
            for (rank, &i) in chain.iter().enumerate() {
                list[i].rank = rank;
            }
        }
        Ok(Nodes { list, groups })
    }
}

impl<'a> Linked<'a> {
    /// The runs of entry `index` of an artifact on the memory that [`Memory::new`] gives it.
    pub fn new(
        artifact: &'a Artifact,
        index: usize,
        nodes: Nodes<'a>,
        memory: &'a Memory,
        tile_rows: bool,
    ) -> Linked<'a> {
        Linked {
            artifact,
            entry: &artifact.entries[index],
            memory,
            nodes: nodes.list,
            groups: nodes.groups,
            tile_rows,
            gathered: memory.in_place(index),
        }
    }

    /// Number of chains.
    pub fn n_chains(&self) -> usize {
        self.groups.starts.len() - 1
    }

    /// Nodes of a chain in the order of their first issue.
    pub fn chain(&self, chain: usize) -> &[usize] {
        match (self.groups.starts.get(chain), self.groups.starts.get(chain + 1)) {
            (Some(&from), Some(&to)) => &self.groups.by_chain[from..to],
            _ => &[],
        }
    }

    /// Checks a run against the target, unless that was done when the artifact was read.
    ///
    /// # Errors
    /// A field out of the target's bounds.
    pub fn check(&self, node: usize) -> Linking<()> {
        if self.groups.checked {
            return Ok(());
        }
        let run = self.nodes[node].run;
        run.check(&self.artifact.target)
            .map_err(|e| self.error(node, e.to_string()))
    }

    /// Where a node is, for messages.
    pub fn at(&self, node: usize) -> String {
        let n = &self.nodes[node];
        let op = n.run.op.mnemonic();
        format!("entry {:?} c{} r{} ({op})", self.entry.name, n.chip, n.index)
    }

    /// An artifact error at a node.
    pub fn error(&self, node: usize, what: impl Into<String>) -> LinkError {
        LinkError::Artifact(ExecError::artifact(self.at(node), what))
    }

    /// The node that operand `i` (in claim order) of a node takes its vectors from, and the first result taken;
    /// checked to be in the same chain and to have `count` results from there.
    pub fn producer(&self, node: usize, i: usize, count: u32) -> Linking<(usize, u32)> {
        let claims = self.nodes[node].claims;
        let Some(&p) = claims.operands.get(i) else {
            return Err(self.error(node, format!("no claim for operand {i}")));
        };
        self.claimed(node, p, count)
    }

    /// As [`Linked::producer`], for the accumulator rows of a mul.
    pub fn accumulator(&self, node: usize, count: u32) -> Linking<(usize, u32)> {
        match self.nodes[node].claims.acc {
            Some(p) => self.claimed(node, p, count),
            None => Err(self.error(node, "no claim for its accumulator rows")),
        }
    }

    fn claimed(&self, node: usize, p: Producer, count: u32) -> Linking<(usize, u32)> {
        let n = &self.nodes[node];
        let chip = match n.run.queue {
            Queue::Recv(link) => {
                let target = &self.artifact.target;
                let local = target.c2c.local_links;
                match target.topology.peer(n.chip, link, local, self.artifact.n_chips) {
                    Some(peer) => peer.chip,
                    None => return Err(self.error(node, "a link that leads nowhere")),
                }
            }
            _ => n.chip,
        };
        let id = self.node_of(chip, p.run);
        let Some(id) = id.filter(|&id| self.nodes[id].claims.chain == n.claims.chain) else {
            let what = format!("claims c{chip} r{}, which is not in its chain", p.run);
            return Err(self.error(node, what));
        };
        let results = self.results(id);
        if p.first.checked_add(count).is_none_or(|end| end > results) {
            let what = format!("takes results {}..+{count} of {results} of r{}", p.first, p.run);
            return Err(self.error(node, what));
        }
        Ok((id, p.first))
    }

    fn node_of(&self, chip: u16, run: u32) -> Option<usize> {
        let first = *self.groups.first.get(chip as usize)?;
        let next = self.groups.first.get(chip as usize + 1).copied();
        let id = first.checked_add(run as usize)?;
        (id < next.unwrap_or(self.nodes.len())).then_some(id)
    }

    /// The tile block loads that a mul claims.
    pub fn block_load(&self, node: usize, run: u32) -> Linking<usize> {
        let n = &self.nodes[node];
        let id = self.node_of(n.chip, run).filter(|&id| {
            let l = &self.nodes[id];
            let load = matches!(l.run.op, Opcode::LoadRow | Opcode::LoadCol);
            load && l.claims.chain == n.claims.chain
        });
        id.ok_or_else(|| self.error(node, format!("r{run} is no tile load of its chain")))
    }

    /// Stream and ALU operands of a run with their position (0 a, 1 b, 2 c), in claim order.
    pub fn operands(&self, node: usize) -> impl Iterator<Item = (usize, Operand)> {
        let r = self.nodes[node].run;
        let b = if r.op == Opcode::Mul && r.acc_in != AccIn::Stream {
            Operand::default()
        } else {
            r.b
        };
        [r.a, b, r.c]
            .into_iter()
            .enumerate()
            .filter(|(_, o)| matches!(o.src, Src::Stream(_) | Src::Alu(_)))
    }

    /// What operand `i` in claim order is, for `count` issues, and the bytes per lane of its vectors. With `reads` false
    /// a read is a node like any other, unless nothing ever writes what it reads.
    pub fn source(&self, node: usize, i: usize, count: u32, reads: bool) -> Linking<(Source, usize)> {
        let (mut id, mut first) = self.producer(node, i, count)?;
        let mut word = self.word_of(node, id);
        let mut width = self.width(id);
        // A word that crosses a link is what the sender read.
        for _ in 0..4 {
            match self.nodes[id].run.op {
                Opcode::Read if reads || self.is_constant(id) => {
                    let mut rows = self.memory_rows(id)?.skip(first);
                    rows.offset += (word * self.memory.lanes()) as i64;
                    return Ok((Source::Memory(rows), width));
                }
                Opcode::Recv | Opcode::Send if reads => {
                    let (from, base) = self.producer(id, 0, self.nodes[id].run.issues())?;
                    word = word.max(self.word_of(id, from));
                    width = 1;
                    (id, first) = (from, first + base);
                }
                _ => break,
            }
        }
        Ok((Source::Node(id, first), width))
    }

    /// Which word of the producer's vector a send takes: streams beyond the producer's first.
    pub fn word_of(&self, send: usize, from: usize) -> usize {
        let (s, p) = (self.nodes[send].run, self.nodes[from].run);
        match (s.op, s.a.src, p.out) {
            (Opcode::Send, Src::Stream(s), Some(out)) => {
                let word = s.index.saturating_sub(out.index) as usize;
                word.min(self.width(from).saturating_sub(1))
            }
            _ => 0,
        }
    }

    /// Vectors that a node hands on; a send hands on its words.
    pub fn results(&self, node: usize) -> u32 {
        let run = self.nodes[node].run;
        match run.op {
            Opcode::Send => run.issues(),
            _ => run.results(),
        }
    }

    /// Bytes per lane of a node's results.
    pub fn width(&self, node: usize) -> usize {
        let run = self.nodes[node].run;
        match run.op {
            Opcode::Read => run.words as usize,
            Opcode::Mul => 4,
            Opcode::Send | Opcode::Recv => 1,
            _ => run.dtype.bytes(),
        }
    }

    /// The rows that a memory run addresses at index 0, over all its issues.
    pub fn memory_rows(&self, node: usize) -> Linking<Rows> {
        let n = &self.nodes[node];
        let run = n.run;
        let Queue::Mem(place) = run.queue else {
            return Err(self.error(node, "no memory queue"));
        };
        let words = match run.op {
            Opcode::Read | Opcode::Write => run.words as i64,
            _ => {
                let rows = (run.limit as i64 - 1).max(0);
                rows * run.row_stride as i64 + run.dtype.words() as i64
            }
        };
        let (low, high) = extent(run, run.addr);
        let span = u32::try_from(low).ok().and_then(|low_word| {
            let words = u32::try_from(high - low + words).ok()?;
            self.memory.span(n.chip, place, low_word, words)
        });
        let Some(span) = span else {
            if !self.tile_rows && (self.tile_claim(node).is_some() || self.is_gathered(node)) {
                return Err(LinkError::NeedsTileRows);
            }
            let what = format!("words 0x{low:04x}..0x{:04x} belong to no value", high + words);
            return Err(self.error(node, what));
        };
        let lanes = self.memory.lanes() as i64;
        let base = span.start as i64 + (run.addr.base as i64 - low) * lanes;
        Ok(affine(Space::Memory, run, base, run.addr, lanes))
    }

    /// The weight tile a memory run reads, and its claim.
    pub fn tile_claim(&self, node: usize) -> Option<(u32, u16, u16, MemClaim)> {
        let claim = self.nodes[node].claims.mem?;
        let value = self.entry.values.get(claim.value as usize)?;
        let ValueKind::Const(k) = value.kind else {
            return None;
        };
        match self.artifact.consts.get(k as usize)?.form {
            ConstForm::Tile { tile, first, step } => Some((tile, first, step, claim)),
            ConstForm::Rows => None,
        }
    }

    /// Whether a run claims a value that gathers read in place.
    fn is_gathered(&self, node: usize) -> bool {
        let claim = self.nodes[node].claims.mem;
        claim.is_some_and(|m| self.gathered.get(m.value as usize) == Some(&true))
    }

    /// Where a gather finds the row of index 0 and lane 0 of each of its issues within the weights section, and the bytes from
    /// one row to the next; the addresses are checked to be those of the claim, and the rows to be inside. `None` where it
    /// takes its rows from memory.
    pub fn gathered_rows(&self, node: usize) -> Option<(Rows, u32)> {
        if !self.is_gathered(node) {
            return None;
        }
        let (claim, value) = self.placed_claim(node)?;
        let run = self.nodes[node].run;
        let ValueKind::Const(k) = value.kind else {
            return None;
        };
        let constant = self.artifact.consts.get(k as usize)?;
        let words = value.dtype.words();
        let step = i64::from(run.row_stride / words);
        let mut reach = (
            claim.base as i64,
            claim.base as i64 + (run.limit as i64 - 1).max(0) * step,
        );
        for (d, &s) in run.dims.iter().zip(&claim.strides) {
            let far = (d.count as i64 - 1) * s as i64;
            reach = (reach.0 + far.min(0), reach.1 + far.max(0));
        }
        let size = value.dtype.bytes() as i64;
        let row = (value.hi as i64 - value.lo as i64) * size;
        let end = constant.offset.checked_add(constant.length)?;
        let inside = reach.0 >= 0
            && reach.1 < value.n_vectors as i64
            && constant.length as i64 == value.n_vectors as i64 * row
            && end <= self.artifact.weight_bytes().len() as u64
            && (value.lo..=value.hi).contains(&run.lo)
            && run.hi <= value.hi
            && run.row_stride.is_multiple_of(words);
        if !inside {
            return None;
        }
        let base = constant.offset as i64 - value.lo as i64 * size + claim.base as i64 * row;
        let rows = Rows {
            space: Space::Weights,
            offset: base,
            first: 0,
            counts: [run.dims[0].count as u32, run.dims[1].count as u32],
            strides: claim.strides.map(|s| s as i64 * row),
        };
        Some((rows, u32::try_from(step * row).ok()?))
    }

    /// The memory claim of a run and its value, where the run's addresses are those that the claim states.
    fn placed_claim(&self, node: usize) -> Option<(MemClaim, &Value)> {
        let n = &self.nodes[node];
        let (run, claim) = (n.run, n.claims.mem?);
        let value = self.entry.values.get(claim.value as usize)?;
        let words = value.dtype.words() as i64;
        let same_place = value.chip == n.chip && run.queue == Queue::Mem(value.place);
        let same_base = value.base as i64 + claim.base as i64 * words == run.addr.base as i64;
        let same_strides =
            (0..3).all(|d| run.dims[d].count == 1 || claim.strides[d] as i64 * words == run.addr.strides[d] as i64);
        (same_place && same_base && same_strides && run.dtype == value.dtype).then_some((claim, value))
    }

    /// The tile that a read (or a gather at index 0) takes its rows from, and the tile row of each issue in place of the byte;
    /// the addresses are checked to be those of the claim. `None` where the run reads no tile.
    pub fn tile_rows_of(&self, node: usize) -> Option<(u32, Rows)> {
        let (tile, first, step, _) = self.tile_claim(node)?;
        let (claim, value) = self.placed_claim(node)?;
        let words = value.dtype.words() as i64;
        let run = self.nodes[node].run;
        let image = self.artifact.tiles.get(tile as usize)?;
        let step = step as i64;
        let strides = claim.strides.map(|s| s as i64);
        let (mut low, mut high) = (claim.base as i64, claim.base as i64);
        for (dim, &stride) in run.dims.iter().zip(&strides) {
            let reach = (dim.count as i64 - 1) * stride;
            low += reach.min(0);
            high += reach.max(0);
        }
        let last = first as i64 + high * step;
        let last = match run.op {
            Opcode::Gather => last + (run.limit as i64 - 1) * (run.row_stride as i64 / words) * step,
            _ => last,
        };
        if low < 0 || last >= image.rows as i64 {
            return None;
        }
        let base = first as i64 + claim.base as i64 * step;
        Some((tile, rows_of(Space::Weights, run, base, strides.map(|s| s * step))))
    }

    /// Whether a read takes rows that no run ever writes.
    pub fn is_constant(&self, node: usize) -> bool {
        let n = &self.nodes[node];
        let value = n.claims.mem.and_then(|m| self.entry.values.get(m.value as usize));
        n.run.op == Opcode::Read && value.is_some_and(|v| matches!(v.kind, ValueKind::Const(_)))
    }
}

/// Least and greatest address of a run's issues.
pub fn extent(run: &Run, addr: Addr) -> (i64, i64) {
    let (mut low, mut high) = (addr.base as i64, addr.base as i64);
    for (d, &s) in run.dims.iter().zip(&addr.strides) {
        let reach = (d.count as i64 - 1) * s as i64;
        low += reach.min(0);
        high += reach.max(0);
    }
    (low, high)
}

/// Rows of a run: `base` for address `addr.base`, `unit` bytes per address step.
fn affine(space: Space, run: &Run, base: i64, addr: Addr, unit: i64) -> Rows {
    rows_of(space, run, base, addr.strides.map(|s| s as i64 * unit))
}

/// Rows of a run with a stride for each of its dimensions.
fn rows_of(space: Space, run: &Run, base: i64, strides: [i64; 3]) -> Rows {
    let counts = [run.dims[0].count as u32, run.dims[1].count as u32];
    let mut rows = Rows {
        space,
        offset: base,
        first: 0,
        counts,
        strides,
    };
    let n = run.issues();
    // Equidistant rows need no division by counts.
    let inner = strides[0] * counts[0] as i64;
    let middle = inner * counts[1] as i64;
    let even = |d: usize, step: i64| run.dims[d].count == 1 || strides[d] == step;
    if run.dims[1].count == 1 && run.dims[2].count == 1 {
        rows.counts[0] = u32::MAX;
    } else if counts[0] == 1 && run.dims[2].count == 1 {
        (rows.counts[0], rows.strides[0]) = (u32::MAX, strides[1]);
    } else if even(1, inner) && even(2, middle) {
        rows.counts[0] = u32::MAX;
    }
    debug_assert!(rows.counts[1] > 0 && n > 0);
    rows
}
