//! Transfers: read, send, receive, write, one rigid group over two chips.

use super::group::{Arg, Belt, Group, Step, StepOp, Unit, bad};
use crate::CompileError;
use crate::chain::{Affine, Buf, BufId, ChainId, ChainProgram};
use lockstep_graph::EntityId;
use lockstep_isa::{DType, Dir, Place, Queue, Target};

/// Vectors `from_base..` of one buffer that go to `to_base..` of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transfer {
    /// Source.
    pub from: BufId,
    /// First vector of the source.
    pub from_base: u32,
    /// Destination.
    pub to: BufId,
    /// First vector of the destination.
    pub to_base: u32,
    /// Number of vectors.
    pub n_vectors: u32,
}

/// The words of a vector that hold live lanes: first and count.
pub(super) fn live_words(target: &Target, dtype: DType, lo: u16, hi: u16) -> (u32, u32) {
    let (lanes, size) = (target.lanes.max(1) as u32, dtype.bytes() as u32);
    let first = lo as u32 * size / lanes;
    let end = (hi as u32 * size).div_ceil(lanes).max(first + 1);
    (first, end - first)
}

/// The group of a transfer, once per direct link between the two chips.
pub(super) fn groups(
    program: &ChainProgram,
    target: &Target,
    homes: &[Place],
    chain: ChainId,
    t: &Transfer,
) -> Result<Vec<Group>, CompileError> {
    let (Some(from), Some(to)) = (program.bufs.get(t.from), program.bufs.get(t.to)) else {
        return Err(bad(chain, "transfers a buffer that does not exist"));
    };
    if from.dtype != to.dtype || (from.lo, from.hi) != (to.lo, to.hi) || t.n_vectors == 0 {
        return Err(bad(
            chain,
            format_args!(
                "transfers {} into {}, which differ in type, or nothing at all",
                t.from, t.to
            ),
        ));
    }
    let local = target.c2c.local_links;
    let links = target
        .topology
        .links_between(from.chip, to.chip, local, target.n_links(), program.n_chips);
    if links.is_empty() {
        return Err(bad(
            chain,
            format_args!("no link leads from chip {} to chip {}", from.chip, to.chip),
        ));
    }
    let (first, n_words) = live_words(target, from.dtype, from.lo, from.hi);
    let width = from.dtype.words() as u32;
    let period = target.c2c.cycles_per_word as u64;
    let mut out = Vec::with_capacity(links.len());
    for link in links {
        let Some(peer) = target.topology.peer(from.chip, link, local, program.n_chips) else {
            continue;
        };
        let source = Queue::Mem(homes[t.from.index()]);
        let sink = Queue::Mem(homes[t.to.index()]);
        let (send, recv) = (Queue::Send(link), Queue::Recv(peer.link));
        let at = |q: Queue| target.queue_position(q);
        let way_out = (at(source) - at(send)).unsigned_abs() as u64;
        let way_in = (at(recv) - at(sink)).unsigned_abs() as u64;
        let read = target.latency.read as u64;
        let sent = read + way_out;
        let received = sent + target.c2c.latency as u64;
        let dims = [n_words, t.n_vectors, 1];
        let words = |base: u32| Affine {
            base: base * width + first,
            strides: [1, width as i32, 0],
        };
        // Where a vector is one word, memory knows its live lanes.
        let live = |b: &Buf| {
            if b.dtype.words() == 1 {
                (b.lo, b.hi)
            } else {
                (0, target.lanes)
            }
        };
        let step = |chip, op, queue, args, offset, (dtype, (lo, hi)): (DType, (u16, u16)), belt| Step {
            chip,
            node: None,
            op,
            dtype,
            dims,
            lo,
            hi,
            args,
            unit: Unit::Fixed(queue),
            offset,
            period,
            belt,
        };
        let belt = |from: Queue, to: Queue, start: u64| {
            Dir::between(at(from), at(to)).map(|dir| Belt {
                dir,
                words: 1,
                from: at(from),
                to: at(to),
                start,
                period,
                count: n_words * t.n_vectors,
            })
        };
        let arg = |step| {
            vec![Arg::Step {
                step,
                first: 0,
                delay: 0,
                forward: false,
            }]
        };
        let word = (DType::U8, (0, target.lanes));
        out.push(Group {
            chain,
            steps: vec![
                step(
                    from.chip,
                    StepOp::Words {
                        write: false,
                        buf: t.from,
                        at: words(t.from_base),
                    },
                    source,
                    Vec::new(),
                    0,
                    (from.dtype, live(from)),
                    belt(source, send, read),
                ),
                step(from.chip, StepOp::Send, send, arg(0), sent, word, None),
                step(
                    to.chip,
                    StepOp::Recv,
                    recv,
                    arg(1),
                    received,
                    word,
                    belt(recv, sink, received),
                ),
                step(
                    to.chip,
                    StepOp::Words {
                        write: true,
                        buf: t.to,
                        at: words(t.to_base),
                    },
                    sink,
                    arg(2),
                    received + way_in,
                    (to.dtype, live(to)),
                    None,
                ),
            ],
        });
    }
    Ok(out)
}
