//! Chunker, manifest, pack store and chunk index of one site. Local; knows no network.
