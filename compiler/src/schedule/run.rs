//! From a placed step to a run and its claims.

use super::group::{Arg, Step, StepOp, Unit, bad, opcode};
use crate::CompileError;
use crate::chain::{Acc, Affine, BufId, ChainId, NodeOp};
use lockstep_graph::EntityId;
use lockstep_isa::claim::{Block, Claims, MemClaim, Producer};
use lockstep_isa::run::{AccIn, Addr, Src};
use lockstep_isa::{AluOp, DType, Dim, Operand, Queue, Run, Stream};

/// Where the parts of a group ended up.
pub(super) struct Placed<'a> {
    /// The chain.
    pub chain: ChainId,
    /// Steps of the group.
    pub steps: &'a [Step],
    /// Cycle of the anchor.
    pub at: u64,
    /// ALU per step.
    pub alus: &'a [Option<u8>],
    /// First stream per step.
    pub streams: &'a [Option<u8>],
    /// Run id of the group's first step.
    pub first_run: u32,
    /// Run ids of the nodes of the chain placed before.
    pub node_runs: &'a [Option<u32>],
    /// Windows of the chain's load nodes, by node.
    pub windows: &'a dyn Fn(u32) -> Option<lockstep_isa::run::Window>,
    /// First accumulator row per mul node of the chain.
    pub acc_base: &'a dyn Fn(u32) -> u16,
}

/// Nested dimensions with an address step each, neighbours merged where one address step serves both.
struct Nest {
    dims: [Dim; 3],
    steps: [i64; 3],
    fold: u8,
}

fn nest(chain: ChainId, step: &Step, strides: [i32; 3], fold: u8) -> Result<Nest, CompileError> {
    let mut out: Vec<(u64, i64)> = Vec::with_capacity(3);
    let mut inner = 0usize;
    for (d, (&count, &stride)) in step.dims.iter().zip(&strides).enumerate() {
        let (count, stride) = (count as u64, stride as i64);
        if count == 1 {
            continue;
        }
        let inside = d < fold as usize;
        let same_side = inside || out.len() > inner;
        match out.last_mut() {
            Some((c, s)) if same_side && *s * *c as i64 == stride && *c * count <= u16::MAX as u64 => {
                *c *= count;
            }
            _ => out.push((count, stride)),
        }
        if inside {
            inner = out.len();
        }
    }
    if fold > 0 && inner == 0 {
        out.insert(0, (1, 0));
        inner = 1;
    }
    let mut result = Nest {
        dims: [Dim::ONE; 3],
        steps: [0; 3],
        fold: if fold > 0 { inner as u8 } else { 0 },
    };
    let mut cycles = step.period;
    for (d, &(count, stride)) in out.iter().enumerate().take(3) {
        let (Ok(count16), Ok(cycles16)) = (u16::try_from(count), u16::try_from(cycles)) else {
            return Err(bad(
                chain,
                format_args!(
                    "dimensions {:?} at {} cycles an issue exceed a run's 16-bit counts and strides",
                    step.dims, step.period
                ),
            ));
        };
        if count > 1 {
            result.dims[d] = Dim {
                count: count16,
                stride: cycles16,
            };
            result.steps[d] = stride;
        }
        cycles *= count;
    }
    Ok(result)
}

fn words(chain: ChainId, value: i64) -> Result<i16, CompileError> {
    i16::try_from(value).map_err(|_| bad(chain, format_args!("an address step of {value} words exceeds 16 bits")))
}

/// The run and claims of step `index`. Addresses are left relative to their buffer: see [`resolve`].
pub(super) fn make(p: &Placed<'_>, index: usize) -> Result<(Run, Claims), CompileError> {
    let step = &p.steps[index];
    let chain = p.chain;
    let queue = match (step.unit, p.alus[index]) {
        (Unit::Fixed(queue), _) => queue,
        (Unit::Alu(_), Some(alu)) => Queue::Alu(alu),
        (Unit::Alu(_), None) => return Err(bad(chain, "an ALU operation has no ALU")),
    };
    let mut run = Run::new(opcode(&step.op), step.dtype, queue);
    let mut claims = Claims {
        chain: chain.index() as u32,
        ..Claims::default()
    };
    run.cycle = u32::try_from(p.at + step.offset).map_err(|_| bad(chain, "the schedule exceeds 2^32 cycles"))?;
    (run.lo, run.hi) = (step.lo, step.hi);

    let mut mem: Option<(BufId, Affine, u32, u32)> = None;
    let mut fold = 0;
    match &step.op {
        StepOp::Node(op) => match op {
            NodeOp::Read(buf, at) | NodeOp::Write(buf, at) => {
                mem = Some((*buf, *at, 0, 0));
                run.words = step.dtype.words() as u8;
            }
            NodeOp::Gather {
                buf,
                at,
                row_stride,
                limit,
            }
            | NodeOp::Scatter {
                buf,
                at,
                row_stride,
                limit,
            } => {
                mem = Some((*buf, *at, *limit, *row_stride));
                run.limit = *limit;
                run.row_stride = u16::try_from(*row_stride as u64 * step.dtype.words() as u64).map_err(|_| {
                    bad(
                        chain,
                        format_args!("a row stride of {row_stride} vectors exceeds 16 bits"),
                    )
                })?;
            }
            NodeOp::Load { window, scaled, .. } => {
                run.window = *window;
                run.belts = (step.args.len() - usize::from(*scaled)) as u8;
            }
            NodeOp::Mul { swap, .. } => run.swap = *swap,
            NodeOp::Alu(op) => run.alu = *op,
            NodeOp::Fold { op, dims, every } => {
                (run.alu, run.emit_every) = (*op, *every);
                fold = *dims;
            }
            NodeOp::Permute { fill, .. } => run.imm[0] = *fill,
            NodeOp::Transpose { n_out, .. } => run.n_out = *n_out,
            NodeOp::Reduce { op, segment, .. } => (run.alu, run.segment) = (*op, *segment),
        },
        StepOp::Words { buf, at, .. } => {
            mem = Some((*buf, *at, 0, 0));
            run.words = 1;
        }
        StepOp::Send | StepOp::Recv => {}
    }
    let strides = mem.map_or([0; 3], |(_, at, _, _)| at.strides);
    let nest = nest(chain, step, strides, fold)?;
    run.dims = nest.dims;
    run.fold_dims = nest.fold;
    if let Some((buf, at, limit, row_stride)) = mem {
        let width = if run.words == 1 { 1 } else { step.dtype.words() as i64 };
        for d in 0..3 {
            run.addr.strides[d] = words(chain, nest.steps[d] * width)?;
        }
        claims.mem = Some(MemClaim {
            value: buf.index() as u32,
            base: at.base,
            strides: nest.steps.map(|s| s as i32),
            limit,
            row_stride,
        });
    }

    operands(p, index, &mut run, &mut claims)?;
    if let Some(belt) = step.belt {
        let Some(index) = p.streams[index] else {
            return Err(bad(chain, "a result has no stream"));
        };
        run.out = Some(Stream { dir: belt.dir, index });
    }
    if let StepOp::Node(NodeOp::Mul {
        loads, acc, to_rows, ..
    }) = &step.op
    {
        let node = step.node.unwrap_or(0);
        let rows = Addr {
            base: (p.acc_base)(node),
            strides: row_steps(&run),
        };
        if let Acc::Rows(before) = acc {
            run.acc_in = AccIn::Row;
            run.addr = rows;
            let producer = p.node_runs.get(*before as usize).copied().flatten();
            let producer = producer.ok_or_else(|| bad(chain, format_args!("mul {node} accumulates on a later mul")))?;
            claims.acc = Some(Producer {
                run: producer,
                first: 0,
            });
        }
        if *to_rows {
            run.addr2 = rows;
        }
        for &load in loads {
            let placed = p.node_runs.get(load as usize).copied().flatten();
            let (Some(load_run), Some(window)) = (placed, (p.windows)(load)) else {
                return Err(bad(
                    chain,
                    format_args!("mul {node} uses tile load {load}, which is not placed before it"),
                ));
            };
            claims.blocks.push(Block { load: load_run, window });
        }
        claims.blocks.sort_by_key(|b| (b.window.n0, b.window.k0));
    }
    Ok((run, claims))
}

/// Accumulator rows step by one with every issue.
fn row_steps(run: &Run) -> [i16; 3] {
    let mut out = [0i16; 3];
    let mut rows = 1i64;
    for (d, dim) in run.dims.iter().enumerate() {
        if dim.count > 1 {
            out[d] = rows.min(i16::MAX as i64) as i16;
        }
        rows *= dim.count as i64;
    }
    out
}

fn operands(p: &Placed<'_>, index: usize, run: &mut Run, claims: &mut Claims) -> Result<(), CompileError> {
    let step = &p.steps[index];
    if step.args.len() > 3 && !matches!(step.op, StepOp::Node(NodeOp::Load { .. })) {
        return Err(bad(
            p.chain,
            format_args!("node {:?} has {} operands", step.node, step.args.len()),
        ));
    }
    let iota = matches!(step.op, StepOp::Node(NodeOp::Alu(AluOp::Iota)));
    let scaled = matches!(step.op, StepOp::Node(NodeOp::Load { scaled: true, .. }));
    let mut taken = [Operand::default(); 3];
    for (a, arg) in step.args.iter().enumerate() {
        match *arg {
            Arg::Imm(bits) => {
                if a < 3 {
                    run.imm[a] = bits;
                }
                if !iota && a < 3 {
                    taken[a] = Operand {
                        src: Src::Imm(a as u8),
                        delay: 0,
                        dtype: immediate_dtype(p, step, a),
                    };
                }
            }
            Arg::Step {
                step: u,
                first,
                delay,
                forward,
            } => {
                let producer = &p.steps[u];
                claims.operands.push(Producer {
                    run: p.first_run + u as u32,
                    first,
                });
                // A link has no operand of its own on the receiving side.
                let scales = scaled && a + 1 == step.args.len();
                if matches!(step.op, StepOp::Recv) || a >= 3 && !scales {
                    continue;
                }
                let dtype = match step.op {
                    StepOp::Send => DType::U8,
                    StepOp::Words { .. } => DType::U8,
                    _ => producer.result_dtype(),
                };
                let src = if forward {
                    p.alus[u].map(Src::Alu)
                } else {
                    producer
                        .belt
                        .zip(p.streams[u])
                        .map(|(belt, index)| Src::Stream(Stream { dir: belt.dir, index }))
                };
                let Some(src) = src else {
                    return Err(bad(p.chain, "an operand has no belt"));
                };
                if scales {
                    run.b = Operand { src, delay, dtype };
                } else {
                    taken[a] = Operand { src, delay, dtype };
                }
            }
        }
    }
    run.a = taken[0];
    if !matches!(step.op, StepOp::Node(NodeOp::Load { .. })) {
        run.b = taken[1];
        run.c = taken[2];
    }
    Ok(())
}

/// Dtype of an immediate: that of the operands it is combined with.
fn immediate_dtype(p: &Placed<'_>, step: &Step, index: usize) -> DType {
    let StepOp::Node(NodeOp::Alu(op)) = step.op else {
        return step.dtype.widened();
    };
    let compare = matches!(
        op,
        AluOp::Eq | AluOp::Ne | AluOp::Lt | AluOp::Le | AluOp::Gt | AluOp::Ge
    );
    match op {
        AluOp::Select if index == 0 => DType::I32,
        _ if compare => step
            .args
            .iter()
            .find_map(|arg| match arg {
                Arg::Step { step, .. } => Some(p.steps[*step].result_dtype().widened()),
                Arg::Imm(_) => None,
            })
            .unwrap_or(DType::F32),
        _ => step.dtype.widened(),
    }
}

/// Makes the address of a memory run absolute: `base` is the word address of its buffer.
pub(super) fn resolve(chain: ChainId, run: &mut Run, claims: &Claims, base: u16) -> Result<(), CompileError> {
    let Some(mem) = claims.mem else { return Ok(()) };
    let width = if run.words == 1 { 1 } else { run.dtype.words() as u64 };
    run.addr.base =
        u16::try_from(base as u64 + mem.base as u64 * width).map_err(|_| bad(chain, "an address exceeds 16 bits"))?;
    Ok(())
}
