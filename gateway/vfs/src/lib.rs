//! The one read-write path of clients: importing, exporting, reading and writing files of the namespace.

pub mod local;
