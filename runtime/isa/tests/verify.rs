//! The verifier on hand-written programs: all of them are sound, and each invariant has programs that break it.

use lockstep_isa::verify::verify;
use lockstep_testkit::asm::{assemble, toy, verify_cases};

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
