//! The adaptor between openraft and the log, the state store and the links. Nothing outside this crate names openraft.

pub(crate) mod blocking;
pub(crate) mod log_store;
pub(crate) mod network;
pub(crate) mod receive;
pub(crate) mod state_machine;
pub(crate) mod types;
pub(crate) mod wire;

#[cfg(test)]
mod suite;
