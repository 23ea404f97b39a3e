//! The same model, target and options give the same bytes, in any process.

#![cfg(feature = "compile")]
#![allow(missing_docs)]

mod common;

use common::{Scratch, lockstep, silero};

#[test]
fn two_processes_write_the_same_bytes() {
    let dir = Scratch::new("determinism");
    let model = silero();
    let model = model.to_str().expect("a path in UTF-8");
    let mut files = Vec::new();
    for name in ["a.lks", "b.lks"] {
        let out = lockstep(
            &dir.0,
            &["compile", model, "--target", "toy", "--chips", "4", "-o", name],
        );
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        files.push(std::fs::read(dir.0.join(name)).expect("the artifact"));
    }
    assert!(files[0] == files[1], "the artifacts differ");
}
