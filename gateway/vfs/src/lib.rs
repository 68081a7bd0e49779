//! The one read-write path of clients: import, export, read, write.
