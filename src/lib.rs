//! lockstep: a static-scheduling ML compiler and its runtime.
