//! The chunk protocol's bytes: requests, frames, and the compressed stream. No I/O; `docs/formats/wire-chunks.md` has the
//! layout.

mod bases;
mod frame;
mod receiver;
mod request;
mod stream;

pub use bases::{BaseHint, Bases, HELD_MAX, HINTS_MAX};
pub use frame::{BASE_NAMED, EndCounts, FRAME_BYTES_MAX, Frame, FrameError, PIECE_BYTES, Refusal, UploadAck};
pub(crate) use receiver::is_incompressible;
pub use receiver::{CORRUPT_MAX, ReadBase, Received, Receiver, ReceiverError};
pub use request::{Cause, ChunkRequest, Form, IDS_MAX, REALM_BYTES_MAX, RequestError};
pub use stream::{StreamDecoder, StreamEncoder, WINDOW_LOG_MAX};

/// Service numbers of the chunk protocol.
pub mod service {
    /// Asked by nodes: these chunks, as far as the node has them.
    pub const FETCH: u16 = 1;
    /// Asked by clients: take these chunks and make them durable.
    pub const UPLOAD: u16 = 2;
    /// Asked by clients: which of these does the node lack?
    pub const MISSING: u16 = 3;
    /// Asked by clients: these chunks, in order, wherever they are.
    pub const READ: u16 = 4;
}
