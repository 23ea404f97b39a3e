//! Random runs for the tests: valid on a target, every optional field in use now and then.

use lockstep_isa::op::UnitKind;
use lockstep_isa::run::{AccIn, Addr, Src, Window};
use lockstep_isa::{AluOp, DType, Dim, Dir, Opcode, Operand, Place, Queue, Run, Stream, Target};

/// A small generator of random numbers: xorshift64*.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number in `0 .. n`; `n` is at least 1.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % n
    }

    pub fn flip(&mut self) -> bool {
        self.below(2) == 0
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

fn stream(rng: &mut Rng, words: u16, groups: u16) -> Stream {
    let last = (32 - words * groups) / words;
    Stream {
        dir: rng.pick(&Dir::BOTH),
        index: (rng.below(last as u64 + 1) as u16 * words) as u8,
    }
}

fn on_belt(rng: &mut Rng, dtype: DType) -> Operand {
    Operand {
        src: Src::Stream(stream(rng, dtype.words(), 1)),
        delay: 0,
        dtype,
    }
}

/// An address whose whole range lies in `0 .. size`.
fn address(rng: &mut Rng, dims: &[Dim; 3], size: u32, words: u16, extra: u32) -> Addr {
    let mut addr = Addr::default();
    let room = (size - extra - words as u32) as i64;
    let (mut low, mut high) = (0i64, 0i64);
    for (d, stride) in dims.iter().zip(&mut addr.strides) {
        if d.count > 1 {
            let most = (room / 3 / (d.count as i64 - 1)).min(400) / words as i64;
            let s = (rng.below(2 * most as u64 + 1) as i64 - most) * words as i64;
            *stride = s as i16;
            let reach = s * (d.count as i64 - 1);
            low += reach.min(0);
            high += reach.max(0);
        }
    }
    let free = (room - high + low) / words as i64;
    addr.base = (-low + rng.below(free as u64 + 1) as i64 * words as i64) as u16;
    addr
}

/// A random run of an opcode, valid on `t` (which has 32 streams each way and offers every rate).
pub fn run(rng: &mut Rng, op: Opcode, t: &Target) -> Run {
    let any = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::I32,
        DType::I8,
        DType::U8,
    ];
    let dtype = match op {
        Opcode::LoadRow | Opcode::LoadCol | Opcode::Mul => {
            rng.pick(&[DType::F32, DType::F16, DType::BF16, DType::I8])
        }
        Opcode::Send | Opcode::Recv => DType::U8,
        _ => rng.pick(&any),
    };
    let hemi = rng.pick(&Dir::BOTH);
    let planes = t.mxm_rate(dtype).map_or(1, |r| r.planes);
    let plane = rng.below((2 / planes) as u64) as u8 * planes;
    let queue = match op.unit() {
        UnitKind::Mem => Queue::Mem(Place {
            hemi,
            group: rng.below(t.groups as u64) as u8,
            bank: rng.below(2) as u8,
        }),
        UnitKind::MxmLoad => Queue::MxmLoad(hemi, plane),
        UnitKind::MxmMul => Queue::MxmMul(hemi, plane),
        UnitKind::Vxm => Queue::Alu(rng.below(4) as u8 * 4),
        UnitKind::Sxm => Queue::Sxm(hemi),
        UnitKind::C2cSend => Queue::Send(rng.below(2) as u8),
        UnitKind::C2cRecv => Queue::Recv(rng.below(2) as u8),
    };
    let mut r = Run::new(op, dtype, queue);
    r.cycle = rng.below(1 << 20) as u32;
    let mut span = 0;
    for d in &mut r.dims {
        if rng.flip() {
            d.count = 2 + rng.below(4) as u16;
            d.stride = span + 1 + rng.below(30) as u16;
            span += (d.count - 1) * d.stride;
        }
    }
    r.lo = rng.below(16) as u16;
    r.hi = r.lo + 1 + rng.below(16) as u16;
    let size = t.bank_words();
    match op {
        Opcode::Read | Opcode::Write => {
            r.words = if rng.flip() { 1 } else { dtype.words() as u8 };
            r.addr = address(rng, &r.dims, size, r.words as u16, 0);
            if op == Opcode::Read {
                r.out = Some(stream(rng, r.words as u16, 1));
            } else {
                r.a = on_belt(rng, dtype);
            }
        }
        Opcode::Gather | Opcode::Scatter => {
            r.limit = 1 + rng.below(20) as u32;
            r.row_stride = rng.below(8) as u16 * dtype.words();
            let extra = r.row_stride as u32 * (r.limit - 1);
            r.addr = address(rng, &r.dims, size, dtype.words(), extra);
            if op == Opcode::Gather {
                r.a = on_belt(rng, DType::I32);
                r.out = Some(stream(rng, dtype.words(), 1));
            } else {
                r.a = on_belt(rng, dtype);
                r.b = on_belt(rng, DType::I32);
            }
        }
        Opcode::LoadRow | Opcode::LoadCol => {
            let (n0, k0) = (rng.below(16) as u16, rng.below(16) as u16);
            r.window = Window {
                n0,
                n1: n0 + 1 + rng.below(16) as u16,
                k0,
                k1: k0 + 1 + rng.below(16) as u16,
            };
            r.belts = 1 + rng.below(4) as u8;
            r.a = on_belt(rng, dtype);
            r.a.src = Src::Stream(stream(rng, dtype.words(), r.belts as u16));
            let count = r.load_vectors().div_ceil(r.belts as u32) as u16;
            r.dims = [
                Dim {
                    count,
                    stride: (count > 1) as u16,
                },
                Dim::ONE,
                Dim::ONE,
            ];
        }
        Opcode::Mul => {
            r.a = on_belt(rng, dtype);
            r.swap = rng.flip();
            r.acc_in = rng.pick(&[AccIn::Zero, AccIn::Row, AccIn::Stream]);
            if r.acc_in == AccIn::Stream {
                r.b = on_belt(rng, DType::F32);
            }
            let rows = t.mxm.acc_rows as u32;
            if r.acc_in == AccIn::Row {
                r.addr = address(rng, &r.dims, rows, 1, 0);
            }
            if rng.flip() {
                r.out = Some(stream(rng, 4, 1));
            } else {
                r.addr2 = address(rng, &r.dims, rows, 1, 0);
            }
        }
        Opcode::Alu => {
            r.alu = rng.pick(AluOp::ALL);
            let arity = r.alu.arity();
            for o in [&mut r.a, &mut r.b, &mut r.c].into_iter().take(arity) {
                *o = on_belt(rng, rng_dtype(&any, span as usize));
                match rng.below(3) {
                    0 => o.src = Src::Alu(rng.below(16) as u8),
                    1 => o.src = Src::Imm(rng.below(3) as u8),
                    _ => {}
                }
                if !matches!(o.src, Src::Imm(_)) {
                    o.delay = rng.below(33) as u8;
                }
            }
            r.imm = [7, 0x3f80_0000, rng.below(1 << 32) as u32];
            if rng.flip() {
                r.out = Some(stream(rng, dtype.words(), 1));
            }
            r = r.normal();
        }
        Opcode::Fold => {
            r.a = on_belt(rng, dtype);
            r.alu = rng.pick(&[AluOp::Add, AluOp::Mul, AluOp::Min, AluOp::Max]);
            r.fold_dims = 1 + rng.below(3) as u8;
            r.emit_every = rng.flip();
            r.out = Some(stream(rng, dtype.words(), 1));
        }
        Opcode::Permute => {
            r.a = on_belt(rng, dtype);
            r.b = on_belt(rng, DType::U16);
            r.out = Some(stream(rng, dtype.words(), 1));
            r.imm[0] = rng.below(3) as u32;
        }
        Opcode::Transpose => {
            r.a = on_belt(rng, dtype);
            r.out = Some(stream(rng, dtype.words(), 1));
            r.n_out = r.hi - r.lo;
            r.dims[1] = Dim::ONE;
            r.dims[2] = Dim::ONE;
        }
        Opcode::Reduce => {
            r.a = on_belt(rng, dtype);
            r.out = Some(stream(rng, dtype.words(), 1));
            r.alu = rng.pick(&[AluOp::Add, AluOp::Mul, AluOp::Min, AluOp::Max]);
            r.segment = 1 + rng.below(8) as u16;
            (r.lo, r.hi) = (r.segment, 3 * r.segment);
        }
        Opcode::Send => r.a = on_belt(rng, DType::U8),
        Opcode::Recv => r.out = Some(stream(rng, 1, 1)),
    }
    r
}

fn rng_dtype(any: &[DType], i: usize) -> DType {
    any[i % any.len()]
}
