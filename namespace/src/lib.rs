//! The namespace service of a node: volumes, paths, forwarding, gRPC.
