//! Where tensors lie: inputs, outputs and states by name, constants by the model nodes that read them.

use lockstep_isa::artifact::ValueKind;
use lockstep_isa::{Artifact, Queue, disasm};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A tensor that lies elsewhere, in other sizes or dtypes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// `input x`, `state h`, `constants of NODE`.
    pub tensor: String,
    /// Banks of the first artifact with the bytes in each.
    pub a: Vec<(String, u64)>,
    /// Banks of the second one.
    pub b: Vec<(String, u64)>,
}

impl Moved {
    pub(super) fn to_value(&self) -> Value {
        let side = |all: &[(String, u64)]| {
            let one = |(bank, bytes): &(String, u64)| json!({ "bank": bank, "bytes": bytes });
            all.iter().map(one).collect::<Vec<_>>()
        };
        json!({ "tensor": self.tensor, "a": side(&self.a), "b": side(&self.b) })
    }

    /// Bytes that a side has on each chip.
    pub fn per_chip(side: &[(String, u64)]) -> BTreeMap<String, u64> {
        let mut out: BTreeMap<String, u64> = BTreeMap::new();
        for (bank, bytes) in side {
            let chip = bank.split('.').next().unwrap_or(bank).to_owned();
            *out.entry(chip).or_default() += bytes;
        }
        out
    }
}

/// Bytes by chip and bank.
type Banks = BTreeMap<(u16, usize), (String, u64)>;

/// Tensors that lie elsewhere, the largest change of bytes first.
pub(super) fn moved(a: &Artifact, b: &Artifact, (i, j): (usize, usize)) -> Vec<Moved> {
    let (x, y) = (places(a, i), places(b, j));
    let none = Banks::new();
    let names: BTreeSet<&String> = x.keys().chain(y.keys()).collect();
    let side = |banks: &Banks| banks.values().cloned().collect::<Vec<_>>();
    let mut all: Vec<Moved> = names
        .into_iter()
        .map(|name| Moved {
            tensor: name.clone(),
            a: side(x.get(name).unwrap_or(&none)),
            b: side(y.get(name).unwrap_or(&none)),
        })
        .filter(|m| m.a != m.b)
        .collect();
    // The sort is stable: on ties, names ascend.
    all.sort_by_key(|m| std::cmp::Reverse(sum(&m.a).abs_diff(sum(&m.b))));
    all
}

fn sum(side: &[(String, u64)]) -> u64 {
    side.iter().map(|(_, bytes)| bytes).sum()
}

/// Banks of every tensor with a name.
fn places(artifact: &Artifact, entry: usize) -> BTreeMap<String, Banks> {
    let mut out: BTreeMap<String, Banks> = BTreeMap::new();
    let Some(e) = artifact.entries.get(entry) else {
        return out;
    };
    let target = &artifact.target;
    let mut put = |name: String, value: u32| {
        let Some(v) = e.values.get(value as usize) else { return };
        let bytes = u64::from(v.n_vectors) * u64::from(v.dtype.words()) * target.word_bytes() as u64;
        let key = (v.chip, v.place.dense(target.groups, target.banks));
        let bank = disasm::queue_name(target, v.chip, Queue::Mem(v.place));
        out.entry(name).or_default().entry(key).or_insert((bank, 0)).1 += bytes;
    };
    for (what, tensors) in [("input", &e.inputs), ("output", &e.outputs)] {
        for tensor in tensors {
            let values: BTreeSet<u32> = tensor.nests.iter().map(|n| n.value).collect();
            for value in values {
                put(format!("{what} {}", tensor.name), value);
            }
        }
    }
    for (i, value) in e.values.iter().enumerate() {
        if let ValueKind::State(s) = value.kind
            && let Some(state) = artifact.states.get(s as usize)
        {
            put(format!("state {}", state.name), i as u32);
        }
    }
    for (value, nodes) in readers(artifact, entry) {
        put(
            format!("constants of {}", nodes.into_iter().collect::<Vec<_>>().join(", ")),
            value,
        );
    }
    out
}

/// The model nodes that read each constant.
fn readers(artifact: &Artifact, entry: usize) -> BTreeMap<u32, BTreeSet<String>> {
    let mut out: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
    let Some(e) = artifact.entries.get(entry) else {
        return out;
    };
    for chip in &e.chips {
        for (claims, &origin) in chip.claims.iter().zip(&chip.origins) {
            let Some(mem) = claims.mem else { continue };
            let value = e.values.get(mem.value as usize);
            if value.is_some_and(|v| matches!(v.kind, ValueKind::Const(_)))
                && let Some(origin) = e.origins.get(origin as usize)
            {
                out.entry(mem.value).or_default().extend(origin.nodes.iter().cloned());
            }
        }
    }
    out
}
