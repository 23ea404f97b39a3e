//! Run to bytes: 32 bytes, or 64 where a run needs the extension.
//!
//! The record types are little-endian and of their own; docs/ARTIFACT.md lists every byte. Fields that an opcode does
//! not use are zero. [`crate::decode`] accepts exactly the bytes that this module writes.

use crate::check::RunError;
use crate::id::Stream;
use crate::op::Opcode;
use crate::run::{AccIn, Addr, Operand, Queue, Run, Src};
use zerocopy::little_endian::{I16, U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a run without extension, and of the extension.
pub const RECORD_BYTES: usize = 32;

/// Flag in the opcode byte: the extension follows.
pub(crate) const EXTENDED: u8 = 0x80;

/// The first 32 bytes of a run.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Record {
    /// Opcode, plus [`EXTENDED`].
    pub op: u8,
    pub dtype: u8,
    /// Unit within its kind: see [`queue_bytes`].
    pub queue: [u8; 2],
    pub cycle: U32,
    pub lo: U16,
    pub hi: U16,
    /// Dimension 0: steps after the first, and cycles per step.
    pub steps0: U16,
    pub stride0: U16,
    /// Dimension 1.
    pub steps1: U16,
    pub stride1: U16,
    /// Operand a.
    pub a: [u8; 3],
    /// Result stream ([`out_byte`]); belts of a tile load.
    pub out: u8,
    /// Address (base, two strides), window, operands b and c, n_out or segment; then two bytes of flags.
    pub tail: [u8; 8],
}

/// The second 32 bytes.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Extension {
    /// Dimension 2.
    pub steps2: U16,
    pub stride2: U16,
    /// Third stride of the address in the first 32 bytes.
    pub addr_stride2: I16,
    pub row_stride: U16,
    pub limit: U32,
    /// Immediates; of a mul or scatter, operand b in the first three bytes.
    pub imm: [U32; 3],
    /// Second address.
    pub addr2: U16,
    pub addr2_strides: [I16; 3],
}

/// Kinds of operand sources as encoded.
pub(crate) const SRC_NONE: u8 = 0;
pub(crate) const SRC_STREAM: u8 = 1;
pub(crate) const SRC_ALU: u8 = 2;
pub(crate) const SRC_IMM: u8 = 3;

fn stream_byte(s: Stream) -> u8 {
    (s.dir as u8) << 7 | (s.index & 0x7f)
}

/// 0 for none, else 1 + direction * 64 + stream.
fn out_byte(out: Option<Stream>) -> u8 {
    out.map_or(0, |s| 1 + ((s.dir as u8) << 6 | (s.index & 0x3f)))
}

/// Kind and dtype, index, delay.
fn operand_bytes(o: Operand) -> [u8; 3] {
    let (kind, index) = match o.src {
        Src::None => (SRC_NONE, 0),
        Src::Stream(s) => (SRC_STREAM, stream_byte(s)),
        Src::Alu(i) => (SRC_ALU, i),
        Src::Imm(i) => (SRC_IMM, i),
    };
    [kind | (o.dtype as u8) << 4, index, o.delay]
}

fn queue_bytes(queue: Queue) -> [u8; 2] {
    match queue {
        Queue::Mem(p) => [(p.hemi as u8) << 7 | (p.group & 0x7f), p.bank],
        Queue::MxmLoad(hemi, plane) | Queue::MxmMul(hemi, plane) => [hemi as u8, plane],
        Queue::Alu(i) => [i, 0],
        Queue::Sxm(hemi) => [hemi as u8, 0],
        Queue::Send(link) | Queue::Recv(link) => [link, 0],
    }
}

/// Which of a mul's addresses the first 32 bytes hold: the accumulator row read, or else the one written.
pub(crate) fn mul_holds_addr2(run: &Run) -> bool {
    run.op == Opcode::Mul && run.acc_in != AccIn::Row
}

/// Both halves of the encoded run; the opcode byte says whether the second counts.
pub(crate) fn records(run: &Run) -> (Record, Extension) {
    let mut r = Record {
        op: run.op as u8,
        dtype: run.dtype as u8,
        queue: queue_bytes(run.queue),
        cycle: run.cycle.into(),
        lo: run.lo.into(),
        hi: run.hi.into(),
        steps0: run.dims[0].count.wrapping_sub(1).into(),
        stride0: run.dims[0].stride.into(),
        steps1: run.dims[1].count.wrapping_sub(1).into(),
        stride1: run.dims[1].stride.into(),
        a: operand_bytes(run.a),
        out: out_byte(run.out),
        tail: [0; 8],
    };
    let mut x = Extension {
        steps2: run.dims[2].count.wrapping_sub(1).into(),
        stride2: run.dims[2].stride.into(),
        row_stride: run.row_stride.into(),
        limit: run.limit.into(),
        imm: run.imm.map(U32::new),
        ..Extension::default()
    };
    let put_addr = |r: &mut Record, x: &mut Extension, addr: Addr| {
        r.tail[0..2].copy_from_slice(&addr.base.to_le_bytes());
        r.tail[2..4].copy_from_slice(&addr.strides[0].to_le_bytes());
        r.tail[4..6].copy_from_slice(&addr.strides[1].to_le_bytes());
        x.addr_stride2 = addr.strides[2].into();
    };
    let b_word = |o: Operand| {
        let [kind, index, delay] = operand_bytes(o);
        U32::from_bytes([kind, index, delay, 0])
    };
    match run.op {
        Opcode::Read | Opcode::Write => {
            put_addr(&mut r, &mut x, run.addr);
            r.tail[6] = run.words;
        }
        Opcode::Gather => put_addr(&mut r, &mut x, run.addr),
        Opcode::Scatter => {
            put_addr(&mut r, &mut x, run.addr);
            x.imm[0] = b_word(run.b);
        }
        Opcode::LoadRow | Opcode::LoadCol => {
            r.out = run.belts;
            if run.is_scaled() {
                x.imm[0] = b_word(run.b);
            }
            let w = run.window;
            for (i, v) in [w.n0, w.n1, w.k0, w.k1].into_iter().enumerate() {
                r.tail[2 * i..2 * i + 2].copy_from_slice(&v.to_le_bytes());
            }
        }
        Opcode::Mul => {
            if mul_holds_addr2(run) {
                put_addr(&mut r, &mut x, run.addr2);
            } else {
                put_addr(&mut r, &mut x, run.addr);
                x.addr2 = run.addr2.base.into();
                x.addr2_strides = run.addr2.strides.map(I16::new);
            }
            let acc = match run.acc_in {
                AccIn::Zero => 0,
                AccIn::Row => 1,
                AccIn::Stream => {
                    x.imm[0] = b_word(run.b);
                    2
                }
            };
            r.tail[6] = acc | (run.swap as u8) << 2;
        }
        Opcode::Alu => {
            r.tail[0..3].copy_from_slice(&operand_bytes(run.b));
            r.tail[3..6].copy_from_slice(&operand_bytes(run.c));
            r.tail[6] = run.alu as u8;
        }
        Opcode::Fold => {
            r.tail[6] = run.alu as u8;
            r.tail[7] = run.fold_dims | (run.emit_every as u8) << 2;
        }
        Opcode::Permute => r.tail[0..3].copy_from_slice(&operand_bytes(run.b)),
        Opcode::Transpose => r.tail[0..2].copy_from_slice(&run.n_out.to_le_bytes()),
        Opcode::Reduce => {
            r.tail[0..2].copy_from_slice(&run.segment.to_le_bytes());
            r.tail[6] = run.alu as u8;
        }
        Opcode::Send | Opcode::Recv => {}
    }
    if x.as_bytes() != [0; RECORD_BYTES] {
        r.op |= EXTENDED;
    }
    (r, x)
}

impl Run {
    /// Bytes of the encoded run, which is also what it takes of SRAM as instruction text: 32 or 64.
    pub fn encoded_len(&self) -> usize {
        let (r, _) = records(self);
        if r.op & EXTENDED == 0 {
            RECORD_BYTES
        } else {
            2 * RECORD_BYTES
        }
    }
}

/// Appends the encoded run.
///
/// # Errors
/// A run whose shape is not what its opcode demands: see [`Run::check_shape`].
pub fn encode_run(run: &Run, out: &mut Vec<u8>) -> Result<(), RunError> {
    run.check_shape()?;
    encode_unchecked(run, out);
    Ok(())
}

/// Appends the encoded run, whose shape is known to be right.
pub(crate) fn encode_unchecked(run: &Run, out: &mut Vec<u8>) {
    let (r, x) = records(run);
    out.extend_from_slice(r.as_bytes());
    if r.op & EXTENDED != 0 {
        out.extend_from_slice(x.as_bytes());
    }
}
