//! A naive model of a volume, and the properties that hold [`crate::apply`] and [`crate::query`] to it.
//!
//! The model keeps whole paths in one map and copies everything before each batch: slow, and simple enough to be right.

mod properties;
mod sessions;
mod strategy;
mod tree;
