//! Test support: model builders, random programs, comparisons.
