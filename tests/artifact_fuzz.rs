//! Artifacts cut short or with flipped bytes are errors, never panics. One second in `cargo test`; LOCKSTEP_FUZZ_MS sets another
//! budget in milliseconds.

#![cfg(feature = "compile")]
#![allow(missing_docs)]

mod common;

use common::{Scratch, lockstep, silero};
use lockstep::isa::artifact::check_hashes;
use lockstep::{Artifact, verify};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a reader does with a file: load it, check its hashes, prove it. Whether it is refused.
fn refused(bytes: Vec<u8>) -> bool {
    if check_hashes(&bytes).is_err() {
        // It must still not panic.
        let _ = Artifact::from_bytes(Arc::new(bytes));
        return true;
    }
    match Artifact::from_bytes(Arc::new(bytes)) {
        Err(_) => true,
        Ok(artifact) => verify(&artifact).is_err(),
    }
}

#[test]
fn damaged_artifacts_are_errors() {
    let dir = Scratch::new("fuzz");
    let model = silero();
    let model = model.to_str().expect("a path in UTF-8");
    let out = lockstep(
        &dir.0,
        &[
            "compile",
            model,
            "--target",
            "toy",
            "--chips",
            "4",
            "-o",
            "x.lks",
            "--no-verify",
        ],
    );
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let whole = std::fs::read(dir.0.join("x.lks")).expect("the artifact");
    assert!(!refused(whole.clone()), "the whole artifact is sound");

    let budget = std::env::var("LOCKSTEP_FUZZ_MS")
        .ok()
        .and_then(|ms| ms.parse().ok())
        .unwrap_or(1000);
    let end = Instant::now() + Duration::from_millis(budget);
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut next = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut tried = 0;
    while Instant::now() < end || tried < 8 {
        let cut = next(whole.len());
        assert!(refused(whole[..cut].to_vec()), "cut to {cut} bytes");
        let (at, bit) = (next(whole.len()), next(8));
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << bit;
        assert!(refused(damaged), "bit {bit} of byte {at} flipped");
        // The header and the table are a small part of the file; they get their own share.
        let at = next(2048.min(whole.len()));
        let mut damaged = whole.clone();
        damaged[at] = damaged[at].wrapping_add(1 + next(255) as u8);
        assert!(refused(damaged), "byte {at} changed");
        tried += 1;
    }
}
