//! Host input and output: the static index maps of a signature, resolved to memory offsets when the artifact is loaded.
//!
//! A run allocates nothing: outputs lie in buffers of this type.

use crate::error::ExecError;
use crate::host_convert::{to_chip, to_host};
use crate::host_tensor::{HostTensor, TensorView, describe, element_count};
use crate::memory::Memory;
use lockstep_isa::artifact::{self, Artifact, Entry, HostDType, HostNest, Value};
use lockstep_isa::{DType, scalar};

/// Most dimensions of one nest: enough for every split of every axis of a tensor.
const MAX_DIMS: usize = 32;

/// Resolved host maps of all entries, and their output buffers.
pub struct HostIo {
    entries: Vec<EntryIo>,
}

struct EntryIo {
    name: String,
    inputs: Vec<TensorIo>,
    outputs: Vec<TensorIo>,
    results: Vec<HostTensor>,
}

struct TensorIo {
    name: String,
    dtype: HostDType,
    shape: Vec<u64>,
    bytes: usize,
    fills: Vec<Fill>,
    nests: Vec<Nest>,
}

/// Live lanes of an input value that are filled before elements are placed.
struct Fill {
    offset: usize,
    vector_bytes: usize,
    n_vectors: usize,
    lo: usize,
    hi: usize,
    size: usize,
    bits: u32,
}

/// A nest in bytes: host byte `host`, chip byte `chip`, and the steps of each dimension, outermost first.
struct Nest {
    host: usize,
    chip: usize,
    dtype: DType,
    steps: Vec<Step>,
}

#[derive(Clone, Copy)]
struct Step {
    count: u32,
    host: isize,
    chip: isize,
}

impl HostIo {
    /// Resolves the signatures of an artifact against its memory. Output buffers take at most `max_bytes`.
    ///
    /// # Errors
    /// A nest that leaves its tensor or the live lanes of its value, a value without memory, buffers over the limit.
    pub fn new(artifact: &Artifact, memory: &Memory, max_bytes: u64) -> Result<HostIo, ExecError> {
        let mut budget = max_bytes;
        let mut entries = Vec::with_capacity(artifact.entries.len());
        for entry in &artifact.entries {
            let resolve = |list: &[artifact::HostTensor], input| {
                list.iter()
                    .map(|t| {
                        resolve_tensor(entry, t, memory, input).map_err(|what| {
                            let at = format!("entry {:?} tensor {:?}", entry.name, t.name);
                            ExecError::artifact(at, what)
                        })
                    })
                    .collect::<Result<Vec<TensorIo>, ExecError>>()
            };
            let inputs = resolve(&entry.inputs, true)?;
            let outputs = resolve(&entry.outputs, false)?;
            let mut results = Vec::with_capacity(outputs.len());
            for t in &outputs {
                budget = budget.checked_sub(t.bytes as u64).ok_or(ExecError::Memory {
                    needed: t.bytes as u64,
                    allowed: max_bytes,
                })?;
                let mut bytes = Vec::new();
                bytes.try_reserve_exact(t.bytes).map_err(|_| ExecError::Memory {
                    needed: t.bytes as u64,
                    allowed: 0,
                })?;
                bytes.resize(t.bytes, 0);
                results.push(HostTensor {
                    name: t.name.clone(),
                    dtype: t.dtype,
                    shape: t.shape.clone(),
                    bytes,
                });
            }
            entries.push(EntryIo {
                name: entry.name.clone(),
                inputs,
                outputs,
                results,
            });
        }
        Ok(HostIo { entries })
    }

    /// Checks that the inputs of a run match the signature of the entry.
    ///
    /// # Errors
    /// An entry out of range; a wrong number of inputs; a dtype, shape or length that the signature does not state.
    pub fn check(&self, entry: usize, inputs: &[TensorView<'_>]) -> Result<(), ExecError> {
        let Some(io) = self.entries.get(entry) else {
            return Err(ExecError::Entry {
                entry,
                count: self.entries.len(),
            });
        };
        if inputs.len() != io.inputs.len() {
            let names: Vec<&str> = io.inputs.iter().map(|t| t.name.as_str()).collect();
            return Err(ExecError::InputCount {
                entry: io.name.clone(),
                expected: io.inputs.len(),
                names: names.join(", "),
                found: inputs.len(),
            });
        }
        for (t, view) in io.inputs.iter().zip(inputs) {
            let error = |expected: String, found: String| ExecError::Input {
                name: t.name.clone(),
                expected,
                found,
            };
            if view.dtype != t.dtype || view.shape != t.shape {
                return Err(error(describe(t.dtype, &t.shape), describe(view.dtype, view.shape)));
            }
            if view.bytes.len() != t.bytes {
                return Err(error(
                    format!("{} bytes", t.bytes),
                    format!("{} bytes", view.bytes.len()),
                ));
            }
        }
        Ok(())
    }

    /// Places checked inputs: fills, then elements. `bytes` are those of the memory given to [`HostIo::new`].
    pub fn place(&self, entry: usize, inputs: &[TensorView<'_>], bytes: &mut [u8]) {
        let Some(io) = self.entries.get(entry) else {
            return;
        };
        for (t, view) in io.inputs.iter().zip(inputs) {
            for fill in &t.fills {
                fill.apply(bytes);
            }
            for nest in &t.nests {
                walk(&nest.steps, nest.host, nest.chip, &mut |host, chip, step| {
                    place_row(view.bytes, bytes, t.dtype, nest.dtype, host, chip, step);
                });
            }
        }
    }

    /// Takes the outputs of an entry from memory into its buffers, NaN made canonical.
    pub fn take(&mut self, entry: usize, bytes: &[u8]) -> &[HostTensor] {
        let Some(io) = self.entries.get_mut(entry) else {
            return &[];
        };
        for (t, result) in io.outputs.iter().zip(&mut io.results) {
            for nest in &t.nests {
                walk(&nest.steps, nest.host, nest.chip, &mut |host, chip, step| {
                    take_row(&mut result.bytes, bytes, t.dtype, nest.dtype, host, chip, step);
                });
            }
        }
        &io.results
    }
}

impl Fill {
    fn apply(&self, bytes: &mut [u8]) {
        let pattern = self.bits.to_le_bytes();
        for i in 0..self.n_vectors {
            let start = self.offset + i * self.vector_bytes;
            let Some(live) = bytes.get_mut(start + self.lo..start + self.hi) else {
                return;
            };
            for element in live.chunks_exact_mut(self.size) {
                element.copy_from_slice(&pattern[..self.size]);
            }
        }
    }
}

/// Visits all rows of a nest: calls `f` with the first host and chip byte and the innermost step.
fn walk(steps: &[Step], host: usize, chip: usize, f: &mut impl FnMut(usize, usize, Step)) {
    match steps {
        [] => f(
            host,
            chip,
            Step {
                count: 1,
                host: 0,
                chip: 0,
            },
        ),
        [inner] => f(host, chip, *inner),
        [outer, rest @ ..] => {
            for i in 0..outer.count as isize {
                let host = host.wrapping_add_signed(i * outer.host);
                let chip = chip.wrapping_add_signed(i * outer.chip);
                walk(rest, host, chip, f);
            }
        }
    }
}

/// Whether host and chip elements have the same bits.
fn same_bits(host: HostDType, chip: DType) -> bool {
    matches!(
        (host, chip),
        (HostDType::F32, DType::F32)
            | (HostDType::F16, DType::F16)
            | (HostDType::BF16, DType::BF16)
            | (HostDType::I32, DType::I32)
            | (HostDType::I8, DType::I8)
            | (HostDType::U8, DType::U8)
            | (HostDType::U16, DType::U16)
    )
}

fn place_row(from: &[u8], to: &mut [u8], host: HostDType, dtype: DType, h: usize, c: usize, step: Step) {
    let (hs, cs) = (host.bytes(), dtype.bytes());
    let n = step.count as usize;
    if same_bits(host, dtype) && step.host == hs as isize && step.chip == cs as isize {
        to[c..c + n * cs].copy_from_slice(&from[h..h + n * hs]);
        return;
    }
    if same_bits(host, dtype) && cs == 4 {
        strided(from, to, (h, step.host), (c, step.chip), n);
        return;
    }
    for i in 0..n as isize {
        let h = h.wrapping_add_signed(i * step.host);
        let c = c.wrapping_add_signed(i * step.chip);
        let bits = to_chip(&from[h..h + hs], host, dtype);
        to[c..c + cs].copy_from_slice(&bits.to_le_bytes()[..cs]);
    }
}

/// Copies `n` elements of 4 bytes, each side at its first byte and step.
fn strided(from: &[u8], to: &mut [u8], (mut h, host): (usize, isize), (mut c, chip): (usize, isize), n: usize) {
    for _ in 0..n {
        if let (Some(from), Some(to)) = (from.get(h..h + 4), to.get_mut(c..c + 4)) {
            to.copy_from_slice(from);
        }
        (h, c) = (h.wrapping_add_signed(host), c.wrapping_add_signed(chip));
    }
}

fn take_row(to: &mut [u8], from: &[u8], host: HostDType, dtype: DType, h: usize, c: usize, step: Step) {
    let (hs, cs) = (host.bytes(), dtype.bytes());
    let n = step.count as usize;
    if same_bits(host, dtype) && step.host == hs as isize && step.chip == cs as isize {
        let row = &mut to[h..h + n * hs];
        row.copy_from_slice(&from[c..c + n * cs]);
        if dtype == DType::F32 {
            for e in row.chunks_exact_mut(4) {
                if f32::from_le_bytes([e[0], e[1], e[2], e[3]]).is_nan() {
                    e.copy_from_slice(&0x7fc0_0000u32.to_le_bytes());
                }
            }
        } else if let Some(nan) = scalar::canonical_nan(dtype) {
            for e in row.chunks_exact_mut(2) {
                let bits = u16::from_le_bytes([e[0], e[1]]) as u32;
                if f32::from_bits(scalar::widen(bits, dtype)).is_nan() {
                    e.copy_from_slice(&(nan as u16).to_le_bytes());
                }
            }
        }
        return;
    }
    for i in 0..n as isize {
        let h = h.wrapping_add_signed(i * step.host);
        let c = c.wrapping_add_signed(i * step.chip);
        let mut bits = [0u8; 4];
        bits[..cs].copy_from_slice(&from[c..c + cs]);
        let element = to_host(u32::from_le_bytes(bits), dtype, host);
        to[h..h + hs].copy_from_slice(&element[..hs]);
    }
}

fn resolve_tensor(entry: &Entry, t: &artifact::HostTensor, memory: &Memory, input: bool) -> Result<TensorIo, String> {
    let size = t.dtype.bytes();
    let elements = element_count(&t.shape)
        .filter(|n| n.checked_mul(size as u64).is_some_and(|b| b < 1 << 48))
        .ok_or_else(|| format!("shape {:?} is too large", t.shape))?;
    let mut nests = Vec::with_capacity(t.nests.len());
    let mut covered = 0u64;
    let mut values: Vec<u32> = Vec::new();
    for nest in &t.nests {
        let Some(v) = entry.values.get(nest.value as usize) else {
            return Err(format!("value v{} of {}", nest.value, entry.values.len()));
        };
        let (nest_io, n) = resolve_nest(nest, v, t.dtype, elements, memory)?;
        covered = covered.saturating_add(n);
        nests.push(nest_io);
        values.push(nest.value);
    }
    // An input lies whole on every chip that has it.
    let mut chips: Vec<u16> = values.iter().map(|&v| entry.values[v as usize].chip).collect();
    chips.sort_unstable();
    chips.dedup();
    let copies = if input { chips.len() as u64 } else { 1 };
    if covered != elements.saturating_mul(copies) {
        return Err(format!("nests cover {covered} of {elements} elements"));
    }
    values.sort_unstable();
    values.dedup();
    let mut fills = Vec::new();
    if input {
        for id in values {
            let v = &entry.values[id as usize];
            fills.extend(resolve_fill(t, id, v, memory));
        }
    }
    Ok(TensorIo {
        name: t.name.clone(),
        dtype: t.dtype,
        shape: t.shape.clone(),
        bytes: elements as usize * size,
        fills,
        nests,
    })
}

/// The fill of one input value; `None` where its nests cover every live lane.
fn resolve_fill(t: &artifact::HostTensor, id: u32, v: &Value, memory: &Memory) -> Option<Fill> {
    let span = memory.value_span(v)?;
    let live = v.n_vectors as u64 * (v.hi - v.lo) as u64;
    let placed: u64 = t
        .nests
        .iter()
        .filter(|n| n.value == id)
        .map(|n| n.dims.iter().map(|d| d.count as u64).product::<u64>())
        .sum();
    let size = v.dtype.bytes();
    (placed != live).then(|| Fill {
        offset: span.start,
        vector_bytes: memory.lanes() * size,
        n_vectors: v.n_vectors as usize,
        lo: v.lo as usize * size,
        hi: v.hi as usize * size,
        size,
        bits: t.fill,
    })
}

/// Least and greatest value of `first + sum i_d * step_d`.
fn hull(first: i64, steps: impl Iterator<Item = (u32, i64)>) -> (i64, i64) {
    let (mut lo, mut hi) = (first, first);
    for (count, step) in steps {
        let last = step.saturating_mul(count as i64 - 1);
        lo = lo.saturating_add(last.min(0));
        hi = hi.saturating_add(last.max(0));
    }
    (lo, hi)
}

fn resolve_nest(
    nest: &HostNest,
    v: &Value,
    host: HostDType,
    elements: u64,
    memory: &Memory,
) -> Result<(Nest, u64), String> {
    let dims = &nest.dims;
    if dims.len() > MAX_DIMS || dims.iter().any(|d| d.count == 0) {
        let n = dims.len();
        return Err(format!(
            "a nest of {n} dimensions, each at least 1, of {MAX_DIMS} allowed"
        ));
    }
    let steps = |f: fn(&artifact::HostDim) -> i64| dims.iter().map(move |d| (d.count, f(d)));
    let first = i64::try_from(nest.element).unwrap_or(i64::MAX);
    let within = |what: &str, (lo, hi): (i64, i64), from: i64, to: i64| {
        if lo < from || hi >= to {
            return Err(format!("{what} {lo}..={hi} of v{} outside {from}..{to}", nest.value));
        }
        Ok(())
    };
    let of_tensor = hull(first, steps(|d| d.element));
    within("elements", of_tensor, 0, elements as i64)?;
    let of_vectors = hull(nest.vector as i64, steps(|d| d.vector as i64));
    within("vectors", of_vectors, 0, v.n_vectors as i64)?;
    let of_lanes = hull(nest.lane as i64, steps(|d| d.lane as i64));
    within("lanes", of_lanes, v.lo as i64, v.hi as i64)?;
    let Some(span) = memory.value_span(v) else {
        return Err(format!("value v{} has no rows", nest.value));
    };
    let (hs, cs) = (host.bytes() as isize, v.dtype.bytes() as isize);
    let vector = memory.lanes() as isize * cs;
    let mut list: Vec<Step> = dims
        .iter()
        .filter(|d| d.count > 1)
        .map(|d| Step {
            count: d.count,
            host: d.element as isize * hs,
            chip: d.vector as isize * vector + d.lane as isize * cs,
        })
        .collect();
    // The dimension that runs along both tensors goes innermost, else the longest.
    list.sort_by_key(|s| (s.host == hs && s.chip == cs, s.count));
    let n = dims.iter().fold(1u64, |n, d| n.saturating_mul(d.count as u64));
    let chip = span.start + nest.vector as usize * vector as usize + nest.lane as usize * cs as usize;
    let io = Nest {
        host: nest.element as usize * hs as usize,
        chip,
        dtype: v.dtype,
        steps: list,
    };
    Ok((io, n))
}
