//! Logs: one JSON object a line on standard error, at a level that two signals change.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tracing::info;
use tracing_subscriber::{
    Registry,
    filter::{LevelFilter, Targets},
    fmt,
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

use crate::settings::LogLevel;

/// Changes the level of a running process.
#[derive(Clone, Debug)]
pub struct Log {
    filter: reload::Handle<Targets, Registry>,
    configured: LogLevel,
}

/// Modules and their levels: all that a [`LogLevel`] can say. A filter for more, by spans and fields,
/// brings regular expressions into every process.
fn filter(level: &LogLevel) -> Targets {
    level.directives().parse().unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO))
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

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn all_that_a_level_can_say_is_a_filter() {
        let enabled = |text: &str, module: &str, level: Level| {
            filter(&text.parse().unwrap()).would_enable(module, &level)
        };
        assert!(enabled("INFO", "nsm_components::apps", Level::INFO));
        assert!(!enabled("INFO", "nsm_components::apps", Level::DEBUG));
        assert!(enabled("trace", "nsm_components::apps", Level::TRACE));
        assert!(!enabled("trace", "h2::codec", Level::DEBUG));
        let listed = "warn, nsm_components::transport=debug,h2=off";
        assert!(enabled(listed, "nsm_components::transport::svid", Level::DEBUG));
        assert!(!enabled(listed, "nsm_components::apps", Level::INFO));
        assert!(enabled(listed, "nsm_components::apps", Level::WARN));
        assert!(!enabled(listed, "h2::codec", Level::ERROR));
        assert!(!filter(&LogLevel::off()).would_enable("nsm", &Level::ERROR));
    }
}
