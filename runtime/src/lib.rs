//! Load an artifact and execute it: simulator, CPU.
