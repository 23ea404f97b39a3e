//! A17: the maps of host tensors place each element of an input once on every chip that has the input, take each element
//! of an output once, and stay within live lanes.

use super::Invariant;
use super::report::Sink;
use crate::artifact::{Entry, HostNest, HostTensor, ValueKind};

type Check = Result<(), String>;

/// Most elements of one host tensor.
const MAX_ELEMENTS: u64 = 1 << 30;

/// Checks the signature of an entry. `ok` says which values are sound.
pub(super) fn check(entry: &Entry, ok: &[bool], sink: &mut Sink) {
    let mut placed: Vec<Option<Vec<bool>>> = vec![None; entry.values.len()];
    for tensor in &entry.inputs {
        // One map per chip that has the input.
        let mut chips: Vec<u16> = tensor
            .nests
            .iter()
            .filter_map(|n| entry.values.get(n.value as usize))
            .map(|v| v.chip)
            .collect();
        chips.sort_unstable();
        chips.dedup();
        let stray = |n: &&HostNest| entry.values.get(n.value as usize).is_none();
        if let Some(nest) = tensor.nests.iter().find(stray) {
            let what = format!("input {:?}: no value v{}", tensor.name, nest.value);
            sink.global(Invariant::HostMaps, &entry.name, None, what);
            continue;
        }
        for chip in chips {
            let here = HostTensor {
                nests: tensor
                    .nests
                    .iter()
                    .filter(|n| entry.values[n.value as usize].chip == chip)
                    .cloned()
                    .collect(),
                ..tensor.clone()
            };
            if let Err(what) = check_tensor(entry, ok, &here, Some(&mut placed)) {
                let what = format!("input {:?} on c{chip}: {what}", tensor.name);
                sink.global(Invariant::HostMaps, &entry.name, None, what);
            }
        }
    }
    for tensor in &entry.outputs {
        if let Err(what) = check_tensor(entry, ok, tensor, None) {
            let what = format!("output {:?}: {what}", tensor.name);
            sink.global(Invariant::HostMaps, &entry.name, None, what);
        }
    }
}

fn check_tensor(
    entry: &Entry,
    ok: &[bool],
    tensor: &HostTensor,
    mut placed: Option<&mut Vec<Option<Vec<bool>>>>,
) -> Check {
    let elements = tensor
        .shape
        .iter()
        .try_fold(1u64, |n, &d| n.checked_mul(d))
        .filter(|&n| n <= MAX_ELEMENTS)
        .ok_or_else(|| format!("more than {MAX_ELEMENTS} elements"))?;
    let mut mapped = 0u64;
    for nest in &tensor.nests {
        check_nest(entry, ok, nest, elements, placed.is_some())?;
        mapped = nest
            .dims
            .iter()
            .map(|d| d.count as u64)
            .try_fold(1u64, u64::checked_mul)
            .and_then(|n| n.checked_add(mapped))
            .unwrap_or(u64::MAX);
    }
    if mapped != elements {
        return Err(format!("{mapped} elements are mapped of {elements}"));
    }
    let mut seen = vec![false; elements as usize];
    for nest in &tensor.nests {
        let v = &entry.values[nest.value as usize];
        let lanes = (v.hi - v.lo) as u64;
        let mut lane_bits = match &mut placed {
            Some(p) => p
                .get_mut(nest.value as usize)
                .map(|b| b.get_or_insert_with(|| vec![false; (v.n_vectors as u64 * lanes) as usize])),
            None => None,
        };
        let mut sound = Ok(());
        each(nest, |element, vector, lane| {
            let twice = seen
                .get_mut(element as usize)
                .is_none_or(|s| std::mem::replace(s, true));
            if twice && sound.is_ok() {
                sound = Err(format!("element {element} is mapped twice"));
            }
            if let Some(bits) = &mut lane_bits {
                let at = vector as u64 * lanes + (lane as u64 - v.lo as u64);
                let twice = bits.get_mut(at as usize).is_none_or(|b| std::mem::replace(b, true));
                if twice && sound.is_ok() {
                    sound = Err(format!(
                        "lane {lane} of vector {vector} of v{} is filled twice",
                        nest.value
                    ));
                }
            }
        });
        sound?;
    }
    Ok(())
}

/// The extremes of a nest lie within tensor and value.
fn check_nest(entry: &Entry, ok: &[bool], nest: &HostNest, elements: u64, input: bool) -> Check {
    let value = entry.values.get(nest.value as usize);
    let Some(v) = value.filter(|_| ok.get(nest.value as usize).is_some_and(|&o| o)) else {
        return Err(format!("v{} of {}", nest.value, entry.values.len()));
    };
    if input && v.kind != ValueKind::Input {
        return Err(format!("v{} is {:?}, no input", nest.value, v.kind));
    }
    let reach = |base: i128, step: &dyn Fn(usize) -> i128| {
        let (mut lo, mut hi) = (base, base);
        for (d, dim) in nest.dims.iter().enumerate() {
            let r = (dim.count as i128 - 1) * step(d);
            lo += r.min(0);
            hi += r.max(0);
        }
        (lo, hi)
    };
    if let Some(d) = nest.dims.iter().position(|d| d.count == 0) {
        return Err(format!("dimension {d} of a nest has count 0"));
    }
    let within = |(lo, hi): (i128, i128), from: i128, to: i128, what: &str| {
        if lo >= from && hi < to {
            Ok(())
        } else {
            Err(format!("{what} {lo}..={hi} of v{}, {from}..{to} exist", nest.value))
        }
    };
    let d = &nest.dims;
    within(
        reach(nest.element as i128, &|i| d[i].element as i128),
        0,
        elements as i128,
        "host elements",
    )?;
    within(
        reach(nest.vector as i128, &|i| d[i].vector as i128),
        0,
        v.n_vectors as i128,
        "vectors",
    )?;
    within(
        reach(nest.lane as i128, &|i| d[i].lane as i128),
        v.lo as i128,
        v.hi as i128,
        "lanes",
    )
}

/// Visits (element, vector, lane) of every index vector of a nest whose extremes are checked.
fn each(nest: &HostNest, mut visit: impl FnMut(i64, i64, i64)) {
    let mut index = vec![0u32; nest.dims.len()];
    let (mut e, mut v, mut l) = (nest.element as i64, nest.vector as i64, nest.lane as i64);
    loop {
        visit(e, v, l);
        let mut d = nest.dims.len();
        loop {
            if d == 0 {
                return;
            }
            d -= 1;
            let dim = &nest.dims[d];
            index[d] += 1;
            e += dim.element;
            v += dim.vector as i64;
            l += dim.lane as i64;
            if index[d] < dim.count {
                break;
            }
            index[d] = 0;
            e -= dim.element * dim.count as i64;
            v -= dim.vector as i64 * dim.count as i64;
            l -= dim.lane as i64 * dim.count as i64;
        }
    }
}

/// Marks the values that must be whole after the last cycle: those of outputs, and the last version of each state.
pub(super) fn outlive(entry: &Entry) -> Vec<bool> {
    let mut wanted = vec![false; entry.values.len()];
    let mut replaced = vec![false; entry.values.len()];
    for v in &entry.values {
        if let ValueKind::NextState(old) = v.kind
            && let Some(r) = replaced.get_mut(old as usize)
        {
            *r = true;
        }
    }
    for (v, value) in entry.values.iter().enumerate() {
        let state = matches!(value.kind, ValueKind::State(_) | ValueKind::NextState(_));
        wanted[v] = state && !replaced[v];
    }
    for nest in entry.outputs.iter().flat_map(|o| &o.nests) {
        if let Some(w) = wanted.get_mut(nest.value as usize) {
            *w = true;
        }
    }
    wanted
}
