//! The verifier on garbage: any field may hold anything, and nothing may panic or hang. And on a large program.

use lockstep_isa::artifact::{Artifact, ConstForm, Value, ValueKind};
use lockstep_isa::claim::Producer;
use lockstep_isa::run::{AccIn, Src};
use lockstep_isa::verify::verify;
use lockstep_isa::{DType, Dir, Opcode, Place, Queue, Stream};
use lockstep_testkit::asm::{assemble, toy, verify_case, verify_cases};

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Small, large, or near a power of two.
    fn number(&mut self) -> u64 {
        match self.next() % 4 {
            0 => self.next() % 8,
            1 => self.next() % 300,
            2 => (1u64 << (self.next() % 64))
                .wrapping_add(self.next() % 3)
                .wrapping_sub(1),
            _ => self.next(),
        }
    }

    fn src(&mut self) -> Src {
        match self.next() % 4 {
            0 => Src::None,
            1 => Src::Alu(self.number() as u8),
            2 => Src::Imm(self.number() as u8),
            _ => Src::Stream(self.stream()),
        }
    }

    fn stream(&mut self) -> Stream {
        let dir = if self.next() & 1 == 0 { Dir::East } else { Dir::West };
        Stream {
            dir,
            index: self.number() as u8,
        }
    }

    fn queue(&mut self) -> Queue {
        let hemi = if self.next() & 1 == 0 { Dir::East } else { Dir::West };
        let n = self.number() as u8;
        match self.next() % 7 {
            0 => Queue::Mem(Place {
                hemi,
                group: n,
                bank: self.number() as u8,
            }),
            1 => Queue::MxmLoad(hemi, n),
            2 => Queue::MxmMul(hemi, n),
            3 => Queue::Alu(n),
            4 => Queue::Sxm(hemi),
            5 => Queue::Send(n),
            _ => Queue::Recv(n),
        }
    }

    fn dtype(&mut self) -> DType {
        DType::ALL[self.next() as usize % DType::ALL.len()]
    }
}

fn spoil(a: &mut Artifact, rng: &mut Rng) {
    let (n, m) = (rng.number(), rng.number());
    let entries = a.entries.len();
    let e = rng.next() as usize % entries;
    let entry = &mut a.entries[e];
    let c = rng.next() as usize % entry.chips.len().max(1);
    let Some(chip) = entry.chips.get_mut(c) else {
        return;
    };
    let programs = a.programs.len();
    let runs = &mut a.programs[rng.next() as usize % programs].runs;
    let r = rng.next() as usize % runs.len().max(1);
    let v = rng.next() as usize % entry.values.len();
    if let Some(run) = runs.get_mut(r) {
        let d = n as usize % 3;
        match rng.next() % 24 {
            0 => run.cycle = n as u32,
            1 => run.dims[d].count = m as u16,
            2 => run.dims[d].stride = m as u16,
            3 => run.lo = n as u16,
            4 => run.hi = n as u16,
            5 => run.addr.base = n as u16,
            6 => run.addr.strides[d] = m as i16,
            7 => run.addr2.strides[d] = m as i16,
            8 => run.a.src = rng.src(),
            9 => run.b.src = rng.src(),
            10 => run.a.delay = n as u8,
            11 => run.a.dtype = rng.dtype(),
            12 => run.dtype = rng.dtype(),
            13 => run.queue = rng.queue(),
            14 => run.out = Some(rng.stream()),
            15 => run.op = Opcode::ALL[n as usize % Opcode::ALL.len()],
            16 => run.limit = n as u32,
            17 => run.row_stride = n as u16,
            18 => run.belts = n as u8,
            19 => run.window.k1 = n as u16,
            20 => run.window.n1 = n as u16,
            21 => run.n_out = n as u16,
            22 => run.acc_in = AccIn::Row,
            _ => run.fold_dims = n as u8,
        }
    }
    let claims = chip.claims.len();
    if let Some(claim) = chip.claims.get_mut(rng.next() as usize % claims.max(1)) {
        match rng.next() % 10 {
            0 => claim.chain = n as u32,
            1 => claim.operands.push(Producer {
                run: n as u32,
                first: m as u32,
            }),
            2 => claim.operands.clear(),
            3 => {
                claim.acc = Some(Producer {
                    run: n as u32,
                    first: m as u32,
                });
            }
            4 => {
                if let Some(p) = claim.operands.first_mut() {
                    (p.run, p.first) = (n as u32 % 16, m as u32);
                }
            }
            5 => {
                if let Some(x) = &mut claim.mem {
                    x.value = n as u32 % 8;
                }
            }
            6 => {
                if let Some(x) = &mut claim.mem {
                    (x.base, x.strides[0]) = (n as u32, m as i32);
                }
            }
            7 => {
                if let Some(x) = &mut claim.mem {
                    (x.limit, x.row_stride) = (n as u32, m as u32);
                }
            }
            _ => {}
        }
    }
    match rng.next() % 40 {
        0 => chip.start = n,
        1 => chip.program = n as u32 % 4,
        2 => entry.values[v].base = n as u16,
        3 => entry.values[v].n_vectors = n as u32,
        4 => entry.values[v].hi = n as u16,
        5 => entry.values[v].lo = n as u16,
        6 => entry.values[v].chip = n as u16,
        7 => entry.values[v].place.group = n as u8,
        8 => entry.values[v].kind = ValueKind::NextState(n as u32 % 8),
        9 => entry.values[v].kind = ValueKind::Const(n as u32 % 8),
        10 => entry.values[v].kind = ValueKind::State(n as u32 % 3),
        11 => entry.values[v].dtype = rng.dtype(),
        12 => {
            if let Some(c) = a.consts.first_mut() {
                c.form = ConstForm::Tile {
                    tile: n as u32,
                    first: m as u16,
                    step: 1,
                };
            }
        }
        13 => {
            if let Some(c) = a.consts.first_mut() {
                (c.offset, c.length) = (n, m);
            }
        }
        14 => a.weights_range = (n >> 1, m >> 1),
        15 => entry.inputs.iter_mut().for_each(|i| i.shape = vec![n, m]),
        16 => {
            if let Some(d) = entry.outputs[0].nests[0].dims.first_mut() {
                (d.count, d.element) = (n as u32, m as i64);
            }
        }
        17 => entry.outputs[0].nests[0].dims.clear(),
        18 => entry.chains.truncate(n as usize % 3),
        19 => {
            if let Some(h) = entry.chains.first_mut() {
                (h.chip, h.to) = (n as u16, Some(m as u16));
            }
        }
        20 => entry.outputs[0].nests[0].value = n as u32,
        21 => a.n_chips = n as u16 % 8,
        22 => entry.chips.truncate(n as usize % 2),
        23 => entry.outputs[0].nests[0].lane = n as u16,
        _ => {}
    }
}

#[test]
fn garbage_never_panics() {
    let mut rng = Rng(0x1234_5678_9abc_def1);
    for (name, text) in verify_cases() {
        let sound = assemble(&text, &toy()).unwrap_or_else(|e| panic!("{name}: {e}"));
        for _ in 0..400 {
            let mut a = sound.clone();
            for _ in 0..1 + rng.next() % 4 {
                spoil(&mut a, &mut rng);
            }
            let _ = verify(&a);
        }
    }
}

/// The program `text` many times over, each copy after the last, with outputs of its own.
fn repeated(text: &str, copies: u32) -> Artifact {
    let mut a = assemble(text, &toy()).unwrap_or_else(|e| panic!("{e}"));
    let period = a.entries[0].makespan as u32;
    let runs = a.programs[0].runs.clone();
    let claims = a.entries[0].chips[0].claims.clone();
    let chains = a.entries[0].chains.clone();
    let values: Vec<Value> = a.entries[0].values.clone();
    let n = runs.len() as u32;
    for copy in 1..copies {
        let mut fresh: Vec<u32> = (0..values.len() as u32).collect();
        for (v, value) in values.iter().enumerate() {
            if value.kind == ValueKind::Computed {
                fresh[v] = a.entries[0].values.len() as u32;
                a.entries[0].values.push(value.clone());
            }
        }
        for (run, claim) in runs.iter().zip(&claims) {
            let mut run = *run;
            run.cycle += copy * period;
            a.programs[0].runs.push(run);
            let mut claim = claim.clone();
            claim.chain += copy * chains.len() as u32;
            claim.operands.iter_mut().for_each(|p| p.run += copy * n);
            claim.blocks.iter_mut().for_each(|b| b.load += copy * n);
            claim.acc.iter_mut().for_each(|p| p.run += copy * n);
            claim.mem.iter_mut().for_each(|m| m.value = fresh[m.value as usize]);
            let chip = &mut a.entries[0].chips[0];
            chip.claims.push(claim);
            chip.origins.push(0);
        }
        for nest in &mut a.entries[0].outputs[0].nests {
            nest.value = fresh[nest.value as usize % values.len()];
        }
        a.entries[0].chains.extend(chains.iter().cloned());
    }
    a.entries[0].makespan = period as u64 * copies as u64;
    a
}

/// A matrix product over 128 vectors in two K passes, many times over: several hundred thousand vectors.
#[test]
fn a_large_program_takes_a_fraction_of_a_second() {
    let copies = if cfg!(debug_assertions) { 200 } else { 2500 };
    let a = repeated(&verify_case("matmul_f16"), copies);
    let begin = std::time::Instant::now();
    let summary = verify(&a).unwrap_or_else(|e| panic!("{e}"));
    let seconds = begin.elapsed().as_secs_f64();
    let events = summary.entries[0].events;
    println!("{events} issues in {seconds:.3} s, {} runs", summary.entries[0].runs);
    assert!(events > 100_000);
    assert!(seconds < 5.0, "{events} issues took {seconds} s");
}
