//! A script as it is played: which phase it is, and what the next call meets.
//!
//! Owns: turning from phase to phase, by a time that is handed in and by the number of calls.
//! Never touches: the clock; what a fault looks like.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::fake::faults::Fault;
use crate::fake::script::{ActivePhase, Script};

/// A script that began at some time.
#[derive(Debug)]
pub(in crate::fake) struct Playback {
    script: Script,
    // The phase that is played, when it began, and its calls and faults so far.
    at: usize,
    since: SystemTime,
    calls: u64,
    hit: u64,
}

/// What a call meets.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::fake) struct Effect {
    /// What it is counted as.
    pub(in crate::fake) phase: Option<Arc<str>>,
    /// The least time its answer takes.
    pub(in crate::fake) latency: Duration,
    /// What goes wrong.
    pub(in crate::fake) fault: Option<Fault>,
}

impl Playback {
    /// Begins a script.
    pub(in crate::fake) fn new(script: Script, now: SystemTime) -> Self {
        Self { script, at: 0, since: now, calls: 0, hit: 0 }
    }

    /// What the next call meets, which is counted.
    pub(in crate::fake) fn next(&mut self, now: SystemTime) -> Effect {
        self.turn(now);
        let Some(act) = self.script.0.get(self.at) else {
            return Effect { phase: self.afterwards(), latency: Duration::ZERO, fault: None };
        };
        let fault = act.behaviour.fault_for(self.calls, self.hit);
        let met = Effect { phase: act.name.clone(), latency: act.behaviour.latency, fault };
        let last = act.calls.is_some_and(|calls| self.calls + 1 >= calls);
        self.calls += 1;
        self.hit += u64::from(fault.is_some());
        if last {
            self.begin(self.at + 1, now);
        }
        met
    }

    /// Whether connections are refused now.
    pub(in crate::fake) fn refuses(&mut self, now: SystemTime) -> bool {
        self.turn(now);
        let act = self.script.0.get(self.at);
        act.is_some_and(|act| act.behaviour.fault == Some(Fault::Refuse))
    }

    /// How long it is until refusing may begin or end; `None`: calls or somebody else decide.
    pub(in crate::fake) fn until_turn(&mut self, now: SystemTime) -> Option<Duration> {
        self.turn(now);
        let end = self.script.0.get(self.at).and_then(|act| self.end(act))?;
        self.script.refuses_at_times().then(|| end.duration_since(now).unwrap_or_default())
    }

    /// Moves on to the phase that `now` belongs to.
    fn turn(&mut self, now: SystemTime) {
        while let Some(act) = self.script.0.get(self.at) {
            let end = self.end(act).filter(|end| *end <= now);
            // No calls at all take no time.
            let spent = (act.calls == Some(0)).then_some(self.since);
            let Some(next) = spent.or(end) else { return };
            self.begin(self.at + 1, next);
        }
    }

    /// When a phase that began with this one's beginning is over.
    fn end(&self, act: &ActivePhase) -> Option<SystemTime> {
        act.length.and_then(|length| self.since.checked_add(length))
    }

    fn begin(&mut self, at: usize, since: SystemTime) {
        (self.at, self.since, self.calls, self.hit) = (at, since, 0, 0);
    }

    /// What calls after the last phase are counted as.
    fn afterwards(&self) -> Option<Arc<str>> {
        let named = self.script.0.last().is_some_and(|act| act.name.is_some());
        named.then(|| Arc::from(AFTERWARDS))
    }
}

const AFTERWARDS: &str = "afterwards";

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;
    use crate::fake::faults::{Faults, Percentage};
    use crate::fake::script::Phase;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000 + second)
    }

    fn course(phases: Vec<Phase>) -> Playback {
        Playback::new(Script::try_from(phases).unwrap(), at(0))
    }

    fn met(course: &mut Playback, second: u64) -> (String, Option<Fault>) {
        let met = course.next(at(second));
        (met.phase.map(|name| name.to_string()).unwrap_or_default(), met.fault)
    }

    const OUT: Fault = Fault::Status(StatusCode::SERVICE_UNAVAILABLE);

    #[test]
    fn phases_turn_by_the_time_that_is_handed_in() {
        let storm = Phase::storm(Duration::from_secs(60), Some(1));
        let mut course = course(vec![storm, Phase::outage(Duration::from_secs(600))]);
        let limited = Some(Fault::rate_limited(1));
        assert_eq!(met(&mut course, 0), ("storm".to_owned(), limited));
        assert_eq!(met(&mut course, 59), ("storm".to_owned(), limited));
        assert_eq!(met(&mut course, 60), ("outage".to_owned(), Some(OUT)));
        assert_eq!(met(&mut course, 659), ("outage".to_owned(), Some(OUT)));
        assert_eq!(met(&mut course, 660), ("afterwards".to_owned(), None));
    }

    #[test]
    fn a_phase_that_nobody_called_in_is_passed_over_without_a_shift() {
        let second = Duration::from_secs(1);
        let phases = ["a", "b", "c"].map(|name| Phase::lasting(name, second, None));
        let mut course = course(phases.to_vec());
        assert_eq!(met(&mut course, 2).0, "c");
        assert_eq!(met(&mut course, 3).0, "afterwards");
    }

    #[test]
    fn a_phase_of_calls_ends_with_its_last_and_the_next_counts_from_there() {
        let three = Phase { calls: Some(3), fault: Some(OUT), ..Phase::default() };
        let none = Phase { calls: Some(0), ..Phase::default() };
        let minute = Phase::lasting("minute", Duration::from_secs(60), None);
        let mut course = course(vec![three, none, minute]);
        let seen: Vec<_> = (0..3).map(|second| met(&mut course, second * 100).0).collect();
        assert_eq!(seen, ["phase 1"; 3]);
        assert_eq!(met(&mut course, 259).0, "minute");
        assert_eq!(met(&mut course, 260).0, "afterwards");
    }

    #[test]
    fn a_share_starts_anew_with_its_phase() {
        let half = Phase {
            share: Percentage::of(0.5).unwrap(),
            ..Phase::lasting("half", Duration::from_secs(10), Some(OUT))
        };
        let mut course = course(vec![Phase { calls: Some(1), ..Phase::default() }, half]);
        let hit: Vec<_> = (0..5).map(|_| met(&mut course, 0).1.is_some()).collect();
        assert_eq!(hit, [false, false, true, false, true]);
    }

    #[test]
    fn a_lone_behaviour_stays_and_is_not_counted_apart() {
        let mut course = Playback::new(Script::from(Faults::next(1, OUT)), at(0));
        assert_eq!(met(&mut course, 0), (String::new(), Some(OUT)));
        assert_eq!(met(&mut course, 9_999), (String::new(), None));
    }

    #[test]
    fn only_a_script_that_refuses_needs_somebody_to_watch_the_clock() {
        let minute = Duration::from_secs(60);
        let mut calm = course(vec![Phase::outage(minute)]);
        assert_eq!(calm.until_turn(at(0)), None);
        let refused = Phase::lasting("refused", minute, Some(Fault::Refuse));
        let mut course = course(vec![Phase::outage(minute), refused]);
        assert!(!course.refuses(at(59)));
        assert_eq!(course.until_turn(at(50)), Some(Duration::from_secs(10)));
        assert!(course.refuses(at(60)));
        assert_eq!(course.until_turn(at(60)), Some(minute));
        assert!(!course.refuses(at(120)));
        assert_eq!(course.until_turn(at(120)), None);
    }
}
