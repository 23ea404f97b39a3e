//! Small hand-made chain programs, scheduled both ways and proved by the isa verifier.

use super::*;
use crate::chain::*;
use crate::emit::{ArtifactInfo, emit};
use lockstep_graph::EntityId;
use lockstep_isa::artifact::{HostDType, HostDim, HostNest, HostTensor, OriginInfo, State};
use lockstep_isa::run::Window;
use lockstep_isa::{AluOp, Artifact, DType, Dir, Target};

fn target(name: &str) -> Target {
    Target::builtin(name).unwrap().unwrap()
}

/// Builds chain programs.
struct Maker {
    p: ChainProgram,
    lanes: u16,
}

type Nodes = Vec<Node>;

fn r(node: usize) -> NodeArg {
    NodeArg::Node {
        node: node as u32,
        first: 0,
    }
}

fn imm(v: f32) -> NodeArg {
    NodeArg::Imm(v.to_bits())
}

fn rows(base: u32) -> Affine {
    Affine {
        base,
        strides: [1, 0, 0],
    }
}

fn same(base: u32) -> Affine {
    Affine { base, strides: [0; 3] }
}

impl Maker {
    fn new(lanes: u16, n_chips: u16) -> Maker {
        let origins = vec![OriginInfo {
            op: "test".into(),
            nodes: vec!["n".into()],
        }];
        Maker {
            p: ChainProgram {
                name: "main".into(),
                n_chips,
                origins,
                ..ChainProgram::default()
            },
            lanes,
        }
    }

    fn buf(&mut self, chip: u16, dtype: DType, n: u32, kind: BufKind, side: Option<Dir>) -> BufId {
        self.p.bufs.push(Buf {
            chip,
            dtype,
            n_vectors: n,
            lo: 0,
            hi: self.lanes,
            kind,
            side,
        })
    }

    fn temp(&mut self, n: u32, side: Dir) -> BufId {
        self.buf(0, DType::F32, n, BufKind::Temp, Some(side))
    }

    fn floats(&mut self, n: u32, side: Option<Dir>) -> BufId {
        let data: Vec<u8> = (0..n * self.lanes as u32)
            .flat_map(|i| ((i % 13) as f32 / 8.0 - 0.75).to_le_bytes())
            .collect();
        self.buf(0, DType::F32, n, BufKind::Rows(data.into()), side)
    }

    fn host(&self, name: &str, value: BufId) -> HostTensor {
        let buf = &self.p.bufs[value];
        let (n, lanes) = (buf.n_vectors, (buf.hi - buf.lo) as u32);
        let dtype = if buf.dtype == DType::I32 {
            HostDType::I32
        } else {
            HostDType::F32
        };
        HostTensor {
            name: name.into(),
            dtype,
            shape: vec![n as u64, lanes as u64],
            fill: 0,
            nests: vec![HostNest {
                value: value.index() as u32,
                element: 0,
                vector: 0,
                lane: buf.lo,
                dims: vec![
                    HostDim {
                        count: n,
                        element: lanes as i64,
                        vector: 1,
                        lane: 0,
                    },
                    HostDim {
                        count: lanes,
                        element: 1,
                        vector: 0,
                        lane: 1,
                    },
                ],
            }],
        }
    }

    fn input(&mut self, dtype: DType, n: u32, side: Option<Dir>) -> BufId {
        let buf = self.buf(0, dtype, n, BufKind::Input, side);
        let tensor = self.host(&format!("in{buf}"), buf);
        self.p.inputs.push(tensor);
        buf
    }

    fn output(&mut self, value: BufId) {
        let tensor = self.host(&format!("out{value}"), value);
        self.p.outputs.push(tensor);
    }

    fn node(&self, op: NodeOp, dims: [u32; 3], args: &[NodeArg]) -> Node {
        Node {
            op,
            dtype: DType::F32,
            dims,
            lo: 0,
            hi: self.lanes,
            args: args.to_vec(),
        }
    }

    fn push(&self, nodes: &mut Nodes, op: NodeOp, n: u32, args: &[NodeArg]) -> usize {
        nodes.push(self.node(op, [n, 1, 1], args));
        nodes.len() - 1
    }

    fn chain(&mut self, chip: u16, nodes: Nodes) {
        self.p.chains.push(Chain {
            kind: ChainKind::Compute { chip, nodes },
            origin: 0,
        });
    }

    /// Reads `x`, applies `ops` (operand 0 is the value so far, operand 1 an immediate where binary), writes `y`.
    fn map(&mut self, x: BufId, ops: &[AluOp], y: &[BufId], n: u32) {
        let mut nodes = Nodes::new();
        let mut at = self.push(&mut nodes, NodeOp::Read(x, rows(0)), n, &[]);
        for &op in ops {
            let args = if op.arity() == 2 {
                vec![r(at), imm(0.5)]
            } else {
                vec![r(at)]
            };
            at = self.push(&mut nodes, NodeOp::Alu(op), n, &args);
        }
        for &y in y {
            self.push(&mut nodes, NodeOp::Write(y, rows(0)), n, &[r(at)]);
        }
        self.chain(0, nodes);
    }

    /// A weight tile of all lanes, as buffers of one belt each.
    fn tile(&mut self, belts: u32, side: Dir) -> Vec<BufId> {
        let n = self.lanes;
        let data: Vec<u8> = (0..n as u32 * n as u32)
            .flat_map(|i| ((i % 7) as f32 / 4.0 - 0.75).to_le_bytes())
            .collect();
        let tile = self.p.tiles.push(Tile {
            rows: n,
            lo: 0,
            columns: n,
            dtype: DType::F32,
            data: data.into(),
        });
        (0..belts)
            .map(|b| {
                let kind = BufKind::Tile {
                    tile,
                    first: b as u16,
                    step: belts as u16,
                };
                self.buf(0, DType::F32, n as u32 / belts, kind, Some(side))
            })
            .collect()
    }

    /// Reads and tile load of `bufs`, one per belt.
    fn load(&self, nodes: &mut Nodes, bufs: &[BufId], window: Window, by_column: bool, hemi: Dir) -> u32 {
        let n = if by_column {
            window.n1 - window.n0
        } else {
            window.k1 - window.k0
        } as u32;
        let each = n / bufs.len() as u32;
        let reads: Vec<NodeArg> = bufs
            .iter()
            .map(|&b| r(self.push(nodes, NodeOp::Read(b, rows(0)), each, &[])))
            .collect();
        let load = self.push(
            nodes,
            NodeOp::Load {
                by_column,
                window,
                hemi,
                plane: 0,
                scaled: false,
            },
            each,
            &reads,
        );
        let (lo, hi) = if by_column {
            (window.k0, window.k1)
        } else {
            (window.n0, window.n1)
        };
        (nodes[load].lo, nodes[load].hi) = (lo, hi);
        load as u32
    }

    fn window(&self) -> Window {
        Window {
            n0: 0,
            n1: self.lanes,
            k0: 0,
            k1: self.lanes,
        }
    }

    /// y = relu(sum of x[k] times w[k] + bias) on one matrix unit.
    fn dense(&mut self, hemi: Dir, xs: &[BufId], ws: &[Vec<BufId>], bias: BufId, y: BufId, n: u32) {
        let mut nodes = Nodes::new();
        let mut before = None;
        for (k, (&x, w)) in xs.iter().zip(ws).enumerate() {
            let load = self.load(&mut nodes, w, self.window(), false, hemi);
            let x = self.push(&mut nodes, NodeOp::Read(x, rows(0)), n, &[]);
            let last = k + 1 == xs.len();
            let op = NodeOp::Mul {
                loads: vec![load],
                swap: true,
                acc: before.map_or(Acc::Zero, Acc::Rows),
                to_rows: !last,
                hemi,
                plane: 0,
            };
            before = Some(self.push(&mut nodes, op, n, &[r(x)]) as u32);
        }
        let b = self.push(&mut nodes, NodeOp::Read(bias, same(0)), n, &[]);
        let sum = self.push(
            &mut nodes,
            NodeOp::Alu(AluOp::Add),
            n,
            &[r(before.unwrap() as usize), r(b)],
        );
        let relu = self.push(&mut nodes, NodeOp::Alu(AluOp::Max), n, &[r(sum), imm(0.0)]);
        self.push(&mut nodes, NodeOp::Write(y, rows(0)), n, &[r(relu)]);
        self.chain(0, nodes);
    }
}

/// Schedules both ways, verifies both, returns the makespans (serial, list) and the list artifact.
fn check(p: &ChainProgram, target: &Target) -> (u64, u64, Artifact) {
    let serial = schedule(p, target, &ScheduleOptions::serial()).unwrap();
    let list = schedule(p, target, &ScheduleOptions::default()).unwrap();
    let again = schedule(p, target, &ScheduleOptions::default()).unwrap();
    assert_eq!(list, again, "the same program gives the same schedule");
    assert!(list.makespan <= serial.makespan);
    let mut out = None;
    for s in [&serial, &list] {
        let artifact = emit(&[(p, s)], target, &ArtifactInfo::default()).unwrap();
        verify(&artifact);
        out = Some(artifact);
    }
    log_figures(p, &serial, &list);
    (serial.makespan, list.makespan, out.unwrap())
}

fn log_figures(p: &ChainProgram, serial: &Schedule, list: &Schedule) {
    tracing::info!(
        name = p.name,
        serial = serial.makespan,
        list = list.makespan,
        runs = list.runs.len()
    );
}

fn verify(artifact: &Artifact) {
    if let Err(errors) = lockstep_isa::verify::verify(artifact) {
        panic!("{errors}");
    }
}

fn targets() -> [Target; 2] {
    [target("toy"), target("tsp-2020")]
}

#[test]
fn elementwise() {
    for t in targets() {
        let mut m = Maker::new(t.lanes, 1);
        let x = m.input(DType::F32, 40, None);
        let (y, z) = (m.temp(40, Dir::East), m.temp(40, Dir::West));
        m.map(x, &[AluOp::Mul, AluOp::Add, AluOp::Tanh], &[y], 40);
        m.map(y, &[AluOp::Erf, AluOp::Abs], &[z], 40);
        m.output(z);
        let (serial, list, _) = check(&m.p, &t);
        // The second chain follows the first row by row.
        assert!(list + 15 < serial, "{list} {serial}");
    }
}

#[test]
fn a_value_used_twice_waits_in_copies() {
    // x * erf(erf(x)): the short path is 40 cycles early, more than an operand may wait.
    let t = target("toy");
    let mut m = Maker::new(t.lanes, 1);
    let x = m.input(DType::F32, 8, None);
    let (y, z) = (m.temp(8, Dir::East), m.temp(8, Dir::West));
    let mut nodes = Nodes::new();
    let a = m.push(&mut nodes, NodeOp::Read(x, rows(0)), 8, &[]);
    let b = m.push(&mut nodes, NodeOp::Alu(AluOp::Erf), 8, &[r(a)]);
    let c = m.push(&mut nodes, NodeOp::Alu(AluOp::Erf), 8, &[r(b)]);
    let d = m.push(&mut nodes, NodeOp::Alu(AluOp::Mul), 8, &[r(a), r(c)]);
    m.push(&mut nodes, NodeOp::Write(y, rows(0)), 8, &[r(d)]);
    m.push(&mut nodes, NodeOp::Write(z, rows(0)), 8, &[r(d)]);
    m.chain(0, nodes);
    m.output(y);
    m.output(z);
    let (.., artifact) = check(&m.p, &t);
    let copies = artifact.programs[0]
        .runs
        .iter()
        .filter(|r| r.alu == AluOp::Copy)
        .count();
    // One delay line, one for the second direction.
    assert_eq!(copies, 2);
}

#[test]
fn dense_on_both_units() {
    for t in targets() {
        let mut m = Maker::new(t.lanes, 1);
        let n = 64;
        let mut ys = Vec::new();
        for layer in 0..2 {
            for hemi in Dir::BOTH {
                let xs: Vec<BufId> = if layer == 0 {
                    (0..2).map(|_| m.input(DType::F32, n, Some(hemi))).collect()
                } else {
                    vec![ys[0], ys[1]]
                };
                let ws: Vec<_> = (0..2).map(|_| m.tile(4, hemi)).collect();
                let bias = m.floats(1, Some(hemi));
                let y = m.temp(n, hemi);
                m.dense(hemi, &xs, &ws, bias, y, n);
                ys.push(y);
            }
        }
        m.output(ys[2]);
        m.output(ys[3]);
        let (serial, list, _) = check(&m.p, &t);
        assert!(list * 3 < serial * 2, "{list} {serial}");
    }
}

#[test]
fn attention() {
    let t = target("toy");
    let (mut m, n) = (Maker::new(t.lanes, 1), 32);
    let x = m.input(DType::F32, n, None);
    let (q, k, v) = (m.temp(n, Dir::East), m.temp(n, Dir::East), m.temp(n, Dir::West));
    m.map(x, &[AluOp::Mul], &[q, k], n);
    m.map(x, &[AluOp::Add], &[v], n);
    let (s, mx, p, l, o) = (
        m.temp(n, Dir::East),
        m.temp(n, Dir::West),
        m.temp(n, Dir::West),
        m.temp(n, Dir::East),
        m.temp(n, Dir::East),
    );
    // S = q k^T
    let mut nodes = Nodes::new();
    let load = m.load(&mut nodes, &[k], m.window(), true, Dir::East);
    let read = m.push(&mut nodes, NodeOp::Read(q, rows(0)), n, &[]);
    let mul = |loads, hemi| NodeOp::Mul {
        loads,
        swap: true,
        acc: Acc::Zero,
        to_rows: false,
        hemi,
        plane: 0,
    };
    let at = m.push(&mut nodes, mul(vec![load], Dir::East), n, &[r(read)]);
    let at = m.push(&mut nodes, NodeOp::Alu(AluOp::Mul), n, &[r(at), imm(0.25)]);
    m.push(&mut nodes, NodeOp::Write(s, rows(0)), n, &[r(at)]);
    m.chain(0, nodes);
    // row maximum
    let segment = t.lanes;
    let mut nodes = Nodes::new();
    let read = m.push(&mut nodes, NodeOp::Read(s, rows(0)), n, &[]);
    let at = m.push(
        &mut nodes,
        NodeOp::Reduce {
            op: AluOp::Max,
            segment,
            hemi: Dir::West,
        },
        n,
        &[r(read)],
    );
    m.push(&mut nodes, NodeOp::Write(mx, rows(0)), n, &[r(at)]);
    m.chain(0, nodes);
    // exponentials and their sum
    let mut nodes = Nodes::new();
    let a = m.push(&mut nodes, NodeOp::Read(s, rows(0)), n, &[]);
    let b = m.push(&mut nodes, NodeOp::Read(mx, rows(0)), n, &[]);
    let d = m.push(&mut nodes, NodeOp::Alu(AluOp::Sub), n, &[r(a), r(b)]);
    let e = m.push(&mut nodes, NodeOp::Alu(AluOp::Exp), n, &[r(d)]);
    m.push(&mut nodes, NodeOp::Write(p, rows(0)), n, &[r(e)]);
    let sum = m.push(
        &mut nodes,
        NodeOp::Reduce {
            op: AluOp::Add,
            segment,
            hemi: Dir::East,
        },
        n,
        &[r(e)],
    );
    m.push(&mut nodes, NodeOp::Write(l, rows(0)), n, &[r(sum)]);
    m.chain(0, nodes);
    // P v / l
    let mut nodes = Nodes::new();
    let load = m.load(&mut nodes, &[v], m.window(), false, Dir::West);
    let read = m.push(&mut nodes, NodeOp::Read(p, rows(0)), n, &[]);
    let at = m.push(&mut nodes, mul(vec![load], Dir::West), n, &[r(read)]);
    let l = m.push(&mut nodes, NodeOp::Read(l, rows(0)), n, &[]);
    let at = m.push(&mut nodes, NodeOp::Alu(AluOp::Div), n, &[r(at), r(l)]);
    m.push(&mut nodes, NodeOp::Write(o, rows(0)), n, &[r(at)]);
    m.chain(0, nodes);
    m.output(o);
    let (serial, list, _) = check(&m.p, &t);
    assert!(list < serial);
}

#[test]
fn folds_permutes_and_transposes() {
    let t = target("toy");
    let mut m = Maker::new(t.lanes, 1);
    let x = m.input(DType::F32, 24, None);
    let y = m.temp(6, Dir::East);
    // Sum over groups of four vectors, each sum scaled.
    let affine = Affine {
        base: 0,
        strides: [1, 4, 0],
    };
    let fold = NodeOp::Fold {
        op: AluOp::Add,
        dims: 1,
        every: false,
    };
    let nodes = vec![
        m.node(NodeOp::Read(x, affine), [4, 6, 1], &[]),
        m.node(fold, [4, 6, 1], &[r(0)]),
        m.node(NodeOp::Alu(AluOp::Mul), [6, 1, 1], &[r(1), imm(0.25)]),
        m.node(NodeOp::Write(y, rows(0)), [6, 1, 1], &[r(2)]),
    ];
    m.chain(0, nodes);
    // Reverse the lanes.
    let lanes = t.lanes;
    let map: Vec<u8> = (0..lanes).flat_map(|l| (lanes - 1 - l).to_le_bytes()).collect();
    let map = m.buf(0, DType::U16, 1, BufKind::Rows(map.into()), None);
    let z = m.temp(6, Dir::West);
    let mut nodes = Nodes::new();
    m.push(&mut nodes, NodeOp::Read(y, rows(0)), 6, &[]);
    m.push(&mut nodes, NodeOp::Read(map, same(0)), 6, &[]);
    nodes[1].dtype = DType::U16;
    m.push(
        &mut nodes,
        NodeOp::Permute {
            fill: 0,
            hemi: Dir::East,
        },
        6,
        &[r(0), r(1)],
    );
    m.push(&mut nodes, NodeOp::Write(z, rows(0)), 6, &[r(2)]);
    m.chain(0, nodes);
    // Six vectors of all lanes become as many vectors of six lanes.
    let tr = m.buf(0, DType::F32, lanes as u32, BufKind::Temp, None);
    m.p.bufs =
        m.p.bufs
            .iter()
            .map(|(id, b)| {
                if id == tr {
                    Buf { hi: 6, ..b.clone() }
                } else {
                    b.clone()
                }
            })
            .collect();
    let mut nodes = Nodes::new();
    m.push(&mut nodes, NodeOp::Read(z, rows(0)), 6, &[]);
    m.push(
        &mut nodes,
        NodeOp::Transpose {
            n_out: lanes,
            hemi: Dir::West,
        },
        6,
        &[r(0)],
    );
    m.push(&mut nodes, NodeOp::Write(tr, rows(0)), lanes as u32, &[r(1)]);
    nodes[2].hi = 6;
    m.chain(0, nodes);
    m.output(tr);
    check(&m.p, &t);
}

#[test]
fn gather_and_state() {
    let t = target("toy");
    let mut m = Maker::new(t.lanes, 1);
    let index = m.input(DType::I32, 4, None);
    let table = m.floats(50, None);
    let y = m.temp(4, Dir::East);
    let mut nodes = Nodes::new();
    m.push(&mut nodes, NodeOp::Read(index, rows(0)), 4, &[]);
    nodes[0].dtype = DType::I32;
    m.push(
        &mut nodes,
        NodeOp::Gather {
            buf: table,
            at: same(0),
            row_stride: 1,
            limit: 50,
        },
        4,
        &[r(0)],
    );
    m.push(&mut nodes, NodeOp::Alu(AluOp::Neg), 4, &[r(1)]);
    m.push(&mut nodes, NodeOp::Write(y, rows(0)), 4, &[r(2)]);
    m.chain(0, nodes);
    // The four rows go to run-time places of a state, which is then read whole.
    m.p.states.push(State {
        name: "cache".into(),
        from: "cache.next".into(),
    });
    let old = m.buf(0, DType::F32, 16, BufKind::State(0), None);
    let sum = m.temp(16, Dir::East);
    m.map(old, &[AluOp::Abs], &[sum], 16);
    let next = m.buf(0, DType::F32, 16, BufKind::NextState(old), None);
    let mut nodes = Nodes::new();
    m.push(&mut nodes, NodeOp::Read(y, rows(0)), 4, &[]);
    m.push(&mut nodes, NodeOp::Read(index, rows(0)), 4, &[]);
    nodes[1].dtype = DType::I32;
    m.push(&mut nodes, NodeOp::Alu(AluOp::Copy), 4, &[r(0)]);
    m.push(
        &mut nodes,
        NodeOp::Scatter {
            buf: next,
            at: same(0),
            row_stride: 1,
            limit: 16,
        },
        4,
        &[r(2), r(1)],
    );
    m.chain(0, nodes);
    let out = m.temp(16, Dir::West);
    m.map(next, &[AluOp::Mul], &[out], 16);
    m.output(sum);
    m.output(out);
    check(&m.p, &t);
}

#[test]
fn transfers_over_a_ring() {
    for (t, chips) in [(target("toy"), 2), (target("tsp-2020"), 2), (target("toy"), 3)] {
        let mut m = Maker::new(t.lanes, chips);
        let x = m.input(DType::F32, 5, Some(Dir::East));
        let far = m.buf(1, DType::F32, 5, BufKind::Temp, Some(Dir::West));
        let y = m.buf(1, DType::F32, 5, BufKind::Temp, Some(Dir::West));
        let transfer = |from, to| ChainKind::Transfer {
            from,
            from_base: 0,
            to,
            to_base: 0,
            n_vectors: 5,
        };
        m.p.chains.push(Chain {
            kind: transfer(x, far),
            origin: 0,
        });
        m.map(far, &[AluOp::Exp], &[y], 5);
        if let Some(Chain {
            kind: ChainKind::Compute { chip, .. },
            ..
        }) = m.p.chains.iter_mut().last().map(|(_, c)| c)
        {
            *chip = 1;
        }
        let back = m.temp(5, Dir::East);
        m.p.chains.push(Chain {
            kind: transfer(y, back),
            origin: 0,
        });
        m.output(back);
        check(&m.p, &t);
    }
}

#[test]
fn rows_are_reused() {
    let t = target("toy");
    let mut m = Maker::new(t.lanes, 1);
    let mut at = m.input(DType::F32, 1000, None);
    // Sixty buffers of nearly a whole bank each, in sixteen banks.
    for i in 0..60 {
        let next = m.temp(900, Dir::BOTH[i % 2]);
        m.map(at, &[AluOp::Add], &[next], 900);
        at = next;
    }
    m.output(at);
    check(&m.p, &t);
}

#[test]
fn operands_of_a_group_find_streams_on_both_sides() {
    // Eight f32 streams a side, and operands that would all lie in the west.
    let t = target("tsp-2020");
    for n in [9, 11, 16] {
        let mut m = Maker::new(t.lanes, 1);
        let values: Vec<BufId> = (0..n).map(|_| m.input(DType::F32, 100, Some(Dir::West))).collect();
        let mut nodes = Nodes::new();
        let mut at: Option<usize> = None;
        for &x in &values {
            let read = m.push(&mut nodes, NodeOp::Read(x, rows(0)), 100, &[]);
            at = Some(match at {
                None => read,
                Some(sum) => m.push(&mut nodes, NodeOp::Alu(AluOp::Add), 100, &[r(sum), r(read)]),
            });
        }
        let y = m.temp(100, Dir::West);
        m.push(&mut nodes, NodeOp::Write(y, rows(0)), 100, &[r(at.unwrap())]);
        m.chain(0, nodes);
        m.output(y);
        check(&m.p, &t);
    }
}

#[test]
fn chains_go_by_what_was_ready_and_after_what_they_read() {
    let mut m = Maker::new(8, 1);
    let x = m.input(DType::F32, 4, None);
    let [a, b, c, d]: [BufId; 4] = std::array::from_fn(|_| m.temp(4, Dir::East));
    for (from, to) in [(x, a), (x, b), (b, c), (a, d)] {
        m.map(from, &[AluOp::Neg], &[to], 4);
    }
    let order = |ready: [u64; 4]| -> Vec<usize> {
        let ids = order::by_ready(&m.p, &ready);
        ids.into_iter().map(|c| c.index()).collect()
    };
    assert_eq!(order([0, 0, 40, 30]), [0, 1, 3, 2]);
    assert_eq!(order([9, 3, 1, 2]), [1, 2, 0, 3]);
    // A row written again: after its reader, whatever was ready.
    m.map(x, &[AluOp::Neg], &[b], 4);
    let again = order::by_ready(&m.p, &[5, 5, 90, 5, 0]);
    assert_eq!(again.last().map(|c| c.index()), Some(4));
}

#[test]
fn what_does_not_fit_is_refused_with_terms() {
    let t = target("toy");
    let mut m = Maker::new(t.lanes, 1);
    for _ in 0..17 {
        let w = m.floats(1000, None);
        let y = m.temp(1, Dir::East);
        let mut nodes = Nodes::new();
        m.push(&mut nodes, NodeOp::Read(w, rows(0)), 1, &[]);
        m.push(&mut nodes, NodeOp::Alu(AluOp::Neg), 1, &[r(0)]);
        m.push(&mut nodes, NodeOp::Write(y, rows(0)), 1, &[r(1)]);
        m.chain(0, nodes);
        m.output(y);
    }
    let error = schedule(&m.p, &t, &ScheduleOptions::default()).unwrap_err();
    assert!(
        matches!(error.kind, crate::CompileErrorKind::DoesNotFit { .. }),
        "{error}"
    );
}

#[test]
fn transfers_of_partial_vectors() {
    // 20 lanes of f32 are two and a half words of 32 bytes; f16 vectors are half as wide.
    let t = target("toy");
    for (dtype, lo, hi) in [(DType::F32, 0, 20), (DType::F32, 9, 31), (DType::F16, 0, 20)] {
        let mut m = Maker::new(t.lanes, 2);
        let mut bufs = Vec::new();
        for chip in [0, 1, 1, 0] {
            bufs.push(m.buf(chip, dtype, 3, BufKind::Temp, None));
        }
        let x = m.buf(0, dtype, 3, BufKind::Input, None);
        m.p.bufs = m.p.bufs.iter().map(|(_, b)| Buf { lo, hi, ..b.clone() }).collect();
        let port = m.host("x", x);
        m.p.inputs.push(port);
        let map = |m: &mut Maker, chip, x, y| {
            let nodes: Nodes = [
                (NodeOp::Read(x, rows(0)), vec![]),
                (NodeOp::Alu(AluOp::Neg), vec![r(0)]),
                (NodeOp::Write(y, rows(0)), vec![r(1)]),
            ]
            .into_iter()
            .map(|(op, args)| Node {
                op,
                dtype,
                dims: [3, 1, 1],
                lo,
                hi,
                args,
            })
            .collect();
            m.chain(chip, nodes);
        };
        map(&mut m, 0, x, bufs[0]);
        let transfer = |from, to| ChainKind::Transfer {
            from,
            from_base: 1,
            to,
            to_base: 1,
            n_vectors: 2,
        };
        m.p.chains.push(Chain {
            kind: transfer(bufs[0], bufs[1]),
            origin: 0,
        });
        let first = |from, to| ChainKind::Transfer {
            from,
            from_base: 0,
            to,
            to_base: 0,
            n_vectors: 1,
        };
        m.p.chains.push(Chain {
            kind: first(bufs[0], bufs[1]),
            origin: 0,
        });
        map(&mut m, 1, bufs[1], bufs[2]);
        m.p.chains.push(Chain {
            kind: transfer(bufs[2], bufs[3]),
            origin: 0,
        });
        m.p.chains.push(Chain {
            kind: first(bufs[2], bufs[3]),
            origin: 0,
        });
        m.output(bufs[3]);
        check(&m.p, &t);
    }
}

#[test]
fn entries_share_constants_and_states() {
    let t = target("toy");
    let mut m = Maker::new(t.lanes, 1);
    let w = m.floats(30, None);
    let ws = m.tile(4, Dir::East);
    m.p.states.push(State {
        name: "s".into(),
        from: "s.next".into(),
    });
    let old = m.buf(0, DType::F32, 30, BufKind::State(0), None);
    let next = m.buf(0, DType::F32, 30, BufKind::NextState(old), None);
    let shared = m.p.clone();
    let mut programs = Vec::new();
    for n in [10u32, 30] {
        let mut m = Maker {
            p: shared.clone(),
            lanes: t.lanes,
        };
        m.p.name = format!("n={n}");
        // Buffers of its own come first in one entry, last in the other.
        let x = m.input(DType::F32, n, None);
        let bias = m.floats(1, None);
        let y = m.temp(n, Dir::West);
        m.dense(Dir::East, &[x], std::slice::from_ref(&ws), bias, y, n);
        let z = m.temp(30, Dir::East);
        m.map(old, &[AluOp::Neg], &[z], 30);
        let mut nodes = Nodes::new();
        let a = m.push(&mut nodes, NodeOp::Read(z, rows(0)), 30, &[]);
        let b = m.push(&mut nodes, NodeOp::Read(w, rows(0)), 30, &[]);
        let c = m.push(&mut nodes, NodeOp::Alu(AluOp::Add), 30, &[r(a), r(b)]);
        m.push(&mut nodes, NodeOp::Write(next, rows(0)), 30, &[r(c)]);
        m.chain(0, nodes);
        m.output(y);
        programs.push(m.p);
    }
    let all: Vec<&ChainProgram> = programs.iter().collect();
    let schedules = schedule_entries(&all, &t, &ScheduleOptions::default()).unwrap();
    for b in [w, ws[0], ws[3], old, next] {
        assert_eq!(schedules[0].homes[b.index()], schedules[1].homes[b.index()]);
    }
    let entries: Vec<_> = all.into_iter().zip(&schedules).collect();
    verify(&emit(&entries, &t, &ArtifactInfo::default()).unwrap());
}

#[test]
fn units_of_several_widths_share_planes() {
    // f32 takes both planes of a hemisphere, i8 one each.
    let t = target("toy");
    let mut m = Maker::new(t.lanes, 1);
    let n = 16;
    let x = m.input(DType::F32, n, None);
    let mut outs = Vec::new();
    for (i, (dtype, plane)) in [
        (DType::I8, 0),
        (DType::I8, 1),
        (DType::F32, 0),
        (DType::F16, 0),
        (DType::I8, 1),
    ]
    .into_iter()
    .enumerate()
    {
        let lanes = t.lanes as usize;
        let data = (0..lanes * lanes * dtype.bytes()).map(|i| if i % 2 == 0 { 0 } else { 3 });
        let rows_of = Tile {
            rows: t.lanes,
            lo: 0,
            columns: t.lanes,
            dtype,
            data: data.collect::<Vec<u8>>().into(),
        };
        let tile = m.p.tiles.push(rows_of);
        let w = m.buf(
            0,
            dtype,
            t.lanes as u32,
            BufKind::Tile {
                tile,
                first: 0,
                step: 1,
            },
            None,
        );
        let narrow = m.buf(0, dtype, n, BufKind::Temp, None);
        let acc = dtype.widened();
        let y = m.buf(0, acc, n, BufKind::Temp, None);
        let mut nodes = Nodes::new();
        let a = m.push(&mut nodes, NodeOp::Read(x, rows(0)), n, &[]);
        let c = m.push(&mut nodes, NodeOp::Alu(AluOp::Cvt), n, &[r(a)]);
        let d = m.push(&mut nodes, NodeOp::Write(narrow, rows(0)), n, &[r(c)]);
        (nodes[c].dtype, nodes[d].dtype) = (dtype, dtype);
        m.chain(0, nodes);
        let mut nodes = Nodes::new();
        let hemi = Dir::East;
        let load = m.load(&mut nodes, &[w], m.window(), false, hemi);
        for node in &mut nodes {
            node.dtype = dtype;
            if let NodeOp::Load { plane: p, .. } = &mut node.op {
                *p = plane;
            }
        }
        let a = m.push(&mut nodes, NodeOp::Read(narrow, rows(0)), n, &[]);
        let op = NodeOp::Mul {
            loads: vec![load],
            swap: true,
            acc: Acc::Zero,
            to_rows: false,
            hemi,
            plane,
        };
        let b = m.push(&mut nodes, op, n, &[r(a)]);
        let c = m.push(&mut nodes, NodeOp::Alu(AluOp::Abs), n, &[r(b)]);
        let d = m.push(&mut nodes, NodeOp::Write(y, rows(0)), n, &[r(c)]);
        (nodes[a].dtype, nodes[b].dtype, nodes[c].dtype, nodes[d].dtype) = (dtype, dtype, acc, acc);
        m.chain(0, nodes);
        outs.push((i, y));
    }
    for (_, y) in outs {
        m.output(y);
    }
    check(&m.p, &t);
}
