//! Derives the fused form of every chain from its instructions and claims.
//!
//! The runs of a chain become *units*: a product, a transpose, or a group of vector operations that go through the same
//! issues (issue n of one takes result n of another). Reads are not units: their consumers address memory themselves.
//! What crosses from one unit to another lies in scratch, row by row.
//!
//! A chain whose units would depend on each other in a circle, or that writes rows which it also reads, runs issue by
//! issue in the order of the cycles instead, with every result in scratch: the same steps, one row at a time.

use crate::error::ExecError;
use crate::plan::follow::follow;
use crate::plan::join::join;
use crate::plan::link::{LinkError, Linked, Linking, Source, extent};
use crate::plan::pool::Pool;
use crate::plan::{ChainPlan, Plan, Rows, Space, Step, Transpose};
use lockstep_isa::{AluOp, Opcode};
use std::collections::BTreeSet;

/// Builds the chains of one entry.
pub struct Builder<'a> {
    /// The entry.
    pub linked: &'a Linked<'a>,
    /// The plan so far.
    pub plan: Plan,
    /// Shared by all entries.
    pub pool: &'a mut Pool,
    /// Bytes of a row of scratch.
    pub row_bytes: usize,
    /// Most bytes of scratch.
    pub limit: u64,
    /// Whether integers with scales become f32.
    pub decode: bool,
    /// Room for what is known of the nodes of a chain.
    pub facts: Vec<Facts>,
}

/// Something about a chain that rules the fused form out.
pub enum Obstacle {
    /// The fused form does not fit; the chain runs issue by issue.
    NotFused,
    /// The chain cannot run at all.
    Link(LinkError),
}

impl From<LinkError> for Obstacle {
    fn from(e: LinkError) -> Obstacle {
        Obstacle::Link(e)
    }
}

/// Result of building.
pub type Building<T> = Result<T, Obstacle>;

/// State of building one chain.
pub struct Chain<'b, 'a> {
    /// What outlives the chain.
    pub b: &'b mut Builder<'a>,
    /// The chain's nodes in the order of their first issue.
    pub ids: &'b [usize],
    /// Whether the fused form is being built.
    pub fused: bool,
    /// Bytes of scratch used.
    pub scratch: usize,
    /// What is known of each node, by rank.
    pub facts: Vec<Facts>,
    /// Reads and writes of the same rows at the same issues.
    pub in_place: Vec<(usize, usize)>,
    /// Steps with the node that they carry out.
    pub steps: Vec<(Step, usize)>,
}

/// What is known of a node while its chain is built.
pub struct Facts {
    /// Its operands.
    operands: Operands,
    /// Where results lie that another unit reads.
    pub place: Option<Rows>,
    /// Of a product: results taken by another, first and count per consumer.
    pub uses: Vec<(u32, u32)>,
    /// Whether the results of a vector node leave its group.
    pub leaves: bool,
    /// Of a write: the producer that writes its rows itself.
    pub direct: Option<usize>,
    /// The write whose rows the node writes itself.
    pub writes: Option<usize>,
    /// Of a tile load: whether every vector is constant.
    pub constant: bool,
    /// Of a tile load: the weights.
    pub weights: Option<super::matrix::Weights>,
    /// Of a product: the defined columns.
    pub columns: Option<Vec<(u32, u32)>>,
}

/// Operands of a node in claim order, with the bytes per lane.
#[derive(Clone, Copy)]
pub struct Operands {
    list: [(Source, usize); 3],
    n: usize,
}

impl Operands {
    /// None.
    const NONE: Operands = Operands {
        list: [(Source::Node(0, 0), 0); 3],
        n: 0,
    };

    /// As a slice.
    pub fn as_slice(&self) -> &[(Source, usize)] {
        &self.list[..self.n]
    }
}

/// The first member of a group.
fn find(group: &[usize], mut i: usize) -> usize {
    while group[i] != i {
        i = group[i];
    }
    i
}

/// Whether a node is part of a tape.
pub fn is_vector(op: Opcode) -> bool {
    use Opcode::*;
    matches!(op, Alu | Fold | Permute | Reduce | Gather | Write | Scatter)
}

impl<'a> Builder<'a> {
    /// Builds chain `chain`.
    ///
    /// # Errors
    /// An artifact error, or weight tiles that need rows in memory.
    pub fn chain(&mut self, chain: usize) -> Linking<()> {
        let linked = self.linked;
        let ids = linked.chain(chain);
        for &id in ids {
            linked.check(id)?;
        }
        let plan = match self.attempt(ids, true) {
            Err(Obstacle::NotFused) => match self.attempt(ids, false) {
                Ok(plan) => plan,
                Err(Obstacle::Link(e)) => return Err(e),
                Err(Obstacle::NotFused) => {
                    let node = ids.first().copied().unwrap_or(0);
                    return Err(linked.error(node, "its chain has no order of execution"));
                }
            },
            Ok(plan) => plan,
            Err(Obstacle::Link(e)) => return Err(e),
        };
        self.plan.chains.push(plan);
        Ok(())
    }

    fn attempt(&mut self, ids: &[usize], fused: bool) -> Building<ChainPlan> {
        let n = ids.len();
        let mut facts = std::mem::take(&mut self.facts);
        facts.clear();
        facts.reserve(n);
        let mut chain = Chain {
            b: self,
            ids,
            fused,
            scratch: 0,
            facts,
            in_place: Vec::new(),
            steps: Vec::new(),
        };
        chain.find_operands()?;
        let accesses = chain.accesses()?;
        if fused {
            chain.check_memory(&accesses)?;
        }
        let mut plan = if fused { chain.fuse()? } else { chain.by_issue()? };
        plan.accesses = accesses.iter().map(|a| (a.0, a.1, a.2)).collect();
        let scratch = chain.scratch;
        self.facts = chain.facts;
        plan.scratch = scratch;
        self.plan.scratch = self.plan.scratch.max(scratch);
        Ok(plan)
    }
}

impl<'b, 'a> Chain<'b, 'a> {
    /// Sources of a node's operands in claim order, with the bytes per lane; none for tile loads.
    pub fn sources(&self, node: usize) -> Operands {
        self.facts[self.b.linked.nodes[node].rank].operands
    }

    fn find_operands(&mut self) -> Building<()> {
        let linked = self.b.linked;
        for &node in self.ids {
            let run = linked.nodes[node].run;
            let n = match run.op {
                Opcode::Read | Opcode::LoadRow | Opcode::LoadCol => 0,
                Opcode::Recv => 1,
                _ => linked.operands(node).count(),
            };
            let mut operands = Operands { n, ..Operands::NONE };
            for (i, to) in operands.list.iter_mut().enumerate().take(n) {
                *to = linked.source(node, i, run.issues(), self.fused)?;
            }
            let load = matches!(run.op, Opcode::LoadRow | Opcode::LoadCol);
            self.facts.push(Facts {
                operands,
                place: None,
                uses: Vec::new(),
                leaves: false,
                direct: None,
                writes: None,
                constant: load && self.is_constant_load(node),
                weights: None,
                columns: None,
            });
        }
        Ok(())
    }

    /// Sources of the belts of a tile load, with the number of vectors on each.
    pub fn belt_sources(&self, node: usize) -> Building<Vec<(Source, usize)>> {
        let linked = self.b.linked;
        let run = linked.nodes[node].run;
        let (vectors, belts) = (run.load_vectors(), (run.belts as u32).max(1));
        let mut list = Vec::with_capacity(belts.min(vectors) as usize);
        for g in 0..belts.min(vectors) {
            let count = (vectors - g).div_ceil(belts);
            list.push(linked.source(node, g as usize, count, self.fused)?);
        }
        Ok(list)
    }

    /// Reserves rows of scratch.
    pub fn reserve(&mut self, rows: u32) -> Building<Rows> {
        let at = self.scratch;
        self.reserve_bytes(rows as u64 * self.b.row_bytes as u64)?;
        Ok(Rows::linear(Space::Scratch, at, self.b.row_bytes))
    }

    /// Reserves bytes of scratch and gives their offset.
    pub fn reserve_bytes(&mut self, bytes: u64) -> Building<usize> {
        let at = self.scratch;
        let end = at as u64 + bytes.next_multiple_of(64);
        self.check_limit(end)?;
        self.scratch = end as usize;
        Ok(at)
    }

    /// Refuses more bytes than the session may have.
    pub fn check_limit(&self, needed: u64) -> Building<()> {
        let allowed = self.b.limit;
        if needed > allowed {
            let e = ExecError::Memory { needed, allowed };
            return Err(Obstacle::Link(LinkError::Artifact(e)));
        }
        Ok(())
    }

    /// Where the rows of a source lie that is not part of the same tape.
    pub fn rows_of(&self, source: Source) -> Building<Rows> {
        match source {
            Source::Memory(rows) => Ok(rows),
            Source::Node(p, first) => match self.facts[self.b.linked.nodes[p].rank].place {
                Some(rows) => Ok(rows.skip(first)),
                None => Err(Obstacle::NotFused),
            },
        }
    }

    /// Byte ranges of memory that the chain's runs touch: first, end, whether written, and the node.
    fn accesses(&self) -> Building<Vec<(i64, i64, bool, usize)>> {
        let linked = self.b.linked;
        let mut accesses: Vec<(i64, i64, bool, usize)> = Vec::with_capacity(self.ids.len());
        for &id in self.ids {
            let run = linked.nodes[id].run;
            let write = match run.op {
                Opcode::Read | Opcode::Gather => false,
                Opcode::Write | Opcode::Scatter => true,
                _ => continue,
            };
            let in_place = || linked.tile_claim(id).is_some() || linked.gathered_rows(id).is_some();
            if !write && (linked.is_constant(id) || in_place()) {
                continue;
            }
            let rows = linked.memory_rows(id)?;
            let (low, high) = extent(run, run.addr);
            let lanes = linked.memory.lanes() as i64;
            let start = rows.offset + (low - run.addr.base as i64) * lanes;
            let words = match run.op {
                Opcode::Read | Opcode::Write => run.words as i64,
                _ => {
                    let more = (run.limit as i64 - 1).max(0) * run.row_stride as i64;
                    more + run.dtype.words() as i64
                }
            };
            accesses.push((start, start + (high - low + words) * lanes, write, id));
        }
        accesses.sort_unstable();
        Ok(accesses)
    }

    /// Refuses the fused form where the chain writes rows that it reads or writes elsewhere, unless every issue of a
    /// write replaces what the same issue of a read took before.
    fn check_memory(&mut self, accesses: &[(i64, i64, bool, usize)]) -> Building<()> {
        let mut open: Vec<(i64, i64, bool, usize)> = Vec::new();
        for &a in accesses {
            open.retain(|o| o.1 > a.0);
            for o in &open {
                if !(o.2 || a.2) || !self.collide(o.3, a.3) {
                    continue;
                }
                let (read, write) = if a.2 { (o.3, a.3) } else { (a.3, o.3) };
                if o.2 == a.2 || !self.replaces(read, write)? {
                    return Err(Obstacle::NotFused);
                }
                self.in_place.push((read, write));
            }
            open.push(a);
        }
        Ok(())
    }

    /// Whether issue n of a write replaces the row that issue n of a read took before, and no other row.
    fn replaces(&self, read: usize, write: usize) -> Building<bool> {
        let linked = self.b.linked;
        let (r, w) = (&linked.nodes[read], &linked.nodes[write]);
        let ops = r.run.op == Opcode::Read && w.run.op == Opcode::Write;
        if !ops || r.run.issues() != w.run.issues() || r.run.words != w.run.words {
            return Ok(false);
        }
        let n = r.run.issues();
        let earlier = (0..n).all(|i| r.cycle + (r.run.offset(i) as u64) < w.cycle + w.run.offset(i) as u64);
        let (from, to) = (linked.memory_rows(read)?, linked.memory_rows(write)?);
        let same = (0..n).all(|i| from.at(i) == to.at(i));
        let distinct: BTreeSet<i64> = (0..n).map(|i| to.at(i)).collect();
        Ok(earlier && same && distinct.len() == n as usize)
    }

    /// Whether all that a read of replaced rows feeds are operations of the group that replaces them, issue by issue.
    fn stays_in_group(&self, read: usize, write: usize, find: impl Fn(usize) -> usize) -> bool {
        let linked = self.b.linked;
        self.ids.iter().all(|&id| {
            let n = &linked.nodes[id];
            (0..n.claims.operands.len()).all(|i| match linked.producer(id, i, 0) {
                Ok((p, first)) if p == read => {
                    let whole = first == 0 && n.run.issues() == linked.nodes[read].run.issues();
                    is_vector(n.run.op) && whole && find(id) == find(write)
                }
                _ => true,
            })
        })
    }

    /// Whether two memory runs with overlapping extents touch a common word.
    fn collide(&self, a: usize, b: usize) -> bool {
        let linked = self.b.linked;
        let words = |id: usize| -> Option<BTreeSet<i64>> {
            let run = linked.nodes[id].run;
            if !matches!(run.op, Opcode::Read | Opcode::Write) || run.issues() > 1 << 16 {
                return None;
            }
            let each = (0..run.issues()).map(|n| run.addr.at(run.index(n)));
            let all = each.flat_map(|w| w..w + run.words as i64);
            Some(all.collect())
        };
        match (words(a), words(b)) {
            (Some(x), Some(y)) => x.intersection(&y).next().is_some(),
            _ => true,
        }
    }

    /// Records who takes which results of products.
    fn record_uses(&mut self) -> Building<()> {
        let linked = self.b.linked;
        for &id in self.ids {
            let run = linked.nodes[id].run;
            let operands = self.sources(id);
            let mut take = |p: usize, first: u32, count: u32| {
                if linked.nodes[p].run.op == Opcode::Mul {
                    self.facts[linked.nodes[p].rank].uses.push((first, count));
                }
            };
            for &(source, _) in operands.as_slice() {
                if let Source::Node(p, first) = source {
                    take(p, first, run.issues());
                }
            }
            if matches!(run.op, Opcode::LoadRow | Opcode::LoadCol) {
                let (vectors, belts) = (run.load_vectors(), (run.belts as u32).max(1));
                for g in 0..belts.min(vectors) {
                    let count = (vectors - g).div_ceil(belts);
                    let (p, first) = linked.producer(id, g as usize, count)?;
                    take(p, first, count);
                }
            }
            if run.op == Opcode::Mul && run.acc_in == lockstep_isa::run::AccIn::Row {
                let (p, first) = linked.accumulator(id, run.issues())?;
                take(p, first, run.issues());
            }
        }
        Ok(())
    }

    /// Whether issue n of `consumer` takes result n of vector node `p`, for every result.
    fn aligned(&self, consumer: usize, p: usize, first: u32) -> bool {
        let nodes = &self.b.linked.nodes;
        let (c, p) = (nodes[consumer].run, nodes[p].run);
        let folded = p.op == Opcode::Fold && !p.emit_every;
        is_vector(c.op) && is_vector(p.op) && !folded && first == 0 && p.results() == c.issues()
    }

    fn fuse(&mut self) -> Building<ChainPlan> {
        self.record_uses()?;
        let linked = self.b.linked;
        let n = self.ids.len();
        let rank = |id: usize| linked.nodes[id].rank;
        // Groups of vector nodes, named by their first member; all by rank.
        let mut group: Vec<usize> = (0..n).collect();
        let mut crossing: Vec<(usize, usize)> = Vec::with_capacity(n);
        for &id in self.ids {
            for &(source, width) in self.sources(id).as_slice() {
                let Source::Node(p, first) = source else {
                    continue;
                };
                if self.aligned(id, p, first) {
                    let (a, b) = (find(&group, rank(id)), find(&group, rank(p)));
                    group[a.max(b)] = a.min(b);
                } else {
                    crossing.push((id, p));
                }
                self.choose_direct(id, p, first, width);
            }
            if matches!(linked.nodes[id].run.op, Opcode::LoadRow | Opcode::LoadCol) && !self.is_static_load(id) {
                for (source, _) in self.belt_sources(id)? {
                    if let Source::Node(p, _) = source {
                        crossing.push((id, p));
                    }
                }
            }
        }
        for &(read, write) in &self.in_place {
            if !self.stays_in_group(read, write, |id| find(&group, rank(id))) {
                return Err(Obstacle::NotFused);
            }
        }
        for &(_, p) in &crossing {
            if is_vector(linked.nodes[p].run.op) {
                self.facts[rank(p)].leaves = true;
            }
        }
        // Units and what they wait for, in the order of their first members. A load belongs to every mul that multiplies by it.
        for i in 0..n {
            group[i] = group[group[i]];
        }
        let in_unit = |op: Opcode| is_vector(op) || matches!(op, Opcode::Mul | Opcode::Transpose);
        let mut members: Vec<usize> = self.ids.to_vec();
        members.retain(|&id| in_unit(linked.nodes[id].run.op));
        members.sort_unstable_by_key(|&id| (group[rank(id)], rank(id)));
        let units: Vec<&[usize]> = members.chunk_by(|&a, &b| group[rank(a)] == group[rank(b)]).collect();
        let mut unit_of = vec![usize::MAX; n];
        for (unit, members) in units.iter().enumerate() {
            for &id in *members {
                unit_of[rank(id)] = unit;
            }
        }
        let mut waits = vec![0usize; units.len()];
        let mut wakes: Vec<(usize, usize)> = Vec::with_capacity(n);
        let mut needs = Vec::with_capacity(n);
        for (unit, members) in units.iter().enumerate() {
            needs.clear();
            self.needs(members, &mut needs)?;
            for &(p, consumer) in &needs {
                let up = unit_of[rank(p)];
                if up != unit {
                    waits[unit] += 1;
                    wakes.push((up, unit));
                } else if crossing.contains(&(consumer, p)) {
                    // Within a group every operand must be the aligned result.
                    return Err(Obstacle::NotFused);
                }
            }
        }
        wakes.sort_unstable();
        let mut ready: BTreeSet<usize> = (0..units.len()).filter(|&u| waits[u] == 0).collect();
        let mut left = units.len();
        while let Some(unit) = ready.pop_first() {
            left -= 1;
            let first = wakes.partition_point(|w| w.0 < unit);
            for &(_, next) in wakes[first..].iter().take_while(|w| w.0 == unit) {
                waits[next] -= 1;
                if waits[next] == 0 {
                    ready.insert(next);
                }
            }
            let members = units[unit];
            match linked.nodes[members[0]].run.op {
                Opcode::Mul => self.multiply(members[0])?,
                Opcode::Transpose => self.transpose(members[0])?,
                _ => self.tape(members)?,
            }
        }
        if left > 0 {
            return Err(Obstacle::NotFused);
        }
        let steps = std::mem::take(&mut self.steps).into_iter().map(|(s, _)| s).collect();
        let mut steps = join(steps, self.b.row_bytes);
        follow(&mut steps, self.b.row_bytes);
        self.b.plan.note_products(&steps);
        Ok(ChainPlan {
            steps,
            ..ChainPlan::default()
        })
    }

    /// Adds the nodes whose results the members of a unit take, and who takes them.
    fn needs(&self, members: &[usize], needs: &mut Vec<(usize, usize)>) -> Building<()> {
        let linked = self.b.linked;
        for &id in members {
            let run = linked.nodes[id].run;
            for &(source, _) in self.sources(id).as_slice() {
                if let Source::Node(p, _) = source {
                    needs.push((p, id));
                }
            }
            if run.op != Opcode::Mul {
                continue;
            }
            if run.acc_in == lockstep_isa::run::AccIn::Row {
                needs.push((linked.accumulator(id, run.issues())?.0, id));
            }
            for block in &linked.nodes[id].claims.blocks {
                let load = linked.block_load(id, block.load)?;
                if self.is_static_load(load) {
                    continue;
                }
                for (source, _) in self.belt_sources(load)? {
                    if let Source::Node(p, _) = source {
                        needs.push((p, load));
                    }
                }
            }
        }
        Ok(())
    }

    /// Lets vector node `p` write the rows of write `w` itself where `w` takes exactly its results.
    fn choose_direct(&mut self, w: usize, p: usize, first: u32, width: usize) {
        let nodes = &self.b.linked.nodes;
        let (run, from) = (nodes[w].run, nodes[p].run);
        let produces = is_vector(from.op) && !(from.op == Opcode::Alu && from.alu == AluOp::Iota);
        let (write, producer) = (nodes[w].rank, nodes[p].rank);
        if run.op == Opcode::Write
            && produces
            && first == 0
            && from.results() == run.issues()
            && width == run.words as usize
            && !self.in_place.iter().any(|&(_, q)| q == w)
            && self.facts[producer].writes.is_none()
        {
            self.facts[write].direct = Some(p);
            self.facts[producer].writes = Some(w);
        }
    }

    fn transpose(&mut self, id: usize) -> Building<()> {
        let linked = self.b.linked;
        let run = linked.nodes[id].run;
        let Some(&(source, width)) = self.sources(id).as_slice().first() else {
            return Err(linked.error(id, "no operand").into());
        };
        if width != run.dtype.bytes() {
            return Err(linked.error(id, format!("operand of {width} bytes per lane")).into());
        }
        let a = self.rows_of(source)?;
        let out = self.reserve(run.results())?;
        self.facts[linked.nodes[id].rank].place = Some(out);
        self.b.plan.pointers = self.b.plan.pointers.max(run.issues().max(run.n_out as u32) as usize);
        let step = Transpose {
            a,
            rows: run.issues(),
            out,
            n: run.n_out as u32,
            lo: run.lo as u32,
            size: width as u32,
        };
        self.steps.push((Step::Transpose(step), id));
        Ok(())
    }

    /// Every run a step of its own, one event per issue in the order of the cycles.
    fn by_issue(&mut self) -> Building<ChainPlan> {
        self.record_uses()?;
        let linked = self.b.linked;
        let mut events: Vec<(u64, u8, usize, u32, u32)> = Vec::new();
        for (rank, &id) in self.ids.iter().enumerate() {
            let n = linked.nodes[id];
            let before = self.steps.len();
            match n.run.op {
                Opcode::LoadRow | Opcode::LoadCol => continue,
                Opcode::Read if linked.is_constant(id) => continue,
                Opcode::Mul => self.multiply(id)?,
                Opcode::Transpose => self.transpose(id)?,
                _ => self.tape(&[id])?,
            }
            for s in before..self.steps.len() {
                let (rows, last) = match &self.steps[s].0 {
                    Step::Pack(_) => (1, false),
                    Step::Transpose(t) => (t.n, true),
                    Step::Tape(t) => (t.rows, false),
                    Step::Multiply(m) => (m.rows, false),
                };
                let class = match n.run.op {
                    Opcode::Read | Opcode::Gather => 0,
                    Opcode::Write | Opcode::Scatter => 2,
                    _ => 1,
                };
                for row in 0..rows {
                    let issue = if last { n.run.issues() - 1 } else { row };
                    let cycle = n.cycle + n.run.offset(issue) as u64;
                    events.push((cycle, class, rank, s as u32, row));
                }
            }
        }
        events.sort_unstable();
        let steps = std::mem::take(&mut self.steps);
        let steps: Vec<Step> = steps.into_iter().map(|(s, _)| s).collect();
        self.b.plan.note_products(&steps);
        Ok(ChainPlan {
            steps,
            events: events.into_iter().map(|e| (e.3, e.4)).collect(),
            ..ChainPlan::default()
        })
    }
}
