//! The questions that `lockstep inspect` answers, on a program of two chips written by hand.

#![cfg(feature = "compile")]
#![allow(missing_docs)]

mod common;

use common::{Scratch, check, lockstep, path, told};
use lockstep::files;
use lockstep_testkit::asm;

/// The artifact of tests/cases/verify/transfer.lks-asm as t.lks.
fn transfer(name: &str) -> Scratch {
    let dir = Scratch::new(name);
    let text = std::fs::read_to_string(path("tests/cases/verify/transfer.lks-asm")).expect("the program");
    let artifact = asm::assemble(&text, &asm::toy()).expect("an artifact");
    files::write_artifact(&dir.0.join("t.lks"), &artifact).expect("to write it");
    dir
}

#[test]
fn questions_have_answers() {
    let dir = transfer("inspect");
    for (name, question) in [
        // All words are sent; two have arrived and one of them is in its row.
        ("a_cycle", &["--cycle", "300"][..]),
        ("a_cycle_on_a_chip", &["--cycle", "300", "--chip", "1"]),
        ("some_cycles", &["--cycle", "480..512", "--chip", "1"]),
        ("a_node", &["--node", "neg"]),
        ("an_address", &["--address", "c1:mem0:b0:0x0041"]),
        ("an_address_of_an_input", &["--address", "c0.mem0.b0:5"]),
        ("an_address_that_nobody_uses", &["--address", "0:7:1:1"]),
        ("a_transfer", &["--chain", "h0"]),
        ("a_chain", &["--chain", "1"]),
    ] {
        let args = [&["inspect", "t.lks"], question].concat();
        let out = lockstep(&dir.0, &args);
        assert!(!told(&out).contains('\u{1b}'), "colours without a terminal");
        insta::with_settings!({ snapshot_path => "cases/inspect", prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(name, told(&out));
        });
        let json = lockstep(&dir.0, &[&args[..], &["--json"]].concat());
        let value: serde_json::Value = serde_json::from_slice(&json.stdout).expect("json");
        assert!(value["result"].is_object(), "{name}");
    }
}

#[test]
fn wrong_questions() {
    let dir = transfer("inspect-wrong");
    check!(dir, "inspect_an_unknown_node", "inspect", "t.lks", "--node", "conv");
    check!(dir, "inspect_an_unknown_chain", "inspect", "t.lks", "--chain", "h2");
    check!(
        dir,
        "inspect_an_address_outside",
        "inspect",
        "t.lks",
        "--address",
        "c0:mem8:b0:0"
    );
}
