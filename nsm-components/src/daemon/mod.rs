//! What every process needs around its work: logs, signals, a bound on what it takes on at once, and
//! pages for those who watch it.

mod admission;
mod files;
mod http;
mod log;
mod metrics;
mod readiness;
mod signals;

pub use self::{
    admission::{Admission, Load, Place, Refusal},
    files::raise_open_files,
    http::Shown,
    log::Log,
    metrics::{Metrics, Sample},
    readiness::Readiness,
    signals::stop_on_signals,
};
