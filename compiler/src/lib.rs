//! The compiler: Graph to Artifact.
//!
//! Stages: lower (Graph to TensorIr), passes and rewrites on it, partition, layout and chains, schedule, emit.
