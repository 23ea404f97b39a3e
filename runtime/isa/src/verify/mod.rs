//! The verifier: proves an artifact from its instructions and claims, whoever wrote it.
//!
//! Rows, belts, tiles, accumulator rows, forwards and links are replayed symbolically from the instructions, and what
//! they hold is compared with the claims. It shares no code with the compiler; it reads the timing table and the
//! load-time checks of runs ([`crate::timing`], [`Run::check`]). No artifact makes it panic.
//!
//! # Invariants
//! - **A1 records**: tables agree in length; every run passes [`Run::check`] and has operands of the dtypes that its
//!   opcode takes; it claims as many operands, blocks, rows and values as it uses, and all of them exist.
//! - **A2 values**: every value lies within its bank, aligned to its words; constants have the bytes that they need;
//!   a next state equals the state it replaces in all but contents; constants and states have one address in all
//!   entries; rows of a weight tile go to `load.row` and `gather` alone.
//! - **A3 queues**: a run holds its queue alone from its first issue to its last plus occupancy; matrix units of several
//!   planes hold all of them, operations of four ALUs all four; issues are at least the occupancy apart. With one queue
//!   per bank this is also one access per bank and cycle, and with one queue per link end the link's period.
//! - **A4 load words**: the tile loads of a hemisphere take no more words per cycle than the target allows.
//! - **A5 operands**: each issue takes the claimed result of the claimed run, of the operand's dtype, from the operand's
//!   stream or ALU, in exactly the cycle in which it passes: result + distance downstream + delay.
//! - **A6 belt slots**: on its way from producer to taker no other result replaces it, and no two results are driven on
//!   one slot, or forwarded by one ALU, at the same position and cycle. A unit takes before one at its position drives.
//! - **A7 results**: every result on a belt or forwarded is taken at least once.
//! - **A8 live lanes**: ranges follow from operands and values as [`crate::run`] states; bare words keep their place in
//!   the vector and have all live bytes.
//! - **A9 addresses**: a memory run touches exactly the elements that it claims, in the value's own bank and rows and
//!   within the value; limit and row stride of gather and scatter are those claimed.
//! - **A10 rows**: in the order of cycles, every row read or gathered from holds the claimed value and is readable.
//! - **A11 chain order**: executing the chains whole, one after another, within a chain by cycle, every row read holds
//!   the claimed value too, and an earlier chain defined it.
//! - **A12 definitions**: a vector is defined at most once; constants, inputs and states are never written; a next state
//!   is written over the version it replaces, by scatters only until it is first read; rows of other entries'
//!   constants and states are left alone; values of outputs and the last version of each state are whole at the end.
//! - **A13 tiles**: the blocks that a product claims are those in its active tile; a block is complete, its latency over,
//!   before it is swapped in; blocks of a tile share no column, or have the same columns and share no row; every block
//!   loaded is multiplied by. A swap empties the shadow tile; a load that starts in the cycle of a swap goes to the new
//!   shadow tile.
//! - **A14 accumulators**: an accumulator row read holds the claimed result, after its latency; every result written to a
//!   row is read before the row is written again. A row of a unit of several planes takes all of them.
//! - **A15 links**: a recv claims a send on the far end of its link, exactly one link latency before; every word sent is
//!   received.
//! - **A16 chains**: every run's chain exists and names its chip; operands, tile blocks, accumulator rows and words sent
//!   come from the taker's own chain.
//! - **A17 host maps**: on every chip that has an input, each of its elements goes to one live lane of an input value,
//!   and no lane gets two; every element of an output comes from one live lane.
//! - **A18 SRAM**: rows of values, each counted once, and the text of all programs fit every chip.
//! - **A19 makespan**: the makespan stored is the latest end of a run by the timing table.

mod belts;
mod host;
mod lanes;
mod links;
mod matrix;
mod queues;
mod report;
mod rows;
mod structure;
mod values;
mod walk;

pub use report::{BusyCycles, EntrySummary, MAX_VIOLATIONS, VerifyErrors, VerifySummary, Violation};

use crate::artifact::{Artifact, Entry};
use crate::claim::{ChainId, Claims, RunId};
use crate::disasm::{disasm_run, queue_name};
use crate::run::Run;
use crate::target::Target;
use report::Sink;
use std::fmt;

macro_rules! invariants {
    ($($name:ident = $n:literal, $doc:literal;)*) => {
        /// An invariant of artifacts, numbered as in the documentation of this module.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Invariant {
            $(#[doc = $doc] $name = $n,)*
        }

        impl Invariant {
            /// All, in order.
            pub const ALL: &'static [Invariant] = &[$(Invariant::$name,)*];
        }
    };
}

invariants! {
    Records = 1, "Records are well formed.";
    Values = 2, "Values and constants are well formed.";
    Queues = 3, "One run per queue.";
    LoadWords = 4, "Words per cycle of tile loads.";
    Operands = 5, "Operands pass by when they are taken.";
    Slots = 6, "Belt slots carry what is claimed.";
    Taken = 7, "Every result is taken.";
    Lanes = 8, "Live lanes.";
    Addresses = 9, "Addresses are those of the claimed elements.";
    Rows = 10, "Rows hold what is claimed, in time.";
    ChainOrder = 11, "Rows hold what is claimed, in the order of chains.";
    Definitions = 12, "Values are defined once and outlive the program where they must.";
    Tiles = 13, "Tile blocks.";
    Accumulators = 14, "Accumulator rows.";
    Links = 15, "Sends and receives.";
    Chains = 16, "Nothing crosses a chain.";
    HostMaps = 17, "Host index maps.";
    Sram = 18, "Data and text fit.";
    Makespan = 19, "The makespan is as stored.";
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "A{}", *self as u8)
    }
}

/// Which invariants are checked. Tests switch one off to show that it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks(u32);

impl Checks {
    /// All invariants.
    pub const ALL: Checks = Checks(u32::MAX);

    /// All of these but one.
    pub const fn without(self, invariant: Invariant) -> Checks {
        Checks(self.0 & !(1 << invariant as u32))
    }

    /// Whether an invariant is checked.
    pub const fn has(self, invariant: Invariant) -> bool {
        self.0 >> invariant as u32 & 1 == 1
    }
}

/// Latest cycle at which a program may start.
const MAX_START: u64 = 1 << 40;

/// What is known of a run of a program, on whatever chip.
#[derive(Clone, Copy, Debug, Default)]
struct RunInfo {
    /// Whether it is well formed; the other fields are zero where it is not.
    ok: bool,
    issues: u32,
    /// Results on a belt or forwarded.
    visible: u32,
    /// Offset of the last issue from the first.
    last: u32,
    position: i32,
    latency: u32,
    occupancy: u32,
}

/// Bytes per chip.
struct Sums {
    data: Vec<u64>,
    text: Vec<u64>,
}

/// One chip in one entry.
struct ChipCx<'a> {
    t: &'a Target,
    art: &'a Artifact,
    entry: &'a Entry,
    values_ok: &'a [bool],
    /// Sound values on this chip.
    values: &'a [u32],
    chip: u16,
    start: u64,
    runs: &'a [Run],
    claims: &'a [Claims],
    info: &'a [RunInfo],
    /// Runs that take part in the replay.
    ok: Vec<bool>,
}

impl<'a> ChipCx<'a> {
    /// Runs that take part in the replay, with their ids.
    fn sound(&self) -> impl Iterator<Item = (u32, &'a Run)> + '_ {
        let runs = self.runs.iter().zip(&self.ok).enumerate();
        runs.filter(|(_, (_, ok))| **ok).map(|(i, (run, _))| (i as u32, run))
    }

    /// A run that takes part in the replay.
    fn sound_run(&self, id: RunId) -> Option<&'a Run> {
        let run = self.runs.get(id as usize)?;
        self.ok[id as usize].then_some(run)
    }

    /// First issue, from the start of the entry.
    fn first(&self, id: RunId) -> u64 {
        self.start + self.runs[id as usize].cycle as u64
    }

    fn chain(&self, id: RunId) -> ChainId {
        self.claims[id as usize].chain
    }

    /// Queue, cycle and instruction as disassembled; a run without the shape of its opcode has no operands to print.
    fn instruction(&self, run: &Run) -> String {
        let text = match run.check_shape() {
            Ok(()) => disasm_run(run),
            Err(_) => run.op.mnemonic().to_string(),
        };
        let queue = queue_name(self.t, self.chip, run.queue);
        format!("{queue} @{} {text}", run.cycle)
    }

    /// A violation at a run; `cycle` is that of the run's first issue where `None`.
    fn violation(&self, invariant: Invariant, id: RunId, cycle: Option<u64>, what: String) -> Violation {
        let run = &self.runs[id as usize];
        Violation {
            invariant,
            entry: self.entry.name.clone(),
            chip: Some(self.chip),
            queue: Some(run.queue),
            cycle: cycle.or(Some(self.start.saturating_add(run.cycle as u64))),
            run: Some(id),
            chain: self.claims.get(id as usize).map(|c| c.chain),
            instruction: self.instruction(run),
            what,
        }
    }
}

/// One entry on all chips.
struct EntryCx<'a> {
    t: &'a Target,
    chips: Vec<ChipCx<'a>>,
}

/// Checks all invariants of an artifact.
///
/// # Errors
/// All violations found, of which [`MAX_VIOLATIONS`] are kept.
pub fn verify(art: &Artifact) -> Result<VerifySummary, VerifyErrors> {
    verify_with(art, Checks::ALL)
}

/// Checks the chosen invariants of an artifact. Malformed records are kept out of the replay even where A1 is off.
///
/// # Errors
/// As for [`verify`].
pub fn verify_with(art: &Artifact, checks: Checks) -> Result<VerifySummary, VerifyErrors> {
    let mut sink = Sink::new(checks);
    if let Err(what) = structure::check_target(&art.target) {
        sink.global(Invariant::Records, "", None, what);
        return finish(sink, VerifySummary::default());
    }
    let info: Vec<Vec<RunInfo>> = art
        .programs
        .iter()
        .map(|p| {
            let runs = p.runs.iter();
            runs.map(|r| structure::check_run(&art.target, r).unwrap_or_default())
                .collect()
        })
        .collect();
    let values_ok: Vec<Vec<bool>> = art.entries.iter().map(|e| values::check(art, e, &mut sink)).collect();
    let protected = values::check_homes(art, &values_ok, &mut sink);
    let sums = values::check_sram(art, &values_ok, &mut sink);
    let mut summary = VerifySummary {
        entries: Vec::new(),
        data_bytes: sums.data,
        text_bytes: sums.text,
    };
    for (e, entry) in art.entries.iter().enumerate() {
        host::check(entry, &values_ok[e], &mut sink);
        let mut homes: Vec<Vec<u32>> = vec![Vec::new(); art.n_chips as usize];
        for (v, value) in entry.values.iter().enumerate() {
            if values_ok[e][v]
                && let Some(home) = homes.get_mut(value.chip as usize)
            {
                home.push(v as u32);
            }
        }
        let Some(cx) = context(art, entry, &values_ok[e], &homes, &info, &mut sink) else {
            continue;
        };
        let wanted = host::outlive(entry);
        let mut bank = rows::Bank::new(entry.values.len());
        for chip in &cx.chips {
            queues::check(chip, &mut sink);
            belts::check(chip, &mut sink);
            matrix::check(chip, &mut sink);
            rows::check(chip, &mut bank, &protected[e], &wanted, &mut sink);
            lanes::check(&cx, chip, &mut sink);
            lanes::check_tile_consts(chip, &mut sink);
            check_crossing(chip, &mut sink);
        }
        links::check(&cx, &mut sink);
        summary.entries.push(summarise(&cx, entry, &mut sink));
    }
    finish(sink, summary)
}

fn finish(sink: Sink, summary: VerifySummary) -> Result<VerifySummary, VerifyErrors> {
    if sink.total() == 0 {
        Ok(summary)
    } else {
        Err(sink.errors)
    }
}

/// Resolves the programs of an entry's chips; `None` where its tables do not agree.
fn context<'a>(
    art: &'a Artifact,
    entry: &'a Entry,
    values_ok: &'a [bool],
    homes: &'a [Vec<u32>],
    info: &'a [Vec<RunInfo>],
    sink: &mut Sink,
) -> Option<EntryCx<'a>> {
    let before = sink.total();
    let mut fail = |chip: Option<u16>, what: String| {
        sink.global(Invariant::Records, &entry.name, chip, what);
    };
    if entry.chips.len() != art.n_chips as usize {
        fail(None, format!("{} chips of {}", entry.chips.len(), art.n_chips));
        return None;
    }
    let mut chips = Vec::with_capacity(entry.chips.len());
    for (c, chip) in entry.chips.iter().enumerate() {
        let Some(program) = art.programs.get(chip.program as usize) else {
            let what = format!("program {} of {}", chip.program, art.programs.len());
            fail(Some(c as u16), what);
            return None;
        };
        let n = program.runs.len();
        if chip.claims.len() != n || chip.origins.len() != n || chip.start > MAX_START {
            let what = format!(
                "{n} runs from @{}, {} claims and {} origins",
                chip.start,
                chip.claims.len(),
                chip.origins.len()
            );
            fail(Some(c as u16), what);
            return None;
        }
        chips.push(ChipCx {
            t: &art.target,
            art,
            entry,
            values_ok,
            values: homes.get(c).map_or(&[], |h| h.as_slice()),
            chip: c as u16,
            start: chip.start,
            runs: &program.runs,
            claims: &chip.claims,
            info: &info[chip.program as usize],
            ok: Vec::new(),
        });
    }
    for (h, chain) in entry.chains.iter().enumerate() {
        if chain.chip >= art.n_chips || chain.to.is_some_and(|to| to >= art.n_chips) {
            let what = format!("chain h{h} names a chip beyond {}", art.n_chips);
            sink.global(Invariant::Chains, &entry.name, None, what);
        }
    }
    for chip in &mut chips {
        chip.ok = structure::check(chip, sink);
    }
    // Replaying around malformed records would only repeat what is known.
    (sink.total() == before).then_some(EntryCx { t: &art.target, chips })
}

/// A16: operands, blocks and accumulator rows come from the taker's own chain.
fn check_crossing(cx: &ChipCx<'_>, sink: &mut Sink) {
    for (i, run) in cx.sound() {
        let claims = &cx.claims[i as usize];
        let local = if run.op == crate::Opcode::Recv {
            &[]
        } else {
            claims.operands.as_slice()
        };
        let producers = local.iter().chain(&claims.acc).map(|p| p.run);
        let mut all = producers.chain(claims.blocks.iter().map(|b| b.load));
        let other = all.find(|&p| cx.sound_run(p).is_some() && cx.chain(p) != claims.chain);
        if let Some(p) = other {
            sink.report(Invariant::Chains, || {
                let what = format!("takes what r{p} of chain h{} made", cx.chain(p));
                cx.violation(Invariant::Chains, i, None, what)
            });
        }
    }
}

/// Adds up an entry and checks its makespan.
fn summarise(cx: &EntryCx<'_>, entry: &Entry, sink: &mut Sink) -> EntrySummary {
    let mut s = EntrySummary {
        name: entry.name.clone(),
        chains: entry.chains.len() as u64,
        ..EntrySummary::default()
    };
    for chip in &cx.chips {
        let mut busy = BusyCycles::default();
        for (i, run) in chip.sound() {
            let info = &chip.info[i as usize];
            s.runs += 1;
            s.events += info.issues as u64;
            let cost = structure::alu_cost(run) as u64;
            busy.add(run.op.unit(), info.issues as u64 * info.occupancy as u64 * cost);
            let end = chip.first(i) + cx.t.run_end(run) as u64;
            s.makespan = s.makespan.max(end);
        }
        s.busy.push(busy);
    }
    if s.makespan != entry.makespan {
        let what = format!(
            "makespan {} is stored, the last run ends @{}",
            entry.makespan, s.makespan
        );
        sink.global(Invariant::Makespan, &entry.name, None, what);
    }
    s
}
