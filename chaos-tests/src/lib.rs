//! Whole-system tests: processes, faults, invariants.
