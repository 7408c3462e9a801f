//! How much is logged: upstream's level names, or a list for single modules.

use std::{fmt, str::FromStr};

/// Said of a value that is none.
const ALLOWED: &str = "ERROR, WARN, INFO, DEBUG, TRACE or OFF, or a list such as info,nsm_components=debug";

/// `NSM_LOG_LEVEL`: a level by its name in any case, or `[module=]level` several times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLevel(String);

/// A text that is no level.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{ALLOWED}")]
pub struct NoLevel;

/// Upstream's names beside tracing's.
fn level(name: &str) -> Option<&'static str> {
    Some(match name.to_ascii_lowercase().as_str() {
        "trace" => "trace",
        "debug" => "debug",
        "info" => "info",
        "warn" | "warning" => "warn",
        "error" | "fatal" | "panic" => "error",
        "off" => "off",
        _ => return None,
    })
}

fn is_module(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_:-".contains(&byte))
}

impl FromStr for LogLevel {
    type Err = NoLevel;

    fn from_str(text: &str) -> Result<Self, NoLevel> {
        let one = |item: &str| match item.trim().split_once('=') {
            Some((module, name)) if is_module(module) => Some(format!("{module}={}", level(name)?)),
            Some(_) => None,
            None => level(item.trim()).map(str::to_owned),
        };
        let items: Option<Vec<_>> = text.split(',').map(one).collect();
        items.map(|items| Self(items.join(","))).ok_or(NoLevel)
    }
}

impl LogLevel {
    /// Everything.
    pub fn trace() -> Self {
        Self("trace".to_owned())
    }

    /// Nothing.
    pub fn off() -> Self {
        Self("off".to_owned())
    }

    /// As a filter of tracing's.
    pub fn directives(&self) -> String {
        match self.0.as_str() {
            // The libraries beneath say at this level what every frame carries.
            "trace" | "debug" => format!("{},h2=info,hyper=info,tower=info,rustls=info,kube=info", self.0),
            other => other.to_owned(),
        }
    }
}

impl Default for LogLevel {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_level_names_are_understood_in_any_case_and_nonsense_is_refused() {
        let read = |text: &str| text.parse::<LogLevel>().map(|level| level.to_string());
        assert_eq!(read("INFO").unwrap(), "info");
        assert_eq!(read("WARNING").unwrap(), "warn");
        assert_eq!(read("Fatal").unwrap(), "error");
        assert_eq!(read("info, nsm_components::chain=DEBUG").unwrap(), "info,nsm_components::chain=debug");
        assert!(LogLevel::trace().directives().starts_with("trace,h2=info"));
        for text in ["", "loud", "info,", "a b=info", "=info", "nsm_components=", "9"] {
            assert_eq!(read(text), Err(NoLevel), "{text}");
        }
    }
}
