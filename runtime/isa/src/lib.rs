//! Output contract of the compiler: target, timing, instructions, artifact, verifier.
