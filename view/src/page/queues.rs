//! The queues of a chip as tracks: each with its name, its kind and its number, in the order in which a chip is laid out.

use lockstep_isa::{DType, Queue, Target, disasm};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Kinds of queues in the order in which the page shows them.
pub(super) const KINDS: [&str; 7] = ["mem", "mxm_load", "mxm_mul", "vxm", "sxm", "send", "recv"];

/// Queues that some run of the artifact uses, with their numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Queues {
    numbers: BTreeMap<Queue, u32>,
}

impl Queues {
    /// The queues of these runs, in canonical order.
    pub fn of(queues: impl Iterator<Item = Queue>) -> Queues {
        let mut numbers: BTreeMap<Queue, u32> = queues.map(|q| (q, 0)).collect();
        for (i, number) in numbers.values_mut().enumerate() {
            *number = i as u32;
        }
        Queues { numbers }
    }

    /// Number of a queue.
    pub fn number(&self, queue: Queue) -> u32 {
        self.numbers.get(&queue).copied().unwrap_or(0)
    }

    /// What the page needs of each queue: its name without the chip and its kind.
    pub fn describe(&self, target: &Target) -> Value {
        let one = |queue: &Queue| json!({ "name": name(target, *queue), "kind": kind(*queue) });
        self.numbers.keys().map(one).collect()
    }
}

/// Name of a queue without its chip (`mem3.b1`).
pub(super) fn name(target: &Target, queue: Queue) -> String {
    disasm::queue_name(target, 0, queue).replacen("c0.", "", 1)
}

/// Units of each kind on a chip, as the report counts them: matrix units are those of f32.
pub(super) fn units(t: &Target) -> [usize; 7] {
    let mxm = 2 * t.mxm_units(DType::F32).max(1) as usize;
    let links = t.n_links() as usize;
    [t.n_places(), mxm, mxm, t.vxm.alus as usize, 2, links, links]
}

/// Index of a queue's kind in [`KINDS`].
fn kind(queue: Queue) -> usize {
    match queue {
        Queue::Mem(_) => 0,
        Queue::MxmLoad(..) => 1,
        Queue::MxmMul(..) => 2,
        Queue::Alu(_) => 3,
        Queue::Sxm(_) => 4,
        Queue::Send(_) => 5,
        Queue::Recv(_) => 6,
    }
}
