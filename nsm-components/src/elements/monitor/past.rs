//! What became of a connection so far, as far as this process has seen it: since when it is in its state,
//! when it was asked for last, and what was healed, with the cause. The nsmgr shows it to those who look after
//! its node.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use crate::api::{Connection, connection::State};

/// What is remembered of a connection that was closed, for the Request that brings it back: who wants
/// another endpoint closes what there is first.
const REMEMBERED: Duration = Duration::from_mins(1);

/// Most that are remembered; beyond it all are forgotten.
const MOST: usize = 1024;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// Since when it is in its state.
    pub since: SystemTime,
    /// When a Request of it was last answered.
    pub refreshed: SystemTime,
    /// How often it was healed.
    pub heals: u32,
    /// The last time.
    pub last_heal: Option<Healed>,
}

/// A connection that works again, or works otherwise than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Healed {
    /// When.
    pub at: SystemTime,
    /// What had happened to it, in one sentence.
    pub cause: String,
}

/// What a Request tells of what was before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    /// Its client wants another endpoint.
    anew: bool,
    /// It has been here before: its path goes on behind this process.
    again: bool,
}

/// A connection as it was before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before<'a> {
    pub connection: &'a Connection,
    pub error: Option<&'a str>,
    pub past: &'a Past,
}

/// Connections that were closed a moment ago, each with why it was not up, if it was not.
#[derive(Debug, Default)]
pub(super) struct Closed(HashMap<String, (Past, Option<String>)>);

// === impl Asked ===

impl Asked {
    pub(super) fn new(connection: &Connection) -> Self {
        let anew = connection.state() == State::ReselectRequested;
        Self { anew, again: connection.segment(1).is_some() }
    }
}

// === impl Past ===

impl Past {
    pub(super) fn new(now: SystemTime) -> Self {
        Self { since: now, refreshed: now, heals: 0, last_heal: None }
    }

    /// The past of a connection whose Request has just been answered.
    pub(super) fn answered(
        before: Option<Before<'_>>,
        closed: Option<(Self, Option<String>)>,
        asked: Asked,
        answer: &Connection,
        now: SystemTime,
    ) -> Self {
        let cause = match (&before, &closed) {
            (Some(before), _) => cause(before, asked, answer),
            (None, Some((_, error))) => asked.anew.then(|| anew(error.as_deref())),
            (None, None) if asked.anew => Some(anew(None)),
            (None, None) if asked.again => Some("the nsmgr was started anew and took it over".to_owned()),
            (None, None) => None,
        };
        let was_up = before.is_some_and(|before| before.connection.state() == answer.state());
        let past = before.map(|before| before.past.clone()).or(closed.map(|(past, _)| past));
        let mut past = past.unwrap_or_else(|| Self::new(now));
        past.refreshed = now;
        if !was_up {
            past.since = now;
        }
        if let Some(cause) = cause {
            past.heals = past.heals.saturating_add(1);
            past.last_heal = Some(Healed { at: now, cause });
        }
        past
    }

    /// The past of one that is in another state from now on, by what others say.
    pub(super) fn changed(&self, now: SystemTime) -> Self {
        Self { since: now, ..self.clone() }
    }
}

fn anew(error: Option<&str>) -> String {
    match error {
        Some(error) => format!("its client asked for another endpoint: {error}"),
        None => "its client asked for another endpoint".to_owned(),
    }
}

/// Why a connection that was known is not as it was, if it is not.
fn cause(before: &Before<'_>, asked: Asked, answer: &Connection) -> Option<String> {
    let known = before.connection;
    match known.state() {
        State::Down => Some(before.error.unwrap_or("it was down").to_owned()),
        State::RefreshRequested => {
            Some(before.error.unwrap_or("a process on the way asked for a refresh").to_owned())
        }
        _ if asked.anew => Some(anew(before.error)),
        _ if known.network_service_endpoint_name != answer.network_service_endpoint_name => {
            Some(format!("its client left the endpoint {}", known.network_service_endpoint_name))
        }
        _ => None,
    }
}

// === impl Closed ===

impl Closed {
    pub(super) fn remember(&mut self, id: &str, past: &Past, error: Option<String>, now: SystemTime) {
        let ended = Past { since: now, ..past.clone() };
        if self.0.len() >= MOST {
            self.0.retain(|_, (past, _)| is_fresh(past, now));
        }
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.insert(id.to_owned(), (ended, error));
    }

    pub(super) fn take(&mut self, id: &str, now: SystemTime) -> Option<(Past, Option<String>)> {
        self.0.remove(id).filter(|(past, _)| is_fresh(past, now))
    }
}

/// Whether it was closed a moment ago. A clock that was set back makes it so.
fn is_fresh(past: &Past, now: SystemTime) -> bool {
    now.duration_since(past.since).is_ok_and(|age| age < REMEMBERED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn connection(state: State, endpoint: &str) -> Connection {
        let network_service_endpoint_name = endpoint.to_owned();
        Connection { state: state.into(), network_service_endpoint_name, ..Connection::default() }
    }

    fn up() -> Connection {
        connection(State::Up, "nse-1")
    }

    /// What a Request at 20 s makes of a connection that is known since 10 s.
    fn again(known: &Connection, error: Option<&str>, asked: Asked, answer: &Connection) -> Past {
        let past = Past::new(at(10));
        let before = Before { connection: known, error, past: &past };
        Past::answered(Some(before), None, asked, answer, at(20))
    }

    #[test]
    fn a_refresh_changes_nothing_but_when_it_was() {
        let past = again(&up(), None, Asked { again: true, anew: false }, &up());
        assert_eq!(past, Past { refreshed: at(20), ..Past::new(at(10)) });
    }

    #[test]
    fn one_that_was_down_is_healed_from_what_had_put_it_down() {
        let down = connection(State::Down, "nse-1");
        let past = again(&down, Some("the forwarder is gone"), Asked::default(), &up());
        let healed = Healed { at: at(20), cause: "the forwarder is gone".into() };
        assert_eq!((past.since, past.heals, past.last_heal), (at(20), 1, Some(healed)));
    }

    #[test]
    fn another_endpoint_is_a_heal_that_names_the_one_that_was_left() {
        let past = again(&up(), None, Asked::default(), &connection(State::Up, "nse-2"));
        assert!(past.last_heal.unwrap().cause.ends_with("nse-1"));
    }

    #[test]
    fn one_that_was_here_before_this_process_is_taken_over_and_a_new_one_is_just_new() {
        let past = |asked| Past::answered(None, None, asked, &up(), at(1));
        assert!(past(Asked { again: true, anew: false }).last_heal.unwrap().cause.contains("started anew"));
        assert_eq!(past(Asked::default()), Past::new(at(1)));
    }

    #[test]
    fn who_closes_to_ask_anew_keeps_the_past_for_a_moment_and_who_just_closes_begins_anew() {
        let mut closed = Closed::default();
        let past = Past { heals: 4, ..Past::new(at(10)) };
        let anew = Asked { anew: true, again: true };
        closed.remember("a", &past, Some("not found".into()), at(20));
        let next = Past::answered(None, closed.take("a", at(21)), anew, &up(), at(21));
        assert_eq!((next.heals, next.since), (5, at(21)));
        assert!(next.last_heal.unwrap().cause.ends_with(": not found"));
        closed.remember("a", &past, None, at(20));
        assert_eq!(closed.take("a", at(80)), None);
        closed.remember("b", &past, None, at(20));
        let next = Past::answered(None, closed.take("b", at(21)), Asked::default(), &up(), at(21));
        assert_eq!((next.heals, next.last_heal), (4, None));
    }

    #[test]
    fn of_many_that_were_closed_not_more_are_remembered_than_there_may_be() {
        let mut closed = Closed::default();
        for number in 0..3 * MOST {
            closed.remember(&number.to_string(), &Past::new(at(0)), None, at(5));
        }
        assert!(closed.0.len() <= MOST && closed.take(&(3 * MOST - 1).to_string(), at(5)).is_some());
    }
}
