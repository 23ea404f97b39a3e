//! Golden files: arrays to compare outputs with, and the inputs that belong to them.

use crate::diag::{Failure, Outcome};
use lockstep::isa::artifact::HostTensor as Signature;
use lockstep::runtime::host_tensor::describe;
use lockstep::{HostTensor, files, tensors};
use serde_json::{Value, json};
use std::path::Path;

/// The arrays of an npz file.
///
/// # Errors
/// No such file, or one that is no npz.
pub fn read_npz(path: &Path) -> Outcome<Vec<HostTensor>> {
    let bytes = files::map_file(path)?;
    let name = path.display().to_string();
    tensors::read_npz(&name, bytes.as_ref()).map_err(|e| Failure::usage(format!("{name}: {e}")))
}

/// Arrays to compare with, and the inputs that belong to them.
pub struct Golden {
    path: String,
    arrays: Vec<HostTensor>,
    case: Option<String>,
}

impl Golden {
    /// Reads the file. Where its keys are `CASE.inN` and `CASE.outN`, the case is the one named, or the only one.
    ///
    /// # Errors
    /// A file that cannot be read; a case that does not exist, or is not named.
    pub fn read(path: &Path, case: Option<&str>) -> Outcome<Golden> {
        let arrays = read_npz(path)?;
        let mut cases: Vec<String> = arrays
            .iter()
            .filter_map(|a| {
                let (case, key) = a.name.rsplit_once('.')?;
                let n = key.strip_prefix("out")?;
                n.parse::<usize>().is_ok().then(|| case.to_owned())
            })
            .collect();
        cases.dedup();
        let path = path.display().to_string();
        let case = match (case, cases.as_slice()) {
            (Some(case), all) if all.iter().any(|c| c == case) => Some(case.to_owned()),
            (Some(case), all) => {
                return Err(Failure::usage(format!(
                    "{path}: case {case:?} does not exist; the file has {}",
                    all.join(", ")
                )));
            }
            (None, []) => None,
            (None, [one]) => Some(one.clone()),
            (None, all) => {
                return Err(Failure::usage(format!(
                    "{path}: name one of its cases with --case: {}",
                    all.join(", ")
                )));
            }
        };
        Ok(Golden { path, arrays, case })
    }

    /// The arrays `CASE.inN` or `CASE.outN`, by N.
    fn numbered(&self, case: &str, kind: &str) -> Vec<&HostTensor> {
        let mut found: Vec<(usize, &HostTensor)> = self
            .arrays
            .iter()
            .filter_map(|a| {
                let key = a.name.strip_prefix(case)?.strip_prefix('.')?.strip_prefix(kind)?;
                Some((key.parse().ok()?, a))
            })
            .collect();
        found.sort_by_key(|(n, _)| *n);
        found.into_iter().map(|(_, a)| a).collect()
    }

    /// Fills the inputs that the file has. Numbered ones go to the inputs in order; those that were fixed at compile time,
    /// which differ from the next input in dtype or rank, are left out.
    pub fn inputs(&self, wanted: &[Signature], given: &mut [Option<HostTensor>]) {
        match &self.case {
            None => {
                for (w, slot) in wanted.iter().zip(given) {
                    *slot = self.arrays.iter().find(|a| a.name == w.name).cloned();
                }
            }
            Some(case) => {
                let all = self.numbered(case, "in");
                let mut surplus = all.len().saturating_sub(wanted.len());
                let mut next = all.into_iter();
                for (w, slot) in wanted.iter().zip(given) {
                    let fits = |a: &HostTensor| a.dtype == w.dtype && a.shape.len() == w.shape.len();
                    let mut candidate = next.next();
                    while let Some(a) = candidate
                        && !fits(a)
                        && surplus > 0
                    {
                        surplus -= 1;
                        candidate = next.next();
                    }
                    *slot = candidate.map(|a| HostTensor {
                        name: w.name.clone(),
                        ..a.clone()
                    });
                }
            }
        }
    }

    /// Compares outputs with the arrays of the case, or of the same names.
    ///
    /// # Errors
    /// Shapes that differ; a file without any of the outputs.
    pub fn compare(&self, outputs: &[HostTensor], rtol: f64, atol: f64) -> Outcome<Vec<Compared>> {
        let numbered = self.case.as_ref().map(|case| self.numbered(case, "out"));
        let mut all = Vec::new();
        for (i, output) in outputs.iter().enumerate() {
            let expected = match &numbered {
                Some(list) => list.get(i).copied(),
                None => self.arrays.iter().find(|a| a.name == output.name),
            };
            let Some(expected) = expected else { continue };
            if expected.shape != output.shape {
                return Err(Failure::usage(format!(
                    "{}: array {:?} is {}, output {:?} is {}",
                    self.path,
                    expected.name,
                    describe(expected.dtype, &expected.shape),
                    output.name,
                    describe(output.dtype, &output.shape)
                )));
            }
            all.push(Compared::of(output, expected, rtol, atol));
        }
        if all.is_empty() {
            let names: Vec<&str> = outputs.iter().map(|o| o.name.as_str()).collect();
            return Err(Failure::usage(format!(
                "{}: holds none of the outputs {}",
                self.path,
                names.join(", ")
            )));
        }
        Ok(all)
    }
}

/// One output beside what was expected.
pub struct Compared {
    name: String,
    max: f64,
    /// Elements beyond the tolerance.
    pub wrong: usize,
    total: usize,
}

impl Compared {
    fn of(output: &HostTensor, expected: &HostTensor, rtol: f64, atol: f64) -> Compared {
        let (found, expected) = (tensors::to_f64(output), tensors::to_f64(expected));
        let mut max = 0.0f64;
        let mut wrong = 0;
        for (a, b) in found.iter().zip(&expected) {
            if a == b || (a.is_nan() && b.is_nan()) {
                continue;
            }
            let error = (a - b).abs();
            // A NaN on one side only is an infinite error.
            max = max.max(if error.is_nan() { f64::INFINITY } else { error });
            if error.is_nan() || error > atol + rtol * b.abs() {
                wrong += 1;
            }
        }
        Compared {
            name: output.name.clone(),
            max,
            wrong,
            total: found.len(),
        }
    }

    /// One line.
    pub fn text(&self) -> String {
        let verdict = if self.wrong == 0 {
            "ok".into()
        } else {
            format!("{} of {} elements differ", self.wrong, self.total)
        };
        format!("check {}: {verdict}, largest error {:.3e}", self.name, self.max)
    }

    /// The same as JSON.
    pub fn json(&self) -> Value {
        json!({ "output": self.name, "largest_error": self.max, "elements": self.total, "beyond_tolerance": self.wrong })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nan_on_one_side_is_beyond_every_tolerance() {
        let a = HostTensor::from_f32("x", &[2], &[f32::NAN, 1.0]);
        let b = HostTensor::from_f32("x", &[2], &[0.0, 1.0]);
        assert_eq!(Compared::of(&a, &b, 1.0, 1e9).wrong, 1);
        assert_eq!(Compared::of(&a, &a, 0.0, 0.0).wrong, 0);
    }
}
