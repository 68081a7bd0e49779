//! Many Raft groups in one process: the shared log, the state stores and the network of openraft.
