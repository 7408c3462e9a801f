//! What is known of the packets of one path. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// Endpoints that may be left one after the other while none answers: then silence is no longer their
/// fault, or nobody here answers pings.
const MOST_IN_VAIN: u32 = 3;

/// Echoes without an answer after which the next ones come more seldom.
const EAGER: u32 = 10;

/// Longest pause between echoes to somebody who does not answer, in intervals.
const SELDOM: u32 = 32;

/// Whether packets pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Data {
    /// Nobody knows: it is not looked at, or the endpoint has never answered.
    #[default]
    Unknown,
    /// They do.
    Up,
    /// Nothing has come for some time that should have.
    Doubtful,
    /// They do not.
    Down,
}

/// How often a path is looked at, and how long it may be silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Time between two looks.
    pub interval: Duration,
    /// Silence after which packets count as lost, while echoes are sent.
    pub timeout: Duration,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Pulse {
    pace: Pace,
    /// Whether its endpoint has answered echoes: only then silence means something.
    answers: bool,
    /// The first echo since the last sign of life.
    asked: Option<Instant>,
    last: Option<Instant>,
    /// Echoes since the last sign of life.
    unanswered: u32,
    data: Data,
    /// Whether others say that the connection is down.
    doubted: bool,
    /// Times that it was found dead since an echo was answered.
    vain: u32,
}

impl Pulse {
    pub(super) fn new(pace: Pace) -> Self {
        Self {
            pace,
            answers: false,
            asked: None,
            last: None,
            unanswered: 0,
            data: Data::Unknown,
            doubted: false,
            vain: 0,
        }
    }

    /// The path is another one, or was made anew.
    pub(super) fn begin(&mut self, answers: bool) {
        let (pace, vain) = (self.pace, self.vain);
        *self = Self { answers, vain, ..Self::new(pace) };
    }

    /// An echo was answered.
    pub(super) fn answered(&mut self) {
        (self.answers, self.vain) = (true, 0);
        self.came();
    }

    /// Packets came.
    pub(super) fn came(&mut self) {
        (self.asked, self.doubted) = (None, false);
        if self.answers {
            (self.last, self.unanswered) = (None, 0);
        }
        self.data = if self.answers { Data::Up } else { Data::Unknown };
    }

    /// An echo is sent, or could not even be sent.
    pub(super) fn asked(&mut self, now: Instant) {
        self.asked.get_or_insert(now);
        self.last = Some(now);
        self.unanswered += 1;
    }

    /// Others say that the connection is down.
    pub(super) fn doubt(&mut self) {
        (self.doubted, self.last) = (true, None);
    }

    /// The link is not there or carries nothing.
    pub(super) fn broke(&mut self) {
        if self.data != Data::Down {
            self.data = Data::Doubtful;
        }
    }

    /// Whether an echo is of use although packets come: only who has answered one is missed later.
    pub(super) fn is_new(&self) -> bool {
        !self.answers
    }

    /// Whether an echo may be sent now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let rarely = (self.unanswered / EAGER).min(SELDOM.ilog2());
        self.last.is_none_or(|last| now.duration_since(last) + SLACK >= self.pace.interval * (1 << rarely))
    }

    /// Whether an echo is late that would be answered by now.
    pub(super) fn is_late(&self, now: Instant) -> bool {
        self.answers
            && self.asked.is_some_and(|asked| now.duration_since(asked) + SLACK >= self.pace.interval)
    }

    /// What is known now.
    pub(super) fn look(&mut self, now: Instant) -> Data {
        let Pace { interval, timeout } = self.pace;
        let Some(asked) = self.asked.filter(|_| self.answers) else { return self.data };
        let silent = now.duration_since(asked) + SLACK;
        let doubtful_after = if self.doubted { interval } else { timeout / 2 };
        if self.data != Data::Down && self.vain < MOST_IN_VAIN && silent >= timeout * (1 << self.vain) {
            self.vain += 1;
            self.data = Data::Down;
        } else if matches!(self.data, Data::Up | Data::Unknown) && silent >= doubtful_after {
            self.data = Data::Doubtful;
        }
        self.data
    }

    /// Whether a Request that was answered is a new beginning, though it changed nothing.
    pub(super) fn begins_anew(&self) -> bool {
        self.data == Data::Down || self.data == Data::Doubtful && !self.answers
    }
}

/// Timers are late by this much: a look at its time counts as one.
const SLACK: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { interval: Duration::from_millis(200), timeout: Duration::from_secs(1) };

    fn after(begin: Instant, millis: u64) -> Instant {
        begin + Duration::from_millis(millis)
    }

    #[test]
    fn silence_is_doubtful_at_half_of_the_time_and_dead_at_the_end_of_it() {
        let (mut pulse, begin) = (Pulse::new(PACE), Instant::now());
        pulse.answered();
        assert_eq!(pulse.look(begin), Data::Up);
        pulse.asked(begin);
        for (millis, data) in
            [(400, Data::Up), (500, Data::Doubtful), (900, Data::Doubtful), (1000, Data::Down)]
        {
            assert_eq!(pulse.look(after(begin, millis)), data, "after {millis} ms");
        }
        pulse.came();
        assert_eq!(pulse.look(after(begin, 1100)), Data::Up);
    }

    #[test]
    fn who_never_answered_is_never_dead_and_asked_ever_more_seldom() {
        let (mut pulse, begin) = (Pulse::new(PACE), Instant::now());
        pulse.came();
        let mut asked = 0;
        for tick in 0..5 * 3600 {
            let now = after(begin, tick * 200);
            if pulse.is_due(now) {
                pulse.asked(now);
                asked += 1;
            }
            pulse.came();
            assert_eq!(pulse.look(now), Data::Unknown);
        }
        assert!((10..700).contains(&asked), "{asked} in an hour");
    }

    #[test]
    fn what_others_doubt_is_doubtful_after_one_interval() {
        let (mut pulse, begin) = (Pulse::new(PACE), Instant::now());
        pulse.answered();
        pulse.doubt();
        assert!(pulse.is_due(begin));
        pulse.asked(begin);
        assert_eq!(pulse.look(after(begin, 100)), Data::Up);
        assert_eq!(pulse.look(after(begin, 200)), Data::Doubtful);
    }

    #[test]
    fn endpoints_are_left_a_few_times_in_vain_and_not_for_ever() {
        let (mut pulse, mut now) = (Pulse::new(PACE), Instant::now());
        pulse.answered();
        let mut left = Vec::new();
        for _ in 0..600 {
            now += PACE.interval;
            pulse.asked(now);
            if pulse.look(now) == Data::Down {
                left.push(now);
                pulse.begin(true);
            }
        }
        assert_eq!(left.len(), 3);
        assert!(left[2] - left[1] > left[1] - left[0], "each time later");
        pulse.answered();
        pulse.asked(now);
        assert_eq!(pulse.look(now + PACE.timeout), Data::Down, "it has answered since");
    }
}
