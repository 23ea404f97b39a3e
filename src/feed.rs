//! Inputs of a run: from files, numbers, a seed or a golden file; and their slices, step by step.

use crate::args::RunVerb;
use crate::diag::{Failure, Outcome};
use crate::golden::{Golden, read_npz};
use lockstep::isa::artifact::HostTensor as Signature;
use lockstep::runtime::host_tensor::describe;
use lockstep::{Artifact, HostTensor, files, tensors};
use std::path::Path;

/// One tensor per input of the entry, in its order; a tensor may hold many steps.
pub fn gather(verb: &RunVerb, artifact: &Artifact, entry: usize, golden: Option<&Golden>) -> Outcome<Vec<HostTensor>> {
    let wanted = &artifact.entries[entry].inputs;
    let mut given: Vec<Option<HostTensor>> = vec![None; wanted.len()];
    let expected = || {
        wanted
            .iter()
            .map(|w| format!("{} {}", w.name, describe(w.dtype, &w.shape)))
            .collect::<Vec<_>>()
    };
    let index = |name: &str| {
        wanted.iter().position(|w| w.name == name).ok_or_else(|| {
            Failure::usage(format!(
                "input {name:?} does not exist; expected {}",
                expected().join(", ")
            ))
        })
    };
    if let Some(golden) = golden {
        golden.inputs(wanted, &mut given);
    }
    if let Some(path) = &verb.inputs_file {
        for tensor in read_npz(path)? {
            let i = index(&tensor.name)?;
            given[i] = Some(tensor);
        }
    }
    for (name, value) in &verb.inputs {
        let i = index(name)?;
        given[i] = Some(match value.strip_prefix('@') {
            Some(file) => {
                let bytes = files::map_file(Path::new(file))?;
                tensors::read_npy(name, bytes.as_ref())?
            }
            None => literal(&wanted[i], value)?,
        });
    }
    let mut out = Vec::with_capacity(wanted.len());
    let mut missing = Vec::new();
    for (w, tensor) in wanted.iter().zip(given) {
        match (tensor, verb.random) {
            (Some(tensor), _) => {
                if tensor.dtype != w.dtype {
                    return Err(wrong(w, &tensor, verb.steps));
                }
                out.push(tensor);
            }
            (None, Some(seed)) => out.push(tensors::random(&w.name, w.dtype, &w.shape, seed)),
            (None, None) => missing.push(format!("{} {}", w.name, describe(w.dtype, &w.shape))),
        }
    }
    if !missing.is_empty() {
        return Err(Failure::usage(format!(
            "inputs are missing: {}; give them with --input, --inputs or --random SEED",
            missing.join(", ")
        )));
    }
    Ok(out)
}

fn wrong(w: &Signature, found: &HostTensor, axis: Option<usize>) -> Failure {
    let along = axis.map_or(String::new(), |a| format!(", or a multiple of it along axis {a}"));
    Failure::usage(format!(
        "input {:?}: expected {}{along}, got {}",
        w.name,
        describe(w.dtype, &w.shape),
        describe(found.dtype, &found.shape)
    ))
}

/// A tensor from numbers on the command line: one that fills it, or all of them.
fn literal(w: &Signature, value: &str) -> Outcome<HostTensor> {
    let numbers = value
        .split(',')
        .map(|s| s.trim().parse::<f64>())
        .collect::<Result<Vec<f64>, _>>();
    let n = w.shape.iter().product::<u64>() as usize;
    let numbers = numbers.ok().filter(|v| v.len() == 1 || v.len() == n).ok_or_else(|| {
        Failure::usage(format!(
            "input {:?}: {value:?} is neither one number nor {n} numbers, nor @FILE.npy",
            w.name
        ))
    })?;
    let mut tensor = tensors::random(&w.name, w.dtype, &w.shape, 0);
    tensor.bytes.clear();
    for i in 0..n {
        tensors::push_f64(&mut tensor, numbers[if numbers.len() == 1 { 0 } else { i }]);
    }
    Ok(tensor)
}

/// How many runs the inputs hold.
pub fn steps(wanted: &[Signature], given: &[HostTensor], axis: Option<usize>) -> Outcome<u64> {
    let mut steps: Option<(u64, &str)> = None;
    for (w, tensor) in wanted.iter().zip(given) {
        if tensor.shape == w.shape {
            continue;
        }
        let Some(axis) = axis else {
            return Err(wrong(w, tensor, None));
        };
        let same = tensor.shape.len() == w.shape.len()
            && tensor
                .shape
                .iter()
                .zip(&w.shape)
                .enumerate()
                .all(|(d, (a, b))| d == axis || a == b);
        let n = w.shape.get(axis).copied().unwrap_or(0);
        if !same || n == 0 || !tensor.shape[axis].is_multiple_of(n) {
            return Err(wrong(w, tensor, Some(axis)));
        }
        let found = tensor.shape[axis] / n;
        match steps {
            Some((other, name)) if other != found => {
                return Err(Failure::usage(format!(
                    "input {:?} holds {found} steps, input {name:?} holds {other}",
                    w.name
                )));
            }
            _ => steps = Some((found, &w.name)),
        }
    }
    Ok(steps.map_or(1, |(n, _)| n))
}

/// The part of a tensor with `n` indices from `from` along an axis.
pub fn slice(tensor: &HostTensor, axis: usize, from: u64, n: u64) -> HostTensor {
    let outer: u64 = tensor.shape[..axis].iter().product();
    let inner = tensor.shape[axis + 1..].iter().product::<u64>() as usize * tensor.dtype.bytes();
    let whole = tensor.shape[axis] as usize * inner;
    let mut bytes = Vec::new();
    for o in 0..outer as usize {
        let start = o * whole + from as usize * inner;
        bytes.extend_from_slice(&tensor.bytes[start..start + n as usize * inner]);
    }
    let mut shape = tensor.shape.clone();
    shape[axis] = n;
    HostTensor {
        shape,
        bytes,
        ..tensor.clone()
    }
}

/// Joins the outputs of all steps along an axis; a tensor without that axis gets a new first one.
pub fn join(parts: &[Vec<HostTensor>], axis: usize) -> Vec<HostTensor> {
    let first = parts.first().map_or(&[][..], Vec::as_slice);
    let mut out = Vec::with_capacity(first.len());
    for (i, one) in first.iter().enumerate() {
        let mut shape = one.shape.clone();
        let axis = if axis < shape.len() { axis } else { 0 };
        if shape.is_empty() {
            shape.push(1);
        }
        let outer = shape[..axis].iter().product::<u64>() as usize;
        let whole = one.bytes.len() / outer.max(1);
        let mut bytes = Vec::with_capacity(one.bytes.len() * parts.len());
        for o in 0..outer {
            for part in parts {
                bytes.extend_from_slice(&part[i].bytes[o * whole..(o + 1) * whole]);
            }
        }
        shape[axis] *= parts.len() as u64;
        out.push(HostTensor {
            name: one.name.clone(),
            dtype: one.dtype,
            shape,
            bytes,
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_join_to_the_whole() {
        let whole = HostTensor::from_f32("x", &[2, 6], &(0..12).map(|i| i as f32).collect::<Vec<_>>());
        for axis in 0..2 {
            let n = whole.shape[axis] / 2;
            let parts: Vec<_> = (0..2).map(|s| vec![slice(&whole, axis, s * n, n)]).collect();
            assert_eq!(join(&parts, axis), std::slice::from_ref(&whole));
        }
    }
}
