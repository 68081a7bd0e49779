//! The replication planner. Pure: no clock, no randomness, no I/O.
