//! QUIC and TLS: identity, the built-in CA, connections, bounded frames. Knows bytes, not chunks.
