//! Layout and chains: a partitioned [`TensorIr`] becomes a [`ChainProgram`].
//!
//! Operations are taken in order. Each value that must exist in SRAM gets a `Home`: a [`Layout`] and its buffers. Moves get
//! none at first: their users read through them in place where lanes agree, and only otherwise is the move carried out
//! (`moves.rs`). Constants are made in whatever layout a user wants. A contract or reduce takes the maps that follow it
//! into its own chains as epilogue (`kernel.rs`).

mod apart;
mod columns;
mod contract;
mod epilogue;
mod expand;
mod fit;
mod gather;
mod kernel;
mod loaded;
mod moves;
mod orient;
mod plan;
mod ports;
mod prepare;
mod reduce;
mod scaled;
mod scatter;
mod share;
mod source;
mod taps;
mod tiles;
mod transpose;
mod windows;

use super::contents::Constant;
use super::{Affine, Buf, BufId, BufKind, Chain, ChainKind, ChainProgram, Node, NodeArg};
use crate::error::{CompileError, CompileErrorKind};
use crate::layout::choose::Rows;
use crate::layout::{Layout, Part};
use crate::tir::{Op, TensorIr, ValueId, consteval};
use lockstep_graph::{EntityId, SideTable};
use lockstep_isa::artifact::OriginInfo;
use lockstep_isa::{DType, Dir, Target};
use moves::Kernel;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

/// What the builder works on.
pub struct Input<'a> {
    /// The partitioned program.
    pub ir: &'a TensorIr,
    /// Chip of each operation.
    pub chip: &'a SideTable<ValueId, u16>,
    /// Chips in use.
    pub n_chips: u16,
    /// Further `input` operations on other chips: (index of the port, operation).
    pub input_copies: &'a [(usize, ValueId)],
    /// The target.
    pub target: &'a Target,
}

/// Where a value lies.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    pub layout: Layout,
    pub parts: Vec<Part>,
    /// Per part; `None` for empty ones.
    pub bufs: Vec<Option<BufId>>,
}

impl Home {
    /// Buffer, vector and lane of an element.
    pub fn at(&self, c: &[usize]) -> Result<(BufId, u32, u16), CompileError> {
        let l = self.layout.locate(c);
        match self.bufs.get(l.part).copied().flatten() {
            Some(buf) => Ok((buf, l.index, l.lane)),
            None => Err(CompileError::internal(
                "chains",
                format!("no buffer holds element {c:?} of {:?}", self.layout),
            )),
        }
    }

    /// The same, and how many of the elements from this one on along the last axis, at most `most`, lie one lane after the other.
    pub fn run_at(&self, c: &[usize], most: usize) -> Result<(BufId, u32, u16, usize), CompileError> {
        self.run_along(c, c.len().saturating_sub(1), most)
    }

    /// The same along any axis.
    pub fn run_along(&self, c: &[usize], axis: usize, most: usize) -> Result<(BufId, u32, u16, usize), CompileError> {
        let (buf, index, lane) = self.at(c)?;
        let n = match self.layout.lane_run(lane as usize, usize::MAX) {
            (along, n) if along == axis => n.min(most),
            _ => 1,
        };
        Ok((buf, index, lane, n))
    }
}

pub(crate) struct Builder<'a> {
    pub ir: &'a Arc<TensorIr>,
    pub target: &'a Target,
    chip: &'a SideTable<ValueId, u16>,
    input_copies: &'a [(usize, ValueId)],
    pub prog: ChainProgram,
    is_const: Vec<bool>,
    /// Moves that are carried out although no user needs it.
    forced: Vec<bool>,
    users: Vec<Vec<ValueId>>,
    done: Vec<bool>,
    homes: Vec<Option<Rc<Home>>>,
    /// Layouts chosen ahead, for values that convolutions compute and what works on them.
    planned: Vec<Option<Layout>>,
    /// Layouts that products of activations want of the products with weights before them.
    wanted: Vec<Option<Layout>>,
    /// Buffers that hold each vector of a value at the same time, for values that one chain reads several times.
    copies: Vec<usize>,
    /// Further buffers with the contents of a buffer.
    twins: BTreeMap<BufId, Vec<BufId>>,
    /// Where the vectors of shifted values lie.
    shifted: BTreeMap<ValueId, Rc<taps::Table>>,
    /// Values that a contract loads as tiles: kept whole, since it needs all of them before it starts.
    loaded: Vec<bool>,
    other_homes: BTreeMap<(ValueId, Layout), Rc<Home>>,
    side_homes: BTreeMap<(ValueId, Dir, Layout), Rc<Home>>,
    /// States that are updated in place, and the homes of what the updates make.
    updates: Vec<scatter::Update>,
    next_homes: scatter::NextHomes,
    const_homes: BTreeMap<(ValueId, u16, Option<Dir>, Layout), Rc<Home>>,
    constants: BTreeMap<ValueId, Arc<Constant>>,
    vectors: BTreeMap<VectorKey, BufId>,
    tiles: BTreeMap<tiles::TileKey, tiles::TileBufs>,
    /// Weights that are integers times scales.
    scaled: BTreeMap<ValueId, scaled::Scaled>,
    origin_ids: BTreeMap<OriginKey, u32>,
    origin: u32,
    states: &'a mut StateLayouts,
    /// How weight tiles are stored and loaded.
    loads: tiles::Loads,
    /// Where chains touch buffers.
    places: loaded::Places,
    /// About how long the matrix units of either hemisphere are busy, east first, per chip.
    work: BTreeMap<u16, [u64; 2]>,
}

/// Layouts of states by name and chip. The entry that reads a state first chooses, the others follow.
pub(crate) type StateLayouts = BTreeMap<(String, u16), Layout>;

type OriginKey = (String, Vec<String>);

/// A constant vector: what is read beside it, chip, hemisphere, dtype, bytes.
type VectorKey = (Option<BufId>, u16, Option<Dir>, DType, Vec<u8>);

/// Most instructions, about, of the entries of a program: at 1 KiB of host memory each they are what a compile can hold.
pub const MOST_NODES: usize = 2 << 20;

/// Builds the chains of a partitioned program.
///
/// # Errors
/// Operations that no chain can carry out, a program of more than [`MOST_NODES`], and bugs.
pub fn build(input: &Input<'_>) -> Result<ChainProgram, CompileError> {
    build_beside(input, &mut StateLayouts::new(), loads(input), MOST_NODES)
}

/// How weight tiles are loaded: the same in all entries, which share the tiles.
fn loads(input: &Input<'_>) -> tiles::Loads {
    let consts = consteval::const_values(input.ir);
    tiles::Loads::of(input.ir, &|v| consts.contains(v), input.target, input.n_chips)
}

/// Builds the chains of several entries over shared constants and states. A state has one layout in all of them, and
/// one index in their lists of states; constants of equal bytes are behind one reference.
///
/// # Errors
/// As [`build`]; what needs more than `most` instructions does not fit.
pub fn build_entries(inputs: &[Input<'_>], most: usize) -> Result<Vec<ChainProgram>, CompileError> {
    let mut states = StateLayouts::new();
    // A state that one entry updates in place lies as the updates need it in all of them.
    for input in inputs {
        for update in scatter::updates(input.ir, input.chip, input.target, &states) {
            states.insert(update.key, update.state_layout);
        }
    }
    let loads = inputs.first().map(loads).unwrap_or_default();
    let (mut programs, mut left) = (Vec::new(), most);
    for input in inputs {
        let program = build_beside(input, &mut states, loads, left)?;
        left -= program.n_nodes().min(left);
        programs.push(program);
    }
    if programs.len() > 1 {
        share::share(&mut programs)?;
    }
    Ok(programs)
}

fn build_beside(
    input: &Input<'_>,
    states: &mut StateLayouts,
    loads: tiles::Loads,
    most: usize,
) -> Result<ChainProgram, CompileError> {
    let consts = consteval::const_values(input.ir);
    let expanded = expand::expand(input.ir, input.chip, input.target, states, &|v| consts.contains(v));
    let consts = consteval::const_values(&expanded.ir);
    let split = prepare::split(
        &expanded.ir,
        &expanded.chip,
        input.n_chips,
        &|v| consts.contains(v),
        input.target,
    );
    let ir = &Arc::new(split.ir);
    let consts = consteval::const_values(ir);
    let input_copies: Vec<(usize, ValueId)> = input
        .input_copies
        .iter()
        .map(|&(port, v)| (port, split.renamed[expanded.renamed[v.index()].index()]))
        .collect();
    let n = ir.values.len();
    let mut users = vec![Vec::new(); n];
    let mut loaded = vec![false; n];
    for (v, data) in ir.values.iter() {
        for &i in &data.inputs {
            users[i.index()].push(v);
        }
        if let (Op::Contract { .. }, Some(rhs)) = (&data.op, data.inputs.get(1)) {
            loaded[rhs.index()] = true;
        }
    }
    // What a move re-arranges for a tile load is loaded too.
    for (v, data) in ir.values.iter().rev() {
        if loaded[v.index()] && matches!(data.op, Op::Move { .. }) {
            data.inputs.iter().for_each(|i| loaded[i.index()] = true);
        }
    }
    let mut b = Builder {
        ir,
        target: input.target,
        chip: &split.chip,
        input_copies: &input_copies,
        forced: split.forced.clone(),
        prog: ChainProgram {
            name: ir.name.clone(),
            n_chips: input.n_chips,
            ..ChainProgram::default()
        },
        is_const: ir.values.ids().map(|v| consts.contains(v)).collect(),
        users,
        done: vec![false; n],
        homes: vec![None; n],
        planned: vec![None; n],
        wanted: vec![None; n],
        copies: vec![1; n],
        twins: BTreeMap::new(),
        shifted: BTreeMap::new(),
        loaded,
        other_homes: BTreeMap::new(),
        side_homes: BTreeMap::new(),
        updates: scatter::updates(ir, &split.chip, input.target, states),
        next_homes: BTreeMap::new(),
        const_homes: BTreeMap::new(),
        constants: BTreeMap::new(),
        vectors: BTreeMap::new(),
        tiles: BTreeMap::new(),
        work: BTreeMap::new(),
        scaled: scaled::find(ir, &|v| consts.contains(v)),
        origin_ids: BTreeMap::new(),
        origin: 0,
        states,
        loads,
        places: loaded::Places::default(),
    };
    b.plan()?;
    b.run(most)?;
    Ok(b.prog)
}

impl Builder<'_> {
    fn run(&mut self, most: usize) -> Result<(), CompileError> {
        self.place_updates()?;
        let (mut n_nodes, mut counted) = (0, 0);
        for v in self.ir.values.ids() {
            if self.is_const[v.index()] || self.done[v.index()] {
                continue;
            }
            self.set_origin(v);
            match &self.ir.values[v].op {
                Op::Move { .. } if self.forced[v.index()] => self.carry_out(v)?,
                Op::Input | Op::State(_) | Op::Const(_) | Op::Move { .. } => {}
                Op::Map { .. } => self.lower_maps(v)?,
                Op::Reduce { .. } => self.lower_reduce(v)?,
                Op::Contract { .. } => self.lower_contract(v)?,
                Op::Gather => self.lower_gather(v)?,
                Op::Transfer => self.lower_transfer(v)?,
                Op::Scatter { .. } => self.lower_scatter(v)?,
                Op::Sort { .. } => {
                    return Err(CompileError::internal("chains", format!("{v} sorts")));
                }
            }
            self.done[v.index()] = true;
            n_nodes += self
                .prog
                .chains
                .values()
                .skip(counted)
                .map(Chain::n_nodes)
                .sum::<usize>();
            counted = self.prog.chains.len();
            if n_nodes > most {
                return Err(self.sprawls(v, n_nodes, most));
            }
        }
        self.lower_ports()
    }

    /// The error of a program that takes more instructions than it may before it is whole.
    fn sprawls(&self, v: ValueId, n_nodes: usize, most: usize) -> CompileError {
        let total = self.ir.values.len();
        CompileError {
            kind: CompileErrorKind::DoesNotFit {
                summary: format!(
                    "{n_nodes} instructions for the first {} of {total} operations, at most {most} are allowed; use another number of chips or smaller dimensions",
                    v.index() + 1
                ),
                report: format!(
                    "instructions   {n_nodes} for {} of {total} operations\nallowed        {most}",
                    v.index() + 1
                ),
            },
            at: None,
        }
    }

    /// The chip on which an operation runs.
    pub fn chip(&self, v: ValueId) -> u16 {
        self.chip[v]
    }

    pub fn shape(&self, v: ValueId) -> &[usize] {
        &self.ir.values[v].ty.shape
    }

    pub fn dtype(&self, v: ValueId) -> DType {
        self.ir.values[v].ty.dtype
    }

    pub fn is_const(&self, v: ValueId) -> bool {
        self.is_const[v.index()]
    }

    /// Lanes of the chip.
    pub fn lanes(&self) -> usize {
        self.target.lanes as usize
    }

    /// How the rows of a value are spread over buffers.
    pub fn rows(&self, v: ValueId) -> Rows {
        let words = self.dtype(v).words() as usize;
        let bank = self.target.bank_words() as usize / words;
        let most = (bank / 4).max(1).min(self.target.mxm.acc_rows as usize);
        if self.loaded[v.index()] {
            Rows::whole(most)
        } else {
            Rows::pipelined(16, most)
        }
    }

    fn set_origin(&mut self, v: ValueId) {
        let data = &self.ir.values[v];
        let nodes: Vec<String> = data
            .origins
            .iter()
            .map(|&o| &self.ir.origins[o])
            .map(|o| {
                if o.node_name.is_empty() {
                    o.op_type.clone()
                } else {
                    o.node_name.clone()
                }
            })
            .filter(|s| !s.is_empty())
            .collect();
        let key = (format!("{} {v}", data.op.name()), nodes);
        let next = self.prog.origins.len() as u32;
        let id = *self.origin_ids.entry(key.clone()).or_insert(next);
        if id == next {
            self.prog.origins.push(OriginInfo {
                op: key.0,
                nodes: key.1,
            });
        }
        self.origin = id;
    }

    /// Appends a chain, after copies of what it would read twice at a time.
    pub fn add_chain(&mut self, chip: u16, nodes: Vec<Node>) {
        let nodes = self.keep_apart(chip, nodes);
        self.push_chain(chip, nodes);
    }

    fn push_chain(&mut self, chip: u16, nodes: Vec<Node>) {
        let origin = self.origin;
        self.prog.chains.push(Chain {
            kind: ChainKind::Compute { chip, nodes },
            origin,
        });
    }

    /// New buffers for a layout.
    pub fn new_home(&mut self, chip: u16, dtype: DType, layout: Layout, kind: impl Fn(usize) -> BufKind) -> Rc<Home> {
        let parts: Vec<Part> = (0..layout.n_parts()).map(|p| layout.part(p)).collect();
        let bufs = parts
            .iter()
            .enumerate()
            .map(|(p, part)| {
                (part.n_vectors() > 0).then(|| {
                    self.prog.bufs.push(Buf {
                        chip,
                        dtype,
                        n_vectors: part.n_vectors() as u32,
                        lo: 0,
                        hi: part.hi as u16,
                        kind: kind(p),
                        side: part.side,
                    })
                })
            })
            .collect();
        Rc::new(Home { layout, parts, bufs })
    }

    /// New buffers for a result that chains compute, as many copies as its users read at a time.
    pub fn result_home(&mut self, v: ValueId, layout: &Layout) -> Rc<Home> {
        let home = self.new_home(self.chip(v), self.dtype(v), layout.clone(), |_| BufKind::Temp);
        for buf in home.bufs.iter().flatten() {
            self.add_twins(*buf, self.copies[v.index()]);
        }
        home
    }

    /// Makes `n` buffers of one: what is written into it goes into all.
    pub fn add_twins(&mut self, buf: BufId, n: usize) {
        let twins = (1..n)
            .map(|_| self.prog.bufs.push(self.prog.bufs[buf].clone()))
            .collect();
        self.twins.insert(buf, twins);
    }

    /// The `n`-th twin of a buffer, again from the first behind the last; for 0, and where there is none, the buffer itself.
    pub fn twin_of(&self, buf: BufId, n: usize) -> BufId {
        match self.twins.get(&buf) {
            Some(twins) if n > 0 && !twins.is_empty() => twins[(n - 1) % twins.len()],
            _ => buf,
        }
    }

    /// Writes into a buffer and all its twins.
    pub fn write_all(&self, kernel: &mut Kernel, arg: NodeArg, buf: BufId, at: Affine, dtype: DType, hi: u16) {
        kernel.write(arg, buf, at, dtype, hi);
        for &twin in self.twins.get(&buf).into_iter().flatten() {
            kernel.write(arg, twin, at, dtype, hi);
        }
    }

    /// A constant value, to pick contents from.
    pub fn constant(&mut self, v: ValueId) -> Arc<Constant> {
        let new = || Arc::new(Constant::new(self.ir.clone(), v));
        self.constants.entry(v).or_insert_with(new).clone()
    }

    /// A constant vector (or `u16` lane map), stored once per chip, side and buffer that is read beside it: one for all would
    /// have no bank of its own beside each of them.
    pub fn const_vector(
        &mut self,
        beside: Option<BufId>,
        chip: u16,
        side: Option<Dir>,
        dtype: DType,
        bytes: Vec<u8>,
    ) -> BufId {
        let hi = (bytes.len() / dtype.bytes()) as u16;
        let key = (beside, chip, side, dtype, bytes.clone());
        if let Some(&buf) = self.vectors.get(&key) {
            return buf;
        }
        let kind = BufKind::Rows(bytes.into());
        let buf = self.prog.bufs.push(Buf {
            chip,
            dtype,
            n_vectors: 1,
            lo: 0,
            hi,
            kind,
            side,
        });
        self.vectors.insert(key, buf);
        buf
    }
}
