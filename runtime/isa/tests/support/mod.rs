//! Random runs for the tests: valid on a target, every optional field in use now and then.

#![allow(clippy::unwrap_used, dead_code)]

use lockstep_isa::artifact::*;
use lockstep_isa::claim::{Block, Claims, MemClaim, Producer};
use lockstep_isa::op::UnitKind;
use lockstep_isa::run::{AccIn, Addr, Src, Window};
use lockstep_isa::{AluOp, DType, Dim, Dir, Opcode, Operand, Place, Queue, Run, Stream, Target};
use std::sync::Arc;

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
    let any = [DType::F32, DType::F16, DType::BF16, DType::I32, DType::I8, DType::U8];
    let dtype = match op {
        Opcode::LoadRow | Opcode::LoadCol | Opcode::Mul => rng.pick(&[DType::F32, DType::F16, DType::BF16, DType::I8]),
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
            let scaled = op == Opcode::LoadRow && dtype == DType::F32 && rng.flip();
            let (n0, k0) = (rng.below(16) as u16, rng.below(16) as u16);
            r.window = Window {
                n0,
                n1: n0 + 1 + rng.below(16) as u16,
                k0,
                k1: k0 + 1 + rng.below(16) as u16,
            };
            r.belts = 1 + rng.below(4) as u8;
            r.a = on_belt(rng, dtype);
            if scaled {
                r.a.dtype = rng.pick(&[DType::I4, DType::I8]);
                r.b = on_belt(rng, DType::F16);
            }
            r.a.src = Src::Stream(stream(rng, r.a.dtype.words(), r.belts as u16));
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

/// A small artifact on `toy` that has every kind of record: two chips, two entries, all opcodes, constants in both
/// forms, a state, a transfer. It passes `check`; its programs mean nothing.
pub fn artifact(seed: u64) -> Artifact {
    let rng = &mut Rng::new(seed);
    let target = Target::builtin("toy").unwrap().unwrap();
    let mut programs = Vec::new();
    for _ in 0..2 {
        let mut runs: Vec<Run> = (0..2)
            .flat_map(|_| Opcode::ALL.iter())
            .map(|&op| run(rng, op, &target))
            .collect();
        runs.sort_by_key(|r| (r.queue, r.cycle));
        runs.dedup_by_key(|r| (r.queue, r.cycle));
        programs.push(Program { runs: runs.into() });
    }
    let mut weights = WeightsBuilder::new();
    let rows = weights.push_rows(&[1; 3 * 32 * 4]);
    let tile = weights.push_tile(8, 0, 32, DType::F32, |k, out| out.fill(k as u8));
    let tile_rows = weights.push_tile_rows(tile, 1, 2);
    let (consts, tiles, bytes) = weights.finish();
    let entries = ["a", "b"].map(|name| entry(rng, name, &programs, &target, rows, tile_rows));
    let weights_range = (0, bytes.len() as u64);
    Artifact {
        name: "sample".into(),
        target,
        n_chips: 2,
        programs,
        entries: entries.into(),
        states: vec![State {
            name: "kv".into(),
            from: "kv_out".into(),
        }],
        consts,
        tiles,
        weights: Arc::new(bytes),
        weights_range,
        report: "{\"bound\":12}".into(),
        tokenizer: "{\"stop\":[2]}".into(),
    }
}

fn entry(rng: &mut Rng, name: &str, programs: &[Program], t: &Target, rows: u32, tile_rows: u32) -> Entry {
    let mut values = Vec::new();
    for chip in 0..2u16 {
        for place in t.places() {
            values.push(Value {
                chip,
                place,
                base: 16,
                n_vectors: 3,
                dtype: DType::F32,
                lo: 0,
                hi: 32,
                kind: match place.dense(t.groups, t.banks) {
                    0 => ValueKind::Const(rows),
                    1 => ValueKind::Const(tile_rows),
                    2 => ValueKind::State(0),
                    3 => ValueKind::Computed,
                    _ => ValueKind::Input,
                },
            });
        }
    }
    let next = Value {
        kind: ValueKind::NextState(2),
        ..values[2].clone()
    };
    values.push(next);
    let chips = programs.iter().enumerate().map(|(chip, p)| {
        let claims = p.runs.iter().map(|r| Claims {
            chain: chip as u32,
            operands: (0..r.n_producers())
                .map(|i| Producer {
                    run: rng.below(4) as u32,
                    first: i as u32,
                })
                .collect(),
            blocks: if r.op == Opcode::Mul {
                vec![Block {
                    load: 1,
                    window: Window {
                        n0: 0,
                        n1: 8,
                        k0: 2,
                        k1: 9,
                    },
                }]
            } else {
                Vec::new()
            },
            acc: (r.acc_in == AccIn::Row).then_some(Producer { run: 2, first: 9 }),
            mem: match r.queue {
                Queue::Mem(place) => Some(MemClaim {
                    value: (chip * t.n_places() + place.dense(t.groups, t.banks)) as u32,
                    base: 1,
                    strides: [0; 3],
                    limit: 2,
                    row_stride: 1,
                }),
                _ => None,
            },
        });
        ChipProgram {
            program: chip as u32,
            start: 7 * chip as u64,
            claims: claims.collect(),
            origins: p.runs.iter().map(|_| rng.below(2) as u32).collect(),
        }
    });
    let chips = chips.collect();
    let tensor = |name: &str, value| HostTensor {
        name: name.into(),
        dtype: HostDType::F32,
        shape: vec![2, 16],
        fill: 0,
        nests: vec![HostNest {
            value,
            element: 15,
            vector: 0,
            lane: 3,
            dims: vec![
                HostDim {
                    count: 2,
                    element: 16,
                    vector: 1,
                    lane: 0,
                },
                HostDim {
                    count: 16,
                    element: -1,
                    vector: 0,
                    lane: 1,
                },
            ],
        }],
    };
    Entry {
        name: name.into(),
        values,
        chips,
        chains: vec![
            ChainInfo {
                chip: 0,
                to: None,
                origin: 0,
            },
            ChainInfo {
                chip: 0,
                to: Some(1),
                origin: 1,
            },
        ],
        origins: vec![
            OriginInfo {
                op: "contract v3".into(),
                nodes: vec!["MatMul_1".into(), "Add_2".into()],
            },
            OriginInfo {
                op: "transfer v4".into(),
                nodes: Vec::new(),
            },
        ],
        inputs: vec![tensor("x", 5)],
        outputs: vec![tensor("y", 3), tensor("kv_out", 2)],
        makespan: 1 << 22,
    }
}
