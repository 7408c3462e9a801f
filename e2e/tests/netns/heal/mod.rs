//! Connections heal: every scenario of upstream's, with the time that it may take.

mod cases;
mod combinations;
mod dataplane;
mod scenarios;
