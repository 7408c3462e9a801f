//! The processes of the mesh, each a short list of what it is made of.

pub mod identity;
