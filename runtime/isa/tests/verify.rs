//! The verifier on hand-written programs: all of them are sound, and each invariant has programs that break it.

use lockstep_isa::verify::{Checks, Invariant, verify, verify_with};
use lockstep_testkit::asm::{assemble, toy, verify_cases};
use lockstep_testkit::fault::{FaultClass, inject, inject_class};
use std::collections::BTreeMap;

#[test]
fn hand_written_programs_are_sound() {
    for (name, text) in verify_cases() {
        let a = assemble(&text, &toy()).unwrap_or_else(|e| panic!("{name}: {e}"));
        if let Err(e) = verify(&a) {
            let all: Vec<String> = e.violations.iter().map(|v| v.to_string()).collect();
            panic!("{name}:\n{}", all.join("\n"));
        }
    }
}

/// Faults of every class in every program, none of which may pass.
#[test]
fn every_fault_is_rejected() {
    let mut counts: BTreeMap<FaultClass, u32> = BTreeMap::new();
    let mut accepted = Vec::new();
    for (name, text) in verify_cases() {
        let mut a = assemble(&text, &toy()).unwrap_or_else(|e| panic!("{name}: {e}"));
        for &class in FaultClass::ALL {
            for seed in 0..40 {
                let Some(fault) = inject_class(&mut a, class, seed) else {
                    break;
                };
                *counts.entry(class).or_default() += 1;
                if verify(&a).is_ok() {
                    accepted.push(format!("{name} r{}: {}", fault.at.2, fault.what));
                }
                fault.undo(&mut a);
            }
        }
        assert!(verify(&a).is_ok(), "{name}: faults are taken back");
    }
    assert!(accepted.is_empty(), "accepted:\n{}", accepted.join("\n"));
    for class in FaultClass::ALL {
        assert!(counts.contains_key(class), "no fault of class {class:?}");
    }
    assert!(counts.values().sum::<u32>() > 1000, "{counts:?}");
}

/// Faults that one check alone sees: with it off, they would pass.
#[test]
fn checks_are_needed() {
    let needed = [
        Invariant::Operands,
        Invariant::Taken,
        Invariant::Lanes,
        Invariant::Addresses,
        Invariant::Tiles,
        Invariant::Accumulators,
        Invariant::Chains,
    ];
    let mut alone: BTreeMap<Invariant, u32> = BTreeMap::new();
    for (name, text) in verify_cases() {
        let mut a = assemble(&text, &toy()).unwrap_or_else(|e| panic!("{name}: {e}"));
        for seed in 0..300 {
            let Some(fault) = inject(&mut a, seed) else {
                continue;
            };
            for invariant in needed {
                if verify_with(&a, Checks::ALL.without(invariant)).is_ok() {
                    *alone.entry(invariant).or_default() += 1;
                }
            }
            fault.undo(&mut a);
        }
    }
    for invariant in needed {
        assert!(alone.contains_key(&invariant), "{invariant}: {alone:?}");
    }
}
