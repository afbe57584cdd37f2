//! Playback of a script: the current phase, and the effect on the next call.
//!
//! Owns: advancing from phase to phase, by the time that the caller passes in and by the number of calls.
//! Never touches: the clock; how a fault is injected.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::fake::faults::Fault;
use crate::fake::script::{ActivePhase, Script};

/// A script that is being played.
#[derive(Debug)]
pub(in crate::fake) struct Playback {
    script: Script,
    // The index of the current phase, its start, and its calls and faults so far.
    index: usize,
    since: SystemTime,
    calls: u64,
    hit: u64,
}

/// The effect of the script on a call.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::fake) struct Effect {
    /// The phase under which the call is counted.
    pub(in crate::fake) phase: Option<Arc<str>>,
    /// The minimum time of the response.
    pub(in crate::fake) latency: Duration,
    /// The fault to inject.
    pub(in crate::fake) fault: Option<Fault>,
}

impl Playback {
    /// Starts a script.
    pub(in crate::fake) fn new(script: Script, now: SystemTime) -> Self {
        Self { script, index: 0, since: now, calls: 0, hit: 0 }
    }

    /// The effect on the next call, which is counted.
    pub(in crate::fake) fn next(&mut self, now: SystemTime) -> Effect {
        self.advance(now);
        let Some(phase) = self.script.0.get(self.index) else {
            return Effect { phase: self.afterwards(), latency: Duration::ZERO, fault: None };
        };
        let fault = phase.behaviour.fault_for(self.calls, self.hit);
        let effect = Effect { phase: phase.name.clone(), latency: phase.behaviour.latency, fault };
        let last = phase.calls.is_some_and(|calls| self.calls + 1 >= calls);
        self.calls += 1;
        self.hit += u64::from(fault.is_some());
        if last {
            self.begin(self.index + 1, now);
        }
        effect
    }

    /// Whether connections are refused now.
    pub(in crate::fake) fn refuses(&mut self, now: SystemTime) -> bool {
        self.advance(now);
        let phase = self.script.0.get(self.index);
        phase.is_some_and(|phase| phase.behaviour.fault == Some(Fault::Refuse))
    }

    /// The time until refusing connections may begin or end; `None`: time does not change it, only calls
    /// or a new script may.
    pub(in crate::fake) fn until_phase_change(&mut self, now: SystemTime) -> Option<Duration> {
        self.advance(now);
        let end = self.script.0.get(self.index).and_then(|phase| self.end(phase))?;
        self.script.has_refusing_phase().then(|| end.duration_since(now).unwrap_or_default())
    }

    /// Advances to the phase that `now` belongs to.
    fn advance(&mut self, now: SystemTime) {
        while let Some(phase) = self.script.0.get(self.index) {
            let end = self.end(phase).filter(|end| *end <= now);
            // A phase of 0 calls takes no time.
            let empty_since = (phase.calls == Some(0)).then_some(self.since);
            let Some(next) = empty_since.or(end) else { return };
            self.begin(self.index + 1, next);
        }
    }

    /// The end of `phase` if it began when the current phase began.
    fn end(&self, phase: &ActivePhase) -> Option<SystemTime> {
        phase.length.and_then(|length| self.since.checked_add(length))
    }

    fn begin(&mut self, index: usize, since: SystemTime) {
        (self.index, self.since, self.calls, self.hit) = (index, since, 0, 0);
    }

    /// The name under which calls after the last phase are counted.
    fn afterwards(&self) -> Option<Arc<str>> {
        let has_name = self.script.0.last().is_some_and(|phase| phase.name.is_some());
        has_name.then(|| Arc::from(AFTERWARDS))
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

    fn playback(phases: Vec<Phase>) -> Playback {
        Playback::new(Script::try_from(phases).unwrap(), at(0))
    }

    fn effect(playback: &mut Playback, second: u64) -> (String, Option<Fault>) {
        let effect = playback.next(at(second));
        (effect.phase.map(|name| name.to_string()).unwrap_or_default(), effect.fault)
    }

    const OUT: Fault = Fault::Status(StatusCode::SERVICE_UNAVAILABLE);

    #[test]
    fn phases_advance_by_the_time_that_is_passed_in() {
        let storm = Phase::storm(Duration::from_secs(60), Some(1));
        let mut playback = playback(vec![storm, Phase::outage(Duration::from_secs(600))]);
        let limited = Some(Fault::rate_limited(1));
        assert_eq!(effect(&mut playback, 0), ("storm".to_owned(), limited));
        assert_eq!(effect(&mut playback, 59), ("storm".to_owned(), limited));
        assert_eq!(effect(&mut playback, 60), ("outage".to_owned(), Some(OUT)));
        assert_eq!(effect(&mut playback, 659), ("outage".to_owned(), Some(OUT)));
        assert_eq!(effect(&mut playback, 660), ("afterwards".to_owned(), None));
    }

    #[test]
    fn a_phase_without_calls_does_not_shift_the_later_ones() {
        let second = Duration::from_secs(1);
        let phases = ["a", "b", "c"].map(|name| Phase::lasting(name, second, None));
        let mut playback = playback(phases.to_vec());
        assert_eq!(effect(&mut playback, 2).0, "c");
        assert_eq!(effect(&mut playback, 3).0, "afterwards");
    }

    #[test]
    fn a_phase_of_calls_ends_with_its_last_call_and_the_next_one_begins() {
        let three = Phase { calls: Some(3), fault: Some(OUT), ..Phase::default() };
        let none = Phase { calls: Some(0), ..Phase::default() };
        let minute = Phase::lasting("minute", Duration::from_secs(60), None);
        let mut playback = playback(vec![three, none, minute]);
        let seen: Vec<_> = (0..3).map(|second| effect(&mut playback, second * 100).0).collect();
        assert_eq!(seen, ["phase 1"; 3]);
        assert_eq!(effect(&mut playback, 259).0, "minute");
        assert_eq!(effect(&mut playback, 260).0, "afterwards");
    }

    #[test]
    fn a_share_is_counted_from_the_start_of_its_phase() {
        let half = Phase {
            share: Percentage::from_fraction(0.5).unwrap(),
            ..Phase::lasting("half", Duration::from_secs(10), Some(OUT))
        };
        let mut playback = playback(vec![Phase { calls: Some(1), ..Phase::default() }, half]);
        let hit: Vec<_> = (0..5).map(|_| effect(&mut playback, 0).1.is_some()).collect();
        assert_eq!(hit, [false, false, true, false, true]);
    }

    #[test]
    fn faults_without_a_script_stay_and_their_calls_have_no_phase() {
        let mut playback = Playback::new(Script::from(Faults::next(1, OUT)), at(0));
        assert_eq!(effect(&mut playback, 0), (String::new(), Some(OUT)));
        assert_eq!(effect(&mut playback, 9_999), (String::new(), None));
    }

    #[test]
    fn only_a_script_with_refused_connections_has_a_time_of_change() {
        let minute = Duration::from_secs(60);
        let mut calm = playback(vec![Phase::outage(minute)]);
        assert_eq!(calm.until_phase_change(at(0)), None);
        let refused = Phase::lasting("refused", minute, Some(Fault::Refuse));
        let mut playback = playback(vec![Phase::outage(minute), refused]);
        assert!(!playback.refuses(at(59)));
        assert_eq!(playback.until_phase_change(at(50)), Some(Duration::from_secs(10)));
        assert!(playback.refuses(at(60)));
        assert_eq!(playback.until_phase_change(at(60)), Some(minute));
        assert!(!playback.refuses(at(120)));
        assert_eq!(playback.until_phase_change(at(120)), None);
    }
}
