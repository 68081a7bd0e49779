//! The versioned .proto packages and the code made from them.
//!
//! The code under `src/generated` is committed, so that a build needs no `protoc`; `tests/generated.rs` compares it with the
//! .proto files and writes it anew with `CAUSEWAY_UPDATE_GENERATED=1`. Only the `wire.rs` of a crate names these types.

/// The client API: `causeway.v1`.
#[allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::all, clippy::or_fun_call)]
pub mod v1 {
    include!("generated/causeway.v1.rs");
}

/// What nodes say to each other: `causeway.peer`.
pub mod peer {
    /// Version 1.
    #[allow(missing_docs, missing_debug_implementations, unreachable_pub, clippy::all, clippy::or_fun_call)]
    pub mod v1 {
        include!("generated/causeway.peer.v1.rs");
    }
}

/// Version of the conversation as a whole, sent as `causeway-protocol`. Raised only when an old and a new node must not
/// talk; additions to the .proto files do not need it.
pub const PROTOCOL_VERSION: u32 = 1;

/// Names of the metadata that every call carries.
pub mod metadata {
    /// The cluster: 32 hexadecimal digits.
    pub const CLUSTER_ID: &str = "causeway-cluster-id";
    /// [`crate::PROTOCOL_VERSION`], decimal.
    pub const PROTOCOL: &str = "causeway-protocol";
    /// Of a node: its id, decimal.
    pub const NODE_ID: &str = "causeway-node-id";
    /// Of a node: the incarnation of its disk, 32 hexadecimal digits.
    pub const STORE_ID: &str = "causeway-store-id";
    /// In the trailers of a failed call: `refused`, `transient`, `unknown` or `damaged`.
    pub const RETRY: &str = "causeway-retry";
    /// In the trailers of a failed call: a stable word for the reason, such as `content-missing`.
    pub const REASON: &str = "causeway-reason";
    /// In the trailers of `content-missing`: how many chunks are missing, decimal.
    pub const MISSING: &str = "causeway-missing";
    /// In the trailers of `too-old`: the oldest seq that can be had, decimal.
    pub const OLDEST: &str = "causeway-oldest";
    /// In the trailers of `fenced`: the greater line that the answering node follows, as four numbers.
    pub const LINEAGE: &str = "causeway-lineage";
    /// In the trailers of a failed call that another node can serve better: that node's id, decimal.
    pub const LEADER: &str = "causeway-leader";
}
