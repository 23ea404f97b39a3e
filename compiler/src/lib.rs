//! The compiler: Graph to Artifact.
