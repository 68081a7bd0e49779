//! The fuzz targets of Causeway's decoders.

pub mod targets;
