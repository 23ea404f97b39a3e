//! Derives live lanes and claims of hand-written runs by looking, for the first issue of every operand, which result
//! passes by: quadratic in the number of runs, for small programs only.

use crate::asm::{AsmError, AsmRun};
use lockstep_isa::artifact::Value;
use lockstep_isa::claim::{Block, Claims, Producer};
use lockstep_isa::run::{AccIn, Src};
use lockstep_isa::timing::result_offset;
use lockstep_isa::{DType, Dir, Opcode, Operand, Queue, Run, Target};

/// Dtype of the vectors that a run puts on a belt or forwards.
pub fn result_dtype(run: &Run) -> DType {
    match run.op {
        Opcode::Read if (run.words as u16) < run.dtype.words() => DType::U8,
        Opcode::Mul => run.dtype.widened(),
        Opcode::Recv => DType::U8,
        _ => run.dtype,
    }
}

/// Cuts a range by another.
fn meet(a: (u16, u16), b: (u16, u16)) -> (u16, u16) {
    (a.0.max(b.0), a.1.min(b.1))
}

/// Stream and ALU operands of a run in claim order; the belt groups of a tile load are operands of their own.
pub fn operands(run: &Run) -> Vec<Operand> {
    if matches!(run.op, Opcode::LoadRow | Opcode::LoadCol) {
        let groups = (run.belts as u32).min(run.load_vectors());
        let belts = (0..groups as u8).map(|g| {
            let mut o = run.a;
            if let Src::Stream(s) = &mut o.src {
                s.index = s.index.wrapping_add(g.wrapping_mul(run.a.dtype.words() as u8));
            }
            o
        });
        return belts.chain(run.is_scaled().then_some(run.b)).collect();
    }
    [run.a, run.b, run.c]
        .into_iter()
        .filter(|o| matches!(o.src, Src::Stream(_) | Src::Alu(_)))
        .collect()
}

/// Program-wide view: absolute start of each chip and index of each chip's first run.
struct Cx<'a> {
    t: &'a Target,
    starts: &'a [u64],
    first: Vec<usize>,
    n_chips: u16,
}

impl Cx<'_> {
    fn abs(&self, r: &AsmRun) -> i64 {
        (self.starts[r.chip as usize] + r.run.cycle as u64) as i64
    }

    /// The result that the operand of `of` meets in its first issue: index of the run and of the result.
    fn find(&self, runs: &[AsmRun], of: &AsmRun, o: &Operand) -> Option<(usize, u32)> {
        let when = self.abs(of) - o.delay as i64;
        let at = self.t.queue_position(of.run.queue);
        let mut best: Option<(i32, usize, u32)> = None;
        for (i, p) in runs.iter().enumerate() {
            if p.chip != of.chip {
                continue;
            }
            let distance = match o.src {
                Src::Alu(alu) if p.run.queue == Queue::Alu(alu) => 0,
                Src::Stream(s) if p.run.out == Some(s) => {
                    let d = (at - self.t.queue_position(p.run.queue)) * s.dir.sign();
                    if d <= 0 {
                        continue;
                    }
                    d
                }
                _ => continue,
            };
            if best.is_some_and(|(d, _, _)| d <= distance) {
                continue;
            }
            let base = self.abs(p);
            if let Some(n) =
                (0..p.run.results()).find(|&n| base + result_offset(self.t, &p.run, n) as i64 + distance as i64 == when)
            {
                best = Some((distance, i, n));
            }
        }
        best.map(|(_, i, n)| (i, n))
    }

    fn id(&self, runs: &[AsmRun], i: usize) -> u32 {
        (i - self.first[runs[i].chip as usize]) as u32
    }
}

/// Hemisphere and first plane of a matrix queue.
fn unit(q: Queue) -> Option<(Dir, u8)> {
    match q {
        Queue::MxmLoad(h, p) | Queue::MxmMul(h, p) => Some((h, p)),
        _ => None,
    }
}

/// Fills in live lanes and returns the claims, parallel to `runs`, which are sorted by chip.
pub(crate) fn derive(
    runs: &mut [AsmRun],
    starts: &[u64],
    values: &[Value],
    t: &Target,
    n_chips: u16,
) -> Result<Vec<Claims>, AsmError> {
    let first = (0..n_chips).map(|c| runs.partition_point(|r| r.chip < c)).collect();
    let cx = Cx {
        t,
        starts,
        first,
        n_chips,
    };
    let mut claims: Vec<Claims> = runs
        .iter()
        .map(|r| Claims {
            chain: r.chain,
            mem: r.mem,
            ..Claims::default()
        })
        .collect();
    // Producers come before consumers in time, so one pass in time order sees all lanes.
    let mut order: Vec<usize> = (0..runs.len()).collect();
    order.sort_by_key(|&i| (cx.abs(&runs[i]), i));
    let mut columns: Vec<Vec<(u16, u16)>> = vec![Vec::new(); runs.len()];
    for i in order {
        let (r, run) = (&runs[i], runs[i].run);
        let fail = |what: String| AsmError { line: r.line, what };
        let mut seen = Vec::new();
        for o in operands(&run) {
            let (p, n) = cx
                .find(runs, r, &o)
                .ok_or_else(|| fail(format!("no result passes by for operand {:?}", o.src)))?;
            let from = &runs[p].run;
            seen.push(match from.op {
                Opcode::Transpose => (0, from.issues() as u16),
                _ => (from.lo, from.hi),
            });
            claims[i].operands.push(Producer {
                run: cx.id(runs, p),
                first: n,
            });
        }
        let of = |k: usize| seen.get(k).copied().unwrap_or((0, t.lanes));
        let lanes = match run.op {
            Opcode::Read | Opcode::Write | Opcode::Gather | Opcode::Scatter => {
                match r.mem.and_then(|m| values.get(m.value as usize)) {
                    Some(v) if run.words == 0 || run.words as u16 == v.dtype.words() => (v.lo, v.hi),
                    _ => (0, t.lanes),
                }
            }
            Opcode::LoadRow => (run.window.n0, run.window.n1),
            Opcode::LoadCol => (run.window.k0, run.window.k1),
            Opcode::Alu => seen.iter().fold((0, t.lanes), |a, &b| meet(a, b)),
            Opcode::Fold | Opcode::Transpose | Opcode::Reduce => of(0),
            Opcode::Permute => of(1),
            Opcode::Send | Opcode::Recv => (0, t.lanes),
            Opcode::Mul => {
                let at = unit(run.queue);
                // The tile that is active: loads between the last two swaps of this unit.
                let mut swaps: Vec<i64> = runs
                    .iter()
                    .filter(|m| m.chip == r.chip && m.run.op == Opcode::Mul && m.run.swap)
                    .filter(|m| unit(m.run.queue) == at && cx.abs(m) <= cx.abs(r))
                    .map(|m| cx.abs(m))
                    .collect();
                swaps.sort_unstable();
                let till = swaps.pop().unwrap_or(i64::MIN);
                let from = swaps.pop().unwrap_or(i64::MIN);
                for (l, load) in runs.iter().enumerate() {
                    let is_load = matches!(load.run.op, Opcode::LoadRow | Opcode::LoadCol);
                    let c = cx.abs(load);
                    if is_load && load.chip == r.chip && unit(load.run.queue) == at && c >= from && c < till {
                        claims[i].blocks.push(Block {
                            load: cx.id(runs, l),
                            window: load.run.window,
                        });
                        columns[i].push((load.run.window.n0, load.run.window.n1));
                    }
                }
                claims[i].blocks.sort_by_key(|b| (b.window.n0, b.window.k0));
                if run.acc_in == AccIn::Stream {
                    let c = of(1);
                    columns[i].push(c);
                }
                if run.acc_in == AccIn::Row {
                    let mut last: Option<(i64, usize, u32)> = None;
                    for (m, w) in runs.iter().enumerate() {
                        let writes = w.run.op == Opcode::Mul && w.run.out.is_none();
                        if !writes || w.chip != r.chip || unit(w.run.queue) != at || m == i {
                            continue;
                        }
                        for n in 0..w.run.issues() {
                            let c = cx.abs(w) + w.run.offset(n) as i64;
                            if w.run.addr2.at(w.run.index(n)) == run.addr.base as i64
                                && c < cx.abs(r)
                                && last.is_none_or(|(b, _, _)| b < c)
                            {
                                last = Some((c, m, n));
                            }
                        }
                    }
                    let (_, m, n) = last.ok_or_else(|| fail("no product wrote this accumulator row".into()))?;
                    claims[i].acc = Some(Producer {
                        run: cx.id(runs, m),
                        first: n,
                    });
                    let more = columns[m].clone();
                    columns[i].extend(more);
                }
                let lo = columns[i].iter().map(|c| c.0).min().unwrap_or(0);
                (lo, columns[i].iter().map(|c| c.1).max().unwrap_or(lo))
            }
        };
        if let Queue::Recv(link) = run.queue {
            let peer = t
                .topology
                .peer(r.chip, link, t.c2c.local_links, cx.n_chips)
                .ok_or_else(|| fail(format!("link {link} leads nowhere")))?;
            let when = cx.abs(r) - t.c2c.latency as i64;
            let found = runs.iter().enumerate().find_map(|(s, p)| {
                if p.chip != peer.chip || p.run.queue != Queue::Send(peer.link) {
                    return None;
                }
                let n = (0..p.run.issues()).find(|&n| cx.abs(p) + p.run.offset(n) as i64 == when)?;
                Some((s, n))
            });
            let (s, n) = found.ok_or_else(|| fail("no send is received".into()))?;
            let id = cx.id(runs, s);
            claims[i].operands.push(Producer { run: id, first: n });
        }
        if !runs[i].lanes_given {
            (runs[i].run.lo, runs[i].run.hi) = lanes;
        }
    }
    Ok(claims)
}
