//! Chip memory and host maps, without any executor.

use lockstep_isa::artifact::{Artifact, ConstForm, HostDType, HostDim, HostNest, TileImage};
use lockstep_runtime::{ExecError, HostIo, HostTensor, Memory, TensorView};
use lockstep_testkit::asm::{assemble, toy};
use std::sync::Arc;

const LIMIT: u64 = 1 << 30;

fn artifact(text: &str) -> Artifact {
    assemble(text, &toy()).expect("valid text")
}

/// An i32 at lane `lane` of vector `vector` of value `v`.
fn lane(a: &Artifact, m: &Memory, v: usize, vector: usize, lane: usize) -> i32 {
    let span = m.value_span(&a.entries[0].values[v]).expect("rows");
    let at = span.start + vector * 4 * m.lanes() + lane * 4;
    let b = &m.bytes()[at..at + 4];
    i32::from_le_bytes([b[0], b[1], b[2], b[3]])
}

#[test]
fn spans_are_aligned_and_hold_only_used_rows() {
    let a = artifact(
        "value a = computed c0.mem0.b0 0x0006 x3 f16 0:32
         value b = computed c0.mem0.b0 0x000c x2 i32 0:32
         value c = computed c0.mem0.b0 0x0800 x1 i8 0:8
         value d = computed c0.mem7.b1 0x0000 x1 f32 0:32",
    );
    let m = Memory::new(&a, true, LIMIT).expect("fits");
    let values = &a.entries[0].values;
    // a and b share a span that starts at the row of a, c and d have one row each.
    assert_eq!(m.n_words(), 16 + 4 + 4);
    let of = |i: usize| m.value_span(&values[i]).expect("rows");
    assert_eq!(of(0), 2 * 32..8 * 32);
    assert_eq!(of(1), 8 * 32..16 * 32);
    assert_eq!(m.word(0, values[1].place, 0xc, 4), Some(8));
    assert_eq!(m.offset(0, values[2].place, 0x801), Some(of(2).start + 32));
    assert_eq!(m.offset(0, values[2].place, 0x804), None);
    assert_eq!(m.span(0, values[1].place, 0x10, 5), None);
    assert_eq!(m.offset(1, values[1].place, 0xc), None);
    assert_eq!(m.bytes().as_ptr() as usize % 64, 0);
    assert_eq!(of(3).start % 64, 0);
    let over = Memory::new(&a, true, 100).err().map(|e| e.to_string());
    let want = "the artifact uses 768 bytes of chip memory, 100 bytes are allowed";
    assert_eq!(over.as_deref(), Some(want));
}

#[test]
fn weight_tiles_become_rows_only_where_asked() {
    let mut a = artifact("value w = const c0.mem0.b0 0x0000 x3 i32 4:20 = fill 0");
    // A tile of 5 rows and 40 columns from lane 0 on: two panels. The value takes rows 4, 2 and 0.
    let (rows, columns) = (5usize, 40usize);
    let mut bytes = vec![0u8; 2 * rows * 32 * 4];
    for r in 0..rows {
        for c in 0..columns {
            let at = ((c / 32 * rows + r) * 32 + c % 32) * 4;
            bytes[at..at + 4].copy_from_slice(&((r * 100 + c) as i32).to_le_bytes());
        }
    }
    a.weights_range = (0, bytes.len() as u64);
    a.weights = Arc::new(bytes);
    a.tiles = vec![TileImage {
        offset: 0,
        rows: 5,
        lo: 0,
        columns: 40,
        dtype: lockstep_isa::DType::I32,
    }];
    a.consts[0].form = ConstForm::Tile {
        tile: 0,
        first: 0,
        step: 2,
    };
    let m = Memory::new(&a, true, LIMIT).expect("fits");
    for (vector, row) in [0, 2, 4].into_iter().enumerate() {
        assert_eq!(lane(&a, &m, 0, vector, 3), 0);
        assert_eq!(lane(&a, &m, 0, vector, 4), row * 100 + 4);
        assert_eq!(lane(&a, &m, 0, vector, 19), row * 100 + 19);
        assert_eq!(lane(&a, &m, 0, vector, 20), 0);
    }
    let m = Memory::new(&a, false, LIMIT).expect("fits");
    assert_eq!(m.value_span(&a.entries[0].values[0]), None);
    assert_eq!(m.n_words(), 0);
    a.consts[0].form = ConstForm::Tile {
        tile: 0,
        first: 1,
        step: 2,
    };
    let error = Memory::new(&a, true, LIMIT).err().map(|e| e.to_string());
    let want = "artifact entry \"main\" value v0: row 5 of weight tile 0 is outside it";
    assert_eq!(error.as_deref(), Some(want));
}

#[test]
fn states_start_at_zero_and_return_to_it() {
    let a = artifact("value s = state \"a\" \"b\" c0.mem0.b0 0x0000 x2 i32 0:32");
    let mut m = Memory::new(&a, true, LIMIT).expect("fits");
    assert_eq!(lane(&a, &m, 0, 1, 7), 0);
    m.bytes_mut().fill(1);
    m.reset_states();
    assert_eq!(lane(&a, &m, 0, 1, 7), 0);
}

const TURNED: &str = "value x = input c0.mem0.b0 0x0000 x3 i32 0:8
    value y = computed c0.mem0.b0 0x0000 x3 i32 0:8
    input \"x\" int64 4,3 = x[0].1 (4 3 0 1) (3 1 1 0)
    output \"y\" int64 3,4 = y[0].1 (3 4 1 0) (4 1 0 1)";

fn int64(shape: &[u64], data: &[i64]) -> HostTensor {
    HostTensor {
        name: "x".to_owned(),
        dtype: HostDType::I64,
        shape: shape.to_vec(),
        bytes: data.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

#[test]
fn host_maps_turn_convert_and_fill() {
    let mut a = artifact(TURNED);
    a.entries[0].inputs[0].fill = -9i32 as u32;
    let mut m = Memory::new(&a, true, LIMIT).expect("fits");
    let mut io = HostIo::new(&a, &m, LIMIT).expect("valid maps");
    let mut data: Vec<i64> = (0..12).collect();
    data[5] = 1 << 40;
    let x = int64(&[4, 3], &data);
    io.check(0, &[x.view()]).expect("matches");
    io.place(0, &[x.view()], m.bytes_mut());
    assert_eq!(lane(&a, &m, 0, 2, 1), 2);
    assert_eq!(lane(&a, &m, 0, 0, 4), 9);
    assert_eq!(lane(&a, &m, 0, 1, 0), -9);
    assert_eq!(lane(&a, &m, 0, 1, 5), -9);
    assert_eq!(lane(&a, &m, 0, 1, 8), 0, "lanes beyond the live ones are left alone");
    let y = &io.take(0, m.bytes())[0];
    assert_eq!((y.name.as_str(), y.shape.as_slice()), ("y", &[3, 4][..]));
    let got: Vec<i64> = y
        .bytes
        .chunks_exact(8)
        .map(|b| i64::from_le_bytes(b.try_into().unwrap()))
        .collect();
    let mut want: Vec<i64> = (0..12).map(|i| i % 4 * 3 + i / 4).collect();
    want[9] = i32::MAX as i64;
    assert_eq!(got, want);
}

#[test]
fn nan_is_canonical_at_outputs() {
    let a = artifact(
        "value x = input c0.mem0.b0 0x0000 x1 f32 0:4
         input \"x\" float32 4 = x
         output \"y\" float32 4 = x
         output \"z\" float64 2 = x[0].0 (2 1 0 1)",
    );
    let mut m = Memory::new(&a, true, LIMIT).expect("fits");
    let mut io = HostIo::new(&a, &m, LIMIT).expect("valid maps");
    let bits = [0xffc0_0001u32, 0x7f80_0001, 0x8000_0000, 0x3f80_0000];
    let bytes: Vec<u8> = bits.iter().flat_map(|b| b.to_le_bytes()).collect();
    let view = TensorView {
        dtype: HostDType::F32,
        shape: &[4],
        bytes: &bytes,
    };
    io.place(0, &[view], m.bytes_mut());
    let out = io.take(0, m.bytes());
    let got: Vec<u32> = out[0]
        .bytes
        .chunks_exact(4)
        .map(|b| u32::from_le_bytes(b.try_into().unwrap()))
        .collect();
    assert_eq!(got, [0x7fc0_0000, 0x7fc0_0000, 0x8000_0000, 0x3f80_0000]);
    let first: [u8; 8] = out[1].bytes[..8].try_into().unwrap();
    assert_eq!(u64::from_le_bytes(first), 0x7ff8_0000_0000_0000);
}

#[test]
fn maps_that_leave_their_tensor_or_value_are_refused() {
    let refused = |edit: fn(&mut HostNest)| {
        let mut a = artifact(TURNED);
        edit(&mut a.entries[0].inputs[0].nests[0]);
        let m = Memory::new(&a, true, LIMIT).expect("fits");
        HostIo::new(&a, &m, LIMIT).err().map(|e: ExecError| e.to_string())
    };
    let at = "artifact entry \"main\" tensor \"x\": ";
    let error = |what: &str| Some(format!("{at}{what}"));
    assert_eq!(refused(|n| n.lane = 5), error("lanes 5..=8 of v0 outside 0..8"));
    assert_eq!(
        refused(|n| n.dims[0].element = -3),
        error("elements -9..=2 of v0 outside 0..12")
    );
    assert_eq!(refused(|n| n.dims[1].count = 2), error("nests cover 8 of 12 elements"));
    assert_eq!(refused(|n| n.value = 9), error("value v9 of 2"));
    let without_steps = |n: &mut HostNest| {
        n.dims.push(HostDim {
            count: 0,
            element: 0,
            vector: 0,
            lane: 0,
        });
    };
    assert!(refused(without_steps).is_some_and(|e| e.contains("each at least 1")));
}
