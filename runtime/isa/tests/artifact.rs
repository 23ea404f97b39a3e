//! The artifact's file: round trip, truncation, damage, and hostile files whose checksums are right.

#![allow(clippy::unwrap_used)]

mod support;

use lockstep_isa::artifact::container::{HEADER_BYTES, Section};
use lockstep_isa::artifact::{ArtifactErrorKind, check_hashes, sections};
use lockstep_isa::{Artifact, ArtifactError, Target};
use std::sync::Arc;
use support::Rng;

fn load(bytes: &[u8]) -> Result<Artifact, ArtifactError> {
    Artifact::from_bytes(Arc::new(bytes.to_vec()))
}

/// Bytes of a row of the section table.
const ROW: usize = 64;

/// Makes all checksums and hashes right again.
fn reseal(bytes: &mut [u8]) {
    for i in 0..Section::ALL.len() {
        let at = HEADER_BYTES + i * ROW;
        let word = |b: &[u8], at: usize| u64::from_le_bytes(b[at..at + 8].try_into().unwrap()) as usize;
        let (offset, length) = (word(bytes, at + 8), word(bytes, at + 16));
        let Some(body) = offset.checked_add(length).and_then(|end| bytes.get(offset..end)) else {
            continue;
        };
        let (crc, hash) = (crc32fast::hash(body), *blake3::hash(body).as_bytes());
        bytes[at + 24..at + 28].copy_from_slice(&crc.to_le_bytes());
        bytes[at + 32..at + 64].copy_from_slice(&hash);
    }
    bytes[12..16].fill(0);
    let crc = crc32fast::hash(&bytes[..HEADER_BYTES + Section::ALL.len() * ROW]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn round_trip() {
    for seed in 1..20 {
        let a = support::artifact(seed);
        a.check().unwrap_or_else(|e| panic!("{seed}: {e}"));
        let bytes = a.to_bytes().unwrap();
        let b = load(&bytes).unwrap();
        assert_eq!(b.to_bytes().unwrap(), bytes);
        assert_eq!((&a.name, a.n_chips, &a.report), (&b.name, b.n_chips, &b.report));
        assert_eq!(a.target, b.target);
        assert_eq!(a.programs, b.programs);
        assert_eq!(a.entries, b.entries);
        assert_eq!(
            (a.states.clone(), &a.consts, &a.tiles),
            (b.states.clone(), &b.consts, &b.tiles)
        );
        assert_eq!(a.weight_bytes(), b.weight_bytes());
        check_hashes(&bytes).unwrap();
        for s in sections(&bytes).unwrap() {
            assert!(s.range.start % s.section.align() as u64 == 0);
            assert!(!s.range.is_empty(), "the sample has {}", s.section.name());
        }
    }
}

/// A file of this version that an earlier build wrote is read, and written again byte for byte.
/// `LOCKSTEP_BLESS=1` replaces it, which only a new version of the format may do.
#[test]
fn the_golden_file_is_read() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/v3.artifact");
    if std::env::var_os("LOCKSTEP_BLESS").is_some() {
        std::fs::write(&path, support::artifact(1).to_bytes().unwrap()).unwrap();
    }
    let bytes = std::fs::read(&path).unwrap();
    let a = load(&bytes).unwrap();
    assert!(a.to_bytes().unwrap() == bytes);
    assert_eq!((a.name.as_str(), a.entries.len(), a.n_chips), ("sample", 2, 2));
    check_hashes(&bytes).unwrap();
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = support::artifact(3).to_bytes().unwrap();
    for len in 0..bytes.len() {
        let e = load(&bytes[..len]).err().unwrap();
        assert!(!e.to_string().contains('\n'));
        if len >= HEADER_BYTES {
            assert!(matches!(e.kind, ArtifactErrorKind::Length { .. }), "{len}: {e}");
        }
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(load(&longer).is_err());
}

#[test]
fn every_changed_byte_is_an_error() {
    let bytes = support::artifact(4).to_bytes().unwrap();
    let mut rng = Rng::new(1);
    for at in 0..bytes.len() {
        let mut b = bytes.clone();
        b[at] ^= 1 << rng.below(8);
        assert!(load(&b).is_err(), "byte {at}");
    }
}

/// Files with right checksums and wrong contents: an error, or an artifact that writes back to the same bytes.
#[test]
fn hostile_files_never_panic() {
    let bytes = support::artifact(5).to_bytes().unwrap();
    let start = HEADER_BYTES + Section::ALL.len() * ROW;
    let mut rng = Rng::new(2);
    let (mut refused, mut taken) = (0, 0);
    for round in 0..20_000 {
        let mut b = bytes.clone();
        for _ in 0..1 + round % 3 {
            let at = match rng.below(8) {
                0 => HEADER_BYTES + rng.below((start - HEADER_BYTES) as u64) as usize,
                _ => start + rng.below((b.len() - start) as u64) as usize,
            };
            b[at] = match rng.below(4) {
                0 => 0xff,
                1 => 0,
                2 => b[at].wrapping_add(1),
                _ => rng.below(256) as u8,
            };
        }
        reseal(&mut b);
        match load(&b) {
            Err(e) => {
                assert!(!e.to_string().contains('\n'));
                refused += 1;
            }
            Ok(a) => {
                assert!(a.to_bytes().unwrap() == b, "an accepted file is canonical");
                taken += 1;
            }
        }
    }
    assert!(refused > 3000 && taken > 1000, "{refused} {taken}");
}

#[test]
fn damage_is_named() {
    let bytes = support::artifact(6).to_bytes().unwrap();
    let message = |f: &dyn Fn(&mut Vec<u8>)| {
        let mut b = bytes.clone();
        f(&mut b);
        load(&b).err().unwrap().to_string()
    };
    let table = sections(&bytes).unwrap();
    let range = |s: Section| table[s as usize - 1].range.clone();
    let starts = [
        (
            "artifact: not a lockstep artifact: the file starts with [50, 4b",
            message(&|b| b[..2].copy_from_slice(b"PK")),
        ),
        (
            "artifact: not a lockstep artifact: the file starts with []",
            message(&|b| b.clear()),
        ),
        (
            "artifact: format version 4 is not supported; this build reads version 3",
            message(&|b| b[8] = 4),
        ),
        (
            "artifact: the file has 100 bytes, its header says ",
            message(&|b| b.truncate(100)),
        ),
        ("artifact, header: checksum 0x", message(&|b| b[40] ^= 1)),
        (
            "artifact, section claims: checksum ",
            message(&|b| b[range(Section::Claims).start as usize] ^= 1),
        ),
        (
            "artifact, section weights: checksum ",
            message(&|b| b[range(Section::Weights).end as usize - 1] ^= 1),
        ),
        (
            "artifact, section weights: byte ",
            message(&|b| b[range(Section::Weights).start as usize - 1] = 1),
        ),
    ];
    for (expect, found) in starts.iter().filter(|(e, _)| !e.contains("header: checksum")) {
        assert!(found.starts_with(expect), "{found}");
    }
    let resealed = |s: Section, at: usize, value: u8| {
        message(&|b| {
            b[range(s).start as usize + at] = value;
            reseal(b);
        })
    };
    let cases = [
        (
            "artifact, program 0, run r0: opcode: found 127, which is none",
            resealed(Section::Text, 0, 127),
        ),
        (
            "artifact: section chips has 64 bytes, the records that refer to it need 80",
            resealed(Section::Meta, 4, 255),
        ),
        (
            "artifact, entry \"a\", value v0: slice group is 4, allowed is less than 4",
            resealed(Section::Values, 4, 4),
        ),
        (
            "artifact, constant k1: tile is 9, allowed is less than 1",
            resealed(Section::Consts, 24 + 16, 9),
        ),
        (
            "artifact, entry \"a\", chain h0: chip is 2, allowed is less than 2",
            resealed(Section::Chains, 0, 2),
        ),
        (
            "artifact, section names: a string is not valid utf-8",
            resealed(Section::Names, 0, 255),
        ),
    ];
    for (expect, found) in cases {
        assert!(found.starts_with(expect), "expected {expect}\n   found {found}");
    }
    let mut b = bytes.clone();
    let at = range(Section::Report).start as usize;
    b[at + 3] ^= 1;
    assert!(matches!(check_hashes(&b).unwrap_err().kind, ArtifactErrorKind::Hash));
}

#[test]
fn a_wrong_artifact_is_not_written() {
    type Change = fn(&mut Artifact);
    let cases: [(&str, Change); 8] = [
        ("entry \"a\", chip 1, run r0: chain is 2", |a| {
            a.entries[0].chips[1].claims[0].chain = 2
        }),
        ("program 0, run r1: ", |a| a.programs[0].runs.swap(0, 1)),
        ("number of claims is", |a| drop(a.entries[0].chips[0].claims.pop())),
        ("number of chips is 0", |a| a.n_chips = 0),
        ("value v1: last row of the tile is 8", |a| {
            a.consts[1].form = lockstep_isa::artifact::ConstForm::Tile {
                tile: 0,
                first: 4,
                step: 2,
            }
        }),
        ("input \"x\": host element is -1..=", |a| {
            a.entries[1].inputs[0].nests[0].element = 14
        }),
        ("output \"y\": elements taken is 16, allowed is 32", |a| {
            a.entries[0].outputs[0].nests[0].dims[0].count = 1
        }),
        ("entry name is \"a\" twice", |a| a.entries[1].name = "a".into()),
    ];
    for (expect, change) in cases {
        let mut a = support::artifact(7);
        change(&mut a);
        let e = a.to_bytes().unwrap_err().to_string();
        assert!(e.contains(expect), "expected {expect}\n   found {e}");
    }
}

/// The hand-written programs of the verifier's cases pass the checks and survive the file.
#[test]
fn hand_written_programs_survive() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases/verify");
    let toy = Target::builtin("toy").unwrap().unwrap();
    let mut n = 0;
    for file in std::fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|e| e != "lks-asm") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let a = lockstep_testkit::asm::assemble(&text, &toy).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let bytes = a.to_bytes().unwrap_or_else(|e| panic!("{path:?}: {e}"));
        let b = load(&bytes).unwrap();
        assert_eq!((&a.programs, &a.entries), (&b.programs, &b.entries));
        assert_eq!(a.weight_bytes(), &b.weight_bytes()[..a.weight_bytes().len()]);
        n += 1;
    }
    assert!(n >= 10);
}
