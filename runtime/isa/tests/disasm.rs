//! Disassembly: what it looks like, and that different runs never print alike.

#![allow(clippy::unwrap_used)]

mod support;

use lockstep_isa::decode::decode_run;
use lockstep_isa::disasm::{disasm_run, disassemble, lines, queue_name};
use lockstep_isa::encode::encode_run;
use lockstep_isa::run::{AccIn, Addr, Src, Window};
use lockstep_isa::{AluOp, DType, Dim, Dir, Opcode, Operand, Place, Queue, Run, Stream, Target};
use std::collections::BTreeMap;
use support::Rng;

fn toy() -> Target {
    Target::builtin("toy").unwrap().unwrap()
}

fn st(index: u8, dir: Dir) -> Stream {
    Stream { dir, index }
}

fn on(s: Stream) -> Operand {
    Operand {
        src: Src::Stream(s),
        ..Operand::default()
    }
}

#[test]
fn looks() {
    let place = Place {
        hemi: Dir::East,
        group: 3,
        bank: 1,
    };
    let new = |op, dtype, queue| Run {
        hi: 32,
        ..Run::new(op, dtype, queue)
    };
    let mut read = new(Opcode::Read, DType::F32, Queue::Mem(place));
    (read.words, read.out) = (4, Some(st(4, Dir::East)));
    read.addr.base = 0x40;
    assert_eq!(disasm_run(&read), "read 0x0040 -> st4.e f32 lanes=0:32");
    read.dims = [Dim { count: 16, stride: 1 }, Dim::ONE, Dim { count: 2, stride: 40 }];
    read.addr.strides = [4, 0, -64];
    read.words = 1;
    let text = "read 0x0040[4/0/-64] -> st4.e f32 x16:1*1:0*2:40 lanes=0:32 word";
    assert_eq!(disasm_run(&read), text);

    let mut mul = new(Opcode::Mul, DType::BF16, Queue::MxmMul(Dir::West, 0));
    mul.a = Operand {
        dtype: DType::BF16,
        ..on(st(2, Dir::West))
    };
    mul.swap = true;
    mul.addr2 = Addr {
        base: 7,
        strides: [1, 0, 0],
    };
    mul.dims[0] = Dim { count: 8, stride: 2 };
    let text = "mul st2.w, zero -> acc[7;1] bf16 x8:2 lanes=0:32 swap";
    assert_eq!(disasm_run(&mul), text);
    mul.acc_in = AccIn::Row;
    (mul.addr, mul.addr2, mul.out) = (mul.addr2, Addr::default(), Some(st(0, Dir::East)));
    let text = "mul st2.w, acc[7;1] -> st0.e bf16 x8:2 lanes=0:32 swap";
    assert_eq!(disasm_run(&mul), text);

    let mut alu = new(Opcode::Alu, DType::F32, Queue::Alu(3));
    alu.alu = AluOp::Fma;
    alu.a = Operand {
        delay: 5,
        dtype: DType::F16,
        ..on(st(6, Dir::West))
    };
    alu.b = Operand {
        src: Src::Imm(0),
        ..Operand::default()
    };
    alu.c = Operand {
        src: Src::Alu(2),
        ..Operand::default()
    };
    alu.imm[0] = 0.5f32.to_bits();
    assert_eq!(disasm_run(&alu), "alu.fma st6.w+5:f16, 0.5, a2 f32 lanes=0:32");
    alu.b.src = Src::Imm(1);
    assert_eq!(disasm_run(&alu), "alu.fma st6.w+5:f16, imm1=0.0, a2 f32 lanes=0:32");

    let mut load = new(Opcode::LoadCol, DType::I8, Queue::MxmLoad(Dir::East, 1));
    (load.a, load.belts) = (
        Operand {
            dtype: DType::I8,
            ..on(st(8, Dir::East))
        },
        2,
    );
    load.window = Window {
        n0: 0,
        n1: 16,
        k0: 4,
        k1: 20,
    };
    let text = "load.col st8.e i8 lanes=0:32 belts=2 cols=0:16 rows=4:20";
    assert_eq!(disasm_run(&load), text);

    let names = [
        Queue::Mem(Place {
            hemi: Dir::West,
            ..place
        }),
        load.queue,
        mul.queue,
        alu.queue,
        Queue::Sxm(Dir::West),
        Queue::Recv(1),
    ];
    let names: Vec<String> = names.iter().map(|q| queue_name(&toy(), 2, *q)).collect();
    assert_eq!(
        names,
        ["c2.mem7.b1", "c2.mxm1", "c2.mxm2", "c2.vxm3", "c2.sxm1", "c2.c2c1"]
    );
}

#[test]
fn different_runs_print_differently() {
    let t = toy();
    let mut seen: BTreeMap<String, Run> = BTreeMap::new();
    let mut add = |run: Run| {
        let text = format!("{} @{} {}", queue_name(&t, 0, run.queue), run.cycle, disasm_run(&run));
        if let Some(old) = seen.insert(text.clone(), run) {
            assert_eq!(old, run, "{text}");
        }
    };
    for &op in Opcode::ALL {
        for seed in 0..8 {
            let run = support::run(&mut Rng::new(seed * 77 + op as u64), op, &t);
            add(run);
            let mut bytes = Vec::new();
            encode_run(&run, &mut bytes).unwrap();
            bytes.resize(64, 0);
            for at in 0..run.encoded_len() {
                for bit in 0..8 {
                    let mut b = bytes.clone();
                    b[at] ^= 1 << bit;
                    if let Ok((other, _)) = decode_run(&b)
                        && other.check(&t).is_ok()
                    {
                        add(other);
                    }
                }
            }
        }
    }
    assert!(seen.len() > 5000, "{}", seen.len());
}

#[test]
fn an_entry_is_a_header_and_its_runs_in_order() {
    let a = support::artifact(2);
    let mut text = String::new();
    disassemble(&a, 1, &mut text).unwrap();
    let first = text.lines().next().unwrap();
    assert_eq!(first, "sched v1 @sample entry=\"b\" chips=2 makespan=4194304");
    let n: usize = a.programs.iter().map(|p| p.runs.len()).sum();
    assert_eq!((text.lines().count(), lines(&a, 1).count()), (n + 1, n));
    assert_eq!(lines(&a, 9).count(), 0);
    let last = lines(&a, 1).last().unwrap();
    assert!(
        text.lines()
            .last()
            .unwrap()
            .contains(&format!("@{} ", last.run.cycle + 7))
    );
    assert!(text.contains(" ; h1 contract v3\n") || text.contains(" ; h1 transfer v4\n"));
}
