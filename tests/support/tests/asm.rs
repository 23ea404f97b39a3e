//! Every hand-written program assembles, and its claims name the runs that a reader of the text would name.

use lockstep_isa::Opcode;
use lockstep_isa::claim::Producer;
use lockstep_testkit::asm::{assemble, toy, verify_case, verify_cases};

#[test]
fn every_case_assembles() {
    let cases = verify_cases();
    assert!(cases.len() >= 10, "{} cases", cases.len());
    for (name, text) in cases {
        if let Err(e) = assemble(&text, &toy()) {
            panic!("{name}: {e}");
        }
    }
}

#[test]
fn claims_follow_the_belts() {
    let a = assemble(&verify_case("matmul"), &toy()).expect("assembles");
    let (runs, claims) = (&a.programs[0].runs, &a.entries[0].chips[0].claims);
    let find = |op| runs.iter().position(|r| r.op == op).expect("a run") as u32;
    let second = runs.iter().rposition(|r| r.op == Opcode::Mul).expect("mul");
    assert_eq!(
        claims[second].acc,
        Some(Producer {
            run: find(Opcode::Mul),
            first: 0
        })
    );
    assert_eq!(claims[second].blocks.len(), 1);
    assert_eq!((runs[second].lo, runs[second].hi), (0, 16));
    assert_eq!(a.entries[0].makespan, 199 + 24 + 20);
}

#[test]
fn errors_name_the_line() {
    let e = assemble("chips 1\nvalue x = input c0.mem0.b0 0 x1 f33 0:4", &toy()).err();
    assert_eq!(
        e.map(|e| e.to_string()).as_deref(),
        Some("line 2: dtype \"f33\" is not known")
    );
}
