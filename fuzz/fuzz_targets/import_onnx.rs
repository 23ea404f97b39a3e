//! Any bytes as an .onnx file: an error or a graph that keeps its invariants, never a panic, a hang, or memory without bound.
//!
//! Dimensions that the model leaves open are bound to 3 and tried again, so that such models get further.

#![no_main]

use libfuzzer_sys::fuzz_target;
use lockstep_frontend::{ImportErrorKind, ImportOptions, MemorySource, import};
use lockstep_graph::Verified;

fuzz_target!(|data: &[u8]| {
    let source = MemorySource::file("model.onnx", data.to_vec());
    let mut options = ImportOptions::default();
    let mut found = import(&source, &options);
    if let Err(error) = &found
        && let ImportErrorKind::UnboundDims(open) = &*error.kind
    {
        for dim in open {
            if let Some(symbol) = &dim.symbol {
                options.dims.insert(symbol.clone(), 3);
            }
        }
        found = import(&source, &options);
    }
    if let Ok(graph) = found {
        let checked = Verified::new(graph, &());
        assert!(checked.is_ok(), "an imported graph breaks an invariant");
    }
});
