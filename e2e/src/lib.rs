//! Placeholder.

pub mod kubernetes;
