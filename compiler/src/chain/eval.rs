//! Interpreter of chain programs for tests: whole chains, in order, one lane at a time, with the ISA's scalar definitions.
//! It checks what the builder guarantees (live lanes, single definition, order) and panics where that is broken.

use super::{Acc, Affine, BufKind, ChainKind, ChainProgram, Node, NodeArg, NodeOp};
use crate::tir::eval::Tensor;
use lockstep_graph::EntityId;
use lockstep_isa::artifact::HostTensor;
use lockstep_isa::{AluOp, DType, scalar};

type Vector = Vec<Option<u32>>;

/// Runs a program on inputs (bits of the chip dtype, row-major) and returns the outputs' bits.
pub fn run(program: &ChainProgram, lanes: usize, inputs: &[Tensor], states: &mut Vec<Vec<Vector>>) -> Vec<Vec<u32>> {
    let mut mem: Vec<Vec<Vector>> = Vec::new();
    let mut state = 0;
    for (_, buf) in program.bufs.iter() {
        let mut rows = vec![vec![None; lanes]; buf.n_vectors as usize];
        let size = buf.dtype.bytes();
        let width = (buf.hi - buf.lo) as usize;
        let element = |b: &[u8]| {
            let mut le = [0; 4];
            le[..size].copy_from_slice(b);
            u32::from_le_bytes(le)
        };
        match &buf.kind {
            BufKind::Rows(data) => {
                let data = data.bytes().expect("constants can be evaluated");
                assert_eq!(data.len(), width * size * rows.len());
                for (i, row) in rows.iter_mut().enumerate() {
                    for l in 0..width {
                        let at = (i * width + l) * size;
                        row[buf.lo as usize + l] = Some(element(&data[at..at + size]));
                    }
                }
            }
            BufKind::Tile { tile, first, step } => {
                let tile = &program.tiles[*tile];
                let data = tile.data.bytes().expect("constants can be evaluated");
                for (i, row) in rows.iter_mut().enumerate() {
                    let r = *first as usize + i * *step as usize;
                    assert!(r < tile.rows as usize);
                    for l in 0..width {
                        let at = (r * width + l) * size;
                        row[buf.lo as usize + l] = Some(element(&data[at..at + size]));
                    }
                }
            }
            BufKind::State(_) => {
                if states.len() <= state {
                    rows.iter_mut()
                        .for_each(|r| r[buf.lo as usize..buf.hi as usize].fill(Some(0)));
                    states.push(rows.clone());
                }
                rows = states[state].clone();
                state += 1;
            }
            BufKind::Input => rows
                .iter_mut()
                .for_each(|r| r[buf.lo as usize..buf.hi as usize].fill(Some(0))),
            BufKind::Temp | BufKind::NextState(_) => {}
        }
        mem.push(rows);
    }
    for (tensor, port) in inputs.iter().zip(&program.inputs) {
        let bits = tensor.bits();
        each(port, |value, vector, lane, element| {
            mem[value][vector][lane] = Some(bits[element])
        });
    }
    for (_, chain) in program.chains.iter() {
        match &chain.kind {
            ChainKind::Compute { nodes, .. } => compute(program, nodes, &mut mem, lanes),
            ChainKind::Transfer {
                from,
                from_base,
                to,
                to_base,
                n_vectors,
            } => {
                for i in 0..*n_vectors as usize {
                    mem[to.index()][*to_base as usize + i] = mem[from.index()][*from_base as usize + i].clone();
                }
            }
        }
    }
    let mut state = 0;
    for (id, buf) in program.bufs.iter() {
        if let BufKind::State(_) = buf.kind {
            let next = program
                .bufs
                .iter()
                .find(|(_, b)| matches!(b.kind, BufKind::NextState(s) if s == id));
            if let Some((n, _)) = next {
                states[state] = mem[n.index()].clone();
            }
            state += 1;
        }
    }
    program
        .outputs
        .iter()
        .map(|port| {
            let mut out = vec![0; port.shape.iter().product::<u64>() as usize];
            each(port, |value, vector, lane, element| {
                out[element] = mem[value][vector][lane].expect("output lane is defined");
            });
            out
        })
        .collect()
}

fn each(port: &HostTensor, mut f: impl FnMut(usize, usize, usize, usize)) {
    for nest in &port.nests {
        let mut index = vec![0u32; nest.dims.len()];
        loop {
            let sum = |g: &dyn Fn(usize) -> i64| (0..index.len()).map(|d| index[d] as i64 * g(d)).sum::<i64>();
            let element = nest.element as i64 + sum(&|d| nest.dims[d].element);
            let vector = nest.vector as i64 + sum(&|d| nest.dims[d].vector as i64);
            let lane = nest.lane as i64 + sum(&|d| nest.dims[d].lane as i64);
            f(nest.value as usize, vector as usize, lane as usize, element as usize);
            let Some(d) = (0..index.len()).find(|&d| index[d] + 1 < nest.dims[d].count) else {
                break;
            };
            index[d] += 1;
            index[..d].fill(0);
        }
    }
}

fn address(at: &Affine, dims: [u32; 3], n: u32) -> usize {
    let i = [n % dims[0], n / dims[0] % dims[1], n / dims[0] / dims[1]];
    (at.base as i64 + (0..3).map(|d| i[d] as i64 * at.strides[d] as i64).sum::<i64>()) as usize
}

fn compute(program: &ChainProgram, nodes: &[Node], mem: &mut [Vec<Vector>], lanes: usize) {
    let mut results: Vec<Vec<Vector>> = Vec::new();
    // Result dtype per node.
    let mut types: Vec<DType> = Vec::new();
    for (n, node) in nodes.iter().enumerate() {
        let issues = node.issues();
        let live = node.lo as usize..node.hi as usize;
        let arg = |k: usize, i: u32| -> (Vector, DType) {
            match node.args[k] {
                NodeArg::Imm(bits) => (vec![Some(bits); lanes], DType::I32),
                NodeArg::Node { node, first } => (
                    results[node as usize][(first + i) as usize].clone(),
                    types[node as usize],
                ),
            }
        };
        let mut out: Vec<Vector> = Vec::new();
        let mut ty = node.dtype;
        match &node.op {
            NodeOp::Read(buf, at) => {
                let b = &program.bufs[*buf];
                assert_eq!((b.dtype, b.lo, b.hi), (node.dtype, node.lo, node.hi), "read of {buf}");
                for i in 0..issues {
                    let v = mem[buf.index()][address(at, node.dims, i)].clone();
                    assert!(
                        v[live.clone()].iter().all(Option::is_some),
                        "read of {buf} before it is written: node {n} {node:?}"
                    );
                    out.push(v);
                }
            }
            NodeOp::Write(buf, at) => {
                let b = &program.bufs[*buf];
                assert_eq!((b.dtype, b.lo, b.hi), (node.dtype, node.lo, node.hi), "write of {buf}");
                for i in 0..issues {
                    let (v, ty) = arg(0, i);
                    assert_eq!(ty, node.dtype, "write of {buf}: {nodes:#?}");
                    let defined: Vec<bool> = v.iter().map(Option::is_some).collect();
                    let want: Vec<bool> = (0..lanes).map(|l| live.contains(&l)).collect();
                    assert_eq!(defined, want, "live lanes of a write of {buf} {nodes:#?}");
                    let row = &mut mem[buf.index()][address(at, node.dims, i)];
                    assert!(row.iter().all(Option::is_none), "{buf} is written twice");
                    *row = v;
                }
            }
            NodeOp::Gather {
                buf,
                at,
                row_stride,
                limit,
            } => {
                for i in 0..issues {
                    let index = arg(0, i).0[0].expect("index").min(limit - 1) * row_stride;
                    out.push(mem[buf.index()][address(at, node.dims, i) + index as usize].clone());
                }
            }
            NodeOp::Scatter { .. } | NodeOp::Load { .. } => {}
            NodeOp::Transpose { n_out, .. } => {
                let x: Vec<Vector> = (0..issues).map(|i| arg(0, i).0).collect();
                assert_eq!(live.len(), *n_out as usize);
                for l in live.clone() {
                    out.push((0..lanes).map(|j| x.get(j).and_then(|x| x[l])).collect());
                }
            }
            NodeOp::Mul { loads, acc, .. } => {
                ty = node.dtype.widened();
                let mut tile = vec![vec![None; lanes]; lanes];
                let decode = |w: u32, stored: DType| {
                    let wide = scalar::widen(w, stored);
                    match node.dtype.is_float() && !stored.is_float() {
                        true => (wide as i32 as f32).to_bits(),
                        false => wide,
                    }
                };
                for &l in loads {
                    let load = &nodes[l as usize];
                    let NodeOp::Load {
                        by_column,
                        window,
                        scaled,
                        ..
                    } = &load.op
                    else {
                        panic!("not a load")
                    };
                    let count = if *by_column {
                        window.n1 - window.n0
                    } else {
                        window.k1 - window.k0
                    } as usize;
                    let belts = load.args.len() - usize::from(*scaled);
                    let source = |b: usize| match load.args[b] {
                        NodeArg::Node { node, .. } => node as usize,
                        NodeArg::Imm(_) => panic!("belt"),
                    };
                    let per = nodes[source(0)].dtype.load_rows();
                    assert_eq!(load.issues() as usize, count.div_ceil(per).div_ceil(belts));
                    let by = |i: usize, c: usize| match scaled {
                        false => None,
                        true => {
                            let scales = &results[source(belts)][i / per / belts];
                            let bits = scales[c].expect("live scale");
                            Some(f32::from_bits(scalar::widen(bits, nodes[source(belts)].dtype)))
                        }
                    };
                    for i in 0..count {
                        let src = source(i / per % belts);
                        let stored = nodes[src].dtype;
                        let v = &results[src][i / per / belts];
                        if *by_column {
                            for k in window.k0..window.k1 {
                                tile[k as usize][window.n0 as usize + i] = v[k as usize].map(|w| decode(w, stored));
                                assert!(v[k as usize].is_some(), "undefined weight");
                            }
                        } else {
                            for c in window.n0..window.n1 {
                                tile[window.k0 as usize + i][c as usize] = v[c as usize].map(|w| {
                                    let w = match stored {
                                        DType::I4 => (scalar::pair(w as u8)[i % per] as f32).to_bits(),
                                        _ => decode(w, stored),
                                    };
                                    by(i, c as usize).map_or(w, |by| (f32::from_bits(w) * by).to_bits())
                                });
                                assert!(v[c as usize].is_some(), "undefined weight");
                            }
                        }
                    }
                }
                for i in 0..issues {
                    let (x, x_ty) = arg(0, i);
                    let mut y: Vector = match acc {
                        Acc::Zero => vec![None; lanes],
                        Acc::Rows(m) => results[*m as usize][i as usize].clone(),
                    };
                    for c in 0..lanes {
                        for k in 0..lanes {
                            let Some(w) = tile[k][c] else { continue };
                            let x = scalar::widen(x[k].expect("x lane is live"), x_ty);
                            let a = y[c].unwrap_or(0);
                            y[c] = Some(if ty == DType::F32 {
                                scalar::mac_f32(f32::from_bits(x), f32::from_bits(w), f32::from_bits(a)).to_bits()
                            } else {
                                scalar::mac_i32(x as i32, w as i32, a as i32) as u32
                            });
                        }
                    }
                    out.push(y);
                }
            }
            NodeOp::Alu(op) => {
                for i in 0..issues {
                    let mut args: Vec<(Vector, DType)> = (0..node.args.len()).map(|k| arg(k, i)).collect();
                    args.resize(3, (vec![Some(0); lanes], DType::I32));
                    // Immediates have the type of the other operands.
                    let first = if *op == AluOp::Select { 1 } else { 0 };
                    let ty = (first..node.args.len())
                        .filter(|&k| matches!(node.args[k], NodeArg::Node { .. }))
                        .map(|k| args[k].1.widened())
                        .next()
                        .unwrap_or(node.dtype.widened());
                    let v = (0..lanes)
                        .map(|l| {
                            let get = |k: usize| args[k].0[l].map(|b| scalar::widen(b, args[k].1));
                            let mut a = get(0)?;
                            if *op == AluOp::Select {
                                a = scalar::truth(a, args[0].1.widened());
                            }
                            let r = scalar::alu(*op, ty, a, get(1)?, get(2)?);
                            Some(if *op == AluOp::Cvt {
                                scalar::convert(a, ty, node.dtype)
                            } else {
                                r
                            })
                        })
                        .collect();
                    out.push(v);
                }
            }
            NodeOp::Fold { op, dims, every } => {
                assert!(!every);
                let folded: u32 = node.dims[..*dims as usize].iter().product();
                for i in 0..issues / folded {
                    let mut acc: Option<Vector> = None;
                    for k in 0..folded {
                        let (x, x_ty) = arg(0, i * folded + k);
                        let x: Vector = x.iter().map(|b| b.map(|b| scalar::widen(b, x_ty))).collect();
                        acc = Some(match acc {
                            None => x,
                            Some(a) => a
                                .iter()
                                .zip(&x)
                                .map(|(a, x)| Some(scalar::combine(*op, node.dtype, (*a)?, (*x)?)))
                                .collect(),
                        });
                    }
                    out.push(acc.expect("fold of something"));
                }
            }
            NodeOp::Permute { fill, .. } => {
                for i in 0..issues {
                    let ((x, _), (map, _)) = (arg(0, i), arg(1, i));
                    let pick = |m: u32| {
                        if m == 0xffff {
                            Some(*fill)
                        } else {
                            Some(x[m as usize].expect("mapped lane is live"))
                        }
                    };
                    out.push(map.iter().map(|m| m.and_then(pick)).collect());
                }
            }
            NodeOp::Reduce { op, segment, .. } => {
                for i in 0..issues {
                    let (x, x_ty) = arg(0, i);
                    assert_eq!(x_ty.bytes(), 4);
                    let s = *segment as usize;
                    assert!(live.start % s == 0 && live.end % s == 0, "segments {s} of {live:?}");
                    let mut y = vec![None; lanes];
                    for start in live.clone().step_by(s) {
                        let seg: Vec<u32> = x[start..start + s].iter().map(|b| b.expect("live")).collect();
                        y[start..start + s].fill(Some(scalar::reduce(*op, x_ty, &seg)));
                    }
                    out.push(y);
                }
            }
        }
        if !matches!(
            node.op,
            NodeOp::Write(..) | NodeOp::Load { .. } | NodeOp::Transpose { .. }
        ) {
            for v in &out {
                let defined: Vec<usize> = (0..lanes).filter(|&l| v[l].is_some()).collect();
                let hull = defined.first().map(|&a| (a, defined[defined.len() - 1] + 1));
                assert_eq!(
                    hull,
                    Some((node.lo as usize, node.hi as usize)),
                    "live lanes of node {n} {node:?} in {nodes:#?}"
                );
            }
        }
        results.push(out);
        types.push(ty);
    }
}
