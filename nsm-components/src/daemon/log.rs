//! Logs: one JSON object a line on standard error, at a level that two signals change.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tracing::info;
use tracing_subscriber::{EnvFilter, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt};

use crate::settings::LogLevel;

/// Changes the level of a running process.
#[derive(Clone, Debug)]
pub struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
    configured: LogLevel,
}

fn filter(level: &LogLevel) -> EnvFilter {
    EnvFilter::new(level.directives())
}

impl Log {
    /// Starts logging at this level: JSON, unless standard error is a terminal.
    pub fn start(level: &LogLevel) -> Self {
        let (layer, handle) = reload::Layer::new(filter(level));
        let registry = tracing_subscriber::registry().with(layer);
        if io::IsTerminal::is_terminal(&io::stderr()) {
            registry.with(fmt::layer().with_writer(io::stderr)).init();
        } else {
            registry.with(fmt::layer().json().flatten_event(true).with_writer(io::stderr)).init();
        }
        Self { filter: handle, configured: level.clone() }
    }

    /// From now on SIGUSR1 sets the level to trace, and SIGUSR2 back to the configured one.
    pub fn follow_signals(self) -> io::Result<()> {
        let mut up = signal(SignalKind::user_defined1())?;
        let mut back = signal(SignalKind::user_defined2())?;
        tokio::spawn(async move {
            loop {
                let level = tokio::select! {
                    Some(()) = up.recv() => LogLevel::trace(),
                    Some(()) = back.recv() => self.configured.clone(),
                    else => return,
                };
                if self.filter.reload(filter(&level)).is_ok() {
                    info!(to = %level, "the log level is changed");
                }
            }
        });
        Ok(())
    }
}
