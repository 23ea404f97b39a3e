//! Runs to bytes and back: every opcode, every byte.

#![allow(clippy::unwrap_used)]

mod support;

use lockstep_isa::decode::{DecodeError, decode_run};
use lockstep_isa::encode::encode_run;
use lockstep_isa::run::{Addr, Src};
use lockstep_isa::{Dir, Opcode, Operand, Place, Queue, Run, Stream, Target};
use support::Rng;

fn toy() -> Target {
    Target::builtin("toy").unwrap().unwrap()
}

#[test]
fn random_runs_survive() {
    let t = toy();
    for &op in Opcode::ALL {
        let (mut short, mut long) = (0, 0);
        for seed in 0..400 {
            let run = support::run(&mut Rng::new(seed * 31 + op as u64), op, &t);
            run.check(&t).unwrap_or_else(|e| panic!("{op:?} {seed}: {e}\n{run:?}"));
            let mut bytes = Vec::new();
            encode_run(&run, &mut bytes).unwrap();
            assert_eq!(bytes.len(), run.encoded_len());
            assert_eq!(decode_run(&bytes), Ok((run, bytes.len())));
            match bytes.len() {
                32 => short += 1,
                64 => long += 1,
                n => panic!("{n} bytes"),
            }
            for len in 0..bytes.len() {
                assert!(matches!(decode_run(&bytes[..len]), Err(DecodeError::Truncated { .. })));
            }
        }
        let load = matches!(op, Opcode::LoadRow | Opcode::LoadCol | Opcode::Transpose);
        assert!(long > 0 || load, "{op:?}");
        let always = matches!(op, Opcode::Gather | Opcode::Scatter);
        assert_eq!(short == 0, always, "{op:?}");
    }
}

/// Whatever one byte is changed to, the run is rejected or is exactly what encode writes for it: no byte is ignored.
#[test]
fn no_byte_is_ignored() {
    let t = toy();
    for &op in Opcode::ALL {
        for seed in 0..12 {
            let run = support::run(&mut Rng::new(seed + 1000 * op as u64), op, &t);
            let mut bytes = Vec::new();
            encode_run(&run, &mut bytes).unwrap();
            bytes.resize(64, 0);
            for at in 0..run.encoded_len() {
                for bit in 0..8 {
                    let mut b = bytes.clone();
                    b[at] ^= 1 << bit;
                    if let Ok((other, len)) = decode_run(&b) {
                        assert_ne!(other, run);
                        let mut again = Vec::new();
                        encode_run(&other, &mut again).unwrap();
                        assert_eq!(again, b[..len], "{op:?} byte {at} bit {bit}");
                    }
                }
            }
        }
    }
}

#[test]
fn unused_bytes_are_zero() {
    let t = toy();
    // Per opcode, bytes of the first 32 that it does not use.
    let unused: [(Opcode, &[usize]); 8] = [
        (Opcode::Read, &[20, 21, 22, 31]),
        (Opcode::Write, &[23, 31]),
        (Opcode::Fold, &[24, 25, 26, 27, 28, 29]),
        (Opcode::Permute, &[27, 28, 29, 30, 31]),
        (Opcode::Transpose, &[26, 27, 28, 29, 30, 31]),
        (Opcode::Reduce, &[26, 27, 28, 29, 31]),
        (Opcode::Send, &[3, 23, 24, 25, 26, 27, 28, 29, 30, 31]),
        (Opcode::Recv, &[3, 20, 21, 22, 24, 25, 26, 27, 28, 29, 30, 31]),
    ];
    for (op, at) in unused {
        let run = support::run(&mut Rng::new(5), op, &t);
        let mut bytes = Vec::new();
        encode_run(&run, &mut bytes).unwrap();
        for &at in at {
            assert_eq!(bytes[at], 0, "{op:?} byte {at}");
            for value in 1..=255 {
                let mut b = bytes.clone();
                b[at] = value;
                assert!(decode_run(&b).is_err(), "{op:?} byte {at} = {value}");
            }
        }
    }
}

#[test]
fn shapes_are_refused_by_name() {
    let place = Place {
        hemi: Dir::East,
        group: 0,
        bank: 0,
    };
    let mut read = Run::new(Opcode::Read, lockstep_isa::DType::F32, Queue::Mem(place));
    (read.hi, read.words) = (32, 4);
    read.out = Some(Stream {
        dir: Dir::East,
        index: 4,
    });
    assert_eq!(read.check(&toy()), Ok(()));
    let broken = |f: &dyn Fn(&mut Run)| {
        let mut r = read;
        f(&mut r);
        r.check(&toy()).unwrap_err().to_string()
    };
    let cases: [(&str, String); 9] = [
        (
            "read field \"words\": found 2, allowed is 1 or the words of the dtype",
            broken(&|r| r.words = 2),
        ),
        (
            "read field \"out\": found Stream { dir: East, index: 3 }, allowed is a multiple of 4",
            broken(&|r| {
                r.out = Some(Stream {
                    dir: Dir::East,
                    index: 3,
                })
            }),
        ),
        (
            "read field \"out\": found Stream { dir: East, index: 32 }",
            broken(&|r| {
                r.out = Some(Stream {
                    dir: Dir::East,
                    index: 32,
                })
            }),
        ),
        (
            "read field \"addr\": found 4092..4100, allowed is 0..4096",
            broken(&|r| {
                r.dims[1] = lockstep_isa::Dim { count: 2, stride: 1 };
                r.addr = Addr {
                    base: 4092,
                    strides: [0, 4, 0],
                };
            }),
        ),
        ("read field \"addr\"", broken(&|r| r.addr.strides[2] = 4)),
        (
            "read field \"segment\": found 4, allowed is 0, for it is not used",
            broken(&|r| r.segment = 4),
        ),
        (
            "read field \"a\"",
            broken(&|r| {
                r.a = Operand {
                    src: Src::Alu(0),
                    ..Operand::default()
                }
            }),
        ),
        ("read field \"queue\"", broken(&|r| r.queue = Queue::Alu(0))),
        (
            "read field \"hi\": found 33, allowed is at most 32 lanes",
            broken(&|r| r.hi = 33),
        ),
    ];
    for (expect, found) in cases {
        assert!(found.starts_with(expect), "{found}");
    }
}
