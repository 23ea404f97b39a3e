//! Bytes to run. The bytes are hostile: every enumeration is checked, and what the opcode does not use must be zero.

use crate::check::RunError;
use crate::encode::{
    EXTENDED, Extension, RECORD_BYTES, Record, SRC_ALU, SRC_IMM, SRC_NONE, SRC_STREAM, mul_holds_addr2, records,
};
use crate::id::{DType, Dir, Place, Stream};
use crate::op::{AluOp, Opcode, UnitKind};
use crate::run::{AccIn, Addr, Dim, Operand, Queue, Run, Src, Window};
use zerocopy::{FromBytes, IntoBytes};

/// Why bytes are no run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The text ends within a run.
    #[error("instruction text ends within a run: found {found} bytes, needed are {needed}")]
    Truncated {
        /// Bytes left.
        found: usize,
        /// Bytes of the run.
        needed: usize,
    },
    /// An opcode, dtype or other enumeration with no such value.
    #[error("{what}: found {found}, which is none")]
    Unknown {
        /// What the byte encodes.
        what: &'static str,
        /// The byte.
        found: u8,
    },
    /// A byte that the opcode does not use is not zero, or an extension is there that is not needed.
    #[error("byte {at} of {op}: found {found:#04x}, allowed is {allowed:#04x}")]
    NotCanonical {
        /// Byte within the run.
        at: usize,
        /// Mnemonic.
        op: &'static str,
        /// The byte.
        found: u8,
        /// What encode writes there.
        allowed: u8,
    },
    /// The run's shape is wrong.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// Decodes the run at the start of `bytes` and returns it with the bytes it takes, 32 or 64.
///
/// # Errors
/// Any byte that [`crate::encode::encode_run`] would not have written.
pub fn decode_run(bytes: &[u8]) -> Result<(Run, usize), DecodeError> {
    let truncated = |needed| DecodeError::Truncated {
        found: bytes.len(),
        needed,
    };
    let (r, rest) = Record::read_from_prefix(bytes).map_err(|_| truncated(RECORD_BYTES))?;
    let (x, len) = if r.op & EXTENDED == 0 {
        (Extension::default(), RECORD_BYTES)
    } else {
        let (x, _) = Extension::read_from_prefix(rest).map_err(|_| truncated(2 * RECORD_BYTES))?;
        (x, 2 * RECORD_BYTES)
    };
    let run = convert(&r, &x)?;
    run.check_shape()?;
    let (r2, x2) = records(&run);
    let (first, second) = bytes[..len].split_at(RECORD_BYTES);
    if r2.as_bytes() == first && (second.is_empty() || x2.as_bytes() == second) {
        return Ok((run, len));
    }
    let again = r2.as_bytes().iter().chain(x2.as_bytes());
    if let Some((at, (&allowed, &found))) = again.zip(&bytes[..len]).enumerate().find(|(_, (a, b))| a != b) {
        let op = run.op.mnemonic();
        return Err(DecodeError::NotCanonical { at, op, found, allowed });
    }
    Ok((run, len))
}

fn unknown<T>(what: &'static str, found: u8) -> Result<T, DecodeError> {
    Err(DecodeError::Unknown { what, found })
}

fn dtype(byte: u8) -> Result<DType, DecodeError> {
    DType::from_u8(byte).map_or_else(|| unknown("dtype", byte), Ok)
}

fn dir(byte: u8) -> Result<Dir, DecodeError> {
    match byte {
        0 => Ok(Dir::East),
        1 => Ok(Dir::West),
        _ => unknown("hemisphere", byte),
    }
}

fn queue(op: Opcode, [unit, sub]: [u8; 2]) -> Result<Queue, DecodeError> {
    Ok(match op.unit() {
        UnitKind::Mem => Queue::Mem(Place {
            hemi: dir(unit >> 7)?,
            group: unit & 0x7f,
            bank: sub,
        }),
        UnitKind::MxmLoad => Queue::MxmLoad(dir(unit)?, sub),
        UnitKind::MxmMul => Queue::MxmMul(dir(unit)?, sub),
        UnitKind::Vxm => Queue::Alu(unit),
        UnitKind::Sxm => Queue::Sxm(dir(unit)?),
        UnitKind::C2cSend => Queue::Send(unit),
        UnitKind::C2cRecv => Queue::Recv(unit),
    })
}

fn operand(bytes: [u8; 3]) -> Result<Operand, DecodeError> {
    let [head, index, delay] = bytes;
    let src = match head & 0x0f {
        SRC_NONE => Src::None,
        SRC_STREAM => Src::Stream(Stream {
            dir: dir(index >> 7)?,
            index: index & 0x7f,
        }),
        SRC_ALU => Src::Alu(index),
        SRC_IMM => Src::Imm(index),
        other => return unknown("operand kind", other),
    };
    Ok(Operand {
        src,
        delay,
        dtype: dtype(head >> 4)?,
    })
}

fn out(byte: u8) -> Result<Option<Stream>, DecodeError> {
    match byte {
        0 => Ok(None),
        1..=128 => Ok(Some(Stream {
            dir: dir((byte - 1) >> 6)?,
            index: (byte - 1) & 0x3f,
        })),
        _ => unknown("result stream", byte),
    }
}

fn dim(steps: u16, stride: u16) -> Result<Dim, DecodeError> {
    match steps.checked_add(1) {
        Some(count) => Ok(Dim { count, stride }),
        None => unknown("steps of a dimension, low byte", 0xff),
    }
}

fn convert(r: &Record, x: &Extension) -> Result<Run, DecodeError> {
    let code = r.op & !EXTENDED;
    let Some(op) = Opcode::from_u8(code) else {
        return unknown("opcode", code);
    };
    let mut run = Run::new(op, dtype(r.dtype)?, queue(op, r.queue)?);
    run.cycle = r.cycle.get();
    (run.lo, run.hi) = (r.lo.get(), r.hi.get());
    run.dims = [
        dim(r.steps0.get(), r.stride0.get())?,
        dim(r.steps1.get(), r.stride1.get())?,
        dim(x.steps2.get(), x.stride2.get())?,
    ];
    let t = &r.tail;
    let half = |i: usize| u16::from_le_bytes([t[i], t[i + 1]]);
    let addr = Addr {
        base: half(0),
        strides: [half(2) as i16, half(4) as i16, x.addr_stride2.get()],
    };
    let b_word = || {
        let b = x.imm[0].as_bytes();
        operand([b[0], b[1], b[2]])
    };
    let alu = |byte: u8| AluOp::from_u8(byte).map_or_else(|| unknown("operation", byte), Ok);
    match op {
        Opcode::Read => (run.out, run.addr, run.words) = (out(r.out)?, addr, t[6]),
        Opcode::Write => (run.a, run.addr, run.words) = (operand(r.a)?, addr, t[6]),
        Opcode::Gather | Opcode::Scatter => {
            (run.a, run.addr) = (operand(r.a)?, addr);
            (run.row_stride, run.limit) = (x.row_stride.get(), x.limit.get());
            if op == Opcode::Gather {
                run.out = out(r.out)?;
            } else {
                run.b = b_word()?;
            }
        }
        Opcode::LoadRow | Opcode::LoadCol => {
            (run.a, run.belts) = (operand(r.a)?, r.out);
            if x.imm[0].get() != 0 {
                run.b = b_word()?;
            }
            run.window = Window {
                n0: half(0),
                n1: half(2),
                k0: half(4),
                k1: half(6),
            };
        }
        Opcode::Mul => {
            (run.a, run.out) = (operand(r.a)?, out(r.out)?);
            run.acc_in = match t[6] & 3 {
                0 => AccIn::Zero,
                1 => AccIn::Row,
                2 => AccIn::Stream,
                other => return unknown("accumulator source", other),
            };
            run.swap = t[6] & 4 != 0;
            if run.acc_in == AccIn::Stream {
                run.b = b_word()?;
            }
            if mul_holds_addr2(&run) {
                run.addr2 = addr;
            } else {
                run.addr = addr;
                run.addr2 = Addr {
                    base: x.addr2.get(),
                    strides: x.addr2_strides.map(|s| s.get()),
                };
            }
        }
        Opcode::Alu => {
            (run.out, run.alu) = (out(r.out)?, alu(t[6])?);
            run.a = operand(r.a)?;
            run.b = operand([t[0], t[1], t[2]])?;
            run.c = operand([t[3], t[4], t[5]])?;
            run.imm = x.imm.map(|v| v.get());
        }
        Opcode::Fold => {
            (run.a, run.out, run.alu) = (operand(r.a)?, out(r.out)?, alu(t[6])?);
            (run.fold_dims, run.emit_every) = (t[7] & 3, t[7] & 4 != 0);
        }
        Opcode::Permute => {
            (run.a, run.out) = (operand(r.a)?, out(r.out)?);
            run.b = operand([t[0], t[1], t[2]])?;
            run.imm[0] = x.imm[0].get();
        }
        Opcode::Transpose => {
            (run.a, run.out, run.n_out) = (operand(r.a)?, out(r.out)?, half(0));
        }
        Opcode::Reduce => {
            (run.a, run.out, run.segment) = (operand(r.a)?, out(r.out)?, half(0));
            run.alu = alu(t[6])?;
        }
        Opcode::Send => run.a = operand(r.a)?,
        Opcode::Recv => run.out = out(r.out)?,
    }
    Ok(run)
}
