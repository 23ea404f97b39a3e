//! Inputs, outputs, states and transfers.

use super::{Builder, Home};
use crate::chain::{BufKind, Chain, ChainKind};
use crate::error::CompileError;
use crate::layout::Layout;
use crate::layout::choose::{default_layout, with_lanes};
use crate::layout::host::nests;
use crate::tir::{Op, Port, ValueId, row_major};
use lockstep_graph::EntityId;
use lockstep_isa::artifact::{HostTensor, State};
use std::rc::Rc;

impl Builder<'_> {
    /// The operand on another chip: every buffer over a link.
    pub fn lower_transfer(&mut self, v: ValueId) -> Result<(), CompileError> {
        let from_value = self.ir.values[v].inputs[0];
        if self.is_lazy(from_value) {
            let layout = self.layout_in_place(from_value)?;
            let home = self.relayout(from_value, &layout)?;
            self.homes[from_value.index()] = Some(home);
        }
        let from = self.any_home(from_value)?;
        let nth = self.transfers(from_value).position(|t| t == v).unwrap_or(0);
        let nth = nth % self.copies[from_value.index()];
        let home = self.new_home(self.chip(v), self.dtype(v), from.layout.clone(), |_| BufKind::Temp);
        for (a, b) in from.bufs.iter().zip(&home.bufs) {
            let (Some(a), Some(b)) = (*a, *b) else { continue };
            let n_vectors = self.prog.bufs[a].n_vectors;
            let kind = ChainKind::Transfer {
                from: self.twin_of(a, nth),
                from_base: 0,
                to: b,
                to_base: 0,
                n_vectors,
            };
            let origin = self.origin;
            self.prog.chains.push(Chain { kind, origin });
        }
        self.finish(&[v], v, home);
        Ok(())
    }

    /// The transfers of a value, one after another.
    pub fn transfers(&self, v: ValueId) -> impl Iterator<Item = ValueId> {
        let users = self.users[v.index()].iter().copied();
        users.filter(|&u| matches!(self.ir.values[u].op, Op::Transfer))
    }

    /// A layout of a value behind moves in which no element changes its lane, where one or two axes in the lanes give that and it takes
    /// at most twice the words of the default one; else that.
    fn layout_in_place(&self, v: ValueId) -> Result<Layout, CompileError> {
        let (shape, lanes, rows) = (self.shape(v), self.lanes(), self.rows(v));
        let default = default_layout(shape, lanes, &rows);
        if self.keeps_lanes(v, &default)? {
            return Ok(default);
        }
        let words = |layout: &Layout| -> usize {
            let parts = (0..layout.n_parts()).map(|p| layout.part(p));
            let of = |part| layout.bases(&part).len() * (part.hi * self.dtype(v).bytes()).div_ceil(lanes);
            parts.map(of).sum()
        };
        let most = 2 * words(&default);
        let axes: Vec<usize> = (0..shape.len()).rev().filter(|&a| shape[a] > 1).collect();
        let pairs = axes
            .iter()
            .flat_map(|&a| axes.iter().filter(move |&&b| b != a).map(move |&b| vec![a, b]));
        for order in pairs.chain(axes.iter().map(|&a| vec![a])) {
            let layout = with_lanes(shape, &order, lanes, &rows, |_| order.len() > 1);
            if words(&layout) <= most && self.keeps_lanes(v, &layout)? {
                return Ok(layout);
            }
        }
        Ok(default)
    }

    /// The signature, and the next contents of states.
    pub fn lower_ports(&mut self) -> Result<(), CompileError> {
        // Outputs first: an input that is an output gets its home here, and the contents of states are still those before the run.
        let ports = self.ir.outputs.clone();
        for port in &ports {
            self.set_origin(port.value);
            let (home, strides) = self.output_home(port.value)?;
            let mut tensor = host_tensor(port);
            if !port.shape.contains(&0) {
                tensor.nests = host_nests(&home, &strides);
            }
            self.prog.outputs.push(tensor);
        }
        let states: Vec<_> = self.ir.states.iter().map(|(_, s)| s.clone()).collect();
        // Whose contents another state takes over is copied before it changes.
        let holders: Vec<Option<ValueId>> = (0..states.len())
            .map(|n| {
                let mut all = self.ir.values.ids();
                all.find(|&v| matches!(&self.ir.values[v].op, Op::State(s) if s.index() == n))
            })
            .collect();
        let mut old = Vec::with_capacity(states.len());
        for holder in &holders {
            old.push(holder.map(|h| self.any_home(h)).transpose()?);
        }
        for (state, holder) in states.iter().zip(&holders) {
            self.set_origin(state.next);
            if self.reads_state(state.next) {
                self.carry_out(state.next)?;
            } else if matches!(self.ir.values[state.next].op, Op::State(_)) && Some(state.next) != *holder {
                let home = self.any_home(state.next)?;
                let copy = self.new_home(
                    self.chip(state.next),
                    self.dtype(state.next),
                    home.layout.clone(),
                    |_| BufKind::Temp,
                );
                self.fill_home(state.next, &copy)?;
                self.homes[state.next.index()] = Some(copy);
            }
        }
        for ((state, holder), old) in states.iter().zip(holders).zip(old) {
            self.prog.states.push(State {
                name: state.name.clone(),
                from: state.from.clone(),
            });
            let (Some(holder), Some(old)) = (holder, old) else {
                continue;
            };
            // A state that stays as it is, or is updated in place, is not written here.
            if state.next == holder || self.updates.iter().any(|u| u.holder == holder) {
                continue;
            }
            self.set_origin(state.next);
            let chip = self.chip(holder);
            let new = self.new_home(chip, self.dtype(holder), old.layout.clone(), |p| match old.bufs[p] {
                Some(buf) => BufKind::NextState(buf),
                None => BufKind::Temp,
            });
            if self.is_const(state.next) || self.chip(state.next) == chip {
                self.fill_home(state.next, &new)?;
            } else {
                return Err(CompileError::internal(
                    "chains",
                    format!("state {} is computed on another chip", state.name),
                ));
            }
        }
        let ports = self.ir.inputs.clone();
        for (n, port) in ports.iter().enumerate() {
            let mut holders = vec![port.value];
            holders.extend(self.input_copies.iter().filter(|c| c.0 == n).map(|c| c.1));
            let mut tensor = host_tensor(port);
            for v in holders {
                let Some(home) = self.homes[v.index()].clone() else {
                    continue;
                };
                let strides = row_major(&home.layout.shape);
                tensor.nests.extend(host_nests(&home, &strides));
            }
            self.prog.inputs.push(tensor);
        }
        Ok(())
    }

    /// Whether a value is a re-arrangement of a state's contents that has not been carried out.
    fn reads_state(&self, v: ValueId) -> bool {
        let data = &self.ir.values[v];
        self.is_lazy(v)
            && data
                .inputs
                .iter()
                .any(|&u| matches!(self.ir.values[u].op, Op::State(_)) || self.reads_state(u))
    }

    /// A home that the program writes (constants and inputs are copied, so that outputs are always computed), and how far apart
    /// the host has neighbours along its axes: a permutation is left to the host.
    fn output_home(&mut self, v: ValueId) -> Result<(Rc<Home>, Vec<usize>), CompileError> {
        let strides = row_major(self.shape(v));
        if let Some(home) = self.computed(v) {
            return Ok((home, strides));
        }
        if let Some((u, perm)) = self.permuted(v)
            && let Some(home) = self.computed(u)
        {
            let mut apart = vec![1; perm.len()];
            perm.iter().zip(strides).for_each(|(&axis, n)| apart[axis] = n);
            return Ok((home, apart));
        }
        let layout = default_layout(self.shape(v), self.lanes(), &self.rows(v));
        let home = self.new_home(self.chip(v), self.dtype(v), layout, |_| BufKind::Temp);
        self.fill_home(v, &home)?;
        Ok((home, strides))
    }

    /// The home of a value that the program computes.
    fn computed(&self, v: ValueId) -> Option<Rc<Home>> {
        let placed = matches!(self.ir.values[v].op, Op::Input | Op::State(_));
        self.homes[v.index()].clone().filter(|_| !self.is_const(v) && !placed)
    }

    /// What a move that is not carried out permutes, and the axis of it that each axis shows.
    fn permuted(&self, v: ValueId) -> Option<(ValueId, Vec<usize>)> {
        let data = &self.ir.values[v];
        let (Op::Move { parts, .. }, [u]) = (&data.op, &data.inputs[..]) else {
            return None;
        };
        let perm = self.ir.maps.get(parts[0]).as_transpose(self.shape(*u))?;
        (self.is_lazy(v) && self.dtype(*u) == data.ty.dtype).then_some((*u, perm))
    }
}

fn host_tensor(port: &Port) -> HostTensor {
    HostTensor {
        name: port.name.clone(),
        dtype: port.host,
        shape: port.shape.iter().map(|&n| n as u64).collect(),
        fill: 0,
        nests: Vec::new(),
    }
}

fn host_nests(home: &Home, strides: &[usize]) -> Vec<lockstep_isa::artifact::HostNest> {
    nests(&home.layout, strides, |p| home.bufs[p].map(|b| b.index() as u32))
}
