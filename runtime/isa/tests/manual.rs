//! docs/ISA.md is what the tables say. `LOCKSTEP_BLESS=1 cargo test -p lockstep-isa --test manual` writes it.

use std::path::Path;

#[test]
fn the_committed_manual_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/ISA.md");
    let text = lockstep_isa::manual::manual();
    if std::env::var_os("LOCKSTEP_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = committed.lines().zip(text.lines()).position(|(a, b)| a != b);
    assert!(
        committed == text,
        "docs/ISA.md differs from line {} on; bless it",
        differs.map_or(committed.lines().count().min(text.lines().count()), |i| i) + 1
    );
}
