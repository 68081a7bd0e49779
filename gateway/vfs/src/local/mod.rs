//! The local side of a copy: walking a folder, writing files back as they were.

pub mod attr;
pub mod scan;
pub mod write;
